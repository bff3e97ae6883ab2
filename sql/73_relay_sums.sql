-- Sums over what is known of each relay, which take too long to be made for each page: lists show them and are sorted by
-- them, and how far all relays are is counted from them.

CREATE TABLE IF NOT EXISTS bigbrotr.relay_sums (
    relay_id   bigint           PRIMARY KEY REFERENCES bigbrotr.relays (id) ON DELETE CASCADE,
    made_at    bigint           NOT NULL,
    since      bigint           NOT NULL,
    until      bigint           NOT NULL,
    filter     text             NOT NULL,
    is_whole   boolean          NOT NULL,
    missing_s  bigint           NOT NULL,
    coverage   double precision NOT NULL,
    alone      bigint           NOT NULL,
    checked_at bigint,
    uptime     double precision
);
COMMENT ON TABLE bigbrotr.relay_sums IS 'Sums over what is known of each relay, as of their last making.';
COMMENT ON COLUMN bigbrotr.relay_sums.relay_id IS 'Number of the relay.';
COMMENT ON COLUMN bigbrotr.relay_sums.made_at IS 'When those of its coverage were made, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.relay_sums.since IS 'Start of the time that was wanted then, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.relay_sums.until IS 'End of the time that was wanted then, in Unix seconds, not included.';
COMMENT ON COLUMN bigbrotr.relay_sums.filter IS
    'For which events: the canonical conditions of a filter, empty for all events.';
COMMENT ON COLUMN bigbrotr.relay_sums.is_whole IS 'All that was wanted was proven, or a gap that waits.';
COMMENT ON COLUMN bigbrotr.relay_sums.missing_s IS
    'Seconds that were wanted and neither proven nor a gap that waits, of those in which events may be.';
COMMENT ON COLUMN bigbrotr.relay_sums.coverage IS
    'Share of the time up to made_at, of that in which events may be, that was proven for these events (0 to 1).';
COMMENT ON COLUMN bigbrotr.relay_sums.alone IS
    'Events that it alone is known to hold, of the days that have been counted.';
COMMENT ON COLUMN bigbrotr.relay_sums.checked_at IS
    'The newest check that uptime knows of, in Unix seconds; NULL if there is none.';
COMMENT ON COLUMN bigbrotr.relay_sums.uptime IS
    'Share of the known time of the last 30 days in which the relay was up (0 to 1); NULL: nothing is known.';

CREATE OR REPLACE FUNCTION bigbrotr.seconds_in(p_spans int8multirange) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (SELECT coalesce(sum(upper(s) - lower(s)), 0)::bigint FROM unnest(p_spans) AS s);
COMMENT ON FUNCTION bigbrotr.seconds_in IS 'How many seconds spans without open ends have.';

CREATE OR REPLACE FUNCTION bigbrotr.sum_relays(
    p_beginning bigint, p_live_before bigint, p_now bigint, p_limit integer
) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    made integer;
BEGIN
    WITH visited AS (
        INSERT INTO bigbrotr.relay_sums (relay_id, made_at, since, until, filter, is_whole, missing_s, coverage, alone)
        SELECT d.id, p_now, d.since, d.until, d.filter, isempty(m.missing),
               bigbrotr.seconds_in(m.missing * int8multirange(int8range(p_beginning, NULL))),
               bigbrotr.seconds_in(coalesce(p.proven, '{}') * int8multirange(int8range(p_beginning, p_now)))
                   ::double precision / (p_now - p_beginning),
               coalesce((SELECT sum(y.alone) FROM bigbrotr.day_relays y WHERE y.relay_id = d.id), 0)
        FROM (
            SELECT v.relay_id AS id, v.since, v.until, v.filter
            FROM bigbrotr.visits v LEFT JOIN bigbrotr.relay_sums o ON o.relay_id = v.relay_id
            WHERE o.made_at IS NULL OR o.made_at <= p_now - 86400
               OR o.made_at <= v.visited_at AND o.made_at < p_now
                  AND (v.outcome IS DISTINCT FROM 'live' OR o.made_at <= p_live_before)
            ORDER BY v.relay_id LIMIT p_limit
        ) AS d
        CROSS JOIN LATERAL bigbrotr.missing_spans(
            p_relay_id => d.id, p_since => d.since, p_until => d.until, p_filter => d.filter, p_now => p_now
        ) AS m (missing)
        CROSS JOIN LATERAL (
            SELECT range_agg(c.proven) AS proven FROM bigbrotr.coverage c
            WHERE c.relay_id = d.id AND c.filter IN ('', d.filter)
        ) AS p
        ON CONFLICT (relay_id) DO UPDATE SET
            made_at = EXCLUDED.made_at, since = EXCLUDED.since, until = EXCLUDED.until, filter = EXCLUDED.filter,
            is_whole = EXCLUDED.is_whole, missing_s = EXCLUDED.missing_s, coverage = EXCLUDED.coverage,
            alone = EXCLUDED.alone
        RETURNING 1
    )
    SELECT count(*) INTO made FROM visited;
    -- A statement of its own: it finds the rows that were made just now.
    WITH checked AS (
        UPDATE bigbrotr.relay_sums s SET checked_at = d.checked_at, uptime = u.uptime
        FROM (
            SELECT r.id, r.url, c.checked_at
            FROM bigbrotr.relay_sums o
            JOIN bigbrotr.checks c ON c.relay_id = o.relay_id
            JOIN bigbrotr.relays r ON r.id = o.relay_id
            WHERE c.checked_at IS DISTINCT FROM o.checked_at
            ORDER BY r.id LIMIT p_limit
        ) AS d
        CROSS JOIN LATERAL bigbrotr.relay_uptime(p_relay => d.url, p_days => 30, p_now => p_now) AS u
        WHERE s.relay_id = d.id
        RETURNING 1
    )
    SELECT made + count(*) INTO made FROM checked;
    RETURN made;
END $$;
COMMENT ON FUNCTION bigbrotr.sum_relays IS
    'Makes the sums of up to p_limit relays that have none, whose sums are older than their last visit (those that are '
    'followed: and than p_live_before), or than a day; and the uptime of up to p_limit of those that were checked '
    'since. Nothing before p_beginning counts. Times in Unix seconds. Returns how many it made. Idempotent.';
