-- Monitoring: when each relay is checked next, whether it is up, and what its checks measured.

CREATE TABLE IF NOT EXISTS bigbrotr.checks (
    relay_id         bigint  NOT NULL PRIMARY KEY REFERENCES bigbrotr.relays (id) ON DELETE CASCADE,
    due_at           bigint  NOT NULL,
    epoch            bigint  NOT NULL DEFAULT 0,
    owner            text,
    state            text    NOT NULL DEFAULT 'unknown' CHECK (state IN ('unknown', 'up', 'down')),
    since            bigint,
    failures         integer NOT NULL DEFAULT 0,
    suspect_at       bigint,
    suspect_outcome  text,
    checked_at       bigint,
    outcome          text,
    detail           text,
    failed           jsonb,
    published_at     bigint,
    published_digest bytea
);
COMMENT ON TABLE bigbrotr.checks IS
    'When each relay is checked next, whether it is up, and the newest verdict. A row a relay.';
COMMENT ON COLUMN bigbrotr.checks.relay_id IS 'Number of the relay.';
COMMENT ON COLUMN bigbrotr.checks.due_at IS
    'When the next check is due, in Unix seconds. A claim moves it by the length of the lease.';
COMMENT ON COLUMN bigbrotr.checks.epoch IS
    'Grows with every claim. A process with an older epoch has lost its lease, and its writes are refused.';
COMMENT ON COLUMN bigbrotr.checks.owner IS 'Process that holds the lease; NULL if nobody does.';
COMMENT ON COLUMN bigbrotr.checks.state IS 'Whether the relay is up: unknown, up or down.';
COMMENT ON COLUMN bigbrotr.checks.since IS 'When the state began, in Unix seconds; NULL while it is unknown.';
COMMENT ON COLUMN bigbrotr.checks.failures IS 'Checks in a row that found it down.';
COMMENT ON COLUMN bigbrotr.checks.suspect_at IS
    'When a first time-out was seen that no check has confirmed yet, in Unix seconds; NULL if none.';
COMMENT ON COLUMN bigbrotr.checks.suspect_outcome IS 'Result of that check in one word.';
COMMENT ON COLUMN bigbrotr.checks.checked_at IS
    'When the newest verdict was made, in Unix seconds; NULL if there is none.';
COMMENT ON COLUMN bigbrotr.checks.outcome IS
    'Newest verdict: up, why it is down in one word, or defect if our own code has failed since.';
COMMENT ON COLUMN bigbrotr.checks.detail IS 'Newest verdict in words.';
COMMENT ON COLUMN bigbrotr.checks.failed IS
    'Parts of the newest check that failed, and why, e.g. {"nip11": "too-large"}.';
COMMENT ON COLUMN bigbrotr.checks.published_at IS
    'When the relay was last announced (kind 30166), in Unix seconds; NULL if never.';
COMMENT ON COLUMN bigbrotr.checks.published_digest IS 'SHA-256 of that announcement without its round-trip times.';
CREATE INDEX IF NOT EXISTS checks_due_at_idx ON bigbrotr.checks (due_at);

CREATE TABLE IF NOT EXISTS bigbrotr.rtts (
    relay_id   integer NOT NULL REFERENCES bigbrotr.relays (id) ON DELETE CASCADE,
    holds_s    integer NOT NULL,
    checked_at bigint  NOT NULL,
    outcome    text,
    dns_ms     real,
    tcp_ms     real,
    tls_ms     real,
    upgrade_ms real,
    read_ms    real,
    write_ms   real,
    ttl_s      integer,
    PRIMARY KEY (relay_id, checked_at)
);
COMMENT ON TABLE bigbrotr.rtts IS
    'Verdicts and round-trip times of all checks: a time series. The view relay_rtts shows it by URL.';
COMMENT ON COLUMN bigbrotr.rtts.relay_id IS 'Number of the relay.';
COMMENT ON COLUMN bigbrotr.rtts.holds_s IS 'How long the verdict counts if no other follows, in seconds.';
COMMENT ON COLUMN bigbrotr.rtts.checked_at IS 'When the relay was checked, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.rtts.outcome IS 'Why the relay is down, in one word; NULL if it is up.';
COMMENT ON COLUMN bigbrotr.rtts.dns_ms IS 'Time to look up the address, in milliseconds.';
COMMENT ON COLUMN bigbrotr.rtts.tcp_ms IS 'Time to connect by TCP, in milliseconds.';
COMMENT ON COLUMN bigbrotr.rtts.tls_ms IS 'Time for the TLS handshake, in milliseconds; NULL without TLS.';
COMMENT ON COLUMN bigbrotr.rtts.upgrade_ms IS 'Time for the upgrade to a WebSocket, in milliseconds.';
COMMENT ON COLUMN bigbrotr.rtts.read_ms IS 'Time until the first EVENT or EOSE, in milliseconds; NULL if none came.';
COMMENT ON COLUMN bigbrotr.rtts.write_ms IS
    'Time until an event was accepted, in milliseconds; NULL if that was not tried or failed.';
COMMENT ON COLUMN bigbrotr.rtts.ttl_s IS 'How long our resolver may keep the address, in seconds.';

CREATE OR REPLACE VIEW bigbrotr.relay_rtts AS
SELECT r.url AS relay_url, s.checked_at, s.outcome IS NULL AS is_up, s.outcome, s.dns_ms, s.tcp_ms, s.tls_ms,
       s.upgrade_ms, s.tcp_ms + coalesce(s.tls_ms, 0) + s.upgrade_ms AS open_ms, s.read_ms, s.write_ms, s.ttl_s
FROM bigbrotr.rtts s JOIN bigbrotr.relays r ON r.id = s.relay_id;
COMMENT ON VIEW bigbrotr.relay_rtts IS 'Verdicts and round-trip times of all checks: a time series.';
COMMENT ON COLUMN bigbrotr.relay_rtts.relay_url IS 'URL of the relay.';
COMMENT ON COLUMN bigbrotr.relay_rtts.checked_at IS 'When the relay was checked, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.relay_rtts.is_up IS 'Whether the relay was up.';
COMMENT ON COLUMN bigbrotr.relay_rtts.outcome IS 'Why it was down, in one word; NULL if it was up.';
COMMENT ON COLUMN bigbrotr.relay_rtts.dns_ms IS 'Time to look up the address, in milliseconds.';
COMMENT ON COLUMN bigbrotr.relay_rtts.tcp_ms IS 'Time to connect by TCP, in milliseconds.';
COMMENT ON COLUMN bigbrotr.relay_rtts.tls_ms IS 'Time for the TLS handshake, in milliseconds; NULL without TLS.';
COMMENT ON COLUMN bigbrotr.relay_rtts.upgrade_ms IS 'Time for the upgrade to a WebSocket, in milliseconds.';
COMMENT ON COLUMN bigbrotr.relay_rtts.open_ms IS 'Time to open: TCP, TLS and upgrade together, in milliseconds.';
COMMENT ON COLUMN bigbrotr.relay_rtts.read_ms IS
    'Time until the first EVENT or EOSE, in milliseconds; NULL if none came.';
COMMENT ON COLUMN bigbrotr.relay_rtts.write_ms IS
    'Time until an event was accepted, in milliseconds; NULL if that was not tried or failed.';
COMMENT ON COLUMN bigbrotr.relay_rtts.ttl_s IS 'How long our resolver may keep the address, in seconds.';

CREATE OR REPLACE VIEW bigbrotr.relay_states AS
SELECT r.url AS relay_url, r.network, c.state, c.since, c.checked_at, c.outcome, c.detail, c.failures, c.failed, c.due_at,
       c.published_at
FROM bigbrotr.checks c JOIN bigbrotr.relays r ON r.id = c.relay_id;
COMMENT ON VIEW bigbrotr.relay_states IS 'Which relays are up or down, since when and why: a row a relay.';
COMMENT ON COLUMN bigbrotr.relay_states.relay_url IS 'URL of the relay.';
COMMENT ON COLUMN bigbrotr.relay_states.network IS 'Network of the relay.';
COMMENT ON COLUMN bigbrotr.relay_states.state IS 'Whether the relay is up: unknown, up or down.';
COMMENT ON COLUMN bigbrotr.relay_states.since IS 'When the state began, in Unix seconds; NULL while it is unknown.';
COMMENT ON COLUMN bigbrotr.relay_states.checked_at IS
    'When the newest verdict was made, in Unix seconds; NULL if there is none.';
COMMENT ON COLUMN bigbrotr.relay_states.outcome IS
    'Newest verdict: up, why it is down in one word, or defect if our own code has failed since.';
COMMENT ON COLUMN bigbrotr.relay_states.detail IS 'Newest verdict in words.';
COMMENT ON COLUMN bigbrotr.relay_states.failures IS 'Checks in a row that found it down.';
COMMENT ON COLUMN bigbrotr.relay_states.failed IS 'Parts of the newest check that failed, and why.';
COMMENT ON COLUMN bigbrotr.relay_states.due_at IS 'When the next check is due, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.relay_states.published_at IS
    'When the relay was last announced (kind 30166), in Unix seconds; NULL if never.';

CREATE OR REPLACE FUNCTION bigbrotr.rtt_document(p_rtt bigbrotr.rtts) RETURNS jsonb
LANGUAGE sql IMMUTABLE
RETURN jsonb_strip_nulls(jsonb_build_object(
    'dns_ms', round((p_rtt).dns_ms::numeric, 2), 'tcp_ms', round((p_rtt).tcp_ms::numeric, 2),
    'tls_ms', round((p_rtt).tls_ms::numeric, 2), 'upgrade_ms', round((p_rtt).upgrade_ms::numeric, 2),
    'open_ms', round(((p_rtt).tcp_ms + coalesce((p_rtt).tls_ms, 0) + (p_rtt).upgrade_ms)::numeric, 2),
    'read_ms', round((p_rtt).read_ms::numeric, 2), 'write_ms', round((p_rtt).write_ms::numeric, 2)));
COMMENT ON FUNCTION bigbrotr.rtt_document IS 'Round-trip times as a JSON document, in milliseconds with two decimals.';

-- The newest snapshot per relay and type with its document; round-trip times, which are never the same twice, have no
-- document of their own in `metadata`.
CREATE OR REPLACE VIEW bigbrotr.relay_metadata_latest AS
SELECT r.url AS relay_url, s.snapshot_at, s.type, s.metadata_id, m.data
FROM bigbrotr.snapshots_latest s
JOIN bigbrotr.relays r ON r.id = s.relay_id
JOIN bigbrotr.metadata m ON m.id = s.metadata_id
UNION ALL
SELECT r.url, t.checked_at, 'nip66_rtt', NULL::bytea, bigbrotr.rtt_document(t)
FROM bigbrotr.relays r
CROSS JOIN LATERAL (
    SELECT s.* FROM bigbrotr.rtts s
    WHERE s.relay_id = r.id AND s.outcome IS NULL ORDER BY s.checked_at DESC LIMIT 1
) AS t
WHERE NOT EXISTS (SELECT FROM bigbrotr.snapshots_latest l WHERE l.relay_id = r.id AND l.type = 'nip66_rtt');
COMMENT ON VIEW bigbrotr.relay_metadata_latest IS
    'The newest document of each relay and type, with its data. Round-trip times (nip66_rtt) are made from '
    'relay_rtts.';
COMMENT ON COLUMN bigbrotr.relay_metadata_latest.relay_url IS 'URL of the relay.';
COMMENT ON COLUMN bigbrotr.relay_metadata_latest.snapshot_at IS
    'When the document was fetched or measured, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.relay_metadata_latest.type IS 'Type of the document.';
COMMENT ON COLUMN bigbrotr.relay_metadata_latest.metadata_id IS
    'Id of the document in metadata; NULL for round-trip times.';
COMMENT ON COLUMN bigbrotr.relay_metadata_latest.data IS 'The document.';

CREATE OR REPLACE FUNCTION bigbrotr.claim_checks(
    p_networks text[], p_limit integer, p_owner text, p_lease_s bigint, p_now bigint
) RETURNS TABLE (
    relay_id bigint, url text, epoch bigint, state text, suspect_at bigint, published_at bigint, published_digest bytea
)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO bigbrotr.checks AS c (relay_id, due_at)
    SELECT r.id, p_now FROM bigbrotr.relays r
    WHERE NOT EXISTS (SELECT FROM bigbrotr.checks k WHERE k.relay_id = r.id)
    ORDER BY r.id
    ON CONFLICT ON CONSTRAINT checks_pkey DO NOTHING;

    RETURN QUERY
    WITH due AS (
        SELECT c.relay_id FROM bigbrotr.checks c
        WHERE c.due_at <= p_now
          AND EXISTS (SELECT FROM bigbrotr.relays r WHERE r.id = c.relay_id AND r.network = ANY (p_networks))
        ORDER BY c.due_at, c.relay_id
        LIMIT p_limit
        FOR UPDATE OF c SKIP LOCKED
    )
    UPDATE bigbrotr.checks c SET due_at = p_now + p_lease_s, epoch = c.epoch + 1, owner = p_owner
    FROM due JOIN bigbrotr.relays r ON r.id = due.relay_id
    WHERE c.relay_id = due.relay_id
    RETURNING c.relay_id, r.url, c.epoch, c.state, c.suspect_at, c.published_at, c.published_digest;
END $$;
COMMENT ON FUNCTION bigbrotr.claim_checks IS
    'Claims up to p_limit relays that are due for a check. Nobody else gets them for p_lease_s seconds. Relays '
    'without a row in checks are due at once.';

-- A suspect failure goes into the series only when it is confirmed, together with the check that confirms it.
CREATE OR REPLACE FUNCTION bigbrotr.record_checks(
    p_relay_ids bigint[], p_epochs bigint[], p_verdicts text[], p_outcomes text[], p_details text[], p_failed jsonb[],
    p_dns_ms real[], p_tcp_ms real[], p_tls_ms real[], p_upgrade_ms real[], p_read_ms real[], p_write_ms real[],
    p_ttls integer[], p_digests bytea[], p_every_s bigint, p_now bigint
) RETURNS bigint[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    recorded bigint[];
    changed  bigint[];
    befores  text[];
BEGIN
    WITH given AS (
        SELECT * FROM unnest(
            p_relay_ids, p_epochs, p_verdicts, p_outcomes, p_details, p_failed, p_dns_ms, p_tcp_ms, p_tls_ms, p_upgrade_ms,
            p_read_ms, p_write_ms, p_ttls, p_digests
        ) AS g (relay_id, epoch, verdict, outcome, detail, failed, dns_ms, tcp_ms, tls_ms, upgrade_ms, read_ms, write_ms,
                ttl_s, digest)
    ), before AS (
        SELECT g.*, c.state AS old_state, c.since AS old_since, c.failures AS old_failures,
               c.suspect_at AS old_suspect_at, c.suspect_outcome AS old_suspect_outcome,
               p_now + CASE g.verdict
                   WHEN 'up' THEN (CASE c.state WHEN 'down' THEN p_every_s / 4.0 ELSE p_every_s END
                                   * (0.9 + 0.2 * random()))::bigint
                   WHEN 'down' THEN bigbrotr.backoff_s(c.failures + 1)
                   WHEN 'suspect' THEN (60 + 60 * random())::bigint
                   WHEN 'void' THEN (60 + 60 * random())::bigint
                   ELSE (p_every_s * (0.9 + 0.2 * random()))::bigint END AS due_at
        FROM given g
        JOIN bigbrotr.checks c ON c.relay_id = g.relay_id AND c.epoch = g.epoch
        ORDER BY g.relay_id
        FOR UPDATE OF c
    ), updated AS (
        UPDATE bigbrotr.checks c SET
            due_at           = b.due_at,
            epoch            = c.epoch + 1,
            owner            = NULL,
            state            = CASE WHEN b.verdict IN ('up', 'down') THEN b.verdict ELSE c.state END,
            since            = CASE WHEN b.verdict IN ('up', 'down') AND b.verdict <> c.state
                               THEN CASE b.verdict WHEN 'down' THEN coalesce(c.suspect_at, p_now) ELSE p_now END
                               ELSE c.since END,
            failures         = CASE b.verdict WHEN 'up' THEN 0 WHEN 'down' THEN c.failures + 1 ELSE c.failures END,
            suspect_at       = CASE b.verdict WHEN 'suspect' THEN p_now WHEN 'void' THEN c.suspect_at END,
            suspect_outcome  = CASE b.verdict WHEN 'suspect' THEN left(b.outcome, 100) WHEN 'void' THEN c.suspect_outcome END,
            checked_at       = CASE WHEN b.verdict IN ('up', 'down') THEN p_now ELSE c.checked_at END,
            outcome          = CASE WHEN b.verdict IN ('up', 'down', 'defect') THEN left(b.outcome, 100) ELSE c.outcome END,
            detail           = CASE WHEN b.verdict IN ('up', 'down', 'defect') THEN left(b.detail, 500) ELSE c.detail END,
            failed           = CASE WHEN b.verdict IN ('up', 'down') THEN b.failed ELSE c.failed END,
            published_at     = CASE WHEN b.digest IS NULL THEN c.published_at ELSE p_now END,
            published_digest = coalesce(b.digest, c.published_digest)
        FROM before b WHERE c.relay_id = b.relay_id
        RETURNING c.relay_id, c.state, b.old_state
    ), first_rows AS (
        INSERT INTO bigbrotr.rtts (relay_id, holds_s, checked_at, outcome)
        SELECT b.relay_id, 2 * (p_now - b.old_suspect_at), b.old_suspect_at, b.old_suspect_outcome
        FROM before b
        WHERE b.verdict = 'down' AND b.old_suspect_at < p_now
        ON CONFLICT (relay_id, checked_at) DO NOTHING
    ), rows AS (
        INSERT INTO bigbrotr.rtts (
            relay_id, holds_s, checked_at, outcome, dns_ms, tcp_ms, tls_ms, upgrade_ms, read_ms, write_ms, ttl_s)
        SELECT b.relay_id, 2 * (b.due_at - p_now) + 600, p_now, CASE b.verdict WHEN 'down' THEN left(b.outcome, 100) END,
               b.dns_ms, b.tcp_ms, b.tls_ms, b.upgrade_ms, b.read_ms, b.write_ms, b.ttl_s
        FROM before b
        WHERE b.verdict IN ('up', 'down')
        ON CONFLICT (relay_id, checked_at) DO UPDATE SET  -- twice in a second: the newer one
            holds_s = EXCLUDED.holds_s, outcome = EXCLUDED.outcome, dns_ms = EXCLUDED.dns_ms, tcp_ms = EXCLUDED.tcp_ms,
            tls_ms = EXCLUDED.tls_ms, upgrade_ms = EXCLUDED.upgrade_ms, read_ms = EXCLUDED.read_ms,
            write_ms = EXCLUDED.write_ms, ttl_s = EXCLUDED.ttl_s
    )
    SELECT array_agg(u.relay_id), array_agg(u.relay_id ORDER BY u.relay_id) FILTER (WHERE u.state <> u.old_state),
           array_agg(u.old_state ORDER BY u.relay_id) FILTER (WHERE u.state <> u.old_state)
    INTO recorded, changed, befores FROM updated u;
    IF changed IS NOT NULL THEN
        PERFORM bigbrotr.note_changes(p_relay_ids => changed, p_befores => befores, p_now => p_now);
    END IF;
    RETURN coalesce(recorded, '{}');
END $$;
COMMENT ON FUNCTION bigbrotr.record_checks IS
    'Records what checks came to. Arrays of one length. Verdicts: up; down; suspect (a failure that has to be '
    'confirmed); void (our fault or nobody''s: no verdict); spared (the relay wants to be left alone: no verdict); '
    'defect (our own code failed: the state stays). up, spared and defect come back after p_every_s seconds, plus or '
    'minus a tenth, and sooner after down; down after a growing delay; suspect and void after one or two minutes. '
    'p_digests: not NULL where an announcement (kind 30166) was made. A new state is noted in changes. Returns the '
    'relays that were recorded: those that no other process has claimed. Idempotent.';

-- Reads only the newest verdict of each relay.
CREATE OR REPLACE FUNCTION bigbrotr.monitoring(p_since bigint)
RETURNS TABLE (
    relays bigint, up bigint, down bigint, checked bigint, open bigint, readable bigint, writable bigint,
    open_ms double precision, newest_at bigint, undelivered bigint
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    SELECT count(*), count(*) FILTER (WHERE c.state = 'up'), count(*) FILTER (WHERE c.state = 'down'),
           count(s.checked_at), count(s.upgrade_ms), count(s.read_ms), count(s.write_ms),
           percentile_cont(0.5) WITHIN GROUP (ORDER BY s.tcp_ms + coalesce(s.tls_ms, 0) + s.upgrade_ms),
           max(c.checked_at), (SELECT count(*) FROM bigbrotr.outbox)
    FROM bigbrotr.checks c
    LEFT JOIN LATERAL (
        SELECT t.* FROM bigbrotr.rtts t
        WHERE c.checked_at >= p_since AND t.relay_id = c.relay_id AND t.checked_at = c.checked_at
        LIMIT 1  -- so that it is looked up for each relay, however the series has grown
    ) AS s ON true;
END $$;
COMMENT ON FUNCTION bigbrotr.monitoring IS
    'What the monitor knows in numbers: relays by state, and from the newest verdicts since p_since how many relays '
    'were checked, opened, answered a question and took an event, the median time to open (milliseconds), when the '
    'newest verdict was made (Unix seconds), and the entries of the outbox.';

CREATE OR REPLACE FUNCTION bigbrotr.release_checks(p_owner text, p_now bigint) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    released integer;
BEGIN
    WITH back AS (
        UPDATE bigbrotr.checks SET due_at = p_now, owner = NULL WHERE owner = p_owner RETURNING 1
    )
    SELECT count(*) INTO released FROM back;
    RETURN released;
END $$;
COMMENT ON FUNCTION bigbrotr.release_checks IS
    'Gives back all checks of an owner. A process calls it at its start. Returns how many. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.some_relays_up(p_network text, p_apart bigint[], p_limit integer) RETURNS SETOF text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    SELECT r.url FROM bigbrotr.checks c JOIN bigbrotr.relays r ON r.id = c.relay_id
    WHERE c.state = 'up' AND r.network = p_network AND c.relay_id <> ALL (p_apart)
    ORDER BY random() LIMIT p_limit;
END $$;
COMMENT ON FUNCTION bigbrotr.some_relays_up IS
    'Up to p_limit relays of a network, by chance, that were up when they were last checked, except the numbers '
    'p_apart.';

CREATE OR REPLACE FUNCTION bigbrotr.relay_uptime(
    p_relay text, p_days integer, p_now bigint DEFAULT floor(extract(epoch FROM now()))::bigint
) RETURNS TABLE (
    uptime double precision, up_s bigint, down_s bigint, unknown_s bigint, checks bigint, incidents jsonb
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    began   bigint := p_now - 86400::bigint * p_days;
    number  bigint := (SELECT r.id FROM bigbrotr.relays r WHERE r.url = p_relay);
    earlier bigint;
BEGIN
    -- An incident that reaches into the wanted time began after the last verdict 'up' before it.
    SELECT max(s.checked_at) INTO earlier FROM bigbrotr.rtts s
    WHERE s.relay_id = number AND s.outcome IS NULL AND s.checked_at <= began;

    RETURN QUERY
    WITH verdicts AS (
        SELECT s.checked_at AS at, s.outcome AS reason, s.outcome IS NULL AS is_up,
               least(lead(s.checked_at) OVER later, s.checked_at + s.holds_s, p_now) AS until,
               lag(s.outcome IS NULL) OVER later AS was_up
        FROM bigbrotr.rtts s
        WHERE s.relay_id = number AND s.checked_at < p_now AND (earlier IS NULL OR s.checked_at >= earlier)
        WINDOW later AS (ORDER BY s.checked_at)
    ), parts AS (
        SELECT v.is_up, v.at >= began AS is_within, greatest(0, v.until - greatest(v.at, began)) AS seconds
        FROM verdicts v
    ), changes AS (  -- the first verdict of each run of equal ones
        SELECT v.at, v.is_up, v.reason, lead(v.at) OVER (ORDER BY v.at) AS next_at
        FROM verdicts v WHERE v.was_up IS DISTINCT FROM v.is_up
    ), sums AS (
        SELECT coalesce(sum(p.seconds) FILTER (WHERE p.is_up), 0)::bigint AS up,
               coalesce(sum(p.seconds) FILTER (WHERE NOT p.is_up), 0)::bigint AS down,
               count(*) FILTER (WHERE p.is_within) AS number
        FROM parts p
    )
    SELECT s.up::double precision / nullif(s.up + s.down, 0), s.up, s.down, p_now - began - s.up - s.down, s.number,
           (SELECT coalesce(jsonb_agg(
                jsonb_build_object('since', c.at, 'until', c.next_at, 'reason', c.reason) ORDER BY c.at), '[]')
            FROM changes c WHERE NOT c.is_up AND (c.next_at IS NULL OR c.next_at > began))
    FROM sums s;
END $$;
COMMENT ON FUNCTION bigbrotr.relay_uptime IS
    'How much of the last p_days days a relay was up. A verdict counts until the next one or until it no longer '
    'holds; the time between is unknown. uptime: the share of the known time in which it was up (0 to 1); NULL if '
    'nothing is known. incidents: from a first verdict down to the next up (until: null if it goes on), oldest first, '
    'times in Unix seconds.';

-- Some large documents differ each time: a hundred of a relay and type are kept of those of more than 4 kB.
CREATE OR REPLACE FUNCTION bigbrotr.delete_old_measurements(p_before bigint) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    gone bigint;
BEGIN
    WITH old_snapshots AS (
        DELETE FROM bigbrotr.snapshots s
        WHERE s.snapshot_at < p_before
          AND NOT EXISTS (SELECT FROM bigbrotr.snapshots_latest l
                          WHERE l.relay_id = s.relay_id AND l.type = s.type AND l.snapshot_at = s.snapshot_at)
        RETURNING 1
    ), old_rtts AS (
        DELETE FROM bigbrotr.rtts s
        WHERE s.checked_at < p_before
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM old_snapshots) + (SELECT count(*) FROM old_rtts) INTO gone;
    WITH large AS (
        SELECT s.relay_id, s.type, s.metadata_id,
               row_number() OVER (PARTITION BY s.relay_id, s.type ORDER BY max(s.snapshot_at) DESC) AS place
        FROM bigbrotr.snapshots s JOIN bigbrotr.metadata m ON m.id = s.metadata_id
        WHERE pg_column_size(m.data) > 4096
        GROUP BY s.relay_id, s.type, s.metadata_id
    ), surplus AS (
        DELETE FROM bigbrotr.snapshots s USING large l
        WHERE l.place > 100
          AND s.relay_id = l.relay_id AND s.type = l.type AND s.metadata_id = l.metadata_id
        RETURNING 1
    )
    SELECT gone + count(*) INTO gone FROM surplus;
    RETURN gone + bigbrotr.prune_changes(p_before => p_before);
END $$;
COMMENT ON FUNCTION bigbrotr.delete_old_measurements IS
    'Deletes round-trip times, changes and snapshots from before p_before (Unix seconds), except the newest of each '
    'relay and type, and large documents beyond the newest hundred of a relay and type. Returns how many rows. '
    'Idempotent.';

CREATE TABLE IF NOT EXISTS bigbrotr.metadata_raw (
    metadata_id bytea NOT NULL PRIMARY KEY REFERENCES bigbrotr.metadata (id) ON DELETE CASCADE,
    raw         bytea NOT NULL
);
COMMENT ON TABLE bigbrotr.metadata_raw IS
    'Documents as they came, byte for byte, where the bytes say more than the JSON: the first that came.';
COMMENT ON COLUMN bigbrotr.metadata_raw.metadata_id IS 'Id of the document in metadata.';
COMMENT ON COLUMN bigbrotr.metadata_raw.raw IS 'The bytes.';

CREATE OR REPLACE FUNCTION bigbrotr.insert_raw_metadata(p_ids bytea[], p_raws bytea[]) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    added integer;
BEGIN
    WITH new_raws AS (
        INSERT INTO bigbrotr.metadata_raw (metadata_id, raw)
        SELECT DISTINCT ON (u.id) u.id, u.raw FROM unnest(p_ids, p_raws) AS u (id, raw)
        WHERE EXISTS (SELECT FROM bigbrotr.metadata m WHERE m.id = u.id)
        ORDER BY u.id
        ON CONFLICT (metadata_id) DO NOTHING
        RETURNING 1
    )
    SELECT count(*) INTO added FROM new_raws;
    RETURN added;
END $$;
COMMENT ON FUNCTION bigbrotr.insert_raw_metadata IS
    'Keeps the bytes of documents. Those without metadata are left out. Returns how many are new. Idempotent.';
