-- Metadata: what relays say of themselves and what was measured, content-addressed, as a time series of snapshots.

CREATE TABLE IF NOT EXISTS public.metadata (
    id   bytea NOT NULL PRIMARY KEY,  -- SHA-256 of the canonical JSON
    data jsonb NOT NULL
);

CREATE TABLE IF NOT EXISTS public.snapshots (
    relay_id    bigint NOT NULL REFERENCES public.relays (id) ON DELETE CASCADE,
    type        text   NOT NULL,
    snapshot_at bigint NOT NULL,
    metadata_id bytea  NOT NULL REFERENCES public.metadata (id),
    PRIMARY KEY (relay_id, type, snapshot_at)
);
CREATE INDEX IF NOT EXISTS snapshots_metadata_id_idx ON public.snapshots (metadata_id);

-- The newest snapshot per relay and type: kept current by insert_relay_metadata.
CREATE TABLE IF NOT EXISTS public.snapshots_latest (
    relay_id    bigint NOT NULL REFERENCES public.relays (id) ON DELETE CASCADE,
    type        text   NOT NULL,
    snapshot_at bigint NOT NULL,
    metadata_id bytea  NOT NULL REFERENCES public.metadata (id),
    PRIMARY KEY (relay_id, type)
);
CREATE INDEX IF NOT EXISTS snapshots_latest_metadata_id_idx ON public.snapshots_latest (metadata_id);

CREATE OR REPLACE VIEW public.relay_metadata AS
SELECT r.url AS relay_url, s.snapshot_at, s.type, s.metadata_id
FROM public.snapshots s JOIN public.relays r ON r.id = s.relay_id;

-- relay_metadata_latest, with the newest round-trip times as well, is in 45_monitoring.sql.

-- Adds snapshots and their documents. The relays must exist; an unknown one is left out.
-- Returns how many snapshots were new. Idempotent.
CREATE OR REPLACE FUNCTION public.insert_relay_metadata(
    p_urls text[], p_types text[], p_snapshot_ats bigint[], p_ids bytea[], p_datas jsonb[]
) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    added integer;
BEGIN
    INSERT INTO public.metadata (id, data)
    SELECT DISTINCT ON (u.id) u.id, u.data
    FROM unnest(p_urls, p_ids, p_datas) AS u (url, id, data)
    WHERE EXISTS (SELECT FROM public.relays r WHERE r.url = u.url)
    ORDER BY u.id
    ON CONFLICT (id) DO NOTHING;

    WITH new_snapshots AS (
        INSERT INTO public.snapshots (relay_id, type, snapshot_at, metadata_id)
        SELECT DISTINCT ON (r.id, u.type, u.snapshot_at) r.id, u.type, u.snapshot_at, u.id
        FROM unnest(p_urls, p_types, p_snapshot_ats, p_ids) AS u (url, type, snapshot_at, id)
        JOIN public.relays r ON r.url = u.url
        ORDER BY r.id, u.type, u.snapshot_at
        ON CONFLICT (relay_id, type, snapshot_at) DO NOTHING
        RETURNING relay_id, type, snapshot_at, metadata_id
    ), newest AS (
        INSERT INTO public.snapshots_latest AS l (relay_id, type, snapshot_at, metadata_id)
        SELECT DISTINCT ON (relay_id, type) relay_id, type, snapshot_at, metadata_id
        FROM new_snapshots ORDER BY relay_id, type, snapshot_at DESC
        ON CONFLICT (relay_id, type) DO UPDATE SET
            snapshot_at = EXCLUDED.snapshot_at, metadata_id = EXCLUDED.metadata_id
        WHERE l.snapshot_at < EXCLUDED.snapshot_at
    )
    SELECT count(*) INTO added FROM new_snapshots;
    RETURN added;
END $$;

-- Rebuilds the newest snapshots from the time series, for after a repair by hand. Idempotent.
CREATE OR REPLACE FUNCTION public.refresh_metadata_latest() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM public.snapshots_latest l
    WHERE NOT EXISTS (SELECT FROM public.snapshots s WHERE s.relay_id = l.relay_id AND s.type = l.type);
    INSERT INTO public.snapshots_latest (relay_id, type, snapshot_at, metadata_id)
    SELECT DISTINCT ON (relay_id, type) relay_id, type, snapshot_at, metadata_id
    FROM public.snapshots ORDER BY relay_id, type, snapshot_at DESC
    ON CONFLICT (relay_id, type) DO UPDATE SET
        snapshot_at = EXCLUDED.snapshot_at, metadata_id = EXCLUDED.metadata_id;
END $$;

-- Deletes the documents that no snapshot names. Returns how many. Idempotent.
CREATE OR REPLACE FUNCTION public.delete_orphan_metadata() RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    gone integer;
BEGIN
    WITH deleted AS (
        DELETE FROM public.metadata m
        WHERE NOT EXISTS (SELECT FROM public.snapshots s WHERE s.metadata_id = m.id)
          AND NOT EXISTS (SELECT FROM public.snapshots_latest l WHERE l.metadata_id = m.id)
        RETURNING 1
    )
    SELECT count(*) INTO gone FROM deleted;
    RETURN gone;
END $$;
