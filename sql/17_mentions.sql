-- Mentions: a queue of relay URLs that new events name, on their way to the candidates. A page of events writes one row,
-- in its own transaction; the finder deletes it when it takes it. So a page that commits late is not lost, as it would be
-- with a cursor. While no finder runs, the queue grows by about 10 bytes an event. If the finder is disabled, nothing is
-- written.

CREATE TABLE IF NOT EXISTS bigbrotr.mentions (
    id      bigint    GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    urls    text[]    NOT NULL,
    sources text[]    NOT NULL,
    times   integer[] NOT NULL
);
ALTER TABLE bigbrotr.mentions
    ALTER COLUMN urls SET STATISTICS 0, ALTER COLUMN sources SET STATISTICS 0, ALTER COLUMN times SET STATISTICS 0;
COMMENT ON TABLE bigbrotr.mentions IS
    'Relay URLs that new events name, on their way to the candidates: a queue with a row for each page of events.';
COMMENT ON COLUMN bigbrotr.mentions.id IS 'Position in the queue.';
COMMENT ON COLUMN bigbrotr.mentions.urls IS 'URLs that the page names, each once.';
COMMENT ON COLUMN bigbrotr.mentions.sources IS
    'For each URL, the kind of the first event that names it, e.g. kind 10002.';
COMMENT ON COLUMN bigbrotr.mentions.times IS 'For each URL, how many new events of the page name it.';

CREATE OR REPLACE FUNCTION bigbrotr.note_mentions(p_urls text[], p_kinds integer[], p_times integer[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO bigbrotr.mentions (urls, sources, times)
    SELECT array_agg(n.url), array_agg('kind ' || p_kinds[n.first]), array_agg(n.times)
    FROM (
        SELECT u.url, min(u.position) AS first, sum(u.times)::integer AS times
        FROM unnest(p_urls, p_times) WITH ORDINALITY AS u (url, times, position) GROUP BY u.url
    ) AS n
    HAVING count(*) > 0;
END $$;
COMMENT ON FUNCTION bigbrotr.note_mentions IS
    'Puts the relay URLs that a page of new events names into the queue, in the order in which they are named; a URL may '
    'come again. p_kinds: the kinds of the events that name them; p_times: how often they do. Not idempotent: each event '
    'is new once.';

CREATE OR REPLACE FUNCTION bigbrotr.take_mentions(p_limit integer)
RETURNS TABLE (urls text[], sources text[], times integer[])
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    WITH oldest AS (
        SELECT s.id FROM bigbrotr.mentions s ORDER BY s.id LIMIT p_limit FOR UPDATE SKIP LOCKED
    ), taken AS (
        DELETE FROM bigbrotr.mentions s USING oldest o WHERE s.id = o.id RETURNING s.id, s.urls, s.sources, s.times
    )
    SELECT t.urls, t.sources, t.times FROM taken t ORDER BY t.id;
END $$;
COMMENT ON FUNCTION bigbrotr.take_mentions IS
    'Takes up to p_limit pages out of the queue, oldest first, for good when the transaction commits. Leaves out '
    'those that another process is taking.';
