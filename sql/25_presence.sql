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
CREATE OR REPLACE FUNCTION bigbrotr.write_pairs(
    p_relay_id integer, p_created_ats bigint[], p_nums bigint[], p_seen_ats integer[]
) RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    part_slice integer;
    part_chunk bigint;
    places     integer[];  -- of its events, in seen_ats
    seens      integer[];
    held       integer[];
    before     integer[];
    changed    integer;
    total      integer := 0;
BEGIN
    FOR part_slice, part_chunk, places, seens IN
        SELECT bigbrotr.slice_of(u.created_at), u.num >> 8, array_agg((u.num & 255)::integer + 1), array_agg(u.seen_at)
        FROM unnest(p_created_ats, p_nums, p_seen_ats) AS u (created_at, num, seen_at)
        GROUP BY 1, 2 ORDER BY 1, 2
    LOOP
        LOOP
            SELECT p.seen_ats INTO before FROM bigbrotr.presence p
            WHERE p.slice = part_slice AND p.chunk = part_chunk AND p.relay_id = p_relay_id;
            held := coalesce(before, '{}');
            changed := 0;
            FOR i IN 1..cardinality(places) LOOP
                IF (held[places[i]] IS NULL) <> (seens[i] IS NULL) THEN
                    held[places[i]] := seens[i];
                    changed := changed + 1;
                END IF;
            END LOOP;
            EXIT WHEN changed = 0;
            IF before IS NULL THEN
                INSERT INTO bigbrotr.presence (slice, chunk, relay_id, seen_ats)
                SELECT part_slice, part_chunk, r.id, held FROM bigbrotr.relays r WHERE r.id = p_relay_id
                ON CONFLICT DO NOTHING;
            ELSE
                UPDATE bigbrotr.presence p SET seen_ats = held
                WHERE p.slice = part_slice AND p.chunk = part_chunk AND p.relay_id = p_relay_id AND p.seen_ats = before;
            END IF;
            IF FOUND THEN
                total := total + changed;
                EXIT;
            END IF;
            IF NOT EXISTS (SELECT FROM bigbrotr.relays r WHERE r.id = p_relay_id) THEN  -- deleted meanwhile
                RETURN 0;
            END IF;
        END LOOP;
    END LOOP;
    RETURN total;
END $$;
COMMENT ON FUNCTION bigbrotr.write_pairs IS
    'Notes since when a relay holds events, unless that is noted already; a NULL in p_seen_ats takes a pair back. Arrays '
    'of one length: the times and numbers of the events, and packed times, see pack_seen. Returns how many pairs have '
    'begun or ended. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.note_presence(
    p_relay_id integer, p_epoch bigint, p_created_ats bigint[], p_ids bytea[], p_seen_at bigint
) RETURNS integer[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_ones bigint[];  -- positions
    times      bigint[];
    nums       bigint[];
    noted      integer;
BEGIN
    -- An orphan may not go between the look at it and the note.
    LOCK TABLE bigbrotr.presence_lock IN ROW EXCLUSIVE MODE;
    SELECT array_agg(f.position), array_agg(p_created_ats[f.position]), array_agg(f.num) INTO found_ones, times, nums
    FROM bigbrotr.find_numbers(p_created_ats => p_created_ats, p_ids => p_ids) AS f;
    IF nums IS NULL THEN
        RETURN ARRAY(SELECT generate_series(1, cardinality(p_ids)));
    END IF;
    noted := bigbrotr.write_pairs(
        p_relay_id => p_relay_id, p_created_ats => times, p_nums => nums,
        p_seen_ats => array_fill(bigbrotr.pack_seen(p_seen_at), ARRAY[cardinality(nums)]));
    IF noted > 0 THEN
        PERFORM bigbrotr.count_pairs(
            p_relay_id => p_relay_id, p_pairs => noted,
            p_since => p_created_ats[1], p_last => p_created_ats[cardinality(p_created_ats)]);
        PERFORM bigbrotr.hold_lease(p_relay_id, p_epoch);
    END IF;
    IF cardinality(nums) = cardinality(p_ids) THEN
        RETURN '{}';
    END IF;
    RETURN ARRAY(SELECT generate_series(1, cardinality(p_ids)) EXCEPT SELECT unnest(found_ones) ORDER BY 1);
END $$;
COMMENT ON FUNCTION bigbrotr.note_presence IS
    'Notes that a relay holds those of the given events that are archived. Returns the positions (from 1) of the '
    'others. Arrays of one length, sorted by (created_at, id). Refused (BB001) if another process has claimed the '
    'relay. Idempotent.';

-- One pass over the window: half of what it costs to name each event.
CREATE OR REPLACE FUNCTION bigbrotr.mark_window(
    p_relay_id integer, p_epoch bigint, p_since bigint, p_until bigint, p_digest bytea, p_absent_ids bytea[],
    p_seen_at bigint
) RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    times bigint[];
    nums  bigint[];
    noted integer;
    found bytea;
BEGIN
    LOCK TABLE bigbrotr.presence_lock IN ROW EXCLUSIVE MODE;
    SELECT sha256(coalesce(string_agg(x.id, ''), '')),
           array_agg(x.created_at) FILTER (WHERE x.id <> ALL (p_absent_ids)),
           array_agg(x.num) FILTER (WHERE x.id <> ALL (p_absent_ids))
    INTO found, times, nums
    FROM (
        SELECT e.created_at, e.id, e.num FROM bigbrotr.events_stored e
        WHERE e.created_at >= p_since AND e.created_at < p_until
        ORDER BY e.created_at, e.id
    ) AS x;
    IF found <> p_digest THEN
        RAISE EXCEPTION 'the window holds other events by now' USING ERRCODE = 'BB002';
    END IF;
    noted := bigbrotr.write_pairs(
        p_relay_id => p_relay_id, p_created_ats => times, p_nums => nums,
        p_seen_ats => array_fill(bigbrotr.pack_seen(p_seen_at), ARRAY[coalesce(cardinality(nums), 0)]));
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

CREATE OR REPLACE FUNCTION bigbrotr.read_held_ids(
    p_relay_id integer, p_since bigint, p_until bigint, p_after bytea, p_limit bigint,
    p_kinds integer[], p_pubkeys bytea[], p_tags jsonb
) RETURNS TABLE (created_ats bytea, ids bytea)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_custom_plan
AS $$
BEGIN
    RETURN QUERY
    SELECT string_agg(int8send(x.created_at), ''), string_agg(x.id, '') FROM (
        SELECT e.created_at, e.id FROM bigbrotr.events_stored e
        JOIN bigbrotr.presence p ON p.slice = e.slice AND p.chunk = e.num >> 8 AND p.relay_id = p_relay_id
        WHERE e.created_at >= p_since AND e.created_at < p_until AND (e.created_at, e.id) > (p_since, p_after)
          AND p.seen_ats[(e.num & 255)::integer + 1] IS NOT NULL
          AND (p_kinds IS NULL OR e.kind = ANY (p_kinds)) AND (p_pubkeys IS NULL OR e.pubkey = ANY (p_pubkeys))
          AND (p_tags IS NULL OR (e.tags IS NOT NULL AND NOT EXISTS (
              SELECT FROM jsonb_each(p_tags) AS c (letter, wanted) WHERE NOT EXISTS (
                  SELECT FROM jsonb_array_elements(e.tags::jsonb) AS t (tag)
                  WHERE t.tag ->> 0 = c.letter AND c.wanted ? (t.tag ->> 1)))))
        ORDER BY e.created_at, e.id LIMIT p_limit
    ) AS x;
END $$;
COMMENT ON FUNCTION bigbrotr.read_held_ids IS
    'The next ids of [p_since, p_until) that a relay is known to hold, as read_ids returns those of the archive. '
    'p_tags keeps only events with a tag of each letter that has one of its values, e.g. {"t": ["nostr"]}; where tags '
    'are not kept, no id is returned.';

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
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_material = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    ended integer;
    times bigint[];
    ids   bytea[];
    nums  bigint[];
    seens integer[];
BEGIN
    LOCK TABLE bigbrotr.presence_lock IN ROW EXCLUSIVE MODE;
    -- No other process changes when this relay was first seen to hold an event: only the holder of its lease does.
    SELECT array_agg(x.created_at), array_agg(x.id), array_agg(x.num), array_agg(x.seen_at) INTO times, ids, nums, seens
    FROM (
        SELECT e.created_at, e.id, e.num, p.seen_ats[(e.num & 255)::integer + 1] AS seen_at
        FROM unnest(p_created_ats, p_ids) AS u (created_at, id)
        JOIN bigbrotr.events_stored e ON e.created_at = u.created_at AND e.id = u.id
        JOIN bigbrotr.presence p ON p.slice = e.slice AND p.chunk = e.num >> 8 AND p.relay_id = p_relay_id
    ) AS x
    WHERE x.seen_at NOT BETWEEN bigbrotr.pack_seen(p_before) AND bigbrotr.pack_seen(p_now);
    IF nums IS NULL THEN
        RETURN 0;
    END IF;
    INSERT INTO bigbrotr.dropped AS d (created_at, slice, event_id, relay_id, seen_at, dropped_at)
    SELECT u.created_at, bigbrotr.slice_of(u.created_at), u.id, p_relay_id, bigbrotr.unpack_seen(u.seen_at), p_now
    FROM unnest(times, ids, seens) AS u (created_at, id, seen_at)
    ON CONFLICT (created_at, slice, event_id, relay_id) DO UPDATE SET dropped_at = EXCLUDED.dropped_at;
    ended := bigbrotr.write_pairs(
        p_relay_id => p_relay_id, p_created_ats => times, p_nums => nums,
        p_seen_ats => array_fill(NULL::integer, ARRAY[cardinality(nums)]));
    UPDATE bigbrotr.tallies SET pairs = pairs - ended WHERE relay_id = p_relay_id;
    PERFORM bigbrotr.hold_lease(p_relay_id, p_epoch);
    RETURN ended;
END $$;
COMMENT ON FUNCTION bigbrotr.note_drops IS
    'Notes that a relay no longer holds events that it was first seen to hold before p_before. Arrays of one length, '
    'sorted by (created_at, id). Returns how many pairs have ended. Refused (BB001) if another process has claimed '
    'the relay. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.is_orphan(p_slice integer, p_num bigint, p_created_at bigint, p_id bytea)
RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN NOT EXISTS (
        SELECT FROM bigbrotr.presence p
        WHERE p.slice = p_slice AND p.chunk = p_num >> 8 AND p.seen_ats[(p_num & 255)::integer + 1] IS NOT NULL
    ) AND NOT EXISTS (
        SELECT FROM bigbrotr.dropped d WHERE d.created_at = p_created_at AND d.slice = p_slice AND d.event_id = p_id);
END $$;
COMMENT ON FUNCTION bigbrotr.is_orphan IS
    'Whether no relay of ours holds an event, and none is known to have held it: their relays were deleted.';

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
