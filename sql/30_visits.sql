-- Visits: when the synchronizer calls at each relay next, and who holds the lease now. A work table: ordinary, small.

CREATE TABLE IF NOT EXISTS public.visits (
    relay_id   bigint  NOT NULL PRIMARY KEY REFERENCES public.relays (id) ON DELETE CASCADE,
    due_at     bigint  NOT NULL,
    epoch      bigint  NOT NULL DEFAULT 0,  -- grows with every claim: the fence against a holder that came back late
    owner      text,
    failures   integer NOT NULL DEFAULT 0,  -- visits in a row that brought no answer
    visited_at bigint,
    outcome    text,
    detail     text,
    -- What the newest visit wants: the conditions ('' for none), and the seconds [since, until).
    filter     text    NOT NULL DEFAULT '',
    since      bigint  NOT NULL DEFAULT 0,
    until      bigint  NOT NULL DEFAULT 0,
    identity   bytea,                       -- the public key with which the newest proof was got; NULL: without any
    failing_since bigint,                   -- the first of the failures in a row
    rests_since   bigint,                   -- it has failed for long: nobody calls, it is a candidate again
    dialect       jsonb   NOT NULL DEFAULT '{}'  -- how it wants to be asked, as visits have found out
);
CREATE INDEX IF NOT EXISTS visits_due_at_idx ON public.visits (due_at);

-- Makes sure, until the end of the transaction, that the lease on a relay has not passed on (else: BB001). All that a
-- visit writes ends with this, or with record_coverage, which does it first: a holder that slept past its lease must not
-- bring back what another has taken away meanwhile. Last, so that all writers lock presence first and visits last, and
-- shared, so that a visit's page and what it notes of the next one don't wait for each other.
CREATE OR REPLACE FUNCTION public.hold_lease(p_relay_id bigint, p_epoch bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM public.visits v WHERE v.relay_id = p_relay_id AND v.epoch = p_epoch FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the lease on relay % has passed to another process', p_relay_id USING ERRCODE = 'BB001';
    END IF;
END $$;

-- Claims relays that are due, but for the URLs p_refused. `missing` is what is neither proven nor a gap that has to
-- wait, within [p_since, p_until), for the conditions p_filter; for p_urls there are p_sinces, p_untils, p_filters and
-- p_by_idss. `stale` is what is proven and is to be looked at again (see stale_spans). `may_reconcile` says whether to
-- try NIP-77, `most_items` how many events the relay lets a window hold, and `most_bytes` a message, as far as we know.
-- `limits` is what the relay says of its limits (NIP-11) in its newest document, if it does; `dialect` what earlier
-- visits have kept.
CREATE OR REPLACE FUNCTION public.claim_visits(
    p_networks text[], p_limit integer, p_owner text, p_lease_s bigint, p_since bigint, p_until bigint, p_filter text,
    p_by_ids boolean, p_refused text[],
    p_urls text[], p_sinces bigint[], p_untils bigint[], p_filters text[], p_by_idss boolean[],
    p_audit_s bigint, p_lookback_s bigint, p_rewalk_s bigint, p_now bigint
) RETURNS TABLE (
    relay_id bigint, url text, epoch bigint, pairs bigint, missing int8multirange, stale int8multirange,
    may_reconcile boolean, most_items bigint, most_bytes bigint, limits jsonb, dialect jsonb
)
LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY
    WITH due AS (
        SELECT v.relay_id FROM public.visits v
        WHERE v.due_at <= p_now AND v.rests_since IS NULL
          AND EXISTS (SELECT FROM public.relays r WHERE r.id = v.relay_id
                      AND r.network = ANY (p_networks) AND r.url <> ALL (p_refused))
        ORDER BY v.due_at, v.relay_id
        LIMIT p_limit
        FOR UPDATE OF v SKIP LOCKED
    ), claimed AS (
        UPDATE public.visits v SET
            due_at = p_now + p_lease_s,
            epoch  = v.epoch + 1,
            owner  = p_owner,
            filter = coalesce(a.filter, p_filter),
            since  = coalesce(a.since, p_since),
            until  = coalesce(a.until, p_until)
        FROM due
        JOIN public.relays r ON r.id = due.relay_id
        LEFT JOIN unnest(p_urls, p_sinces, p_untils, p_filters, p_by_idss) AS a (url, since, until, filter, by_ids)
            ON a.url = r.url
        WHERE v.relay_id = due.relay_id
        RETURNING v.relay_id, r.url, v.epoch, v.dialect, v.filter, v.since, v.until, coalesce(a.by_ids, p_by_ids) AS by_ids
    )
    SELECT c.relay_id, c.url, c.epoch, coalesce(t.pairs, 0),
           public.missing_spans(c.relay_id, c.since, c.until, p_now, c.filter),
           public.stale_spans(
               c.relay_id, c.since, c.until, c.by_ids, p_audit_s, p_lookback_s, p_rewalk_s, p_now, c.filter),
           c.by_ids AND coalesce(n.outcome = 'works' OR n.due_at <= p_now, true), n.most_items, n.most_bytes,
           m.data -> 'limitation', c.dialect
    FROM claimed c
    LEFT JOIN public.tallies t ON t.relay_id = c.relay_id
    LEFT JOIN public.reconciliation n ON n.relay_id = c.relay_id
    LEFT JOIN public.snapshots_latest l ON l.relay_id = c.relay_id AND l.type = 'nip11'
    LEFT JOIN public.metadata m ON m.id = l.metadata_id;
END $$;

-- Prolongs the lease on a relay that one stays subscribed to, and says what is missing and what is stale now; no row when
-- the lease has passed on.
CREATE OR REPLACE FUNCTION public.renew_visit(
    p_relay_id bigint, p_epoch bigint, p_lease_s bigint, p_since bigint, p_until bigint, p_by_ids boolean,
    p_audit_s bigint, p_lookback_s bigint, p_rewalk_s bigint, p_now bigint
) RETURNS TABLE (missing int8multirange, stale int8multirange)
LANGUAGE plpgsql AS $$
DECLARE
    conditions text;
BEGIN
    UPDATE public.visits v SET
        due_at     = p_now + p_lease_s,
        visited_at = p_now,
        outcome    = 'live',
        detail     = '',
        failures   = 0,
        failing_since = NULL,
        since      = p_since,
        until      = p_until
    WHERE v.relay_id = p_relay_id AND v.epoch = p_epoch
    RETURNING v.filter INTO conditions;
    IF FOUND THEN
        RETURN QUERY SELECT
            public.missing_spans(p_relay_id, p_since, p_until, p_now, conditions),
            public.stale_spans(
                p_relay_id, p_since, p_until, p_by_ids, p_audit_s, p_lookback_s, p_rewalk_s, p_now, conditions);
    END IF;
END $$;

-- Ends a visit. `p_verdict` 'done': come back at p_next_at, or for the first gap that is due before, but not within a
-- minute. 'failed': come back after a growing delay; 'refused': as well, though the relay has answered. 'throttled': not
-- before p_next_at, whatever is due. 'unfinished': come back at once. False when the lease has passed on. Gaps in what is
-- no longer wanted don't count. `p_dialect` is kept for the next visit, unless it is NULL.
CREATE OR REPLACE FUNCTION public.finish_visit(
    p_relay_id bigint, p_epoch bigint, p_verdict text, p_next_at bigint, p_outcome text, p_detail text, p_dialect jsonb,
    p_now bigint
) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    found_id bigint;
BEGIN
    UPDATE public.visits v SET
        failures   = CASE
            WHEN p_verdict IN ('failed', 'refused') THEN v.failures + 1
            WHEN p_verdict = 'done' THEN 0 ELSE v.failures END,
        failing_since = CASE
            WHEN p_verdict = 'failed' THEN coalesce(v.failing_since, p_now)
            WHEN p_verdict IN ('done', 'refused') THEN NULL ELSE v.failing_since END,
        due_at     = CASE
            WHEN p_verdict IN ('failed', 'refused') THEN p_now + public.backoff_s(v.failures + 1)
            WHEN p_verdict = 'throttled' THEN p_next_at
            WHEN p_verdict = 'done' THEN least(p_next_at, (
                SELECT greatest(g.due_at, p_now + 60) FROM public.gaps g
                WHERE g.relay_id = p_relay_id AND g.filter = v.filter AND g.due_at > p_now
                  AND g.span && int8range(v.since, greatest(v.since, v.until))
                ORDER BY g.due_at LIMIT 1))
            ELSE p_now END,
        dialect    = coalesce(p_dialect, v.dialect),
        owner      = NULL,
        visited_at = p_now,
        outcome    = p_outcome,
        detail     = p_detail
    WHERE v.relay_id = p_relay_id AND v.epoch = p_epoch
    RETURNING v.relay_id INTO found_id;
    -- A second look that came to nothing leaves what was proven before; there is nothing to try again.
    DELETE FROM public.gaps g
    WHERE g.relay_id = found_id AND p_verdict = 'done' AND g.due_at <= p_now
      AND int8multirange(g.span) <@ (SELECT range_agg(c.proven) FROM public.coverage c
                                     WHERE c.relay_id = found_id AND c.filter IN ('', g.filter));
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

-- When the next visit is due, in Unix seconds; NULL without relays, but for those of p_refused.
CREATE OR REPLACE FUNCTION public.next_visit_at(p_networks text[], p_refused text[]) RETURNS bigint
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT min(v.due_at) FROM public.visits v JOIN public.relays r ON r.id = v.relay_id
            WHERE v.rests_since IS NULL AND r.network = ANY (p_networks) AND r.url <> ALL (p_refused));
END $$;

-- Lays to rest the relays that nobody visits now and whose visits have only failed, p_failures times or more and for
-- p_after_s or longer: they are candidates again, with their history, and what is archived of them stays. Returns how
-- many. Idempotent.
CREATE OR REPLACE FUNCTION public.retire_relays(p_after_s bigint, p_failures integer, p_now bigint) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    retired integer;
BEGIN
    WITH failing AS (
        SELECT v.relay_id FROM public.visits v
        WHERE v.rests_since IS NULL AND v.owner IS NULL
          AND v.failures >= p_failures AND v.failing_since <= p_now - p_after_s
        ORDER BY v.relay_id
        FOR UPDATE OF v SKIP LOCKED
    ), resting AS (
        UPDATE public.visits v SET rests_since = p_now FROM failing f WHERE v.relay_id = f.relay_id
        RETURNING v.relay_id, v.failures, v.visited_at, v.outcome, v.detail
    ), again AS (
        INSERT INTO public.candidates
            (url, network, source, discovered_at, due_at, attempts, tried_at, outcome, detail)
        SELECT r.url, r.network, 'retired', r.discovered_at, p_now + public.backoff_s(s.failures), s.failures,
               s.visited_at, s.outcome, s.detail
        FROM resting s JOIN public.relays r ON r.id = s.relay_id
        ORDER BY r.url
        ON CONFLICT (url) DO UPDATE SET source = 'retired'
        RETURNING 1
    )
    SELECT count(*) INTO retired FROM again;
    RETURN retired;
END $$;
