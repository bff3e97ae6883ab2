-- Candidates that remember how often they were named; and an order to the finder to walk once through what was archived
-- before events put the URLs that they name into a queue.
ALTER TABLE public.candidates ADD COLUMN IF NOT EXISTS named integer NOT NULL DEFAULT 1;
DROP FUNCTION IF EXISTS public.insert_candidates(text[], text[], text, bigint);
DROP FUNCTION IF EXISTS public.delete_failed_candidates(integer);
DROP FUNCTION IF EXISTS public.insert_events(
    integer, bigint[], bigint[], integer[], bytea[], bytea[], bytea[], jsonb[], text[], text[], bytea[]);

INSERT INTO public.service_data (service_name, data_type, data_key, data, updated_at)
SELECT 'finder', 'walk', 'archive', jsonb_build_object('until', at.now, 'created_at', -1, 'id', ''), at.now
FROM (SELECT extract(epoch FROM now())::bigint AS now) AS at
ON CONFLICT (service_name, data_type, data_key) DO NOTHING;
