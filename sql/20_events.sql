-- Events: each one once, partitioned by time. Ids and signatures are verified before events come here. Only the files in
-- profiles/ say what a profile keeps of an event.

-- A slice is a week since the epoch. A cluster keeps a slice on one machine, with all that is known of its events.
CREATE OR REPLACE FUNCTION bigbrotr.slice_of(p_created_at bigint) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN least(p_created_at / 604800, 2147483647)::integer;
COMMENT ON FUNCTION bigbrotr.slice_of IS 'The slice of a time (Unix seconds): weeks of 604,800 seconds since 1970.';

CREATE OR REPLACE FUNCTION bigbrotr.slice_start(p_slice integer) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN p_slice::bigint * 604800;
COMMENT ON FUNCTION bigbrotr.slice_start IS 'The first second of a slice (Unix seconds).';

CREATE OR REPLACE FUNCTION bigbrotr.slice_end(p_slice integer) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN p_slice < 2147483647 THEN (p_slice::bigint + 1) * 604800 ELSE 9223372036854775807 END;
COMMENT ON FUNCTION bigbrotr.slice_end IS 'The second after the last one of a slice (Unix seconds); the last slice never ends.';

-- Whoever walks through time asks one slice after the other. Nothing is unique here: those who meet a slice for the first
-- time at once do not wait for each other.
CREATE TABLE IF NOT EXISTS bigbrotr.slices (
    slice integer NOT NULL
);
CREATE INDEX IF NOT EXISTS slices_slice_idx ON bigbrotr.slices (slice);
COMMENT ON TABLE bigbrotr.slices IS
    'The slices in which there are events. A slice may stand here twice, and stays when its events go.';
COMMENT ON COLUMN bigbrotr.slices.slice IS 'Week of created_at, see slice_of.';

CREATE OR REPLACE FUNCTION bigbrotr.runs_of(p_created_ats bigint[])
RETURNS TABLE (slice integer, first integer, last integer)
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE ROWS 2 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    total      integer := cardinality(p_created_ats);
    last_slice integer := bigbrotr.slice_of(p_created_ats[total]);
BEGIN
    first := 1;
    WHILE first <= total LOOP
        slice := bigbrotr.slice_of(p_created_ats[first]);
        last := total;
        IF slice < last_slice THEN
            last := greatest(first, width_bucket(bigbrotr.slice_end(slice) - 1, p_created_ats));  -- never back
        END IF;
        RETURN NEXT;
        first := last + 1;
    END LOOP;
END $$;
COMMENT ON FUNCTION bigbrotr.runs_of IS
    'The slices of sorted times (Unix seconds), and the positions, from 1, of the first and the last time of each.';

CREATE OR REPLACE FUNCTION bigbrotr.parts_of(p_since bigint, p_until bigint) RETURNS SETOF integer
LANGUAGE plpgsql STABLE ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_partitioned_table t WHERE t.partrelid = to_regclass('bigbrotr.events_stored')) THEN
        RETURN NEXT NULL;
    ELSE
        RETURN QUERY
        SELECT DISTINCT s.slice FROM bigbrotr.slices s
        WHERE s.slice >= bigbrotr.slice_of(p_since) AND s.slice <= bigbrotr.slice_of(p_until - 1)
        ORDER BY s.slice;
    END IF;
END $$;
COMMENT ON FUNCTION bigbrotr.parts_of IS
    'How to ask for events of [p_since, p_until) (Unix seconds): on a cluster slice by slice, in this order; on one '
    'machine for all slices at once, which is one NULL.';

-- A session takes 256 numbers at once, the length of a chunk: what it stores page by page shares chunks (see presence).
CREATE SEQUENCE IF NOT EXISTS bigbrotr.event_numbers MINVALUE 0 START 0 CACHE 256;
COMMENT ON SEQUENCE bigbrotr.event_numbers IS 'Numbers of events. Some are never used.';

-- The lock comes first, as in a migration. Numbers are good for this transaction only: a crash may take it back, and the
-- sequence with it.
CREATE OR REPLACE FUNCTION bigbrotr.draw_numbers(p_count integer) RETURNS bigint[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    LOCK TABLE bigbrotr.presence_lock IN ROW EXCLUSIVE MODE;
    RETURN ARRAY(SELECT nextval('bigbrotr.event_numbers') FROM generate_series(1, p_count));
END $$;
COMMENT ON FUNCTION bigbrotr.draw_numbers IS
    'Numbers, which ascend, for new events that this transaction is to copy into events_stored. insert_events notes these '
    'afterwards.';

-- The key starts with the time: copying a relay walks through time, so inserts and look-ups touch neighbouring
-- pages; and an id fixes its created_at (it is hashed), so (created_at, id) is as unique as id.
-- Columns of fixed width come first: none is padded.
CREATE TABLE IF NOT EXISTS bigbrotr.events_stored (
    created_at bigint  NOT NULL,
    num        bigint  NOT NULL,
    kind       integer NOT NULL,
    slice      integer NOT NULL,
    id         bytea   NOT NULL,
    pubkey     bytea   NOT NULL,
    sig        bytea,
    tags       text,
    tag_hashes integer[],
    content    text,
    PRIMARY KEY (created_at, id)
) PARTITION BY RANGE (created_at);
COMMENT ON TABLE bigbrotr.events_stored IS
    'Nostr events as they are stored, each once. Its id and signature were verified before. Partitioned by created_at '
    'into quarters of a year. The view events shows them as people want them.';
COMMENT ON COLUMN bigbrotr.events_stored.created_at IS 'When the author says the event was created, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.events_stored.num IS
    'Number of the event, given when it was stored; presence speaks of events by it.';
COMMENT ON COLUMN bigbrotr.events_stored.kind IS 'Kind of the event; -1: it was erased, and only its time and id are left.';
COMMENT ON COLUMN bigbrotr.events_stored.slice IS 'Week of created_at, see slice_of.';
COMMENT ON COLUMN bigbrotr.events_stored.id IS 'Id of the event: 32 bytes, the SHA-256 of its canonical form.';
COMMENT ON COLUMN bigbrotr.events_stored.pubkey IS 'Public key of the author: 32 bytes.';
COMMENT ON COLUMN bigbrotr.events_stored.sig IS 'Schnorr signature: 64 bytes. NULL in the profile lite.';
COMMENT ON COLUMN bigbrotr.events_stored.tags IS 'Tags as the text of a JSON array of arrays. NULL in the profile lite.';
COMMENT ON COLUMN bigbrotr.events_stored.tag_hashes IS
    'The first 5,000 single-letter tags as hashes for the index, see tag_hash. Two tags may share one. NULL if there '
    'are none, and in the profile lite.';
COMMENT ON COLUMN bigbrotr.events_stored.content IS 'Content. NULL in the profile lite.';
CREATE INDEX IF NOT EXISTS events_id_idx ON bigbrotr.events_stored USING hash (id);
CREATE INDEX IF NOT EXISTS events_pubkey_idx ON bigbrotr.events_stored (pubkey, created_at);
CREATE INDEX IF NOT EXISTS events_kind_idx ON bigbrotr.events_stored (kind, created_at);

-- Tags are mostly hexadecimal, which pglz shrinks by 1 % of the table and 5 us an event: they are not compressed. Long
-- texts shrink by more. Of columns that no plan depends on ANALYZE makes no statistics: to take apart and sort long texts is
-- half of its work.
-- Only where that is not so yet: once the table is distributed, such commands are refused.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'bigbrotr.events_stored'::regclass
               AND attname IN ('tags', 'tag_hashes') AND attstorage <> 'e') THEN
        ALTER TABLE bigbrotr.events_stored
            ALTER COLUMN tags SET STORAGE EXTERNAL, ALTER COLUMN tag_hashes SET STORAGE EXTERNAL;
    END IF;
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'bigbrotr.events_stored'::regclass
               AND attname IN ('sig', 'tags', 'content') AND attstattarget IS DISTINCT FROM 0) THEN
        ALTER TABLE bigbrotr.events_stored
            ALTER COLUMN sig SET STATISTICS 0, ALTER COLUMN tags SET STATISTICS 0,
            ALTER COLUMN content SET STATISTICS 0;
    END IF;
    IF 'lz4' = ANY (SELECT unnest(enumvals) FROM pg_settings WHERE name = 'default_toast_compression')
       AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'bigbrotr.events_stored'::regclass
                   AND attname = 'content' AND attcompression <> 'l') THEN
        ALTER TABLE bigbrotr.events_stored ALTER COLUMN content SET COMPRESSION lz4;
    END IF;
END $$;

CREATE TABLE IF NOT EXISTS bigbrotr.events_raw (
    event_id   bytea   NOT NULL,
    slice      integer NOT NULL,
    created_at bigint  NOT NULL,
    raw        bytea   NOT NULL,
    PRIMARY KEY (event_id, slice)
);
COMMENT ON TABLE bigbrotr.events_raw IS
    'Exact bytes of the rare events that columns cannot hold (U+0000, lone surrogates, unescaped control characters). '
    'The row in events_stored has the nearest text.';
COMMENT ON COLUMN bigbrotr.events_raw.event_id IS 'Id of the event: 32 bytes.';
COMMENT ON COLUMN bigbrotr.events_raw.slice IS 'Week of created_at, see slice_of.';
COMMENT ON COLUMN bigbrotr.events_raw.created_at IS 'When the event was created, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.events_raw.raw IS 'The canonical form that was hashed, as UTF-8 bytes.';

CREATE OR REPLACE FUNCTION bigbrotr.tag_values(p_tags jsonb) RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY(
    SELECT (t.tag ->> 0) || ':' || (t.tag ->> 1) FROM jsonb_array_elements(p_tags) AS t (tag)
    WHERE t.tag ->> 0 ~ '^[A-Za-z]$' AND jsonb_array_length(t.tag) > 1);
COMMENT ON FUNCTION bigbrotr.tag_values IS 'The single-letter tags of an event, each as letter:value.';

CREATE OR REPLACE VIEW bigbrotr.events AS
SELECT s.id, s.pubkey, s.created_at, s.kind, s.tags::jsonb AS tags,
       CASE WHEN s.tags IS NOT NULL THEN bigbrotr.tag_values(s.tags::jsonb) END AS tagvalues, s.content, s.sig
FROM bigbrotr.events_stored s;
COMMENT ON VIEW bigbrotr.events IS
    'Nostr events, each once. Quick by id, by pubkey, by kind and by created_at; events_tagged is quick by tags.';
COMMENT ON COLUMN bigbrotr.events.id IS 'Id of the event: 32 bytes.';
COMMENT ON COLUMN bigbrotr.events.pubkey IS 'Public key of the author: 32 bytes.';
COMMENT ON COLUMN bigbrotr.events.created_at IS 'When the author says the event was created, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.events.kind IS 'Kind of the event; -1: it was erased.';
COMMENT ON COLUMN bigbrotr.events.tags IS 'Tags as a JSON array of arrays. NULL in the profile lite.';
COMMENT ON COLUMN bigbrotr.events.tagvalues IS 'The single-letter tags as letter:value. NULL in the profile lite.';
COMMENT ON COLUMN bigbrotr.events.content IS 'Content. NULL in the profile lite.';
COMMENT ON COLUMN bigbrotr.events.sig IS 'Schnorr signature: 64 bytes. NULL in the profile lite.';

-- A hash in the index takes a fifth of the room of the values. Whoever makes two values share one gains no more than by
-- writing the value itself: each match is looked at again.
CREATE OR REPLACE FUNCTION bigbrotr.tag_hash(p_value text) RETURNS integer
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- The CRC of each half of a byte.
    halves CONSTANT bigint[] := '{0,498536548,997073096,651767980,1994146192,1802195444,1303535960,1342533948,'
        '3988292384,4027552580,3604390888,3412177804,2607071920,2262029012,2685067896,3183342108}';
    bytes  CONSTANT bytea := convert_to(p_value, 'UTF8');
    crc    bigint := 4294967295;
BEGIN
    FOR position IN 0..length(bytes) - 1 LOOP
        crc := crc # get_byte(bytes, position);
        crc := (crc >> 4) # halves[(crc & 15) + 1];
        crc := (crc >> 4) # halves[(crc & 15) + 1];
    END LOOP;
    RETURN 2147483647 - crc;
END $$;
COMMENT ON FUNCTION bigbrotr.tag_hash IS
    'The hash of a tag, written as letter:value, in tag_hashes: its CRC-32 less 2,147,483,648.';

CREATE OR REPLACE FUNCTION bigbrotr.events_tagged(p_letter text, p_values text[]) RETURNS SETOF bigbrotr.events
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT e.id, e.pubkey, e.created_at, e.kind, e.tags::jsonb, bigbrotr.tag_values(e.tags::jsonb), e.content, e.sig
    FROM bigbrotr.events_stored e
    WHERE e.tag_hashes && ARRAY(SELECT bigbrotr.tag_hash(p_letter || ':' || v) FROM unnest(p_values) AS v)
      AND EXISTS (SELECT FROM jsonb_array_elements(e.tags::jsonb) AS t (tag)
                  WHERE t.tag ->> 0 = p_letter AND t.tag ->> 1 = ANY (p_values));
END;
COMMENT ON FUNCTION bigbrotr.events_tagged IS
    'The events that have a tag of a letter with one of some values, by the index. Conditions on it count as on a '
    'table: SELECT … FROM bigbrotr.events_tagged(''t'', ''{nostr}'') WHERE kind = 1.';

CREATE OR REPLACE FUNCTION bigbrotr.insert_events(
    p_relay_id integer, p_seen_ats bigint[], p_created_ats bigint[], p_kinds integer[], p_ids bytea[], p_pubkeys bytea[],
    p_sigs bytea[], p_tags text[], p_tag_hashes integer[], p_tag_ends integer[], p_contents text[], p_raws bytea[],
    p_nums bigint[], p_named text[], p_named_in integer[], p_named_kinds integer[], p_named_times integer[]
) RETURNS TABLE (new_events integer, new_pairs integer)
LANGUAGE plpgsql ROWS 1 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- NULL: deleted meanwhile
    holder integer := (SELECT r.id FROM bigbrotr.relays r WHERE r.id = p_relay_id);
    nums   bigint[] := coalesce(p_nums, bigbrotr.draw_numbers(cardinality(p_ids)));
    seens  integer[];
    known  integer[] := '{}';
    begun  integer;
    run    record;
    done   record;
BEGIN
    new_events := 0;
    new_pairs := 0;
    IF cardinality(p_seen_ats) = 1 THEN
        seens := array_fill(bigbrotr.pack_seen(p_seen_ats[1]), ARRAY[cardinality(p_ids)]);
    ELSE
        seens := ARRAY(SELECT bigbrotr.pack_seen(s.seen_at) FROM unnest(p_seen_ats) AS s (seen_at));
    END IF;
    FOR run IN SELECT r.slice, r.first, r.last FROM bigbrotr.runs_of(p_created_ats) AS r LOOP
        IF p_nums IS NOT NULL THEN
            SELECT w.begun INTO begun
            FROM bigbrotr.write_sorted_pairs(
                p_slice => run.slice, p_relay_id => holder, p_nums => nums[run.first:run.last],
                p_seen_ats => seens[run.first:run.last]) AS w (begun);
            IF p_raws IS NOT NULL THEN
                PERFORM bigbrotr.store_raws(
                    p_slice => run.slice, p_created_ats => p_created_ats[run.first:run.last],
                    p_ids => p_ids[run.first:run.last], p_raws => p_raws[run.first:run.last]);
            END IF;
            new_pairs := new_pairs + begun;
            new_events := new_events + run.last - run.first + 1;
        ELSE
            SELECT s.known, s.new_pairs INTO done
            FROM bigbrotr.store_slice(
                p_slice => run.slice, p_relay_id => holder, p_seen_ats => seens[run.first:run.last],
                p_created_ats => p_created_ats[run.first:run.last], p_nums => nums[run.first:run.last],
                p_kinds => p_kinds[run.first:run.last],
                p_ids => p_ids[run.first:run.last], p_pubkeys => p_pubkeys[run.first:run.last],
                p_sigs => p_sigs[run.first:run.last], p_tags => p_tags[run.first:run.last],
                p_tag_hashes => p_tag_hashes[coalesce(p_tag_ends[run.first - 1], 0) + 1:p_tag_ends[run.last]],
                p_tag_ends => p_tag_ends[run.first:run.last], p_tag_start => coalesce(p_tag_ends[run.first - 1], 0),
                p_contents => p_contents[run.first:run.last], p_raws => p_raws[run.first:run.last]) AS s;
            new_pairs := new_pairs + done.new_pairs;
            new_events := new_events + run.last - run.first + 1 - cardinality(done.known);
            IF cardinality(done.known) > 0 THEN
                known := known || ARRAY(SELECT k.position + run.first - 1 FROM unnest(done.known) AS k (position));
            END IF;
        END IF;
        IF NOT EXISTS (SELECT FROM bigbrotr.slices s WHERE s.slice = run.slice) THEN
            INSERT INTO bigbrotr.slices (slice) VALUES (run.slice);
        END IF;
    END LOOP;

    UPDATE bigbrotr.tallies SET
        events  = events + new_events,
        pairs   = pairs + new_pairs,
        touched = bigbrotr.add_span(touched, int8range(
            p_created_ats[1], nullif(p_created_ats[cardinality(p_created_ats)], 9223372036854775807) + 1))
    WHERE relay_id = p_relay_id AND (new_events > 0 OR new_pairs > 0);
    IF NOT FOUND AND new_events > 0 THEN  -- the relay was deleted meanwhile
        UPDATE bigbrotr.tallies SET events = events + new_events WHERE relay_id = 0;
    END IF;

    IF new_events > 0 AND cardinality(p_named) > 0 THEN
        IF cardinality(known) > 0 THEN
            SELECT array_agg(n.url ORDER BY n.place), array_agg(n.kind ORDER BY n.place),
                   array_agg(n.times ORDER BY n.place)
            INTO p_named, p_named_kinds, p_named_times
            FROM unnest(p_named, p_named_in, p_named_kinds, p_named_times)
                 WITH ORDINALITY AS n (url, position, kind, times, place)
            WHERE n.position <> ALL (known);
        END IF;
        PERFORM bigbrotr.note_mentions(p_urls => p_named, p_kinds => p_named_kinds, p_times => p_named_times);
    END IF;
    PERFORM bigbrotr.note_days(p_created_ats, new_events + new_pairs);
    PERFORM bigbrotr.note_arrivals(
        p_created_ats => p_created_ats, p_ids => p_ids, p_known => known, p_new_events => new_events);
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION bigbrotr.insert_events IS
    'Stores verified events that one relay holds, and notes that it holds them. Arrays of one length, sorted by '
    '(created_at, id), so that concurrent writers lock in the same order; p_seen_ats may have one time for all. What the '
    'profile does not keep comes as a NULL array; so does p_raws if no event needs one. p_tag_hashes: those of all events, '
    'one after the other; p_tag_ends: for each event, how many there are up to its last. p_nums: all events are new, '
    'and this transaction has copied them into events_stored under these numbers, which ascend, see draw_numbers; NULL: they are '
    'stored here. p_named: the relay URLs that the events name; p_named_in: for each, the position of the event that does, from 1 '
    '(NULL where all are new); p_named_kinds: its kind; p_named_times: how often it is named. Those of new events go into '
    'the queue mentions. Returns how many events and how many pairs are new. Idempotent, but where p_nums says that all are new.';

-- Functions with p_slice touch nothing but what is kept by slice, and one slice of it: a cluster runs them where it lies.
CREATE OR REPLACE FUNCTION bigbrotr.store_slice(
    p_slice integer, p_relay_id integer, p_seen_ats integer[], p_created_ats bigint[], p_nums bigint[],
    p_kinds integer[], p_ids bytea[], p_pubkeys bytea[], p_sigs bytea[], p_tags text[],
    p_tag_hashes integer[], p_tag_ends integer[], p_tag_start integer, p_contents text[], p_raws bytea[],
    OUT known integer[], OUT new_pairs integer
)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    known := '{}';
    BEGIN
        -- The caller has just looked for these events, so nearly always all are new. Inserting them as new costs less
        -- than looking for each of them again.
        INSERT INTO bigbrotr.events_stored (created_at, num, kind, slice, id, pubkey, sig, tags, tag_hashes, content)
        SELECT u.created_at, u.num, u.kind, p_slice, u.id, u.pubkey, u.sig, u.tags,
               nullif(p_tag_hashes[coalesce(p_tag_ends[u.position - 1], p_tag_start) - p_tag_start + 1
                                   :u.tag_end - p_tag_start], '{}'), u.content
        FROM unnest(p_created_ats, p_nums, p_kinds, p_ids, p_pubkeys, p_sigs, p_tags, p_tag_ends, p_contents)
             WITH ORDINALITY AS u (created_at, num, kind, id, pubkey, sig, tags, tag_end, content, position);
    EXCEPTION WHEN unique_violation THEN
        INSERT INTO bigbrotr.events_stored (created_at, num, kind, slice, id, pubkey, sig, tags, tag_hashes, content)
        SELECT u.created_at, u.num, u.kind, p_slice, u.id, u.pubkey, u.sig, u.tags,
               nullif(p_tag_hashes[coalesce(p_tag_ends[u.position - 1], p_tag_start) - p_tag_start + 1
                                   :u.tag_end - p_tag_start], '{}'), u.content
        FROM unnest(p_created_ats, p_nums, p_kinds, p_ids, p_pubkeys, p_sigs, p_tags, p_tag_ends, p_contents)
             WITH ORDINALITY AS u (created_at, num, kind, id, pubkey, sig, tags, tag_end, content, position)
        ON CONFLICT DO NOTHING;
        -- A new event has the number that was drawn for it here.
        SELECT f.nums, ARRAY(
            SELECT u.place::integer FROM unnest(f.places, f.nums) AS u (place, num) WHERE u.num <> p_nums[u.place])
        INTO p_nums, known
        FROM bigbrotr.numbers_of(p_slice => p_slice, p_created_ats => p_created_ats, p_ids => p_ids) AS f;
    END;
    new_pairs := bigbrotr.write_pairs(
        p_slice => p_slice, p_relay_id => p_relay_id, p_nums => p_nums, p_seen_ats => p_seen_ats);

    IF p_raws IS NOT NULL THEN
        PERFORM bigbrotr.store_raws(
            p_slice => p_slice, p_created_ats => p_created_ats, p_ids => p_ids, p_raws => p_raws);
    END IF;
END $$;
COMMENT ON FUNCTION bigbrotr.store_slice IS
    'The part of insert_events that writes the events of one slice and their presence. p_nums: numbers for them, '
    'p_seen_ats: packed times. p_tag_start: how many tags there are before those of p_tag_hashes. known: positions of the '
    'events, from 1, that were archived already.';

CREATE OR REPLACE FUNCTION bigbrotr.store_raws(p_slice integer, p_created_ats bigint[], p_ids bytea[], p_raws bytea[])
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO bigbrotr.events_raw (event_id, slice, created_at, raw)
    SELECT u.id, p_slice, u.created_at, u.raw
    FROM unnest(p_ids, p_created_ats, p_raws) AS u (id, created_at, raw)
    WHERE u.raw IS NOT NULL
    ON CONFLICT DO NOTHING;
END $$;
COMMENT ON FUNCTION bigbrotr.store_raws IS 'Stores the exact bytes of those events of one slice that need them. Idempotent.';

-- Whether few others are archived between these events: a first stretch of the key tells.
CREATE OR REPLACE FUNCTION bigbrotr.are_dense(p_slice integer, p_created_ats bigint[]) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    total   integer := cardinality(p_created_ats);
    stretch integer := total / 8;
    there   integer;
    last_at bigint;
BEGIN
    IF total < 64 THEN
        RETURN false;
    END IF;
    SELECT count(*), max(x.created_at) INTO there, last_at FROM (
        SELECT e.created_at FROM bigbrotr.events_stored e
        WHERE e.slice = p_slice AND e.created_at >= p_created_ats[1] AND e.created_at <= p_created_ats[total]
        ORDER BY e.created_at, e.id LIMIT stretch
    ) AS x;
    RETURN there < stretch OR 4 * width_bucket(last_at, p_created_ats) >= there;
END $$;
COMMENT ON FUNCTION bigbrotr.are_dense IS
    'Whether the archived events of one slice between these times, which are sorted, seem to be no more than four times as many.';

-- Dense events are read from the first to the last, each row for a tenth of what it costs to probe the key for one. What
-- lies beyond four times as many rows is probed, as are events that are few or far between.
-- The planner has to probe the key for each id, in order, with one plan for every call, whatever it believes about the
-- size of the tables: OFFSET 0 keeps it from turning the join round.
CREATE OR REPLACE FUNCTION bigbrotr.numbers_of(
    p_slice integer, p_created_ats bigint[], p_ids bytea[], OUT places bigint[], OUT nums bigint[]
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_nestloop = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    total    integer := cardinality(p_created_ats);
    there    integer;
    probe_at bigint := p_created_ats[1];  -- from here on each event is probed for; NULL: none is
BEGIN
    places := '{}';
    nums := '{}';
    IF bigbrotr.are_dense(p_slice => p_slice, p_created_ats => p_created_ats) THEN
        SELECT array_agg(u.position ORDER BY u.position) FILTER (WHERE u.position IS NOT NULL),
               array_agg(t.num ORDER BY u.position) FILTER (WHERE u.position IS NOT NULL), count(*), max(t.created_at)
        INTO places, nums, there, probe_at
        FROM (
            SELECT e.created_at, e.id, e.num FROM bigbrotr.events_stored e
            WHERE e.slice = p_slice AND e.created_at >= p_created_ats[1] AND e.created_at <= p_created_ats[total]
            ORDER BY e.created_at, e.id LIMIT 4 * total
        ) AS t
        LEFT JOIN unnest(p_created_ats, p_ids) WITH ORDINALITY AS u (created_at, id, position)
            ON u.id = t.id AND u.created_at = t.created_at;
        IF there < 4 * total THEN
            probe_at := NULL;
        END IF;
    END IF;
    IF probe_at IS NOT NULL THEN
        SELECT array_agg(f.position ORDER BY f.position), array_agg(f.num ORDER BY f.position) INTO places, nums FROM (
            SELECT b.position, b.num FROM unnest(places, nums) AS b (position, num)
            WHERE p_created_ats[b.position] < probe_at
            UNION ALL
            SELECT u.position, x.num
            FROM unnest(p_created_ats, p_ids) WITH ORDINALITY AS u (created_at, id, position)
            CROSS JOIN LATERAL (
                SELECT e.num FROM bigbrotr.events_stored e
                WHERE e.slice = p_slice AND e.created_at = u.created_at AND e.id = u.id OFFSET 0
            ) AS x
            WHERE u.created_at >= probe_at
        ) AS f;
    END IF;
    places := coalesce(places, '{}');
    nums := coalesce(nums, '{}');
END $$;
COMMENT ON FUNCTION bigbrotr.numbers_of IS
    'Which of the given events of one slice are archived: their positions, from 1 and in order, and their numbers. Arrays of '
    'one length, sorted by (created_at, id).';

CREATE OR REPLACE FUNCTION bigbrotr.read_ids(
    p_since bigint, p_until bigint, p_after bytea, p_limit bigint, p_kinds integer[], p_pubkeys bytea[]
) RETURNS TABLE (created_ats bytea, ids bytea)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    part  integer;
    page  record;
    times bytea[] := '{}';
    found_ids bytea[] := '{}';
BEGIN
    FOR part IN SELECT s.slice FROM bigbrotr.parts_of(p_since, p_until) AS s (slice) LOOP
        SELECT s.created_ats, s.ids, s.count INTO page
        FROM bigbrotr.read_slice(
            p_slice => part, p_since => p_since, p_until => p_until, p_after => p_after, p_limit => p_limit,
            p_kinds => p_kinds, p_pubkeys => p_pubkeys) AS s;
        times := times || page.created_ats;
        found_ids := found_ids || page.ids;
        p_limit := p_limit - page.count;
        EXIT WHEN p_limit <= 0;
    END LOOP;
    RETURN QUERY SELECT string_agg(u.times, ''), string_agg(u.ids, '') FROM unnest(times, found_ids) AS u (times, ids);
END $$;
COMMENT ON FUNCTION bigbrotr.read_ids IS
    'The next archived ids of [p_since, p_until) after p_after (an id of the second p_since), in the order '
    '(created_at, id), at most p_limit: their times, 8 bytes each, most significant first, and the ids, 32 bytes '
    'each. p_kinds and p_pubkeys leave others out; without them only the index is read.';

CREATE OR REPLACE FUNCTION bigbrotr.read_slice(
    p_slice integer, p_since bigint, p_until bigint, p_after bytea, p_limit bigint, p_kinds integer[], p_pubkeys bytea[],
    OUT created_ats bytea, OUT ids bytea, OUT count bigint
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_custom_plan
AS $$
BEGIN
    IF p_kinds IS NULL AND p_pubkeys IS NULL THEN
        SELECT string_agg(int8send(x.created_at), ''), string_agg(x.id, ''), count(*) INTO created_ats, ids, count FROM (
            SELECT e.created_at, e.id FROM bigbrotr.events_stored e
            WHERE (p_slice IS NULL OR e.slice = p_slice)
              AND e.created_at >= p_since AND e.created_at < p_until AND (e.created_at, e.id) > (p_since, p_after)
            ORDER BY e.created_at, e.id LIMIT p_limit
        ) AS x;
    ELSE
        SELECT string_agg(int8send(x.created_at), ''), string_agg(x.id, ''), count(*) INTO created_ats, ids, count FROM (
            SELECT e.created_at, e.id FROM bigbrotr.events_stored e
            WHERE (p_slice IS NULL OR e.slice = p_slice)
              AND e.created_at >= p_since AND e.created_at < p_until AND (e.created_at, e.id) > (p_since, p_after)
              AND (p_kinds IS NULL OR e.kind = ANY (p_kinds)) AND (p_pubkeys IS NULL OR e.pubkey = ANY (p_pubkeys))
            ORDER BY e.created_at, e.id LIMIT p_limit
        ) AS x;
    END IF;
END $$;
COMMENT ON FUNCTION bigbrotr.read_slice IS 'The part of read_ids that reads one slice, or with NULL all of them; count: how many ids there are.';

CREATE OR REPLACE FUNCTION bigbrotr.find_events(p_ids bytea[], p_since bigint, p_until bigint) RETURNS bigint[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    parts integer[] := array_remove(ARRAY(SELECT s.slice FROM bigbrotr.parts_of(p_since, p_until) AS s (slice)), NULL);
BEGIN
    RETURN (
        SELECT array_agg(f.created_at ORDER BY u.position)
        FROM unnest(p_ids) WITH ORDINALITY AS u (id, position)
        LEFT JOIN (
            SELECT w.position, e.created_at
            FROM unnest(p_ids) WITH ORDINALITY AS w (id, position) JOIN bigbrotr.events_stored e ON e.id = w.id
            WHERE e.created_at >= p_since AND e.created_at < p_until
              AND (cardinality(parts) = 0 OR e.slice = ANY (parts))
        ) AS f ON f.position = u.position);
END $$;
COMMENT ON FUNCTION bigbrotr.find_events IS
    'When the events of these ids were created, in Unix seconds; NULL for those not archived within [p_since, '
    'p_until).';

-- To ask a relay for these tells a relay that shows nothing from one that has nothing.
CREATE OR REPLACE FUNCTION bigbrotr.some_known(p_url text, p_most integer, p_now bigint)
RETURNS TABLE (authors bytea[], ids bytea[])
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    writers bytea[] := '{}';
    newest  record;
    keys    bytea[] := '{}';
    part    integer;
BEGIN
    IF to_regclass('bigbrotr.events_tag_hashes_idx') IS NOT NULL THEN
        writers := ARRAY(
            SELECT e.pubkey FROM bigbrotr.events_stored e
            WHERE e.tag_hashes && ARRAY[bigbrotr.tag_hash('r:' || p_url), bigbrotr.tag_hash('r:' || p_url || '/')]
              AND e.kind = 10002
            LIMIT p_most);
    END IF;
    ids := '{}';
    FOR part IN SELECT s.slice FROM bigbrotr.parts_of(0, p_now + 1) AS s (slice) ORDER BY s.slice DESC LOOP
        SELECT n.ids, n.pubkeys INTO newest
        FROM bigbrotr.newest_of(p_slice => part, p_until => p_now + 1, p_limit => 10 * p_most - cardinality(ids)) AS n;
        ids := ids || newest.ids;
        keys := keys || newest.pubkeys;
        EXIT WHEN cardinality(ids) >= 10 * p_most;
    END LOOP;
    ids := ids[:p_most];
    authors := ARRAY(
        SELECT u.pubkey FROM unnest(writers || keys) WITH ORDINALITY AS u (pubkey, position)
        GROUP BY u.pubkey ORDER BY min(u.position) LIMIT p_most);
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION bigbrotr.some_known IS
    'Up to p_most authors of archived events and up to p_most of their ids: the newest as of p_now, and first the '
    'authors whose relay list names p_url, where tags are kept.';

CREATE OR REPLACE FUNCTION bigbrotr.newest_of(
    p_slice integer, p_until bigint, p_limit integer, OUT ids bytea[], OUT pubkeys bytea[]
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    SELECT array_agg(x.id), array_agg(x.pubkey) INTO ids, pubkeys FROM (
        SELECT e.id, e.pubkey FROM bigbrotr.events_stored e
        WHERE (p_slice IS NULL OR e.slice = p_slice) AND e.created_at < p_until
        ORDER BY e.created_at DESC LIMIT p_limit
    ) AS x;
END $$;
COMMENT ON FUNCTION bigbrotr.newest_of IS
    'Ids and authors of the newest events before p_until of one slice, or with NULL of all of them: at most p_limit, '
    'the newest first.';

-- An event stays if its last relay has dropped it: that is what an archive is for. The batch is looked at twice: the second
-- time nobody else writes presence, so that no relay is noted for an event that goes.
CREATE OR REPLACE FUNCTION bigbrotr.delete_orphan_events(
    p_after_at bigint, p_after_id bytea, p_limit integer, OUT gone integer, OUT last_at bigint, OUT last_id bytea
)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    part  integer;
    found_ones record;
BEGIN
    gone := 0;
    FOR part IN SELECT s.slice FROM bigbrotr.parts_of(p_after_at, 9223372036854775807) AS s (slice) LOOP
        SELECT o.last_at, o.last_id, o.created_ats, o.ids INTO found_ones
        FROM bigbrotr.find_orphans(
            p_slice => part, p_after_at => p_after_at, p_after_id => p_after_id, p_limit => p_limit) AS o;
        CONTINUE WHEN found_ones.last_id IS NULL;
        last_at := found_ones.last_at;
        last_id := found_ones.last_id;
        IF found_ones.ids IS NOT NULL THEN
            LOCK TABLE bigbrotr.presence_lock IN EXCLUSIVE MODE;
            PERFORM bigbrotr.note_departures(found_ones.created_ats, found_ones.ids);
            SELECT d.gone INTO gone
            FROM bigbrotr.delete_orphans(
                p_slice => part, p_created_ats => found_ones.created_ats, p_ids => found_ones.ids) AS d (gone);
            UPDATE bigbrotr.tallies SET events = events - delete_orphan_events.gone
            WHERE relay_id = 0 AND delete_orphan_events.gone > 0;
            PERFORM bigbrotr.note_days(found_ones.created_ats, gone);
        END IF;
        EXIT;
    END LOOP;
END $$;
COMMENT ON FUNCTION bigbrotr.delete_orphan_events IS
    'Looks at the next events after (p_after_at, p_after_id), at most p_limit, and deletes those that no relay of ours '
    'holds any more because their relays were deleted, and that no file has brought. Returns how many, and the last event '
    'that was looked at; NULL at the end. Idempotent.';
