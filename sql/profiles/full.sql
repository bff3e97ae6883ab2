-- The full profile keeps whole events.

CREATE OR REPLACE FUNCTION bigbrotr.kept_columns() RETURNS text[]
LANGUAGE sql IMMUTABLE
RETURN ARRAY['sig', 'tags', 'content', 'raw'];
COMMENT ON FUNCTION bigbrotr.kept_columns IS 'Which columns of an event the profile of this database keeps.';

CREATE INDEX IF NOT EXISTS events_tag_hashes_idx ON bigbrotr.events_stored USING gin (tag_hashes);

-- All is there now that anybody may have rights to.
SELECT bigbrotr.grant_roles();
