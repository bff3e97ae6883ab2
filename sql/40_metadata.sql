-- Metadata: documents of relays, what they say of themselves and what was measured, as a time series.

CREATE TABLE IF NOT EXISTS bigbrotr.metadata (
    id   bytea NOT NULL PRIMARY KEY,
    data jsonb NOT NULL
);
COMMENT ON TABLE bigbrotr.metadata IS
    'Documents of relays: what they say of themselves and what was measured. Each document is stored once.';
COMMENT ON COLUMN bigbrotr.metadata.id IS 'SHA-256 of the canonical JSON: 32 bytes.';
COMMENT ON COLUMN bigbrotr.metadata.data IS 'The document.';

CREATE TABLE IF NOT EXISTS bigbrotr.snapshots (
    relay_id    bigint NOT NULL REFERENCES bigbrotr.relays (id) ON DELETE CASCADE,
    type        text   NOT NULL,
    snapshot_at bigint NOT NULL,
    metadata_id bytea  NOT NULL REFERENCES bigbrotr.metadata (id),
    PRIMARY KEY (relay_id, type, snapshot_at)
);
COMMENT ON TABLE bigbrotr.snapshots IS
    'Which document a relay had when: a time series. The view relay_metadata shows it by URL.';
COMMENT ON COLUMN bigbrotr.snapshots.relay_id IS 'Number of the relay.';
COMMENT ON COLUMN bigbrotr.snapshots.type IS
    'Type of the document: nip11, nip66_ssl, nip66_dns, nip66_geo, nip66_net, nip66_http, nip66_rtt or claims.';
COMMENT ON COLUMN bigbrotr.snapshots.snapshot_at IS 'When it was fetched or measured, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.snapshots.metadata_id IS 'Id of the document in metadata.';
CREATE INDEX IF NOT EXISTS snapshots_metadata_id_idx ON bigbrotr.snapshots (metadata_id);

-- Kept current by insert_relay_metadata.
CREATE TABLE IF NOT EXISTS bigbrotr.snapshots_latest (
    relay_id    bigint NOT NULL REFERENCES bigbrotr.relays (id) ON DELETE CASCADE,
    type        text   NOT NULL,
    snapshot_at bigint NOT NULL,
    metadata_id bytea  NOT NULL REFERENCES bigbrotr.metadata (id),
    PRIMARY KEY (relay_id, type)
);
COMMENT ON TABLE bigbrotr.snapshots_latest IS
    'The newest snapshot of each relay and type. The view relay_metadata_latest shows it by URL.';
COMMENT ON COLUMN bigbrotr.snapshots_latest.relay_id IS 'Number of the relay.';
COMMENT ON COLUMN bigbrotr.snapshots_latest.type IS 'Type of the document.';
COMMENT ON COLUMN bigbrotr.snapshots_latest.snapshot_at IS 'When it was fetched or measured, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.snapshots_latest.metadata_id IS 'Id of the document in metadata.';
CREATE INDEX IF NOT EXISTS snapshots_latest_metadata_id_idx ON bigbrotr.snapshots_latest (metadata_id);

CREATE OR REPLACE VIEW bigbrotr.relay_metadata AS
SELECT r.url AS relay_url, s.snapshot_at, s.type, s.metadata_id
FROM bigbrotr.snapshots s JOIN bigbrotr.relays r ON r.id = s.relay_id;
COMMENT ON VIEW bigbrotr.relay_metadata IS 'Which document a relay had when: a time series.';
COMMENT ON COLUMN bigbrotr.relay_metadata.relay_url IS 'URL of the relay.';
COMMENT ON COLUMN bigbrotr.relay_metadata.snapshot_at IS 'When the document was fetched or measured, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.relay_metadata.type IS
    'Type of the document: nip11, nip66_ssl, nip66_dns, nip66_geo, nip66_net, nip66_http, nip66_rtt or claims.';
COMMENT ON COLUMN bigbrotr.relay_metadata.metadata_id IS 'Id of the document in metadata.';

-- relay_metadata_latest, with the newest round-trip times as well, is in 45_monitoring.sql.

CREATE OR REPLACE FUNCTION bigbrotr.insert_relay_metadata(
    p_urls text[], p_types text[], p_snapshot_ats bigint[], p_ids bytea[], p_datas jsonb[]
) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    added integer;
BEGIN
    INSERT INTO bigbrotr.metadata (id, data)
    SELECT DISTINCT ON (u.id) u.id, u.data
    FROM unnest(p_urls, p_ids, p_datas) AS u (url, id, data)
    WHERE EXISTS (SELECT FROM bigbrotr.relays r WHERE r.url = u.url)
    ORDER BY u.id
    ON CONFLICT (id) DO NOTHING;

    WITH new_snapshots AS (
        INSERT INTO bigbrotr.snapshots (relay_id, type, snapshot_at, metadata_id)
        SELECT DISTINCT ON (r.id, u.type, u.snapshot_at) r.id, u.type, u.snapshot_at, u.id
        FROM unnest(p_urls, p_types, p_snapshot_ats, p_ids) AS u (url, type, snapshot_at, id)
        JOIN bigbrotr.relays r ON r.url = u.url
        ORDER BY r.id, u.type, u.snapshot_at
        ON CONFLICT (relay_id, type, snapshot_at) DO NOTHING
        RETURNING relay_id, type, snapshot_at, metadata_id
    ), newest AS (
        INSERT INTO bigbrotr.snapshots_latest AS l (relay_id, type, snapshot_at, metadata_id)
        SELECT DISTINCT ON (relay_id, type) relay_id, type, snapshot_at, metadata_id
        FROM new_snapshots ORDER BY relay_id, type, snapshot_at DESC
        ON CONFLICT (relay_id, type) DO UPDATE SET
            snapshot_at = EXCLUDED.snapshot_at, metadata_id = EXCLUDED.metadata_id
        WHERE l.snapshot_at < EXCLUDED.snapshot_at
    )
    SELECT count(*) INTO added FROM new_snapshots;
    RETURN added;
END $$;
COMMENT ON FUNCTION bigbrotr.insert_relay_metadata IS
    'Adds snapshots and their documents. Arrays of one length. Unknown relays are left out. Returns how many '
    'snapshots are new. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.refresh_metadata_latest() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM bigbrotr.snapshots_latest l
    WHERE NOT EXISTS (SELECT FROM bigbrotr.snapshots s WHERE s.relay_id = l.relay_id AND s.type = l.type);
    INSERT INTO bigbrotr.snapshots_latest (relay_id, type, snapshot_at, metadata_id)
    SELECT DISTINCT ON (relay_id, type) relay_id, type, snapshot_at, metadata_id
    FROM bigbrotr.snapshots ORDER BY relay_id, type, snapshot_at DESC
    ON CONFLICT (relay_id, type) DO UPDATE SET
        snapshot_at = EXCLUDED.snapshot_at, metadata_id = EXCLUDED.metadata_id;
END $$;
COMMENT ON FUNCTION bigbrotr.refresh_metadata_latest IS
    'Rebuilds the newest snapshots from the time series, after a repair by hand. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.delete_orphan_metadata() RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    gone integer;
BEGIN
    WITH deleted AS (
        DELETE FROM bigbrotr.metadata m
        WHERE NOT EXISTS (SELECT FROM bigbrotr.snapshots s WHERE s.metadata_id = m.id)
          AND NOT EXISTS (SELECT FROM bigbrotr.snapshots_latest l WHERE l.metadata_id = m.id)
        RETURNING 1
    )
    SELECT count(*) INTO gone FROM deleted;
    RETURN gone;
END $$;
COMMENT ON FUNCTION bigbrotr.delete_orphan_metadata IS
    'Deletes the documents that no snapshot names. Returns how many. Idempotent.';
