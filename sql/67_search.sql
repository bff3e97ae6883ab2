-- Search: an index of the words of events, where the operator wants one. Who stores events does nothing for it: the service
-- search follows the log of arrivals, walks through what was archived before, and writes hashes of words. Two words may share
-- a hash: who finds an event by them looks at its text again. What is erased leaves it in the same transaction.

CREATE TABLE IF NOT EXISTS bigbrotr.search (
    created_at bigint    NOT NULL,
    slice      integer   NOT NULL,
    kind       integer   NOT NULL,
    id         bytea     NOT NULL,
    tokens     integer[] NOT NULL,
    PRIMARY KEY (created_at, slice, id)
);
COMMENT ON TABLE bigbrotr.search IS 'The words of events that can be searched for.';
COMMENT ON COLUMN bigbrotr.search.created_at IS 'When the event was created, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.search.slice IS 'Week of created_at, see slice_of.';
COMMENT ON COLUMN bigbrotr.search.kind IS 'Kind of the event.';
COMMENT ON COLUMN bigbrotr.search.id IS 'Id of the event: 32 bytes.';
COMMENT ON COLUMN bigbrotr.search.tokens IS 'Hashes of its words: CRC-32 of the folded word, or of a pair of characters, in UTF-8.';
CREATE INDEX IF NOT EXISTS search_tokens_idx ON bigbrotr.search USING gin (tokens);

CREATE TABLE IF NOT EXISTS bigbrotr.search_state (
    is_only  boolean   NOT NULL PRIMARY KEY DEFAULT true CHECK (is_only),
    kinds    integer[] NOT NULL,
    xid      bigint    NOT NULL,
    id       bigint    NOT NULL,
    after_at bigint,
    after_id bytea
);
COMMENT ON TABLE bigbrotr.search_state IS 'How far the service search is: one row, or none where there is no index.';
COMMENT ON COLUMN bigbrotr.search_state.is_only IS 'Always true.';
COMMENT ON COLUMN bigbrotr.search_state.kinds IS 'Kinds whose events can be searched for.';
COMMENT ON COLUMN bigbrotr.search_state.xid IS 'Transaction of the last row of arrivals whose events are in it.';
COMMENT ON COLUMN bigbrotr.search_state.id IS 'Id of that row.';
COMMENT ON COLUMN bigbrotr.search_state.after_at IS
    'What was archived before is put in from the newest on: the time (Unix seconds) of the last event; NULL: all of it is.';
COMMENT ON COLUMN bigbrotr.search_state.after_id IS 'Its id.';

CREATE OR REPLACE FUNCTION bigbrotr.begin_search(p_kinds integer[], p_is_missing boolean) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    log_end record;
    begun   boolean;
BEGIN
    SELECT a.xid, a.id INTO log_end FROM bigbrotr.arrivals_end() AS a;
    WITH noted AS (
        INSERT INTO bigbrotr.search_state AS s (kinds, xid, id, after_at, after_id)
        VALUES (p_kinds, log_end.xid, log_end.id, 9223372036854775807, '')
        ON CONFLICT (is_only) DO UPDATE SET
            kinds = EXCLUDED.kinds, xid = EXCLUDED.xid, id = EXCLUDED.id, after_at = EXCLUDED.after_at, after_id = EXCLUDED.after_id
        -- A backup may have come to another server, which has counted fewer transactions.
        WHERE s.kinds <> EXCLUDED.kinds OR s.xid > EXCLUDED.xid OR p_is_missing
        RETURNING 1
    )
    SELECT count(*) > 0 INTO begun FROM noted;
    RETURN begun;
END $$;
COMMENT ON FUNCTION bigbrotr.begin_search IS
    'Begins an index of the words of events of some kinds, with all that is archived; again where other kinds are wanted, '
    'the log of arrivals is another, or with p_is_missing. Returns whether it has begun. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.empty_search(p_slice integer) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    gone integer;
BEGIN
    WITH deleted AS (
        DELETE FROM bigbrotr.search s
        WHERE s.slice = p_slice
          AND s.created_at >= bigbrotr.slice_start(p_slice) AND s.created_at <= bigbrotr.slice_end(p_slice)
        RETURNING 1
    )
    SELECT count(*) INTO gone FROM deleted;
    RETURN gone;
END $$;
COMMENT ON FUNCTION bigbrotr.empty_search IS 'The part of end_search that writes one slice.';

CREATE OR REPLACE FUNCTION bigbrotr.end_search() RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off SET enable_seqscan = off AS $$
DECLARE
    part integer;
BEGIN
    DELETE FROM bigbrotr.search_state;
    SELECT s.slice INTO part FROM bigbrotr.search s ORDER BY s.created_at LIMIT 1;
    IF part IS NULL THEN
        RETURN 0;
    END IF;
    RETURN bigbrotr.empty_search(p_slice => part);
END $$;
COMMENT ON FUNCTION bigbrotr.end_search IS
    'Ends the index of words, and deletes what is in it of the first week that has any. Returns how many events those are; '
    '0: it is empty. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.index_slice(
    p_slice integer, p_created_ats bigint[], p_ids bytea[], p_kinds integer[], p_tokens text[]
) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    INSERT INTO bigbrotr.search (created_at, slice, kind, id, tokens)
    SELECT u.created_at, p_slice, u.kind, u.id, u.tokens::integer[]
    FROM unnest(p_created_ats, p_ids, p_kinds, p_tokens) AS u (created_at, id, kind, tokens)
    ON CONFLICT (created_at, slice, id) DO NOTHING;
END $$;
COMMENT ON FUNCTION bigbrotr.index_slice IS 'The part of index_words that writes one slice.';

CREATE OR REPLACE FUNCTION bigbrotr.index_words(
    p_created_ats bigint[], p_ids bytea[], p_kinds integer[], p_tokens text[]
) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    kept   integer[];
    ats    bigint[];
    run    record;
    places integer[];
BEGIN
    -- Who erases holds it as well: what is there now is erased later, here too.
    LOCK TABLE bigbrotr.policy_lock IN EXCLUSIVE MODE;
    SELECT array_agg(u.position::integer ORDER BY u.position), array_agg(u.created_at ORDER BY u.position) INTO kept, ats
    FROM unnest(p_created_ats, p_ids) WITH ORDINALITY AS u (created_at, id, position)
    JOIN bigbrotr.read_judged(p_created_ats => p_created_ats, p_ids => p_ids) AS j ON j.id = u.id;
    FOR run IN SELECT r.slice, r.first, r.last FROM bigbrotr.runs_of(ats) AS r LOOP
        places := kept[run.first:run.last];
        PERFORM bigbrotr.index_slice(
            p_slice => run.slice, p_created_ats => ats[run.first:run.last],
            p_ids => ARRAY(SELECT p_ids[n] FROM unnest(places) WITH ORDINALITY AS s (n, place) ORDER BY s.place),
            p_kinds => ARRAY(SELECT p_kinds[n] FROM unnest(places) WITH ORDINALITY AS s (n, place) ORDER BY s.place),
            p_tokens => ARRAY(SELECT p_tokens[n] FROM unnest(places) WITH ORDINALITY AS s (n, place) ORDER BY s.place));
    END LOOP;
END $$;
COMMENT ON FUNCTION bigbrotr.index_words IS
    'Puts events into the index of words, those that are archived and not erased. Arrays of one length, sorted by time; '
    'p_tokens: array literals. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.move_search(
    p_xid bigint, p_id bigint, p_after_at bigint, p_after_id bytea,
    p_from_xid bigint, p_from_id bigint, p_from_at bigint, p_from_after bytea
) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE bigbrotr.search_state s SET xid = p_xid, id = p_id, after_at = p_after_at, after_id = p_after_id
    WHERE s.xid = p_from_xid AND s.id = p_from_id
      AND s.after_at IS NOT DISTINCT FROM p_from_at AND s.after_id IS NOT DISTINCT FROM p_from_after;
    RETURN FOUND;
END $$;
COMMENT ON FUNCTION bigbrotr.move_search IS
    'Notes how far the index of words is, if it was where the caller has begun. Returns false if another was quicker: then '
    'all of this transaction is to be undone.';

CREATE OR REPLACE FUNCTION bigbrotr.search_position(
    OUT kinds integer[], OUT xid bigint, OUT id bigint, OUT after_at bigint, OUT after_id bytea
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT s.kinds, s.xid, s.id, s.after_at, s.after_id INTO kinds, xid, id, after_at, after_id FROM bigbrotr.search_state s;
END $$;
COMMENT ON FUNCTION bigbrotr.search_position IS 'Of which kinds events can be searched for, and how far their index is; NULL: there is none.';

-- In order first, then event by event: what is not wanted for its author or tags is read as far as is needed.
CREATE OR REPLACE FUNCTION bigbrotr.read_by_words(
    p_tokens integer[], p_since bigint, p_until bigint, p_after_at bigint, p_after_id bytea, p_kinds integer[],
    p_pubkeys bytea[], p_hashes integer[], p_more text[], p_limit integer, p_most_bytes bigint, p_view text, p_now bigint
) RETURNS TABLE (
    created_at bigint, id bytea, pubkey bytea, kind integer, tags text, content text, sig bytea, raw bytea, num bigint
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET work_mem = '32MB' SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    shown record;
BEGIN
    SELECT v.hides, v.expired_by INTO shown FROM bigbrotr.view_hides(p_view, p_now) AS v;
    RETURN QUERY
    SELECT r.created_at, r.id, r.pubkey, r.kind, r.tags, r.content, r.sig,
           (SELECT w.raw FROM bigbrotr.events_raw w WHERE w.event_id = r.id AND w.slice = r.slice), r.num
    FROM (
        SELECT f.*, sum(z.size) OVER (ROWS UNBOUNDED PRECEDING) - z.size AS before
        FROM (
            SELECT x.* FROM (
                SELECT s.created_at, s.slice, s.id FROM bigbrotr.search s
                WHERE (cardinality(p_tokens) = 0 OR s.tokens @> p_tokens)
                  AND s.created_at >= p_since AND s.created_at <= p_until AND s.kind = ANY (p_kinds)
                  AND (p_after_at IS NULL OR s.created_at < p_after_at OR (s.created_at = p_after_at AND s.id > p_after_id))
                ORDER BY s.created_at DESC, s.id OFFSET 0
            ) AS t
            CROSS JOIN LATERAL (
                SELECT e.* FROM bigbrotr.events_stored e
                WHERE e.created_at = t.created_at AND e.id = t.id AND e.slice = t.slice
                  AND (p_pubkeys IS NULL OR e.pubkey = ANY (p_pubkeys))
                  AND (p_hashes IS NULL OR e.tag_hashes && p_hashes)
                  AND (p_more IS NULL OR bigbrotr.has_hashes(e.tag_hashes, p_more))
                  AND (SELECT true FROM bigbrotr.hidden h
                       WHERE h.created_at = e.created_at AND h.slice = e.slice AND h.id = e.id
                         AND (h.why & shown.hides <> 0 OR h.expires_at <= shown.expired_by)) IS NULL
                OFFSET 0
            ) AS x
            LIMIT p_limit
        ) AS f
        CROSS JOIN LATERAL (SELECT coalesce(octet_length(f.tags), 0) + coalesce(octet_length(f.content), 0)) AS z (size)
    ) AS r
    WHERE r.before < coalesce(p_most_bytes, 9223372036854775807) ORDER BY r.created_at DESC, r.id;
END $$;
COMMENT ON FUNCTION bigbrotr.read_by_words IS
    'Reads the events that have all of these hashes of words, see search, newest first, up to the one whose tags and content '
    'pass p_most_bytes (NULL: all). What else is taken, 66_find.sql says.';
