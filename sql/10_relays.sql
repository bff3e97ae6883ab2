-- Relays: servers that speak Nostr. Inside they are small numbers, outside they are URLs.

CREATE TABLE IF NOT EXISTS bigbrotr.relays (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY
                  CHECK (id <= 2147483647),
    url           text   NOT NULL UNIQUE,
    network       text   NOT NULL CHECK (network IN ('clearnet', 'tor', 'i2p', 'loki', 'local')),
    discovered_at bigint NOT NULL
);
COMMENT ON TABLE bigbrotr.relays IS 'Servers that have answered in the Nostr protocol.';
COMMENT ON COLUMN bigbrotr.relays.id IS 'Number of the relay. A deleted relay''s number is never used again.';
COMMENT ON COLUMN bigbrotr.relays.url IS 'URL in its normal form, e.g. wss://relay.example.com.';
COMMENT ON COLUMN bigbrotr.relays.network IS 'Network of the relay: clearnet, tor, i2p, loki or local.';
COMMENT ON COLUMN bigbrotr.relays.discovered_at IS 'When the relay was first heard of, in Unix seconds.';

CREATE OR REPLACE FUNCTION bigbrotr.host_of(p_url text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN substring(p_url FROM '^wss?://(\[[^]]*\]|[^/:]*)');
COMMENT ON FUNCTION bigbrotr.host_of IS 'Host of a relay URL in its normal form. IPv6 addresses stand in brackets.';

CREATE OR REPLACE FUNCTION bigbrotr.insert_relays(p_urls text[], p_networks text[], p_discovered_ats bigint[])
RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    added integer;
BEGIN
    -- The anti-join comes before ON CONFLICT: otherwise each repetition would use up a number of the identity.
    WITH wanted AS (
        SELECT DISTINCT ON (u.url) u.url, u.network, u.discovered_at
        FROM unnest(p_urls, p_networks, p_discovered_ats) AS u (url, network, discovered_at)
        WHERE NOT EXISTS (SELECT FROM bigbrotr.relays r WHERE r.url = u.url)
        ORDER BY u.url, u.discovered_at
    ), new_relays AS (
        INSERT INTO bigbrotr.relays (url, network, discovered_at)
        SELECT url, network, discovered_at FROM wanted
        ON CONFLICT (url) DO NOTHING
        RETURNING id, discovered_at
    ), scheduled AS (
        INSERT INTO bigbrotr.visits (relay_id, due_at)
        -- The relay that was discovered first comes first. A discovery in the future counts as now.
        SELECT id, least(discovered_at, floor(extract(epoch FROM now()))::bigint) FROM new_relays
        ON CONFLICT (relay_id) DO NOTHING
    ), tallied AS (
        INSERT INTO bigbrotr.tallies (relay_id)
        SELECT id FROM new_relays
        ON CONFLICT (relay_id) DO NOTHING
    )
    SELECT count(*) INTO added FROM new_relays;

    DELETE FROM bigbrotr.candidates c
    WHERE c.url = ANY (p_urls) AND NOT EXISTS (
        SELECT FROM bigbrotr.relays r JOIN bigbrotr.visits v ON v.relay_id = r.id
        WHERE r.url = c.url AND v.retired_at IS NOT NULL);
    RETURN added;
END $$;
COMMENT ON FUNCTION bigbrotr.insert_relays IS
    'Adds relays; known URLs stay as they are. Arrays of one length. A new relay is due for its first visit at once '
    'and is no longer a candidate. A retired relay stays a candidate. Returns how many are new. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.delete_orphan_relays() RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    leavers bigint[] := ARRAY(SELECT DISTINCT d.relay_id FROM bigbrotr.dropped d);
    gone    integer;
BEGIN
    WITH deleted AS (
        DELETE FROM bigbrotr.relays r
        WHERE NOT EXISTS (SELECT FROM bigbrotr.tallies t WHERE t.relay_id = r.id AND t.pairs > 0)
          AND r.id <> ALL (leavers)
          AND NOT EXISTS (SELECT FROM bigbrotr.snapshots s WHERE s.relay_id = r.id)
        RETURNING 1
    )
    SELECT count(*) INTO gone FROM deleted;
    RETURN gone;
END $$;
COMMENT ON FUNCTION bigbrotr.delete_orphan_relays IS
    'Deletes the relays of which nothing is known: no archived event, now or earlier, and no snapshot. Returns how '
    'many. Idempotent.';
