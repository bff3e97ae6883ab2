-- Verification: whether the archive still holds what it claims, and what can be derived again. Nothing here is called but by
-- `bigbrotr verify`.

CREATE OR REPLACE FUNCTION bigbrotr.verify_rows(
    p_since bigint, p_until bigint, p_after_at bigint, p_after_id bytea, p_limit integer
) RETURNS TABLE (
    created_at bigint, id bytea, pubkey bytea, kind integer, tags text, content text, sig bytea, raw bytea, slice integer,
    tag_hashes integer[]
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_custom_plan
AS $$
BEGIN
    RETURN QUERY
    SELECT e.created_at, e.id, e.pubkey, e.kind, e.tags, e.content, e.sig, w.raw, e.slice, e.tag_hashes
    FROM bigbrotr.events_stored e LEFT JOIN bigbrotr.events_raw w ON w.event_id = e.id AND w.slice = e.slice
    WHERE e.created_at >= p_since AND e.created_at <= p_until AND (e.created_at, e.id) > (p_after_at, p_after_id)
    ORDER BY e.created_at, e.id LIMIT p_limit;
END $$;
COMMENT ON FUNCTION bigbrotr.verify_rows IS
    'The next events of [p_since, p_until] (Unix seconds) after (p_after_at, p_after_id), as they are stored, erased ones as '
    'well, with the exact bytes of those that have some.';

CREATE OR REPLACE FUNCTION bigbrotr.verify_slice(
    p_slice integer, OUT events bigint, OUT doubles bigint, OUT relay_ids integer[], OUT pairs bigint[], OUT lone bigint[]
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    since_at bigint := bigbrotr.slice_start(p_slice);
    until_at bigint := bigbrotr.slice_end(p_slice);
BEGIN
    SELECT count(*), count(*) - count(DISTINCT e.num) INTO events, doubles FROM bigbrotr.events_stored e
    WHERE e.slice = p_slice AND e.created_at >= since_at AND e.created_at <= until_at;
    SELECT array_agg(x.relay_id), array_agg(x.pairs), array_agg(x.lone) INTO relay_ids, pairs, lone
    FROM (
        SELECT h.relay_id, count(*) AS pairs, count(*) FILTER (WHERE e.num IS NULL) AS lone
        FROM (
            SELECT p.relay_id, (p.chunk << 8) + place - 1 AS num
            FROM bigbrotr.presence p CROSS JOIN LATERAL generate_subscripts(p.seen_ats, 1) AS place
            WHERE p.slice = p_slice AND p.seen_ats[place] IS NOT NULL
        ) AS h
        LEFT JOIN (
            SELECT DISTINCT s.num FROM bigbrotr.events_stored s
            WHERE s.slice = p_slice AND s.created_at >= since_at AND s.created_at <= until_at
        ) AS e ON e.num = h.num
        GROUP BY h.relay_id
    ) AS x;
END $$;
COMMENT ON FUNCTION bigbrotr.verify_slice IS
    'Counts the events of a slice, those whose number another one has as well (doubles), and for each relay its pairs, and '
    'those of them whose event is not there (lone).';

CREATE OR REPLACE FUNCTION bigbrotr.verify_week(
    p_week integer, OUT events bigint, OUT doubles bigint, OUT relay_ids integer[], OUT pairs bigint[], OUT lone bigint[]
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT v.events, v.doubles, v.relay_ids, v.pairs, v.lone INTO events, doubles, relay_ids, pairs, lone
    FROM bigbrotr.verify_slice(p_slice => p_week) AS v;
END $$;
COMMENT ON FUNCTION bigbrotr.verify_week IS 'What verify_slice counts, for who does not know where the week lies.';

CREATE OR REPLACE FUNCTION bigbrotr.end_lone_pairs(p_slice integer, p_relay_id integer) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    since_at bigint := bigbrotr.slice_start(p_slice);
    until_at bigint := bigbrotr.slice_end(p_slice);
    nums     bigint[];
BEGIN
    SELECT array_agg(h.num) INTO nums
    FROM (
        SELECT (p.chunk << 8) + place - 1 AS num
        FROM bigbrotr.presence p CROSS JOIN LATERAL generate_subscripts(p.seen_ats, 1) AS place
        WHERE p.slice = p_slice AND p.relay_id = p_relay_id AND p.seen_ats[place] IS NOT NULL
    ) AS h
    LEFT JOIN (
        SELECT s.num FROM bigbrotr.events_stored s
        WHERE s.slice = p_slice AND s.created_at >= since_at AND s.created_at <= until_at
    ) AS e ON e.num = h.num
    WHERE e.num IS NULL;
    RETURN bigbrotr.write_pairs(
        p_slice => p_slice, p_relay_id => p_relay_id, p_nums => nums,
        p_seen_ats => array_fill(NULL::integer, ARRAY[coalesce(cardinality(nums), 0)]));
END $$;
COMMENT ON FUNCTION bigbrotr.end_lone_pairs IS 'Takes back the pairs of a relay and events of one slice that are not there. Returns how many.';

CREATE OR REPLACE FUNCTION bigbrotr.mend_presence(p_week integer, p_relay_ids integer[]) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    relay integer;
    part  integer;
    ended bigint := 0;
BEGIN
    -- Whoever stores a page numbers its events, copies them, and notes its pairs, all under this lock.
    LOCK TABLE bigbrotr.presence_lock IN EXCLUSIVE MODE;
    FOREACH relay IN ARRAY p_relay_ids LOOP
        SELECT e.ended INTO part
        FROM bigbrotr.end_lone_pairs(p_slice => p_week, p_relay_id => relay) AS e (ended);
        ended := ended + part;
    END LOOP;
    RETURN ended;
END $$;
COMMENT ON FUNCTION bigbrotr.mend_presence IS
    'Takes back the pairs of some relays and events of one week that are not there. Returns how many. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.mend_tallies(p_relay_ids integer[], p_pairs bigint[], p_events bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE bigbrotr.tallies t SET pairs = t.pairs + u.pairs
    FROM unnest(p_relay_ids, p_pairs) AS u (relay_id, pairs) WHERE t.relay_id = u.relay_id;
    UPDATE bigbrotr.tallies t SET events = t.events + p_events WHERE t.relay_id = 0 AND p_events <> 0;
END $$;
COMMENT ON FUNCTION bigbrotr.mend_tallies IS
    'Adds to the tallies of some relays by how much they are wrong, and to that of no relay by how much the sum of events is.';

CREATE OR REPLACE FUNCTION bigbrotr.mend_events(
    p_slice integer, p_created_ats bigint[], p_ids bytea[], p_tag_hashes integer[], p_tag_ends integer[]
) RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    mended integer;
BEGIN
    WITH done AS (
        UPDATE bigbrotr.events_stored e
        SET tag_hashes = nullif(p_tag_hashes[coalesce(p_tag_ends[u.position - 1], 0) + 1:u.tag_end], '{}')
        FROM unnest(p_created_ats, p_ids, p_tag_ends) WITH ORDINALITY AS u (created_at, id, tag_end, position)
        WHERE e.slice = p_slice AND e.created_at = u.created_at AND e.id = u.id AND e.kind >= 0
        RETURNING 1
    )
    SELECT count(*) INTO mended FROM done;
    RETURN mended;
END $$;
COMMENT ON FUNCTION bigbrotr.mend_events IS
    'Sets the tag hashes of events of one slice; p_tag_hashes and p_tag_ends as in insert_events. Returns how many.';

CREATE OR REPLACE FUNCTION bigbrotr.mend_hashes(
    p_created_ats bigint[], p_ids bytea[], p_tag_hashes integer[], p_tag_ends integer[]
) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    run    record;
    before integer;
    part   integer;
    mended integer := 0;
BEGIN
    FOR run IN SELECT r.slice, r.first, r.last FROM bigbrotr.runs_of(p_created_ats) AS r LOOP
        before := coalesce(p_tag_ends[run.first - 1], 0);
        SELECT m.mended INTO part FROM bigbrotr.mend_events(
            p_slice => run.slice, p_created_ats => p_created_ats[run.first:run.last], p_ids => p_ids[run.first:run.last],
            p_tag_hashes => p_tag_hashes[before + 1:p_tag_ends[run.last]],
            p_tag_ends => ARRAY(SELECT u.tag_end - before FROM unnest(p_tag_ends[run.first:run.last])
                                WITH ORDINALITY AS u (tag_end, position) ORDER BY u.position)) AS m (mended);
        mended := mended + part;
    END LOOP;
    RETURN mended;
END $$;
COMMENT ON FUNCTION bigbrotr.mend_hashes IS
    'Sets the tag hashes of events, which are sorted by time; p_tag_hashes and p_tag_ends as in insert_events. Returns how many.';

CREATE OR REPLACE FUNCTION bigbrotr.verify_coverage(p_now bigint)
RETURNS TABLE (url text, filter text, what text, spans text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    SELECT r.url, x.filter, x.what, x.spans
    FROM (
        SELECT a.relay_id, a.filter, 'proven twice' AS what, (a.proven * b.proven)::text AS spans
        FROM bigbrotr.coverage a JOIN bigbrotr.coverage b ON b.relay_id = a.relay_id AND b.filter = a.filter
        WHERE (a.proven_at, a.how) < (b.proven_at, b.how) AND a.proven && b.proven
        UNION ALL
        SELECT c.relay_id, c.filter, 'proven in the future', c.proven::text FROM bigbrotr.coverage c
        WHERE c.proven_at > p_now + 3600
        UNION ALL
        SELECT c.relay_id, c.filter, 'nothing is proven', c.proven::text FROM bigbrotr.coverage c WHERE isempty(c.proven)
        UNION ALL
        SELECT a.relay_id, a.filter, 'two gaps', (a.span * b.span)::text
        FROM bigbrotr.gaps a JOIN bigbrotr.gaps b ON b.relay_id = a.relay_id AND b.filter = a.filter
        WHERE a.span < b.span AND a.span && b.span
    ) AS x
    JOIN bigbrotr.relays r ON r.id = x.relay_id
    ORDER BY r.url, x.filter, x.what, x.spans;
END $$;
COMMENT ON FUNCTION bigbrotr.verify_coverage IS
    'Where coverage and gaps contradict themselves: seconds of a relay and filter that stand in two proofs or two gaps, proofs '
    'from later than p_now (Unix seconds), and proofs of nothing.';

-- Of two proofs the newer one stands.
CREATE OR REPLACE FUNCTION bigbrotr.mend_coverage(p_now bigint) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    mended  bigint;
    emptied bigint;
BEGIN
    WITH newer AS (
        SELECT a.relay_id, a.filter, a.proven_at, a.how, range_agg(b.proven) AS spans
        FROM bigbrotr.coverage a JOIN bigbrotr.coverage b ON b.relay_id = a.relay_id AND b.filter = a.filter
        WHERE (a.proven_at, a.how) < (b.proven_at, b.how) AND a.proven && b.proven
        GROUP BY a.relay_id, a.filter, a.proven_at, a.how
    ), done AS (
        UPDATE bigbrotr.coverage c SET proven = c.proven - n.spans
        FROM newer n
        WHERE c.relay_id = n.relay_id AND c.filter = n.filter AND c.proven_at = n.proven_at AND c.how = n.how
        RETURNING 1
    )
    SELECT count(*) INTO mended FROM done;
    WITH done AS (
        DELETE FROM bigbrotr.coverage c WHERE isempty(c.proven) OR c.proven_at > p_now + 3600 RETURNING 1
    )
    SELECT count(*) INTO emptied FROM done;
    IF mended + emptied > 0 THEN
        DELETE FROM bigbrotr.relay_sums;  -- no visit has begun that would have them made anew
    END IF;
    RETURN mended + emptied;
END $$;
COMMENT ON FUNCTION bigbrotr.mend_coverage IS
    'Lets each second of a relay and filter stand in its newest proof alone, and forgets proofs of nothing and of later than '
    'p_now (Unix seconds): what they covered is asked for again. Returns how many rows have changed. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.verify_partitions()
RETURNS TABLE (name text, bounds text, lower_at bigint, upper_at bigint, first_at bigint, last_at bigint, outside bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    -- Two scans of an index, or of a table: the rows of a partition are not told by what its bounds say.
    RETURN QUERY
    WITH parts AS (
        SELECT c.oid, c.relname, pg_get_expr(c.relpartbound, c.oid) AS words,
               regexp_match(pg_get_expr(c.relpartbound, c.oid), $x$FROM \('?(-?\d+)'?\) TO \('?(-?\d+)'?\)$x$) AS edges
        FROM pg_partition_tree('bigbrotr.events_stored') t JOIN pg_class c ON c.oid = t.relid WHERE t.isleaf
    ), found AS (
        SELECT e.tableoid AS oid, e.created_at FROM bigbrotr.events_stored e
    )
    SELECT p.relname::text, p.words, p.edges[1]::bigint, p.edges[2]::bigint, min(f.created_at), max(f.created_at),
           count(*) FILTER (WHERE p.edges IS NOT NULL AND (f.created_at < p.edges[1]::bigint OR f.created_at >= p.edges[2]::bigint)
                               OR p.edges IS NULL AND EXISTS (
                                      SELECT FROM parts o
                                      WHERE f.created_at >= o.edges[1]::bigint AND f.created_at < o.edges[2]::bigint))
    FROM parts p LEFT JOIN found f ON f.oid = p.oid
    GROUP BY p.relname, p.words, p.edges ORDER BY 3 NULLS LAST;
END $$;
COMMENT ON FUNCTION bigbrotr.verify_partitions IS
    'The partitions of the events, their bounds, their first and last event (Unix seconds), and how many lie outside: of the '
    'default partition those for which there is another one. Reads all events.';

CREATE OR REPLACE FUNCTION bigbrotr.verify_weeks(OUT events bigint, OUT astray bigint, OUT unlisted integer[])
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    weeks integer[];
BEGIN
    SELECT coalesce(sum(x.events), 0), coalesce(sum(x.events) FILTER (WHERE x.is_astray), 0), array_agg(DISTINCT x.slice)
    INTO events, astray, weeks
    FROM (
        SELECT e.slice, e.slice <> bigbrotr.slice_of(e.created_at) AS is_astray, count(*) AS events
        FROM bigbrotr.events_stored e GROUP BY 1, 2
    ) AS x;
    unlisted := ARRAY(SELECT u.week FROM unnest(weeks) AS u (week)
                      WHERE NOT EXISTS (SELECT FROM bigbrotr.slices s WHERE s.slice = u.week));
END $$;
COMMENT ON FUNCTION bigbrotr.verify_weeks IS
    'How many events there are, how many have the number of another week than that of their time, and which weeks with '
    'events are not in slices. Reads all events.';

CREATE OR REPLACE FUNCTION bigbrotr.mend_weeks(p_weeks integer[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO bigbrotr.slices (slice)
    SELECT u.slice FROM unnest(p_weeks) AS u (slice)
    WHERE NOT EXISTS (SELECT FROM bigbrotr.slices s WHERE s.slice = u.slice);
END $$;
COMMENT ON FUNCTION bigbrotr.mend_weeks IS 'Adds weeks to slices, unless they are there. Idempotent.';
