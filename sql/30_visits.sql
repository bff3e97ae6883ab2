-- Visits: when the synchronizer calls at each relay next, and who holds the lease now. A work table: ordinary, small.

CREATE TABLE IF NOT EXISTS public.visits (
    relay_id   bigint  NOT NULL PRIMARY KEY REFERENCES public.relays (id) ON DELETE CASCADE,
    due_at     bigint  NOT NULL,
    epoch      bigint  NOT NULL DEFAULT 0,  -- grows with every claim: the fence against a holder that came back late
    owner      text,
    failures   integer NOT NULL DEFAULT 0,  -- visits in a row that brought no answer
    visited_at bigint,
    outcome    text,
    detail     text
);
CREATE INDEX IF NOT EXISTS visits_due_at_idx ON public.visits (due_at);

-- Claims relays that are due. `missing` is what is neither proven nor a gap that has to wait, within
-- [p_since, p_until).
CREATE OR REPLACE FUNCTION public.claim_visits(
    p_networks text[], p_limit integer, p_owner text, p_lease_s bigint, p_since bigint, p_until bigint, p_now bigint
) RETURNS TABLE (relay_id bigint, url text, epoch bigint, pairs bigint, missing int8multirange)
LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY
    WITH due AS (
        SELECT v.relay_id FROM public.visits v
        WHERE v.due_at <= p_now
          AND EXISTS (SELECT FROM public.relays r WHERE r.id = v.relay_id AND r.network = ANY (p_networks))
        ORDER BY v.due_at, v.relay_id
        LIMIT p_limit
        FOR UPDATE OF v SKIP LOCKED
    ), claimed AS (
        UPDATE public.visits v SET due_at = p_now + p_lease_s, epoch = v.epoch + 1, owner = p_owner
        FROM due WHERE v.relay_id = due.relay_id
        RETURNING v.relay_id, v.epoch
    )
    SELECT c.relay_id, r.url, c.epoch, coalesce(t.pairs, 0), public.missing_spans(c.relay_id, p_since, p_until, p_now)
    FROM claimed c
    JOIN public.relays r ON r.id = c.relay_id
    LEFT JOIN public.tallies t ON t.relay_id = c.relay_id;
END $$;

-- Ends a visit. `p_verdict` 'done': come back at p_next_at, or for the first gap that is due before. 'failed': come
-- back after a growing delay. 'unfinished': come back at once. False when the lease has passed on.
CREATE OR REPLACE FUNCTION public.finish_visit(
    p_relay_id bigint, p_epoch bigint, p_verdict text, p_next_at bigint, p_outcome text, p_detail text, p_now bigint
) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    found_id bigint;
BEGIN
    UPDATE public.visits v SET
        failures   = CASE p_verdict WHEN 'failed' THEN v.failures + 1 WHEN 'done' THEN 0 ELSE v.failures END,
        due_at     = CASE p_verdict
            WHEN 'failed' THEN p_now + public.backoff_s(v.failures + 1)
            WHEN 'done' THEN least(p_next_at, (SELECT min(g.due_at) FROM public.gaps g WHERE g.relay_id = p_relay_id))
            ELSE p_now END,
        owner      = NULL,
        visited_at = p_now,
        outcome    = p_outcome,
        detail     = p_detail
    WHERE v.relay_id = p_relay_id AND v.epoch = p_epoch
    RETURNING v.relay_id INTO found_id;
    RETURN found_id IS NOT NULL;
END $$;

-- Gives back all leases of an owner, of relays and of candidates: said at the start by the one who bears the name now,
-- so that a crash costs no waiting. Returns how many. Idempotent.
CREATE OR REPLACE FUNCTION public.release_leases(p_owner text, p_now bigint) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    released integer;
BEGIN
    WITH visits_back AS (
        UPDATE public.visits SET due_at = p_now, owner = NULL WHERE owner = p_owner RETURNING 1
    ), candidates_back AS (
        UPDATE public.candidates SET due_at = p_now, owner = NULL WHERE owner = p_owner RETURNING 1
    )
    SELECT (SELECT count(*) FROM visits_back) + (SELECT count(*) FROM candidates_back) INTO released;
    RETURN released;
END $$;

-- When the next visit is due, in Unix seconds; NULL without relays.
CREATE OR REPLACE FUNCTION public.next_visit_at(p_networks text[]) RETURNS bigint
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT min(v.due_at) FROM public.visits v JOIN public.relays r ON r.id = v.relay_id
            WHERE r.network = ANY (p_networks));
END $$;
