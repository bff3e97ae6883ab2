-- The lite profile keeps the essential fields: no tags, no content, no signature (it was verified before).

CREATE OR REPLACE FUNCTION bigbrotr.kept_columns() RETURNS text[]
LANGUAGE sql IMMUTABLE
RETURN ARRAY[]::text[];
COMMENT ON FUNCTION bigbrotr.kept_columns IS 'Which columns of an event the profile of this database keeps.';

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_constraint WHERE conname = 'events_lite' AND conrelid = 'bigbrotr.events_stored'::regclass) THEN
        ALTER TABLE bigbrotr.events_stored ADD CONSTRAINT events_lite
            CHECK (sig IS NULL AND tags IS NULL AND tag_hashes IS NULL AND content IS NULL);
    END IF;
END $$;

-- All is there now that anybody may have rights to.
SELECT bigbrotr.grant_roles();
