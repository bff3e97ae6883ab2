-- Relays that have failed for long rest, and are candidates again; candidates may be aliases of relays.
ALTER TABLE public.visits ADD COLUMN IF NOT EXISTS failing_since bigint;
ALTER TABLE public.visits ADD COLUMN IF NOT EXISTS rests_since bigint;
ALTER TABLE public.candidates ADD COLUMN IF NOT EXISTS named integer NOT NULL DEFAULT 1;
ALTER TABLE public.candidates ADD COLUMN IF NOT EXISTS alias_of bigint REFERENCES public.relays (id) ON DELETE SET NULL;
DROP FUNCTION IF EXISTS public.resolve_candidates(text[], text[], text[], text[], bigint);
