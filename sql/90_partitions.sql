-- Partitions: events and presence by quarters of created_at, and a default one for the absurd past and future.

-- Makes the partitions from 2021 to the quarter after the next that don't exist yet. Rows that wait in the default
-- partition move to where they belong. Returns how many were made. Idempotent.
-- Settings stand on each leaf: PostgreSQL ignores storage settings on the partitioned table itself.
CREATE OR REPLACE FUNCTION public.ensure_partitions(p_now bigint) RETURNS integer
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
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
        IF to_regclass('public.' || family.parent || '_default') IS NULL THEN
            EXECUTE format('CREATE TABLE public.%I PARTITION OF public.%I DEFAULT WITH (%s)',
                           family.parent || '_default', family.parent, family.settings);
            made := made + 1;
        END IF;
        FOR starts IN SELECT generate_series(
            timestamp '2021-01-01',
            date_trunc('quarter', to_timestamp(p_now) AT TIME ZONE 'UTC') + interval '6 months',
            interval '3 months')
        LOOP
            leaf := family.parent || to_char(starts, '"_"YYYY"q"Q');
            CONTINUE WHEN to_regclass('public.' || leaf) IS NOT NULL;
            IF made = 0 THEN
                -- Nobody may write into the default partition while rows leave it. In the order of the writers, so
                -- that neither waits for the other.
                LOCK TABLE ONLY public.presence, ONLY public.events IN ACCESS EXCLUSIVE MODE;
            END IF;
            lower_at := extract(epoch FROM starts);
            upper_at := extract(epoch FROM starts + interval '3 months');
            EXECUTE format('CREATE TABLE public.%I (LIKE public.%I INCLUDING ALL) WITH (%s)',
                           leaf, family.parent, family.settings);
            EXECUTE format(
                'WITH moved AS (DELETE FROM public.%I WHERE created_at >= %s AND created_at < %s RETURNING *) '
                'INSERT INTO public.%I SELECT * FROM moved',
                family.parent || '_default', lower_at, upper_at, leaf);
            EXECUTE format('ALTER TABLE public.%I ATTACH PARTITION public.%I FOR VALUES FROM (%s) TO (%s)',
                           family.parent, leaf, lower_at, upper_at);
            made := made + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END $$;
