-- Distributes the tables of a database over the workers of a Citus cluster. Optional: `bigbrotr db distribute` runs this
-- file on the coordinator, after undistributed.sql and the schema; whoever brings a distributed database to another
-- release runs it as well, after the schema. It may be run again.
-- Every table of the schema stands in the list below once; a test sees to it.

-- Keys that lead to reference tables are made within this transaction: over one connection a worker.
SET LOCAL citus.multi_shard_modify_mode = 'sequential';

DO $$
DECLARE
    family  record;
    routine record;
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
        (40, 'service_data',    'ordinary',    NULL,       NULL),
        (41, 'slices',          'ordinary',    NULL,       NULL)
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
        ELSIF NOT EXISTS (SELECT FROM pg_catalog.pg_dist_partition p
                          WHERE p.logicalrelid = format('bigbrotr.%I', family.name)::regclass) THEN
            PERFORM citus_add_local_table_to_metadata(format('bigbrotr.%I', family.name)::regclass);
        END IF;
    END LOOP;

    -- Workers compute with these, in what people ask as well.
    FOR routine IN
        SELECT p.oid::regprocedure::text AS name FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = 'bigbrotr'::regnamespace AND p.proname IN (
            'slice_of', 'slice_start', 'slice_end', 'pack_seen', 'unpack_seen', 'tag_values', 'tag_hash')
    LOOP
        PERFORM create_distributed_function(routine.name);
    END LOOP;

    -- What touches one slice runs where the slice lies. Its plan, and the plan of the call, are made for that slice.
    FOR routine IN
        SELECT p.oid::regprocedure::text AS name,
               coalesce(p.proconfig @> '{plan_cache_mode=force_generic_plan}', false) AS is_generic
        FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = 'bigbrotr'::regnamespace AND p.proargnames[1] = 'p_slice' AND p.pronargs > 1
    LOOP
        IF routine.is_generic THEN
            EXECUTE format('ALTER FUNCTION %s SET plan_cache_mode = auto', routine.name);
        END IF;
        PERFORM create_distributed_function(
            routine.name, 'p_slice', colocate_with => 'bigbrotr.events_stored', force_delegation => true);
    END LOOP;
    FOR routine IN
        SELECT p.oid::regprocedure::text AS name FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = 'bigbrotr'::regnamespace AND p.proargnames[1] IS DISTINCT FROM 'p_slice'
          AND p.prosrc ~ 'p_slice =>'
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET plan_cache_mode = force_custom_plan', routine.name);
    END LOOP;
END $$;
