-- Alerts: what the operators of chosen relays are told, and what they were told before.

CREATE TABLE IF NOT EXISTS bigbrotr.alerts_told (
    target   text    NOT NULL,
    relay_id integer NOT NULL REFERENCES bigbrotr.relays (id) ON DELETE CASCADE,
    subject  text    NOT NULL CHECK (subject IN ('state', 'certificate')),
    told     text    NOT NULL,
    told_at  bigint  NOT NULL,
    PRIMARY KEY (target, relay_id, subject)
);
COMMENT ON TABLE bigbrotr.alerts_told IS
    'What each target of alerts knows of a relay: the state from which the next change is told.';
COMMENT ON COLUMN bigbrotr.alerts_told.target IS 'Name of the target, as in [alerts.to.NAME].';
COMMENT ON COLUMN bigbrotr.alerts_told.relay_id IS 'Number of the relay.';
COMMENT ON COLUMN bigbrotr.alerts_told.subject IS 'What it is about: state or certificate.';
COMMENT ON COLUMN bigbrotr.alerts_told.told IS
    'The state (up or down), or until when the certificate is valid that was told to expire (Unix seconds).';
COMMENT ON COLUMN bigbrotr.alerts_told.told_at IS
    'When that was noted, in Unix seconds. What was noted waits in alerts until it is told.';

CREATE TABLE IF NOT EXISTS bigbrotr.alerts (
    id       bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    target   text    NOT NULL,
    change   text    NOT NULL CHECK (change IN ('up', 'down', 'certificate')),
    url      text    NOT NULL,
    since    bigint  NOT NULL,
    reason   text    NOT NULL,
    noted_at bigint  NOT NULL,
    due_at   bigint  NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    owner    text
);
COMMENT ON TABLE bigbrotr.alerts IS 'Alerts that wait to be told: a row for each change and target.';
COMMENT ON COLUMN bigbrotr.alerts.id IS 'Number of the alert. Those of a target are told in this order.';
COMMENT ON COLUMN bigbrotr.alerts.target IS 'Name of the target, as in [alerts.to.NAME].';
COMMENT ON COLUMN bigbrotr.alerts.change IS 'What has changed: up, down, or certificate (about to expire).';
COMMENT ON COLUMN bigbrotr.alerts.url IS 'URL of the relay.';
COMMENT ON COLUMN bigbrotr.alerts.since IS
    'Since when it is so, or until when the certificate is valid, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.alerts.reason IS 'Why it is down, in the words of the check; empty otherwise.';
COMMENT ON COLUMN bigbrotr.alerts.noted_at IS 'When the change was noted, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.alerts.due_at IS
    'When to tell it, in Unix seconds. A claim moves it by the length of the lease.';
COMMENT ON COLUMN bigbrotr.alerts.attempts IS 'Failed tries.';
COMMENT ON COLUMN bigbrotr.alerts.owner IS 'Process that holds the lease; NULL if nobody does.';
CREATE INDEX IF NOT EXISTS alerts_target_idx ON bigbrotr.alerts (target, id);

-- A change is noted and put into the queue in one transaction. Of two processes that see it at once, the second waits for
-- the row of the first, and then finds no change.
CREATE OR REPLACE FUNCTION bigbrotr.note_alerts(
    p_target text, p_urls text[], p_changes text[], p_checks integer, p_after_s bigint, p_certificate_s bigint,
    p_now bigint
) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    states       integer;
    certificates integer;
BEGIN
    -- What is seen first is no change.
    INSERT INTO bigbrotr.alerts_told (target, relay_id, subject, told, told_at)
    SELECT p_target, r.id, 'state', c.state, p_now
    FROM bigbrotr.checks c JOIN bigbrotr.relays r ON r.id = c.relay_id
    WHERE r.url = ANY (p_urls) AND c.state IN ('up', 'down')
    ORDER BY r.id
    ON CONFLICT (target, relay_id, subject) DO NOTHING;

    WITH steady AS (
        SELECT c.relay_id, r.url, c.state, c.since, c.outcome, c.detail
        FROM bigbrotr.checks c JOIN bigbrotr.relays r ON r.id = c.relay_id
        WHERE r.url = ANY (p_urls) AND c.state IN ('up', 'down') AND c.since <= p_now - p_after_s
          AND (SELECT count(*) FROM (
                   SELECT FROM bigbrotr.rtts s
                   WHERE s.relay_id = c.relay_id AND s.checked_at >= c.since
                   LIMIT p_checks
               ) AS seen) >= p_checks
    ), changed AS (
        UPDATE bigbrotr.alerts_told t SET told = s.state, told_at = p_now
        FROM steady s
        WHERE t.target = p_target AND t.relay_id = s.relay_id AND t.subject = 'state' AND t.told <> s.state
        RETURNING s.url, s.state, s.since,
                  CASE s.state WHEN 'down' THEN concat_ws(': ', s.outcome, nullif(s.detail, '')) ELSE '' END AS reason
    ), noted AS (
        INSERT INTO bigbrotr.alerts (target, change, url, since, reason, noted_at, due_at)
        SELECT p_target, c.state, c.url, c.since, c.reason, p_now, p_now
        FROM changed c WHERE c.state = ANY (p_changes)
        ORDER BY c.since, c.url
        RETURNING 1
    )
    SELECT count(*) INTO states FROM noted;

    WITH documents AS (
        SELECT r.id, r.url, CASE jsonb_typeof(m.data -> 'not_after') WHEN 'number'
                                 THEN (m.data ->> 'not_after')::numeric END AS not_after
        FROM bigbrotr.relays r
        JOIN bigbrotr.snapshots_latest l ON l.relay_id = r.id AND l.type = 'nip66_ssl'
        JOIN bigbrotr.metadata m ON m.id = l.metadata_id
        WHERE r.url = ANY (p_urls) AND 'certificate' = ANY (p_changes)
    ), changed AS (
        INSERT INTO bigbrotr.alerts_told AS t (target, relay_id, subject, told, told_at)
        SELECT p_target, d.id, 'certificate', trunc(d.not_after)::text, p_now
        FROM documents d
        WHERE d.not_after BETWEEN 0 AND p_now + p_certificate_s
        ORDER BY d.id
        ON CONFLICT (target, relay_id, subject) DO UPDATE SET told = EXCLUDED.told, told_at = EXCLUDED.told_at
        WHERE t.told <> EXCLUDED.told
        RETURNING t.relay_id, t.told
    ), noted AS (
        INSERT INTO bigbrotr.alerts (target, change, url, since, reason, noted_at, due_at)
        SELECT p_target, 'certificate', d.url, c.told::bigint, '', p_now, p_now
        FROM changed c JOIN documents d ON d.id = c.relay_id
        ORDER BY d.url
        RETURNING 1
    )
    SELECT count(*) INTO certificates FROM noted;
    RETURN states + certificates;
END $$;
COMMENT ON FUNCTION bigbrotr.note_alerts IS
    'Notes what has changed at the relays p_urls for a target since it was told last, and puts it into alerts, where '
    'p_changes (up, down, certificate) wants it. A state counts once p_checks checks have found it and it has lasted '
    'p_after_s seconds; a certificate, once, when it is valid for p_certificate_s seconds or less. The state in which a '
    'relay is seen first is no change. Returns how many alerts were added. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.claim_alerts(p_targets text[], p_owner text, p_lease_s bigint, p_now bigint)
RETURNS TABLE (
    id bigint, target text, change text, url text, since bigint, reason text, noted_at bigint, attempts integer
)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    WITH heads AS (
        SELECT min(h.id) AS id FROM bigbrotr.alerts h WHERE h.target = ANY (p_targets) GROUP BY h.target
    ), due AS (
        SELECT a.id FROM bigbrotr.alerts a
        WHERE a.id IN (SELECT h.id FROM heads h) AND a.due_at <= p_now
        ORDER BY a.id
        FOR UPDATE SKIP LOCKED
    )
    UPDATE bigbrotr.alerts a SET due_at = p_now + p_lease_s, owner = p_owner
    FROM due WHERE a.id = due.id
    RETURNING a.id, a.target, a.change, a.url, a.since, a.reason, a.noted_at, a.attempts;
END $$;
COMMENT ON FUNCTION bigbrotr.claim_alerts IS
    'Claims the oldest alert of each of these targets, where it is due: the later ones wait for it. Nobody else gets it '
    'for p_lease_s seconds.';

CREATE OR REPLACE FUNCTION bigbrotr.settle_alert(
    p_id bigint, p_owner text, p_is_told boolean, p_max_attempts integer, p_now bigint
) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    is_gone boolean;
BEGIN
    WITH gone AS (
        DELETE FROM bigbrotr.alerts a
        WHERE a.id = p_id AND (p_is_told OR (a.owner = p_owner AND a.attempts + 1 >= p_max_attempts))
        RETURNING 1
    ), later AS (
        UPDATE bigbrotr.alerts a SET
            attempts = a.attempts + 1, due_at = p_now + bigbrotr.backoff_s(a.attempts + 1), owner = NULL
        WHERE a.id = p_id AND NOT p_is_told AND a.owner = p_owner AND a.attempts + 1 < p_max_attempts
        RETURNING 1
    )
    SELECT EXISTS (SELECT FROM gone) INTO is_gone;
    RETURN is_gone;
END $$;
COMMENT ON FUNCTION bigbrotr.settle_alert IS
    'Records what became of a claimed alert: it is deleted when it was told or has failed p_max_attempts times, and '
    'otherwise comes back after a growing delay. Returns whether it is gone. Idempotent for what was told.';

CREATE OR REPLACE FUNCTION bigbrotr.release_alerts(p_owner text, p_now bigint) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    released integer;
BEGIN
    WITH back AS (
        UPDATE bigbrotr.alerts a SET due_at = p_now, owner = NULL WHERE a.owner = p_owner RETURNING 1
    )
    SELECT count(*) INTO released FROM back;
    RETURN released;
END $$;
COMMENT ON FUNCTION bigbrotr.release_alerts IS
    'Gives back all alerts of an owner. A process calls it at its start. Returns how many. Idempotent.';
