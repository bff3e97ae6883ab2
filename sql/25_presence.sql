-- Presence: which relays hold an event, and since when we know. A row tells it of one relay and 256 events, a chunk: those
-- whose numbers agree but for the last eight bits. Only the process that visits a relay writes its rows, so that visits
-- never wait for each other; and a pair takes its four bytes, wherever a relay holds most of a chunk.

CREATE TABLE IF NOT EXISTS bigbrotr.presence (
    chunk    bigint    NOT NULL,
    slice    integer   NOT NULL,
    relay_id integer   NOT NULL REFERENCES bigbrotr.relays (id) ON DELETE CASCADE,
    seen_ats integer[] NOT NULL,
    PRIMARY KEY (slice, chunk, relay_id)
) PARTITION BY RANGE (slice);
COMMENT ON TABLE bigbrotr.presence IS
    'Which relays hold which events, and since when we know: a row for each relay and chunk of 256 event numbers. The '
    'view events_relays shows it as pairs.';
COMMENT ON COLUMN bigbrotr.presence.chunk IS 'Numbers of the events, without their last eight bits: num >> 8.';
COMMENT ON COLUMN bigbrotr.presence.slice IS 'Week of the events, see slice_of.';
COMMENT ON COLUMN bigbrotr.presence.relay_id IS 'Number of the relay.';
COMMENT ON COLUMN bigbrotr.presence.seen_ats IS
    'At (num & 255) + 1: when the relay was first seen to hold the event num, see unpack_seen; NULL if it is not known '
    'to hold it.';
-- ANALYZE would take all times of all rows apart and count each, in seconds, for nobody.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'bigbrotr.presence'::regclass
               AND attname = 'seen_ats' AND attstattarget IS DISTINCT FROM 0) THEN
        ALTER TABLE bigbrotr.presence ALTER COLUMN seen_ats SET STATISTICS 0;
    END IF;
END $$;
CREATE INDEX IF NOT EXISTS presence_relay_id_idx ON bigbrotr.presence (relay_id, slice);

-- Good until 2088.
CREATE OR REPLACE FUNCTION bigbrotr.pack_seen(p_time bigint) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (p_time - 1577836800)::integer;
COMMENT ON FUNCTION bigbrotr.pack_seen IS 'A time (Unix seconds) in four bytes: seconds since 2020-01-01.';

CREATE OR REPLACE FUNCTION bigbrotr.unpack_seen(p_packed integer) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN p_packed::bigint + 1577836800;
COMMENT ON FUNCTION bigbrotr.unpack_seen IS 'A time of presence.seen_ats in Unix seconds.';

-- Nothing is locked while a row is computed: it is written only if it still is as it was read, else read again.
CREATE OR REPLACE FUNCTION bigbrotr.write_sorted_pairs(
    p_slice integer, p_relay_id integer, p_nums bigint[], p_seen_ats integer[]
) RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    seen       integer := p_seen_ats[1];
    is_for_all boolean := seen IS NOT NULL AND p_seen_ats = array_fill(seen, ARRAY[cardinality(p_seen_ats)]);
    place      integer := 1;
    last_place integer;    -- of the chunk
    part_chunk bigint;
    first      integer;    -- in seen_ats
    last       integer;
    held       integer[];
    before     integer[];
    changed    integer;
    total      integer := 0;
BEGIN
    WHILE p_relay_id IS NOT NULL AND place <= cardinality(p_nums) LOOP
        part_chunk := p_nums[place] >> 8;
        last_place := width_bucket(part_chunk << 8 | 255, p_nums);
        LOOP
            SELECT p.seen_ats INTO before FROM bigbrotr.presence p
            WHERE p.slice = p_slice AND p.chunk = part_chunk AND p.relay_id = p_relay_id;
            held := coalesce(before, '{}');
            changed := 0;
            first := (p_nums[place] & 255) + 1;
            last := (p_nums[last_place] & 255) + 1;
            IF is_for_all AND last - first = last_place - place  -- side by side
               AND cardinality(array_remove(held[first:last], NULL)) = 0 THEN
                changed := last - first + 1;
                held[first:last] := array_fill(seen, ARRAY[changed]);
            ELSE
                FOR i IN place..last_place LOOP
                    first := (p_nums[i] & 255) + 1;
                    IF (held[first] IS NULL) <> (p_seen_ats[i] IS NULL) THEN
                        held[first] := p_seen_ats[i];
                        changed := changed + 1;
                    END IF;
                END LOOP;
            END IF;
            EXIT WHEN changed = 0;
            IF before IS NULL THEN
                INSERT INTO bigbrotr.presence (slice, chunk, relay_id, seen_ats)
                VALUES (p_slice, part_chunk, p_relay_id, held)
                ON CONFLICT DO NOTHING;
            ELSE
                UPDATE bigbrotr.presence p SET seen_ats = held
                WHERE p.slice = p_slice AND p.chunk = part_chunk AND p.relay_id = p_relay_id AND p.seen_ats = before;
            END IF;
            IF FOUND THEN
                total := total + changed;
                EXIT;
            END IF;
        END LOOP;
        place := last_place + 1;
    END LOOP;
    RETURN total;
END $$;
COMMENT ON FUNCTION bigbrotr.write_sorted_pairs IS 'As write_pairs; the numbers ascend, and each comes once.';

CREATE OR REPLACE FUNCTION bigbrotr.write_pairs(p_slice integer, p_relay_id integer, p_nums bigint[], p_seen_ats integer[])
RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    nums  bigint[];
    seens integer[];
BEGIN
    IF p_seen_ats = array_fill(p_seen_ats[1], ARRAY[cardinality(p_seen_ats)]) THEN  -- the same for all
        nums := ARRAY(SELECT DISTINCT u.num FROM unnest(p_nums) AS u (num) ORDER BY u.num);
        seens := p_seen_ats[:cardinality(nums)];
    ELSE
        SELECT array_agg(u.num ORDER BY u.num), array_agg(u.seen_at ORDER BY u.num) INTO nums, seens
        FROM (SELECT DISTINCT ON (g.num) g.num, g.seen_at FROM unnest(p_nums, p_seen_ats) AS g (num, seen_at)
              ORDER BY g.num, g.seen_at) AS u;
    END IF;
    RETURN bigbrotr.write_sorted_pairs(
        p_slice => p_slice, p_relay_id => p_relay_id, p_nums => nums, p_seen_ats => seens);
END $$;
COMMENT ON FUNCTION bigbrotr.write_pairs IS
    'Notes since when a relay holds events of one slice, unless that is noted already; a NULL in p_seen_ats takes a pair '
    'back. Arrays of one length: the numbers of the events (of one that comes twice the earlier time counts), and packed '
    'times, see pack_seen. Returns how many pairs have begun or ended; 0 where p_relay_id is NULL. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.note_presence(
    p_relay_id integer, p_epoch bigint, p_created_ats bigint[], p_ids bytea[], p_seen_at bigint
) RETURNS integer[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    holder  integer := (SELECT r.id FROM bigbrotr.relays r WHERE r.id = p_relay_id);  -- NULL: deleted meanwhile
    unknown integer[] := '{}';
    noted   integer := 0;
    run     record;
    done    record;
BEGIN
    -- An orphan may not go between the look at it and the note.
    LOCK TABLE bigbrotr.presence_lock IN ROW EXCLUSIVE MODE;
    FOR run IN SELECT r.slice, r.first, r.last FROM bigbrotr.runs_of(p_created_ats) AS r LOOP
        SELECT s.known, s.noted INTO done
        FROM bigbrotr.note_slice(
            p_slice => run.slice, p_relay_id => holder, p_created_ats => p_created_ats[run.first:run.last],
            p_ids => p_ids[run.first:run.last], p_seen_at => bigbrotr.pack_seen(p_seen_at)) AS s;
        noted := noted + done.noted;
        IF cardinality(done.known) = 0 THEN
            unknown := unknown || ARRAY(SELECT generate_series(run.first, run.last));
        ELSIF cardinality(done.known) <= run.last - run.first THEN
            unknown := unknown || ARRAY(
                SELECT generate_series(run.first, run.last)
                EXCEPT SELECT k.position::integer + run.first - 1 FROM unnest(done.known) AS k (position) ORDER BY 1);
        END IF;
    END LOOP;
    IF noted > 0 THEN
        PERFORM bigbrotr.count_pairs(
            p_relay_id => p_relay_id, p_pairs => noted,
            p_since => p_created_ats[1], p_last => p_created_ats[cardinality(p_created_ats)]);
        PERFORM bigbrotr.hold_lease(p_relay_id, p_epoch);
    END IF;
    PERFORM bigbrotr.note_days(p_created_ats, noted);
    RETURN unknown;
END $$;
COMMENT ON FUNCTION bigbrotr.note_presence IS
    'Notes that a relay holds those of the given events that are archived. Returns the positions (from 1) of the '
    'others. Arrays of one length, sorted by (created_at, id). Refused (BB001) if another process has claimed the '
    'relay. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.note_slice(
    p_slice integer, p_relay_id integer, p_created_ats bigint[], p_ids bytea[], p_seen_at integer,
    OUT known bigint[], OUT noted integer
)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    nums bigint[];
BEGIN
    SELECT f.places, f.nums INTO known, nums
    FROM bigbrotr.numbers_of(p_slice => p_slice, p_created_ats => p_created_ats, p_ids => p_ids) AS f;
    noted := bigbrotr.write_pairs(
        p_slice => p_slice, p_relay_id => p_relay_id, p_nums => nums,
        p_seen_ats => array_fill(p_seen_at, ARRAY[cardinality(nums)]));
END $$;
COMMENT ON FUNCTION bigbrotr.note_slice IS
    'The part of note_presence that writes one slice. p_seen_at: a packed time. known: positions of the events, from 1, '
    'that are archived; noted: how many pairs are new.';

-- One pass over the window: half of what it costs to name each event. What was noted before it turns out that the window
-- holds other events is taken back with the transaction.
CREATE OR REPLACE FUNCTION bigbrotr.mark_window(
    p_relay_id integer, p_epoch bigint, p_since bigint, p_until bigint, p_digest bytea, p_absent_ids bytea[],
    p_seen_at bigint
) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    holder integer := (SELECT r.id FROM bigbrotr.relays r WHERE r.id = p_relay_id);  -- NULL: deleted meanwhile
    noted  integer := 0;
    ids    bytea[] := '{}';
    part   integer;
    done   record;
BEGIN
    LOCK TABLE bigbrotr.presence_lock IN ROW EXCLUSIVE MODE;
    FOR part IN
        SELECT DISTINCT s.slice FROM bigbrotr.slices s
        WHERE s.slice >= bigbrotr.slice_of(p_since) AND s.slice <= bigbrotr.slice_of(p_until - 1) ORDER BY s.slice
    LOOP
        SELECT m.noted, m.ids INTO done
        FROM bigbrotr.mark_slice(
            p_slice => part, p_relay_id => holder, p_since => p_since, p_until => p_until,
            p_absent_ids => p_absent_ids, p_seen_at => bigbrotr.pack_seen(p_seen_at)) AS m;
        noted := noted + done.noted;
        PERFORM bigbrotr.note_week(p_week => part, p_since => p_since, p_until => p_until, p_changed => done.noted);
        ids := ids || done.ids;
    END LOOP;
    IF sha256((SELECT coalesce(string_agg(u.ids, '' ORDER BY u.position), '')
               FROM unnest(ids) WITH ORDINALITY AS u (ids, position))) <> p_digest THEN
        RAISE EXCEPTION 'the window holds other events by now' USING ERRCODE = 'BB002';
    END IF;
    IF noted > 0 THEN
        PERFORM bigbrotr.count_pairs(
            p_relay_id => p_relay_id, p_pairs => noted, p_since => p_since, p_last => p_until - 1);
        PERFORM bigbrotr.hold_lease(p_relay_id, p_epoch);
    END IF;
    RETURN noted;
END $$;
COMMENT ON FUNCTION bigbrotr.mark_window IS
    'Notes that a relay holds all archived events of [p_since, p_until) except p_absent_ids. Returns how many of '
    'these pairs are new. Refused (BB002) unless p_digest is the SHA-256 of all ids of the window in the order '
    '(created_at, id): events have come or gone since they were read. Refused (BB001) if another process has claimed '
    'the relay. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.mark_slice(
    p_slice integer, p_relay_id integer, p_since bigint, p_until bigint, p_absent_ids bytea[], p_seen_at integer,
    OUT noted integer, OUT ids bytea
)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    since_at bigint := greatest(p_since, bigbrotr.slice_start(p_slice));
    until_at bigint := least(p_until, bigbrotr.slice_end(p_slice));
    nums     bigint[];
BEGIN
    SELECT coalesce(string_agg(x.id, ''), ''), array_agg(x.num) FILTER (WHERE x.id <> ALL (p_absent_ids)) INTO ids, nums
    FROM (
        SELECT e.id, e.num FROM bigbrotr.events_stored e
        WHERE e.slice = p_slice AND e.created_at >= since_at AND e.created_at < until_at
        ORDER BY e.created_at, e.id
    ) AS x;
    noted := bigbrotr.write_pairs(
        p_slice => p_slice, p_relay_id => p_relay_id, p_nums => nums,
        p_seen_ats => array_fill(p_seen_at, ARRAY[coalesce(cardinality(nums), 0)]));
END $$;
COMMENT ON FUNCTION bigbrotr.mark_slice IS
    'The part of mark_window that writes one slice. p_seen_at: a packed time. ids: those of the window, in the order '
    '(created_at, id).';

CREATE OR REPLACE FUNCTION bigbrotr.read_held_ids(
    p_relay_id integer, p_since bigint, p_until bigint, p_after bytea, p_limit bigint,
    p_kinds integer[], p_pubkeys bytea[], p_tags jsonb
) RETURNS TABLE (created_ats bytea, ids bytea)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    part      integer;
    page      record;
    times     bytea[] := '{}';
    found_ids bytea[] := '{}';
BEGIN
    FOR part IN SELECT s.slice FROM bigbrotr.parts_of(p_since, p_until) AS s (slice) LOOP
        SELECT s.created_ats, s.ids, s.count INTO page
        FROM bigbrotr.read_held_slice(
            p_slice => part, p_relay_id => p_relay_id, p_since => p_since, p_until => p_until, p_after => p_after,
            p_limit => p_limit, p_kinds => p_kinds, p_pubkeys => p_pubkeys, p_tags => p_tags) AS s;
        times := times || page.created_ats;
        found_ids := found_ids || page.ids;
        p_limit := p_limit - page.count;
        EXIT WHEN p_limit <= 0;
    END LOOP;
    RETURN QUERY SELECT string_agg(u.times, ''), string_agg(u.ids, '') FROM unnest(times, found_ids) AS u (times, ids);
END $$;
COMMENT ON FUNCTION bigbrotr.read_held_ids IS
    'The next ids of [p_since, p_until) that a relay is known to hold, as read_ids returns those of the archive. '
    'p_tags keeps only events with a tag of each letter that has one of its values, e.g. {"t": ["nostr"]}; where tags '
    'are not kept, no id is returned.';

CREATE OR REPLACE FUNCTION bigbrotr.read_held_slice(
    p_slice integer, p_relay_id integer, p_since bigint, p_until bigint, p_after bytea, p_limit bigint,
    p_kinds integer[], p_pubkeys bytea[], p_tags jsonb,
    OUT created_ats bytea, OUT ids bytea, OUT count bigint
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_sort = off SET max_parallel_workers_per_gather = 0 SET plan_cache_mode = force_custom_plan
AS $$
BEGIN
    SELECT string_agg(int8send(x.created_at), ''), string_agg(x.id, ''), count(*) INTO created_ats, ids, count FROM (
        SELECT e.created_at, e.id FROM bigbrotr.events_stored e
        JOIN bigbrotr.presence p ON p.slice = e.slice AND p.chunk = e.num >> 8 AND p.relay_id = p_relay_id
        WHERE (p_slice IS NULL OR e.slice = p_slice)
          AND e.created_at >= p_since AND e.created_at < p_until AND (e.created_at, e.id) > (p_since, p_after)
          AND p.seen_ats[(e.num & 255)::integer + 1] IS NOT NULL
          AND (p_kinds IS NULL OR e.kind = ANY (p_kinds)) AND (p_pubkeys IS NULL OR e.pubkey = ANY (p_pubkeys))
          AND (p_tags IS NULL OR (e.tags IS NOT NULL AND NOT EXISTS (
              SELECT FROM jsonb_each(p_tags) AS c (letter, wanted) WHERE NOT EXISTS (
                  SELECT FROM jsonb_array_elements(e.tags::jsonb) AS t (tag)
                  WHERE t.tag ->> 0 = c.letter AND c.wanted ? (t.tag ->> 1)))))
        ORDER BY e.created_at, e.id LIMIT p_limit
    ) AS x;
END $$;
COMMENT ON FUNCTION bigbrotr.read_held_slice IS
    'The part of read_held_ids that reads one slice, or with NULL all of them; count: how many ids there are.';

-- The row stays when the relay holds the event again.
CREATE TABLE IF NOT EXISTS bigbrotr.dropped (
    created_at bigint  NOT NULL,
    seen_at    bigint  NOT NULL,
    dropped_at bigint  NOT NULL,
    relay_id   bigint  NOT NULL REFERENCES bigbrotr.relays (id) ON DELETE CASCADE,
    slice      integer NOT NULL,
    event_id   bytea   NOT NULL,
    PRIMARY KEY (created_at, slice, event_id, relay_id)
);
COMMENT ON TABLE bigbrotr.dropped IS
    'Events that a relay held once and was later proven not to hold. They stay in the archive.';
COMMENT ON COLUMN bigbrotr.dropped.created_at IS 'When the event was created, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.dropped.slice IS 'Week of created_at, see slice_of.';
COMMENT ON COLUMN bigbrotr.dropped.event_id IS 'Id of the event: 32 bytes.';
COMMENT ON COLUMN bigbrotr.dropped.relay_id IS 'Number of the relay.';
COMMENT ON COLUMN bigbrotr.dropped.seen_at IS 'When the relay was first seen to hold the event, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.dropped.dropped_at IS
    'When it was last proven that the relay no longer holds the event, in Unix seconds.';
CREATE INDEX IF NOT EXISTS dropped_relay_id_idx ON bigbrotr.dropped (relay_id);

-- What came after the question is not answered by it. What is noted for later than now, by a clock that was ahead, came
-- before.
CREATE OR REPLACE FUNCTION bigbrotr.note_drops(
    p_relay_id integer, p_epoch bigint, p_created_ats bigint[], p_ids bytea[], p_before bigint, p_now bigint
) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ended integer := 0;
    run   record;
    part  integer;
BEGIN
    LOCK TABLE bigbrotr.presence_lock IN ROW EXCLUSIVE MODE;
    FOR run IN SELECT r.slice, r.first, r.last FROM bigbrotr.runs_of(p_created_ats) AS r LOOP
        SELECT d.ended INTO part
        FROM bigbrotr.drop_pairs(
            p_slice => run.slice, p_relay_id => p_relay_id, p_created_ats => p_created_ats[run.first:run.last],
            p_ids => p_ids[run.first:run.last], p_before => p_before, p_now => p_now) AS d (ended);
        ended := ended + part;
    END LOOP;
    IF ended > 0 THEN
        UPDATE bigbrotr.tallies SET pairs = pairs - ended WHERE relay_id = p_relay_id;
        PERFORM bigbrotr.hold_lease(p_relay_id, p_epoch);
    END IF;
    PERFORM bigbrotr.note_days(p_created_ats, ended);
    RETURN ended;
END $$;
COMMENT ON FUNCTION bigbrotr.note_drops IS
    'Notes that a relay no longer holds events that it was first seen to hold before p_before. Arrays of one length, '
    'sorted by (created_at, id). Returns how many pairs have ended. Refused (BB001) if another process has claimed '
    'the relay. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.drop_pairs(
    p_slice integer, p_relay_id integer, p_created_ats bigint[], p_ids bytea[], p_before bigint, p_now bigint
) RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    times bigint[];
    ids   bytea[];
    nums  bigint[];
    seens integer[];
BEGIN
    -- No other process changes when this relay was first seen to hold an event: only the holder of its lease does.
    SELECT array_agg(x.created_at), array_agg(x.id), array_agg(x.num), array_agg(x.seen_at) INTO times, ids, nums, seens
    FROM unnest(p_created_ats, p_ids) AS u (created_at, id)
    CROSS JOIN LATERAL (
        SELECT e.created_at, e.id, e.num, p.seen_ats[(e.num & 255)::integer + 1] AS seen_at
        FROM bigbrotr.events_stored e
        JOIN bigbrotr.presence p ON p.slice = e.slice AND p.chunk = e.num >> 8 AND p.relay_id = p_relay_id
        WHERE e.slice = p_slice AND e.created_at = u.created_at AND e.id = u.id OFFSET 0
    ) AS x
    WHERE x.seen_at NOT BETWEEN bigbrotr.pack_seen(p_before) AND bigbrotr.pack_seen(p_now);
    IF nums IS NULL THEN
        RETURN 0;
    END IF;
    INSERT INTO bigbrotr.dropped AS d (created_at, slice, event_id, relay_id, seen_at, dropped_at)
    SELECT u.created_at, p_slice, u.id, p_relay_id, bigbrotr.unpack_seen(u.seen_at), p_now
    FROM unnest(times, ids, seens) AS u (created_at, id, seen_at)
    ON CONFLICT (created_at, slice, event_id, relay_id) DO UPDATE SET dropped_at = EXCLUDED.dropped_at;
    RETURN bigbrotr.write_pairs(
        p_slice => p_slice, p_relay_id => p_relay_id, p_nums => nums,
        p_seen_ats => array_fill(NULL::integer, ARRAY[cardinality(nums)]));
END $$;
COMMENT ON FUNCTION bigbrotr.drop_pairs IS 'The part of note_drops that writes one slice. Returns how many pairs have ended.';

CREATE OR REPLACE FUNCTION bigbrotr.end_pairs(p_slice integer, p_relay_id integer, p_spans int8multirange)
RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    since_at bigint := bigbrotr.slice_start(p_slice);
    until_at bigint := bigbrotr.slice_end(p_slice);
    nums     bigint[];
BEGIN
    SELECT array_agg(e.num) INTO nums FROM bigbrotr.events_stored e
    WHERE e.slice = p_slice AND e.created_at >= since_at AND e.created_at <= until_at AND p_spans @> e.created_at;
    RETURN bigbrotr.write_pairs(
        p_slice => p_slice, p_relay_id => p_relay_id, p_nums => nums,
        p_seen_ats => array_fill(NULL::integer, ARRAY[coalesce(cardinality(nums), 0)]));
END $$;
COMMENT ON FUNCTION bigbrotr.end_pairs IS
    'Takes back the pairs of a relay and the events of one slice that were created within p_spans (Unix seconds). '
    'Returns how many.';

CREATE OR REPLACE FUNCTION bigbrotr.find_orphans(
    p_slice integer, p_after_at bigint, p_after_id bytea, p_limit integer,
    OUT last_at bigint, OUT last_id bytea, OUT created_ats bigint[], OUT ids bytea[]
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET plan_cache_mode = force_custom_plan
AS $$
BEGIN
    SELECT (array_agg(x.created_at))[count(*)], (array_agg(x.id))[count(*)],
           array_agg(x.created_at) FILTER (WHERE x.is_orphan), array_agg(x.id) FILTER (WHERE x.is_orphan)
    INTO last_at, last_id, created_ats, ids
    FROM (
        SELECT e.created_at, e.id,
               NOT EXISTS (
                   SELECT FROM bigbrotr.presence p
                   WHERE p.slice = e.slice AND (p_slice IS NULL OR p.slice = p_slice)
                     AND p.chunk = e.num >> 8 AND p.seen_ats[(e.num & 255)::integer + 1] IS NOT NULL
               ) AND NOT EXISTS (
                   SELECT FROM bigbrotr.dropped d
                   WHERE d.created_at = e.created_at AND d.slice = e.slice AND (p_slice IS NULL OR d.slice = p_slice)
                     AND d.event_id = e.id
               ) AND NOT EXISTS (
                   SELECT FROM bigbrotr.imported i
                   WHERE i.slice = e.slice AND (p_slice IS NULL OR i.slice = p_slice)
                     AND i.chunk = e.num >> 8 AND get_bit(i.members, (e.num & 255)::integer) = 1
               ) AS is_orphan
        FROM bigbrotr.events_stored e
        WHERE (p_slice IS NULL OR e.slice = p_slice)
          AND e.created_at >= p_after_at AND (e.created_at, e.id) > (p_after_at, p_after_id)
        ORDER BY e.created_at, e.id LIMIT p_limit
    ) AS x;
END $$;
COMMENT ON FUNCTION bigbrotr.find_orphans IS
    'Looks at the next p_limit events after (p_after_at, p_after_id) of one slice, or with NULL of all of them: the '
    'last of them, and those that no relay of ours holds and none is known to have held, as their relays were deleted, and '
    'that no file has brought.';

CREATE OR REPLACE FUNCTION bigbrotr.delete_orphans(p_slice integer, p_created_ats bigint[], p_ids bytea[])
RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    times bigint[];
    ids   bytea[];
BEGIN
    SELECT array_agg(x.created_at), array_agg(x.id) INTO times, ids
    FROM unnest(p_created_ats, p_ids) AS u (created_at, id)
    CROSS JOIN LATERAL (
        SELECT e.created_at, e.id,
               EXISTS (
                   SELECT FROM bigbrotr.presence p
                   WHERE p.slice = e.slice AND (p_slice IS NULL OR p.slice = p_slice)
                     AND p.chunk = e.num >> 8 AND p.seen_ats[(e.num & 255)::integer + 1] IS NOT NULL
               ) OR EXISTS (
                   SELECT FROM bigbrotr.dropped d
                   WHERE d.created_at = e.created_at AND d.slice = e.slice AND (p_slice IS NULL OR d.slice = p_slice)
                     AND d.event_id = e.id
               ) OR EXISTS (
                   SELECT FROM bigbrotr.imported i
                   WHERE i.slice = e.slice AND (p_slice IS NULL OR i.slice = p_slice)
                     AND i.chunk = e.num >> 8 AND get_bit(i.members, (e.num & 255)::integer) = 1
               ) AS is_known
        FROM bigbrotr.events_stored e
        WHERE (p_slice IS NULL OR e.slice = p_slice) AND e.created_at = u.created_at AND e.id = u.id OFFSET 0
    ) AS x
    WHERE NOT x.is_known;
    DELETE FROM bigbrotr.events_raw w WHERE (p_slice IS NULL OR w.slice = p_slice) AND w.event_id = ANY (ids);
    DELETE FROM bigbrotr.events_stored e USING unnest(times, ids) AS u (created_at, id)
    WHERE (p_slice IS NULL OR e.slice = p_slice) AND e.created_at = u.created_at AND e.id = u.id;
    RETURN coalesce(cardinality(ids), 0);
END $$;
COMMENT ON FUNCTION bigbrotr.delete_orphans IS
    'Deletes those of the given events of one slice, or with NULL of any, that are orphans, see find_orphans. Returns '
    'how many.';

CREATE OR REPLACE FUNCTION bigbrotr.read_archive(p_after_at bigint, p_after_id bytea, p_limit integer)
RETURNS TABLE (created_at bigint, id bytea, kind integer, tags text, content text, seen_at bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    part integer;
    got  integer;
BEGIN
    FOR part IN SELECT s.slice FROM bigbrotr.parts_of(p_after_at, 9223372036854775807) AS s (slice) LOOP
        RETURN QUERY
        SELECT a.created_at, a.id, a.kind, a.tags, a.content, a.seen_at
        FROM bigbrotr.read_archive_slice(
            p_slice => part, p_after_at => p_after_at, p_after_id => p_after_id, p_limit => p_limit) AS a;
        GET DIAGNOSTICS got = ROW_COUNT;
        p_limit := p_limit - got;
        EXIT WHEN p_limit <= 0;
    END LOOP;
END $$;
COMMENT ON FUNCTION bigbrotr.read_archive IS
    'The next events after (p_after_at, p_after_id), in the order (created_at, id), at most p_limit. seen_at: when the '
    'first relay was seen to hold it, in Unix seconds; 0 if none is known to.';

CREATE OR REPLACE FUNCTION bigbrotr.read_archive_slice(
    p_slice integer, p_after_at bigint, p_after_id bytea, p_limit integer
) RETURNS TABLE (created_at bigint, id bytea, kind integer, tags text, content text, seen_at bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    RETURN QUERY
    -- Presence is probed for each event: a join would read all of it for each batch.
    SELECT e.created_at, e.id, e.kind, e.tags, e.content, coalesce((
               SELECT bigbrotr.unpack_seen(min(p.seen_ats[(e.num & 255)::integer + 1]))
               FROM bigbrotr.presence p
               WHERE p.slice = e.slice AND (p_slice IS NULL OR p.slice = p_slice) AND p.chunk = e.num >> 8), 0)
    FROM (
        SELECT s.created_at, s.id, s.num, s.slice, s.kind, s.tags, s.content FROM bigbrotr.events_stored s
        WHERE (p_slice IS NULL OR s.slice = p_slice)
          AND s.created_at >= p_after_at AND (s.created_at, s.id) > (p_after_at, p_after_id)
        ORDER BY s.created_at, s.id LIMIT p_limit
    ) AS e
    ORDER BY e.created_at, e.id;
END $$;
COMMENT ON FUNCTION bigbrotr.read_archive_slice IS 'The part of read_archive that reads one slice, or with NULL all of them.';

CREATE OR REPLACE VIEW bigbrotr.events_relays AS
SELECT e.id AS event_id, r.url AS relay_url,
       bigbrotr.unpack_seen(p.seen_ats[(e.num & 255)::integer + 1]) AS seen_at
FROM bigbrotr.events_stored e
JOIN bigbrotr.presence p ON p.slice = e.slice AND p.chunk = e.num >> 8
JOIN bigbrotr.relays r ON r.id = p.relay_id
WHERE p.seen_ats[(e.num & 255)::integer + 1] IS NOT NULL;
COMMENT ON VIEW bigbrotr.events_relays IS 'Which relays hold which event: a row a pair.';
COMMENT ON COLUMN bigbrotr.events_relays.event_id IS 'Id of the event: 32 bytes.';
COMMENT ON COLUMN bigbrotr.events_relays.relay_url IS 'URL of the relay.';
COMMENT ON COLUMN bigbrotr.events_relays.seen_at IS 'When the relay was first seen to hold the event, in Unix seconds.';
