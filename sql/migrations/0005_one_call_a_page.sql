-- A page of events and what they name go into the database by one call; figures are asked for some networks.
DROP FUNCTION IF EXISTS public.insert_events(
    integer, bigint[], bigint[], integer[], bytea[], bytea[], bytea[], jsonb[], text[], text[], bytea[]);
DROP FUNCTION IF EXISTS public.note_sightings(text[], text[], integer[]);
DROP FUNCTION IF EXISTS public.figures(bigint);
