-- Totals: exact counts without counting. Each relay's row is written only by the holder of its lease.

CREATE TABLE IF NOT EXISTS public.tallies (
    relay_id bigint NOT NULL PRIMARY KEY,  -- 0: events first met at relays that have been deleted since
    events   bigint NOT NULL DEFAULT 0,    -- archived events that were first met at this relay
    pairs    bigint NOT NULL DEFAULT 0     -- archived events that this relay holds
);
INSERT INTO public.tallies (relay_id) VALUES (0) ON CONFLICT (relay_id) DO NOTHING;

-- A deleted relay takes its pairs along; the events that were first met there stay.
CREATE OR REPLACE FUNCTION public.hand_over_tally() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    WITH gone AS (
        DELETE FROM public.tallies WHERE relay_id = OLD.id RETURNING events
    )
    UPDATE public.tallies t SET events = t.events + gone.events FROM gone WHERE t.relay_id = 0;
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER relays_hand_over_tally AFTER DELETE ON public.relays
FOR EACH ROW EXECUTE FUNCTION public.hand_over_tally();

CREATE OR REPLACE FUNCTION public.totals()
RETURNS TABLE (relays bigint, candidates bigint, events bigint, pairs bigint, gaps bigint, rejected bigint)
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY SELECT
        (SELECT count(*) FROM public.relays),
        (SELECT count(*) FROM public.candidates),
        (SELECT coalesce(sum(t.events), 0)::bigint FROM public.tallies t),
        (SELECT coalesce(sum(t.pairs), 0)::bigint FROM public.tallies t),
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
       v.filter, encode(v.identity, 'hex') AS identity
FROM public.relays r
JOIN public.visits v ON v.relay_id = r.id
JOIN public.tallies t ON t.relay_id = r.id;
