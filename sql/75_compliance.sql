-- Compliance: what relays do when they are asked to delete events. A relay was asked when it was first seen to hold the
-- request. What it then holds is known as of the proof that came after: a proof ends the pairs that it does not find. Who
-- changes what is known notes the days of the events that are to be deleted, in its own transaction; the statistics
-- service counts these days anew. All of it stands on one machine.

CREATE TABLE IF NOT EXISTS bigbrotr.compliance_days (
    day bigint NOT NULL
);
CREATE INDEX IF NOT EXISTS compliance_days_day_idx ON bigbrotr.compliance_days (day);
COMMENT ON TABLE bigbrotr.compliance_days IS 'Days of which something may have changed since day_compliance was counted: a queue.';
COMMENT ON COLUMN bigbrotr.compliance_days.day IS 'Day of created_at: days since 1970, of UTC.';

CREATE TABLE IF NOT EXISTS bigbrotr.day_compliance (
    day      bigint NOT NULL,
    relay_id bigint NOT NULL,
    deleted  bigint NOT NULL,
    kept     bigint NOT NULL,
    asked_at bigint NOT NULL,
    PRIMARY KEY (relay_id, day)
);
CREATE INDEX IF NOT EXISTS day_compliance_day_idx ON bigbrotr.day_compliance (day);
COMMENT ON TABLE bigbrotr.day_compliance IS
    'Events of each day that a relay held and was asked to delete (NIP-09), or to forget with their author (NIP-62).';
COMMENT ON COLUMN bigbrotr.day_compliance.day IS 'Day of created_at: days since 1970, of UTC.';
COMMENT ON COLUMN bigbrotr.day_compliance.relay_id IS 'Number of the relay.';
COMMENT ON COLUMN bigbrotr.day_compliance.deleted IS 'Events that it was found not to hold any more, after it was asked.';
COMMENT ON COLUMN bigbrotr.day_compliance.kept IS 'Events that it is not known to have deleted.';
COMMENT ON COLUMN bigbrotr.day_compliance.asked_at IS
    'When it was last asked for one of those, in Unix seconds: a proof that came later shows that it holds them still. '
    '0: it was first seen to hold each of them after it was asked.';

CREATE OR REPLACE FUNCTION bigbrotr.days_of_wraps(p_pubkeys bytea[]) RETURNS SETOF bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET jit = off SET enable_seqscan = off SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    RETURN QUERY
    SELECT DISTINCT e.created_at / 86400 FROM bigbrotr.events_stored e
    WHERE e.kind = 1059 AND e.tag_hashes && ARRAY(
        SELECT bigbrotr.tag_hash('p:' || encode(u.pubkey, 'hex')) FROM unnest(p_pubkeys) AS u (pubkey));
END $$;
COMMENT ON FUNCTION bigbrotr.days_of_wraps IS 'The days on which there are gift wraps for these public keys, or others of the same tag hash.';

CREATE OR REPLACE FUNCTION bigbrotr.note_vanishing(p_pubkeys bytea[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO bigbrotr.compliance_days (day)
    SELECT d.day FROM bigbrotr.days_of_authors(p_pubkeys => p_pubkeys) AS d (day)
    UNION SELECT d.day FROM bigbrotr.days_of_wraps(p_pubkeys => p_pubkeys) AS d (day);
END $$;
COMMENT ON FUNCTION bigbrotr.note_vanishing IS 'Has compliance counted anew for the days of the events of some authors, and of gift wraps for them.';

CREATE OR REPLACE FUNCTION bigbrotr.note_compliance(p_day bigint, p_requests bytea[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ids       bytea[];
    authors   bytea[];
    vanishing bytea[];
BEGIN
    INSERT INTO bigbrotr.compliance_days (day) VALUES (p_day);
    IF cardinality(p_requests) = 0 THEN
        RETURN;
    END IF;
    SELECT array_agg(d.target) FILTER (WHERE length(d.target) = 32),
           array_agg(DISTINCT d.pubkey) FILTER (WHERE length(d.target) <> 32)
    INTO ids, authors
    FROM bigbrotr.deletions d WHERE d.request = ANY (p_requests);
    IF ids IS NOT NULL THEN
        INSERT INTO bigbrotr.compliance_days (day)
        SELECT DISTINCT u.at / 86400
        FROM unnest(bigbrotr.find_events(p_ids => ids, p_since => 0, p_until => 9223372036854775807)) AS u (at)
        WHERE u.at IS NOT NULL;
    END IF;
    IF authors IS NOT NULL THEN
        INSERT INTO bigbrotr.compliance_days (day)
        SELECT d.day FROM bigbrotr.days_of_authors(p_pubkeys => authors) AS d (day);
    END IF;
    vanishing := ARRAY(
        SELECT v.pubkey FROM bigbrotr.vanished v WHERE v.request = ANY (p_requests)
        UNION SELECT v.pubkey FROM bigbrotr.vanished_from v WHERE v.request = ANY (p_requests));
    IF cardinality(vanishing) > 0 THEN
        PERFORM bigbrotr.note_vanishing(p_pubkeys => vanishing);
    END IF;
END $$;
COMMENT ON FUNCTION bigbrotr.note_compliance IS
    'Has compliance counted anew for a day that has changed, and for the days of what its p_requests may be about.';

-- What a relay has accepted it was asked for, whether it keeps the request or not.
CREATE OR REPLACE FUNCTION bigbrotr.note_sent(p_ids bytea[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    requests bytea[] := ARRAY(
        SELECT u.id FROM unnest(p_ids) AS u (id)
        WHERE EXISTS (SELECT FROM bigbrotr.deletions d WHERE d.request = u.id)
           OR EXISTS (SELECT FROM bigbrotr.vanished v WHERE v.request = u.id)
           OR EXISTS (SELECT FROM bigbrotr.vanished_from v WHERE v.request = u.id));
    request  bytea;
BEGIN
    FOREACH request IN ARRAY requests LOOP
        PERFORM bigbrotr.note_compliance(p_day => r.created_at / 86400, p_requests => ARRAY[request])
        FROM bigbrotr.rescues r WHERE r.event_id = request LIMIT 1;
    END LOOP;
END $$;
COMMENT ON FUNCTION bigbrotr.note_sent IS
    'Has compliance counted anew for what those of the events p_ids ask for that are requests.';

CREATE OR REPLACE FUNCTION bigbrotr.compliance_due(p_limit integer) RETURNS SETOF bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    WITH RECURSIVE noted AS (
        SELECT (SELECT max(d.day) FROM bigbrotr.compliance_days d) AS day
        UNION ALL
        SELECT (SELECT max(d.day) FROM bigbrotr.compliance_days d WHERE d.day < n.day) FROM noted n WHERE n.day IS NOT NULL
    )
    SELECT n.day FROM noted n WHERE n.day IS NOT NULL LIMIT p_limit;
END $$;
COMMENT ON FUNCTION bigbrotr.compliance_due IS 'Days of the queue, the newest first, at most p_limit.';

CREATE OR REPLACE FUNCTION bigbrotr.deletable_slice(p_slice integer, p_since bigint, p_last bigint, p_pubkeys bytea[])
RETURNS TABLE (created_at bigint, id bytea, pubkey bytea, kind integer, tags text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET jit = off SET enable_seqscan = off SET plan_cache_mode = force_custom_plan
AS $$
BEGIN
    RETURN QUERY
    SELECT e.created_at, e.id, e.pubkey, e.kind, bigbrotr.telling_tags(e.kind, e.tags)
    FROM (
        SELECT h.created_at, h.id FROM bigbrotr.hidden h
        WHERE h.slice = p_slice AND h.created_at >= p_since AND h.created_at <= p_last AND h.why & 10 <> 0
        UNION
        SELECT x.created_at, x.id FROM bigbrotr.events_stored x
        WHERE x.slice = p_slice AND x.created_at >= p_since AND x.created_at <= p_last AND x.pubkey = ANY (p_pubkeys)
        UNION
        SELECT x.created_at, x.id FROM bigbrotr.events_stored x
        WHERE x.slice = p_slice AND x.created_at >= p_since AND x.created_at <= p_last AND x.kind = 1059
          AND x.tag_hashes && ARRAY(
              SELECT bigbrotr.tag_hash('p:' || encode(u.pubkey, 'hex')) FROM unnest(p_pubkeys) AS u (pubkey))
    ) AS f
    JOIN bigbrotr.events_stored e ON e.slice = p_slice AND e.created_at = f.created_at AND e.id = f.id
    WHERE e.kind NOT IN (-1, 5, 62)
    ORDER BY e.created_at, e.id;
END $$;
COMMENT ON FUNCTION bigbrotr.deletable_slice IS 'The part of deletable that reads one slice; p_pubkeys: all events of these, and gift wraps for them.';

CREATE OR REPLACE FUNCTION bigbrotr.deletable(p_day bigint)
RETURNS TABLE (created_at bigint, id bytea, pubkey bytea, kind integer, tags text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    since_at bigint := p_day * 86400;
    last_at  bigint := least(p_day::numeric * 86400 + 86399, 9223372036854775807)::bigint;
BEGIN
    RETURN QUERY
    SELECT d.created_at, d.id, d.pubkey, d.kind, d.tags
    FROM bigbrotr.deletable_slice(
        p_slice => bigbrotr.slice_of(since_at), p_since => since_at, p_last => last_at,
        p_pubkeys => ARRAY(SELECT DISTINCT v.pubkey FROM bigbrotr.vanished_from v WHERE v.until >= since_at)) AS d;
END $$;
COMMENT ON FUNCTION bigbrotr.deletable IS
    'The events of a day that somebody may have been asked to delete, sorted by time; what was erased here is not known '
    'any more. tags: see telling_tags.';

CREATE OR REPLACE FUNCTION bigbrotr.histories_of_slice(p_slice integer, p_created_ats bigint[], p_ids bytea[])
RETURNS TABLE ("position" bigint, relay_id bigint, seen_at bigint, dropped_at bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET jit = off SET enable_seqscan = off SET plan_cache_mode = force_custom_plan
AS $$
BEGIN
    RETURN QUERY
    WITH held AS MATERIALIZED (
        SELECT f.position, p.relay_id::bigint AS relay_id,
               bigbrotr.unpack_seen(p.seen_ats[(f.num & 255)::integer + 1]) AS seen_at
        FROM unnest(p_created_ats, p_ids) WITH ORDINALITY AS u (created_at, id, position)
        CROSS JOIN LATERAL (
            SELECT u.position, e.num FROM bigbrotr.events_stored e
            WHERE e.slice = p_slice AND e.created_at = u.created_at AND e.id = u.id OFFSET 0
        ) AS f
        JOIN bigbrotr.presence p ON p.slice = p_slice AND p.chunk = f.num >> 8
        WHERE p.seen_ats[(f.num & 255)::integer + 1] IS NOT NULL
    )
    SELECT h.position, h.relay_id, h.seen_at, NULL::bigint FROM held h
    UNION ALL
    SELECT u.position, d.relay_id, d.seen_at, d.dropped_at
    FROM unnest(p_created_ats, p_ids) WITH ORDINALITY AS u (created_at, id, position)
    JOIN bigbrotr.dropped d ON d.slice = p_slice AND d.created_at = u.created_at AND d.event_id = u.id
    WHERE NOT EXISTS (SELECT FROM held h WHERE h.position = u.position AND h.relay_id = d.relay_id);
END $$;
COMMENT ON FUNCTION bigbrotr.histories_of_slice IS 'The part of histories_of that reads one slice.';

CREATE OR REPLACE FUNCTION bigbrotr.histories_of(p_created_ats bigint[], p_ids bytea[])
RETURNS TABLE ("position" bigint, relay_id bigint, seen_at bigint, dropped_at bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    run record;
BEGIN
    FOR run IN SELECT r.slice, r.first, r.last FROM bigbrotr.runs_of(p_created_ats) AS r LOOP
        RETURN QUERY
        SELECT h.position + run.first - 1, h.relay_id, h.seen_at, h.dropped_at
        FROM bigbrotr.histories_of_slice(
            p_slice => run.slice, p_created_ats => p_created_ats[run.first:run.last], p_ids => p_ids[run.first:run.last]) AS h;
    END LOOP;
END $$;
COMMENT ON FUNCTION bigbrotr.histories_of IS
    'Which relays hold events, or held them once; position: of the event, from 1; times in Unix seconds. dropped_at: '
    'NULL while the relay holds it. Arrays of one length, sorted by time.';

CREATE OR REPLACE FUNCTION bigbrotr.asked_of_relays(
    p_created_ats bigint[], p_ids bytea[], p_askers bytea[], p_targets bytea[], p_asks_of integer[]
) RETURNS TABLE ("position" bigint, relay_id bigint, request bytea, asked_at bigint, seen_at bigint, dropped_at bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET jit = off SET enable_seqscan = off SET plan_cache_mode = force_custom_plan
AS $$
BEGIN
    RETURN QUERY
    WITH asks AS MATERIALIZED (
        SELECT o.position, d.request, d.asked_at AS request_at, NULL::bigint AS relay_id
        FROM unnest(p_askers, p_targets, p_asks_of) AS o (asker, target, position)
        JOIN bigbrotr.deletions d ON d.pubkey = o.asker AND d.target = o.target AND d.until >= p_created_ats[o.position]
        UNION
        SELECT o.position, v.request, v.until, NULL
        FROM unnest(p_askers, p_asks_of) AS o (asker, position)
        JOIN bigbrotr.vanished v ON v.pubkey = o.asker AND v.until >= p_created_ats[o.position]
        UNION
        SELECT o.position, v.request, v.until, r.id
        FROM unnest(p_askers, p_asks_of) AS o (asker, position)
        JOIN bigbrotr.vanished_from v ON v.pubkey = o.asker AND v.until >= p_created_ats[o.position]
        JOIN bigbrotr.relays r ON r.url = v.relay_url
    ), requests AS MATERIALIZED (
        SELECT array_agg(x.request_at ORDER BY x.request_at, x.request) AS created_ats,
               array_agg(x.request ORDER BY x.request_at, x.request) AS ids
        FROM (SELECT DISTINCT a.request_at, a.request FROM asks a) AS x
    ), told AS MATERIALIZED (
        SELECT r.ids[h.position] AS request, h.relay_id, h.seen_at
        FROM requests r CROSS JOIN LATERAL bigbrotr.histories_of(p_created_ats => r.created_ats, p_ids => r.ids) AS h
        WHERE r.ids IS NOT NULL
        UNION ALL
        SELECT s.event_id, l.id, s.answered_at
        FROM requests r
        JOIN bigbrotr.rescues s ON s.event_id = ANY (r.ids) AND s.sends > 0
        JOIN bigbrotr.rescue_targets t ON t.id = s.target_id
        JOIN bigbrotr.relays l ON l.url = t.url
    ), held AS MATERIALIZED (
        SELECT h.position, h.relay_id, h.seen_at, h.dropped_at
        FROM requests r CROSS JOIN LATERAL bigbrotr.histories_of(p_created_ats => p_created_ats, p_ids => p_ids) AS h
        WHERE r.ids IS NOT NULL
    )
    SELECT DISTINCT ON (h.position, h.relay_id) h.position, h.relay_id, t.request, t.seen_at, h.seen_at, h.dropped_at
    FROM asks a
    JOIN told t ON t.request = a.request AND (a.relay_id IS NULL OR a.relay_id = t.relay_id)
    JOIN held h ON h.position = a.position AND h.relay_id = t.relay_id
    WHERE h.dropped_at IS NULL OR h.dropped_at > t.seen_at  -- else there was nothing left to delete
    ORDER BY h.position, h.relay_id, t.seen_at, t.request;
END $$;
COMMENT ON FUNCTION bigbrotr.asked_of_relays IS
    'Which relays were asked to delete which of these events: those that hold, or once held, the event, and hold, once '
    'held or accepted from us a request for it. p_askers, p_targets: who might ask, and for what; p_asks_of: for each, the position of the event, from 1. '
    'asked_at: when the relay was first seen to hold the request, or accepted it; seen_at: the event; dropped_at: NULL while it is not '
    'known to have deleted it. Times in Unix seconds; arrays of events of one length, sorted by time.';

CREATE OR REPLACE FUNCTION bigbrotr.count_compliance(
    p_day bigint, p_created_ats bigint[], p_ids bytea[], p_askers bytea[], p_targets bytea[], p_asks_of integer[]
) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM bigbrotr.day_compliance c WHERE c.day = p_day;
    INSERT INTO bigbrotr.day_compliance (day, relay_id, deleted, kept, asked_at)
    SELECT p_day, a.relay_id, count(a.dropped_at), count(*) - count(a.dropped_at),
           coalesce(max(a.asked_at) FILTER (WHERE a.dropped_at IS NULL AND a.seen_at <= a.asked_at), 0)
    FROM bigbrotr.asked_of_relays(
        p_created_ats => p_created_ats, p_ids => p_ids, p_askers => p_askers, p_targets => p_targets,
        p_asks_of => p_asks_of) AS a
    GROUP BY a.relay_id;
END $$;
COMMENT ON FUNCTION bigbrotr.count_compliance IS
    'Counts what relays have done about those events of a day that deletable has; see asked_of_relays for the rest. '
    'Belongs behind begin_compliance, into its transaction. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.begin_compliance(p_day bigint)
RETURNS TABLE (created_at bigint, id bytea, pubkey bytea, kind integer, tags text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    LOCK TABLE bigbrotr.statistics_lock IN EXCLUSIVE MODE;
    -- What commits from here on leaves a note of its own.
    DELETE FROM bigbrotr.compliance_days d WHERE d.day = p_day;
    RETURN QUERY SELECT d.created_at, d.id, d.pubkey, d.kind, d.tags FROM bigbrotr.deletable(p_day => p_day) AS d;
END $$;
COMMENT ON FUNCTION bigbrotr.begin_compliance IS 'Takes a day out of the queue and returns what deletable does. Waits for who counts another day.';

CREATE OR REPLACE FUNCTION bigbrotr.proven_at_of(p_relay_id bigint, p_day bigint) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    day int8range := int8range(p_day * 86400, (p_day + 1) * 86400);
BEGIN
    RETURN (
        SELECT CASE WHEN range_agg(c.proven) @> day THEN min(c.proven_at) END
        FROM bigbrotr.coverage c WHERE c.relay_id = p_relay_id AND c.filter = '' AND c.proven && day);
END $$;
COMMENT ON FUNCTION bigbrotr.proven_at_of IS
    'As of when it is proven which events of a day a relay holds, in Unix seconds; NULL: some of it is not.';

CREATE OR REPLACE VIEW bigbrotr.statistics_compliance AS
SELECT r.url AS relay_url, r.network, sum(d.deleted)::bigint AS deleted,
       coalesce(sum(d.kept) FILTER (WHERE d.asked_at < coalesce(p.at, 1)), 0)::bigint AS kept,
       coalesce(sum(d.kept) FILTER (WHERE d.asked_at >= coalesce(p.at, 1)), 0)::bigint AS unknown,
       min(p.at) FILTER (WHERE d.kept > 0 AND d.asked_at < p.at) AS kept_as_of
FROM bigbrotr.day_compliance d
JOIN bigbrotr.relays r ON r.id = d.relay_id
CROSS JOIN LATERAL (SELECT CASE WHEN d.kept > 0 THEN bigbrotr.proven_at_of(d.relay_id, d.day) END) AS p (at)
GROUP BY r.url, r.network;
COMMENT ON VIEW bigbrotr.statistics_compliance IS
    'What relays do about requests for deletion (NIP-09) and to vanish (NIP-62) that they hold or were sent.';
COMMENT ON COLUMN bigbrotr.statistics_compliance.relay_url IS 'URL of the relay.';
COMMENT ON COLUMN bigbrotr.statistics_compliance.network IS 'Its network.';
COMMENT ON COLUMN bigbrotr.statistics_compliance.deleted IS 'Events that it held, was asked to delete, and holds no more.';
COMMENT ON COLUMN bigbrotr.statistics_compliance.kept IS 'Events that it was seen to hold after it was asked to delete them.';
COMMENT ON COLUMN bigbrotr.statistics_compliance.unknown IS 'Events that it was asked to delete and of which nothing was proven since.';
COMMENT ON COLUMN bigbrotr.statistics_compliance.kept_as_of IS
    'The oldest of the proofs that show what is kept, in Unix seconds; NULL: it was seen to hold all of it after it was '
    'asked, or keeps nothing.';
