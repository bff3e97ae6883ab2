-- Find: the archived events that match the conditions of a filter (NIP-01), newest first and by id within a second. There is
-- a function for each way to look for them; which is quickest, the caller knows from the statistics. All take the same:
--   p_since, p_until      seconds, both included; the caller keeps to one partition, so that each way reads one index of it
--   p_after_at, p_after_id  the last event of the page before: only what comes after it
--   p_kinds, p_pubkeys    one of these; NULL: any
--   p_hashes              hashes of tags, see tag_hash: one of these; NULL: any. Two tags may share a hash: the caller looks again
--   p_more                more such lists, as array literals: one of each
--   p_hides, p_expired_by  what the view hides, see view_hides; whether it does is asked last, event by event
-- and return (created_at, id) of p_limit events at most. A condition that could lead the planner to another index than the
-- one that is meant is written so that it cannot.

CREATE OR REPLACE FUNCTION bigbrotr.has_hashes(p_tag_hashes integer[], p_more text[]) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN NOT EXISTS (SELECT FROM unnest(p_more) AS m (hashes) WHERE NOT p_tag_hashes && m.hashes::integer[]);
COMMENT ON FUNCTION bigbrotr.has_hashes IS 'Whether an event with these hashes has one of each list in p_more.';

CREATE OR REPLACE FUNCTION bigbrotr.walk_events(
    p_since bigint, p_until bigint, p_after_at bigint, p_after_id bytea, p_kinds integer[], p_pubkeys bytea[],
    p_hashes integer[], p_more text[], p_limit integer, p_examine integer, p_hides integer, p_expired_by bigint,
    OUT created_ats bigint[], OUT ids bytea[], OUT examined integer, OUT last_at bigint, OUT last_id bytea
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    is_wanted boolean;
BEGIN
    created_ats := '{}';
    ids := '{}';
    examined := 0;
    FOR last_at, last_id, is_wanted IN
        SELECT e.created_at, e.id,
               (p_kinds IS NULL OR e.kind = ANY (p_kinds)) AND (p_pubkeys IS NULL OR e.pubkey = ANY (p_pubkeys))
               AND (p_hashes IS NULL OR coalesce(e.tag_hashes && p_hashes, false))
               AND (p_more IS NULL OR bigbrotr.has_hashes(e.tag_hashes, p_more))
               AND (SELECT true FROM bigbrotr.hidden h
                    WHERE h.created_at = e.created_at AND h.slice = e.slice AND h.id = e.id
                      AND (h.why & p_hides <> 0 OR h.expires_at <= p_expired_by)) IS NULL
        FROM bigbrotr.events_stored e
        WHERE e.created_at >= p_since AND e.created_at <= p_until
          AND (bigbrotr.slice_of(p_since) <> bigbrotr.slice_of(p_until) OR e.slice = bigbrotr.slice_of(p_since))
          AND (p_after_at IS NULL OR e.created_at < p_after_at OR (e.created_at = p_after_at AND e.id > p_after_id))
        ORDER BY e.created_at DESC, e.id
        LIMIT p_examine
    LOOP
        examined := examined + 1;
        IF is_wanted THEN
            created_ats := created_ats || last_at;
            ids := ids || last_id;
            EXIT WHEN cardinality(ids) = p_limit;
        END IF;
    END LOOP;
END $$;
COMMENT ON FUNCTION bigbrotr.walk_events IS
    'Finds events by looking at one after the other, newest first, until p_limit match or p_examine have been looked at. '
    'Returns how many were, and the last of them. For conditions that much of the archive meets.';

CREATE OR REPLACE FUNCTION bigbrotr.find_by_ids(
    p_ids bytea[], p_since bigint, p_until bigint, p_after_at bigint, p_after_id bytea, p_kinds integer[],
    p_pubkeys bytea[], p_hashes integer[], p_more text[], p_limit integer, p_view text, p_now bigint
) RETURNS TABLE (created_at bigint, id bytea)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    view_hides record;
BEGIN
    SELECT v.hides, v.expired_by INTO view_hides FROM bigbrotr.view_hides(p_view, p_now) AS v;
    RETURN QUERY
    SELECT e.created_at, e.id
    FROM unnest(p_ids) AS u (id) CROSS JOIN LATERAL (
        SELECT x.created_at, x.id FROM bigbrotr.events_stored x
        WHERE x.id = u.id AND x.created_at >= p_since AND x.created_at <= p_until
          AND (p_kinds IS NULL OR x.kind = ANY (p_kinds)) AND (p_pubkeys IS NULL OR x.pubkey = ANY (p_pubkeys))
          AND (p_hashes IS NULL OR x.tag_hashes && p_hashes)
          AND (p_more IS NULL OR bigbrotr.has_hashes(x.tag_hashes, p_more))
          AND (SELECT true FROM bigbrotr.hidden h
               WHERE h.created_at = x.created_at AND h.slice = x.slice AND h.id = x.id
                 AND (h.why & view_hides.hides <> 0 OR h.expires_at <= view_hides.expired_by)) IS NULL
        OFFSET 0
    ) AS e
    WHERE p_after_at IS NULL OR e.created_at < p_after_at OR (e.created_at = p_after_at AND e.id > p_after_id)
    ORDER BY e.created_at DESC, e.id LIMIT p_limit;
END $$;
COMMENT ON FUNCTION bigbrotr.find_by_ids IS 'Finds events by their ids.';

CREATE OR REPLACE FUNCTION bigbrotr.find_by_pubkeys(
    p_since bigint, p_until bigint, p_after_at bigint, p_after_id bytea, p_kinds integer[], p_pubkeys bytea[],
    p_hashes integer[], p_more text[], p_limit integer, p_hides integer, p_expired_by bigint
) RETURNS TABLE (created_at bigint, id bytea)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET plan_cache_mode = force_custom_plan
AS $$
BEGIN
    RETURN QUERY
    SELECT e.created_at, e.id
    FROM unnest(p_pubkeys) AS u (pubkey) CROSS JOIN LATERAL (
        SELECT x.created_at, x.id FROM bigbrotr.events_stored x
        WHERE x.pubkey = u.pubkey AND x.created_at >= p_since AND x.created_at <= p_until
          AND (bigbrotr.slice_of(p_since) <> bigbrotr.slice_of(p_until) OR x.slice = bigbrotr.slice_of(p_since))
          AND (p_after_at IS NULL OR x.created_at < p_after_at OR (x.created_at = p_after_at AND x.id > p_after_id))
          AND (p_kinds IS NULL OR x.kind + 0 = ANY (p_kinds))
          AND (p_hashes IS NULL OR x.tag_hashes && p_hashes)
          AND (p_more IS NULL OR bigbrotr.has_hashes(x.tag_hashes, p_more))
          AND (SELECT true FROM bigbrotr.hidden h
               WHERE h.created_at = x.created_at AND h.slice = x.slice AND h.id = x.id
                 AND (h.why & p_hides <> 0 OR h.expires_at <= p_expired_by)) IS NULL
        ORDER BY x.pubkey, x.created_at DESC, x.id LIMIT p_limit
    ) AS e
    ORDER BY e.created_at DESC, e.id LIMIT p_limit;
END $$;
COMMENT ON FUNCTION bigbrotr.find_by_pubkeys IS 'Finds events by their authors, each for itself.';

CREATE OR REPLACE FUNCTION bigbrotr.find_by_kinds(
    p_since bigint, p_until bigint, p_after_at bigint, p_after_id bytea, p_kinds integer[], p_pubkeys bytea[],
    p_hashes integer[], p_more text[], p_limit integer, p_hides integer, p_expired_by bigint
) RETURNS TABLE (created_at bigint, id bytea)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN QUERY
    SELECT e.created_at, e.id
    FROM unnest(p_kinds) AS u (kind) CROSS JOIN LATERAL (
        SELECT x.created_at, x.id FROM bigbrotr.events_stored x
        WHERE x.kind = u.kind AND x.created_at >= p_since AND x.created_at <= p_until
          AND (bigbrotr.slice_of(p_since) <> bigbrotr.slice_of(p_until) OR x.slice = bigbrotr.slice_of(p_since))
          AND (p_after_at IS NULL OR x.created_at < p_after_at OR (x.created_at = p_after_at AND x.id > p_after_id))
          AND (p_pubkeys IS NULL OR x.pubkey || '' = ANY (p_pubkeys))
          AND (p_hashes IS NULL OR x.tag_hashes && p_hashes)
          AND (p_more IS NULL OR bigbrotr.has_hashes(x.tag_hashes, p_more))
          AND (SELECT true FROM bigbrotr.hidden h
               WHERE h.created_at = x.created_at AND h.slice = x.slice AND h.id = x.id
                 AND (h.why & p_hides <> 0 OR h.expires_at <= p_expired_by)) IS NULL
        ORDER BY x.kind, x.created_at DESC, x.id LIMIT p_limit
    ) AS e
    ORDER BY e.created_at DESC, e.id LIMIT p_limit;
END $$;
COMMENT ON FUNCTION bigbrotr.find_by_kinds IS 'Finds events by their kinds, each for itself.';

CREATE OR REPLACE FUNCTION bigbrotr.find_by_tags(
    p_since bigint, p_until bigint, p_after_at bigint, p_after_id bytea, p_kinds integer[], p_pubkeys bytea[],
    p_hashes integer[], p_more text[], p_limit integer, p_hides integer, p_expired_by bigint
) RETURNS TABLE (created_at bigint, id bytea)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_indexscan = off SET plan_cache_mode = force_custom_plan
AS $$
BEGIN
    RETURN QUERY
    SELECT e.created_at, e.id FROM bigbrotr.events_stored e
    WHERE e.tag_hashes && p_hashes AND e.created_at >= p_since AND e.created_at <= p_until
      AND (bigbrotr.slice_of(p_since) <> bigbrotr.slice_of(p_until) OR e.slice = bigbrotr.slice_of(p_since))
      AND (p_after_at IS NULL OR e.created_at < p_after_at OR (e.created_at = p_after_at AND e.id > p_after_id))
      AND (p_kinds IS NULL OR e.kind + 0 = ANY (p_kinds)) AND (p_pubkeys IS NULL OR e.pubkey || '' = ANY (p_pubkeys))
      AND (p_more IS NULL OR bigbrotr.has_hashes(e.tag_hashes, p_more))
      AND (SELECT true FROM bigbrotr.hidden h
           WHERE h.created_at = e.created_at AND h.slice = e.slice AND h.id = e.id
             AND (h.why & p_hides <> 0 OR h.expires_at <= p_expired_by)) IS NULL
    ORDER BY e.created_at DESC, e.id LIMIT p_limit;
END $$;
COMMENT ON FUNCTION bigbrotr.find_by_tags IS 'Finds events by their tags; it looks at all that have one of p_hashes.';

CREATE OR REPLACE FUNCTION bigbrotr.read_events(p_created_ats bigint[], p_ids bytea[])
RETURNS TABLE (
    created_at bigint, id bytea, pubkey bytea, kind integer, tags text, content text, sig bytea, raw bytea, num bigint
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN QUERY
    SELECT e.created_at, e.id, e.pubkey, e.kind, e.tags, e.content, e.sig, w.raw, e.num
    FROM unnest(p_created_ats, p_ids) WITH ORDINALITY AS u (created_at, id, position)
    JOIN bigbrotr.events_stored e ON e.created_at = u.created_at AND e.id = u.id
    LEFT JOIN bigbrotr.events_raw w ON w.event_id = e.id AND w.slice = e.slice
    ORDER BY u.position;
END $$;
COMMENT ON FUNCTION bigbrotr.read_events IS
    'The events of these times and ids as they are stored, in this order; without those that are not archived.';

CREATE OR REPLACE FUNCTION bigbrotr.events_statistics()
RETURNS TABLE (
    lower_at bigint, upper_at bigint, row_count double precision, kinds integer[], kind_shares real[],
    pubkeys bytea[], pubkey_shares real[], authors double precision, hashes integer[], hash_shares real[]
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    SELECT coalesce(p.bounds[1]::bigint, 0), coalesce(p.bounds[2]::bigint, 9223372036854775807),
           greatest(p.reltuples, 0)::double precision,
           k.most_common_vals::text::integer[], k.most_common_freqs,
           a.most_common_vals::text::bytea[], a.most_common_freqs,
           (CASE WHEN a.n_distinct < 0 THEN -a.n_distinct * greatest(p.reltuples, 0)
                 ELSE a.n_distinct END)::double precision,
           h.most_common_elems::text::integer[], h.most_common_elem_freqs[1:cardinality(h.most_common_elems::text::integer[])]
    FROM (
        SELECT c.relname, c.reltuples,
               regexp_match(pg_get_expr(c.relpartbound, c.oid), $x$FROM \('?(\d+)'?\) TO \('?(\d+)'?\)$x$) AS bounds
        FROM pg_partition_tree('bigbrotr.events_stored') t JOIN pg_class c ON c.oid = t.relid
        WHERE t.isleaf
    ) AS p
    LEFT JOIN pg_stats k ON k.schemaname = 'bigbrotr' AND k.tablename = p.relname AND k.attname = 'kind'
    LEFT JOIN pg_stats a ON a.schemaname = 'bigbrotr' AND a.tablename = p.relname AND a.attname = 'pubkey'
    LEFT JOIN pg_stats h ON h.schemaname = 'bigbrotr' AND h.tablename = p.relname AND h.attname = 'tag_hashes'
    ORDER BY p.bounds IS NULL DESC, 1 DESC;
END $$;
COMMENT ON FUNCTION bigbrotr.events_statistics IS
    'What PostgreSQL has noted of each partition of the events: about how many rows, and the most common kinds, authors and '
    'tag hashes with their shares. lower_at, upper_at: [since, until), in Unix seconds; the default partition comes first '
    'and spans everything.';

-- What a search finds is read in the same statement. The last row tells of the look itself.
CREATE OR REPLACE FUNCTION bigbrotr.read_page(p_created_ats bigint[], p_ids bytea[], p_most_bytes bigint)
RETURNS TABLE (
    created_at bigint, id bytea, pubkey bytea, kind integer, tags text, content text, sig bytea, raw bytea, num bigint,
    matches integer, examined integer, last_at bigint, last_id bytea
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    IF p_most_bytes IS NULL THEN
        RETURN QUERY
        SELECT r.*, NULL::integer, NULL::integer, NULL::bigint, NULL::bytea
        FROM bigbrotr.read_events(p_created_ats => p_created_ats, p_ids => p_ids) AS r;
    ELSE
        RETURN QUERY
        SELECT r.created_at, r.id, r.pubkey, r.kind, r.tags, r.content, r.sig, r.raw, r.num,
               NULL::integer, NULL::integer, NULL::bigint, NULL::bytea
        FROM (
            SELECT e.*, sum(s.size) OVER (ROWS UNBOUNDED PRECEDING) - s.size AS before
            FROM bigbrotr.read_events(p_created_ats => p_created_ats, p_ids => p_ids) AS e
            CROSS JOIN LATERAL (SELECT coalesce(octet_length(e.tags), 0) + coalesce(octet_length(e.content), 0)) AS s (size)
        ) AS r
        WHERE r.before < p_most_bytes;
    END IF;
    created_at := p_created_ats[cardinality(p_created_ats)];
    id := p_ids[cardinality(p_ids)];
    matches := coalesce(cardinality(p_ids), 0);
    examined := 0;
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION bigbrotr.read_page IS
    'The events of these times and ids as read_events has them, up to the one whose tags and content pass p_most_bytes '
    '(NULL: all). The last row is none: created_at and id of the last position, and matches: how many there are.';

-- One plan serves all values. With lists of authors or tags it would not: each event would be compared with all of them.
CREATE OR REPLACE FUNCTION bigbrotr.walk_kinds(
    p_since bigint, p_until bigint, p_after_at bigint, p_after_id bytea, p_kinds integer[], p_limit integer, p_examine integer,
    p_hides integer, p_expired_by bigint,
    OUT created_ats bigint[], OUT ids bytea[], OUT examined integer, OUT last_at bigint, OUT last_id bytea
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    is_wanted boolean;
BEGIN
    created_ats := '{}';
    ids := '{}';
    examined := 0;
    FOR last_at, last_id, is_wanted IN
        SELECT e.created_at, e.id,
               (p_kinds IS NULL OR e.kind = ANY (p_kinds))
               AND (SELECT true FROM bigbrotr.hidden h
                    WHERE h.created_at = e.created_at AND h.slice = e.slice AND h.id = e.id
                      AND (h.why & p_hides <> 0 OR h.expires_at <= p_expired_by)) IS NULL
        FROM bigbrotr.events_stored e
        WHERE e.created_at >= p_since AND e.created_at <= p_until
          AND (p_after_at IS NULL OR e.created_at < p_after_at OR (e.created_at = p_after_at AND e.id > p_after_id))
        ORDER BY e.created_at DESC, e.id
        LIMIT p_examine
    LOOP
        examined := examined + 1;
        IF is_wanted THEN
            created_ats := created_ats || last_at;
            ids := ids || last_id;
            EXIT WHEN cardinality(ids) = p_limit;
        END IF;
    END LOOP;
END $$;
COMMENT ON FUNCTION bigbrotr.walk_kinds IS 'What walk_events does where no authors and no tags are asked for.';

CREATE OR REPLACE FUNCTION bigbrotr.events_page(
    p_way text, p_since bigint, p_until bigint, p_after_at bigint, p_after_id bytea, p_kinds integer[], p_pubkeys bytea[],
    p_hashes integer[], p_more text[], p_limit integer, p_examine integer, p_read boolean, p_most_bytes bigint,
    p_view text, p_now bigint
) RETURNS TABLE (
    created_at bigint, id bytea, pubkey bytea, kind integer, tags text, content text, sig bytea, raw bytea, num bigint,
    matches integer, examined integer, last_at bigint, last_id bytea
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    times   bigint[];
    ids     bytea[];
    shown   record;
    looked  integer := 0;
    seen_at bigint;
    seen_id bytea;
BEGIN
    SELECT v.hides, v.expired_by INTO shown FROM bigbrotr.view_hides(p_view, p_now) AS v;
    CASE
    WHEN p_way = 'walk_events' AND p_pubkeys IS NULL AND p_hashes IS NULL THEN
        SELECT w.created_ats, w.ids, w.examined, w.last_at, w.last_id INTO times, ids, looked, seen_at, seen_id
        FROM bigbrotr.walk_kinds(
            p_since => p_since, p_until => p_until, p_after_at => p_after_at, p_after_id => p_after_id,
            p_kinds => p_kinds, p_limit => p_limit, p_examine => p_examine, p_hides => shown.hides,
            p_expired_by => shown.expired_by) AS w;
    WHEN p_way = 'walk_events' THEN
        SELECT w.created_ats, w.ids, w.examined, w.last_at, w.last_id INTO times, ids, looked, seen_at, seen_id
        FROM bigbrotr.walk_events(
            p_since => p_since, p_until => p_until, p_after_at => p_after_at, p_after_id => p_after_id,
            p_kinds => p_kinds, p_pubkeys => p_pubkeys, p_hashes => p_hashes, p_more => p_more, p_limit => p_limit,
            p_examine => p_examine, p_hides => shown.hides,
            p_expired_by => shown.expired_by) AS w;
    WHEN p_way = 'find_by_pubkeys' THEN
        SELECT array_agg(f.created_at), array_agg(f.id) INTO times, ids
        FROM bigbrotr.find_by_pubkeys(
            p_since => p_since, p_until => p_until, p_after_at => p_after_at, p_after_id => p_after_id,
            p_kinds => p_kinds, p_pubkeys => p_pubkeys, p_hashes => p_hashes, p_more => p_more, p_limit => p_limit,
            p_hides => shown.hides, p_expired_by => shown.expired_by) AS f;
    WHEN p_way = 'find_by_kinds' THEN
        SELECT array_agg(f.created_at), array_agg(f.id) INTO times, ids
        FROM bigbrotr.find_by_kinds(
            p_since => p_since, p_until => p_until, p_after_at => p_after_at, p_after_id => p_after_id,
            p_kinds => p_kinds, p_pubkeys => p_pubkeys, p_hashes => p_hashes, p_more => p_more, p_limit => p_limit,
            p_hides => shown.hides, p_expired_by => shown.expired_by) AS f;
    WHEN p_way = 'find_by_tags' THEN
        SELECT array_agg(f.created_at), array_agg(f.id) INTO times, ids
        FROM bigbrotr.find_by_tags(
            p_since => p_since, p_until => p_until, p_after_at => p_after_at, p_after_id => p_after_id,
            p_kinds => p_kinds, p_pubkeys => p_pubkeys, p_hashes => p_hashes, p_more => p_more, p_limit => p_limit,
            p_hides => shown.hides, p_expired_by => shown.expired_by) AS f;
    END CASE;
    IF p_read AND cardinality(ids) > 0 THEN
        RETURN QUERY
        SELECT r.created_at, r.id, r.pubkey, r.kind, r.tags, r.content, r.sig, r.raw, r.num, r.matches,
               CASE WHEN r.matches IS NOT NULL THEN looked END, CASE WHEN r.matches IS NOT NULL THEN seen_at END,
               CASE WHEN r.matches IS NOT NULL THEN seen_id END
        FROM bigbrotr.read_page(p_created_ats => times, p_ids => ids, p_most_bytes => p_most_bytes) AS r;
        RETURN;
    END IF;
    matches := coalesce(cardinality(ids), 0);
    created_at := times[matches];
    id := ids[matches];
    examined := looked;
    last_at := seen_at;
    last_id := seen_id;
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION bigbrotr.events_page IS
    'Looks for those events that a view shows as of p_now (Unix seconds), in the way p_way, a function of that name with the parameters that all of them take, and with '
    'p_read reads them as read_page does. The last row is none: created_at and id of the last that was found, matches: how '
    'many were; of a walk also examined, how many it has looked at, and the last of those.';

-- What follows finds events and reads them at once: to look each of them up again would take longer than the search. One plan
-- serves all values, so conditions stand where no index can be chosen for them, above OFFSET 0 or a LIMIT. Lists of authors
-- are hashed there. On a cluster other functions of these names do what events_page does.
CREATE OR REPLACE FUNCTION bigbrotr.read_in_order(
    p_way text, p_since bigint, p_until bigint, p_after_at bigint, p_after_id bytea, p_kinds integer[], p_pubkeys bytea[],
    p_hashes integer[], p_more text[], p_limit integer, p_examine integer, p_most_bytes bigint,
    p_view text, p_now bigint
) RETURNS TABLE (
    created_at bigint, id bytea, pubkey bytea, kind integer, tags text, content text, sig bytea, raw bytea, num bigint,
    examined integer, last_at bigint, last_id bytea
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    most  bigint := coalesce(p_most_bytes, 9223372036854775807);
    shown record;
    found integer;
BEGIN
    SELECT v.hides, v.expired_by INTO shown FROM bigbrotr.view_hides(p_view, p_now) AS v;
    CASE p_way
    WHEN 'walk_events' THEN
        RETURN QUERY
        SELECT r.created_at, r.id, r.pubkey, r.kind, r.tags, r.content, r.sig,
               (SELECT w.raw FROM bigbrotr.events_raw w WHERE w.event_id = r.id AND w.slice = r.slice), r.num,
               NULL::integer, NULL::bigint, NULL::bytea
        FROM (
            SELECT f.*, sum(s.size) OVER (ROWS UNBOUNDED PRECEDING) - s.size AS before
            FROM (
                SELECT x.* FROM (
                    SELECT e.* FROM bigbrotr.events_stored e
                    WHERE e.created_at >= p_since AND e.created_at <= p_until
                      AND (p_after_at IS NULL OR e.created_at < p_after_at
                           OR (e.created_at = p_after_at AND e.id > p_after_id))
                    ORDER BY e.created_at DESC, e.id LIMIT p_examine
                ) AS x
                WHERE (p_kinds IS NULL OR x.kind = ANY (p_kinds))
                  AND (p_pubkeys IS NULL OR x.pubkey IN (SELECT unnest(p_pubkeys)))
                  AND (p_hashes IS NULL OR x.tag_hashes && p_hashes)
                  AND (p_more IS NULL OR bigbrotr.has_hashes(x.tag_hashes, p_more))
                  AND (SELECT true FROM bigbrotr.hidden h
                       WHERE h.created_at = x.created_at AND h.slice = x.slice AND h.id = x.id
                         AND (h.why & shown.hides <> 0 OR h.expires_at <= shown.expired_by)) IS NULL
                LIMIT p_limit
            ) AS f
            CROSS JOIN LATERAL (SELECT coalesce(octet_length(f.tags), 0) + coalesce(octet_length(f.content), 0)) AS s (size)
        ) AS r
        WHERE r.before < most ORDER BY r.created_at DESC, r.id;
        GET DIAGNOSTICS found = ROW_COUNT;
        IF found < p_limit THEN
            SELECT e.created_at, e.id INTO last_at, last_id FROM bigbrotr.events_stored e
            WHERE e.created_at >= p_since AND e.created_at <= p_until
              AND (p_after_at IS NULL OR e.created_at < p_after_at OR (e.created_at = p_after_at AND e.id > p_after_id))
            ORDER BY e.created_at DESC, e.id OFFSET p_examine - 1 LIMIT 1;
            IF last_at IS NOT NULL THEN
                examined := p_examine;
                RETURN NEXT;
            END IF;
        END IF;
    WHEN 'find_by_pubkeys' THEN
        RETURN QUERY
        SELECT r.created_at, r.id, r.pubkey, r.kind, r.tags, r.content, r.sig,
               (SELECT w.raw FROM bigbrotr.events_raw w WHERE w.event_id = r.id AND w.slice = r.slice), r.num,
               NULL::integer, NULL::bigint, NULL::bytea
        FROM (
            SELECT f.*, sum(s.size) OVER (ROWS UNBOUNDED PRECEDING) - s.size AS before
            FROM (
                SELECT y.* FROM unnest(p_pubkeys) AS u (pubkey) CROSS JOIN LATERAL (
                    SELECT x.* FROM (
                        SELECT e.* FROM bigbrotr.events_stored e
                        WHERE e.pubkey = u.pubkey AND e.created_at >= p_since AND e.created_at <= p_until
                          AND (p_after_at IS NULL OR e.created_at < p_after_at
                               OR (e.created_at = p_after_at AND e.id > p_after_id))
                        ORDER BY e.created_at DESC, e.id OFFSET 0
                    ) AS x
                    WHERE (p_kinds IS NULL OR x.kind = ANY (p_kinds)) AND (p_hashes IS NULL OR x.tag_hashes && p_hashes)
                      AND (p_more IS NULL OR bigbrotr.has_hashes(x.tag_hashes, p_more))
                      AND (SELECT true FROM bigbrotr.hidden h
                           WHERE h.created_at = x.created_at AND h.slice = x.slice AND h.id = x.id
                             AND (h.why & shown.hides <> 0 OR h.expires_at <= shown.expired_by)) IS NULL
                    LIMIT p_limit
                ) AS y
                ORDER BY y.created_at DESC, y.id LIMIT p_limit
            ) AS f
            CROSS JOIN LATERAL (SELECT coalesce(octet_length(f.tags), 0) + coalesce(octet_length(f.content), 0)) AS s (size)
        ) AS r
        WHERE r.before < most ORDER BY r.created_at DESC, r.id;
    WHEN 'find_by_kinds' THEN
        RETURN QUERY
        SELECT r.created_at, r.id, r.pubkey, r.kind, r.tags, r.content, r.sig,
               (SELECT w.raw FROM bigbrotr.events_raw w WHERE w.event_id = r.id AND w.slice = r.slice), r.num,
               NULL::integer, NULL::bigint, NULL::bytea
        FROM (
            SELECT f.*, sum(s.size) OVER (ROWS UNBOUNDED PRECEDING) - s.size AS before
            FROM (
                SELECT y.* FROM unnest(p_kinds) AS u (kind) CROSS JOIN LATERAL (
                    SELECT x.* FROM (
                        SELECT e.* FROM bigbrotr.events_stored e
                        WHERE e.kind = u.kind AND e.created_at >= p_since AND e.created_at <= p_until
                          AND (p_after_at IS NULL OR e.created_at < p_after_at
                               OR (e.created_at = p_after_at AND e.id > p_after_id))
                        ORDER BY e.created_at DESC, e.id OFFSET 0
                    ) AS x
                    WHERE (p_pubkeys IS NULL OR x.pubkey IN (SELECT unnest(p_pubkeys)))
                      AND (p_hashes IS NULL OR x.tag_hashes && p_hashes)
                      AND (p_more IS NULL OR bigbrotr.has_hashes(x.tag_hashes, p_more))
                      AND (SELECT true FROM bigbrotr.hidden h
                           WHERE h.created_at = x.created_at AND h.slice = x.slice AND h.id = x.id
                             AND (h.why & shown.hides <> 0 OR h.expires_at <= shown.expired_by)) IS NULL
                    LIMIT p_limit
                ) AS y
                ORDER BY y.created_at DESC, y.id LIMIT p_limit
            ) AS f
            CROSS JOIN LATERAL (SELECT coalesce(octet_length(f.tags), 0) + coalesce(octet_length(f.content), 0)) AS s (size)
        ) AS r
        WHERE r.before < most ORDER BY r.created_at DESC, r.id;
    END CASE;
END $$;
COMMENT ON FUNCTION bigbrotr.read_in_order IS
    'Reads the events that walk_events, find_by_pubkeys or find_by_kinds (p_way) would find, up to the one whose tags and '
    'content pass p_most_bytes (NULL: all). Where a walk has looked at p_examine before it found p_limit, one more row has '
    'examined, how many it has looked at, and the last of them.';

-- Here the planner chooses, with the values: from two indexes only what both name is read, where that is quicker.
CREATE OR REPLACE FUNCTION bigbrotr.read_by_tags(
    p_since bigint, p_until bigint, p_after_at bigint, p_after_id bytea, p_kinds integer[], p_pubkeys bytea[],
    p_hashes integer[], p_more text[], p_limit integer, p_most_bytes bigint,
    p_view text, p_now bigint
) RETURNS TABLE (
    created_at bigint, id bytea, pubkey bytea, kind integer, tags text, content text, sig bytea, raw bytea, num bigint
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_indexscan = off SET work_mem = '32MB' SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    shown record;
BEGIN
    SELECT v.hides, v.expired_by INTO shown FROM bigbrotr.view_hides(p_view, p_now) AS v;
    RETURN QUERY
    SELECT r.created_at, r.id, r.pubkey, r.kind, r.tags, r.content, r.sig,
           (SELECT w.raw FROM bigbrotr.events_raw w WHERE w.event_id = r.id AND w.slice = r.slice), r.num
    FROM (
        SELECT f.*, sum(s.size) OVER (ROWS UNBOUNDED PRECEDING) - s.size AS before
        FROM (
            SELECT x.* FROM (
                SELECT e.* FROM bigbrotr.events_stored e
                WHERE e.tag_hashes && p_hashes AND (p_kinds IS NULL OR e.kind = ANY (p_kinds))
                  AND e.created_at >= p_since AND e.created_at <= p_until
                  AND (p_after_at IS NULL OR e.created_at < p_after_at OR (e.created_at = p_after_at AND e.id > p_after_id))
                OFFSET 0
            ) AS x
            WHERE (p_pubkeys IS NULL OR x.pubkey = ANY (p_pubkeys))
              AND (p_more IS NULL OR bigbrotr.has_hashes(x.tag_hashes, p_more))
              AND (SELECT true FROM bigbrotr.hidden h
                   WHERE h.created_at = x.created_at AND h.slice = x.slice AND h.id = x.id
                     AND (h.why & shown.hides <> 0 OR h.expires_at <= shown.expired_by)) IS NULL
            ORDER BY x.created_at DESC, x.id LIMIT p_limit
        ) AS f
        CROSS JOIN LATERAL (SELECT coalesce(octet_length(f.tags), 0) + coalesce(octet_length(f.content), 0)) AS s (size)
    ) AS r
    WHERE r.before < coalesce(p_most_bytes, 9223372036854775807) ORDER BY r.created_at DESC, r.id;
END $$;
COMMENT ON FUNCTION bigbrotr.read_by_tags IS
    'Reads the events that find_by_tags would find, up to the one whose tags and content pass p_most_bytes (NULL: all).';

-- An id is in one partition only: LIMIT 1 ends the search there.
CREATE OR REPLACE FUNCTION bigbrotr.read_by_ids(
    p_ids bytea[], p_since bigint, p_until bigint, p_after_at bigint, p_after_id bytea, p_kinds integer[],
    p_pubkeys bytea[], p_hashes integer[], p_more text[], p_limit integer, p_most_bytes bigint,
    p_view text, p_now bigint
) RETURNS TABLE (
    created_at bigint, id bytea, pubkey bytea, kind integer, tags text, content text, sig bytea, raw bytea, num bigint
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    shown record;
BEGIN
    SELECT v.hides, v.expired_by INTO shown FROM bigbrotr.view_hides(p_view, p_now) AS v;
    RETURN QUERY
    SELECT r.created_at, r.id, r.pubkey, r.kind, r.tags, r.content, r.sig,
           (SELECT w.raw FROM bigbrotr.events_raw w WHERE w.event_id = r.id AND w.slice = r.slice), r.num
    FROM (
        SELECT f.*, sum(s.size) OVER (ROWS UNBOUNDED PRECEDING) - s.size AS before
        FROM (
            SELECT x.* FROM unnest(p_ids) AS u (id) CROSS JOIN LATERAL (
                SELECT e.* FROM bigbrotr.events_stored e
                WHERE e.id = u.id AND (e.created_at >= p_since OR e.created_at < 0)
                  AND (e.created_at <= p_until OR e.created_at < 0)
                LIMIT 1
            ) AS x
            WHERE (p_after_at IS NULL OR x.created_at < p_after_at OR (x.created_at = p_after_at AND x.id > p_after_id))
              AND (p_kinds IS NULL OR x.kind = ANY (p_kinds))
              AND (p_pubkeys IS NULL OR x.pubkey IN (SELECT unnest(p_pubkeys)))
              AND (p_hashes IS NULL OR x.tag_hashes && p_hashes)
              AND (p_more IS NULL OR bigbrotr.has_hashes(x.tag_hashes, p_more))
              AND (SELECT true FROM bigbrotr.hidden h
                   WHERE h.created_at = x.created_at AND h.slice = x.slice AND h.id = x.id
                     AND (h.why & shown.hides <> 0 OR h.expires_at <= shown.expired_by)) IS NULL
            ORDER BY x.created_at DESC, x.id LIMIT p_limit
        ) AS f
        CROSS JOIN LATERAL (SELECT coalesce(octet_length(f.tags), 0) + coalesce(octet_length(f.content), 0)) AS s (size)
    ) AS r
    WHERE r.before < coalesce(p_most_bytes, 9223372036854775807) ORDER BY r.created_at DESC, r.id;
END $$;
COMMENT ON FUNCTION bigbrotr.read_by_ids IS
    'Reads the events that find_by_ids would find, up to the one whose tags and content pass p_most_bytes (NULL: all).';
