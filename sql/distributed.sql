-- Distributes the tables of a database over the workers of a Citus cluster. Optional: `bigbrotr db distribute` runs this
-- file on the coordinator, after undistributed.sql and the schema; whoever brings a distributed database to another
-- release runs it as well, after the schema. It may be run again.
-- Every table of the schema stands in the list below once; a test sees to it.

-- All of it over one connection a worker: otherwise functions could not follow the tables within one transaction.
SET LOCAL citus.multi_shard_modify_mode = 'sequential';

DO $$
DECLARE
    family  record;
    routine record;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_dist_node WHERE groupid <> 0 AND noderole = 'primary') THEN
        RAISE EXCEPTION 'the cluster has no workers yet: SELECT citus_add_node(…)' USING ERRCODE = 'BB003';
    END IF;

    FOR family IN SELECT f.name, f.distribution_column, f.sibling FROM (VALUES
        -- The archive: by the week of created_at, so that all that is known of an event lies on one machine, and so does
        -- nearly all of a page.
        ('events_stored',    'distributed', 'slice', NULL),
        ('presence',         'distributed', 'slice', 'events_stored'),
        ('events_raw',       'distributed', 'slice', 'events_stored'),
        ('dropped',          'distributed', 'slice', 'events_stored'),
        -- On the coordinator, and nothing to Citus.
        ('ledger',           'ordinary',    NULL,    NULL),
        ('schema_lock',      'ordinary',    NULL,    NULL),
        ('ingest_lock',      'ordinary',    NULL,    NULL),
        ('candidates_lock',  'ordinary',    NULL,    NULL),
        ('presence_lock',    'ordinary',    NULL,    NULL),
        ('relays',           'ordinary',    NULL,    NULL),
        ('visits',           'ordinary',    NULL,    NULL),
        ('checks',           'ordinary',    NULL,    NULL),
        ('candidates',       'ordinary',    NULL,    NULL),
        ('tombstones',       'ordinary',    NULL,    NULL),
        ('mentions',         'ordinary',    NULL,    NULL),
        ('slices',           'ordinary',    NULL,    NULL),
        ('coverage',         'ordinary',    NULL,    NULL),
        ('gaps',             'ordinary',    NULL,    NULL),
        ('reconciliation',   'ordinary',    NULL,    NULL),
        ('digests',          'ordinary',    NULL,    NULL),
        ('withheld',         'ordinary',    NULL,    NULL),
        ('rejected',         'ordinary',    NULL,    NULL),
        ('metadata',         'ordinary',    NULL,    NULL),
        ('metadata_raw',     'ordinary',    NULL,    NULL),
        ('snapshots',        'ordinary',    NULL,    NULL),
        ('snapshots_latest', 'ordinary',    NULL,    NULL),
        ('rtts',             'ordinary',    NULL,    NULL),
        ('tallies',          'ordinary',    NULL,    NULL),
        ('outbox',           'ordinary',    NULL,    NULL),
        ('deliveries',       'ordinary',    NULL,    NULL),
        ('service_data',     'ordinary',    NULL,    NULL),
        ('statistics_lock',  'ordinary',    NULL,    NULL),
        ('dirty_days',       'ordinary',    NULL,    NULL),
        ('day_totals',       'ordinary',    NULL,    NULL),
        ('day_kinds',        'ordinary',    NULL,    NULL),
        ('day_relays',       'ordinary',    NULL,    NULL),
        ('day_networks',     'ordinary',    NULL,    NULL),
        ('authors',          'ordinary',    NULL,    NULL)
    ) AS f (name, kind, distribution_column, sibling)
    WHERE f.kind = 'distributed' AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_dist_partition p WHERE p.logicalrelid = format('bigbrotr.%I', f.name)::regclass)
    LOOP
        PERFORM create_distributed_table(
            format('bigbrotr.%I', family.name)::regclass, family.distribution_column,
            colocate_with => coalesce('bigbrotr.' || family.sibling, 'none'));
    END LOOP;

    -- Workers compute with these, in what people ask as well.
    FOR routine IN
        SELECT p.oid::regprocedure AS name FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = 'bigbrotr'::regnamespace AND p.proname IN (
            'slice_of', 'slice_start', 'slice_end', 'pack_seen', 'unpack_seen', 'tag_values', 'tag_hash')
    LOOP
        PERFORM create_distributed_function(routine.name);
    END LOOP;

    -- What touches one slice runs where the slice lies. Its plan, and the plan of the call, are made for that slice.
    FOR routine IN
        SELECT p.oid::regprocedure AS name,
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
        SELECT p.oid::regprocedure AS name FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = 'bigbrotr'::regnamespace AND p.proargnames[1] IS DISTINCT FROM 'p_slice'
          AND p.prosrc ~ 'p_slice =>'
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET plan_cache_mode = force_custom_plan', routine.name);
    END LOOP;

    -- Citus looks at each row of pg_class that a session reads, to hide shards: half a second for each new connection of
    -- ours. There are no shards on the coordinator.
    SET LOCAL citus.enable_ddl_propagation = off;
    EXECUTE format('ALTER DATABASE %I SET citus.override_table_visibility = off', current_database());
END $$;

-- Instead of the keys that lead from the tables of events to relays. A writer holds the lease until it commits, and a
-- relay goes only with its lease.
CREATE OR REPLACE FUNCTION bigbrotr.forget_relays() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM bigbrotr.presence WHERE relay_id = OLD.id;
    DELETE FROM bigbrotr.dropped WHERE relay_id = OLD.id;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION bigbrotr.forget_relays IS 'Deletes, on a cluster, what a deleted relay was known to hold.';
CREATE OR REPLACE TRIGGER z_forget_relays AFTER DELETE ON bigbrotr.relays
FOR EACH ROW EXECUTE FUNCTION bigbrotr.forget_relays();

-- What is written in SQL with parameters, Citus cannot plan.
CREATE OR REPLACE FUNCTION bigbrotr.events_tagged(p_letter text, p_values text[]) RETURNS SETOF bigbrotr.events
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    hashes integer[] := ARRAY(SELECT bigbrotr.tag_hash(p_letter || ':' || v) FROM unnest(p_values) AS v);
BEGIN
    RETURN QUERY
    SELECT e.id, e.pubkey, e.created_at, e.kind, e.tags::jsonb, bigbrotr.tag_values(e.tags::jsonb), e.content, e.sig
    FROM bigbrotr.events_stored e
    WHERE e.tag_hashes && hashes
      AND EXISTS (SELECT FROM jsonb_array_elements(e.tags::jsonb) AS t (tag)
                  WHERE t.tag ->> 0 = p_letter AND t.tag ->> 1 = ANY (p_values));
END $$;
