-- Service data: what services remember between their cycles.

CREATE TABLE IF NOT EXISTS bigbrotr.service_data (
    service_name text   NOT NULL,
    data_type    text   NOT NULL,
    data_key     text   NOT NULL,
    data         jsonb  NOT NULL,
    updated_at   bigint NOT NULL,
    PRIMARY KEY (service_name, data_type, data_key)
);
COMMENT ON TABLE bigbrotr.service_data IS 'What services remember between their cycles, by service, type and key.';
COMMENT ON COLUMN bigbrotr.service_data.service_name IS 'Name of the service.';
COMMENT ON COLUMN bigbrotr.service_data.data_type IS 'Type of the data.';
COMMENT ON COLUMN bigbrotr.service_data.data_key IS 'Key of the data.';
COMMENT ON COLUMN bigbrotr.service_data.data IS 'The data.';
COMMENT ON COLUMN bigbrotr.service_data.updated_at IS 'When it was last written, in Unix seconds.';

CREATE OR REPLACE FUNCTION bigbrotr.upsert_service_data(
    p_services text[], p_types text[], p_keys text[], p_datas jsonb[], p_now bigint
) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    written integer;
BEGIN
    WITH upserted AS (
        INSERT INTO bigbrotr.service_data (service_name, data_type, data_key, data, updated_at)
        SELECT DISTINCT ON (u.service, u.type, u.key) u.service, u.type, u.key, u.data, p_now
        FROM unnest(p_services, p_types, p_keys, p_datas)
             WITH ORDINALITY AS u (service, type, key, data, position)
        ORDER BY u.service, u.type, u.key, u.position DESC
        ON CONFLICT (service_name, data_type, data_key) DO UPDATE SET
            data = EXCLUDED.data, updated_at = EXCLUDED.updated_at
        RETURNING 1
    )
    SELECT count(*) INTO written FROM upserted;
    RETURN written;
END $$;
COMMENT ON FUNCTION bigbrotr.upsert_service_data IS
    'Writes values; the last one of a key counts. Arrays of one length. Returns how many keys were written. '
    'Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.delete_service_data(p_services text[], p_types text[], p_keys text[])
RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    gone integer;
BEGIN
    WITH deleted AS (
        DELETE FROM bigbrotr.service_data d
        USING unnest(p_services, p_types, p_keys) AS u (service, type, key)
        WHERE d.service_name = u.service AND d.data_type = u.type AND d.data_key = u.key
        RETURNING 1
    )
    SELECT count(*) INTO gone FROM deleted;
    RETURN gone;
END $$;
COMMENT ON FUNCTION bigbrotr.delete_service_data IS
    'Deletes keys. Arrays of one length. Returns how many there were. Idempotent.';
