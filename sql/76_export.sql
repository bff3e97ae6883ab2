-- Exports: events on their way into a file. A page begins behind the last event of the one before; a long walk is cut
-- into windows, several of which are read at once.

CREATE OR REPLACE FUNCTION bigbrotr.export_slice(
    p_slice integer,
    p_since bigint, p_until bigint, p_after_at bigint, p_after_id bytea, p_ids bytea[], p_kinds integer[],
    p_pubkeys bytea[], p_tag_hashes integer[], p_tags jsonb, p_relay_ids integer[], p_is_reversed boolean,
    p_limit bigint, p_most_bytes bigint, p_hides integer, p_expired_by bigint,
    OUT lines bytea, OUT number bigint, OUT last_at bigint, OUT last_id bytea, OUT raw_ids bytea[], OUT raws bytea[],
    OUT raw_sigs bytea[]
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET max_parallel_workers_per_gather = 0 SET plan_cache_mode = force_custom_plan
AS $$
BEGIN
    IF p_is_reversed THEN
        SELECT convert_to(string_agg(CASE WHEN t.raw IS NULL OR t.sig IS NULL
                   THEN bigbrotr.event_text(
                       p_id => t.id, p_pubkey => t.pubkey, p_created_at => t.created_at, p_kind => t.kind,
                       p_tags => t.tags, p_content => t.content, p_sig => t.sig)
                   ELSE '{"raw":"' || encode(t.id, 'hex') || '"}' END, E'\n'), 'UTF8'),
               count(*), (array_agg(t.created_at))[count(*)], (array_agg(t.id))[count(*)],
               array_agg(t.id) FILTER (WHERE t.raw IS NOT NULL AND t.sig IS NOT NULL),
               array_agg(t.raw) FILTER (WHERE t.raw IS NOT NULL AND t.sig IS NOT NULL),
               array_agg(t.sig) FILTER (WHERE t.raw IS NOT NULL AND t.sig IS NOT NULL)
        INTO lines, number, last_at, last_id, raw_ids, raws, raw_sigs
        FROM (
            SELECT f.*, (SELECT w.raw FROM bigbrotr.events_raw w
                         WHERE w.event_id = f.id AND w.slice = f.slice AND (p_slice IS NULL OR w.slice = p_slice)) AS raw
            FROM (
                SELECT x.*, coalesce(sum(octet_length(x.tags) + octet_length(x.content))
                       OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) < p_most_bytes AS is_shown
                FROM (
                    SELECT e.created_at, e.id, e.slice, e.pubkey, e.kind, e.tags, e.content, e.sig
                    FROM bigbrotr.events_stored e
                    WHERE (p_slice IS NULL OR e.slice = p_slice)
                      AND e.created_at >= p_since AND e.created_at <= p_until
                      AND (p_after_at IS NULL OR (e.created_at, e.id) < (p_after_at, p_after_id))
                      AND (p_ids IS NULL OR e.id = ANY (p_ids))
                      AND (p_kinds IS NULL OR e.kind = ANY (p_kinds))
                      AND (p_pubkeys IS NULL OR e.pubkey = ANY (p_pubkeys))
                      AND (p_tag_hashes IS NULL OR e.tag_hashes && p_tag_hashes)
                      AND (p_tags IS NULL OR NOT EXISTS (
                          SELECT FROM jsonb_each(p_tags) AS c (letter, wanted) WHERE NOT EXISTS (
                              SELECT FROM jsonb_array_elements(e.tags::jsonb) AS t (tag)
                              WHERE t.tag ->> 0 = c.letter AND c.wanted ? (t.tag ->> 1))))
                      AND (p_relay_ids IS NULL OR EXISTS (
                          SELECT FROM bigbrotr.presence p
                          WHERE p.slice = e.slice AND (p_slice IS NULL OR p.slice = p_slice) AND p.chunk = e.num >> 8
                            AND p.relay_id = ANY (p_relay_ids) AND p.seen_ats[(e.num & 255)::integer + 1] IS NOT NULL))
                      AND (SELECT true FROM bigbrotr.hidden h
                           WHERE h.created_at = e.created_at AND h.slice = e.slice AND h.id = e.id
                             AND (p_slice IS NULL OR h.slice = p_slice)
                             AND (h.why & p_hides <> 0 OR h.expires_at <= p_expired_by)) IS NULL
                    ORDER BY e.created_at DESC, e.id DESC LIMIT p_limit
                ) AS x
            ) AS f WHERE f.is_shown
        ) AS t;
    ELSE
        SELECT convert_to(string_agg(CASE WHEN t.raw IS NULL OR t.sig IS NULL
                   THEN bigbrotr.event_text(
                       p_id => t.id, p_pubkey => t.pubkey, p_created_at => t.created_at, p_kind => t.kind,
                       p_tags => t.tags, p_content => t.content, p_sig => t.sig)
                   ELSE '{"raw":"' || encode(t.id, 'hex') || '"}' END, E'\n'), 'UTF8'),
               count(*), (array_agg(t.created_at))[count(*)], (array_agg(t.id))[count(*)],
               array_agg(t.id) FILTER (WHERE t.raw IS NOT NULL AND t.sig IS NOT NULL),
               array_agg(t.raw) FILTER (WHERE t.raw IS NOT NULL AND t.sig IS NOT NULL),
               array_agg(t.sig) FILTER (WHERE t.raw IS NOT NULL AND t.sig IS NOT NULL)
        INTO lines, number, last_at, last_id, raw_ids, raws, raw_sigs
        FROM (
            SELECT f.*, (SELECT w.raw FROM bigbrotr.events_raw w
                         WHERE w.event_id = f.id AND w.slice = f.slice AND (p_slice IS NULL OR w.slice = p_slice)) AS raw
            FROM (
                SELECT x.*, coalesce(sum(octet_length(x.tags) + octet_length(x.content))
                       OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) < p_most_bytes AS is_shown
                FROM (
                    SELECT e.created_at, e.id, e.slice, e.pubkey, e.kind, e.tags, e.content, e.sig
                    FROM bigbrotr.events_stored e
                    WHERE (p_slice IS NULL OR e.slice = p_slice)
                      AND e.created_at >= p_since AND e.created_at <= p_until
                      AND (p_after_at IS NULL OR (e.created_at, e.id) > (p_after_at, p_after_id))
                      AND (p_ids IS NULL OR e.id = ANY (p_ids))
                      AND (p_kinds IS NULL OR e.kind = ANY (p_kinds))
                      AND (p_pubkeys IS NULL OR e.pubkey = ANY (p_pubkeys))
                      AND (p_tag_hashes IS NULL OR e.tag_hashes && p_tag_hashes)
                      AND (p_tags IS NULL OR NOT EXISTS (
                          SELECT FROM jsonb_each(p_tags) AS c (letter, wanted) WHERE NOT EXISTS (
                              SELECT FROM jsonb_array_elements(e.tags::jsonb) AS t (tag)
                              WHERE t.tag ->> 0 = c.letter AND c.wanted ? (t.tag ->> 1))))
                      AND (p_relay_ids IS NULL OR EXISTS (
                          SELECT FROM bigbrotr.presence p
                          WHERE p.slice = e.slice AND (p_slice IS NULL OR p.slice = p_slice) AND p.chunk = e.num >> 8
                            AND p.relay_id = ANY (p_relay_ids) AND p.seen_ats[(e.num & 255)::integer + 1] IS NOT NULL))
                      AND (SELECT true FROM bigbrotr.hidden h
                           WHERE h.created_at = e.created_at AND h.slice = e.slice AND h.id = e.id
                             AND (p_slice IS NULL OR h.slice = p_slice)
                             AND (h.why & p_hides <> 0 OR h.expires_at <= p_expired_by)) IS NULL
                    ORDER BY e.created_at, e.id LIMIT p_limit
                ) AS x
            ) AS f WHERE f.is_shown
        ) AS t;
    END IF;
END $$;
COMMENT ON FUNCTION bigbrotr.export_slice IS 'The part of export_lines that reads one slice, or with NULL all of them.';

CREATE OR REPLACE FUNCTION bigbrotr.export_lines(
    p_since bigint, p_until bigint, p_after_at bigint, p_after_id bytea, p_ids bytea[], p_kinds integer[],
    p_pubkeys bytea[], p_tag_hashes integer[], p_tags jsonb, p_relay_ids integer[], p_is_reversed boolean,
    p_limit bigint, p_most_bytes bigint, p_view text, p_now bigint,
    OUT lines bytea, OUT number bigint, OUT last_at bigint, OUT last_id bytea, OUT raw_ids bytea[], OUT raws bytea[],
    OUT raw_sigs bytea[]
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    shown record;
    part  integer;
    page  record;
BEGIN
    SELECT v.hides, v.expired_by INTO shown FROM bigbrotr.view_hides(p_view, p_now) AS v;
    number := 0;
    FOR part IN
        SELECT s.slice FROM bigbrotr.parts_of(p_since, least(p_until, 9223372036854775806) + 1) AS s (slice)
        ORDER BY CASE WHEN p_is_reversed THEN -s.slice ELSE s.slice END
    LOOP
        SELECT e.* INTO page FROM bigbrotr.export_slice(
            p_slice => part, p_since => p_since, p_until => p_until, p_after_at => p_after_at, p_after_id => p_after_id,
            p_ids => p_ids, p_kinds => p_kinds, p_pubkeys => p_pubkeys, p_tag_hashes => p_tag_hashes, p_tags => p_tags,
            p_relay_ids => p_relay_ids, p_is_reversed => p_is_reversed,
            p_limit => p_limit - number, p_most_bytes => p_most_bytes - coalesce(length(lines), 0),
            p_hides => shown.hides, p_expired_by => shown.expired_by) AS e;
        CONTINUE WHEN page.number = 0;
        lines := coalesce(lines || '\x0a'::bytea, '') || page.lines;
        number := number + page.number;
        last_at := page.last_at;
        last_id := page.last_id;
        raw_ids := raw_ids || page.raw_ids;
        raws := raws || page.raws;
        raw_sigs := raw_sigs || page.raw_sigs;
        EXIT WHEN number >= p_limit OR length(lines) >= p_most_bytes;
    END LOOP;
END $$;
COMMENT ON FUNCTION bigbrotr.export_lines IS
    'The next events of [p_since, p_until] (Unix seconds, both included) in the order (created_at, id), or reversed, that '
    'a view shows as of p_now, as JSON objects, one a line (UTF-8): at most p_limit, and as few as tags and content of '
    'p_most_bytes take, but for the last. p_after_at and p_after_id: where the page before ended. NULL stands for any; '
    'p_tag_hashes: those of one letter of p_tags, which are as in read_held_ids; p_relay_ids: held by one of these. '
    'number: how many lines; last_at and last_id: of the last. An event whose exact bytes are in events_raw has the line '
    '{"raw":"id"}; raw_ids, raws, raw_sigs: what its line is made of. number 0: there are no more.';

CREATE OR REPLACE FUNCTION bigbrotr.export_bound(p_since bigint, p_until bigint, p_count bigint, p_is_reversed boolean)
RETURNS bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_custom_plan
AS $$
BEGIN
    IF p_is_reversed THEN
        RETURN (SELECT e.created_at FROM bigbrotr.events_stored e
                WHERE e.created_at >= p_since AND e.created_at <= p_until
                ORDER BY e.created_at DESC OFFSET p_count LIMIT 1);
    END IF;
    RETURN (SELECT e.created_at FROM bigbrotr.events_stored e
            WHERE e.created_at >= p_since AND e.created_at <= p_until
            ORDER BY e.created_at OFFSET p_count LIMIT 1);
END $$;
COMMENT ON FUNCTION bigbrotr.export_bound IS
    'When the event behind the first p_count of [p_since, p_until], or of those from the end, was created; NULL: there '
    'are no more.';

CREATE OR REPLACE FUNCTION bigbrotr.relay_slices(p_relay_ids integer[]) RETURNS integer[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    RETURN ARRAY(SELECT DISTINCT p.slice FROM bigbrotr.presence p WHERE p.relay_id = ANY (p_relay_ids) ORDER BY 1);
END $$;
COMMENT ON FUNCTION bigbrotr.relay_slices IS 'The slices in which one of these relays was seen to hold an event, in order.';
