-- Reconciliation: which relays can compare ids (NIP-77), what they were found to hold, and what they do not hand over.

-- The result of our own try counts, not what the relay says of itself.
CREATE TABLE IF NOT EXISTS bigbrotr.reconciliation (
    relay_id   bigint NOT NULL PRIMARY KEY REFERENCES bigbrotr.relays (id) ON DELETE CASCADE,
    outcome    text   NOT NULL CHECK (outcome IN ('works', 'refused', 'silent', 'broken', 'lies')),
    detail     text   NOT NULL,
    tried_at   bigint NOT NULL,
    due_at     bigint NOT NULL,
    most_items bigint,
    most_bytes bigint
);
COMMENT ON TABLE bigbrotr.reconciliation IS 'What came of trying to compare ids (NIP-77) with each relay.';
COMMENT ON COLUMN bigbrotr.reconciliation.relay_id IS 'Number of the relay.';
COMMENT ON COLUMN bigbrotr.reconciliation.outcome IS 'Result of the last try: works, refused, silent, broken or lies.';
COMMENT ON COLUMN bigbrotr.reconciliation.detail IS 'Result in words.';
COMMENT ON COLUMN bigbrotr.reconciliation.tried_at IS 'When it was last tried, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.reconciliation.due_at IS 'When to try again, in Unix seconds, unless it works.';
COMMENT ON COLUMN bigbrotr.reconciliation.most_items IS
    'Most events in a window that the relay compares; NULL if it has refused none.';
COMMENT ON COLUMN bigbrotr.reconciliation.most_bytes IS
    'Largest message that the relay takes, in bytes; NULL if it has refused none.';

CREATE OR REPLACE FUNCTION bigbrotr.note_reconciliation(
    p_relay_id bigint, p_epoch bigint, p_outcome text, p_detail text, p_due_at bigint, p_most_items bigint,
    p_most_bytes bigint, p_now bigint
) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO bigbrotr.reconciliation AS r (relay_id, outcome, detail, tried_at, due_at, most_items, most_bytes)
    SELECT id, p_outcome, p_detail, p_now, p_due_at, p_most_items, p_most_bytes
    FROM bigbrotr.relays WHERE id = p_relay_id
    ON CONFLICT (relay_id) DO UPDATE SET
        outcome = EXCLUDED.outcome, detail = EXCLUDED.detail, tried_at = EXCLUDED.tried_at,
        due_at = EXCLUDED.due_at, most_items = EXCLUDED.most_items, most_bytes = EXCLUDED.most_bytes;
    PERFORM bigbrotr.hold_lease(p_relay_id, p_epoch);
END $$;
COMMENT ON FUNCTION bigbrotr.note_reconciliation IS
    'Notes what came of comparing ids (NIP-77) with a relay. Refused (BB001) if another process has claimed the '
    'relay. Idempotent.';

CREATE TABLE IF NOT EXISTS bigbrotr.digests (
    relay_id bigint    NOT NULL REFERENCES bigbrotr.relays (id) ON DELETE CASCADE,
    filter   text      NOT NULL DEFAULT '',
    span     int8range NOT NULL CHECK (NOT isempty(span)),
    items    bigint    NOT NULL,
    sum      bytea     NOT NULL,
    PRIMARY KEY (relay_id, filter, span)
);
COMMENT ON TABLE bigbrotr.digests IS
    'What a relay was found to hold in a window, as a sum. While the relay shows the same sum, nothing has changed '
    'there. A hint, not a proof.';
COMMENT ON COLUMN bigbrotr.digests.relay_id IS 'Number of the relay.';
COMMENT ON COLUMN bigbrotr.digests.filter IS
    'For which events: the canonical conditions of a filter, empty for all events.';
COMMENT ON COLUMN bigbrotr.digests.span IS 'The window, half-open [since, until), in Unix seconds.';
COMMENT ON COLUMN bigbrotr.digests.items IS 'Number of events.';
COMMENT ON COLUMN bigbrotr.digests.sum IS 'Sum of their ids: 32 bytes, little-endian.';

CREATE OR REPLACE FUNCTION bigbrotr.keep_digest(
    p_relay_id bigint, p_filter text, p_span int8range, p_items bigint, p_sum bytea
) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM bigbrotr.digests d WHERE d.relay_id = p_relay_id AND d.filter = p_filter AND d.span && p_span;
    INSERT INTO bigbrotr.digests (relay_id, filter, span, items, sum)
    SELECT id, p_filter, p_span, p_items, p_sum FROM bigbrotr.relays WHERE id = p_relay_id;
END $$;
COMMENT ON FUNCTION bigbrotr.keep_digest IS
    'Keeps what a relay was found to hold in a window, in place of all that overlaps it. Idempotent.';

CREATE TABLE IF NOT EXISTS bigbrotr.withheld (
    relay_id bigint    NOT NULL REFERENCES bigbrotr.relays (id) ON DELETE CASCADE,
    event_id bytea     NOT NULL,
    span     int8range NOT NULL,
    reason   text      NOT NULL,
    attempts integer   NOT NULL,
    noted_at bigint    NOT NULL,
    due_at   bigint    NOT NULL,
    PRIMARY KEY (relay_id, event_id)
);
COMMENT ON TABLE bigbrotr.withheld IS
    'Events that a relay says it holds and does not hand over. They are asked for again, each time later.';
COMMENT ON COLUMN bigbrotr.withheld.relay_id IS 'Number of the relay.';
COMMENT ON COLUMN bigbrotr.withheld.event_id IS 'Id of the event: 32 bytes.';
COMMENT ON COLUMN bigbrotr.withheld.span IS
    'Window in which the relay named the event, half-open, in Unix seconds. The event''s own time is not known.';
COMMENT ON COLUMN bigbrotr.withheld.reason IS 'Why the event was not handed over, in one word.';
COMMENT ON COLUMN bigbrotr.withheld.attempts IS 'Tries in vain.';
COMMENT ON COLUMN bigbrotr.withheld.noted_at IS 'When it was first noted, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.withheld.due_at IS 'When to ask again, in Unix seconds.';
CREATE INDEX IF NOT EXISTS withheld_event_id_idx ON bigbrotr.withheld USING hash (event_id);

-- If fewer are noted than were given, the relay names masses of events that it does not hand over. Then it counts as not
-- holding them.
CREATE OR REPLACE FUNCTION bigbrotr.note_withheld(
    p_relay_id bigint, p_epoch bigint, p_ids bytea[], p_reasons text[], p_span int8range, p_is_final boolean,
    p_most bigint, p_forget_before bigint, p_now bigint
) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    again integer;
    added integer;
BEGIN
    DELETE FROM bigbrotr.withheld w WHERE w.relay_id = p_relay_id AND w.noted_at < p_forget_before;
    WITH tried AS (
        UPDATE bigbrotr.withheld w SET
            span = p_span, reason = u.reason, attempts = w.attempts + 1,
            due_at = CASE WHEN p_is_final THEN p_now + bigbrotr.backoff_s(w.attempts + 1) ELSE p_now END
        FROM unnest(p_ids, p_reasons) AS u (id, reason)
        WHERE w.relay_id = p_relay_id AND w.event_id = u.id
        RETURNING 1
    )
    SELECT count(*) INTO again FROM tried;
    WITH written AS (
        INSERT INTO bigbrotr.withheld (relay_id, event_id, span, reason, attempts, noted_at, due_at)
        SELECT p_relay_id, u.id, p_span, u.reason, 1, p_now,
               CASE WHEN p_is_final THEN p_now + bigbrotr.backoff_s(1) ELSE p_now END
        FROM unnest(p_ids, p_reasons) AS u (id, reason)
        WHERE EXISTS (SELECT FROM bigbrotr.relays r WHERE r.id = p_relay_id)
          AND NOT EXISTS (SELECT FROM bigbrotr.withheld w WHERE w.relay_id = p_relay_id AND w.event_id = u.id)
        ORDER BY u.id
        LIMIT greatest(0, p_most - (SELECT count(*) FROM bigbrotr.withheld w WHERE w.relay_id = p_relay_id))
        ON CONFLICT (relay_id, event_id) DO NOTHING
        RETURNING 1
    )
    SELECT count(*) INTO added FROM written;
    PERFORM bigbrotr.hold_lease(p_relay_id, p_epoch);
    RETURN again + added;
END $$;
COMMENT ON FUNCTION bigbrotr.note_withheld IS
    'Notes that events were asked for in vain: one more attempt each, and a longer wait if p_is_final. Of one relay '
    'at most p_most are kept, the oldest first; what was noted before p_forget_before is forgotten. Returns how many '
    'of these are noted now. Refused (BB001) if another process has claimed the relay. Not idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.forget_withheld(p_relay_id bigint, p_span int8range, p_ids bytea[]) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    gone integer;
BEGIN
    WITH deleted AS (
        DELETE FROM bigbrotr.withheld w
        WHERE w.relay_id = p_relay_id AND w.span && p_span AND w.event_id <> ALL (p_ids)
        RETURNING 1
    )
    SELECT count(*) INTO gone FROM deleted;
    RETURN gone;
END $$;
COMMENT ON FUNCTION bigbrotr.forget_withheld IS
    'Forgets what was withheld within a window, except p_ids, which still are. Returns how many. Idempotent.';

-- A slice at a time, so that memory stays small however much was believed.
CREATE OR REPLACE FUNCTION bigbrotr.distrust(p_relay_id integer, p_epoch bigint) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    believed int8multirange := (
        SELECT coalesce(range_agg(c.proven), '{}') FROM bigbrotr.coverage c
        WHERE c.relay_id = p_relay_id AND c.how = 'reconciliation');
    part  integer;
    ended integer;
    total integer := 0;
BEGIN
    LOCK TABLE bigbrotr.presence_lock IN ROW EXCLUSIVE MODE;
    FOREACH part IN ARRAY ARRAY(SELECT DISTINCT p.slice FROM bigbrotr.presence p WHERE p.relay_id = p_relay_id ORDER BY 1)
    LOOP
        CONTINUE WHEN NOT believed && int8range(bigbrotr.slice_start(part), bigbrotr.slice_end(part));
        SELECT e.ended INTO ended
        FROM bigbrotr.end_pairs(p_slice => part, p_relay_id => p_relay_id, p_spans => believed) AS e (ended);
        total := total + ended;
        PERFORM bigbrotr.note_week(p_week => part, p_since => 0, p_until => 9223372036854775807, p_changed => ended);
    END LOOP;
    UPDATE bigbrotr.tallies SET pairs = pairs - total WHERE relay_id = p_relay_id AND total > 0;
    PERFORM bigbrotr.hold_lease(p_relay_id, p_epoch);
    DELETE FROM bigbrotr.digests WHERE relay_id = p_relay_id;
    DELETE FROM bigbrotr.coverage WHERE relay_id = p_relay_id AND how = 'reconciliation';
    RETURN total;
END $$;
COMMENT ON FUNCTION bigbrotr.distrust IS
    'Takes back what was believed of a relay that has lied: what its reconciliations proved and the pairs in these '
    'spans. Pages will find again what is true. Returns how many pairs. Refused (BB001) if another process has '
    'claimed the relay. Idempotent.';
