-- Sums that are shown of each relay in lists, which are sorted by them: they take too long to be made for each page.

CREATE TABLE IF NOT EXISTS bigbrotr.relay_sums (
    relay_id integer PRIMARY KEY REFERENCES bigbrotr.relays (id) ON DELETE CASCADE,
    made_at  bigint           NOT NULL,
    uptime   double precision,
    coverage double precision NOT NULL,
    alone    bigint           NOT NULL
);
COMMENT ON TABLE bigbrotr.relay_sums IS 'Sums over what is known of each relay, as of their last making.';
COMMENT ON COLUMN bigbrotr.relay_sums.relay_id IS 'Number of the relay.';
COMMENT ON COLUMN bigbrotr.relay_sums.made_at IS 'When they were made, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.relay_sums.uptime IS
    'Share of the known time of the last 30 days in which the relay was up (0 to 1); NULL: nothing is known.';
COMMENT ON COLUMN bigbrotr.relay_sums.coverage IS
    'Share of the time since p_beginning that is proven of it, for the events that are wanted of it (0 to 1).';
COMMENT ON COLUMN bigbrotr.relay_sums.alone IS
    'Events that it alone is known to hold, of the days that have been counted.';

CREATE OR REPLACE FUNCTION bigbrotr.sum_relays(
    p_beginning bigint, p_made_before bigint, p_now bigint, p_limit integer
) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    made integer;
BEGIN
    WITH made_now AS (
        INSERT INTO bigbrotr.relay_sums (relay_id, made_at, uptime, coverage, alone)
        SELECT d.id, p_now, u.uptime, p.share,
               coalesce((SELECT sum(y.alone) FROM bigbrotr.day_relays y WHERE y.relay_id = d.id), 0)
        FROM (
            SELECT r.id, r.url, v.filter
            FROM bigbrotr.relays r
            LEFT JOIN bigbrotr.visits v ON v.relay_id = r.id
            LEFT JOIN bigbrotr.checks c ON c.relay_id = r.id
            LEFT JOIN bigbrotr.relay_sums o ON o.relay_id = r.id
            WHERE o.made_at IS NULL
               OR o.made_at < p_now AND o.made_at <= p_made_before
                  AND (o.made_at <= greatest(c.checked_at, v.visited_at) OR o.made_at <= p_now - 86400)
            ORDER BY r.id LIMIT p_limit
        ) AS d
        CROSS JOIN LATERAL bigbrotr.relay_uptime(p_relay => d.url, p_days => 30, p_now => p_now) AS u
        CROSS JOIN LATERAL (
            SELECT coalesce(sum(upper(x) - lower(x)), 0)::double precision / (p_now - p_beginning) AS share
            FROM unnest((
                SELECT range_agg(c.proven) FROM bigbrotr.coverage c WHERE c.relay_id = d.id AND c.filter IN ('', d.filter)
            ) * int8multirange(int8range(p_beginning, p_now))) AS x
        ) AS p
        ON CONFLICT (relay_id) DO UPDATE SET
            made_at = EXCLUDED.made_at, uptime = EXCLUDED.uptime, coverage = EXCLUDED.coverage, alone = EXCLUDED.alone
        RETURNING 1
    )
    SELECT count(*) INTO made FROM made_now;
    RETURN made;
END $$;
COMMENT ON FUNCTION bigbrotr.sum_relays IS
    'Makes the sums of up to p_limit relays that have none; or whose sums were made by p_made_before, and before their '
    'newest check or visit, or a day ago. Returns of how many. Idempotent.';
