-- Candidates: URLs that may be relays and wait for their next try, and those that were given up.

CREATE TABLE IF NOT EXISTS bigbrotr.candidates (
    url           text    NOT NULL PRIMARY KEY,
    network       text    NOT NULL CHECK (network IN ('clearnet', 'tor', 'i2p', 'loki', 'local')),
    source        text    NOT NULL,
    discovered_at bigint  NOT NULL,
    due_at        bigint  NOT NULL,
    attempts      integer NOT NULL DEFAULT 0,
    owner         text,
    tried_at      bigint,
    outcome       text,
    detail        text,
    named         integer NOT NULL DEFAULT 1,
    alias_of      bigint  REFERENCES bigbrotr.relays (id) ON DELETE SET NULL
);
COMMENT ON TABLE bigbrotr.candidates IS
    'URLs that may be relays and wait for their next try. A retired relay is a candidate, too.';
COMMENT ON COLUMN bigbrotr.candidates.url IS 'URL in its normal form.';
COMMENT ON COLUMN bigbrotr.candidates.network IS 'Network of the URL: clearnet, tor, i2p, loki or local.';
COMMENT ON COLUMN bigbrotr.candidates.source IS
    'Where the URL was first seen: seed, command, kind 10002, api NAME, …; retired for a relay whose visits failed '
    'for long.';
COMMENT ON COLUMN bigbrotr.candidates.discovered_at IS 'When the URL was first seen, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.candidates.due_at IS
    'When to try it next, in Unix seconds. A claim moves it by the length of the lease.';
COMMENT ON COLUMN bigbrotr.candidates.attempts IS 'Failed tries in a row.';
COMMENT ON COLUMN bigbrotr.candidates.owner IS 'Process that holds the lease; NULL if nobody does.';
COMMENT ON COLUMN bigbrotr.candidates.tried_at IS 'When it was last tried, in Unix seconds; NULL if never.';
COMMENT ON COLUMN bigbrotr.candidates.outcome IS
    'Result of the last try in one word, e.g. timeout or not-nostr; NULL if it was never tried.';
COMMENT ON COLUMN bigbrotr.candidates.detail IS 'Result of the last try in words.';
COMMENT ON COLUMN bigbrotr.candidates.named IS
    'How often events and lists have named it. Those named most often are tried first.';
COMMENT ON COLUMN bigbrotr.candidates.alias_of IS
    'Relay whose answers it repeats under another path of the same host; NULL if it is no alias.';
CREATE INDEX IF NOT EXISTS candidates_due_at_idx ON bigbrotr.candidates (due_at);
CREATE INDEX IF NOT EXISTS candidates_host_idx ON bigbrotr.candidates (bigbrotr.host_of(url));

CREATE TABLE IF NOT EXISTS bigbrotr.tombstones (
    url        text   NOT NULL PRIMARY KEY,
    buried_at  bigint NOT NULL,
    expires_at bigint NOT NULL,
    outcome    text
);
COMMENT ON TABLE bigbrotr.tombstones IS
    'URLs that were tried in vain and given up. Until a tombstone expires, only a person can make the URL a candidate '
    'again.';
COMMENT ON COLUMN bigbrotr.tombstones.url IS 'URL in its normal form.';
COMMENT ON COLUMN bigbrotr.tombstones.buried_at IS 'When the candidate was given up, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.tombstones.expires_at IS 'When the tombstone expires, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.tombstones.outcome IS 'Result of the last try in one word.';
CREATE INDEX IF NOT EXISTS tombstones_expires_at_idx ON bigbrotr.tombstones (expires_at);
CREATE INDEX IF NOT EXISTS tombstones_host_idx ON bigbrotr.tombstones (bigbrotr.host_of(url));

-- Of one host there are at most p_max_per_host addresses with a path or a port of their own that are relays or may
-- become one. The host itself always finds its place. These keep no place from others, since they have shown what they
-- are: what has failed five times (after half an hour), an alias, what was given up, a retired relay. Nor does what only
-- events name, which anybody can write, keep a place from what is listed. Of what has failed or is an alias at most four
-- times as many are kept, those that failed least first; the others are forgotten.
CREATE OR REPLACE FUNCTION bigbrotr.insert_candidates(
    p_urls text[], p_networks text[], p_sources text[], p_times integer[], p_max_per_host integer, p_is_typed boolean,
    p_now bigint
) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    added integer;
BEGIN
    -- One at a time: a host's addresses are counted and added in one step.
    LOCK TABLE bigbrotr.candidates_lock IN EXCLUSIVE MODE;
    IF p_is_typed THEN
        DELETE FROM bigbrotr.tombstones WHERE url = ANY (p_urls);
    END IF;

    WITH again AS (
        SELECT u.url, sum(u.times) AS times FROM unnest(p_urls, p_times) AS u (url, times) GROUP BY u.url
    ), locked AS (
        SELECT c.url, a.times FROM bigbrotr.candidates c JOIN again a ON a.url = c.url AND a.times > 0
        ORDER BY c.url FOR UPDATE OF c
    )
    UPDATE bigbrotr.candidates c SET named = least(2147483647, c.named + l.times) FROM locked l WHERE c.url = l.url;

    WITH unknown AS (
        SELECT u.url, bigbrotr.host_of(u.url) AS host, (array_agg(u.network))[1] AS network,
               (array_agg(u.source ORDER BY u.position))[1] AS source, greatest(1, sum(u.times)) AS times
        FROM unnest(p_urls, p_networks, p_sources, p_times) WITH ORDINALITY AS u (url, network, source, times, position)
        WHERE NOT EXISTS (SELECT FROM bigbrotr.candidates c WHERE c.url = u.url)
          AND NOT EXISTS (SELECT FROM bigbrotr.relays r WHERE r.url = u.url)
          AND NOT EXISTS (SELECT FROM bigbrotr.tombstones t WHERE t.url = u.url AND t.expires_at > p_now)
        GROUP BY u.url
    ), special AS (  -- addresses with a path or a port, the most often named first
        SELECT u.url, u.host, u.source NOT LIKE 'kind %' AS is_listed,
               row_number() OVER (PARTITION BY u.host, u.source LIKE 'kind %' ORDER BY u.times DESC, u.url) AS place
        FROM unknown u
        WHERE p_max_per_host IS NOT NULL AND u.url NOT IN ('ws://' || u.host, 'wss://' || u.host)
    ), hosts AS (
        SELECT DISTINCT s.host FROM special s
    ), taken AS (
        SELECT k.host, count(*) AS places, count(*) FILTER (WHERE k.is_listed) AS listed
        FROM (
            SELECT h.host, c.url, c.source NOT LIKE 'kind %' AS is_listed
            FROM hosts h JOIN bigbrotr.candidates c ON bigbrotr.host_of(c.url) = h.host
            WHERE c.attempts < 5 AND c.alias_of IS NULL AND c.source <> 'retired'
            UNION ALL
            SELECT h.host, r.url, true
            FROM hosts h JOIN bigbrotr.relays r ON bigbrotr.host_of(r.url) = h.host
            JOIN bigbrotr.visits v ON v.relay_id = r.id AND v.retired_at IS NULL
        ) AS k
        WHERE k.url NOT IN ('ws://' || k.host, 'wss://' || k.host)
        GROUP BY k.host
    ), new_candidates AS (
        INSERT INTO bigbrotr.candidates (url, network, source, discovered_at, due_at, named)
        SELECT u.url, u.network, u.source, p_now, p_now, least(2147483647, u.times)
        FROM unknown u
        WHERE NOT EXISTS (
            SELECT FROM special s LEFT JOIN taken t ON t.host = s.host
            WHERE s.url = u.url
              AND s.place + coalesce(CASE WHEN s.is_listed THEN t.listed ELSE t.places END, 0) > p_max_per_host
        )
        ORDER BY u.url
        ON CONFLICT (url) DO NOTHING
        RETURNING url
    ), spent AS (  -- on hosts where there is something new
        SELECT c.url, row_number() OVER (
            PARTITION BY bigbrotr.host_of(c.url) ORDER BY c.attempts, c.named DESC, c.tried_at DESC, c.url) AS place
        FROM (SELECT DISTINCT bigbrotr.host_of(n.url) AS host FROM new_candidates n) AS h
        JOIN bigbrotr.candidates c ON bigbrotr.host_of(c.url) = h.host
        WHERE (c.attempts >= 5 OR c.alias_of IS NOT NULL) AND c.owner IS NULL AND c.source LIKE 'kind %'
          AND c.url NOT IN ('ws://' || h.host, 'wss://' || h.host)
    ), forgotten AS (
        DELETE FROM bigbrotr.candidates c USING spent s WHERE c.url = s.url AND s.place > 4 * p_max_per_host
    )
    SELECT count(*) INTO added FROM new_candidates;
    RETURN added;
END $$;
COMMENT ON FUNCTION bigbrotr.insert_candidates IS
    'Adds candidates that are due at once. Known ones keep their history and add up how often they were named. Relays '
    'and tombstones are left out. Arrays of one length in order of arrival; the first source of a URL counts. '
    'p_times: how often each was named just now; 0 for sources that repeat themselves, which still makes an unknown '
    'URL a candidate. p_max_per_host: most addresses of one host with a path or a port of their own; NULL for any '
    'number. p_is_typed: a person has typed them, so tombstones are removed. Returns how many are new.';

-- p_max_attempts does not count for retired relays.
CREATE OR REPLACE FUNCTION bigbrotr.claim_candidates(
    p_networks text[], p_limit integer, p_max_attempts integer, p_owner text, p_lease_s bigint, p_now bigint
) RETURNS TABLE (url text, attempts integer)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    WITH due AS (
        SELECT c.url FROM bigbrotr.candidates c
        WHERE c.due_at <= p_now AND c.network = ANY (p_networks)
          AND (c.attempts < p_max_attempts OR c.source = 'retired')
        ORDER BY c.named DESC, c.due_at, c.url
        LIMIT p_limit
        FOR UPDATE SKIP LOCKED
    )
    UPDATE bigbrotr.candidates c SET due_at = p_now + p_lease_s, owner = p_owner
    FROM due WHERE c.url = due.url
    RETURNING c.url, c.attempts;
END $$;
COMMENT ON FUNCTION bigbrotr.claim_candidates IS
    'Claims up to p_limit candidates that are due, those named most often first. Nobody else gets them for p_lease_s '
    'seconds; then they are due again.';

CREATE OR REPLACE FUNCTION bigbrotr.resolve_candidates(
    p_urls text[], p_verdicts text[], p_outcomes text[], p_details text[], p_waits bigint[], p_targets text[], p_now bigint
) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    promoted text[];
    networks text[];
    became integer := 0;
BEGIN
    SELECT array_agg(c.url), array_agg(c.network) INTO promoted, networks
    FROM bigbrotr.candidates c
    JOIN unnest(p_urls, p_verdicts) AS u (url, verdict) ON c.url = u.url
    WHERE u.verdict = 'relay';
    IF promoted IS NOT NULL THEN
        WITH woken AS (
            UPDATE bigbrotr.visits v SET retired_at = NULL, failing_since = NULL, failures = 0, due_at = p_now
            FROM bigbrotr.relays r
            WHERE v.relay_id = r.id AND r.url = ANY (promoted) AND v.retired_at IS NOT NULL
            RETURNING 1
        )
        SELECT count(*) INTO became FROM woken;
        became := became + bigbrotr.insert_relays(
            p_urls => promoted, p_networks => networks,
            p_discovered_ats => array_fill(p_now, ARRAY[cardinality(promoted)]));
        UPDATE bigbrotr.visits v SET due_at = p_now + u.wait
        FROM unnest(p_urls, p_waits) AS u (url, wait)
        JOIN bigbrotr.relays r ON r.url = u.url
        WHERE u.wait > 0 AND u.url = ANY (promoted) AND v.relay_id = r.id AND v.due_at < p_now + u.wait;
    END IF;

    UPDATE bigbrotr.candidates c SET
        attempts = CASE u.verdict WHEN 'failed' THEN c.attempts + 1 WHEN 'alias' THEN 0 ELSE c.attempts END,
        due_at   = p_now + greatest(
            u.wait, CASE WHEN u.verdict = 'failed' THEN bigbrotr.backoff_s(c.attempts + 1) ELSE 60 END),
        owner    = NULL,
        tried_at = p_now,
        outcome  = left(u.outcome, 100),
        detail   = left(u.detail, 500),
        alias_of = CASE
            WHEN u.verdict = 'alias' THEN (SELECT r.id FROM bigbrotr.relays r WHERE r.url = u.target)
            ELSE c.alias_of END
    FROM unnest(p_urls, p_verdicts, p_outcomes, p_details, p_waits, p_targets)
        AS u (url, verdict, outcome, detail, wait, target)
    WHERE c.url = u.url AND u.verdict IN ('failed', 'postponed', 'alias');
    RETURN became;
END $$;
COMMENT ON FUNCTION bigbrotr.resolve_candidates IS
    'Records what came of trying candidates. Arrays of one length. Verdicts: relay (it becomes a relay, or is one '
    'again if it was retired), failed (one more attempt and a longer wait), postponed (our fault or nobody''s: it '
    'waits a minute), alias (it answers like the relay in p_targets). p_waits: seconds to leave it alone at least. '
    'Returns how many became relays. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.delete_failed_candidates(
    p_max_attempts integer, p_tombstone_s bigint, p_now bigint
) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    gone integer;
BEGIN
    DELETE FROM bigbrotr.tombstones WHERE expires_at <= p_now;
    WITH deleted AS (
        DELETE FROM bigbrotr.candidates WHERE attempts >= p_max_attempts AND source <> 'retired'
        RETURNING url, outcome
    ), buried AS (
        INSERT INTO bigbrotr.tombstones AS t (url, buried_at, expires_at, outcome)
        SELECT url, p_now, p_now + p_tombstone_s, outcome FROM deleted
        ON CONFLICT (url) DO UPDATE SET
            buried_at = EXCLUDED.buried_at, expires_at = EXCLUDED.expires_at, outcome = EXCLUDED.outcome
    )
    SELECT count(*) INTO gone FROM deleted;
    RETURN gone;
END $$;
COMMENT ON FUNCTION bigbrotr.delete_failed_candidates IS
    'Gives up the candidates that failed p_max_attempts times or more, except retired relays. Leaves a tombstone for '
    'p_tombstone_s seconds and deletes the tombstones that have expired. Returns how many candidates were given up. '
    'Idempotent.';
