-- Exchange: what other archives say, in the snapshots that were imported. Who holds an event is taken over as it is said,
-- where nothing of ours says otherwise. What they have proven stands apart: it is their word, and we go on looking ourselves.

CREATE TABLE IF NOT EXISTS bigbrotr.imported_coverage (
    relay_id  bigint         NOT NULL REFERENCES bigbrotr.relays (id) ON DELETE CASCADE,
    source    text           NOT NULL,
    filter    text           NOT NULL,
    how       text           NOT NULL,
    proven    int8multirange NOT NULL,
    proven_at bigint         NOT NULL,
    PRIMARY KEY (relay_id, source, filter, proven_at, how)
);
COMMENT ON TABLE bigbrotr.imported_coverage IS
    'What other archives say they have proven of relays. It counts for nothing by itself: see coverage.';
COMMENT ON COLUMN bigbrotr.imported_coverage.relay_id IS 'Number of the relay.';
COMMENT ON COLUMN bigbrotr.imported_coverage.source IS 'Name of the source, as the operator calls it.';
COMMENT ON COLUMN bigbrotr.imported_coverage.filter IS
    'For which events: the canonical conditions of a filter, empty for all events.';
COMMENT ON COLUMN bigbrotr.imported_coverage.how IS 'How it was proven there, as in coverage.';
COMMENT ON COLUMN bigbrotr.imported_coverage.proven IS 'Proven spans, half-open [since, until), in Unix seconds.';
COMMENT ON COLUMN bigbrotr.imported_coverage.proven_at IS 'When the first span of the row was proven there, in Unix seconds.';

CREATE OR REPLACE FUNCTION bigbrotr.take_coverage(
    p_source text, p_relay_ids bigint[], p_filters text[], p_hows text[], p_sinces bigint[], p_untils bigint[],
    p_proven_ats bigint[]
) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    total integer;
BEGIN
    DELETE FROM bigbrotr.imported_coverage c WHERE c.source = p_source;
    WITH taken AS (
        INSERT INTO bigbrotr.imported_coverage (relay_id, source, filter, how, proven, proven_at)
        SELECT u.relay_id, p_source, u.filter, u.how, range_agg(int8range(u.since, u.until)), u.proven_at
        FROM unnest(p_relay_ids, p_filters, p_hows, p_sinces, p_untils, p_proven_ats)
             AS u (relay_id, filter, how, since, until, proven_at)
        WHERE EXISTS (SELECT FROM bigbrotr.relays r WHERE r.id = u.relay_id)
        GROUP BY u.relay_id, u.filter, u.how, u.proven_at
        RETURNING 1
    )
    SELECT count(*) INTO total FROM taken;
    RETURN total;
END $$;
COMMENT ON FUNCTION bigbrotr.take_coverage IS
    'Notes what a source says is proven, instead of what it said before. Arrays of one length, a place for each span. '
    'Returns how many rows that makes. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.trust_coverage(p_source text, p_now bigint) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    theirs record;
    rest   int8multirange;
    total  integer := 0;
BEGIN
    FOR theirs IN
        SELECT c.relay_id, c.filter, c.proven, c.proven_at FROM bigbrotr.imported_coverage c
        WHERE c.source = p_source AND c.proven_at <= p_now ORDER BY c.relay_id, c.filter, c.proven_at DESC, c.how
    LOOP
        SELECT theirs.proven - coalesce(range_agg(c.proven), '{}') INTO rest FROM bigbrotr.coverage c
        WHERE c.relay_id = theirs.relay_id AND c.filter = theirs.filter;
        CONTINUE WHEN isempty(rest);
        INSERT INTO bigbrotr.coverage AS c (relay_id, filter, how, proven, proven_at)
        VALUES (theirs.relay_id, theirs.filter, 'import', rest, theirs.proven_at)
        ON CONFLICT (relay_id, filter, proven_at, how) DO UPDATE SET proven = c.proven + EXCLUDED.proven;
        total := total + 1;
    END LOOP;
    DELETE FROM bigbrotr.relay_sums s
    WHERE s.relay_id IN (SELECT c.relay_id FROM bigbrotr.imported_coverage c WHERE c.source = p_source);
    RETURN total;
END $$;
COMMENT ON FUNCTION bigbrotr.trust_coverage IS
    'Takes over what a source says is proven, where nothing of ours is: it counts as proven then, and is looked at again '
    'when it is old. Returns how many rows. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.note_held(
    p_relay_id integer, p_created_ats bigint[], p_ids bytea[], p_seen_ats bigint[]
) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    holder  integer := (SELECT r.id FROM bigbrotr.relays r WHERE r.id = p_relay_id);  -- NULL: deleted meanwhile
    -- A newer proof of ours has not found it there.
    refuted boolean[] := ARRAY(
        SELECT EXISTS (SELECT FROM bigbrotr.coverage c
                       WHERE c.relay_id = p_relay_id AND c.filter = '' AND c.how <> 'import'
                         AND c.proven_at > u.seen_at AND c.proven @> u.created_at)
        FROM unnest(p_created_ats, p_seen_ats) WITH ORDINALITY AS u (created_at, seen_at, position) ORDER BY u.position);
    noted   integer := 0;
    part    integer;
    run     record;
BEGIN
    IF holder IS NULL THEN
        RETURN 0;
    END IF;
    -- An orphan may not go between the look at it and the note.
    LOCK TABLE bigbrotr.presence_lock IN ROW EXCLUSIVE MODE;
    FOR run IN SELECT r.slice, r.first, r.last FROM bigbrotr.runs_of(p_created_ats) AS r LOOP
        SELECT n.changed INTO part FROM bigbrotr.note_held_slice(
            p_slice => run.slice, p_relay_id => holder, p_created_ats => p_created_ats[run.first:run.last],
            p_ids => p_ids[run.first:run.last], p_seen_ats => p_seen_ats[run.first:run.last],
            p_refuted => refuted[run.first:run.last]) AS n (changed);
        noted := noted + part;
    END LOOP;
    IF noted > 0 THEN
        PERFORM bigbrotr.count_pairs(
            p_relay_id => holder, p_pairs => noted,
            p_since => p_created_ats[1], p_last => p_created_ats[cardinality(p_created_ats)]);
    END IF;
    PERFORM bigbrotr.note_days(p_created_ats, noted);
    RETURN noted;
END $$;
COMMENT ON FUNCTION bigbrotr.note_held IS
    'Notes of those of the given events that are archived since when (Unix seconds) a relay holds them, as another '
    'archive says: the earlier of two times counts, and what we have proven since then counts more. Arrays of one '
    'length, sorted by (created_at, id). Returns how many pairs are new. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.note_held_slice(
    p_slice integer, p_relay_id integer, p_created_ats bigint[], p_ids bytea[], p_seen_ats bigint[], p_refuted boolean[]
) RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    places bigint[];
    nums   bigint[];
    seens  integer[];
    fresh  boolean[];
BEGIN
    SELECT f.places, f.nums INTO places, nums
    FROM bigbrotr.numbers_of(p_slice => p_slice, p_created_ats => p_created_ats, p_ids => p_ids) AS f;
    SELECT array_agg(bigbrotr.pack_seen(p_seen_ats[u.place]) ORDER BY u.position),
           array_agg(NOT p_refuted[u.place] AND d.relay_id IS NULL ORDER BY u.position)
    INTO seens, fresh
    FROM unnest(places) WITH ORDINALITY AS u (place, position) LEFT JOIN LATERAL (
        SELECT x.relay_id FROM bigbrotr.dropped x
        WHERE x.created_at = p_created_ats[u.place] AND x.slice = p_slice AND x.event_id = p_ids[u.place]
          AND x.relay_id = p_relay_id AND x.dropped_at >= p_seen_ats[u.place] OFFSET 0
    ) AS d ON true;
    IF cardinality(nums) = 0 THEN
        RETURN 0;
    END IF;
    RETURN bigbrotr.merge_pairs(
        p_slice => p_slice, p_relay_id => p_relay_id, p_nums => nums, p_seen_ats => seens, p_may_begin => fresh);
END $$;
COMMENT ON FUNCTION bigbrotr.note_held_slice IS
    'The part of note_held that writes one slice. p_refuted: of each event, whether a newer proof says that the relay does '
    'not hold it.';

CREATE OR REPLACE FUNCTION bigbrotr.merge_pairs(
    p_slice integer, p_relay_id integer, p_nums bigint[], p_seen_ats integer[], p_may_begin boolean[]
) RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    part_chunk bigint;
    places     integer[];  -- of its events, in seen_ats
    seens      integer[];
    fresh      boolean[];
    held       integer[];
    before     integer[];
    begun      integer;
    total      integer := 0;
BEGIN
    FOR part_chunk, places, seens, fresh IN
        SELECT u.num >> 8, array_agg((u.num & 255)::integer + 1), array_agg(u.seen_at), array_agg(u.may_begin)
        FROM unnest(p_nums, p_seen_ats, p_may_begin) AS u (num, seen_at, may_begin)
        GROUP BY 1 ORDER BY 1
    LOOP
        LOOP
            SELECT p.seen_ats INTO before FROM bigbrotr.presence p
            WHERE p.slice = p_slice AND p.chunk = part_chunk AND p.relay_id = p_relay_id;
            held := coalesce(before, '{}');
            begun := 0;
            FOR i IN 1..cardinality(places) LOOP
                IF held[places[i]] IS NOT NULL THEN
                    held[places[i]] := least(held[places[i]], seens[i]);
                ELSIF fresh[i] THEN
                    held[places[i]] := seens[i];
                    begun := begun + 1;
                END IF;
            END LOOP;
            EXIT WHEN held = coalesce(before, '{}');
            IF before IS NULL THEN
                INSERT INTO bigbrotr.presence (slice, chunk, relay_id, seen_ats)
                VALUES (p_slice, part_chunk, p_relay_id, held)
                ON CONFLICT DO NOTHING;
            ELSE
                UPDATE bigbrotr.presence p SET seen_ats = held
                WHERE p.slice = p_slice AND p.chunk = part_chunk AND p.relay_id = p_relay_id AND p.seen_ats = before;
            END IF;
            IF FOUND THEN
                total := total + begun;
                EXIT;
            END IF;
        END LOOP;
    END LOOP;
    RETURN total;
END $$;
COMMENT ON FUNCTION bigbrotr.merge_pairs IS
    'Notes since when a relay holds events of one slice, as write_pairs does; of two times the earlier stays. '
    'p_may_begin: of each event, whether a pair that is not noted may begin. Returns how many have begun. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.note_dropped(
    p_relay_id integer, p_created_ats bigint[], p_ids bytea[], p_seen_ats bigint[], p_dropped_ats bigint[]
) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    holder integer := (SELECT r.id FROM bigbrotr.relays r WHERE r.id = p_relay_id);  -- NULL: deleted meanwhile
    noted  integer := 0;
    part   integer;
    run    record;
BEGIN
    IF holder IS NULL THEN
        RETURN 0;
    END IF;
    LOCK TABLE bigbrotr.presence_lock IN ROW EXCLUSIVE MODE;
    FOR run IN SELECT r.slice, r.first, r.last FROM bigbrotr.runs_of(p_created_ats) AS r LOOP
        SELECT n.changed INTO part FROM bigbrotr.note_dropped_slice(
            p_slice => run.slice, p_relay_id => holder, p_created_ats => p_created_ats[run.first:run.last],
            p_ids => p_ids[run.first:run.last], p_seen_ats => p_seen_ats[run.first:run.last],
            p_dropped_ats => p_dropped_ats[run.first:run.last]) AS n (changed);
        noted := noted + part;
    END LOOP;
    PERFORM bigbrotr.note_days(p_created_ats, noted);
    RETURN noted;
END $$;
COMMENT ON FUNCTION bigbrotr.note_dropped IS
    'Notes of those of the given events that are archived that a relay held and has dropped them, as another archive says, '
    'unless we know them to be held since before then. Arrays of one length, sorted by (created_at, id), times in Unix '
    'seconds. Returns how many rows are new or changed. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.note_dropped_slice(
    p_slice integer, p_relay_id integer, p_created_ats bigint[], p_ids bytea[], p_seen_ats bigint[], p_dropped_ats bigint[]
) RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    places bigint[];
    nums   bigint[];
    gone   bigint[];  -- places of those that it does not hold since
    total  integer;
BEGIN
    SELECT f.places, f.nums INTO places, nums
    FROM bigbrotr.numbers_of(p_slice => p_slice, p_created_ats => p_created_ats, p_ids => p_ids) AS f;
    SELECT array_agg(u.place) INTO gone
    FROM unnest(places, nums) AS u (place, num) LEFT JOIN LATERAL (
        SELECT x.relay_id FROM bigbrotr.presence x
        WHERE x.slice = p_slice AND x.chunk = u.num >> 8 AND x.relay_id = p_relay_id
          AND x.seen_ats[(u.num & 255)::integer + 1] <= bigbrotr.pack_seen(p_dropped_ats[u.place]) OFFSET 0
    ) AS p ON true
    WHERE p.relay_id IS NULL;
    WITH noted AS (
        INSERT INTO bigbrotr.dropped AS d (created_at, slice, event_id, relay_id, seen_at, dropped_at)
        SELECT p_created_ats[u.place], p_slice, p_ids[u.place], p_relay_id, p_seen_ats[u.place], p_dropped_ats[u.place]
        FROM unnest(gone) AS u (place)
        ON CONFLICT (created_at, slice, event_id, relay_id) DO UPDATE SET
            seen_at = least(d.seen_at, EXCLUDED.seen_at), dropped_at = greatest(d.dropped_at, EXCLUDED.dropped_at)
        WHERE d.seen_at > EXCLUDED.seen_at OR d.dropped_at < EXCLUDED.dropped_at
        RETURNING 1
    )
    SELECT count(*) INTO total FROM noted;
    RETURN total;
END $$;
COMMENT ON FUNCTION bigbrotr.note_dropped_slice IS 'The part of note_dropped that writes one slice.';
