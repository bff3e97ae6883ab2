-- Clock: puts right what was written while a clock was ahead.

-- A proof from a clock that was ahead may be of seconds that had not been yet.
CREATE OR REPLACE FUNCTION bigbrotr.forget_the_future(p_now bigint) RETURNS TABLE (relays integer, rows_due integer)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ahead bigint := p_now + 60;
BEGIN
    WITH gone AS (
        DELETE FROM bigbrotr.coverage c WHERE c.proven_at > ahead RETURNING c.relay_id
    )
    SELECT count(DISTINCT g.relay_id) INTO relays FROM gone g;
    WITH visits_due AS (
        -- A relay that was found then and not visited yet has no other time than due_at.
        UPDATE bigbrotr.visits v SET
            due_at = p_now, visited_at = CASE WHEN v.visited_at > ahead THEN p_now END,
            failing_since = CASE WHEN v.failing_since > p_now THEN p_now ELSE v.failing_since END
        WHERE coalesce(v.visited_at, v.due_at) > ahead AND v.owner IS NULL RETURNING 1
    ), gaps_due AS (
        UPDATE bigbrotr.gaps g SET due_at = p_now, noted_at = p_now WHERE g.noted_at > ahead RETURNING 1
    ), candidates_due AS (
        UPDATE bigbrotr.candidates c SET due_at = p_now, tried_at = CASE WHEN c.tried_at > ahead THEN p_now END
        WHERE coalesce(c.tried_at, c.due_at) > ahead AND c.owner IS NULL RETURNING 1
    ), checks_due AS (
        UPDATE bigbrotr.checks c SET
            due_at = p_now, checked_at = CASE WHEN c.checked_at > ahead THEN p_now END,
            since = CASE WHEN c.since > p_now THEN p_now ELSE c.since END
        WHERE coalesce(c.checked_at, c.due_at) > ahead AND c.owner IS NULL RETURNING 1
    ), tries_due AS (
        UPDATE bigbrotr.reconciliation r SET due_at = p_now, tried_at = p_now WHERE r.tried_at > ahead RETURNING 1
    ), outbox_due AS (
        UPDATE bigbrotr.outbox o SET due_at = p_now, posted_at = p_now
        WHERE o.posted_at > ahead AND o.owner IS NULL RETURNING 1
    ), alerts_due AS (
        UPDATE bigbrotr.alerts a SET due_at = p_now, noted_at = p_now
        WHERE a.noted_at > ahead AND a.owner IS NULL RETURNING 1
    ), changes_dated AS (
        UPDATE bigbrotr.changes c SET noted_at = p_now, since = least(c.since, p_now) WHERE c.noted_at > ahead RETURNING 1
    ), sums_gone AS (
        DELETE FROM bigbrotr.relay_sums s WHERE s.made_at > ahead RETURNING 1
    ), rescues_due AS (
        -- One that was settled then has no other time than that of its target.
        UPDATE bigbrotr.rescues r SET due_at = p_now, queued_at = least(r.queued_at, p_now)
        WHERE r.state IN ('waiting', 'accepted') AND r.due_at > p_now
          AND (r.queued_at > ahead
               OR r.target_id IN (SELECT t.id FROM bigbrotr.rescue_targets t WHERE coalesce(t.tried_at, t.due_at) > ahead))
        RETURNING 1
    ), rescue_targets_due AS (
        -- Nor has a target that was named then and not called yet any but due_at.
        UPDATE bigbrotr.rescue_targets t SET due_at = p_now, tried_at = CASE WHEN t.tried_at > ahead THEN p_now END
        WHERE coalesce(t.tried_at, t.due_at) > ahead AND t.owner IS NULL RETURNING 1
    ), missing_due AS (
        -- What was asked for in vain waits for so long at most.
        UPDATE bigbrotr.missing_events m SET due_at = p_now, noted_at = least(m.noted_at, p_now)
        WHERE m.owner IS NULL AND m.state = 'waiting'
          AND (m.noted_at > ahead
               OR m.due_at > ahead + 75 * least(604800, 60 * 2 ^ (least(greatest(m.attempts, 1), 20) - 1)))
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM visits_due) + (SELECT count(*) FROM gaps_due)
         + (SELECT count(*) FROM candidates_due) + (SELECT count(*) FROM checks_due)
         + (SELECT count(*) FROM tries_due) + (SELECT count(*) FROM outbox_due)
         + (SELECT count(*) FROM alerts_due)
         + (SELECT count(*) FROM rescues_due) + (SELECT count(*) FROM rescue_targets_due)
         + (SELECT count(*) FROM missing_due) INTO rows_due;
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION bigbrotr.forget_the_future IS
    'Puts right what was written while a clock was ahead of p_now by more than a minute: takes back proofs and makes '
    'due what waits for a time in the future. Returns how many relays had such proofs and how many rows of work were '
    'due too late. Idempotent.';
