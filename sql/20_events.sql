-- Events: each one once, partitioned by time. Ids and signatures are verified before events come here. Only the files in
-- profiles/ say what a profile keeps of an event.

-- The key starts with the time: copying a relay walks through time, so inserts and look-ups touch neighbouring
-- pages; and an id fixes its created_at (it is hashed), so (created_at, id) is as unique as id.
CREATE TABLE IF NOT EXISTS bigbrotr.events (
    created_at bigint  NOT NULL,
    kind       integer NOT NULL,
    id         bytea   NOT NULL,
    pubkey     bytea   NOT NULL,
    sig        bytea,
    tags       jsonb,
    tagvalues  text[],
    content    text,
    PRIMARY KEY (created_at, id)
) PARTITION BY RANGE (created_at);
COMMENT ON TABLE bigbrotr.events IS
    'Nostr events, each stored once. Its id and signature were verified before. Partitioned by created_at into '
    'quarters of a year.';
COMMENT ON COLUMN bigbrotr.events.created_at IS 'When the author says the event was created, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.events.kind IS 'Kind of the event.';
COMMENT ON COLUMN bigbrotr.events.id IS 'Id of the event: 32 bytes, the SHA-256 of its canonical form.';
COMMENT ON COLUMN bigbrotr.events.pubkey IS 'Public key of the author: 32 bytes.';
COMMENT ON COLUMN bigbrotr.events.sig IS 'Schnorr signature: 64 bytes. NULL in the profile lite.';
COMMENT ON COLUMN bigbrotr.events.tags IS 'Tags as a JSON array of arrays. NULL in the profile lite.';
COMMENT ON COLUMN bigbrotr.events.tagvalues IS
    'The first 5,000 single-letter tags as letter:value, each cut to 1,000 bytes, for the index. NULL in the profile '
    'lite.';
COMMENT ON COLUMN bigbrotr.events.content IS 'Content. NULL in the profile lite.';
CREATE INDEX IF NOT EXISTS events_id_idx ON bigbrotr.events USING hash (id);
CREATE INDEX IF NOT EXISTS events_pubkey_idx ON bigbrotr.events (pubkey, created_at);
CREATE INDEX IF NOT EXISTS events_kind_idx ON bigbrotr.events (kind, created_at);

-- Tags are mostly hexadecimal, which pglz shrinks by 1 % of the table and 5 us an event: they are not compressed. Long
-- texts shrink by more.
-- Only where that is not so yet: once the table is distributed, such commands are refused.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'bigbrotr.events'::regclass
               AND attname IN ('tags', 'tagvalues') AND attstorage <> 'e') THEN
        ALTER TABLE bigbrotr.events ALTER COLUMN tags SET STORAGE EXTERNAL, ALTER COLUMN tagvalues SET STORAGE EXTERNAL;
    END IF;
    IF 'lz4' = ANY (SELECT unnest(enumvals) FROM pg_settings WHERE name = 'default_toast_compression')
       AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'bigbrotr.events'::regclass
                   AND attname = 'content' AND attcompression <> 'l') THEN
        ALTER TABLE bigbrotr.events ALTER COLUMN content SET COMPRESSION lz4;
    END IF;
END $$;

CREATE TABLE IF NOT EXISTS bigbrotr.events_raw (
    event_id   bytea  NOT NULL PRIMARY KEY,
    created_at bigint NOT NULL,
    raw        bytea  NOT NULL
);
COMMENT ON TABLE bigbrotr.events_raw IS
    'Exact bytes of the rare events that columns cannot hold (U+0000, lone surrogates, unescaped control characters). '
    'The row in events has the nearest text.';
COMMENT ON COLUMN bigbrotr.events_raw.event_id IS 'Id of the event: 32 bytes.';
COMMENT ON COLUMN bigbrotr.events_raw.created_at IS 'When the event was created, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.events_raw.raw IS 'The canonical form that was hashed, as UTF-8 bytes.';

CREATE OR REPLACE FUNCTION bigbrotr.insert_events(
    p_relay_id integer, p_seen_ats bigint[], p_created_ats bigint[], p_kinds integer[], p_ids bytea[], p_pubkeys bytea[],
    p_sigs bytea[], p_tags jsonb[], p_tagvalues text[], p_contents text[], p_raws bytea[],
    p_named text[], p_named_in integer[]
) RETURNS TABLE (new_events integer, new_pairs integer)
LANGUAGE plpgsql ROWS 1 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    new_ids bytea[];  -- where not all are
BEGIN
    LOCK TABLE bigbrotr.presence_lock IN ROW EXCLUSIVE MODE;
    -- Presence comes first: its row is the lock that keeps the event from being deleted as an orphan meanwhile.
    BEGIN
        -- The caller has just looked for these events, so nearly always all are new. Inserting them as new costs a fifth
        -- less than looking for each of them again, twice.
        INSERT INTO bigbrotr.presence (created_at, event_id, relay_ids, seen_ats)
        SELECT u.created_at, u.id, ARRAY[p_relay_id], ARRAY[bigbrotr.pack_seen(u.seen_at)]
        FROM unnest(p_created_ats, p_ids, p_seen_ats) AS u (created_at, id, seen_at);

        INSERT INTO bigbrotr.events (created_at, kind, id, pubkey, sig, tags, tagvalues, content)
        SELECT u.created_at, u.kind, u.id, u.pubkey, u.sig, u.tags, u.tagvalues::text[], u.content
        FROM unnest(p_created_ats, p_kinds, p_ids, p_pubkeys, p_sigs, p_tags, p_tagvalues, p_contents)
             AS u (created_at, kind, id, pubkey, sig, tags, tagvalues, content);
        new_events := cardinality(p_ids);
        new_pairs := new_events;
    EXCEPTION WHEN unique_violation OR internal_error THEN  -- the latter is what Citus makes of it
        WITH noted AS (
            INSERT INTO bigbrotr.presence AS p (created_at, event_id, relay_ids, seen_ats)
            SELECT u.created_at, u.id, ARRAY[p_relay_id], ARRAY[bigbrotr.pack_seen(u.seen_at)]
            FROM unnest(p_created_ats, p_ids, p_seen_ats) AS u (created_at, id, seen_at)
            ON CONFLICT (created_at, event_id) DO UPDATE SET
                relay_ids = p.relay_ids || EXCLUDED.relay_ids,
                seen_ats  = p.seen_ats || EXCLUDED.seen_ats
            WHERE NOT p.relay_ids @> EXCLUDED.relay_ids
            RETURNING 1
        )
        SELECT count(*) INTO new_pairs FROM noted;

        WITH stored AS (
            INSERT INTO bigbrotr.events (created_at, kind, id, pubkey, sig, tags, tagvalues, content)
            SELECT u.created_at, u.kind, u.id, u.pubkey, u.sig, u.tags, u.tagvalues::text[], u.content
            FROM unnest(p_created_ats, p_kinds, p_ids, p_pubkeys, p_sigs, p_tags, p_tagvalues, p_contents)
                 AS u (created_at, kind, id, pubkey, sig, tags, tagvalues, content)
            ON CONFLICT (created_at, id) DO NOTHING
            RETURNING events.id
        )
        SELECT count(*), coalesce(array_agg(stored.id), '{}') INTO new_events, new_ids FROM stored;
    END;

    IF p_raws IS NOT NULL THEN
        INSERT INTO bigbrotr.events_raw (event_id, created_at, raw)
        SELECT u.id, u.created_at, u.raw
        FROM unnest(p_ids, p_created_ats, p_raws) AS u (id, created_at, raw)
        WHERE u.raw IS NOT NULL
        ON CONFLICT (event_id) DO NOTHING;
    END IF;

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
        IF new_ids IS NOT NULL THEN
            SELECT array_agg(n.url), array_agg(n.position) INTO p_named, p_named_in
            FROM unnest(p_named, p_named_in) AS n (url, position)
            JOIN unnest(p_ids) WITH ORDINALITY AS u (id, position) ON u.position = n.position
            JOIN unnest(new_ids) AS f (id) ON f.id = u.id;
        END IF;
        PERFORM bigbrotr.note_mentions(p_urls => p_named, p_positions => p_named_in, p_kinds => p_kinds);
    END IF;
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION bigbrotr.insert_events IS
    'Stores verified events that one relay holds, and notes that it holds them. Arrays of one length, sorted by '
    '(created_at, id), so that concurrent writers lock in the same order. What the profile does not keep comes as a '
    'NULL array; so does p_raws if no event needs one. p_tagvalues: one array literal an event. p_named: the relay '
    'URLs that the events name; p_named_in: for each, the position of its event, from 1. Those of new events go into '
    'the queue mentions. Returns how many events and how many pairs are new. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.read_ids(
    p_since bigint, p_until bigint, p_after bytea, p_limit bigint, p_kinds integer[], p_pubkeys bytea[]
) RETURNS TABLE (created_ats bytea, ids bytea)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_custom_plan
AS $$
BEGIN
    IF p_kinds IS NULL AND p_pubkeys IS NULL THEN
        RETURN QUERY
        SELECT string_agg(int8send(x.created_at), ''), string_agg(x.id, '') FROM (
            SELECT e.created_at, e.id FROM bigbrotr.events e
            WHERE e.created_at >= p_since AND e.created_at < p_until AND (e.created_at, e.id) > (p_since, p_after)
            ORDER BY e.created_at, e.id LIMIT p_limit
        ) AS x;
    ELSE
        RETURN QUERY
        SELECT string_agg(int8send(x.created_at), ''), string_agg(x.id, '') FROM (
            SELECT e.created_at, e.id FROM bigbrotr.events e
            WHERE e.created_at >= p_since AND e.created_at < p_until AND (e.created_at, e.id) > (p_since, p_after)
              AND (p_kinds IS NULL OR e.kind = ANY (p_kinds)) AND (p_pubkeys IS NULL OR e.pubkey = ANY (p_pubkeys))
            ORDER BY e.created_at, e.id LIMIT p_limit
        ) AS x;
    END IF;
END $$;
COMMENT ON FUNCTION bigbrotr.read_ids IS
    'The next archived ids of [p_since, p_until) after p_after (an id of the second p_since), in the order '
    '(created_at, id), at most p_limit: their times, 8 bytes each, most significant first, and the ids, 32 bytes '
    'each. p_kinds and p_pubkeys leave others out; without them only the index is read.';

CREATE OR REPLACE FUNCTION bigbrotr.find_events(p_ids bytea[], p_since bigint, p_until bigint) RETURNS bigint[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET plan_cache_mode = force_custom_plan
AS $$
BEGIN
    RETURN (
        SELECT array_agg(f.created_at ORDER BY u.position)
        FROM unnest(p_ids) WITH ORDINALITY AS u (id, position)
        LEFT JOIN (
            SELECT w.position, e.created_at
            FROM unnest(p_ids) WITH ORDINALITY AS w (id, position) JOIN bigbrotr.events e ON e.id = w.id
            WHERE e.created_at >= p_since AND e.created_at < p_until
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
BEGIN
    IF to_regclass('bigbrotr.events_tagvalues_idx') IS NOT NULL THEN
        writers := ARRAY(
            SELECT e.pubkey FROM bigbrotr.events e
            WHERE e.tagvalues && ARRAY['r:' || p_url, 'r:' || p_url || '/'] AND e.kind = 10002
            LIMIT p_most);
    END IF;
    RETURN QUERY
    WITH newest AS (
        SELECT e.id, e.pubkey FROM bigbrotr.events e WHERE e.created_at <= p_now
        ORDER BY e.created_at DESC LIMIT 10 * p_most
    ), others AS (
        SELECT n.pubkey FROM newest n GROUP BY n.pubkey LIMIT p_most
    )
    SELECT (SELECT array_agg(x.pubkey) FROM (
                SELECT u.pubkey FROM unnest(writers) AS u (pubkey) UNION SELECT o.pubkey FROM others o LIMIT p_most
            ) AS x),
           (SELECT array_agg(x.id) FROM (SELECT n.id FROM newest n LIMIT p_most) AS x);
END $$;
COMMENT ON FUNCTION bigbrotr.some_known IS
    'Up to p_most authors of archived events and up to p_most of their ids: the newest as of p_now, and first the '
    'authors whose relay list names p_url, where tags are kept.';

CREATE OR REPLACE FUNCTION bigbrotr.delete_orphan_events() RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    last_at bigint := -1;
    last_id bytea := '';
    times bigint[];
    ids bytea[];
    part integer;
    gone integer := 0;
BEGIN
    LOOP
        -- An event stays if its last relay has dropped it: that is what an archive is for.
        SELECT array_agg(h.created_at), array_agg(h.event_id) INTO times, ids
        FROM (
            SELECT p.created_at, p.event_id FROM bigbrotr.presence p
            WHERE p.created_at >= last_at AND (p.created_at, p.event_id) > (last_at, last_id)
              AND NOT EXISTS (SELECT FROM bigbrotr.relays r WHERE r.id = ANY (p.relay_ids))
              AND NOT EXISTS (
                  SELECT FROM bigbrotr.dropped d WHERE d.created_at = p.created_at AND d.event_id = p.event_id)
            ORDER BY p.created_at, p.event_id LIMIT 10000
        ) AS h;
        EXIT WHEN ids IS NULL;
        last_at := times[cardinality(times)];
        last_id := ids[cardinality(ids)];

        -- First the rows are locked, then a second statement looks at them, which sees what was noted until then. A single
        -- DELETE that had waited for a lock would compare the new row with the relays of before.
        UPDATE bigbrotr.presence p SET seen_ats = p.seen_ats
        FROM unnest(times, ids) AS u (created_at, id)
        WHERE p.created_at = u.created_at AND p.event_id = u.id;
        WITH homeless AS (
            DELETE FROM bigbrotr.presence p USING unnest(times, ids) AS u (created_at, id)
            WHERE p.created_at = u.created_at AND p.event_id = u.id
              AND NOT EXISTS (SELECT FROM bigbrotr.relays r WHERE r.id = ANY (p.relay_ids))
              AND NOT EXISTS (
                  SELECT FROM bigbrotr.dropped d WHERE d.created_at = p.created_at AND d.event_id = p.event_id)
            RETURNING p.created_at, p.event_id
        ), raws AS (
            DELETE FROM bigbrotr.events_raw w USING homeless h WHERE w.event_id = h.event_id
        ), deleted AS (
            DELETE FROM bigbrotr.events e USING homeless h WHERE e.created_at = h.created_at AND e.id = h.event_id
            RETURNING 1
        )
        SELECT count(*) INTO part FROM deleted;
        gone := gone + part;
    END LOOP;
    UPDATE bigbrotr.tallies SET events = events - gone WHERE relay_id = 0 AND gone > 0;
    RETURN gone;
END $$;
COMMENT ON FUNCTION bigbrotr.delete_orphan_events IS
    'Deletes the events that no relay of ours holds any more because their relays were deleted. Reads every '
    'partition. Returns how many. Idempotent.';
