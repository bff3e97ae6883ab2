-- Partitions: events_stored and presence by quarters of created_at, each with its weeks as a whole: a quarter begins with its
-- first slice. One more holds what claims to be from before 2021, and a default one what is far ahead.

CREATE OR REPLACE FUNCTION bigbrotr.first_slice(p_quarter timestamp) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ceil(extract(epoch FROM p_quarter) / 604800)::bigint;
COMMENT ON FUNCTION bigbrotr.first_slice IS 'The first slice that begins within a quarter of a year.';

CREATE OR REPLACE FUNCTION bigbrotr.quarter_start(p_quarter text) RETURNS timestamp
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN make_timestamp(
    substring(p_quarter FROM '^(\d{4})q[1-4]$')::integer,
    3 * substring(p_quarter FROM '^\d{4}q([1-4])$')::integer - 2, 1, 0, 0, 0);
COMMENT ON FUNCTION bigbrotr.quarter_start IS 'When a quarter begins that is named as in 2021q1; NULL if it is not.';

-- Storage settings stand on each leaf: PostgreSQL ignores those of the partitioned table. The wait for a lock is short:
-- while a reader keeps this function waiting, all writers wait behind it.
CREATE OR REPLACE FUNCTION bigbrotr.ensure_partitions(p_now bigint) RETURNS integer
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
SET lock_timeout = '3s'
AS $$
DECLARE
    family   record;
    skipped  text;  -- by ANALYZE: what it skips in the parent, which does not pass that on
    starts   timestamp;
    leaf     text;
    lower_at bigint;  -- slices
    upper_at bigint;
    made     integer := 0;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_partitioned_table t WHERE t.partrelid = 'bigbrotr.events_stored'::regclass) THEN
        RETURN 0;  -- a cluster has shards instead
    END IF;
    FOR family IN SELECT * FROM (VALUES
        -- Inserts come page by page into any quarter: vacuum (for the visibility map) and analyze by share of the rows.
        -- To analyze one reads 30,000 pages wherever they lie: a tenth more events of a quarter tell plans nothing new.
        ('events_stored', 'events', 'created_at', 604800::bigint,
         'autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.1'),
        -- A part of each page is left free: a row grows in place (HOT) as events are noted, without touching its index.
        ('presence', 'presence', 'slice', 1, 'fillfactor = 70, autovacuum_vacuum_scale_factor = 0.1')
    ) AS f (parent, name, key, factor, settings) LOOP
        skipped := (SELECT string_agg(format('ALTER COLUMN %I SET STATISTICS 0', a.attname), ', ')
                    FROM pg_attribute a
                    WHERE a.attrelid = to_regclass('bigbrotr.' || family.parent) AND a.attstattarget = 0
                      AND a.attnum > 0 AND NOT a.attisdropped);
        IF to_regclass('bigbrotr.' || family.name || '_default') IS NULL THEN
            EXECUTE format('CREATE TABLE bigbrotr.%I PARTITION OF bigbrotr.%I DEFAULT WITH (%s)',
                           family.name || '_default', family.parent, family.settings);
            EXECUTE format('ALTER TABLE bigbrotr.%I %s', family.name || '_default', skipped);
            made := made + 1;
        END IF;
        FOR starts IN
            SELECT NULL
            UNION ALL
            SELECT generate_series(
                timestamp '2021-01-01',
                date_trunc('quarter', to_timestamp(p_now) AT TIME ZONE 'UTC') + interval '6 months',
                interval '3 months')
        LOOP
            leaf := family.name || coalesce(to_char(starts, '"_"YYYY"q"Q'), '_early');
            CONTINUE WHEN to_regclass('bigbrotr.' || leaf) IS NOT NULL;
            IF made = 0 THEN
                -- No rows may come into the default partition while others leave it. The order is that of the writers,
                -- so that there is no deadlock; relays, since a key of presence leads there.
                LOCK TABLE ONLY bigbrotr.relays IN SHARE ROW EXCLUSIVE MODE;
                LOCK TABLE ONLY bigbrotr.events_stored, ONLY bigbrotr.presence IN ACCESS EXCLUSIVE MODE;
            END IF;
            lower_at := family.factor * coalesce(bigbrotr.first_slice(starts), 0);
            upper_at := family.factor * coalesce(
                bigbrotr.first_slice(starts + interval '3 months'), bigbrotr.first_slice('2021-01-01'));
            EXECUTE format('CREATE TABLE bigbrotr.%I (LIKE bigbrotr.%I INCLUDING ALL) WITH (%s)',
                           leaf, family.parent, family.settings);
            EXECUTE format('ALTER TABLE bigbrotr.%I %s', leaf, skipped);
            EXECUTE format(
                'WITH moved AS (DELETE FROM bigbrotr.%1$I WHERE %2$I >= %3$s AND %2$I < %4$s RETURNING *) '
                'INSERT INTO bigbrotr.%5$I SELECT * FROM moved',
                family.name || '_default', family.key, lower_at, upper_at, leaf);
            EXECUTE format('ALTER TABLE bigbrotr.%I ATTACH PARTITION bigbrotr.%I FOR VALUES FROM (%s) TO (%s)',
                           family.parent, leaf, lower_at, upper_at);
            made := made + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END $$;
COMMENT ON FUNCTION bigbrotr.ensure_partitions IS
    'Makes the missing partitions of events_stored and presence up to the quarter after the next. Rows of the default '
    'partition move to where they belong. Returns how many were made. Fails (55P03) if a reader does not let go of a '
    'table for three seconds. On a cluster, which has shards instead, it does nothing. Idempotent.';

-- What is detached stays as it is, in tables of its own; nothing of bigbrotr reads it.
CREATE OR REPLACE FUNCTION bigbrotr.detach_quarter(p_quarter text, p_now bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '3s' AS $$
BEGIN
    IF bigbrotr.quarter_start(p_quarter) IS NULL OR to_regclass('bigbrotr.events_' || p_quarter) IS NULL THEN
        RAISE EXCEPTION 'there is no quarter %: name it as in events_2021q1', p_quarter USING ERRCODE = 'BB004';
    END IF;
    IF bigbrotr.quarter_start(p_quarter) > to_timestamp(p_now) AT TIME ZONE 'UTC' - interval '6 months' THEN
        RAISE EXCEPTION 'the quarter % is in use: only older ones can be detached', p_quarter USING ERRCODE = 'BB004';
    END IF;
    LOCK TABLE ONLY bigbrotr.relays IN SHARE ROW EXCLUSIVE MODE;
    LOCK TABLE ONLY bigbrotr.events_stored, ONLY bigbrotr.presence IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('ALTER TABLE bigbrotr.events_stored DETACH PARTITION bigbrotr.%I', 'events_' || p_quarter);
    EXECUTE format('ALTER TABLE bigbrotr.presence DETACH PARTITION bigbrotr.%I', 'presence_' || p_quarter);
END $$;
COMMENT ON FUNCTION bigbrotr.detach_quarter IS
    'Takes the partitions of an old quarter, e.g. 2021q1, out of events_stored and presence. They stay as tables of their '
    'own. Nothing may copy events of that time meanwhile: they would be taken for new.';

CREATE OR REPLACE FUNCTION bigbrotr.attach_quarter(p_quarter text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '3s' AS $$
DECLARE
    lower_at bigint := bigbrotr.first_slice(bigbrotr.quarter_start(p_quarter));
    upper_at bigint := bigbrotr.first_slice(bigbrotr.quarter_start(p_quarter) + interval '3 months');
BEGIN
    IF lower_at IS NULL OR to_regclass('bigbrotr.events_' || p_quarter) IS NULL THEN
        RAISE EXCEPTION 'there is no quarter %: name it as in events_2021q1', p_quarter USING ERRCODE = 'BB004';
    END IF;
    LOCK TABLE ONLY bigbrotr.relays IN SHARE ROW EXCLUSIVE MODE;
    LOCK TABLE ONLY bigbrotr.events_stored, ONLY bigbrotr.presence IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('ALTER TABLE bigbrotr.events_stored ATTACH PARTITION bigbrotr.%I FOR VALUES FROM (%s) TO (%s)',
                   'events_' || p_quarter, lower_at * 604800, upper_at * 604800);
    EXECUTE format('ALTER TABLE bigbrotr.presence ATTACH PARTITION bigbrotr.%I FOR VALUES FROM (%s) TO (%s)',
                   'presence_' || p_quarter, lower_at, upper_at);
END $$;
COMMENT ON FUNCTION bigbrotr.attach_quarter IS
    'Puts the partitions of a quarter back that detach_quarter has taken out. Fails if events of that time have come '
    'meanwhile.';
