-- The full profile keeps whole events.

CREATE OR REPLACE FUNCTION bigbrotr.kept_columns() RETURNS text[]
LANGUAGE sql IMMUTABLE
RETURN ARRAY['sig', 'tags', 'content', 'raw'];
COMMENT ON FUNCTION bigbrotr.kept_columns IS 'Which columns of an event the profile of this database keeps.';

-- What is new waits in a list, which each search compares with each of its values: it is kept short. With 4 MB, the default,
-- a hundred tags took 30 ms more a partition; to empty it more often takes 0.3 us an event.
CREATE INDEX IF NOT EXISTS events_tag_hashes_idx ON bigbrotr.events_stored USING gin (tag_hashes)
WITH (gin_pending_list_limit = 256);

-- All is there now that anybody may have rights to.
SELECT bigbrotr.grant_roles();
