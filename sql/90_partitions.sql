-- Partitions: events and presence by quarters of created_at, and a default one for times before 2021 and far ahead.

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
    lower_at bigint;
    upper_at bigint;
    made     integer := 0;
BEGIN
    FOR family IN SELECT * FROM (VALUES
        -- Inserts come page by page into any quarter: vacuum (for the visibility map) and analyze by share of the rows.
        ('events', 'autovacuum_vacuum_insert_scale_factor = 0.1'),
        -- Half of each page is left free: a row grows in place (HOT) as relays are noted, without touching its index.
        ('presence', 'fillfactor = 50, autovacuum_vacuum_scale_factor = 0.1')
    ) AS f (parent, settings) LOOP
        IF to_regclass('bigbrotr.' || family.parent || '_default') IS NULL THEN
            EXECUTE format('CREATE TABLE bigbrotr.%I PARTITION OF bigbrotr.%I DEFAULT WITH (%s)',
                           family.parent || '_default', family.parent, family.settings);
            made := made + 1;
        END IF;
        FOR starts IN SELECT generate_series(
            timestamp '2021-01-01',
            date_trunc('quarter', to_timestamp(p_now) AT TIME ZONE 'UTC') + interval '6 months',
            interval '3 months')
        LOOP
            leaf := family.parent || to_char(starts, '"_"YYYY"q"Q');
            CONTINUE WHEN to_regclass('bigbrotr.' || leaf) IS NOT NULL;
            IF made = 0 THEN
                -- No rows may come into the default partition while others leave it. The order is that of the writers,
                -- so that there is no deadlock.
                LOCK TABLE ONLY bigbrotr.presence, ONLY bigbrotr.events IN ACCESS EXCLUSIVE MODE;
            END IF;
            lower_at := extract(epoch FROM starts);
            upper_at := extract(epoch FROM starts + interval '3 months');
            EXECUTE format('CREATE TABLE bigbrotr.%I (LIKE bigbrotr.%I INCLUDING ALL) WITH (%s)',
                           leaf, family.parent, family.settings);
            EXECUTE format(
                'WITH moved AS (DELETE FROM bigbrotr.%I WHERE created_at >= %s AND created_at < %s RETURNING *) '
                'INSERT INTO bigbrotr.%I SELECT * FROM moved',
                family.parent || '_default', lower_at, upper_at, leaf);
            EXECUTE format('ALTER TABLE bigbrotr.%I ATTACH PARTITION bigbrotr.%I FOR VALUES FROM (%s) TO (%s)',
                           family.parent, leaf, lower_at, upper_at);
            made := made + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END $$;
COMMENT ON FUNCTION bigbrotr.ensure_partitions IS
    'Makes the missing partitions of events and presence from 2021 to the quarter after the next. Rows of the default '
    'partition move to where they belong. Returns how many were made. Fails (55P03) if a reader does not let go of a '
    'table for three seconds. Idempotent.';
