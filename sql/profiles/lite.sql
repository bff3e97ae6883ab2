-- The lite profile keeps the essential fields: no tags, no content, no signature (it was verified before).

CREATE OR REPLACE FUNCTION public.kept_columns() RETURNS text[]
LANGUAGE sql IMMUTABLE
RETURN ARRAY[]::text[];

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_constraint WHERE conname = 'events_lite' AND conrelid = 'public.events'::regclass) THEN
        ALTER TABLE public.events ADD CONSTRAINT events_lite
            CHECK (sig IS NULL AND tags IS NULL AND tagvalues IS NULL AND content IS NULL);
    END IF;
END $$;

-- All is there now that anybody may have rights to.
SELECT public.grant_roles();
