-- Candidates: URLs that may be relays, waiting for their next try.

CREATE TABLE IF NOT EXISTS public.candidates (
    url           text    NOT NULL PRIMARY KEY,
    network       text    NOT NULL CHECK (network IN ('clearnet', 'tor', 'i2p', 'loki', 'local')),
    source        text    NOT NULL,              -- where it was first seen: 'seed', 'kind 10002', 'api NAME', …
    discovered_at bigint  NOT NULL,
    due_at        bigint  NOT NULL,              -- the next try; a claim moves it by its lease
    attempts      integer NOT NULL DEFAULT 0,    -- failures in a row
    owner         text,                          -- who holds the lease
    tried_at      bigint,
    outcome       text,                          -- of the last try, as the validator names it
    detail        text,
    named         integer NOT NULL DEFAULT 1,    -- in how many events, and by what else: more names, sooner tried
    -- Answers like this relay, another path on the same host: no relay of its own, and looked at again after long.
    alias_of      bigint  REFERENCES public.relays (id) ON DELETE SET NULL
);
CREATE INDEX IF NOT EXISTS candidates_due_at_idx ON public.candidates (due_at);
CREATE INDEX IF NOT EXISTS candidates_host_idx ON public.candidates (public.host_of(url));

-- Tombstones: URLs that were tried in vain and given up. Until one expires, only a person makes it a candidate again.
CREATE TABLE IF NOT EXISTS public.tombstones (
    url        text   NOT NULL PRIMARY KEY,
    buried_at  bigint NOT NULL,
    expires_at bigint NOT NULL,
    outcome    text              -- of the last try
);
CREATE INDEX IF NOT EXISTS tombstones_expires_at_idx ON public.tombstones (expires_at);
CREATE INDEX IF NOT EXISTS tombstones_host_idx ON public.tombstones (public.host_of(url));

-- Adds candidates, due at once; known ones keep their history and add their names; relays and the buried are left out.
-- Arrays of one length, in order of arrival: a URL that comes twice has its first source. `p_times`: how often each was
-- named just now; 0, by whoever repeats itself (a list, a monitor), makes a candidate as well. `p_is_typed`: a person
-- insists, so that a tombstone is no obstacle. Returns how many were new. Idempotent, but for the names.
-- Of one host there are at most p_max_per_host addresses (NULL: any number) with a path or a port of their own that are
-- relays or may become one; the host itself always finds its place. What has failed five times (after half an hour), is
-- an alias, was given up or rests has shown what it is, and keeps no place from others; nor does what only events name,
-- which anybody can write, from what is listed. Of what has failed or is an alias, no more than four times as many are
-- kept, those that failed least first: the others are forgotten.
CREATE OR REPLACE FUNCTION public.insert_candidates(
    p_urls text[], p_networks text[], p_sources text[], p_times integer[], p_max_per_host integer, p_is_typed boolean,
    p_now bigint
) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    added integer;
BEGIN
    -- One at a time: a host's addresses are counted and added in one step.
    PERFORM pg_advisory_xact_lock(108239071110724);
    IF p_is_typed THEN
        DELETE FROM public.tombstones WHERE url = ANY (p_urls);
    END IF;

    WITH again AS (
        SELECT u.url, sum(u.times) AS times FROM unnest(p_urls, p_times) AS u (url, times) GROUP BY u.url
    ), locked AS (
        SELECT c.url, a.times FROM public.candidates c JOIN again a ON a.url = c.url AND a.times > 0
        ORDER BY c.url FOR UPDATE OF c
    )
    UPDATE public.candidates c SET named = least(2147483647, c.named + l.times) FROM locked l WHERE c.url = l.url;

    WITH unknown AS (
        SELECT u.url, public.host_of(u.url) AS host, (array_agg(u.network))[1] AS network,
               (array_agg(u.source ORDER BY u.position))[1] AS source, greatest(1, sum(u.times)) AS times
        FROM unnest(p_urls, p_networks, p_sources, p_times) WITH ORDINALITY AS u (url, network, source, times, position)
        WHERE NOT EXISTS (SELECT FROM public.candidates c WHERE c.url = u.url)
          AND NOT EXISTS (SELECT FROM public.relays r WHERE r.url = u.url)
          AND NOT EXISTS (SELECT FROM public.tombstones t WHERE t.url = u.url AND t.expires_at > p_now)
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
            FROM hosts h JOIN public.candidates c ON public.host_of(c.url) = h.host
            WHERE c.attempts < 5 AND c.alias_of IS NULL AND c.source <> 'retired'
            UNION ALL
            SELECT h.host, r.url, true
            FROM hosts h JOIN public.relays r ON public.host_of(r.url) = h.host
            JOIN public.visits v ON v.relay_id = r.id AND v.rests_since IS NULL
        ) AS k
        WHERE k.url NOT IN ('ws://' || k.host, 'wss://' || k.host)
        GROUP BY k.host
    ), new_candidates AS (
        INSERT INTO public.candidates (url, network, source, discovered_at, due_at, named)
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
            PARTITION BY public.host_of(c.url) ORDER BY c.attempts, c.named DESC, c.tried_at DESC, c.url) AS place
        FROM (SELECT DISTINCT public.host_of(n.url) AS host FROM new_candidates n) AS h
        JOIN public.candidates c ON public.host_of(c.url) = h.host
        WHERE (c.attempts >= 5 OR c.alias_of IS NOT NULL) AND c.owner IS NULL AND c.source LIKE 'kind %'
          AND c.url NOT IN ('ws://' || h.host, 'wss://' || h.host)
    ), forgotten AS (
        DELETE FROM public.candidates c USING spent s WHERE c.url = s.url AND s.place > 4 * p_max_per_host
    )
    SELECT count(*) INTO added FROM new_candidates;
    RETURN added;
END $$;

-- Claims candidates that are due: nobody else gets them within the lease, and without a verdict they come back. Relays
-- that rest have no last attempt.
CREATE OR REPLACE FUNCTION public.claim_candidates(
    p_networks text[], p_limit integer, p_max_attempts integer, p_owner text, p_lease_s bigint, p_now bigint
) RETURNS TABLE (url text, attempts integer)
LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY
    WITH due AS (
        SELECT c.url FROM public.candidates c
        WHERE c.due_at <= p_now AND c.network = ANY (p_networks)
          AND (c.attempts < p_max_attempts OR c.source = 'retired')
        ORDER BY c.named DESC, c.due_at, c.url
        LIMIT p_limit
        FOR UPDATE SKIP LOCKED
    )
    UPDATE public.candidates c SET due_at = p_now + p_lease_s, owner = p_owner
    FROM due WHERE c.url = due.url
    RETURNING c.url, c.attempts;
END $$;

-- Records what a try of each candidate came to. 'relay': it becomes a relay, or is one again if it rested. 'failed': one
-- more attempt, and a longer wait. 'postponed': nobody's fault but ours, it waits a minute. 'alias': it answers like the
-- relay in p_targets. Whatever it is, it is left alone for p_waits seconds at least. Returns how many became relays.
-- Idempotent.
CREATE OR REPLACE FUNCTION public.resolve_candidates(
    p_urls text[], p_verdicts text[], p_outcomes text[], p_details text[], p_waits bigint[], p_targets text[], p_now bigint
) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    promoted text[];
    networks text[];
    became integer := 0;
BEGIN
    SELECT array_agg(c.url), array_agg(c.network) INTO promoted, networks
    FROM public.candidates c
    JOIN unnest(p_urls, p_verdicts) AS u (url, verdict) ON c.url = u.url
    WHERE u.verdict = 'relay';
    IF promoted IS NOT NULL THEN
        WITH woken AS (
            UPDATE public.visits v SET rests_since = NULL, failing_since = NULL, failures = 0, due_at = p_now
            FROM public.relays r
            WHERE v.relay_id = r.id AND r.url = ANY (promoted) AND v.rests_since IS NOT NULL
            RETURNING 1
        )
        SELECT count(*) INTO became FROM woken;
        became := became
            + public.insert_relays(promoted, networks, array_fill(p_now, ARRAY[cardinality(promoted)]));
        UPDATE public.visits v SET due_at = p_now + u.wait
        FROM unnest(p_urls, p_waits) AS u (url, wait)
        JOIN public.relays r ON r.url = u.url
        WHERE u.wait > 0 AND u.url = ANY (promoted) AND v.relay_id = r.id AND v.due_at < p_now + u.wait;
    END IF;

    UPDATE public.candidates c SET
        attempts = CASE u.verdict WHEN 'failed' THEN c.attempts + 1 WHEN 'alias' THEN 0 ELSE c.attempts END,
        due_at   = p_now + greatest(
            u.wait, CASE WHEN u.verdict = 'failed' THEN public.backoff_s(c.attempts + 1) ELSE 60 END),
        owner    = NULL,
        tried_at = p_now,
        outcome  = left(u.outcome, 100),
        detail   = left(u.detail, 500),
        alias_of = CASE
            WHEN u.verdict = 'alias' THEN (SELECT r.id FROM public.relays r WHERE r.url = u.target)
            ELSE c.alias_of END
    FROM unnest(p_urls, p_verdicts, p_outcomes, p_details, p_waits, p_targets)
        AS u (url, verdict, outcome, detail, wait, target)
    WHERE c.url = u.url AND u.verdict IN ('failed', 'postponed', 'alias');
    RETURN became;
END $$;

-- Gives up the candidates that failed `p_max_attempts` times or more, but for relays that rest: of each a tombstone is
-- left for p_tombstone_s seconds. Those that have expired go. Returns how many candidates were given up. Idempotent.
CREATE OR REPLACE FUNCTION public.delete_failed_candidates(
    p_max_attempts integer, p_tombstone_s bigint, p_now bigint
) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    gone integer;
BEGIN
    DELETE FROM public.tombstones WHERE expires_at <= p_now;
    WITH deleted AS (
        DELETE FROM public.candidates WHERE attempts >= p_max_attempts AND source <> 'retired'
        RETURNING url, outcome
    ), buried AS (
        INSERT INTO public.tombstones AS t (url, buried_at, expires_at, outcome)
        SELECT url, p_now, p_now + p_tombstone_s, outcome FROM deleted
        ON CONFLICT (url) DO UPDATE SET
            buried_at = EXCLUDED.buried_at, expires_at = EXCLUDED.expires_at, outcome = EXCLUDED.outcome
    )
    SELECT count(*) INTO gone FROM deleted;
    RETURN gone;
END $$;
