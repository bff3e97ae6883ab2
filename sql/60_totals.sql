-- Totals: exact numbers without counting rows, and how far each relay is. Only the holder of its lease writes a relay's
-- row.

CREATE TABLE IF NOT EXISTS bigbrotr.tallies (
    relay_id bigint NOT NULL PRIMARY KEY,
    events   bigint NOT NULL DEFAULT 0,
    pairs    bigint NOT NULL DEFAULT 0,
    touched  int8multirange NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE bigbrotr.tallies IS
    'Exact numbers of events and pairs by relay, kept up with every write. Row 0 counts events whose relay was '
    'deleted before they were counted.';
COMMENT ON COLUMN bigbrotr.tallies.relay_id IS 'Number of the relay; 0 for none.';
COMMENT ON COLUMN bigbrotr.tallies.events IS 'Archived events that were first met at this relay.';
COMMENT ON COLUMN bigbrotr.tallies.pairs IS 'Archived events that this relay holds.';
COMMENT ON COLUMN bigbrotr.tallies.touched IS
    'Seconds in which the relay may hold or have held archived events, in Unix seconds. Elsewhere it never did.';
INSERT INTO bigbrotr.tallies (relay_id) VALUES (0) ON CONFLICT (relay_id) DO NOTHING;

-- A hundred spans become one that covers them all: the result only says where there may be something.
CREATE OR REPLACE FUNCTION bigbrotr.add_span(p_spans int8multirange, p_span int8range) RETURNS int8multirange
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN p_spans @> p_span THEN p_spans
    WHEN (SELECT count(*) FROM unnest(p_spans)) < 100 THEN p_spans + int8multirange(p_span)
    ELSE int8multirange(range_merge(p_spans + int8multirange(p_span))) END;
COMMENT ON FUNCTION bigbrotr.add_span IS
    'The spans p_spans together with p_span; a few more seconds when there are many.';

CREATE OR REPLACE FUNCTION bigbrotr.count_pairs(p_relay_id bigint, p_pairs integer, p_since bigint, p_last bigint)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE bigbrotr.tallies SET
        pairs   = pairs + p_pairs,
        -- The largest bigint has no next second.
        touched = bigbrotr.add_span(touched, int8range(p_since, nullif(p_last, 9223372036854775807) + 1))
    WHERE relay_id = p_relay_id;
END $$;
COMMENT ON FUNCTION bigbrotr.count_pairs IS
    'Adds new pairs to the tally of a relay, of events created from p_since to p_last, both included (Unix seconds).';

-- The tally of a deleted relay stays: the events that were first met there are still archived. Its pairs no longer count.

CREATE OR REPLACE FUNCTION bigbrotr.totals()
RETURNS TABLE (relays bigint, candidates bigint, events bigint, pairs bigint, gaps bigint, rejected bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY SELECT
        (SELECT count(*) FROM bigbrotr.relays),
        (SELECT count(*) FROM bigbrotr.candidates c WHERE c.alias_of IS NULL),
        (SELECT coalesce(sum(t.events), 0)::bigint FROM bigbrotr.tallies t),
        (SELECT coalesce(sum(t.pairs), 0)::bigint FROM bigbrotr.tallies t JOIN bigbrotr.relays r ON r.id = t.relay_id),
        (SELECT count(*) FROM bigbrotr.gaps g JOIN bigbrotr.visits v ON v.relay_id = g.relay_id AND v.filter = g.filter),
        (SELECT coalesce(sum(r.count), 0)::bigint FROM bigbrotr.rejected r);
END $$;
COMMENT ON FUNCTION bigbrotr.totals IS
    'What is in the archive: relays, candidates, events, pairs of event and relay, gaps, and rejected events.';

-- The same words as in the metric `relays`.
CREATE OR REPLACE FUNCTION bigbrotr.stage_of(p_visit bigbrotr.visits) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN (p_visit).retired_at IS NOT NULL THEN 'retired'
            WHEN (p_visit).owner IS NOT NULL AND (p_visit).outcome = 'live' THEN 'live'
            WHEN (p_visit).owner IS NOT NULL THEN 'copying'
            WHEN (p_visit).failures > 0 THEN 'failing'
            ELSE 'waiting' END;
COMMENT ON FUNCTION bigbrotr.stage_of IS
    'What a relay is up to: retired (it failed for long and is tried as a candidate again), live (followed), copying, '
    'failing, or waiting (for its next visit).';

CREATE OR REPLACE VIEW bigbrotr.relay_progress AS
SELECT r.url, r.network, r.discovered_at, t.events, t.pairs,
       v.due_at, v.owner IS NOT NULL AS in_progress, v.failures, v.visited_at, v.outcome, v.detail,
       (SELECT range_agg(c.proven) FROM bigbrotr.coverage c
        WHERE c.relay_id = r.id AND c.filter IN ('', v.filter)) AS proven,
       (SELECT count(*) FROM bigbrotr.gaps g WHERE g.relay_id = r.id AND g.filter = v.filter) AS gaps,
       (SELECT coalesce(sum(x.count), 0)::bigint FROM bigbrotr.rejected x WHERE x.relay_id = r.id) AS rejected,
       v.filter, encode(v.identity, 'hex') AS identity, v.retired_at,
       -- How it is proven: by each way the spans, and when the oldest and the newest of them were.
       (SELECT jsonb_object_agg(x.how, jsonb_build_object('proven', x.spans, 'oldest_at', x.oldest, 'newest_at', x.newest))
        FROM (SELECT c.how, min(c.proven_at) AS oldest, max(c.proven_at) AS newest,
                     (SELECT jsonb_agg(jsonb_build_array(lower(s), upper(s)))
                      FROM unnest(range_agg(c.proven)) AS s) AS spans
              FROM bigbrotr.coverage c
              WHERE c.relay_id = r.id AND c.filter IN ('', v.filter) GROUP BY c.how) AS x) AS how,
       n.outcome AS reconciliation, n.tried_at AS reconciliation_tried_at,
       (SELECT count(*) FROM bigbrotr.withheld w WHERE w.relay_id = r.id) AS withheld,
       bigbrotr.stage_of(v) AS stage
FROM bigbrotr.relays r
JOIN bigbrotr.visits v ON v.relay_id = r.id
JOIN bigbrotr.tallies t ON t.relay_id = r.id
LEFT JOIN bigbrotr.reconciliation n ON n.relay_id = r.id;
COMMENT ON VIEW bigbrotr.relay_progress IS 'How far each relay is with what is wanted of it: a row a relay.';
COMMENT ON COLUMN bigbrotr.relay_progress.url IS 'URL of the relay.';
COMMENT ON COLUMN bigbrotr.relay_progress.network IS 'Network of the relay.';
COMMENT ON COLUMN bigbrotr.relay_progress.discovered_at IS 'When the relay was first heard of, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.relay_progress.events IS 'Archived events that were first met at this relay.';
COMMENT ON COLUMN bigbrotr.relay_progress.pairs IS 'Archived events that this relay holds.';
COMMENT ON COLUMN bigbrotr.relay_progress.due_at IS 'When the next visit is due, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.relay_progress.in_progress IS 'Whether somebody visits it now.';
COMMENT ON COLUMN bigbrotr.relay_progress.failures IS 'Visits in a row that failed.';
COMMENT ON COLUMN bigbrotr.relay_progress.visited_at IS
    'When the last visit ended or was last heard of, in Unix seconds; NULL if there was none.';
COMMENT ON COLUMN bigbrotr.relay_progress.outcome IS 'Result of the last visit in one word.';
COMMENT ON COLUMN bigbrotr.relay_progress.detail IS 'Result of the last visit in words.';
COMMENT ON COLUMN bigbrotr.relay_progress.proven IS 'Spans that are proven complete, half-open, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.relay_progress.gaps IS 'Number of gaps.';
COMMENT ON COLUMN bigbrotr.relay_progress.rejected IS 'Number of invalid events that it has sent.';
COMMENT ON COLUMN bigbrotr.relay_progress.filter IS
    'Which events are wanted: the canonical conditions of a filter, empty for all events.';
COMMENT ON COLUMN bigbrotr.relay_progress.identity IS
    'Public key (hex) that we showed the relay for the newest proof; NULL if none.';
COMMENT ON COLUMN bigbrotr.relay_progress.retired_at IS
    'When the relay was retired, in Unix seconds; NULL if it is in use.';
COMMENT ON COLUMN bigbrotr.relay_progress.how IS
    'For each way of proof: its spans, and when the oldest and the newest were proven.';
COMMENT ON COLUMN bigbrotr.relay_progress.reconciliation IS
    'What came of comparing ids (NIP-77); NULL if it was never tried.';
COMMENT ON COLUMN bigbrotr.relay_progress.reconciliation_tried_at IS 'When that was last tried, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.relay_progress.withheld IS 'Number of events that it says it holds and does not hand over.';
COMMENT ON COLUMN bigbrotr.relay_progress.stage IS
    'What the relay is up to: retired, live, copying, failing or waiting, see stage_of.';

-- What is left is estimated by the events for each second that is proven; what fails is not counted.
CREATE OR REPLACE FUNCTION bigbrotr.progress_counts(p_networks text[], p_beginning bigint, p_now bigint)
RETURNS TABLE (relays bigint, complete bigint, live bigint, copying bigint, failing bigint, events_left bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    WITH each AS (
        SELECT t.pairs, v.until > v.since AS is_visited, bigbrotr.stage_of(v) AS stage,
               greatest(v.until - greatest(v.since, p_beginning), 1) AS wanted_s,
               CASE WHEN k.is_fresh THEN o.is_whole ELSE isempty(m.missing) END AS is_whole,
               CASE WHEN k.is_fresh THEN o.missing_s
                    ELSE bigbrotr.seconds_in(m.missing * int8multirange(int8range(p_beginning, NULL))) END AS missing_s
        FROM bigbrotr.visits v
        JOIN bigbrotr.relays r ON r.id = v.relay_id
        JOIN bigbrotr.tallies t ON t.relay_id = r.id
        LEFT JOIN bigbrotr.relay_sums o ON o.relay_id = v.relay_id
        -- Sums are true until the next visit begins. Of relays that are followed, they are as good as true.
        CROSS JOIN LATERAL (SELECT coalesce(
            o.filter = v.filter AND o.since = v.since
            AND (v.owner IS NOT NULL AND v.outcome = 'live'
                 OR v.owner IS NULL AND o.until = v.until AND o.made_at > coalesce(v.visited_at, 0)),
            false)
        ) AS k (is_fresh)
        CROSS JOIN LATERAL (
            SELECT CASE WHEN NOT k.is_fresh THEN bigbrotr.missing_spans(
                p_relay_id => v.relay_id, p_since => v.since, p_until => v.until, p_filter => v.filter, p_now => p_now) END
            OFFSET 0  -- made once, and not in each place that needs it
        ) AS m (missing)
        WHERE v.retired_at IS NULL AND r.network = ANY (p_networks)
    )
    SELECT count(*), count(*) FILTER (WHERE e.is_visited AND e.is_whole),
           count(*) FILTER (WHERE e.stage = 'live'), count(*) FILTER (WHERE e.stage = 'copying'),
           count(*) FILTER (WHERE e.stage = 'failing'),
           coalesce(sum(e.pairs::numeric * e.missing_s / greatest(e.wanted_s - e.missing_s, 1))
                    FILTER (WHERE e.stage <> 'failing'), 0)::bigint
    FROM each e;
END $$;
COMMENT ON FUNCTION bigbrotr.progress_counts IS
    'How far all relays of some networks together are: how many are visited, complete (all that is wanted is proven, or '
    'a gap that waits), live, copying and failing, and about how many events are left to copy. Nothing before '
    'p_beginning (Unix seconds) counts as left.';

CREATE OR REPLACE FUNCTION bigbrotr.next_due(p_networks text[])
RETURNS TABLE (candidates bigint, visits bigint, checks bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY SELECT
        (SELECT min(c.due_at) FROM bigbrotr.candidates c WHERE c.network = ANY (p_networks)),
        (SELECT min(v.due_at) FROM bigbrotr.visits v JOIN bigbrotr.relays r ON r.id = v.relay_id
         WHERE v.retired_at IS NULL AND r.network = ANY (p_networks)),
        (SELECT min(k.due_at) FROM bigbrotr.checks k JOIN bigbrotr.relays r ON r.id = k.relay_id
         WHERE r.network = ANY (p_networks));
END $$;
COMMENT ON FUNCTION bigbrotr.next_due IS
    'When the next candidate, visit and check in some networks are due, in Unix seconds; NULL if there is none.';
