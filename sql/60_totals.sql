-- Totals: exact counts without counting. Each relay's row is written only by the holder of its lease.

CREATE TABLE IF NOT EXISTS public.tallies (
    relay_id bigint NOT NULL PRIMARY KEY,  -- 0: events whose relay had gone before they were counted
    events   bigint NOT NULL DEFAULT 0,    -- archived events that were first met at this relay
    pairs    bigint NOT NULL DEFAULT 0,    -- archived events that this relay holds
    -- The seconds in which it may hold, or have held, any: outside, nobody needs to look for what it no longer does.
    touched  int8multirange NOT NULL DEFAULT '{}'
);
INSERT INTO public.tallies (relay_id) VALUES (0) ON CONFLICT (relay_id) DO NOTHING;

-- The seconds that touch p_spans or p_span: of many, some more.
CREATE OR REPLACE FUNCTION public.add_span(p_spans int8multirange, p_span int8range) RETURNS int8multirange
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN p_spans @> p_span THEN p_spans
    WHEN (SELECT count(*) FROM unnest(p_spans)) < 100 THEN p_spans + int8multirange(p_span)
    ELSE int8multirange(range_merge(p_spans + int8multirange(p_span))) END;

-- Counts new pairs of a relay, of events created from p_since to p_last, both included.
CREATE OR REPLACE FUNCTION public.count_pairs(p_relay_id bigint, p_pairs integer, p_since bigint, p_last bigint)
RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE public.tallies SET
        pairs   = pairs + p_pairs,
        -- There is no second after the last that a bigint can count.
        touched = public.add_span(touched, int8range(p_since, nullif(p_last, 9223372036854775807) + 1))
    WHERE relay_id = p_relay_id;
END $$;

-- The row of a deleted relay stays: the events that were first met there are still archived. Its pairs no longer count.
-- (No trigger hands them over: there can be none on a table that every machine has a copy of.)
DROP TRIGGER IF EXISTS relays_hand_over_tally ON public.relays;
DROP FUNCTION IF EXISTS public.hand_over_tally();

CREATE OR REPLACE FUNCTION public.totals()
RETURNS TABLE (relays bigint, candidates bigint, events bigint, pairs bigint, gaps bigint, rejected bigint)
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY SELECT
        (SELECT count(*) FROM public.relays),
        (SELECT count(*) FROM public.candidates c WHERE c.alias_of IS NULL),
        (SELECT coalesce(sum(t.events), 0)::bigint FROM public.tallies t),
        (SELECT coalesce(sum(t.pairs), 0)::bigint FROM public.tallies t JOIN public.relays r ON r.id = t.relay_id),
        (SELECT count(*) FROM public.gaps g JOIN public.visits v ON v.relay_id = g.relay_id AND v.filter = g.filter),
        (SELECT coalesce(sum(r.count), 0)::bigint FROM public.rejected r);
END $$;

-- How far each relay is with what is wanted of it now: a row a relay.
CREATE OR REPLACE VIEW public.relay_progress AS
SELECT r.url, r.network, r.discovered_at, t.events, t.pairs,
       v.due_at, v.owner IS NOT NULL AS in_progress, v.failures, v.visited_at, v.outcome, v.detail,
       (SELECT range_agg(c.proven) FROM public.coverage c
        WHERE c.relay_id = r.id AND c.filter IN ('', v.filter)) AS proven,
       (SELECT count(*) FROM public.gaps g WHERE g.relay_id = r.id AND g.filter = v.filter) AS gaps,
       (SELECT coalesce(sum(x.count), 0)::bigint FROM public.rejected x WHERE x.relay_id = r.id) AS rejected,
       v.filter, encode(v.identity, 'hex') AS identity, v.rests_since,
       -- How it is proven: by each way the spans, and when the oldest and the newest of them were.
       (SELECT jsonb_object_agg(x.how, jsonb_build_object('proven', x.spans, 'oldest_at', x.oldest, 'newest_at', x.newest))
        FROM (SELECT c.how, min(c.proven_at) AS oldest, max(c.proven_at) AS newest,
                     (SELECT jsonb_agg(jsonb_build_array(lower(s), upper(s)))
                      FROM unnest(range_agg(c.proven)) AS s) AS spans
              FROM public.coverage c
              WHERE c.relay_id = r.id AND c.filter IN ('', v.filter) GROUP BY c.how) AS x) AS how,
       n.outcome AS reconciliation, n.tried_at AS reconciliation_tried_at,
       (SELECT count(*) FROM public.withheld w WHERE w.relay_id = r.id) AS withheld
FROM public.relays r
JOIN public.visits v ON v.relay_id = r.id
JOIN public.tallies t ON t.relay_id = r.id
LEFT JOIN public.reconciliation n ON n.relay_id = r.id;
