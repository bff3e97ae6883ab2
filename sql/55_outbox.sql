-- Outbox: events of our own on their way to relays, and what became of them.

CREATE TABLE IF NOT EXISTS bigbrotr.outbox (
    id        bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    target    text    NOT NULL,
    kind      integer NOT NULL,
    d         text    NOT NULL,
    event     text    NOT NULL,
    version   bigint  NOT NULL DEFAULT 0,
    posted_at bigint  NOT NULL,
    due_at    bigint  NOT NULL,
    attempts  integer NOT NULL DEFAULT 0,
    owner     text,
    UNIQUE (target, kind, d)
);
COMMENT ON TABLE bigbrotr.outbox IS 'Events of our own on their way to relays: a row for each event and target.';
COMMENT ON COLUMN bigbrotr.outbox.id IS 'Number of the entry.';
COMMENT ON COLUMN bigbrotr.outbox.target IS 'URL of the relay that is to get the event.';
COMMENT ON COLUMN bigbrotr.outbox.kind IS 'Kind of the event.';
COMMENT ON COLUMN bigbrotr.outbox.d IS
    'Value of the d tag. A newer event of the same kind and d takes the place of an older one.';
COMMENT ON COLUMN bigbrotr.outbox.event IS 'The signed event as JSON.';
COMMENT ON COLUMN bigbrotr.outbox.version IS
    'Grows when a newer event takes the place of this one. A result for an older version does not remove the entry.';
COMMENT ON COLUMN bigbrotr.outbox.posted_at IS 'When the event was put here, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.outbox.due_at IS
    'When to send it, in Unix seconds. A claim moves it by the length of the lease.';
COMMENT ON COLUMN bigbrotr.outbox.attempts IS 'Failed tries in a row.';
COMMENT ON COLUMN bigbrotr.outbox.owner IS 'Process that holds the lease; NULL if nobody does.';
CREATE INDEX IF NOT EXISTS outbox_due_at_idx ON bigbrotr.outbox (due_at);

CREATE TABLE IF NOT EXISTS bigbrotr.deliveries (
    target  text   NOT NULL,
    outcome text   NOT NULL CHECK (outcome IN ('accepted', 'refused', 'failed')),
    reason  text   NOT NULL,
    times   bigint NOT NULL,
    last_at bigint NOT NULL,
    detail  text   NOT NULL,
    PRIMARY KEY (target, outcome, reason)
);
COMMENT ON TABLE bigbrotr.deliveries IS 'What became of our own events, counted by target, outcome and reason.';
COMMENT ON COLUMN bigbrotr.deliveries.target IS 'URL of the relay.';
COMMENT ON COLUMN bigbrotr.deliveries.outcome IS 'Result: accepted, refused or failed.';
COMMENT ON COLUMN bigbrotr.deliveries.reason IS
    'Prefix of the relay''s reason, or why it failed, cut to 100 characters; other after the first 20 reasons.';
COMMENT ON COLUMN bigbrotr.deliveries.times IS 'How many times.';
COMMENT ON COLUMN bigbrotr.deliveries.last_at IS 'When it last happened, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.deliveries.detail IS 'The last answer in words, cut to 500 characters.';

CREATE OR REPLACE FUNCTION bigbrotr.post_events(
    p_targets text[], p_kinds integer[], p_ds text[], p_events text[], p_now bigint
) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    posted integer;
BEGIN
    WITH new_events AS (
        INSERT INTO bigbrotr.outbox AS o (target, kind, d, event, posted_at, due_at)
        SELECT DISTINCT ON (u.target, u.kind, u.d) u.target, u.kind, u.d, u.event, p_now, p_now
        FROM unnest(p_targets, p_kinds, p_ds, p_events) WITH ORDINALITY AS u (target, kind, d, event, position)
        ORDER BY u.target, u.kind, u.d, u.position DESC
        ON CONFLICT (target, kind, d) DO UPDATE SET
            -- due_at stays: a target that fails is not tried sooner because of a newer event.
            event = EXCLUDED.event, version = o.version + 1, posted_at = EXCLUDED.posted_at
        WHERE o.event <> EXCLUDED.event
        RETURNING 1
    )
    SELECT count(*) INTO posted FROM new_events;
    RETURN posted;
END $$;
COMMENT ON FUNCTION bigbrotr.post_events IS
    'Puts events of our own into the outbox, each in the place of an older one of the same target, kind and d. '
    'Returns how many. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.claim_outbox(
    p_targets integer, p_limit integer, p_owner text, p_lease_s bigint, p_now bigint
) RETURNS TABLE (id bigint, version bigint, target text, event text, attempts integer)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    WITH targets AS (
        SELECT o.target FROM bigbrotr.outbox o WHERE o.due_at <= p_now
        GROUP BY o.target ORDER BY min(o.due_at), o.target LIMIT p_targets
    ), due AS (
        SELECT o.id FROM bigbrotr.outbox o
        WHERE o.due_at <= p_now AND o.target IN (SELECT t.target FROM targets t)
        ORDER BY o.due_at, o.id
        LIMIT p_limit
        FOR UPDATE SKIP LOCKED
    )
    UPDATE bigbrotr.outbox o SET due_at = p_now + p_lease_s, owner = p_owner
    FROM due WHERE o.id = due.id
    RETURNING o.id, o.version, o.target, o.event, o.attempts;
END $$;
COMMENT ON FUNCTION bigbrotr.claim_outbox IS
    'Claims up to p_limit outbox entries that are due, of at most p_targets targets. Nobody else gets them for '
    'p_lease_s seconds.';

-- A relay may accept some entries and then want a pause: what fails beside accepted entries of the same target is kept for
-- later and does not count as an attempt. Reasons and details are the relay's words, so they are cut; of each target and
-- outcome 20 reasons are counted, the others as 'other'.
CREATE OR REPLACE FUNCTION bigbrotr.settle_outbox(
    p_ids bigint[], p_versions bigint[], p_targets text[], p_outcomes text[], p_reasons text[], p_details text[],
    p_max_attempts integer, p_now bigint
) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    gone integer;
BEGIN
    INSERT INTO bigbrotr.deliveries AS d (target, outcome, reason, times, last_at, detail)
    SELECT n.target, n.outcome, n.reason, count(*), p_now, max(n.detail)
    FROM (
        SELECT g.target, g.outcome, left(g.detail, 500) AS detail,
               CASE WHEN g.is_known OR g.places + dense_rank() OVER (
                   PARTITION BY g.target, g.outcome, g.is_known ORDER BY g.reason) <= 20
               THEN g.reason ELSE 'other' END AS reason
        FROM (
            SELECT u.target, u.outcome, left(u.reason, 100) AS reason, u.detail,
                   EXISTS (SELECT FROM bigbrotr.deliveries d WHERE d.target = u.target AND d.outcome = u.outcome
                           AND d.reason = left(u.reason, 100)) AS is_known,
                   (SELECT count(*) FROM bigbrotr.deliveries d
                    WHERE d.target = u.target AND d.outcome = u.outcome) AS places
            FROM unnest(p_targets, p_outcomes, p_reasons, p_details) AS u (target, outcome, reason, detail)
        ) AS g
    ) AS n
    GROUP BY n.target, n.outcome, n.reason
    ORDER BY n.target, n.outcome, n.reason
    ON CONFLICT (target, outcome, reason) DO UPDATE SET
        times = d.times + EXCLUDED.times, last_at = EXCLUDED.last_at, detail = EXCLUDED.detail;

    UPDATE bigbrotr.outbox o SET
        attempts = CASE WHEN o.version = u.version AND NOT u.is_taking THEN o.attempts + 1 ELSE o.attempts END,
        due_at   = CASE WHEN u.outcome = 'failed' THEN p_now + bigbrotr.backoff_s(o.attempts + 1) ELSE p_now END,
        owner    = NULL
    FROM (
        SELECT s.id, s.version, s.outcome, bool_or(s.outcome = 'accepted') OVER (PARTITION BY s.target) AS is_taking
        FROM unnest(p_ids, p_versions, p_targets, p_outcomes) AS s (id, version, target, outcome)
    ) AS u
    WHERE o.id = u.id AND (u.outcome = 'failed' OR o.version <> u.version);

    WITH deleted AS (
        DELETE FROM bigbrotr.outbox o
        USING unnest(p_ids, p_versions, p_outcomes) AS u (id, version, outcome)
        WHERE o.id = u.id AND o.version = u.version
          AND (u.outcome <> 'failed' OR o.attempts >= p_max_attempts)
        RETURNING 1
    )
    SELECT count(*) INTO gone FROM deleted;
    RETURN gone;
END $$;
COMMENT ON FUNCTION bigbrotr.settle_outbox IS
    'Records what became of claimed outbox entries. Arrays of one length. accepted and refused entries are deleted; '
    'failed ones come back after a growing delay, p_max_attempts times at most. An entry that a newer event has '
    'replaced stays. Counts all in deliveries. Returns how many entries were deleted.';

CREATE OR REPLACE FUNCTION bigbrotr.release_outbox(p_owner text, p_now bigint) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    released integer;
BEGIN
    WITH back AS (
        UPDATE bigbrotr.outbox SET due_at = p_now, owner = NULL WHERE owner = p_owner RETURNING 1
    )
    SELECT count(*) INTO released FROM back;
    RETURN released;
END $$;
COMMENT ON FUNCTION bigbrotr.release_outbox IS
    'Gives back all outbox entries of an owner. A process calls it at its start. Returns how many. Idempotent.';
