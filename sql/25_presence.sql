-- Presence: which relays hold an event, and since when we know. One row an event, two arrays that grow together.
-- The row of an event and its presence are written in one transaction: one exists exactly when the other does.

CREATE TABLE IF NOT EXISTS public.presence (
    created_at bigint    NOT NULL,
    event_id   bytea     NOT NULL,
    relay_ids  integer[] NOT NULL,  -- in the order in which they were noted; a deleted relay's number is never reused
    seen_ats   integer[] NOT NULL,  -- packed, see below; as long as relay_ids
    PRIMARY KEY (created_at, event_id)
) PARTITION BY RANGE (created_at);

-- A time in four bytes: seconds since 2020-01-01, good until 2088.
CREATE OR REPLACE FUNCTION public.pack_seen(p_time bigint) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (p_time - 1577836800)::integer;

CREATE OR REPLACE FUNCTION public.unpack_seen(p_packed integer) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN p_packed::bigint + 1577836800;

-- Whoever writes presence in the order of the keys shares this lock until the end of the transaction; who cannot keep
-- to one order, since the transaction stores the events of several relays, takes it alone, before all others.
CREATE OR REPLACE FUNCTION public.lock_presence(p_alone boolean) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF p_alone THEN
        PERFORM pg_advisory_xact_lock(108239071110723);
    ELSE
        PERFORM pg_advisory_xact_lock_shared(108239071110723);
    END IF;
END $$;

-- Notes that a relay holds those of the given events that are archived, and returns the positions (from 1) of the
-- others. Arrays of one length, sorted by (created_at, id) so that concurrent writers lock in the same order. Refused
-- (BB001) when the lease has passed on. Idempotent.
-- The planner is told to probe the key for each id, in order, with one plan for every call, whatever it believes about
-- the size of the tables: other plans lock in another order, and cost from twice to thirteen times as much (measured:
-- 4 us a pair; with bounds on created_at, which look as if they helped, 9 to 53).
CREATE OR REPLACE FUNCTION public.note_presence(
    p_relay_id integer, p_epoch bigint, p_created_ats bigint[], p_ids bytea[], p_seen_at bigint
) RETURNS integer[]
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_material = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    noted integer;
    known integer[];
BEGIN
    -- Most pages bring nothing but known events, or none: then one pass decides, for this ends at the first that is known.
    PERFORM FROM unnest(p_created_ats, p_ids) AS u (created_at, id)
    JOIN public.presence p ON p.created_at = u.created_at AND p.event_id = u.id LIMIT 1;
    IF NOT FOUND THEN
        RETURN ARRAY(SELECT generate_series(1, cardinality(p_ids)));
    END IF;

    PERFORM public.lock_presence(false);
    WITH noted_pairs AS (
        UPDATE public.presence p SET
            relay_ids = p.relay_ids || p_relay_id,
            seen_ats  = p.seen_ats || public.pack_seen(p_seen_at)
        FROM unnest(p_created_ats, p_ids) AS u (created_at, id)
        WHERE p.created_at = u.created_at AND p.event_id = u.id
          AND NOT p.relay_ids @> ARRAY[p_relay_id]
        RETURNING 1
    )
    SELECT count(*) INTO noted FROM noted_pairs;
    IF noted > 0 THEN
        PERFORM public.count_pairs(p_relay_id, noted, p_created_ats[1], p_created_ats[cardinality(p_created_ats)]);
        PERFORM public.hold_lease(p_relay_id, p_epoch);
    END IF;
    IF noted = cardinality(p_ids) THEN
        RETURN '{}';
    END IF;

    -- Known is an event *with this relay*, noted just now or before. One that another writer has committed since the
    -- statement above began exists as well, but its pair with this relay does not: it has to be inserted.
    SELECT array_agg(u.position) INTO known
    FROM unnest(p_created_ats, p_ids) WITH ORDINALITY AS u (created_at, id, position)
    JOIN public.presence p ON p.created_at = u.created_at AND p.event_id = u.id
    WHERE p.relay_ids @> ARRAY[p_relay_id];
    RETURN ARRAY(SELECT generate_series(1, cardinality(p_ids)) EXCEPT SELECT unnest(known) ORDER BY 1);
END $$;

-- Notes that a relay holds all archived events of [p_since, p_until) but for those of p_absent_ids, and returns how many
-- of these pairs are new: one pass over the window (2 us a pair, half of what it costs to name each one). Refused
-- (BB002) unless p_digest is the SHA-256 of all ids of the window, one after the other in the order of the keys, in this
-- very snapshot: others have come, or gone, since they were read. Refused (BB001) when the lease has passed on.
-- Idempotent. Locks in the order of the keys, like note_presence, but that the default partition comes last: two that
-- meet in it may be told of a deadlock, and try again.
CREATE OR REPLACE FUNCTION public.mark_window(
    p_relay_id integer, p_epoch bigint, p_since bigint, p_until bigint, p_digest bytea, p_absent_ids bytea[],
    p_seen_at bigint
) RETURNS integer
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    noted integer;
    found bytea;
BEGIN
    PERFORM public.lock_presence(false);
    WITH noted_pairs AS (
        UPDATE public.presence p SET
            relay_ids = p.relay_ids || p_relay_id,
            seen_ats  = p.seen_ats || public.pack_seen(p_seen_at)
        WHERE p.created_at >= p_since AND p.created_at < p_until
          AND p.event_id <> ALL (p_absent_ids) AND NOT p.relay_ids @> ARRAY[p_relay_id]
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM noted_pairs),
           (SELECT sha256(coalesce(string_agg(x.id, ''), '')) FROM (
                SELECT e.id FROM public.events e WHERE e.created_at >= p_since AND e.created_at < p_until
                ORDER BY e.created_at, e.id) AS x)
    INTO noted, found;
    IF found <> p_digest THEN
        RAISE EXCEPTION 'the window holds other events by now' USING ERRCODE = 'BB002';
    END IF;
    IF noted > 0 THEN
        PERFORM public.count_pairs(p_relay_id, noted, p_since, p_until - 1);
        PERFORM public.hold_lease(p_relay_id, p_epoch);
    END IF;
    RETURN noted;
END $$;

-- The next ids of [p_since, p_until) that a relay is known to hold: as read_ids gives those of the archive. p_tags leaves
-- out what has no tag of each letter in it with one of its values, {"t": ["nostr"]}, as far as the tags are kept: where
-- they are not, nothing can be said, and no id is given.
CREATE OR REPLACE FUNCTION public.read_held_ids(
    p_relay_id integer, p_since bigint, p_until bigint, p_after bytea, p_limit bigint,
    p_kinds integer[], p_pubkeys bytea[], p_tags jsonb
) RETURNS TABLE (created_ats bytea, ids bytea)
LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_custom_plan
AS $$
BEGIN
    RETURN QUERY
    SELECT string_agg(int8send(x.created_at), ''), string_agg(x.event_id, '') FROM (
        SELECT p.created_at, p.event_id FROM public.presence p
        WHERE p.created_at >= p_since AND p.created_at < p_until AND (p.created_at, p.event_id) > (p_since, p_after)
          AND p.relay_ids @> ARRAY[p_relay_id]
          AND ((p_kinds IS NULL AND p_pubkeys IS NULL AND p_tags IS NULL) OR EXISTS (
              SELECT FROM public.events e WHERE e.created_at = p.created_at AND e.id = p.event_id
                AND (p_kinds IS NULL OR e.kind = ANY (p_kinds)) AND (p_pubkeys IS NULL OR e.pubkey = ANY (p_pubkeys))
                AND (p_tags IS NULL OR NOT EXISTS (
                    SELECT FROM jsonb_each(p_tags) AS c (letter, wanted) WHERE NOT EXISTS (
                        SELECT FROM jsonb_array_elements(e.tags) AS t (tag)
                        WHERE t.tag ->> 0 = c.letter AND c.wanted ? (t.tag ->> 1))))))
        ORDER BY p.created_at, p.event_id LIMIT p_limit
    ) AS x;
END $$;

-- Dropped: events that a relay held once, and was proven not to hold later. They stay archived; the pair is no longer
-- one. A relay that holds the event again gets a pair again, and what is noted here remains.
CREATE TABLE IF NOT EXISTS public.dropped (
    created_at bigint NOT NULL,
    event_id   bytea  NOT NULL,
    relay_id   bigint NOT NULL REFERENCES public.relays (id) ON DELETE CASCADE,
    seen_at    bigint NOT NULL,  -- when the relay was first seen to hold it
    dropped_at bigint NOT NULL,  -- when it was last proven that it no longer does
    PRIMARY KEY (created_at, event_id, relay_id)
);
CREATE INDEX IF NOT EXISTS dropped_relay_id_idx ON public.dropped (relay_id);

-- Notes that a relay no longer holds events, as far as it was first seen to hold them before p_before: what came after
-- the question is not answered by it (what is noted for later than now, by a clock that was ahead, came before). Arrays
-- of one length, sorted by (created_at, id). Returns how many pairs have ended. Refused (BB001) when the lease has passed
-- on. Idempotent.
CREATE OR REPLACE FUNCTION public.note_drops(
    p_relay_id integer, p_epoch bigint, p_created_ats bigint[], p_ids bytea[], p_before bigint, p_now bigint
) RETURNS integer
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_material = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    ended    integer;
    until_at integer := public.pack_seen(p_before);
    now_at   integer := public.pack_seen(p_now);
BEGIN
    PERFORM public.lock_presence(false);
    -- When the relay was first seen to hold an event is changed by nobody else meanwhile: this is its lease's holder.
    INSERT INTO public.dropped AS d (created_at, event_id, relay_id, seen_at, dropped_at)
    SELECT p.created_at, p.event_id, p_relay_id,
           public.unpack_seen(p.seen_ats[array_position(p.relay_ids, p_relay_id)]), p_now
    FROM unnest(p_created_ats, p_ids) AS u (created_at, id)
    JOIN public.presence p ON p.created_at = u.created_at AND p.event_id = u.id
    WHERE p.relay_ids @> ARRAY[p_relay_id]
      AND p.seen_ats[array_position(p.relay_ids, p_relay_id)] NOT BETWEEN until_at AND now_at
    ON CONFLICT (created_at, event_id, relay_id) DO UPDATE SET dropped_at = EXCLUDED.dropped_at;

    -- Places are those in the row as it is when its turn comes: others may have left it since.
    WITH ended_pairs AS (
        UPDATE public.presence p SET
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
        UPDATE public.tallies SET pairs = pairs - ended WHERE relay_id = p_relay_id;
        PERFORM public.hold_lease(p_relay_id, p_epoch);
    END IF;
    RETURN ended;
END $$;

CREATE OR REPLACE VIEW public.events_relays AS
SELECT e.id AS event_id, r.url AS relay_url, public.unpack_seen(s.seen_at) AS seen_at
FROM public.events e
JOIN public.presence p ON p.created_at = e.created_at AND p.event_id = e.id
CROSS JOIN LATERAL unnest(p.relay_ids, p.seen_ats) AS s (relay_id, seen_at)
JOIN public.relays r ON r.id = s.relay_id;
