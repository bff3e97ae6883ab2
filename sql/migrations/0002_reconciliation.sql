-- Proofs keep their own times; what is dropped, withheld or reconciled is noted.

DROP FUNCTION public.claim_visits(text[], integer, text, bigint, bigint, bigint, text, text[], text[], bigint[], bigint[], text[], bigint);
DROP FUNCTION public.renew_visit(bigint, bigint, bigint, bigint, bigint, bigint);

-- One row a way held the time of its newest proof only. Nothing was proven before the relay was discovered: that is said
-- of the old proofs, and so they are looked at again first.
ALTER TABLE public.coverage DROP CONSTRAINT coverage_pkey;
ALTER TABLE public.coverage ADD CONSTRAINT coverage_pkey PRIMARY KEY (relay_id, filter, proven_at, how);
UPDATE public.coverage c SET
    proven_at = least(c.proven_at, r.discovered_at),
    proven    = c.proven - coalesce(
        (SELECT range_agg(o.proven) FROM public.coverage o
         WHERE o.relay_id = c.relay_id AND o.filter = c.filter AND o.how < c.how), '{}')
FROM public.relays r WHERE r.id = c.relay_id;
DELETE FROM public.coverage WHERE isempty(proven);
