-- Presence: which relays hold an event, and since when we know. An event and its presence are written in one transaction:
-- one exists exactly when the other does.

CREATE TABLE IF NOT EXISTS bigbrotr.presence (
    created_at bigint    NOT NULL,
    event_id   bytea     NOT NULL,
    relay_ids  integer[] NOT NULL,
    seen_ats   integer[] NOT NULL,
    PRIMARY KEY (created_at, event_id)
) PARTITION BY RANGE (created_at);
COMMENT ON TABLE bigbrotr.presence IS
    'Which relays hold an event, and since when we know: a row an event, with two arrays that grow together. The view '
    'events_relays shows it as pairs.';
COMMENT ON COLUMN bigbrotr.presence.created_at IS 'When the event was created, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.presence.event_id IS 'Id of the event: 32 bytes.';
COMMENT ON COLUMN bigbrotr.presence.relay_ids IS
    'Numbers of the relays that hold the event, in the order in which they were noted.';
COMMENT ON COLUMN bigbrotr.presence.seen_ats IS
    'For each relay, when it was first seen to hold the event: seconds since 2020-01-01, see unpack_seen.';

-- Good until 2088.
CREATE OR REPLACE FUNCTION bigbrotr.pack_seen(p_time bigint) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (p_time - 1577836800)::integer;
COMMENT ON FUNCTION bigbrotr.pack_seen IS 'A time (Unix seconds) in four bytes: seconds since 2020-01-01.';

CREATE OR REPLACE FUNCTION bigbrotr.unpack_seen(p_packed integer) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN p_packed::bigint + 1577836800;
COMMENT ON FUNCTION bigbrotr.unpack_seen IS 'A time of presence.seen_ats in Unix seconds.';

-- The planner has to probe the key for each id, in order, with one plan for every call, whatever it believes about the
-- size of the tables. Other plans lock in another order and cost from twice to thirteen times as much (measured: 4 us a
-- pair; with bounds on created_at, which look as if they helped, 9 to 53).
CREATE OR REPLACE FUNCTION bigbrotr.note_presence(
    p_relay_id integer, p_epoch bigint, p_created_ats bigint[], p_ids bytea[], p_seen_at bigint
) RETURNS integer[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_material = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    noted integer;
    known integer[];
BEGIN
    -- Most pages bring only known events, or only new ones. Then one pass decides: this one ends at the first known event.
    PERFORM FROM unnest(p_created_ats, p_ids) AS u (created_at, id)
    JOIN bigbrotr.presence p ON p.created_at = u.created_at AND p.event_id = u.id LIMIT 1;
    IF NOT FOUND THEN
        RETURN ARRAY(SELECT generate_series(1, cardinality(p_ids)));
    END IF;

    LOCK TABLE bigbrotr.presence_lock IN ROW EXCLUSIVE MODE;
    WITH noted_pairs AS (
        UPDATE bigbrotr.presence p SET
            relay_ids = p.relay_ids || p_relay_id,
            seen_ats  = p.seen_ats || bigbrotr.pack_seen(p_seen_at)
        FROM unnest(p_created_ats, p_ids) AS u (created_at, id)
        WHERE p.created_at = u.created_at AND p.event_id = u.id
          AND NOT p.relay_ids @> ARRAY[p_relay_id]
        RETURNING 1
    )
    SELECT count(*) INTO noted FROM noted_pairs;
    IF noted > 0 THEN
        PERFORM bigbrotr.count_pairs(
            p_relay_id => p_relay_id, p_pairs => noted,
            p_since => p_created_ats[1], p_last => p_created_ats[cardinality(p_created_ats)]);
        PERFORM bigbrotr.hold_lease(p_relay_id, p_epoch);
    END IF;
    IF noted = cardinality(p_ids) THEN
        RETURN '{}';
    END IF;

    -- An event is known if its pair with this relay exists. Another writer may have committed the event since the statement
    -- above began; then its pair with this relay is missing, and has to be inserted.
    SELECT array_agg(u.position) INTO known
    FROM unnest(p_created_ats, p_ids) WITH ORDINALITY AS u (created_at, id, position)
    JOIN bigbrotr.presence p ON p.created_at = u.created_at AND p.event_id = u.id
    WHERE p.relay_ids @> ARRAY[p_relay_id];
    RETURN ARRAY(SELECT generate_series(1, cardinality(p_ids)) EXCEPT SELECT unnest(known) ORDER BY 1);
END $$;
COMMENT ON FUNCTION bigbrotr.note_presence IS
    'Notes that a relay holds those of the given events that are archived. Returns the positions (from 1) of the '
    'others. Arrays of one length, sorted by (created_at, id). Refused (BB001) if another process has claimed the '
    'relay. Idempotent.';

-- One pass over the window: 2 us a pair, half of what it costs to name each one. It locks in the order of the keys, like
-- note_presence, except that the default partition comes last: two that meet there may deadlock, and try again.
CREATE OR REPLACE FUNCTION bigbrotr.mark_window(
    p_relay_id integer, p_epoch bigint, p_since bigint, p_until bigint, p_digest bytea, p_absent_ids bytea[],
    p_seen_at bigint
) RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    noted integer;
    found bytea;
BEGIN
    LOCK TABLE bigbrotr.presence_lock IN ROW EXCLUSIVE MODE;
    WITH noted_pairs AS (
        UPDATE bigbrotr.presence p SET
            relay_ids = p.relay_ids || p_relay_id,
            seen_ats  = p.seen_ats || bigbrotr.pack_seen(p_seen_at)
        WHERE p.created_at >= p_since AND p.created_at < p_until
          AND p.event_id <> ALL (p_absent_ids) AND NOT p.relay_ids @> ARRAY[p_relay_id]
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM noted_pairs),
           (SELECT sha256(coalesce(string_agg(x.id, ''), '')) FROM (
                SELECT e.id FROM bigbrotr.events e WHERE e.created_at >= p_since AND e.created_at < p_until
                ORDER BY e.created_at, e.id) AS x)
    INTO noted, found;
    IF found <> p_digest THEN
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
    SELECT string_agg(int8send(x.created_at), ''), string_agg(x.event_id, '') FROM (
        SELECT p.created_at, p.event_id FROM bigbrotr.presence p
        WHERE p.created_at >= p_since AND p.created_at < p_until AND (p.created_at, p.event_id) > (p_since, p_after)
          AND p.relay_ids @> ARRAY[p_relay_id]
          AND ((p_kinds IS NULL AND p_pubkeys IS NULL AND p_tags IS NULL) OR EXISTS (
              SELECT FROM bigbrotr.events e WHERE e.created_at = p.created_at AND e.id = p.event_id
                AND (p_kinds IS NULL OR e.kind = ANY (p_kinds)) AND (p_pubkeys IS NULL OR e.pubkey = ANY (p_pubkeys))
                AND (p_tags IS NULL OR NOT EXISTS (
                    SELECT FROM jsonb_each(p_tags) AS c (letter, wanted) WHERE NOT EXISTS (
                        SELECT FROM jsonb_array_elements(e.tags) AS t (tag)
                        WHERE t.tag ->> 0 = c.letter AND c.wanted ? (t.tag ->> 1))))))
        ORDER BY p.created_at, p.event_id LIMIT p_limit
    ) AS x;
END $$;
COMMENT ON FUNCTION bigbrotr.read_held_ids IS
    'The next ids of [p_since, p_until) that a relay is known to hold, as read_ids returns those of the archive. '
    'p_tags keeps only events with a tag of each letter that has one of its values, e.g. {"t": ["nostr"]}; where tags '
    'are not kept, no id is returned.';

-- The row stays when the relay holds the event again.
CREATE TABLE IF NOT EXISTS bigbrotr.dropped (
    created_at bigint NOT NULL,
    event_id   bytea  NOT NULL,
    relay_id   bigint NOT NULL REFERENCES bigbrotr.relays (id) ON DELETE CASCADE,
    seen_at    bigint NOT NULL,
    dropped_at bigint NOT NULL,
    PRIMARY KEY (created_at, event_id, relay_id)
);
COMMENT ON TABLE bigbrotr.dropped IS
    'Events that a relay held once and was later proven not to hold. They stay in the archive.';
COMMENT ON COLUMN bigbrotr.dropped.created_at IS 'When the event was created, in Unix seconds.';
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
    ended    integer;
    until_at integer := bigbrotr.pack_seen(p_before);
    now_at   integer := bigbrotr.pack_seen(p_now);
BEGIN
    LOCK TABLE bigbrotr.presence_lock IN ROW EXCLUSIVE MODE;
    -- No other process changes when this relay was first seen to hold an event: only the holder of its lease does.
    INSERT INTO bigbrotr.dropped AS d (created_at, event_id, relay_id, seen_at, dropped_at)
    SELECT p.created_at, p.event_id, p_relay_id,
           bigbrotr.unpack_seen(p.seen_ats[array_position(p.relay_ids, p_relay_id)]), p_now
    FROM unnest(p_created_ats, p_ids) AS u (created_at, id)
    JOIN bigbrotr.presence p ON p.created_at = u.created_at AND p.event_id = u.id
    WHERE p.relay_ids @> ARRAY[p_relay_id]
      AND p.seen_ats[array_position(p.relay_ids, p_relay_id)] NOT BETWEEN until_at AND now_at
    ON CONFLICT (created_at, event_id, relay_id) DO UPDATE SET dropped_at = EXCLUDED.dropped_at;

    -- Positions are looked up in the row as it is now: pairs of other relays may have ended since the INSERT above.
    WITH ended_pairs AS (
        UPDATE bigbrotr.presence p SET
            relay_ids = array_remove(p.relay_ids, p_relay_id),
            seen_ats  = p.seen_ats[:array_position(p.relay_ids, p_relay_id) - 1]
                     || p.seen_ats[array_position(p.relay_ids, p_relay_id) + 1:]
        FROM unnest(p_created_ats, p_ids) AS u (created_at, id)
        WHERE p.created_at = u.created_at AND p.event_id = u.id
          AND p.relay_ids @> ARRAY[p_relay_id]
          AND p.seen_ats[array_position(p.relay_ids, p_relay_id)] NOT BETWEEN until_at AND now_at
        RETURNING 1
    )
    SELECT count(*) INTO ended FROM ended_pairs;
    IF ended > 0 THEN
        UPDATE bigbrotr.tallies SET pairs = pairs - ended WHERE relay_id = p_relay_id;
        PERFORM bigbrotr.hold_lease(p_relay_id, p_epoch);
    END IF;
    RETURN ended;
END $$;
COMMENT ON FUNCTION bigbrotr.note_drops IS
    'Notes that a relay no longer holds events that it was first seen to hold before p_before. Arrays of one length, '
    'sorted by (created_at, id). Returns how many pairs have ended. Refused (BB001) if another process has claimed '
    'the relay. Idempotent.';

CREATE OR REPLACE VIEW bigbrotr.events_relays AS
SELECT e.id AS event_id, r.url AS relay_url, bigbrotr.unpack_seen(s.seen_at) AS seen_at
FROM bigbrotr.events e
JOIN bigbrotr.presence p ON p.created_at = e.created_at AND p.event_id = e.id
CROSS JOIN LATERAL unnest(p.relay_ids, p.seen_ats) AS s (relay_id, seen_at)
JOIN bigbrotr.relays r ON r.id = s.relay_id;
COMMENT ON VIEW bigbrotr.events_relays IS 'Which relays hold which event: a row a pair.';
COMMENT ON COLUMN bigbrotr.events_relays.event_id IS 'Id of the event: 32 bytes.';
COMMENT ON COLUMN bigbrotr.events_relays.relay_url IS 'URL of the relay.';
COMMENT ON COLUMN bigbrotr.events_relays.seen_at IS 'When the relay was first seen to hold the event, in Unix seconds.';
