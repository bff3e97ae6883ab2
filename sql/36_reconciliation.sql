-- Reconciliation (NIP-77): which relays really speak it, what they were found to hold, and what they do not hand over.

-- What came of trying, by relay: believed for a while, whatever the relay says of itself.
CREATE TABLE IF NOT EXISTS public.reconciliation (
    relay_id   bigint NOT NULL PRIMARY KEY REFERENCES public.relays (id) ON DELETE CASCADE,
    outcome    text   NOT NULL CHECK (outcome IN ('works', 'refused', 'silent', 'broken', 'lies')),
    detail     text   NOT NULL,
    tried_at   bigint NOT NULL,
    due_at     bigint NOT NULL,  -- not tried again before, unless it works
    most_items bigint,           -- of events in a window, where the relay has refused more; NULL: not met yet
    most_bytes bigint            -- of a message of ours, where the relay has hung up on a larger one; NULL: not met yet
);

-- Notes what came of trying. Refused (BB001) when the lease has passed on. Idempotent.
CREATE OR REPLACE FUNCTION public.note_reconciliation(
    p_relay_id bigint, p_epoch bigint, p_outcome text, p_detail text, p_due_at bigint, p_most_items bigint,
    p_most_bytes bigint, p_now bigint
) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.reconciliation AS r (relay_id, outcome, detail, tried_at, due_at, most_items, most_bytes)
    SELECT id, p_outcome, p_detail, p_now, p_due_at, p_most_items, p_most_bytes
    FROM public.relays WHERE id = p_relay_id
    ON CONFLICT (relay_id) DO UPDATE SET
        outcome = EXCLUDED.outcome, detail = EXCLUDED.detail, tried_at = EXCLUDED.tried_at,
        due_at = EXCLUDED.due_at, most_items = EXCLUDED.most_items, most_bytes = EXCLUDED.most_bytes;
    PERFORM public.hold_lease(p_relay_id, p_epoch);
END $$;

-- What a relay was found to hold in a window: the number of ids and their sum (32 bytes, little-endian). While its
-- fingerprint is that of this sum, nothing has changed there, and nothing needs to be read. A hint, no proof: another one
-- costs a reconciliation.
CREATE TABLE IF NOT EXISTS public.digests (
    relay_id bigint    NOT NULL REFERENCES public.relays (id) ON DELETE CASCADE,
    filter   text      NOT NULL DEFAULT '',
    span     int8range NOT NULL CHECK (NOT isempty(span)),
    items    bigint    NOT NULL,
    sum      bytea     NOT NULL,
    PRIMARY KEY (relay_id, filter, span)
);

-- Keeps what a relay was found to hold in a window, in place of all that overlaps it. Idempotent.
CREATE OR REPLACE FUNCTION public.keep_digest(
    p_relay_id bigint, p_filter text, p_span int8range, p_items bigint, p_sum bytea
) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM public.digests d WHERE d.relay_id = p_relay_id AND d.filter = p_filter AND d.span && p_span;
    INSERT INTO public.digests (relay_id, filter, span, items, sum)
    SELECT id, p_filter, p_span, p_items, p_sum FROM public.relays WHERE id = p_relay_id;
END $$;

-- Withheld: events that a relay says it holds and does not hand over. Asked for again, each time later.
CREATE TABLE IF NOT EXISTS public.withheld (
    relay_id bigint    NOT NULL REFERENCES public.relays (id) ON DELETE CASCADE,
    event_id bytea     NOT NULL,
    span     int8range NOT NULL,  -- the window in which the relay named it; its own time is not known
    reason   text      NOT NULL,
    attempts integer   NOT NULL,
    noted_at bigint    NOT NULL,
    due_at   bigint    NOT NULL,
    PRIMARY KEY (relay_id, event_id)
);
CREATE INDEX IF NOT EXISTS withheld_event_id_idx ON public.withheld USING hash (event_id);

-- Notes that events were asked for in vain: one more attempt each, and a longer wait, or none if that is not final. Of
-- one relay at most p_most are kept, those that have been asked for longest, and what was noted before p_forget_before
-- is forgotten. Returns how many of these are noted now: where not all are, the relay names en masse what it does not
-- hand over, and that is no holding. Refused (BB001) when the lease has passed on. Not idempotent.
CREATE OR REPLACE FUNCTION public.note_withheld(
    p_relay_id bigint, p_epoch bigint, p_ids bytea[], p_reasons text[], p_span int8range, p_is_final boolean,
    p_most bigint, p_forget_before bigint, p_now bigint
) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    again integer;
    added integer;
BEGIN
    DELETE FROM public.withheld w WHERE w.relay_id = p_relay_id AND w.noted_at < p_forget_before;
    WITH tried AS (
        UPDATE public.withheld w SET
            span = p_span, reason = u.reason, attempts = w.attempts + 1,
            due_at = CASE WHEN p_is_final THEN p_now + public.backoff_s(w.attempts + 1) ELSE p_now END
        FROM unnest(p_ids, p_reasons) AS u (id, reason)
        WHERE w.relay_id = p_relay_id AND w.event_id = u.id
        RETURNING 1
    )
    SELECT count(*) INTO again FROM tried;
    WITH written AS (
        INSERT INTO public.withheld (relay_id, event_id, span, reason, attempts, noted_at, due_at)
        SELECT p_relay_id, u.id, p_span, u.reason, 1, p_now,
               CASE WHEN p_is_final THEN p_now + public.backoff_s(1) ELSE p_now END
        FROM unnest(p_ids, p_reasons) AS u (id, reason)
        WHERE EXISTS (SELECT FROM public.relays r WHERE r.id = p_relay_id)
          AND NOT EXISTS (SELECT FROM public.withheld w WHERE w.relay_id = p_relay_id AND w.event_id = u.id)
        ORDER BY u.id
        LIMIT greatest(0, p_most - (SELECT count(*) FROM public.withheld w WHERE w.relay_id = p_relay_id))
        ON CONFLICT (relay_id, event_id) DO NOTHING
        RETURNING 1
    )
    SELECT count(*) INTO added FROM written;
    PERFORM public.hold_lease(p_relay_id, p_epoch);
    RETURN again + added;
END $$;

-- Forgets what was withheld within a window, but for p_ids, which still are: the others were handed over, or the relay no
-- longer says that it holds them. Returns how many. Idempotent.
CREATE OR REPLACE FUNCTION public.forget_withheld(p_relay_id bigint, p_span int8range, p_ids bytea[]) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    gone integer;
BEGIN
    WITH deleted AS (
        DELETE FROM public.withheld w
        WHERE w.relay_id = p_relay_id AND w.span && p_span AND w.event_id <> ALL (p_ids)
        RETURNING 1
    )
    SELECT count(*) INTO gone FROM deleted;
    RETURN gone;
END $$;

-- Takes back what was believed of a relay that has lied: what its reconciliations proved, and the pairs in these spans,
-- which pages will find again as far as they are true. Returns how many pairs. Refused (BB001) when the lease has passed
-- on. Idempotent.
CREATE OR REPLACE FUNCTION public.distrust(p_relay_id integer, p_epoch bigint) RETURNS integer
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    believed int8range;
    gone     integer;
    total    integer := 0;
BEGIN
    PERFORM public.lock_presence(false);
    FOR believed IN
        SELECT unnest(range_agg(c.proven)) FROM public.coverage c
        WHERE c.relay_id = p_relay_id AND c.how = 'reconciliation'
    LOOP
        WITH ended AS (
            UPDATE public.presence p SET
                relay_ids = array_remove(p.relay_ids, p_relay_id),
                seen_ats  = p.seen_ats[:array_position(p.relay_ids, p_relay_id) - 1]
                         || p.seen_ats[array_position(p.relay_ids, p_relay_id) + 1:]
            WHERE p.created_at >= lower(believed) AND p.created_at < upper(believed)
              AND p.relay_ids @> ARRAY[p_relay_id]
            RETURNING 1
        )
        SELECT count(*) INTO gone FROM ended;
        total := total + gone;
    END LOOP;
    UPDATE public.tallies SET pairs = pairs - total WHERE relay_id = p_relay_id AND total > 0;
    PERFORM public.hold_lease(p_relay_id, p_epoch);
    DELETE FROM public.digests WHERE relay_id = p_relay_id;
    DELETE FROM public.coverage WHERE relay_id = p_relay_id AND how = 'reconciliation';
    RETURN total;
END $$;
