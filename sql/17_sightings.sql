-- Sightings: relay URLs that new events name, on their way to the candidates. A queue: a row a page, written together
-- with its events and deleted when it was taken. Whatever commits late is still there; no cursor could pass it by.
-- While no finder runs it grows, by some 10 bytes an event; where none is enabled nothing is noted.

CREATE TABLE IF NOT EXISTS public.sightings (
    id      bigint    GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    urls    text[]    NOT NULL,
    sources text[]    NOT NULL,  -- of the first event that named each
    times   integer[] NOT NULL   -- how many of the page's new events named each
);

-- Puts what a page of new events names into the queue: each URL that one of them names, with the position of that event
-- in the page (from 1). p_kinds are the kinds of all events of the page. Not idempotent: each event is new once.
CREATE OR REPLACE FUNCTION public.note_sightings(p_urls text[], p_positions integer[], p_kinds integer[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.sightings (urls, sources, times)
    SELECT array_agg(n.url), array_agg('kind ' || p_kinds[n.first]), array_agg(n.times)
    FROM (
        SELECT u.url, min(u.position) AS first, count(*)::integer AS times
        FROM unnest(p_urls, p_positions) AS u (url, position) GROUP BY u.url
    ) AS n
    HAVING count(*) > 0;
END $$;

-- Takes up to p_limit pages out of the queue, for good when the transaction commits: oldest first, but for those that
-- somebody else is taking.
CREATE OR REPLACE FUNCTION public.take_sightings(p_limit integer)
RETURNS TABLE (urls text[], sources text[], times integer[])
LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY
    WITH oldest AS (
        SELECT s.id FROM public.sightings s ORDER BY s.id LIMIT p_limit FOR UPDATE SKIP LOCKED
    ), taken AS (
        DELETE FROM public.sightings s USING oldest o WHERE s.id = o.id RETURNING s.id, s.urls, s.sources, s.times
    )
    SELECT t.urls, t.sources, t.times FROM taken t ORDER BY t.id;
END $$;
