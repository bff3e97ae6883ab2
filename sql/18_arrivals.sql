-- Arrivals: a log of new events for those who follow the archive: live subscriptions, say. A page of events writes one row,
-- in its own transaction, with all that is new in it. Who follows it reads by the numbers of transactions: what is lower
-- than that of the oldest unfinished transaction is complete, so that nothing which commits late is missed. That needs no
-- lock and no right to write, and works on a replica.

CREATE TABLE IF NOT EXISTS bigbrotr.arrivals (
    id          bigint   GENERATED ALWAYS AS IDENTITY,
    xid         xid8     NOT NULL DEFAULT pg_current_xact_id(),
    noted_at    bigint   NOT NULL DEFAULT floor(extract(epoch FROM now()))::bigint,
    created_ats bigint[] NOT NULL,
    ids         bytea[]  NOT NULL,
    PRIMARY KEY (xid, id)
);
-- Ids do not get smaller. Nor does anybody ask for a row by what is in it: ANALYZE would count all times and ids apart.
ALTER TABLE bigbrotr.arrivals
    ALTER COLUMN created_ats SET STORAGE EXTERNAL, ALTER COLUMN ids SET STORAGE EXTERNAL,
    ALTER COLUMN created_ats SET STATISTICS 0, ALTER COLUMN ids SET STATISTICS 0;
COMMENT ON TABLE bigbrotr.arrivals IS 'New events, a row a page. Rows go after a while, see arrivals_pruned.';
COMMENT ON COLUMN bigbrotr.arrivals.id IS 'Order within a transaction.';
COMMENT ON COLUMN bigbrotr.arrivals.xid IS 'Transaction that has stored the events.';
COMMENT ON COLUMN bigbrotr.arrivals.noted_at IS 'When it began, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.arrivals.created_ats IS 'When the events were created, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.arrivals.ids IS 'Their ids: 32 bytes each.';

CREATE TABLE IF NOT EXISTS bigbrotr.arrivals_pruned (
    is_only boolean NOT NULL PRIMARY KEY DEFAULT true CHECK (is_only),
    xid     xid8    NOT NULL,
    id      bigint  NOT NULL
);
COMMENT ON TABLE bigbrotr.arrivals_pruned IS 'The last row of arrivals that is gone: one row, or none.';
COMMENT ON COLUMN bigbrotr.arrivals_pruned.is_only IS 'Always true.';
COMMENT ON COLUMN bigbrotr.arrivals_pruned.xid IS 'Its transaction.';
COMMENT ON COLUMN bigbrotr.arrivals_pruned.id IS 'Its id.';

CREATE OR REPLACE FUNCTION bigbrotr.note_arrivals(
    p_created_ats bigint[], p_ids bytea[], p_known integer[], p_new_events integer
) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF p_new_events = cardinality(p_ids) THEN
        INSERT INTO bigbrotr.arrivals (created_ats, ids) VALUES (p_created_ats, p_ids);
    ELSIF p_new_events > 0 THEN
        INSERT INTO bigbrotr.arrivals (created_ats, ids)
        SELECT array_agg(u.created_at ORDER BY u.position), array_agg(u.id ORDER BY u.position)
        FROM unnest(p_created_ats, p_ids) WITH ORDINALITY AS u (created_at, id, position)
        WHERE u.position <> ALL (p_known);
    END IF;
END $$;
COMMENT ON FUNCTION bigbrotr.note_arrivals IS
    'Notes the new events of a page. p_known: the positions of the others, from 1.';

CREATE OR REPLACE FUNCTION bigbrotr.arrivals_end(OUT xid bigint, OUT id bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    xid := pg_snapshot_xmin(pg_current_snapshot())::text::bigint;
    id := 0;
END $$;
COMMENT ON FUNCTION bigbrotr.arrivals_end IS
    'Where a reader of arrivals begins who wants what is stored from now on; some of what was stored just now may come, '
    'too.';

CREATE OR REPLACE FUNCTION bigbrotr.read_arrivals(p_xid bigint, p_id bigint, p_limit integer)
RETURNS TABLE (xid bigint, id bigint, noted_at bigint, created_ats bigint[], ids bytea[], is_missing boolean)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    missing boolean := EXISTS (
        SELECT FROM bigbrotr.arrivals_pruned p WHERE (p.xid, p.id) > (p_xid::text::xid8, p_id));
BEGIN
    RETURN QUERY
    SELECT a.xid::text::bigint, a.id, a.noted_at, a.created_ats, a.ids, missing
    FROM bigbrotr.arrivals a
    WHERE (a.xid, a.id) > (p_xid::text::xid8, p_id) AND a.xid < pg_snapshot_xmin(pg_current_snapshot())
    ORDER BY a.xid, a.id LIMIT p_limit;
END $$;
COMMENT ON FUNCTION bigbrotr.read_arrivals IS
    'The next rows of arrivals behind (p_xid, p_id), at most p_limit: those of transactions before the oldest that is '
    'not finished. is_missing: rows behind that position were pruned unread.';

CREATE OR REPLACE FUNCTION bigbrotr.prune_arrivals(p_before bigint) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    gone  integer;
    last  record;
BEGIN
    -- A backup brings rows of another server, which may have counted further: here they would never be read.
    DELETE FROM bigbrotr.arrivals a WHERE a.xid >= pg_snapshot_xmax(pg_current_snapshot());
    DELETE FROM bigbrotr.arrivals_pruned p WHERE p.xid >= pg_snapshot_xmax(pg_current_snapshot());
    SELECT a.xid, a.id INTO last FROM bigbrotr.arrivals a
    WHERE a.noted_at < p_before AND a.xid < pg_snapshot_xmin(pg_current_snapshot())
    ORDER BY a.xid DESC, a.id DESC LIMIT 1;
    IF last.xid IS NULL THEN
        RETURN 0;
    END IF;
    WITH deleted AS (
        DELETE FROM bigbrotr.arrivals a WHERE (a.xid, a.id) <= (last.xid, last.id) RETURNING 1
    )
    SELECT count(*) INTO gone FROM deleted;
    INSERT INTO bigbrotr.arrivals_pruned AS p (xid, id) VALUES (last.xid, last.id)
    ON CONFLICT (is_only) DO UPDATE SET xid = EXCLUDED.xid, id = EXCLUDED.id
    WHERE (p.xid, p.id) < (EXCLUDED.xid, EXCLUDED.id);
    -- What has changed since is read together with arrivals.
    DELETE FROM bigbrotr.rejudged r
    WHERE r.xid <= last.xid OR r.xid >= pg_snapshot_xmax(pg_current_snapshot());
    RETURN gone;
END $$;
COMMENT ON FUNCTION bigbrotr.prune_arrivals IS
    'Deletes the rows of arrivals up to the last that was noted before p_before (Unix seconds), and those that a '
    'backup of another server has brought, where it has counted further; and with them those of rejudged. Returns how '
    'many of the former. '
    'Idempotent.';
