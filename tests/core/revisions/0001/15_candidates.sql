-- Candidates: URLs that may be relays, waiting for their next try.

CREATE TABLE IF NOT EXISTS public.candidates (
    url           text    NOT NULL PRIMARY KEY,
    network       text    NOT NULL CHECK (network IN ('clearnet', 'tor', 'i2p', 'loki', 'local')),
    source        text    NOT NULL,              -- where it was first seen: 'seed', 'command', …
    discovered_at bigint  NOT NULL,
    due_at        bigint  NOT NULL,              -- the next try; a claim moves it by its lease
    attempts      integer NOT NULL DEFAULT 0,    -- failures in a row
    owner         text,                          -- who holds the lease
    tried_at      bigint,
    outcome       text,                          -- of the last try, as the validator names it
    detail        text
);
CREATE INDEX IF NOT EXISTS candidates_due_at_idx ON public.candidates (due_at);

-- Adds candidates, due at once; known ones keep their history, relays are left out. Returns how many were new.
-- Idempotent.
CREATE OR REPLACE FUNCTION public.insert_candidates(p_urls text[], p_networks text[], p_source text, p_now bigint)
RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    added integer;
BEGIN
    WITH new_candidates AS (
        INSERT INTO public.candidates (url, network, source, discovered_at, due_at)
        SELECT DISTINCT ON (u.url) u.url, u.network, p_source, p_now, p_now
        FROM unnest(p_urls, p_networks) AS u (url, network)
        WHERE NOT EXISTS (SELECT FROM public.relays r WHERE r.url = u.url)
        ORDER BY u.url
        ON CONFLICT (url) DO NOTHING
        RETURNING 1
    )
    SELECT count(*) INTO added FROM new_candidates;
    RETURN added;
END $$;

-- Claims candidates that are due: nobody else gets them within the lease, and without a verdict they come back.
CREATE OR REPLACE FUNCTION public.claim_candidates(
    p_networks text[], p_limit integer, p_max_attempts integer, p_owner text, p_lease_s bigint, p_now bigint
) RETURNS TABLE (url text, attempts integer)
LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY
    WITH due AS (
        SELECT c.url FROM public.candidates c
        WHERE c.due_at <= p_now AND c.network = ANY (p_networks) AND c.attempts < p_max_attempts
        ORDER BY c.due_at, c.url
        LIMIT p_limit
        FOR UPDATE SKIP LOCKED
    )
    UPDATE public.candidates c SET due_at = p_now + p_lease_s, owner = p_owner
    FROM due WHERE c.url = due.url
    RETURNING c.url, c.attempts;
END $$;

-- Records what a try of each candidate came to. 'relay': it becomes a relay. 'failed': one more attempt, and a longer
-- wait. 'postponed': nobody's fault but ours, it waits a minute. Returns how many became new relays. Idempotent.
CREATE OR REPLACE FUNCTION public.resolve_candidates(
    p_urls text[], p_verdicts text[], p_outcomes text[], p_details text[], p_now bigint
) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    promoted text[];
    networks text[];
BEGIN
    UPDATE public.candidates c SET
        attempts = c.attempts + (u.verdict = 'failed')::integer,
        due_at   = p_now + CASE WHEN u.verdict = 'failed' THEN public.backoff_s(c.attempts + 1) ELSE 60 END,
        owner    = NULL,
        tried_at = p_now,
        outcome  = u.outcome,
        detail   = u.detail
    FROM unnest(p_urls, p_verdicts, p_outcomes, p_details) AS u (url, verdict, outcome, detail)
    WHERE c.url = u.url AND u.verdict IN ('failed', 'postponed');

    SELECT array_agg(c.url), array_agg(c.network) INTO promoted, networks
    FROM public.candidates c
    JOIN unnest(p_urls, p_verdicts) AS u (url, verdict) ON c.url = u.url
    WHERE u.verdict = 'relay';
    IF promoted IS NULL THEN
        RETURN 0;
    END IF;
    RETURN public.insert_relays(promoted, networks, array_fill(p_now, ARRAY[cardinality(promoted)]));
END $$;

-- Deletes the candidates that failed `p_max_attempts` times or more. Returns how many. Idempotent.
CREATE OR REPLACE FUNCTION public.delete_failed_candidates(p_max_attempts integer) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    gone integer;
BEGIN
    WITH deleted AS (
        DELETE FROM public.candidates WHERE attempts >= p_max_attempts RETURNING 1
    )
    SELECT count(*) INTO gone FROM deleted;
    RETURN gone;
END $$;
