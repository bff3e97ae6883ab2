-- Distributes an initialised database, empty or not, over the workers of a Citus cluster. Optional: no start runs this
-- file; `bigbrotr db distribute` does, on the coordinator, after the schema and in one transaction. It may be run again.
-- Every table of the schema stands in the list below once; a test sees to it.

-- Keys that lead to reference tables are made within this transaction: over one connection a worker.
SET LOCAL citus.multi_shard_modify_mode = 'sequential';

DO $$
DECLARE
    family record;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_dist_node WHERE groupid = 0) THEN
        RAISE EXCEPTION 'the coordinator is no part of the cluster yet: SELECT citus_set_coordinator_host(…)'
            USING ERRCODE = 'BB003';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_dist_node WHERE groupid <> 0 AND noderole = 'primary') THEN
        RAISE EXCEPTION 'the cluster has no workers yet: SELECT citus_add_node(…)' USING ERRCODE = 'BB003';
    END IF;

    FOR family IN SELECT f.name, f.kind, f.distribution_column, f.sibling FROM (VALUES
        -- Small, and joined with everything: a copy on each machine. First, since others refer to them, and since a
        -- transaction that writes them writes them first. Nothing in them changes often.
        (1,  'relays',           'reference',   NULL,       NULL),
        (2,  'metadata',         'reference',   NULL,       NULL),
        -- The archive: by the week of created_at, so that all that is known of an event lies on one machine, and so does
        -- nearly all of a page.
        (3,  'events_stored',    'distributed', 'slice',    NULL),
        (4,  'presence',         'distributed', 'slice',    'events_stored'),
        (5,  'events_raw',       'distributed', 'slice',    'events_stored'),
        (6,  'dropped',          'distributed', 'slice',    'events_stored'),
        -- On the coordinator, known to Citus because their keys lead to reference tables: claims and leases
        -- (SKIP LOCKED would wait on a reference table), what is written at every page, and series by relay.
        (10, 'visits',           'local',       NULL,       NULL),
        (11, 'checks',           'local',       NULL,       NULL),
        (12, 'candidates',       'local',       NULL,       NULL),
        (13, 'coverage',         'local',       NULL,       NULL),
        (14, 'gaps',             'local',       NULL,       NULL),
        (15, 'reconciliation',   'local',       NULL,       NULL),
        (16, 'digests',          'local',       NULL,       NULL),
        (17, 'withheld',         'local',       NULL,       NULL),
        (18, 'rejected',         'local',       NULL,       NULL),
        (19, 'snapshots',        'local',       NULL,       NULL),
        (20, 'snapshots_latest', 'local',       NULL,       NULL),
        (21, 'metadata_raw',     'local',       NULL,       NULL),
        (22, 'rtts',             'local',       NULL,       NULL),
        -- On the coordinator, and nothing to Citus.
        (30, 'ledger',           'ordinary',    NULL,       NULL),
        (31, 'schema_lock',     'ordinary',    NULL,       NULL),
        (32, 'ingest_lock',     'ordinary',    NULL,       NULL),
        (33, 'candidates_lock', 'ordinary',    NULL,       NULL),
        (34, 'presence_lock',   'ordinary',    NULL,       NULL),
        (35, 'tombstones',      'ordinary',    NULL,       NULL),
        (36, 'mentions',        'ordinary',    NULL,       NULL),
        (37, 'tallies',         'ordinary',    NULL,       NULL),
        (38, 'outbox',          'ordinary',    NULL,       NULL),
        (39, 'deliveries',      'ordinary',    NULL,       NULL),
        (40, 'service_data',    'ordinary',    NULL,       NULL)
    ) AS f (turn, name, kind, distribution_column, sibling)
    WHERE f.kind <> 'ordinary' AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_dist_partition p
        WHERE p.logicalrelid = format('bigbrotr.%I', f.name)::regclass AND f.kind = CASE
            WHEN p.partmethod = 'h' THEN 'distributed' WHEN p.repmodel = 't' THEN 'reference' ELSE 'local' END)
    ORDER BY f.turn
    LOOP
        IF family.kind = 'reference' THEN
            -- Tables whose keys lead here become known to Citus, too: those that are distributed further down do for a
            -- moment only.
            PERFORM create_reference_table(format('bigbrotr.%I', family.name)::regclass);
        ELSIF family.kind = 'distributed' THEN
            PERFORM create_distributed_table(
                format('bigbrotr.%I', family.name)::regclass, family.distribution_column,
                colocate_with => coalesce('bigbrotr.' || family.sibling, 'none'));
            -- What has moved to the workers is still on the coordinator's disk. Only here, where no other table's key
            -- leads to: this truncates those as well.
            PERFORM truncate_local_data_after_distributing_table(format('bigbrotr.%I', family.name)::regclass);
        ELSIF NOT EXISTS (SELECT FROM pg_catalog.pg_dist_partition p
                          WHERE p.logicalrelid = format('bigbrotr.%I', family.name)::regclass) THEN
            PERFORM citus_add_local_table_to_metadata(format('bigbrotr.%I', family.name)::regclass);
        END IF;
    END LOOP;

    -- Workers compute with these.
    PERFORM create_distributed_function('bigbrotr.pack_seen(bigint)');
    PERFORM create_distributed_function('bigbrotr.unpack_seen(integer)');
END $$;
