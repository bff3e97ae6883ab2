-- Rescue: archived events on their way back to relays. The queue names events and holds none: what is sent is read when it
-- is sent, as it may be shown then. A relay is asked for an event by its id before it is sent and afterwards, so that a
-- process that dies in between sends nothing twice that was taken.

CREATE TABLE IF NOT EXISTS bigbrotr.rescue_targets (
    id       bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    url      text    NOT NULL UNIQUE,
    due_at   bigint  NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    owner    text,
    leased_until bigint,
    tried_at bigint,
    outcome  text,
    detail   text
);
COMMENT ON TABLE bigbrotr.rescue_targets IS 'Relays to which archived events are sent, and when the next ones may be.';
COMMENT ON COLUMN bigbrotr.rescue_targets.id IS 'Number of the target.';
COMMENT ON COLUMN bigbrotr.rescue_targets.url IS 'URL of the relay. It need not be one of relays.';
COMMENT ON COLUMN bigbrotr.rescue_targets.due_at IS
    'When the next events may be sent, in Unix seconds. A claim moves it by the length of the lease.';
COMMENT ON COLUMN bigbrotr.rescue_targets.attempts IS 'Conversations in a row that failed, or in which it asked for a pause.';
COMMENT ON COLUMN bigbrotr.rescue_targets.owner IS 'Process that holds the lease; NULL if nobody does.';
COMMENT ON COLUMN bigbrotr.rescue_targets.leased_until IS 'Until when, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.rescue_targets.tried_at IS 'When the last conversation ended, in Unix seconds; NULL: there was none.';
COMMENT ON COLUMN bigbrotr.rescue_targets.outcome IS 'Result of the last conversation in one word.';
COMMENT ON COLUMN bigbrotr.rescue_targets.detail IS 'Result of the last conversation in words, cut to 300 characters.';

CREATE TABLE IF NOT EXISTS bigbrotr.rescues (
    target_id   bigint  NOT NULL REFERENCES bigbrotr.rescue_targets (id) ON DELETE CASCADE,
    created_at  bigint  NOT NULL,
    queued_at   bigint  NOT NULL,
    due_at      bigint  NOT NULL,
    answered_at bigint,
    seen_at     bigint,
    attempts    integer NOT NULL DEFAULT 0,
    sends       integer NOT NULL DEFAULT 0,
    state       text    NOT NULL
                CHECK (state IN ('waiting', 'accepted', 'held', 'refused', 'unkept', 'left', 'failed')),
    reason      text    NOT NULL DEFAULT '',
    detail      text    NOT NULL DEFAULT '',
    event_id    bytea   NOT NULL,
    pubkey      bytea   NOT NULL,
    PRIMARY KEY (target_id, event_id)
);
COMMENT ON TABLE bigbrotr.rescues IS 'Archived events that are to be at other relays, and what became of each: a row for each event and target. Rows stay.';
COMMENT ON COLUMN bigbrotr.rescues.target_id IS 'Number of the target.';
COMMENT ON COLUMN bigbrotr.rescues.created_at IS 'When the event was created, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.rescues.queued_at IS 'When it was last put into the queue, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.rescues.due_at IS 'When something is to be done about it, in Unix seconds, where it waits or was accepted.';
COMMENT ON COLUMN bigbrotr.rescues.answered_at IS 'When the target last answered, in Unix seconds; NULL: it never has.';
COMMENT ON COLUMN bigbrotr.rescues.seen_at IS 'When the target was seen to hold it, in Unix seconds; NULL: it was not.';
COMMENT ON COLUMN bigbrotr.rescues.attempts IS 'Failed tries in a row.';
COMMENT ON COLUMN bigbrotr.rescues.sends IS 'How often the target has accepted it.';
COMMENT ON COLUMN bigbrotr.rescues.state IS
    'waiting: to be sent; accepted: the target said OK, and has not been seen to hold it yet; held: it was seen there; '
    'refused: the target said no; unkept: it said OK and does not hold it; left: we do not send it; failed: given up.';
COMMENT ON COLUMN bigbrotr.rescues.reason IS 'Why, in a word: the prefix of the relay''s answer, or ours.';
COMMENT ON COLUMN bigbrotr.rescues.detail IS 'The words of the relay''s answer (OK), cut to 300 characters.';
COMMENT ON COLUMN bigbrotr.rescues.event_id IS 'Id of the event: 32 bytes.';
COMMENT ON COLUMN bigbrotr.rescues.pubkey IS 'Its author: 32 bytes.';
CREATE INDEX IF NOT EXISTS rescues_due_idx ON bigbrotr.rescues (target_id, due_at) WHERE state IN ('waiting', 'accepted');
CREATE INDEX IF NOT EXISTS rescues_queued_idx ON bigbrotr.rescues (queued_at, event_id, target_id);
CREATE INDEX IF NOT EXISTS rescues_target_idx ON bigbrotr.rescues (target_id, queued_at, event_id);
CREATE INDEX IF NOT EXISTS rescues_pubkey_idx ON bigbrotr.rescues (pubkey);
CREATE INDEX IF NOT EXISTS rescues_event_id_idx ON bigbrotr.rescues (event_id);

CREATE OR REPLACE FUNCTION bigbrotr.queue_rescues(
    p_urls text[], p_created_ats bigint[], p_ids bytea[], p_pubkeys bytea[], p_dropped_ats bigint[], p_is_again boolean,
    p_now bigint
) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    queued integer;
BEGIN
    INSERT INTO bigbrotr.rescue_targets (url, due_at)
    SELECT DISTINCT u.url, p_now FROM unnest(p_urls) AS u (url) ORDER BY u.url
    ON CONFLICT (url) DO NOTHING;
    WITH noted AS (
        INSERT INTO bigbrotr.rescues AS r (target_id, created_at, queued_at, due_at, state, event_id, pubkey)
        SELECT DISTINCT ON (t.id, u.id) t.id, u.created_at, p_now, p_now, 'waiting', u.id, u.pubkey
        FROM unnest(p_urls, p_created_ats, p_ids, p_pubkeys) AS u (url, created_at, id, pubkey)
        JOIN bigbrotr.rescue_targets t ON t.url = u.url
        ORDER BY t.id, u.id
        ON CONFLICT (target_id, event_id) DO UPDATE SET
            queued_at = p_now, due_at = p_now, state = 'waiting', attempts = 0, sends = 0, reason = '', detail = '', seen_at = NULL
        WHERE r.state IN ('left', 'failed')
           OR (p_is_again AND r.state IN ('refused', 'unkept'))
           -- Nothing is sent again to a relay that has it, as far as we know.
           OR (r.state = 'held' AND r.seen_at < (
                   SELECT max(d.dropped_at) FROM unnest(p_ids, p_dropped_ats, p_urls) AS d (id, dropped_at, url)
                   JOIN bigbrotr.rescue_targets x ON x.url = d.url
                   WHERE d.id = r.event_id AND x.id = r.target_id))
        RETURNING 1
    )
    SELECT count(*) INTO queued FROM noted;
    RETURN queued;
END $$;
COMMENT ON FUNCTION bigbrotr.queue_rescues IS
    'Puts events into the queue of targets, by their URLs. Arrays of one length. p_dropped_ats: when the target was proven not '
    'to hold the event any more, in Unix seconds; NULL: it was not. What a target holds, as was seen later than that, stays '
    'as it is; so does what it has refused or not kept, unless p_is_again. Returns how many wait now that did not. '
    'Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.claim_rescues(
    p_urls text[], p_targets integer, p_limit integer, p_owner text, p_lease_s bigint, p_now bigint
) RETURNS TABLE (target_id bigint, url text, created_at bigint, event_id bytea, state text, attempts integer, sends integer)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    RETURN QUERY
    WITH due AS MATERIALIZED (
        SELECT t.id FROM bigbrotr.rescue_targets t
        WHERE t.due_at <= p_now AND (p_urls IS NULL OR t.url = ANY (p_urls))
          AND EXISTS (SELECT FROM bigbrotr.rescues r
                      WHERE r.target_id = t.id AND r.state IN ('waiting', 'accepted') AND r.due_at <= p_now)
        ORDER BY t.due_at, t.id LIMIT p_targets
        FOR UPDATE SKIP LOCKED
    ), claimed AS (
        UPDATE bigbrotr.rescue_targets t SET due_at = p_now + p_lease_s, leased_until = p_now + p_lease_s, owner = p_owner
        FROM due d WHERE t.id = d.id
        RETURNING t.id, t.url
    )
    SELECT c.id, c.url, x.created_at, x.event_id, x.state, x.attempts, x.sends
    FROM claimed c CROSS JOIN LATERAL (
        SELECT r.created_at, r.event_id, r.state, r.attempts, r.sends FROM bigbrotr.rescues r
        WHERE r.target_id = c.id AND r.state IN ('waiting', 'accepted') AND r.due_at <= p_now
        ORDER BY r.due_at, r.created_at DESC LIMIT p_limit
    ) AS x
    ORDER BY c.id, x.created_at, x.event_id;
END $$;
COMMENT ON FUNCTION bigbrotr.claim_rescues IS
    'Claims up to p_targets targets for which something is due, of the URLs p_urls (NULL: any), and returns up to p_limit '
    'events of each. Nobody else gets these targets for p_lease_s seconds.';

CREATE OR REPLACE FUNCTION bigbrotr.settle_rescues(
    p_target_id bigint, p_owner text, p_ids bytea[], p_states text[], p_reasons text[], p_details text[], p_waits bigint[],
    p_answered boolean[], p_is_failed boolean, p_has_taken boolean, p_pause_s bigint, p_outcome text, p_detail text,
    p_max_attempts integer, p_now bigint
) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before integer;
BEGIN
    UPDATE bigbrotr.rescues r SET
        state = CASE WHEN u.is_failed AND r.attempts + 1 >= p_max_attempts THEN 'failed' ELSE u.state END,
        reason = u.reason, detail = u.detail,
        due_at = p_now + CASE WHEN u.is_failed THEN bigbrotr.backoff_s(r.attempts + 1) ELSE coalesce(u.wait, 0) END,
        attempts = CASE WHEN u.is_failed THEN r.attempts + 1 WHEN u.state = r.state THEN r.attempts ELSE 0 END,
        sends = r.sends + CASE WHEN r.state = 'waiting' AND u.answered AND u.state IN ('accepted', 'held') THEN 1 ELSE 0 END,
        answered_at = CASE WHEN u.answered THEN p_now ELSE r.answered_at END,
        seen_at = CASE WHEN u.state = 'held' THEN p_now ELSE r.seen_at END
    FROM (
        SELECT s.id, s.state, s.reason, s.detail, s.wait, s.answered, s.wait IS NULL AND s.state = 'waiting' AS is_failed
        FROM unnest(p_ids, p_states, p_reasons, p_details, p_waits, p_answered) AS s (id, state, reason, detail, wait, answered)
    ) AS u
    WHERE r.target_id = p_target_id AND r.event_id = u.id AND r.state IN ('waiting', 'accepted');
    PERFORM bigbrotr.note_sent(p_ids => p_ids);

    SELECT t.attempts INTO before FROM bigbrotr.rescue_targets t
    WHERE t.id = p_target_id AND t.owner = p_owner FOR UPDATE;
    IF before IS NULL THEN
        RETURN false;
    END IF;
    before := CASE WHEN p_has_taken THEN 0 ELSE before END;
    UPDATE bigbrotr.rescue_targets t SET
        due_at = p_now + CASE WHEN p_is_failed THEN bigbrotr.backoff_s(before + 1) ELSE p_pause_s END,
        attempts = CASE WHEN p_is_failed THEN before + 1 ELSE 0 END,
        owner = NULL, leased_until = NULL, tried_at = p_now, outcome = p_outcome, detail = p_detail
    WHERE t.id = p_target_id;
    IF p_is_failed AND before + 1 >= p_max_attempts THEN
        UPDATE bigbrotr.rescues r SET state = 'failed', reason = p_outcome, detail = p_detail
        WHERE r.target_id = p_target_id AND r.state = 'waiting';
        UPDATE bigbrotr.rescue_targets t SET attempts = 0 WHERE t.id = p_target_id;
    END IF;
    RETURN true;
END $$;
COMMENT ON FUNCTION bigbrotr.settle_rescues IS
    'Records what became of claimed events of a target, and when the next may be sent there: after p_pause_s seconds, or after '
    'a growing delay where p_is_failed; it begins anew where p_has_taken. After p_max_attempts failures in a row all that waits '
    'for the target is given up. Arrays of one length; p_waits: seconds until something is to be done about an event; NULL '
    'where it waits: it has failed, and is given up after as many times. Returns whether the lease was still held.';

CREATE OR REPLACE FUNCTION bigbrotr.release_rescues(p_owners text[], p_now bigint) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    released integer;
BEGIN
    WITH back AS (
        UPDATE bigbrotr.rescue_targets t SET due_at = p_now, owner = NULL, leased_until = NULL
        WHERE t.owner = ANY (p_owners) RETURNING 1
    )
    SELECT count(*) INTO released FROM back;
    RETURN released;
END $$;
COMMENT ON FUNCTION bigbrotr.release_rescues IS
    'Gives back the targets that these owners held when they ended. Returns how many. Idempotent.';

-- Who holds each of some events, and why they may be hidden

CREATE OR REPLACE FUNCTION bigbrotr.holders_in_slice(p_slice integer, p_created_ats bigint[], p_ids bytea[])
RETURNS TABLE ("position" bigint, holders integer[])
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    places bigint[];
    nums   bigint[];
BEGIN
    SELECT f.places, f.nums INTO places, nums
    FROM bigbrotr.numbers_of(p_slice => p_slice, p_created_ats => p_created_ats, p_ids => p_ids) AS f;
    RETURN QUERY
    SELECT u.position, array_agg(f.relay_id ORDER BY f.relay_id)
    FROM unnest(places, nums) AS u (position, num) CROSS JOIN LATERAL (
        SELECT p.relay_id FROM bigbrotr.presence p
        WHERE p.slice = p_slice AND p.chunk = u.num >> 8 AND p.seen_ats[(u.num & 255)::integer + 1] IS NOT NULL OFFSET 0
    ) AS f
    GROUP BY u.position;
END $$;
COMMENT ON FUNCTION bigbrotr.holders_in_slice IS 'The part of holders_of_each that reads one slice.';

CREATE OR REPLACE FUNCTION bigbrotr.holders_of_each(p_created_ats bigint[], p_ids bytea[])
RETURNS TABLE ("position" bigint, holders integer[])
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    run record;
BEGIN
    FOR run IN SELECT r.slice, r.first, r.last FROM bigbrotr.runs_of(p_created_ats) AS r LOOP
        RETURN QUERY
        SELECT h.position + run.first - 1, h.holders
        FROM bigbrotr.holders_in_slice(
            p_slice => run.slice, p_created_ats => p_created_ats[run.first:run.last], p_ids => p_ids[run.first:run.last]) AS h;
    END LOOP;
END $$;
COMMENT ON FUNCTION bigbrotr.holders_of_each IS
    'The numbers of the relays that hold each of these events, by position, from 1; those that none holds are left out. Arrays '
    'of one length, sorted by time.';

CREATE OR REPLACE FUNCTION bigbrotr.whys_in_slice(p_slice integer, p_created_ats bigint[], p_ids bytea[])
RETURNS TABLE ("position" bigint, why integer, expires_at bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN QUERY
    SELECT u.position, f.why::integer, f.expires_at
    FROM unnest(p_created_ats, p_ids) WITH ORDINALITY AS u (created_at, id, position)
    CROSS JOIN LATERAL (
        SELECT h.why, h.expires_at FROM bigbrotr.hidden h
        WHERE h.created_at = u.created_at AND h.slice = p_slice AND h.id = u.id OFFSET 0
    ) AS f;
END $$;
COMMENT ON FUNCTION bigbrotr.whys_in_slice IS 'The part of whys_of that reads one slice.';

CREATE OR REPLACE FUNCTION bigbrotr.whys_of(p_created_ats bigint[], p_ids bytea[])
RETURNS TABLE ("position" bigint, why integer, expires_at bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    run record;
BEGIN
    FOR run IN SELECT r.slice, r.first, r.last FROM bigbrotr.runs_of(p_created_ats) AS r LOOP
        RETURN QUERY
        SELECT w.position + run.first - 1, w.why, w.expires_at
        FROM bigbrotr.whys_in_slice(
            p_slice => run.slice, p_created_ats => p_created_ats[run.first:run.last], p_ids => p_ids[run.first:run.last]) AS w;
    END LOOP;
END $$;
COMMENT ON FUNCTION bigbrotr.whys_of IS
    'The reasons, as in hidden.why, for which these events may be hidden, and when they expire, by position, from 1; those '
    'without are left out. Arrays of one length, sorted by time.';

CREATE OR REPLACE FUNCTION bigbrotr.drops_in_slice(p_slice integer, p_relay_id integer, p_created_ats bigint[], p_ids bytea[])
RETURNS TABLE ("position" bigint, dropped_at bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN QUERY
    SELECT u.position, f.dropped_at
    FROM unnest(p_created_ats, p_ids) WITH ORDINALITY AS u (created_at, id, position)
    CROSS JOIN LATERAL (
        SELECT d.dropped_at FROM bigbrotr.dropped d
        WHERE d.created_at = u.created_at AND d.slice = p_slice AND d.event_id = u.id AND d.relay_id = p_relay_id OFFSET 0
    ) AS f;
END $$;
COMMENT ON FUNCTION bigbrotr.drops_in_slice IS 'The part of drops_of that reads one slice.';

CREATE OR REPLACE FUNCTION bigbrotr.drops_of(p_relay_id integer, p_created_ats bigint[], p_ids bytea[])
RETURNS TABLE ("position" bigint, dropped_at bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    run record;
BEGIN
    FOR run IN SELECT r.slice, r.first, r.last FROM bigbrotr.runs_of(p_created_ats) AS r LOOP
        RETURN QUERY
        SELECT d.position + run.first - 1, d.dropped_at
        FROM bigbrotr.drops_in_slice(
            p_slice => run.slice, p_relay_id => p_relay_id, p_created_ats => p_created_ats[run.first:run.last],
            p_ids => p_ids[run.first:run.last]) AS d;
    END LOOP;
END $$;
COMMENT ON FUNCTION bigbrotr.drops_of IS
    'When a relay was proven not to hold these events any more, in Unix seconds, by position, from 1; those of which it was '
    'not are left out. Arrays of one length, sorted by time.';

-- A relay is well unless it has failed for long, is failing, or was found to be down.
CREATE OR REPLACE FUNCTION bigbrotr.unwell_relays() RETURNS integer[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN ARRAY(
        SELECT r.id::integer FROM bigbrotr.relays r
        LEFT JOIN bigbrotr.visits v ON v.relay_id = r.id
        LEFT JOIN bigbrotr.checks c ON c.relay_id = r.id
        WHERE v.retired_at IS NOT NULL OR c.state = 'down' OR (v.failures > 0 AND c.state IS DISTINCT FROM 'up')
        ORDER BY r.id);
END $$;
COMMENT ON FUNCTION bigbrotr.unwell_relays IS
    'Numbers of the relays that are retired, that the last checks found down, or that were not found up and whose last visit '
    'has failed; sorted.';

CREATE OR REPLACE FUNCTION bigbrotr.listed_states(p_urls text[]) RETURNS TABLE (url text, state text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    ill integer[] := bigbrotr.unwell_relays();
BEGIN
    RETURN QUERY
    SELECT u.url,
           CASE WHEN r.id = ANY (ill) THEN 'failing'
                WHEN c.state = 'up' OR v.visited_at IS NOT NULL THEN 'up'
                WHEN r.id IS NULL AND k.attempts > 2 AND k.alias_of IS NULL THEN 'never'
                WHEN r.id IS NULL AND k.alias_of IS NOT NULL
                    THEN CASE WHEN k.alias_of = ANY (ill) THEN 'failing' ELSE 'up' END
                ELSE 'unknown' END
    FROM (SELECT DISTINCT x.url FROM unnest(p_urls) AS x (url)) AS u
    LEFT JOIN bigbrotr.relays r ON r.url = u.url
    LEFT JOIN bigbrotr.visits v ON v.relay_id = r.id
    LEFT JOIN bigbrotr.checks c ON c.relay_id = r.id
    LEFT JOIN bigbrotr.candidates k ON k.url = u.url
    ORDER BY u.url;
END $$;
COMMENT ON FUNCTION bigbrotr.listed_states IS
    'How the relays at these URLs are today: up; failing, see unwell_relays; never: it was tried at least three times and is '
    'no relay; or unknown.';

-- Pages for readers

CREATE OR REPLACE FUNCTION bigbrotr.list_rescues(
    p_url text, p_states text[], p_pubkey bytea, p_after_at bigint, p_after_id bytea, p_after_target bigint, p_limit integer
) RETURNS TABLE (
    url text, event_id bytea, pubkey bytea, created_at bigint, state text, reason text, detail text, queued_at bigint,
    answered_at bigint, seen_at bigint, attempts integer, sends integer, target_id bigint
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    RETURN QUERY
    SELECT t.url, r.event_id, r.pubkey, r.created_at, r.state, r.reason, r.detail, r.queued_at, r.answered_at, r.seen_at,
           r.attempts, r.sends, r.target_id
    FROM bigbrotr.rescues r JOIN bigbrotr.rescue_targets t ON t.id = r.target_id
    WHERE (p_url IS NULL OR t.url = p_url) AND (p_states IS NULL OR r.state = ANY (p_states))
      AND (p_pubkey IS NULL OR r.pubkey = p_pubkey)
      AND (p_after_at IS NULL OR (r.queued_at, r.event_id, r.target_id) < (p_after_at, p_after_id, p_after_target))
    ORDER BY r.queued_at DESC, r.event_id DESC, r.target_id DESC LIMIT p_limit;
END $$;
COMMENT ON FUNCTION bigbrotr.list_rescues IS
    'A page of what became of events that were to be at other relays, the last ones queued first; conditions that are NULL '
    'hold for any. The page begins behind the row with p_after_at, p_after_id and p_after_target.';

CREATE OR REPLACE FUNCTION bigbrotr.count_rescues(p_urls text[], p_now bigint)
RETURNS TABLE (url text, state text, events bigint, next_at bigint, owner text, leased_until bigint, outcome text, detail text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    SELECT t.url, r.state, count(*), greatest(t.due_at, min(r.due_at), p_now), t.owner, t.leased_until, t.outcome, t.detail
    FROM bigbrotr.rescue_targets t JOIN bigbrotr.rescues r ON r.target_id = t.id
    WHERE p_urls IS NULL OR t.url = ANY (p_urls)
    GROUP BY t.id, r.state ORDER BY t.url, r.state;
END $$;
COMMENT ON FUNCTION bigbrotr.count_rescues IS
    'How many events of each target (p_urls; NULL: of all) are in each state; next_at: when something is due (Unix seconds); '
    'who has the lease on the target, and how the last conversation ended.';
