-- What a visit writes is fenced; where a relay may have pairs is known; how a relay wants to be asked is remembered.
ALTER TABLE public.tallies ADD COLUMN IF NOT EXISTS touched int8multirange NOT NULL DEFAULT '{}';
-- Nobody has noted where the pairs until now are; some are of a clock that is ahead.
UPDATE public.tallies t SET touched = int8multirange(int8range(0, at.now + 86400))
FROM (SELECT extract(epoch FROM now())::bigint AS now) AS at
WHERE t.pairs > 0 AND isempty(t.touched);
ALTER TABLE IF EXISTS public.reconciliation ADD COLUMN IF NOT EXISTS most_bytes bigint;
DROP FUNCTION IF EXISTS public.note_presence(integer, bigint[], bytea[], bigint);
DROP FUNCTION IF EXISTS public.mark_window(integer, bigint, bigint, bigint, bytea[], bigint);
DROP FUNCTION IF EXISTS public.read_held_ids(integer, bigint, bigint, bytea, bigint, integer[], bytea[]);
DROP FUNCTION IF EXISTS public.note_drops(integer, bigint[], bytea[], bigint);
DROP FUNCTION IF EXISTS public.note_reconciliation(bigint, text, text, bigint, bigint, bigint);
DROP FUNCTION IF EXISTS public.note_withheld(bigint, bytea[], text[], int8range, boolean, bigint);
DROP FUNCTION IF EXISTS public.distrust(integer);
DROP FUNCTION IF EXISTS public.claim_visits(
    text[], integer, text, bigint, bigint, bigint, text, boolean, text[], text[], bigint[], bigint[], text[], boolean[],
    bigint, bigint, bigint, bigint);
ALTER TABLE public.visits ADD COLUMN IF NOT EXISTS dialect jsonb NOT NULL DEFAULT '{}';
DROP FUNCTION IF EXISTS public.finish_visit(bigint, bigint, text, bigint, text, text, bigint);
