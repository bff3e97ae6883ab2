-- Distributes the tables of a database over the workers of a Citus cluster. Optional: `bigbrotr db distribute` runs this
-- file on the coordinator, after undistributed.sql and the schema; whoever brings a distributed database to another
-- release runs it as well, after the schema. It may be run again.
-- Every table of the schema stands in the list below once; a test sees to it.

-- A machine plans anew each time what joins. So this asks in one statement, wherever it is called.
CREATE OR REPLACE FUNCTION bigbrotr.numbers_of(
    p_slice integer, p_created_ats bigint[], p_ids bytea[], OUT places bigint[], OUT nums bigint[]
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    SELECT coalesce(array_agg(u.position ORDER BY u.position), '{}'), coalesce(array_agg(f.num ORDER BY u.position), '{}')
    INTO places, nums
    FROM unnest(p_created_ats, p_ids) WITH ORDINALITY AS u (created_at, id, position)
    CROSS JOIN LATERAL (
        SELECT e.num FROM bigbrotr.events_stored e
        WHERE e.slice = p_slice AND e.created_at = u.created_at AND e.id = u.id OFFSET 0
    ) AS f;
END $$;

-- To look for events, a machine is asked by a query: half of what it costs to have it call a function that asks itself. Ids
-- go there as one value: their array takes five times as long to write and to read.
CREATE OR REPLACE FUNCTION bigbrotr.note_presence(
    p_relay_id integer, p_epoch bigint, p_created_ats bigint[], p_ids bytea[], p_seen_at bigint
) RETURNS integer[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    holder  integer := (SELECT r.id FROM bigbrotr.relays r WHERE r.id = p_relay_id);  -- NULL: deleted meanwhile
    seen    integer := bigbrotr.pack_seen(p_seen_at);
    unknown integer[] := '{}';
    noted   integer := 0;
    run     record;
    times   bigint[];
    ids     bytea;
    known   integer[];
    nums    bigint[];
    seens   integer[];
    begun   integer;
BEGIN
    -- An orphan may not go between the look at it and the note.
    LOCK TABLE bigbrotr.presence_lock IN ROW EXCLUSIVE MODE;
    FOR run IN SELECT r.slice, r.first, r.last FROM bigbrotr.runs_of(p_created_ats) AS r LOOP
        times := p_created_ats[run.first:run.last];
        ids := (SELECT string_agg(u.id, '') FROM unnest(p_ids[run.first:run.last]) AS u (id));
        SELECT array_agg(u.position::integer), array_agg(f.num) INTO known, nums
        FROM unnest(times) WITH ORDINALITY AS u (created_at, position)
        CROSS JOIN LATERAL (
            SELECT e.num FROM bigbrotr.events_stored e
            WHERE e.slice = run.slice AND e.created_at = u.created_at
              AND e.id = substring(ids FROM (32 * u.position - 31)::integer FOR 32) OFFSET 0
        ) AS f;
        IF nums IS NULL THEN
            unknown := unknown || ARRAY(SELECT generate_series(run.first, run.last));
            CONTINUE;
        END IF;
        seens := array_fill(seen, ARRAY[cardinality(nums)]);
        SELECT w.begun INTO begun
        FROM bigbrotr.write_pairs(
            p_slice => run.slice, p_relay_id => holder, p_nums => nums, p_seen_ats => seens) AS w (begun);
        noted := noted + begun;
        IF cardinality(known) <= run.last - run.first THEN
            unknown := unknown || ARRAY(
                SELECT generate_series(run.first, run.last)
                EXCEPT SELECT k.position + run.first - 1 FROM unnest(known) AS k (position) ORDER BY 1);
        END IF;
    END LOOP;
    IF noted > 0 THEN
        PERFORM bigbrotr.count_pairs(
            p_relay_id => p_relay_id, p_pairs => noted,
            p_since => p_created_ats[1], p_last => p_created_ats[cardinality(p_created_ats)]);
        PERFORM bigbrotr.hold_lease(p_relay_id, p_epoch);
    END IF;
    PERFORM bigbrotr.note_days(p_created_ats, noted);
    RETURN unknown;
END $$;

DO $$
DECLARE
    family  record;
    routine record;
    place   record;
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
        ('hidden',           'distributed', 'slice', 'events_stored'),
        ('search',           'distributed', 'slice', 'events_stored'),
        ('imported',         'distributed', 'slice', 'events_stored'),
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
        ('imported_coverage', 'ordinary',   NULL,    NULL),
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
        ('changes',          'ordinary',    NULL,    NULL),
        ('changes_log',      'ordinary',    NULL,    NULL),
        ('witnesses_lock',   'ordinary',    NULL,    NULL),
        ('witnesses',        'ordinary',    NULL,    NULL),
        ('witness_words',    'ordinary',    NULL,    NULL),
        ('witness_state',    'ordinary',    NULL,    NULL),
        ('rank_facts',       'ordinary',    NULL,    NULL),
        ('rank_authors',     'ordinary',    NULL,    NULL),
        ('rank_subjects',    'ordinary',    NULL,    NULL),
        ('ranks',            'ordinary',    NULL,    NULL),
        ('rank_state',       'ordinary',    NULL,    NULL),
        ('rank_published',   'ordinary',    NULL,    NULL),
        ('operator_names',   'ordinary',    NULL,    NULL),
        ('operator_documents', 'ordinary',  NULL,    NULL),
        ('operator_tests',   'ordinary',    NULL,    NULL),
        ('operator_evidence', 'ordinary',   NULL,    NULL),
        ('operators',        'ordinary',    NULL,    NULL),
        ('operator_state',   'ordinary',    NULL,    NULL),
        ('alerts_told',      'ordinary',    NULL,    NULL),
        ('alerts',           'ordinary',    NULL,    NULL),
        ('rescue_targets',   'ordinary',    NULL,    NULL),
        ('rescues',          'ordinary',    NULL,    NULL),
        ('completeness_state', 'ordinary',  NULL,    NULL),
        ('sampled_references', 'ordinary',  NULL,    NULL),
        ('reference_sums',   'ordinary',    NULL,    NULL),
        ('missing_events',   'ordinary',    NULL,    NULL),
        ('statistics_lock',  'ordinary',    NULL,    NULL),
        ('arrivals',         'ordinary',    NULL,    NULL),
        ('arrivals_pruned',  'ordinary',    NULL,    NULL),
        ('rejudged',         'ordinary',    NULL,    NULL),
        ('search_state',     'ordinary',    NULL,    NULL),
        ('dirty_days',       'ordinary',    NULL,    NULL),
        ('day_totals',       'ordinary',    NULL,    NULL),
        ('day_kinds',        'ordinary',    NULL,    NULL),
        ('day_relays',       'ordinary',    NULL,    NULL),
        ('relay_sums',       'ordinary',    NULL,    NULL),
        ('day_networks',     'ordinary',    NULL,    NULL),
        ('day_scarce',       'ordinary',    NULL,    NULL),
        ('scarce',           'ordinary',    NULL,    NULL),
        ('author_lists',     'ordinary',    NULL,    NULL),
        ('month_moves',      'ordinary',    NULL,    NULL),
        ('listed_relays',    'ordinary',    NULL,    NULL),
        ('day_checks',       'ordinary',    NULL,    NULL),
        ('authors',          'ordinary',    NULL,    NULL),
        ('compliance_days',  'ordinary',    NULL,    NULL),
        ('day_compliance',   'ordinary',    NULL,    NULL),
        ('policy_lock',      'ordinary',    NULL,    NULL),
        ('policy_state',     'ordinary',    NULL,    NULL),
        ('deletions',        'ordinary',    NULL,    NULL),
        ('vanished',         'ordinary',    NULL,    NULL),
        ('vanished_from',    'ordinary',    NULL,    NULL),
        ('addresses',        'ordinary',    NULL,    NULL),
        ('takedowns',        'ordinary',    NULL,    NULL),
        ('reviews',          'ordinary',    NULL,    NULL),
        ('departures',       'ordinary',    NULL,    NULL),
        ('erased_slices',    'ordinary',    NULL,    NULL),
        ('imports',          'ordinary',    NULL,    NULL)
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
            'slice_of', 'slice_start', 'slice_end', 'pack_seen', 'unpack_seen', 'tag_values', 'tag_hash', 'has_hashes',
            'telling_tags', 'listed_url')
    LOOP
        PERFORM create_distributed_function(routine.name);
    END LOOP;

    -- What touches one slice runs where the slice lies. Its plan, and the plan of the call, are made for that slice. So is
    -- that of whatever asks several at once: which shards are asked, a plan for all values cannot say.
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
          AND (p.prosrc ~ 'p_slice =>' OR p.proconfig @> '{plan_cache_mode=force_generic_plan}')
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET plan_cache_mode = force_custom_plan', routine.name);
    END LOOP;

    -- What workers are asked in our name names functions of pg_catalog without its name: nothing of another schema may be
    -- meant. Where people find the archive by bare names is a matter of the coordinator.
    FOR place IN
        SELECT w.nodename, w.result FROM run_command_on_workers(
            'DO $x$ BEGIN SET LOCAL citus.enable_ddl_propagation = off; '
            || format('ALTER DATABASE %I SET search_path = pg_catalog; END $x$', current_database())) AS w
        WHERE NOT w.success
    LOOP
        RAISE EXCEPTION 'the worker % lets no search path be set: %', place.nodename, place.result USING ERRCODE = 'BB003';
    END LOOP;
    ALTER FUNCTION bigbrotr.set_search_path SET citus.enable_ddl_propagation = off;

    -- Citus looks at each row of pg_class that a session reads, to hide shards: half a second for each new connection of
    -- ours. There are no shards on the coordinator.
    SET LOCAL citus.enable_ddl_propagation = off;
    EXECUTE format('ALTER DATABASE %I SET citus.override_table_visibility = off', current_database());
END $$;

-- Pages, API and relay take the role of the reader on; the coordinator asks the workers in its name, so that it has to log in
-- there. That needs a way in as well, which is a matter of each worker's pg_hba.conf.
CREATE OR REPLACE FUNCTION bigbrotr.admit_reader() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    place record;
BEGIN
    IF to_regrole('bigbrotr_reader') IS NULL THEN
        RETURN;
    END IF;
    FOR place IN
        SELECT w.nodename, w.nodeport, w.result FROM run_command_on_workers(
            'DO $x$ BEGIN SET LOCAL citus.enable_ddl_propagation = off; '
            'IF to_regrole(''bigbrotr_reader'') IS NULL THEN CREATE ROLE bigbrotr_reader NOLOGIN; END IF; '
            'IF NOT (SELECT r.rolcanlogin FROM pg_roles r WHERE r.rolname = ''bigbrotr_reader'') THEN '
            'ALTER ROLE bigbrotr_reader LOGIN; END IF; END $x$') AS w
        WHERE NOT w.success
    LOOP
        RAISE EXCEPTION 'the worker %:% lets bigbrotr_reader not log in: %', place.nodename, place.nodeport, place.result
            USING ERRCODE = 'BB003', HINT = 'ALTER ROLE bigbrotr_reader LOGIN on each worker, by who may';
    END LOOP;
END $$;
COMMENT ON FUNCTION bigbrotr.admit_reader IS
    'Lets the role bigbrotr_reader, where there is one, log in to the workers of a cluster. Idempotent.';

DO $$ BEGIN
    PERFORM bigbrotr.admit_reader();
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

-- A slice is to a cluster what a partition is to one server: whoever looks for events asks one after the other.
CREATE OR REPLACE FUNCTION bigbrotr.events_statistics()
RETURNS TABLE (
    lower_at bigint, upper_at bigint, row_count double precision, kinds integer[], kind_shares real[],
    pubkeys bytea[], pubkey_shares real[], authors double precision, hashes integer[], hash_shares real[]
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    mean double precision := (SELECT sum(t.events) FROM bigbrotr.tallies t)
        / greatest((SELECT count(DISTINCT s.slice) FROM bigbrotr.slices s), 1);
BEGIN
    RETURN QUERY
    SELECT bigbrotr.slice_start(s.slice), bigbrotr.slice_end(s.slice), mean, NULL::integer[], NULL::real[],
           NULL::bytea[], NULL::real[], NULL::double precision, NULL::integer[], NULL::real[]
    FROM bigbrotr.slices s GROUP BY s.slice ORDER BY s.slice DESC;
END $$;

CREATE OR REPLACE FUNCTION bigbrotr.find_by_ids(
    p_ids bytea[], p_since bigint, p_until bigint, p_after_at bigint, p_after_id bytea, p_kinds integer[],
    p_pubkeys bytea[], p_hashes integer[], p_more text[], p_limit integer, p_view text, p_now bigint
) RETURNS TABLE (created_at bigint, id bytea)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    view_hides record;
BEGIN
    SELECT v.hides, v.expired_by INTO view_hides FROM bigbrotr.view_hides(p_view, p_now) AS v;
    RETURN QUERY
    SELECT x.created_at, x.id
    FROM unnest(p_ids) AS u (id) JOIN bigbrotr.events_stored x ON x.id = u.id
    WHERE x.created_at >= p_since AND x.created_at <= p_until
      AND (p_kinds IS NULL OR x.kind = ANY (p_kinds)) AND (p_pubkeys IS NULL OR x.pubkey = ANY (p_pubkeys))
      AND (p_hashes IS NULL OR x.tag_hashes && p_hashes)
      AND (p_more IS NULL OR bigbrotr.has_hashes(x.tag_hashes, p_more))
      AND NOT EXISTS (SELECT FROM bigbrotr.hidden h
                      WHERE h.slice = x.slice AND h.created_at = x.created_at AND h.id = x.id
                        AND (h.why & view_hides.hides <> 0 OR h.expires_at <= view_hides.expired_by))
      AND (p_after_at IS NULL OR x.created_at < p_after_at OR (x.created_at = p_after_at AND x.id > p_after_id))
    ORDER BY x.created_at DESC, x.id LIMIT p_limit;
END $$;

-- Citus does not look for one value after the other; within a week they may be looked for at once.
CREATE OR REPLACE FUNCTION bigbrotr.find_by_pubkeys(
    p_since bigint, p_until bigint, p_after_at bigint, p_after_id bytea, p_kinds integer[], p_pubkeys bytea[],
    p_hashes integer[], p_more text[], p_limit integer, p_hides integer, p_expired_by bigint
) RETURNS TABLE (created_at bigint, id bytea)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET plan_cache_mode = force_custom_plan
AS $$
BEGIN
    RETURN QUERY
    SELECT x.created_at, x.id FROM bigbrotr.events_stored x
    WHERE x.pubkey = ANY (p_pubkeys) AND x.created_at >= p_since AND x.created_at <= p_until
      AND (bigbrotr.slice_of(p_since) <> bigbrotr.slice_of(p_until) OR x.slice = bigbrotr.slice_of(p_since))
      AND (p_after_at IS NULL OR x.created_at < p_after_at OR (x.created_at = p_after_at AND x.id > p_after_id))
      AND (p_kinds IS NULL OR x.kind + 0 = ANY (p_kinds))
      AND (p_hashes IS NULL OR x.tag_hashes && p_hashes)
      AND (p_more IS NULL OR bigbrotr.has_hashes(x.tag_hashes, p_more))
      AND NOT EXISTS (SELECT FROM bigbrotr.hidden h
                      WHERE h.slice = x.slice AND h.created_at = x.created_at AND h.id = x.id
                        AND (h.why & p_hides <> 0 OR h.expires_at <= p_expired_by))
    ORDER BY x.created_at DESC, x.id LIMIT p_limit;
END $$;

CREATE OR REPLACE FUNCTION bigbrotr.find_by_kinds(
    p_since bigint, p_until bigint, p_after_at bigint, p_after_id bytea, p_kinds integer[], p_pubkeys bytea[],
    p_hashes integer[], p_more text[], p_limit integer, p_hides integer, p_expired_by bigint
) RETURNS TABLE (created_at bigint, id bytea)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET plan_cache_mode = force_custom_plan
AS $$
BEGIN
    RETURN QUERY
    SELECT x.created_at, x.id FROM bigbrotr.events_stored x
    WHERE x.kind = ANY (p_kinds) AND x.created_at >= p_since AND x.created_at <= p_until
      AND (bigbrotr.slice_of(p_since) <> bigbrotr.slice_of(p_until) OR x.slice = bigbrotr.slice_of(p_since))
      AND (p_after_at IS NULL OR x.created_at < p_after_at OR (x.created_at = p_after_at AND x.id > p_after_id))
      AND (p_pubkeys IS NULL OR x.pubkey || '' = ANY (p_pubkeys))
      AND (p_hashes IS NULL OR x.tag_hashes && p_hashes)
      AND (p_more IS NULL OR bigbrotr.has_hashes(x.tag_hashes, p_more))
      AND NOT EXISTS (SELECT FROM bigbrotr.hidden h
                      WHERE h.slice = x.slice AND h.created_at = x.created_at AND h.id = x.id
                        AND (h.why & p_hides <> 0 OR h.expires_at <= p_expired_by))
    ORDER BY x.created_at DESC, x.id LIMIT p_limit;
END $$;

CREATE OR REPLACE FUNCTION bigbrotr.read_by_words(
    p_tokens integer[], p_since bigint, p_until bigint, p_after_at bigint, p_after_id bytea, p_kinds integer[],
    p_pubkeys bytea[], p_hashes integer[], p_more text[], p_limit integer, p_most_bytes bigint, p_view text, p_now bigint
) RETURNS TABLE (
    created_at bigint, id bytea, pubkey bytea, kind integer, tags text, content text, sig bytea, raw bytea, num bigint
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET jit = off SET enable_seqscan = off SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    shown     record;
    found_ats bigint[];
    found_ids bytea[];
BEGIN
    SELECT v.hides, v.expired_by INTO shown FROM bigbrotr.view_hides(p_view, p_now) AS v;
    SELECT array_agg(x.created_at ORDER BY x.created_at DESC, x.id), array_agg(x.id ORDER BY x.created_at DESC, x.id)
    INTO found_ats, found_ids
    FROM (
        SELECT s.created_at, s.id FROM bigbrotr.search s
        JOIN bigbrotr.events_stored e ON e.slice = s.slice AND e.created_at = s.created_at AND e.id = s.id
        WHERE (cardinality(p_tokens) = 0 OR s.tokens @> p_tokens)
          AND s.created_at >= p_since AND s.created_at <= p_until AND s.kind = ANY (p_kinds)
          AND (p_after_at IS NULL OR s.created_at < p_after_at OR (s.created_at = p_after_at AND s.id > p_after_id))
          AND (p_pubkeys IS NULL OR e.pubkey = ANY (p_pubkeys))
          AND (p_hashes IS NULL OR e.tag_hashes && p_hashes)
          AND (p_more IS NULL OR bigbrotr.has_hashes(e.tag_hashes, p_more))
          AND NOT EXISTS (SELECT FROM bigbrotr.hidden h
                          WHERE h.slice = e.slice AND h.created_at = e.created_at AND h.id = e.id
                            AND (h.why & shown.hides <> 0 OR h.expires_at <= shown.expired_by))
        ORDER BY s.created_at DESC, s.id LIMIT p_limit
    ) AS x;
    RETURN QUERY
    SELECT r.created_at, r.id, r.pubkey, r.kind, r.tags, r.content, r.sig, r.raw, r.num
    FROM bigbrotr.read_events(p_created_ats => found_ats, p_ids => found_ids) AS r;
END $$;

-- No look at once: the caller takes the way of events_page.
CREATE OR REPLACE FUNCTION bigbrotr.event_lines(
    p_way text, p_since bigint, p_until bigint, p_after_at bigint, p_after_id bytea, p_kinds integer[], p_pubkeys bytea[],
    p_limit integer, p_examine integer, p_most_bytes bigint, p_view text, p_now bigint,
    OUT lines bytea, OUT number integer, OUT matches integer, OUT last_at bigint, OUT last_id bytea, OUT is_raw boolean
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
END $$;

CREATE OR REPLACE FUNCTION bigbrotr.read_events(p_created_ats bigint[], p_ids bytea[])
RETURNS TABLE (
    created_at bigint, id bytea, pubkey bytea, kind integer, tags text, content text, sig bytea, raw bytea, num bigint
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    part integer;
BEGIN
    FOR part IN
        SELECT bigbrotr.slice_of(t.created_at) FROM unnest(p_created_ats) WITH ORDINALITY AS t (created_at, position)
        GROUP BY 1 ORDER BY min(t.position)
    LOOP
        RETURN QUERY
        SELECT e.created_at, e.id, e.pubkey, e.kind, e.tags, e.content, e.sig, w.raw, e.num
        FROM unnest(p_created_ats, p_ids) WITH ORDINALITY AS u (created_at, id, position)
        JOIN bigbrotr.events_stored e ON e.created_at = u.created_at AND e.id = u.id AND e.slice = part
        LEFT JOIN bigbrotr.events_raw w ON w.event_id = e.id AND w.slice = e.slice AND w.slice = part
        ORDER BY u.position;
    END LOOP;
END $$;

-- A cluster finds events slice by slice, and then reads them.
CREATE OR REPLACE FUNCTION bigbrotr.read_in_order(
    p_way text, p_since bigint, p_until bigint, p_after_at bigint, p_after_id bytea, p_kinds integer[], p_pubkeys bytea[],
    p_hashes integer[], p_more text[], p_limit integer, p_examine integer, p_most_bytes bigint,
    p_view text, p_now bigint
) RETURNS TABLE (
    created_at bigint, id bytea, pubkey bytea, kind integer, tags text, content text, sig bytea, raw bytea, num bigint,
    examined integer, last_at bigint, last_id bytea
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- The last row of events_page tells of a walk: it is one here where the walk has ended early.
    RETURN QUERY
    SELECT r.created_at, CASE WHEN r.matches IS NULL THEN r.id END, r.pubkey, r.kind, r.tags, r.content, r.sig, r.raw,
           r.num, r.examined, r.last_at, r.last_id
    FROM bigbrotr.events_page(
        p_way => p_way, p_since => p_since, p_until => p_until, p_after_at => p_after_at, p_after_id => p_after_id,
        p_kinds => p_kinds, p_pubkeys => p_pubkeys, p_hashes => p_hashes, p_more => p_more, p_limit => p_limit,
        p_examine => p_examine, p_read => true, p_most_bytes => p_most_bytes,
        p_view => p_view, p_now => p_now) AS r
    WHERE r.matches IS NULL OR (r.examined >= p_examine AND r.matches < p_limit);
END $$;

CREATE OR REPLACE FUNCTION bigbrotr.read_by_tags(
    p_since bigint, p_until bigint, p_after_at bigint, p_after_id bytea, p_kinds integer[], p_pubkeys bytea[],
    p_hashes integer[], p_more text[], p_limit integer, p_most_bytes bigint,
    p_view text, p_now bigint
) RETURNS TABLE (
    created_at bigint, id bytea, pubkey bytea, kind integer, tags text, content text, sig bytea, raw bytea, num bigint
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    SELECT r.created_at, r.id, r.pubkey, r.kind, r.tags, r.content, r.sig, r.raw, r.num
    FROM bigbrotr.events_page(
        p_way => 'find_by_tags', p_since => p_since, p_until => p_until, p_after_at => p_after_at,
        p_after_id => p_after_id, p_kinds => p_kinds, p_pubkeys => p_pubkeys, p_hashes => p_hashes, p_more => p_more,
        p_limit => p_limit, p_examine => 0, p_read => true, p_most_bytes => p_most_bytes, p_view => p_view, p_now => p_now) AS r
    WHERE r.matches IS NULL;
END $$;

CREATE OR REPLACE FUNCTION bigbrotr.read_by_ids(
    p_ids bytea[], p_since bigint, p_until bigint, p_after_at bigint, p_after_id bytea, p_kinds integer[],
    p_pubkeys bytea[], p_hashes integer[], p_more text[], p_limit integer, p_most_bytes bigint,
    p_view text, p_now bigint
) RETURNS TABLE (
    created_at bigint, id bytea, pubkey bytea, kind integer, tags text, content text, sig bytea, raw bytea, num bigint
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    times bigint[];
    ids   bytea[];
BEGIN
    SELECT array_agg(f.created_at), array_agg(f.id) INTO times, ids
    FROM bigbrotr.find_by_ids(
        p_ids => p_ids, p_since => p_since, p_until => p_until, p_after_at => p_after_at, p_after_id => p_after_id,
        p_kinds => p_kinds, p_pubkeys => p_pubkeys, p_hashes => p_hashes, p_more => p_more, p_limit => p_limit,
        p_view => p_view, p_now => p_now) AS f;
    RETURN QUERY
    SELECT r.created_at, r.id, r.pubkey, r.kind, r.tags, r.content, r.sig, r.raw, r.num
    FROM bigbrotr.read_page(p_created_ats => times, p_ids => ids, p_most_bytes => p_most_bytes) AS r
    WHERE r.matches IS NULL;
END $$;
