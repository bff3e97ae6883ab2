-- Partitions: events_stored and presence by quarters of created_at, each with its weeks as a whole: a quarter begins with its
-- first slice. One more holds what claims to be from before 2021, and a default one what is far ahead.

CREATE OR REPLACE FUNCTION bigbrotr.first_slice(p_quarter timestamp) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ceil(extract(epoch FROM p_quarter) / 604800)::bigint;
COMMENT ON FUNCTION bigbrotr.first_slice IS 'The first slice that begins within a quarter of a year.';

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
        ('events_stored', 'events', 'created_at', 604800::bigint, 'autovacuum_vacuum_insert_scale_factor = 0.1'),
        -- A part of each page is left free: a row grows in place (HOT) as events are noted, without touching its index.
        ('presence', 'presence', 'slice', 1, 'fillfactor = 70, autovacuum_vacuum_scale_factor = 0.1')
    ) AS f (parent, name, key, factor, settings) LOOP
        IF to_regclass('bigbrotr.' || family.name || '_default') IS NULL THEN
            EXECUTE format('CREATE TABLE bigbrotr.%I PARTITION OF bigbrotr.%I DEFAULT WITH (%s)',
                           family.name || '_default', family.parent, family.settings);
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
                -- so that there is no deadlock.
                LOCK TABLE ONLY bigbrotr.events_stored, ONLY bigbrotr.presence IN ACCESS EXCLUSIVE MODE;
            END IF;
            lower_at := family.factor * coalesce(bigbrotr.first_slice(starts), 0);
            upper_at := family.factor * coalesce(
                bigbrotr.first_slice(starts + interval '3 months'), bigbrotr.first_slice('2021-01-01'));
            EXECUTE format('CREATE TABLE bigbrotr.%I (LIKE bigbrotr.%I INCLUDING ALL) WITH (%s)',
                           leaf, family.parent, family.settings);
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
