-- Visits: when the synchronizer visits each relay next, and which process holds the lease now.

CREATE TABLE IF NOT EXISTS bigbrotr.visits (
    relay_id   bigint  NOT NULL PRIMARY KEY REFERENCES bigbrotr.relays (id) ON DELETE CASCADE,
    due_at     bigint  NOT NULL,
    epoch      bigint  NOT NULL DEFAULT 0,
    owner      text,
    failures   integer NOT NULL DEFAULT 0,
    visited_at bigint,
    outcome    text,
    detail     text,
    filter     text    NOT NULL DEFAULT '',
    since      bigint  NOT NULL DEFAULT 0,
    until      bigint  NOT NULL DEFAULT 0,
    identity   bytea,
    failing_since bigint,
    retired_at   bigint,
    dialect       jsonb   NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE bigbrotr.visits IS
    'When each relay is visited next to copy its events, who holds the lease, and how the last visit ended. A row a '
    'relay.';
COMMENT ON COLUMN bigbrotr.visits.relay_id IS 'Number of the relay.';
COMMENT ON COLUMN bigbrotr.visits.due_at IS
    'When the next visit is due, in Unix seconds. A claim moves it by the length of the lease.';
COMMENT ON COLUMN bigbrotr.visits.epoch IS
    'Grows with every claim. A process with an older epoch has lost its lease, and its writes are refused.';
COMMENT ON COLUMN bigbrotr.visits.owner IS 'Process that holds the lease; NULL if nobody does.';
COMMENT ON COLUMN bigbrotr.visits.failures IS 'Visits in a row that failed.';
COMMENT ON COLUMN bigbrotr.visits.visited_at IS
    'When the last visit ended or was last heard of, in Unix seconds; NULL if there was none.';
COMMENT ON COLUMN bigbrotr.visits.outcome IS 'Result of the last visit in one word, e.g. complete, live or timeout.';
COMMENT ON COLUMN bigbrotr.visits.detail IS 'Result of the last visit in words.';
COMMENT ON COLUMN bigbrotr.visits.filter IS
    'Which events the newest visit wants: the canonical conditions of a filter, empty for all events.';
COMMENT ON COLUMN bigbrotr.visits.since IS 'Start of the wanted time, in Unix seconds, included.';
COMMENT ON COLUMN bigbrotr.visits.until IS 'End of the wanted time, in Unix seconds, not included.';
COMMENT ON COLUMN bigbrotr.visits.identity IS
    'Public key (32 bytes) that we showed the relay for the newest proof; NULL if none.';
COMMENT ON COLUMN bigbrotr.visits.failing_since IS
    'First of the failures in a row, in Unix seconds; NULL if the last visit did not fail.';
COMMENT ON COLUMN bigbrotr.visits.retired_at IS
    'When the relay was retired, in Unix seconds: its visits had failed for long, and it is a candidate again. NULL '
    'if it is in use.';
COMMENT ON COLUMN bigbrotr.visits.dialect IS
    'How the relay wants to be asked, as JSON, as earlier visits have found out.';
CREATE INDEX IF NOT EXISTS visits_due_at_idx ON bigbrotr.visits (due_at);

-- Each function that writes for a visit ends with this (record_coverage begins with it): a process that slept past its
-- lease must not undo what another has done. It comes last, so that all writers lock presence first and visits last. It
-- is shared, so that a page and what the visit notes of the next one do not wait for each other.
CREATE OR REPLACE FUNCTION bigbrotr.hold_lease(p_relay_id bigint, p_epoch bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM bigbrotr.visits v WHERE v.relay_id = p_relay_id AND v.epoch = p_epoch FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the lease on relay % has passed to another process', p_relay_id USING ERRCODE = 'BB001';
    END IF;
END $$;
COMMENT ON FUNCTION bigbrotr.hold_lease IS
    'Keeps the lease on a relay until the transaction ends; fails (BB001) if another process has claimed the relay.';

CREATE OR REPLACE FUNCTION bigbrotr.claim_visits(
    p_networks text[], p_limit integer, p_owner text, p_lease_s bigint, p_since bigint, p_until bigint, p_filter text,
    p_by_ids boolean, p_refused text[],
    p_urls text[], p_sinces bigint[], p_untils bigint[], p_filters text[], p_by_idss boolean[],
    p_audit_s bigint, p_lookback_s bigint, p_rewalk_s bigint, p_now bigint
) RETURNS TABLE (
    relay_id bigint, url text, epoch bigint, pairs bigint, missing int8multirange, stale int8multirange,
    may_reconcile boolean, most_items bigint, most_bytes bigint, limits jsonb, dialect jsonb
)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    WITH due AS (
        SELECT v.relay_id FROM bigbrotr.visits v
        WHERE v.due_at <= p_now AND v.retired_at IS NULL
          AND EXISTS (SELECT FROM bigbrotr.relays r WHERE r.id = v.relay_id
                      AND r.network = ANY (p_networks) AND r.url <> ALL (p_refused))
        ORDER BY v.due_at, v.relay_id
        LIMIT p_limit
        FOR UPDATE OF v SKIP LOCKED
    ), claimed AS (
        UPDATE bigbrotr.visits v SET
            due_at = p_now + p_lease_s,
            epoch  = v.epoch + 1,
            owner  = p_owner,
            filter = coalesce(a.filter, p_filter),
            since  = coalesce(a.since, p_since),
            until  = coalesce(a.until, p_until)
        FROM due
        JOIN bigbrotr.relays r ON r.id = due.relay_id
        LEFT JOIN unnest(p_urls, p_sinces, p_untils, p_filters, p_by_idss) AS a (url, since, until, filter, by_ids)
            ON a.url = r.url
        WHERE v.relay_id = due.relay_id
        RETURNING v.relay_id, r.url, v.epoch, v.dialect, v.filter, v.since, v.until, coalesce(a.by_ids, p_by_ids) AS by_ids
    )
    SELECT c.relay_id, c.url, c.epoch, coalesce(t.pairs, 0),
           bigbrotr.missing_spans(
               p_relay_id => c.relay_id, p_since => c.since, p_until => c.until, p_filter => c.filter, p_now => p_now),
           bigbrotr.stale_spans(
               p_relay_id => c.relay_id, p_since => c.since, p_until => c.until, p_filter => c.filter,
               p_by_ids => c.by_ids, p_audit_s => p_audit_s, p_lookback_s => p_lookback_s, p_rewalk_s => p_rewalk_s,
               p_now => p_now),
           c.by_ids AND coalesce(n.outcome = 'works' OR n.due_at <= p_now, true), n.most_items, n.most_bytes,
           m.data -> 'limitation', c.dialect
    FROM claimed c
    LEFT JOIN bigbrotr.tallies t ON t.relay_id = c.relay_id
    LEFT JOIN bigbrotr.reconciliation n ON n.relay_id = c.relay_id
    LEFT JOIN bigbrotr.snapshots_latest l ON l.relay_id = c.relay_id AND l.type = 'nip11'
    LEFT JOIN bigbrotr.metadata m ON m.id = l.metadata_id;
END $$;
COMMENT ON FUNCTION bigbrotr.claim_visits IS
    'Claims up to p_limit relays that are due, except the URLs p_refused. missing: spans of [p_since, p_until) that '
    'are neither proven nor a gap that waits, for the conditions p_filter. For the URLs p_urls, the arrays p_sinces, '
    'p_untils, p_filters and p_by_idss count instead. stale: proven spans that are to be looked at again, see '
    'stale_spans. may_reconcile: whether to compare ids (NIP-77). most_items, most_bytes: what the relay takes, as '
    'far as known. limits: the limits in its newest NIP-11 document. dialect: what earlier visits have kept.';

CREATE OR REPLACE FUNCTION bigbrotr.renew_visit(
    p_relay_id bigint, p_epoch bigint, p_lease_s bigint, p_since bigint, p_until bigint, p_by_ids boolean,
    p_audit_s bigint, p_lookback_s bigint, p_rewalk_s bigint, p_now bigint
) RETURNS TABLE (missing int8multirange, stale int8multirange)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    conditions text;
BEGIN
    UPDATE bigbrotr.visits v SET
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
            bigbrotr.missing_spans(
                p_relay_id => p_relay_id, p_since => p_since, p_until => p_until, p_filter => conditions, p_now => p_now),
            bigbrotr.stale_spans(
                p_relay_id => p_relay_id, p_since => p_since, p_until => p_until, p_filter => conditions,
                p_by_ids => p_by_ids, p_audit_s => p_audit_s, p_lookback_s => p_lookback_s, p_rewalk_s => p_rewalk_s,
                p_now => p_now);
    END IF;
END $$;
COMMENT ON FUNCTION bigbrotr.renew_visit IS
    'Prolongs the lease on a relay to which a process stays subscribed. Returns what is missing and what is stale '
    'now; no row if another process has claimed the relay.';

CREATE OR REPLACE FUNCTION bigbrotr.finish_visit(
    p_relay_id bigint, p_epoch bigint, p_verdict text, p_next_at bigint, p_outcome text, p_detail text, p_dialect jsonb,
    p_now bigint
) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_id bigint;
BEGIN
    UPDATE bigbrotr.visits v SET
        failures   = CASE
            WHEN p_verdict IN ('failed', 'refused') THEN v.failures + 1
            WHEN p_verdict = 'done' THEN 0 ELSE v.failures END,
        failing_since = CASE
            WHEN p_verdict = 'failed' THEN coalesce(v.failing_since, p_now)
            WHEN p_verdict IN ('done', 'refused') THEN NULL ELSE v.failing_since END,
        due_at     = CASE
            WHEN p_verdict IN ('failed', 'refused') THEN p_now + bigbrotr.backoff_s(v.failures + 1)
            WHEN p_verdict = 'throttled' THEN p_next_at
            WHEN p_verdict = 'done' THEN least(p_next_at, (
                SELECT greatest(g.due_at, p_now + 60) FROM bigbrotr.gaps g
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
    -- A gap from looking again at what is proven is deleted: the old proof stays, so there is nothing to try again.
    DELETE FROM bigbrotr.gaps g
    WHERE g.relay_id = found_id AND p_verdict = 'done' AND g.due_at <= p_now
      AND int8multirange(g.span) <@ (SELECT range_agg(c.proven) FROM bigbrotr.coverage c
                                     WHERE c.relay_id = found_id AND c.filter IN ('', g.filter));
    RETURN found_id IS NOT NULL;
END $$;
COMMENT ON FUNCTION bigbrotr.finish_visit IS
    'Ends a visit. Verdicts: done (come back at p_next_at, or when the first gap is due, but not within a minute), '
    'failed (come back after a growing delay), refused (the same, but the relay has answered), throttled (not before '
    'p_next_at), unfinished (come back at once). p_dialect is kept for the next visit unless it is NULL. Returns '
    'false if another process has claimed the relay.';

-- So a crash costs no waiting: the process that is started again under the same name gives back what the old one held.
CREATE OR REPLACE FUNCTION bigbrotr.release_leases(p_owner text, p_now bigint) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    released integer;
BEGIN
    WITH visits_back AS (
        UPDATE bigbrotr.visits SET due_at = p_now, owner = NULL WHERE owner = p_owner RETURNING 1
    ), candidates_back AS (
        UPDATE bigbrotr.candidates SET due_at = p_now, owner = NULL WHERE owner = p_owner RETURNING 1
    )
    SELECT (SELECT count(*) FROM visits_back) + (SELECT count(*) FROM candidates_back) INTO released;
    RETURN released;
END $$;
COMMENT ON FUNCTION bigbrotr.release_leases IS
    'Gives back all leases of an owner on relays and candidates. A process calls it at its start. Returns how many. '
    'Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.next_visit_at(p_networks text[], p_refused text[]) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT min(v.due_at) FROM bigbrotr.visits v JOIN bigbrotr.relays r ON r.id = v.relay_id
            WHERE v.retired_at IS NULL AND r.network = ANY (p_networks) AND r.url <> ALL (p_refused));
END $$;
COMMENT ON FUNCTION bigbrotr.next_visit_at IS
    'When the next visit is due, in Unix seconds, except for the URLs p_refused; NULL without relays.';

CREATE OR REPLACE FUNCTION bigbrotr.retire_relays(p_after_s bigint, p_failures integer, p_now bigint) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    retired integer;
BEGIN
    WITH failing AS (
        SELECT v.relay_id FROM bigbrotr.visits v
        WHERE v.retired_at IS NULL AND v.owner IS NULL
          AND v.failures >= p_failures AND v.failing_since <= p_now - p_after_s
        ORDER BY v.relay_id
        FOR UPDATE OF v SKIP LOCKED
    ), resting AS (
        UPDATE bigbrotr.visits v SET retired_at = p_now FROM failing f WHERE v.relay_id = f.relay_id
        RETURNING v.relay_id, v.failures, v.visited_at, v.outcome, v.detail
    ), again AS (
        INSERT INTO bigbrotr.candidates
            (url, network, source, discovered_at, due_at, attempts, tried_at, outcome, detail)
        SELECT r.url, r.network, 'retired', r.discovered_at, p_now + bigbrotr.backoff_s(s.failures), s.failures,
               s.visited_at, s.outcome, s.detail
        FROM resting s JOIN bigbrotr.relays r ON r.id = s.relay_id
        ORDER BY r.url
        ON CONFLICT (url) DO UPDATE SET source = 'retired'
        RETURNING 1
    )
    SELECT count(*) INTO retired FROM again;
    RETURN retired;
END $$;
COMMENT ON FUNCTION bigbrotr.retire_relays IS
    'Retires the relays that nobody visits now and whose visits have only failed, p_failures times or more and for '
    'p_after_s seconds or longer. They become candidates with their history; what is archived of them stays. Returns '
    'how many. Idempotent.';
