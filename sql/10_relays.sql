-- Relays: the servers that have proven to speak Nostr. Small numbers inside, URLs outside.

CREATE TABLE IF NOT EXISTS public.relays (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY
                  CHECK (id <= 2147483647),  -- presence keeps it in four bytes
    url           text   NOT NULL UNIQUE,
    network       text   NOT NULL CHECK (network IN ('clearnet', 'tor', 'i2p', 'loki', 'local')),
    discovered_at bigint NOT NULL
);

-- The host in a normalised relay URL, as it is written there: IPv6 in brackets.
CREATE OR REPLACE FUNCTION public.host_of(p_url text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN substring(p_url FROM '^wss?://(\[[^]]*\]|[^/:]*)');

-- Adds relays; known URLs stay as they are. Each new relay is due for its first visit at once. A relay is no
-- candidate, unless it rests. Returns how many were new. Idempotent.
CREATE OR REPLACE FUNCTION public.insert_relays(p_urls text[], p_networks text[], p_discovered_ats bigint[])
RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    added integer;
BEGIN
    -- The anti-join comes before ON CONFLICT so that repetitions don't burn numbers of the identity.
    WITH wanted AS (
        SELECT DISTINCT ON (u.url) u.url, u.network, u.discovered_at
        FROM unnest(p_urls, p_networks, p_discovered_ats) AS u (url, network, discovered_at)
        WHERE NOT EXISTS (SELECT FROM public.relays r WHERE r.url = u.url)
        ORDER BY u.url, u.discovered_at
    ), new_relays AS (
        INSERT INTO public.relays (url, network, discovered_at)
        SELECT url, network, discovered_at FROM wanted
        ON CONFLICT (url) DO NOTHING
        RETURNING id, discovered_at
    ), scheduled AS (
        INSERT INTO public.visits (relay_id, due_at)
        -- Who was discovered first comes first, but nobody waits for a discovery in the future.
        SELECT id, least(discovered_at, floor(extract(epoch FROM now()))::bigint) FROM new_relays
        ON CONFLICT (relay_id) DO NOTHING
    ), tallied AS (
        INSERT INTO public.tallies (relay_id)
        SELECT id FROM new_relays
        ON CONFLICT (relay_id) DO NOTHING
    )
    SELECT count(*) INTO added FROM new_relays;

    DELETE FROM public.candidates c
    WHERE c.url = ANY (p_urls) AND NOT EXISTS (
        SELECT FROM public.relays r JOIN public.visits v ON v.relay_id = r.id
        WHERE r.url = c.url AND v.rests_since IS NOT NULL);
    RETURN added;
END $$;

-- Deletes the relays that hold no archived event, never did, and have no snapshot: those of which nothing is known.
-- Returns how many. Idempotent.
CREATE OR REPLACE FUNCTION public.delete_orphan_relays() RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    leavers bigint[] := ARRAY(SELECT DISTINCT d.relay_id FROM public.dropped d);
    gone    integer;
BEGIN
    WITH deleted AS (
        DELETE FROM public.relays r
        WHERE NOT EXISTS (SELECT FROM public.tallies t WHERE t.relay_id = r.id AND t.pairs > 0)
          AND r.id <> ALL (leavers)
          AND NOT EXISTS (SELECT FROM public.snapshots s WHERE s.relay_id = r.id)
        RETURNING 1
    )
    SELECT count(*) INTO gone FROM deleted;
    RETURN gone;
END $$;
