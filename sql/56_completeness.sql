-- Completeness: which share of what archived events refer to is archived itself, on a sample that is the same on every
-- machine, and what is missing of it. Who stores events does nothing for it: the service completeness follows the log of
-- arrivals and walks once through the archive. A row, the sums that it counts in and the position in the log change in one
-- transaction, so that it is exact whenever it was stopped, and whichever of two events comes first.

CREATE TABLE IF NOT EXISTS bigbrotr.completeness_state (
    is_only  boolean NOT NULL PRIMARY KEY DEFAULT true CHECK (is_only),
    bound    bytea   NOT NULL,
    xid      bigint  NOT NULL,
    id       bigint  NOT NULL,
    after_at bigint,
    after_id bytea,
    begun_at bigint  NOT NULL,
    moved_at bigint  NOT NULL
);
COMMENT ON TABLE bigbrotr.completeness_state IS 'How far the service completeness is: one row, or none.';
COMMENT ON COLUMN bigbrotr.completeness_state.is_only IS 'Always true.';
COMMENT ON COLUMN bigbrotr.completeness_state.bound IS 'Events whose id is smaller are in the sample: 4 bytes.';
COMMENT ON COLUMN bigbrotr.completeness_state.xid IS 'Transaction of the last row of arrivals that was looked at.';
COMMENT ON COLUMN bigbrotr.completeness_state.id IS 'Id of that row.';
COMMENT ON COLUMN bigbrotr.completeness_state.after_at IS
    'What was archived before is looked at from the oldest on: the time (Unix seconds) of the last event; NULL: all of it was.';
COMMENT ON COLUMN bigbrotr.completeness_state.after_id IS 'Its id.';
COMMENT ON COLUMN bigbrotr.completeness_state.begun_at IS 'When the sample was begun, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.completeness_state.moved_at IS 'When the position was last moved, in Unix seconds.';

CREATE TABLE IF NOT EXISTS bigbrotr.sampled_references (
    month    integer NOT NULL,
    kind     integer NOT NULL,
    is_held  boolean NOT NULL,
    via      text    NOT NULL CHECK (via IN ('e', 'q', 'a', 'repost', 'zap')),
    referrer bytea   NOT NULL,
    target   bytea   NOT NULL,
    PRIMARY KEY (referrer, target)
);
COMMENT ON TABLE bigbrotr.sampled_references IS 'What the events of the sample refer to.';
COMMENT ON COLUMN bigbrotr.sampled_references.month IS 'Month in which the referring event was created: months since 1970, of UTC.';
COMMENT ON COLUMN bigbrotr.sampled_references.kind IS 'Kind of the referring event.';
COMMENT ON COLUMN bigbrotr.sampled_references.is_held IS 'Whether the other event is archived.';
COMMENT ON COLUMN bigbrotr.sampled_references.via IS
    'How it refers to it: by an e, q or a tag, or by being a repost (6, 16) or a zap (9735) of it.';
COMMENT ON COLUMN bigbrotr.sampled_references.referrer IS 'Id of the referring event: 32 bytes.';
COMMENT ON COLUMN bigbrotr.sampled_references.target IS
    'Id of the other event (32 bytes), or a public key and an address (52 bytes, see addresses).';
CREATE INDEX IF NOT EXISTS sampled_references_missing_idx ON bigbrotr.sampled_references (target) WHERE NOT is_held;

CREATE TABLE IF NOT EXISTS bigbrotr.reference_sums (
    month      integer NOT NULL,
    kind       integer NOT NULL,
    total bigint NOT NULL,
    held       bigint  NOT NULL,
    via        text    NOT NULL,
    PRIMARY KEY (month, kind, via)
);
COMMENT ON TABLE bigbrotr.reference_sums IS 'The sums of sampled_references. Both change in one transaction.';
COMMENT ON COLUMN bigbrotr.reference_sums.month IS 'Month in which the referring events were created: months since 1970, of UTC.';
COMMENT ON COLUMN bigbrotr.reference_sums.kind IS 'Kind of the referring events.';
COMMENT ON COLUMN bigbrotr.reference_sums.via IS 'How they refer to others, see sampled_references.';
COMMENT ON COLUMN bigbrotr.reference_sums.total IS 'References of the sample.';
COMMENT ON COLUMN bigbrotr.reference_sums.held IS 'Those of them to what is archived.';

CREATE TABLE IF NOT EXISTS bigbrotr.missing_events (
    noted_at bigint  NOT NULL,
    due_at   bigint  NOT NULL,
    found_at bigint,
    times    integer NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    state    text    NOT NULL CHECK (state IN ('waiting', 'found', 'gone')),
    owner    text,
    target   bytea   NOT NULL PRIMARY KEY,
    pubkey   bytea,
    d        text,
    hints    text[]  NOT NULL,
    asked    bigint[] NOT NULL DEFAULT '{}',
    relay_url text
);
COMMENT ON TABLE bigbrotr.missing_events IS 'Events that those of the sample refer to, and that are not archived: a queue of those to be fetched.';
COMMENT ON COLUMN bigbrotr.missing_events.noted_at IS 'When it was first found to be missing, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.missing_events.due_at IS 'When to ask for it, in Unix seconds. A claim moves it by the length of the lease.';
COMMENT ON COLUMN bigbrotr.missing_events.found_at IS 'When it was found, in Unix seconds; NULL: it was not.';
COMMENT ON COLUMN bigbrotr.missing_events.times IS 'How many events of the sample refer to it: what is referred to more often comes first.';
COMMENT ON COLUMN bigbrotr.missing_events.attempts IS 'How often it was asked for in vain, each time at other relays.';
COMMENT ON COLUMN bigbrotr.missing_events.state IS 'waiting: it is to be asked for; found: it is archived now; gone: nobody asked had it.';
COMMENT ON COLUMN bigbrotr.missing_events.owner IS 'Process that holds the lease; NULL if nobody does.';
COMMENT ON COLUMN bigbrotr.missing_events.target IS 'What is missing, see sampled_references.';
COMMENT ON COLUMN bigbrotr.missing_events.pubkey IS 'Its author, as who refers to it says: 32 bytes; NULL: nobody says.';
COMMENT ON COLUMN bigbrotr.missing_events.d IS 'Of an address: the value of its d tag.';
COMMENT ON COLUMN bigbrotr.missing_events.hints IS 'URLs of relays that are said to have it, at most five.';
COMMENT ON COLUMN bigbrotr.missing_events.asked IS 'Numbers of the relays that were asked for it in vain.';
COMMENT ON COLUMN bigbrotr.missing_events.relay_url IS 'URL of the relay where it was found by asking; NULL: it came by itself.';
CREATE INDEX IF NOT EXISTS missing_events_due_idx ON bigbrotr.missing_events (times DESC, due_at) WHERE state = 'waiting';

CREATE OR REPLACE FUNCTION bigbrotr.begin_completeness(p_bound bytea, p_is_missing boolean, p_now bigint) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    log_end record;
    before  record;
    begun   boolean;
BEGIN
    SELECT a.xid, a.id INTO log_end FROM bigbrotr.arrivals_end() AS a;
    SELECT s.bound INTO before FROM bigbrotr.completeness_state s;
    IF before.bound <> p_bound THEN  -- another sample: what was counted is none of it
        DELETE FROM bigbrotr.sampled_references;
        DELETE FROM bigbrotr.reference_sums;
        DELETE FROM bigbrotr.missing_events WHERE state = 'waiting';
    END IF;
    WITH noted AS (
        INSERT INTO bigbrotr.completeness_state AS s (bound, xid, id, after_at, after_id, begun_at, moved_at)
        VALUES (p_bound, log_end.xid, log_end.id, 0, '', p_now, p_now)
        ON CONFLICT (is_only) DO UPDATE SET
            bound = EXCLUDED.bound, xid = EXCLUDED.xid, id = EXCLUDED.id, after_at = 0, after_id = '',
            begun_at = p_now, moved_at = p_now
        -- A backup may have come to another server, which has counted fewer transactions.
        WHERE s.bound <> EXCLUDED.bound OR s.xid > EXCLUDED.xid OR p_is_missing
        RETURNING 1
    )
    SELECT count(*) > 0 INTO begun FROM noted;
    RETURN begun;
END $$;
COMMENT ON FUNCTION bigbrotr.begin_completeness IS
    'Begins the sample of events whose id is smaller than p_bound, with all that is archived; again where another bound is '
    'wanted, the log of arrivals is another, or with p_is_missing. Returns whether it has begun. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.completeness_position(
    OUT bound bytea, OUT xid bigint, OUT id bigint, OUT after_at bigint, OUT after_id bytea
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT s.bound, s.xid, s.id, s.after_at, s.after_id INTO bound, xid, id, after_at, after_id FROM bigbrotr.completeness_state s;
END $$;
COMMENT ON FUNCTION bigbrotr.completeness_position IS 'How far the service completeness is; NULL: it has not begun.';

CREATE OR REPLACE FUNCTION bigbrotr.move_completeness(
    p_xid bigint, p_id bigint, p_after_at bigint, p_after_id bytea, p_from_xid bigint, p_from_id bigint, p_from_at bigint,
    p_from_after bytea, p_now bigint
) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE bigbrotr.completeness_state s SET
        xid = p_xid, id = p_id, after_at = p_after_at, after_id = p_after_id, moved_at = p_now
    WHERE s.xid = p_from_xid AND s.id = p_from_id
      AND s.after_at IS NOT DISTINCT FROM p_from_at AND s.after_id IS NOT DISTINCT FROM p_from_after;
    RETURN FOUND;
END $$;
COMMENT ON FUNCTION bigbrotr.move_completeness IS
    'Notes how far the service is, if it was where the caller has begun. Returns false if another was quicker: then all of '
    'this transaction is to be undone.';

CREATE OR REPLACE FUNCTION bigbrotr.sample_slice(
    p_slice integer, p_bound bytea, p_after_at bigint, p_after_id bytea, p_examine integer,
    OUT created_ats bigint[], OUT ids bytea[], OUT kinds integer[], OUT all_tags text[], OUT contents text[],
    OUT examined bigint, OUT last_at bigint, OUT last_id bytea
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET jit = off SET enable_seqscan = off SET plan_cache_mode = force_custom_plan
AS $$
BEGIN
    SELECT array_agg(x.created_at) FILTER (WHERE x.is_sampled), array_agg(x.id) FILTER (WHERE x.is_sampled),
           array_agg(x.kind) FILTER (WHERE x.is_sampled), array_agg(x.tags) FILTER (WHERE x.is_sampled),
           array_agg(x.content) FILTER (WHERE x.is_sampled), count(*), max(x.created_at), (array_agg(x.id))[count(*)]
    INTO created_ats, ids, kinds, all_tags, contents, examined, last_at, last_id
    FROM (
        SELECT e.created_at, e.id, e.kind,
               substring(e.id FROM 1 FOR 4) < p_bound AND e.kind >= 0 AND e.tags IS NOT NULL AS is_sampled,
               CASE WHEN substring(e.id FROM 1 FOR 4) < p_bound THEN e.tags END AS tags,
               CASE WHEN substring(e.id FROM 1 FOR 4) < p_bound AND e.kind IN (6, 16) THEN e.content END AS content
        FROM bigbrotr.events_stored e
        WHERE (p_slice IS NULL OR e.slice = p_slice)
          AND e.created_at >= p_after_at AND (e.created_at, e.id) > (p_after_at, p_after_id)
        ORDER BY e.created_at, e.id LIMIT p_examine
    ) AS x;
END $$;
COMMENT ON FUNCTION bigbrotr.sample_slice IS 'The part of next_sample that reads one slice, or with NULL all of them.';

CREATE OR REPLACE FUNCTION bigbrotr.next_sample(
    p_bound bytea, p_after_at bigint, p_after_id bytea, p_examine integer,
    OUT created_ats bigint[], OUT ids bytea[], OUT kinds integer[], OUT all_tags text[], OUT contents text[],
    OUT examined bigint, OUT last_at bigint, OUT last_id bytea
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    part integer;
    page record;
BEGIN
    examined := 0;
    FOR part IN SELECT s.slice FROM bigbrotr.parts_of(p_after_at, 9223372036854775807) AS s (slice) LOOP
        SELECT s.* INTO page
        FROM bigbrotr.sample_slice(
            p_slice => part, p_bound => p_bound, p_after_at => p_after_at, p_after_id => p_after_id,
            p_examine => p_examine - examined::integer) AS s;
        CONTINUE WHEN page.examined = 0;
        created_ats := created_ats || page.created_ats;
        ids := ids || page.ids;
        kinds := kinds || page.kinds;
        all_tags := all_tags || page.all_tags;
        contents := contents || page.contents;
        examined := examined + page.examined;
        last_at := page.last_at;
        last_id := page.last_id;
        EXIT WHEN examined >= p_examine;
    END LOOP;
END $$;
COMMENT ON FUNCTION bigbrotr.next_sample IS
    'Those of the next p_examine events after (p_after_at, p_after_id) that are in the sample, in the order (created_at, id): '
    'arrays of one length; contents are those of reposts. examined: how many were looked at, 0 at the end; last_at and '
    'last_id: the last of them.';

-- What comes is looked for among what was missing; what is referred to was looked for by the caller, after the log was read.
CREATE OR REPLACE FUNCTION bigbrotr.note_references(
    p_months integer[], p_kinds integer[], p_vias text[], p_referrers bytea[], p_targets bytea[], p_are_held boolean[],
    p_pubkeys bytea[], p_ds text[], p_hints text[], p_came bytea[], p_most integer, p_now bigint
) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    added integer;
BEGIN
    WITH new_ones AS (
        INSERT INTO bigbrotr.sampled_references AS s (month, kind, is_held, via, referrer, target)
        SELECT DISTINCT ON (u.referrer, u.target) u.month, u.kind, u.is_held, u.via, u.referrer, u.target
        FROM unnest(p_months, p_kinds, p_vias, p_referrers, p_targets, p_are_held)
             AS u (month, kind, via, referrer, target, is_held)
        ORDER BY u.referrer, u.target
        ON CONFLICT (referrer, target) DO NOTHING
        RETURNING s.month, s.kind, s.via, s.is_held, s.target
    ), summed AS (
        INSERT INTO bigbrotr.reference_sums AS r (month, kind, via, total, held)
        SELECT n.month, n.kind, n.via, count(*), count(*) FILTER (WHERE n.is_held)
        FROM new_ones n GROUP BY n.month, n.kind, n.via ORDER BY n.month, n.kind, n.via
        ON CONFLICT (month, kind, via) DO UPDATE SET
            total = r.total + EXCLUDED.total, held = r.held + EXCLUDED.held
        RETURNING 1
    ), said AS MATERIALIZED (
        SELECT u.target, (array_agg(u.pubkey) FILTER (WHERE u.pubkey IS NOT NULL))[1] AS pubkey, min(u.d) AS d,
               coalesce((array_agg(DISTINCT u.hint) FILTER (WHERE u.hint <> ''))[1:5], '{}') AS hints
        FROM unnest(p_targets, p_pubkeys, p_ds, p_hints) AS u (target, pubkey, d, hint) GROUP BY u.target
    ), wanted AS MATERIALIZED (
        SELECT n.target, n.times, g.pubkey, g.d, g.hints
        FROM (SELECT x.target, count(*)::integer AS times FROM new_ones x WHERE NOT x.is_held GROUP BY x.target) AS n
        JOIN said g ON g.target = n.target
    ), room AS (
        SELECT greatest(0, p_most - (SELECT count(*) FROM bigbrotr.missing_events m WHERE m.state = 'waiting')) AS rows
    ), queued AS (
        INSERT INTO bigbrotr.missing_events AS m (noted_at, due_at, times, state, target, pubkey, d, hints)
        SELECT p_now, p_now, w.times, 'waiting', w.target, w.pubkey, w.d, w.hints
        FROM wanted w
        WHERE EXISTS (SELECT FROM bigbrotr.missing_events x WHERE x.target = w.target)
           OR w.target IN (
               SELECT y.target FROM wanted y
               WHERE NOT EXISTS (SELECT FROM bigbrotr.missing_events x WHERE x.target = y.target)
               ORDER BY y.times DESC, y.target LIMIT (SELECT r.rows FROM room r))
        ORDER BY w.target
        ON CONFLICT (target) DO UPDATE SET
            times = m.times + EXCLUDED.times, pubkey = coalesce(m.pubkey, EXCLUDED.pubkey),
            hints = CASE WHEN cardinality(m.hints) < 5
                    THEN ARRAY(SELECT DISTINCT h.hint FROM unnest(m.hints || EXCLUDED.hints) AS h (hint) ORDER BY h.hint LIMIT 5)
                    ELSE m.hints END,
            -- Somebody names another relay: there is a place to ask again.
            state = CASE WHEN m.state = 'gone' AND cardinality(m.hints) < 5 AND NOT EXCLUDED.hints <@ m.hints
                    THEN 'waiting' ELSE m.state END
        RETURNING 1
    )
    SELECT count(*) INTO added FROM new_ones;
    PERFORM bigbrotr.note_found(p_targets => p_came, p_relay_url => NULL, p_now => p_now);
    RETURN added;
END $$;
COMMENT ON FUNCTION bigbrotr.note_references IS
    'Notes what events of the sample refer to, and puts what is not archived into the queue, of which no more than p_most '
    'wait. Arrays of one length: months since 1970, kinds and ids of the referring events, what they refer to, whether it is '
    'archived, and, where it is said, its author, the value of its d tag and a relay. p_came: events that have come. '
    'Returns how many references are new. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.note_found(p_targets bytea[], p_relay_url text, p_now bigint) RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET jit = off SET enable_seqscan = off SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    found_ones integer;
BEGIN
    IF cardinality(p_targets) = 0 THEN
        RETURN 0;
    END IF;
    WITH changed AS (
        UPDATE bigbrotr.sampled_references s SET is_held = true
        WHERE s.target = ANY (p_targets) AND NOT s.is_held
        RETURNING s.month, s.kind, s.via
    ), summed AS (
        UPDATE bigbrotr.reference_sums r SET held = r.held + c.held
        FROM (SELECT x.month, x.kind, x.via, count(*) AS held FROM changed x GROUP BY x.month, x.kind, x.via) AS c
        WHERE r.month = c.month AND r.kind = c.kind AND r.via = c.via
        RETURNING 1
    ), taken AS (
        UPDATE bigbrotr.missing_events m SET
            state = 'found', found_at = p_now, owner = NULL, relay_url = coalesce(m.relay_url, p_relay_url)
        WHERE m.target = ANY (p_targets) AND m.state <> 'found'
        RETURNING 1
    )
    SELECT count(*) INTO found_ones FROM taken;
    RETURN found_ones;
END $$;
COMMENT ON FUNCTION bigbrotr.note_found IS
    'Notes that events which were missing are archived now; p_relay_url: found by asking this relay. Returns how many were '
    'in the queue. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.find_addresses(p_now bigint) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    RETURN bigbrotr.note_found(
        p_targets => ARRAY(
            SELECT DISTINCT s.target FROM bigbrotr.sampled_references s
            JOIN bigbrotr.addresses a ON a.pubkey = substring(s.target FROM 1 FOR 32) AND a.address = substring(s.target FROM 33)
            WHERE NOT s.is_held AND length(s.target) = 52),
        p_relay_url => NULL, p_now => p_now);
END $$;
COMMENT ON FUNCTION bigbrotr.find_addresses IS
    'Looks for the addresses that were missing among those that are archived. Returns how many were in the queue. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.held_addresses(p_targets bytea[]) RETURNS SETOF bytea
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    RETURN QUERY
    SELECT u.target FROM unnest(p_targets) AS u (target)
    JOIN bigbrotr.addresses a ON a.pubkey = substring(u.target FROM 1 FOR 32) AND a.address = substring(u.target FROM 33);
END $$;
COMMENT ON FUNCTION bigbrotr.held_addresses IS 'Those of these public keys with an address (52 bytes) of which a version is archived.';

CREATE OR REPLACE FUNCTION bigbrotr.claim_missing(p_limit integer, p_owner text, p_lease_s bigint, p_now bigint)
RETURNS TABLE (target bytea, pubkey bytea, d text, hints text[], asked bigint[], attempts integer)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    WITH due AS (
        SELECT m.target FROM bigbrotr.missing_events m
        WHERE m.state = 'waiting' AND m.due_at <= p_now
        ORDER BY m.times DESC, m.due_at LIMIT p_limit
        FOR UPDATE SKIP LOCKED
    )
    UPDATE bigbrotr.missing_events m SET due_at = p_now + p_lease_s, owner = p_owner
    FROM due x WHERE m.target = x.target
    RETURNING m.target, m.pubkey, m.d, m.hints, m.asked, m.attempts;
END $$;
COMMENT ON FUNCTION bigbrotr.claim_missing IS
    'Claims up to p_limit missing events that are due, those first to which most refer. Nobody else gets them for p_lease_s '
    'seconds.';

CREATE OR REPLACE FUNCTION bigbrotr.settle_missing(
    p_targets bytea[], p_are_exhausted boolean[], p_asked_of integer[], p_asked bigint[], p_owner text,
    p_max_attempts integer, p_now bigint
) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    gone integer;
BEGIN
    WITH settled AS (
        UPDATE bigbrotr.missing_events m SET
            asked = m.asked || u.asked, attempts = m.attempts + 1, owner = NULL,
            state = CASE WHEN m.attempts + 1 >= p_max_attempts OR u.is_exhausted THEN 'gone' ELSE m.state END,
            due_at = p_now + 60 * bigbrotr.backoff_s(m.attempts + 1)
        FROM (
            SELECT t.target, t.is_exhausted, ARRAY(SELECT a.relay_id FROM unnest(p_asked_of, p_asked) AS a (place, relay_id)
                                   WHERE a.place = t.position ORDER BY a.relay_id) AS asked
            FROM unnest(p_targets, p_are_exhausted) WITH ORDINALITY AS t (target, is_exhausted, position)
        ) AS u
        WHERE m.target = u.target AND m.state = 'waiting' AND m.owner = p_owner
        RETURNING m.state
    )
    SELECT count(*) FILTER (WHERE s.state = 'gone') INTO gone FROM settled s;
    RETURN gone;
END $$;
COMMENT ON FUNCTION bigbrotr.settle_missing IS
    'Records that claimed events were asked for in vain: p_asked are the relays, p_asked_of the positions, from 1, of what each '
    'was asked for. They come back after a growing delay, from an hour on, p_max_attempts times at most; p_are_exhausted: '
    'there is no other relay to ask. Returns how many are given up.';

CREATE OR REPLACE FUNCTION bigbrotr.release_missing(p_owner text, p_now bigint) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    released integer;
BEGIN
    WITH back AS (
        UPDATE bigbrotr.missing_events m SET due_at = p_now, owner = NULL WHERE m.owner = p_owner RETURNING 1
    )
    SELECT count(*) INTO released FROM back;
    RETURN released;
END $$;
COMMENT ON FUNCTION bigbrotr.release_missing IS
    'Gives back all missing events of an owner. A process calls it at its start. Returns how many. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.completeness_basis()
RETURNS TABLE (
    bound bytea, begun_at bigint, as_of bigint, is_whole boolean, total bigint, held bigint, waiting bigint,
    found bigint, gone bigint, relays bigint
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    SELECT s.bound, s.begun_at, s.moved_at, s.after_at IS NULL, r.total, r.held, m.waiting, m.found, m.gone,
           (SELECT count(*) FROM bigbrotr.tallies t WHERE t.pairs > 0)
    FROM bigbrotr.completeness_state s,
         (SELECT coalesce(sum(x.total), 0)::bigint AS total, coalesce(sum(x.held), 0)::bigint AS held
          FROM bigbrotr.reference_sums x) AS r,
         (SELECT count(*) FILTER (WHERE y.state = 'waiting') AS waiting, count(*) FILTER (WHERE y.state = 'found') AS found,
                 count(*) FILTER (WHERE y.state = 'gone') AS gone FROM bigbrotr.missing_events y) AS m;
END $$;
COMMENT ON FUNCTION bigbrotr.completeness_basis IS
    'Of which sample completeness is known, as of when (Unix seconds) and whether of the whole archive; its references, and '
    'those to what is archived; what is missing and waits, was found, or was asked for in vain; and of how many relays '
    'anything is archived. No row: it has not begun.';
