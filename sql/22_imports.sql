-- Imports: events that a file has brought. They are archived as those of relays are; a relay may hold them, or none that we
-- know of. What a file has brought is no orphan: a row says it of 256 events, a chunk, as presence does.

CREATE TABLE IF NOT EXISTS bigbrotr.imports (
    id          bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source      text    NOT NULL UNIQUE,
    name        text    NOT NULL,
    file        text    NOT NULL,
    sha256      bytea,
    held_by     text,
    as_of       bigint,
    started_at  bigint  NOT NULL,
    finished_at bigint,
    lines       bigint,
    events      bigint,
    new_events  bigint  NOT NULL DEFAULT 0,
    new_pairs   bigint  NOT NULL DEFAULT 0,
    invalid     jsonb
);
COMMENT ON TABLE bigbrotr.imports IS 'Sources that are no relays: files whose events were imported.';
COMMENT ON COLUMN bigbrotr.imports.id IS 'Number of the import.';
COMMENT ON COLUMN bigbrotr.imports.source IS
    'What is imported: sha256:… of the file; of standard input name:…, since it cannot be read twice. What is imported '
    'again stays one row.';
COMMENT ON COLUMN bigbrotr.imports.name IS 'Name of the source, as the operator calls it.';
COMMENT ON COLUMN bigbrotr.imports.file IS 'Path of the file, as it was first imported; - is standard input.';
COMMENT ON COLUMN bigbrotr.imports.sha256 IS 'SHA-256 of the bytes of the file; NULL as long as standard input was not read whole.';
COMMENT ON COLUMN bigbrotr.imports.held_by IS 'URL of the relay whose events these are; NULL: nobody says.';
COMMENT ON COLUMN bigbrotr.imports.as_of IS 'When that relay held them, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.imports.started_at IS 'When the import first began, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.imports.finished_at IS 'When it first came to its end, in Unix seconds; NULL: it never did.';
COMMENT ON COLUMN bigbrotr.imports.lines IS 'Lines of the file; NULL as long as finished_at is.';
COMMENT ON COLUMN bigbrotr.imports.events IS 'Lines with a valid event; NULL as long as finished_at is.';
COMMENT ON COLUMN bigbrotr.imports.new_events IS 'Events that were not archived before.';
COMMENT ON COLUMN bigbrotr.imports.new_pairs IS 'Pairs of them and held_by that were not known before.';
COMMENT ON COLUMN bigbrotr.imports.invalid IS 'How many lines were no valid events, by reason.';

CREATE TABLE IF NOT EXISTS bigbrotr.imported (
    chunk     bigint   NOT NULL,
    import_id bigint   NOT NULL,
    slice     integer  NOT NULL,
    members   bit(256) NOT NULL,
    PRIMARY KEY (slice, chunk, import_id)
);
COMMENT ON TABLE bigbrotr.imported IS
    'Which events a file has brought, those that were archived before as well: a row for each import and chunk of 256 event '
    'numbers.';
COMMENT ON COLUMN bigbrotr.imported.chunk IS 'Numbers of the events, without their last eight bits: num >> 8.';
COMMENT ON COLUMN bigbrotr.imported.import_id IS 'Number of the import.';
COMMENT ON COLUMN bigbrotr.imported.slice IS 'Week of the events, see slice_of.';
COMMENT ON COLUMN bigbrotr.imported.members IS 'Bit num & 255, from the left: whether the file has brought the event num.';

CREATE OR REPLACE FUNCTION bigbrotr.begin_import(
    p_source text, p_name text, p_file text, p_sha256 bytea, p_held_by text, p_as_of bigint, p_now bigint
) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_id bigint;
BEGIN
    INSERT INTO bigbrotr.imports AS i (source, name, file, sha256, held_by, as_of, started_at)
    VALUES (p_source, p_name, p_file, p_sha256, p_held_by, p_as_of, p_now)
    ON CONFLICT (source) DO UPDATE SET
        held_by = coalesce(EXCLUDED.held_by, i.held_by),
        as_of   = coalesce(EXCLUDED.as_of, i.as_of)
    RETURNING i.id INTO found_id;
    RETURN found_id;
END $$;
COMMENT ON FUNCTION bigbrotr.begin_import IS
    'The number of an import, a new one unless the same source was imported before. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.finish_import(
    p_import_id bigint, p_sha256 bytea, p_lines bigint, p_events bigint, p_invalid jsonb, p_now bigint
) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE bigbrotr.imports i SET
        sha256 = p_sha256, lines = p_lines, events = p_events, invalid = p_invalid, finished_at = p_now
    WHERE i.id = p_import_id AND (i.finished_at IS NULL OR i.sha256 IS DISTINCT FROM p_sha256);
END $$;
COMMENT ON FUNCTION bigbrotr.finish_import IS
    'Notes that an import has come to its end, and what the file held. Changes nothing where the same was noted before.';

CREATE OR REPLACE FUNCTION bigbrotr.note_imported(
    p_import_id bigint, p_relay_id integer, p_created_ats bigint[], p_ids bytea[], p_seen_at bigint
) RETURNS integer[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    holder  integer := (SELECT r.id FROM bigbrotr.relays r WHERE r.id = p_relay_id);  -- NULL: deleted meanwhile
    unknown integer[] := '{}';
    noted   integer := 0;
    run     record;
    done    record;
BEGIN
    -- An orphan may not go between the look at it and the note.
    LOCK TABLE bigbrotr.presence_lock IN ROW EXCLUSIVE MODE;
    FOR run IN SELECT r.slice, r.first, r.last FROM bigbrotr.runs_of(p_created_ats) AS r LOOP
        SELECT s.known, s.noted INTO done
        FROM bigbrotr.note_imported_slice(
            p_slice => run.slice, p_import_id => p_import_id, p_relay_id => holder,
            p_created_ats => p_created_ats[run.first:run.last], p_ids => p_ids[run.first:run.last],
            p_seen_at => bigbrotr.pack_seen(p_seen_at)) AS s;
        noted := noted + done.noted;
        IF cardinality(done.known) <= run.last - run.first THEN
            unknown := unknown || ARRAY(
                SELECT generate_series(run.first, run.last)
                EXCEPT SELECT k.position::integer + run.first - 1 FROM unnest(done.known) AS k (position) ORDER BY 1);
        END IF;
    END LOOP;
    IF noted > 0 THEN
        PERFORM bigbrotr.count_pairs(
            p_relay_id => holder, p_pairs => noted,
            p_since => p_created_ats[1], p_last => p_created_ats[cardinality(p_created_ats)]);
        UPDATE bigbrotr.imports i SET new_pairs = i.new_pairs + noted WHERE i.id = p_import_id;
    END IF;
    PERFORM bigbrotr.note_days(p_created_ats, noted);
    RETURN unknown;
END $$;
COMMENT ON FUNCTION bigbrotr.note_imported IS
    'Notes of those of the given events that are archived that an import has brought them, and that a relay holds them '
    'since p_seen_at (Unix seconds), unless p_relay_id is NULL. Returns the positions (from 1) of the others. Arrays of one '
    'length, sorted by (created_at, id). Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.note_imported_slice(
    p_slice integer, p_import_id bigint, p_relay_id integer, p_created_ats bigint[], p_ids bytea[], p_seen_at integer,
    OUT known bigint[], OUT noted integer
)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    nums bigint[];
BEGIN
    noted := 0;
    SELECT f.places, f.nums INTO known, nums
    FROM bigbrotr.numbers_of(p_slice => p_slice, p_created_ats => p_created_ats, p_ids => p_ids) AS f;
    IF cardinality(nums) > 0 THEN
        PERFORM bigbrotr.mark_imported(p_slice => p_slice, p_import_id => p_import_id, p_nums => nums);
        noted := bigbrotr.write_pairs(
            p_slice => p_slice, p_relay_id => p_relay_id, p_nums => nums,
            p_seen_ats => array_fill(p_seen_at, ARRAY[cardinality(nums)]));
    END IF;
END $$;
COMMENT ON FUNCTION bigbrotr.note_imported_slice IS
    'The part of note_imported that writes one slice. p_seen_at: a packed time. known: positions of the events, from 1, '
    'that are archived; noted: how many pairs are new.';

CREATE OR REPLACE FUNCTION bigbrotr.mark_imported(p_slice integer, p_import_id bigint, p_nums bigint[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET jit = off SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    INSERT INTO bigbrotr.imported AS i (slice, chunk, import_id, members)
    SELECT p_slice, u.num >> 8, p_import_id, bit_or(set_bit(0::bit(256), (u.num & 255)::integer, 1))
    FROM unnest(p_nums) AS u (num) GROUP BY u.num >> 8 ORDER BY u.num >> 8
    ON CONFLICT (slice, chunk, import_id) DO UPDATE SET members = i.members | EXCLUDED.members
    WHERE (i.members | EXCLUDED.members) <> i.members;
END $$;
COMMENT ON FUNCTION bigbrotr.mark_imported IS 'Notes of events of one slice, by their numbers, that an import has brought them. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.mark_page(
    p_import_id bigint, p_created_ats bigint[], p_nums bigint[], p_new_events integer, p_new_pairs integer
) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    run record;
BEGIN
    FOR run IN SELECT r.slice, r.first, r.last FROM bigbrotr.runs_of(p_created_ats) AS r LOOP
        PERFORM bigbrotr.mark_imported(
            p_slice => run.slice, p_import_id => p_import_id, p_nums => p_nums[run.first:run.last]);
    END LOOP;
    UPDATE bigbrotr.imports i SET new_events = i.new_events + p_new_events, new_pairs = i.new_pairs + p_new_pairs
    WHERE i.id = p_import_id AND (p_new_events > 0 OR p_new_pairs > 0);
END $$;
COMMENT ON FUNCTION bigbrotr.mark_page IS
    'Notes of events that the same transaction has stored under these numbers that an import has brought them. Arrays of one '
    'length, sorted by time. p_new_events and p_new_pairs: how many of both were new.';

CREATE OR REPLACE FUNCTION bigbrotr.find_unknown(p_created_ats bigint[], p_ids bytea[]) RETURNS integer[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    unknown integer[] := '{}';
    run     record;
BEGIN
    FOR run IN SELECT r.slice, r.first, r.last FROM bigbrotr.runs_of(p_created_ats) AS r LOOP
        unknown := unknown || ARRAY(
            SELECT generate_series(run.first, run.last)
            EXCEPT SELECT unnest(f.places)::integer + run.first - 1
            FROM bigbrotr.numbers_of(
                p_slice => run.slice, p_created_ats => p_created_ats[run.first:run.last],
                p_ids => p_ids[run.first:run.last]) AS f ORDER BY 1);
    END LOOP;
    RETURN unknown;
END $$;
COMMENT ON FUNCTION bigbrotr.find_unknown IS
    'The positions, from 1, of those of the given events that are not archived. Arrays of one length, sorted by '
    '(created_at, id).';

CREATE OR REPLACE FUNCTION bigbrotr.proven_after(p_relay_id bigint, p_at bigint) RETURNS int8multirange
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN coalesce((SELECT range_agg(c.proven) FROM bigbrotr.coverage c
                     WHERE c.relay_id = p_relay_id AND c.filter = '' AND c.proven_at > p_at), '{}');
END $$;
COMMENT ON FUNCTION bigbrotr.proven_after IS
    'The seconds of the past of which a relay was proven complete after p_at: what it held there before then and is not '
    'known to hold, it holds no longer. Unix seconds.';
