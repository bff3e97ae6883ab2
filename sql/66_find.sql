-- Find: the archived events that match the conditions of a filter (NIP-01), newest first and by id within a second. There is
-- a function for each way to look for them; which is quickest, the caller knows from the statistics. All take the same:
--   p_since, p_until      seconds, both included; the caller keeps to one partition, so that each way reads one index of it
--   p_after_at, p_after_id  the last event of the page before: only what comes after it
--   p_kinds, p_pubkeys    one of these; NULL: any
--   p_hashes              hashes of tags, see tag_hash: one of these; NULL: any. Two tags may share a hash: the caller looks again
--   p_more                more such lists, as array literals: one of each
-- and return (created_at, id) of p_limit events at most. A condition that could lead the planner to another index than the
-- one that is meant is written so that it cannot.

CREATE OR REPLACE FUNCTION bigbrotr.has_hashes(p_tag_hashes integer[], p_more text[]) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN NOT EXISTS (SELECT FROM unnest(p_more) AS m (hashes) WHERE NOT p_tag_hashes && m.hashes::integer[]);
COMMENT ON FUNCTION bigbrotr.has_hashes IS 'Whether an event with these hashes has one of each list in p_more.';

CREATE OR REPLACE FUNCTION bigbrotr.walk_events(
    p_since bigint, p_until bigint, p_after_at bigint, p_after_id bytea, p_kinds integer[], p_pubkeys bytea[],
    p_hashes integer[], p_more text[], p_limit integer, p_examine integer,
    OUT created_ats bigint[], OUT ids bytea[], OUT examined integer, OUT last_at bigint, OUT last_id bytea
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_custom_plan
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
    p_pubkeys bytea[], p_hashes integer[], p_more text[], p_limit integer
) RETURNS TABLE (created_at bigint, id bytea)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN QUERY
    SELECT e.created_at, e.id
    FROM unnest(p_ids) AS u (id) CROSS JOIN LATERAL (
        SELECT x.created_at, x.id FROM bigbrotr.events_stored x
        WHERE x.id = u.id AND x.created_at >= p_since AND x.created_at <= p_until
          AND (p_kinds IS NULL OR x.kind = ANY (p_kinds)) AND (p_pubkeys IS NULL OR x.pubkey = ANY (p_pubkeys))
          AND (p_hashes IS NULL OR x.tag_hashes && p_hashes)
          AND (p_more IS NULL OR bigbrotr.has_hashes(x.tag_hashes, p_more))
        OFFSET 0
    ) AS e
    WHERE p_after_at IS NULL OR e.created_at < p_after_at OR (e.created_at = p_after_at AND e.id > p_after_id)
    ORDER BY e.created_at DESC, e.id LIMIT p_limit;
END $$;
COMMENT ON FUNCTION bigbrotr.find_by_ids IS 'Finds events by their ids.';

CREATE OR REPLACE FUNCTION bigbrotr.find_by_pubkeys(
    p_since bigint, p_until bigint, p_after_at bigint, p_after_id bytea, p_kinds integer[], p_pubkeys bytea[],
    p_hashes integer[], p_more text[], p_limit integer
) RETURNS TABLE (created_at bigint, id bytea)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_custom_plan
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
        ORDER BY x.pubkey, x.created_at DESC, x.id LIMIT p_limit
    ) AS e
    ORDER BY e.created_at DESC, e.id LIMIT p_limit;
END $$;
COMMENT ON FUNCTION bigbrotr.find_by_pubkeys IS 'Finds events by their authors, each for itself.';

CREATE OR REPLACE FUNCTION bigbrotr.find_by_kinds(
    p_since bigint, p_until bigint, p_after_at bigint, p_after_id bytea, p_kinds integer[], p_pubkeys bytea[],
    p_hashes integer[], p_more text[], p_limit integer
) RETURNS TABLE (created_at bigint, id bytea)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET plan_cache_mode = force_generic_plan
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
        ORDER BY x.kind, x.created_at DESC, x.id LIMIT p_limit
    ) AS e
    ORDER BY e.created_at DESC, e.id LIMIT p_limit;
END $$;
COMMENT ON FUNCTION bigbrotr.find_by_kinds IS 'Finds events by their kinds, each for itself.';

CREATE OR REPLACE FUNCTION bigbrotr.find_by_tags(
    p_since bigint, p_until bigint, p_after_at bigint, p_after_id bytea, p_kinds integer[], p_pubkeys bytea[],
    p_hashes integer[], p_more text[], p_limit integer
) RETURNS TABLE (created_at bigint, id bytea)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_indexscan = off SET plan_cache_mode = force_custom_plan
AS $$
BEGIN
    RETURN QUERY
    SELECT e.created_at, e.id FROM bigbrotr.events_stored e
    WHERE e.tag_hashes && p_hashes AND e.created_at >= p_since AND e.created_at <= p_until
      AND (bigbrotr.slice_of(p_since) <> bigbrotr.slice_of(p_until) OR e.slice = bigbrotr.slice_of(p_since))
      AND (p_after_at IS NULL OR e.created_at < p_after_at OR (e.created_at = p_after_at AND e.id > p_after_id))
      AND (p_kinds IS NULL OR e.kind + 0 = ANY (p_kinds)) AND (p_pubkeys IS NULL OR e.pubkey || '' = ANY (p_pubkeys))
      AND (p_more IS NULL OR bigbrotr.has_hashes(e.tag_hashes, p_more))
    ORDER BY e.created_at DESC, e.id LIMIT p_limit;
END $$;
COMMENT ON FUNCTION bigbrotr.find_by_tags IS 'Finds events by their tags; it looks at all that have one of p_hashes.';

CREATE OR REPLACE FUNCTION bigbrotr.read_events(p_created_ats bigint[], p_ids bytea[])
RETURNS TABLE (
    created_at bigint, id bytea, pubkey bytea, kind integer, tags text, content text, sig bytea, raw bytea, num bigint
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
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
