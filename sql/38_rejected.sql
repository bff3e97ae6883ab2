-- Rejected: invalid events, counted by relay and reason, with a few samples.

CREATE TABLE IF NOT EXISTS bigbrotr.rejected (
    relay_id bigint  NOT NULL REFERENCES bigbrotr.relays (id) ON DELETE CASCADE,
    reason   text    NOT NULL,
    count    bigint  NOT NULL,
    first_at bigint  NOT NULL,
    last_at  bigint  NOT NULL,
    samples  bytea[] NOT NULL,
    PRIMARY KEY (relay_id, reason)
);
COMMENT ON TABLE bigbrotr.rejected IS 'What relays sent that is no valid event, counted by relay and reason.';
COMMENT ON COLUMN bigbrotr.rejected.relay_id IS 'Number of the relay.';
COMMENT ON COLUMN bigbrotr.rejected.reason IS 'What is wrong, e.g. bad id or bad signature.';
COMMENT ON COLUMN bigbrotr.rejected.count IS 'How many events.';
COMMENT ON COLUMN bigbrotr.rejected.first_at IS 'When the first came, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.rejected.last_at IS 'When the last came, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.rejected.samples IS 'The first three, as they came, each cut to 4,096 bytes.';

CREATE OR REPLACE FUNCTION bigbrotr.record_rejected(
    p_relay_id bigint, p_reasons text[], p_counts bigint[], p_samples bytea[], p_now bigint
) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO bigbrotr.rejected AS r (relay_id, reason, count, first_at, last_at, samples)
    SELECT p_relay_id, u.reason, u.count, p_now, p_now, ARRAY[substring(u.sample FROM 1 FOR 4096)]
    FROM unnest(p_reasons, p_counts, p_samples) AS u (reason, count, sample)
    ORDER BY u.reason
    ON CONFLICT (relay_id, reason) DO UPDATE SET
        count   = r.count + EXCLUDED.count,
        last_at = EXCLUDED.last_at,
        samples = CASE WHEN cardinality(r.samples) < 3 THEN r.samples || EXCLUDED.samples ELSE r.samples END;
END $$;
COMMENT ON FUNCTION bigbrotr.record_rejected IS
    'Counts invalid events of one relay. p_samples: one sample a reason. Not idempotent: call it in the transaction '
    'that stores the page.';
