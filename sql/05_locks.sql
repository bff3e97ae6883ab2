-- Locks: empty tables whose table locks are the locks of bigbrotr. Such a lock writes nothing, ends with its transaction,
-- and needs a privilege that readers lack: SELECT allows no mode that blocks one of these. An advisory lock is open to
-- everybody who knows its number. pg_dump does not block these locks.

CREATE TABLE IF NOT EXISTS bigbrotr.schema_lock ();
COMMENT ON TABLE bigbrotr.schema_lock IS 'Always empty. A process locks it while it changes the schema.';

CREATE TABLE IF NOT EXISTS bigbrotr.ingest_lock ();
COMMENT ON TABLE bigbrotr.ingest_lock IS
    'Always empty. A process locks it while it verifies and stores events that several relays send at once.';

CREATE TABLE IF NOT EXISTS bigbrotr.candidates_lock ();
COMMENT ON TABLE bigbrotr.candidates_lock IS 'Always empty. A process locks it while it adds candidates.';

-- Taken ROW EXCLUSIVE to store events and presence in the order of their keys; EXCLUSIVE to store them in any order, and to
-- delete events.
CREATE TABLE IF NOT EXISTS bigbrotr.presence_lock ();
COMMENT ON TABLE bigbrotr.presence_lock IS
    'Always empty. A process that stores events and presence in the order of their keys shares a lock on it; one that '
    'cannot keep that order, or deletes events, holds the lock alone.';

-- The lock only saves work. The process that holds it may be stopped, so the wait has an end.
CREATE OR REPLACE FUNCTION bigbrotr.take_ingest_lock(p_wait_ms integer) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = 0 AS $$
BEGIN
    BEGIN
        LOCK TABLE bigbrotr.ingest_lock IN EXCLUSIVE MODE NOWAIT;
        RETURN false;
    EXCEPTION WHEN lock_not_available THEN NULL;
    END;
    BEGIN
        PERFORM set_config('lock_timeout', p_wait_ms::text, true);  -- as it was when the function ends
        LOCK TABLE bigbrotr.ingest_lock IN EXCLUSIVE MODE;
    EXCEPTION WHEN lock_not_available THEN NULL;
    END;
    RETURN true;
END $$;
COMMENT ON FUNCTION bigbrotr.take_ingest_lock IS
    'Takes the ingest lock until the transaction ends. Returns true if another process held it. After p_wait_ms '
    'milliseconds it goes on without the lock.';
