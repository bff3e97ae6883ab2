-- Whereabouts: which relays hold an event, which are proven not to, and of which nothing is known.

-- What is known of each relay and the event p_id. A relay holds the event where seen_at is set. It did, and was proven to
-- hold it no longer, where dropped_at is. It says that it does, and does not hand it over, where withheld_at is, unless
-- its pages have shown since, for all events, that it does not: in the second of the event, or, where that is not known,
-- in all of the window in which the relay named it. `proofs` are those of the second in which the event was created, each for the events of a filter ('': for all): an event that a
-- relay has not shown is none of its own then. No row where the archive knows no relay.
CREATE OR REPLACE FUNCTION public.whereabouts(p_id bytea)
RETURNS TABLE (
    url text, seen_at bigint, dropped_seen_at bigint, dropped_at bigint, withheld_at bigint, proofs jsonb
)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    born     bigint := (SELECT e.created_at FROM public.events e WHERE e.id = p_id);
    holders  integer[];
    times    integer[];
    leavers  bigint[];  -- relays that have dropped it, since when they had held it, and when it was found
    first_at bigint[];
    left_at  bigint[];
BEGIN
    SELECT p.relay_ids, p.seen_ats INTO holders, times
    FROM public.presence p WHERE p.created_at = born AND p.event_id = p_id;
    SELECT array_agg(d.relay_id), array_agg(d.seen_at), array_agg(d.dropped_at) INTO leavers, first_at, left_at
    FROM public.dropped d WHERE d.created_at = born AND d.event_id = p_id;
    RETURN QUERY
    SELECT r.url, public.unpack_seen(times[array_position(holders, r.id::integer)]), d.seen_at, d.dropped_at, w.noted_at,
           (SELECT coalesce(jsonb_agg(jsonb_build_object('filter', c.filter, 'how', c.how, 'proven_at', c.proven_at)
                                      ORDER BY c.proven_at DESC), '[]')
            FROM public.coverage c WHERE c.relay_id = r.id AND c.proven @> born)
    FROM public.relays r
    LEFT JOIN unnest(leavers, first_at, left_at) AS d (relay_id, seen_at, dropped_at) ON d.relay_id = r.id
    LEFT JOIN public.withheld w ON w.relay_id = r.id AND w.event_id = p_id AND NOT EXISTS (
        SELECT FROM public.coverage c
        WHERE c.relay_id = r.id AND c.filter = '' AND c.how <> 'reconciliation' AND c.proven_at >= w.noted_at
          AND c.proven @> CASE WHEN born IS NULL THEN w.span ELSE int8range(born, born, '[]') END)
    ORDER BY r.url;
END $$;
