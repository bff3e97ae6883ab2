-- The full profile keeps whole events.

CREATE OR REPLACE FUNCTION public.kept_columns() RETURNS text[]
LANGUAGE sql IMMUTABLE
RETURN ARRAY['sig', 'tags', 'tagvalues', 'content', 'raw'];

CREATE INDEX IF NOT EXISTS events_tagvalues_idx ON public.events USING gin (tagvalues);

-- All is there now that anybody may have rights to.
SELECT public.grant_roles();
