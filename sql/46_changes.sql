-- Changes: a log of the changes of state that the monitor has found. It is written with the verdicts, in one transaction. Who
-- writes waits for the one before, so that numbers become visible in their order: a reader goes on behind the last that it
-- has seen, and misses none. Changes are rare, so nobody waits for long.

CREATE TABLE IF NOT EXISTS bigbrotr.changes (
    id       bigint NOT NULL PRIMARY KEY,
    relay_id bigint NOT NULL REFERENCES bigbrotr.relays (id) ON DELETE CASCADE,
    before   text   NOT NULL CHECK (before IN ('unknown', 'up', 'down')),
    state    text   NOT NULL CHECK (state IN ('up', 'down')),
    since    bigint NOT NULL,
    reason   text   NOT NULL,
    noted_at bigint NOT NULL
);
COMMENT ON TABLE bigbrotr.changes IS
    'Changes of state of relays, in the order in which they became known. Rows go after a while, see changes_log.';
COMMENT ON COLUMN bigbrotr.changes.id IS 'Number of the change, from 1. No number is used twice; a few may be missing.';
COMMENT ON COLUMN bigbrotr.changes.relay_id IS 'Number of the relay.';
COMMENT ON COLUMN bigbrotr.changes.before IS 'The state before: unknown (it was the first verdict), up or down.';
COMMENT ON COLUMN bigbrotr.changes.state IS 'The state since then: up or down.';
COMMENT ON COLUMN bigbrotr.changes.since IS
    'When the state began, in Unix seconds: of a relay that went down, when a check first failed.';
COMMENT ON COLUMN bigbrotr.changes.reason IS 'Why it is down, in the words of the check; empty otherwise.';
COMMENT ON COLUMN bigbrotr.changes.noted_at IS 'When it was noted, in Unix seconds.';
CREATE INDEX IF NOT EXISTS changes_relay_idx ON bigbrotr.changes (relay_id, id);
CREATE INDEX IF NOT EXISTS changes_noted_at_idx ON bigbrotr.changes (noted_at);

CREATE TABLE IF NOT EXISTS bigbrotr.changes_log (
    is_only boolean NOT NULL PRIMARY KEY DEFAULT true CHECK (is_only),
    last    bigint  NOT NULL,
    pruned  bigint  NOT NULL DEFAULT 0
);
COMMENT ON TABLE bigbrotr.changes_log IS 'How far the log of changes reaches: one row, or none before the first change.';
COMMENT ON COLUMN bigbrotr.changes_log.is_only IS 'Always true.';
COMMENT ON COLUMN bigbrotr.changes_log.last IS 'Number of the last change. Who writes changes holds this row.';
COMMENT ON COLUMN bigbrotr.changes_log.pruned IS 'Number up to which changes were deleted for their age; 0: none.';

CREATE OR REPLACE FUNCTION bigbrotr.note_changes(p_relay_ids bigint[], p_befores text[], p_now bigint) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    noted integer;
BEGIN
    WITH numbers AS (
        INSERT INTO bigbrotr.changes_log AS l (last) VALUES (cardinality(p_relay_ids))
        ON CONFLICT (is_only) DO UPDATE SET last = l.last + EXCLUDED.last
        RETURNING l.last
    ), new_changes AS (
        INSERT INTO bigbrotr.changes (id, relay_id, before, state, since, reason, noted_at)
        SELECT n.last - cardinality(p_relay_ids) + u.position, u.relay_id, u.before, c.state, c.since,
               CASE c.state WHEN 'down' THEN concat_ws(': ', c.outcome, nullif(c.detail, '')) ELSE '' END, p_now
        FROM unnest(p_relay_ids, p_befores) WITH ORDINALITY AS u (relay_id, before, position)
        JOIN bigbrotr.checks c ON c.relay_id = u.relay_id
        CROSS JOIN numbers n
        ORDER BY u.position
        RETURNING 1
    )
    SELECT count(*) INTO noted FROM new_changes;
    RETURN noted;
END $$;
COMMENT ON FUNCTION bigbrotr.note_changes IS
    'The part of record_checks that notes changes of state, with the states before. Returns how many. Not idempotent: '
    'each change is one.';

CREATE OR REPLACE FUNCTION bigbrotr.list_changes(p_after bigint, p_relay text, p_limit integer)
RETURNS TABLE (
    id bigint, relay_url text, network text, before text, state text, since bigint, reason text, noted_at bigint
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    RETURN QUERY
    SELECT c.id, r.url, r.network, c.before, c.state, c.since, c.reason, c.noted_at
    FROM bigbrotr.changes c JOIN bigbrotr.relays r ON r.id = c.relay_id
    WHERE c.id > p_after
      AND (p_relay IS NULL OR c.relay_id = (SELECT w.id FROM bigbrotr.relays w WHERE w.url = p_relay))
    ORDER BY c.id LIMIT p_limit;
END $$;
COMMENT ON FUNCTION bigbrotr.list_changes IS
    'Changes behind the number p_after, the oldest first; of the relay at a URL, or with NULL of all. Times in Unix '
    'seconds.';

CREATE OR REPLACE FUNCTION bigbrotr.latest_changes(p_before bigint, p_relay text, p_limit integer)
RETURNS TABLE (
    id bigint, relay_url text, network text, before text, state text, since bigint, reason text, noted_at bigint
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    RETURN QUERY
    SELECT c.id, r.url, r.network, c.before, c.state, c.since, c.reason, c.noted_at
    FROM bigbrotr.changes c JOIN bigbrotr.relays r ON r.id = c.relay_id
    WHERE (p_before IS NULL OR c.id < p_before)
      AND (p_relay IS NULL OR c.relay_id = (SELECT w.id FROM bigbrotr.relays w WHERE w.url = p_relay))
    ORDER BY c.id DESC LIMIT p_limit;
END $$;
COMMENT ON FUNCTION bigbrotr.latest_changes IS
    'Changes before the number p_before (NULL: all), the newest first; of the relay at a URL, or with NULL of all. '
    'Times in Unix seconds.';

CREATE OR REPLACE FUNCTION bigbrotr.prune_changes(p_before bigint) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    gone integer;
BEGIN
    WITH deleted AS (
        DELETE FROM bigbrotr.changes c WHERE c.noted_at < p_before RETURNING c.id
    ), noted AS (
        UPDATE bigbrotr.changes_log l SET pruned = greatest(l.pruned, d.last)
        FROM (SELECT max(x.id) AS last FROM deleted x) AS d
        WHERE d.last IS NOT NULL
        RETURNING 1
    )
    SELECT count(*) INTO gone FROM deleted;
    RETURN gone;
END $$;
COMMENT ON FUNCTION bigbrotr.prune_changes IS
    'Deletes the changes that were noted before p_before (Unix seconds). Returns how many. Idempotent.';
