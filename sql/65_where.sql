-- Where: which relays hold an event, which are proven not to, and of which nothing is known.

-- A relay that says it holds the event and does not hand it over is believed until its pages have shown, for all events,
-- that it does not: in the second of the event or, where that is not known, in all of the window in which it was named.
CREATE OR REPLACE FUNCTION bigbrotr.where_is(p_id bytea)
RETURNS TABLE (
    url text, seen_at bigint, dropped_seen_at bigint, dropped_at bigint, withheld_at bigint, proofs jsonb
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    born     bigint;
    part     integer;
    number   bigint;
    holders  bigint[];
    times    integer[];
    leavers  bigint[];  -- relays that have dropped it, since when they had held it, and when it was found
    first_at bigint[];
    left_at  bigint[];
BEGIN
    SELECT e.created_at, e.slice, e.num INTO born, part, number FROM bigbrotr.events_stored e WHERE e.id = p_id;
    SELECT array_agg(p.relay_id), array_agg(p.seen_ats[(number & 255)::integer + 1]) INTO holders, times
    FROM bigbrotr.presence p
    WHERE p.slice = part AND p.chunk = number >> 8 AND p.seen_ats[(number & 255)::integer + 1] IS NOT NULL;
    SELECT array_agg(d.relay_id), array_agg(d.seen_at), array_agg(d.dropped_at) INTO leavers, first_at, left_at
    FROM bigbrotr.dropped d WHERE d.created_at = born AND d.slice = part AND d.event_id = p_id;
    RETURN QUERY
    SELECT r.url, bigbrotr.unpack_seen(times[array_position(holders, r.id)]), d.seen_at, d.dropped_at, w.noted_at,
           coalesce(k.proofs, '[]')
    FROM bigbrotr.relays r
    LEFT JOIN (
        SELECT c.relay_id, jsonb_agg(jsonb_build_object('filter', c.filter, 'how', c.how, 'proven_at', c.proven_at)
                                     ORDER BY c.proven_at DESC) AS proofs
        FROM bigbrotr.coverage c WHERE c.proven @> born GROUP BY c.relay_id
    ) AS k ON k.relay_id = r.id
    LEFT JOIN unnest(leavers, first_at, left_at) AS d (relay_id, seen_at, dropped_at) ON d.relay_id = r.id
    LEFT JOIN bigbrotr.withheld w ON w.relay_id = r.id AND w.event_id = p_id AND NOT EXISTS (
        SELECT FROM bigbrotr.coverage c
        WHERE c.relay_id = r.id AND c.filter = '' AND c.how <> 'reconciliation' AND c.proven_at >= w.noted_at
          AND c.proven @> CASE WHEN born IS NULL THEN w.span ELSE int8range(born, born, '[]') END)
    ORDER BY r.url;
END $$;
COMMENT ON FUNCTION bigbrotr.where_is IS
    'What is known of each relay and the event p_id; times in Unix seconds. seen_at: the relay holds the event. '
    'dropped_at: it held the event since dropped_seen_at and was proven not to hold it any more. withheld_at: it says '
    'that it holds the event and does not hand it over. proofs: how and when the second of the event was proven '
    'complete, by filter (empty: all events); an event that such a relay has not shown is not there. No row without '
    'relays.';
