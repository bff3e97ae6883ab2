-- Rejected: what relays sent that is no valid event, counted by relay and reason, with a few samples.

CREATE TABLE IF NOT EXISTS public.rejected (
    relay_id bigint  NOT NULL REFERENCES public.relays (id) ON DELETE CASCADE,
    reason   text    NOT NULL,
    count    bigint  NOT NULL,
    first_at bigint  NOT NULL,
    last_at  bigint  NOT NULL,
    samples  bytea[] NOT NULL,  -- at most three, each at most 4 KiB: the first that came
    PRIMARY KEY (relay_id, reason)
);

-- Counts rejected events of one relay. `p_samples` holds one sample per reason. Not idempotent: call it in the
-- transaction that stores the page.
CREATE OR REPLACE FUNCTION public.record_rejected(
    p_relay_id bigint, p_reasons text[], p_counts bigint[], p_samples bytea[], p_now bigint
) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.rejected AS r (relay_id, reason, count, first_at, last_at, samples)
    SELECT p_relay_id, u.reason, u.count, p_now, p_now, ARRAY[substring(u.sample FROM 1 FOR 4096)]
    FROM unnest(p_reasons, p_counts, p_samples) AS u (reason, count, sample)
    ORDER BY u.reason
    ON CONFLICT (relay_id, reason) DO UPDATE SET
        count   = r.count + EXCLUDED.count,
        last_at = EXCLUDED.last_at,
        samples = CASE WHEN cardinality(r.samples) < 3 THEN r.samples || EXCLUDED.samples ELSE r.samples END;
END $$;
