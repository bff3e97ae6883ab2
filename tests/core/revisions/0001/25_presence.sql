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
-- others. Arrays of one length, sorted by (created_at, id) so that concurrent writers lock in the same order.
-- Idempotent.
-- The planner is told to probe the key for each id, in order, with one plan for every call, whatever it believes about
-- the size of the tables: other plans lock in another order, and cost from twice to thirteen times as much (measured:
-- 4 us a pair; with bounds on created_at, which look as if they helped, 9 to 53).
CREATE OR REPLACE FUNCTION public.note_presence(
    p_relay_id integer, p_created_ats bigint[], p_ids bytea[], p_seen_at bigint
) RETURNS integer[]
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_material = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    noted   integer;
    unknown integer[];
BEGIN
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
    UPDATE public.tallies SET pairs = pairs + noted WHERE relay_id = p_relay_id AND noted > 0;
    IF noted = cardinality(p_ids) THEN
        RETURN '{}';
    END IF;

    -- Known is an event *with this relay*, noted just now or before. One that another writer has committed since the
    -- statement above began exists as well, but its pair with this relay does not: it has to be inserted.
    SELECT array_agg(u.position) INTO unknown
    FROM unnest(p_created_ats, p_ids) WITH ORDINALITY AS u (created_at, id, position)
    WHERE NOT EXISTS (
        SELECT FROM public.presence p
        WHERE p.created_at = u.created_at AND p.event_id = u.id
          AND p.relay_ids @> ARRAY[p_relay_id]
    );
    RETURN coalesce(unknown, '{}');
END $$;

CREATE OR REPLACE VIEW public.events_relays AS
SELECT e.id AS event_id, r.url AS relay_url, public.unpack_seen(s.seen_at) AS seen_at
FROM public.events e
JOIN public.presence p ON p.created_at = e.created_at AND p.event_id = e.id
CROSS JOIN LATERAL unnest(p.relay_ids, p.seen_ats) AS s (relay_id, seen_at)
JOIN public.relays r ON r.id = s.relay_id;
