-- Clears the way for distributed.sql in a database whose tables are partitioned: moves the tables of events aside, with all
-- that is in them, and makes empty ones without partitions. `bigbrotr db distribute` runs this file, then the files of the
-- schema, which make the indexes and lead views to the new tables, then distributed.sql, in one transaction.
-- Afterwards it moves the events slice by slice, and drops what stands aside.

DO $$
DECLARE
    name text;
    key  record;
BEGIN
    FOREACH name IN ARRAY ARRAY['events_stored', 'presence', 'events_raw', 'dropped', 'hidden', 'search', 'imported'] LOOP
        -- Indexes are of no use to those who move a whole week; but the key finds it.
        FOR key IN
            SELECT i.indexrelid::regclass AS place, c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
            WHERE i.indrelid = format('bigbrotr.%I', name)::regclass AND NOT i.indisprimary
        LOOP
            EXECUTE format('DROP INDEX %s', key.place);
        END LOOP;
        FOR key IN
            SELECT c.conname, c.contype FROM pg_constraint c
            WHERE c.conrelid = format('bigbrotr.%I', name)::regclass AND c.contype IN ('f', 'p') AND c.conparentid = 0
        LOOP
            IF key.contype = 'f' THEN
                EXECUTE format('ALTER TABLE bigbrotr.%I DROP CONSTRAINT %I', name, key.conname);
            ELSE
                EXECUTE format('ALTER TABLE bigbrotr.%I RENAME CONSTRAINT %I TO %I',
                               name, key.conname, key.conname || '_undistributed');
            END IF;
        END LOOP;
        EXECUTE format('ALTER TABLE bigbrotr.%I RENAME TO %I', name, name || '_undistributed');
    END LOOP;
END $$;

-- What is unique on a cluster contains what it is distributed by. No key leads from there to a table of the coordinator:
-- see distributed.sql.
CREATE TABLE bigbrotr.events_stored (
    LIKE bigbrotr.events_stored_undistributed
        INCLUDING COMMENTS INCLUDING COMPRESSION INCLUDING CONSTRAINTS INCLUDING STORAGE,
    PRIMARY KEY (created_at, id, slice)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.1);
CREATE TABLE bigbrotr.presence (
    LIKE bigbrotr.presence_undistributed INCLUDING COMMENTS INCLUDING STORAGE,
    PRIMARY KEY (slice, chunk, relay_id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.1);
CREATE TABLE bigbrotr.events_raw (
    LIKE bigbrotr.events_raw_undistributed INCLUDING COMMENTS INCLUDING STORAGE,
    PRIMARY KEY (event_id, slice)
);
CREATE TABLE bigbrotr.dropped (
    LIKE bigbrotr.dropped_undistributed INCLUDING COMMENTS INCLUDING STORAGE,
    PRIMARY KEY (created_at, slice, event_id, relay_id)
);
CREATE TABLE bigbrotr.hidden (
    LIKE bigbrotr.hidden_undistributed INCLUDING COMMENTS INCLUDING STORAGE,
    PRIMARY KEY (created_at, slice, id) INCLUDE (why, expires_at)
);
CREATE TABLE bigbrotr.search (
    LIKE bigbrotr.search_undistributed INCLUDING COMMENTS INCLUDING STORAGE,
    PRIMARY KEY (created_at, slice, id)
);
CREATE TABLE bigbrotr.imported (
    LIKE bigbrotr.imported_undistributed INCLUDING COMMENTS INCLUDING STORAGE,
    PRIMARY KEY (slice, chunk, import_id)
);

-- Stands as long as not all is moved.
CREATE TABLE bigbrotr.slices_moved (
    slice integer NOT NULL PRIMARY KEY
);
COMMENT ON TABLE bigbrotr.slices_moved IS 'The slices that `db distribute` has moved to the cluster. Only while it is unfinished.';
COMMENT ON COLUMN bigbrotr.slices_moved.slice IS 'Week of created_at, see slice_of.';
