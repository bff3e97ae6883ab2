-- Coverage: for each relay the seconds of the past that are proven complete, and the gaps with their reasons.
-- What is missing is one subtraction. Spans are half-open, [since, until), in Unix seconds.

CREATE TABLE IF NOT EXISTS public.coverage (
    relay_id  bigint         NOT NULL REFERENCES public.relays (id) ON DELETE CASCADE,
    how       text           NOT NULL CHECK (how IN ('paging', 'finish', 'reconciliation')),
    proven    int8multirange NOT NULL,
    proven_at bigint         NOT NULL,  -- of the newest proof
    PRIMARY KEY (relay_id, how)
);

CREATE TABLE IF NOT EXISTS public.gaps (
    relay_id bigint    NOT NULL REFERENCES public.relays (id) ON DELETE CASCADE,
    span     int8range NOT NULL CHECK (NOT isempty(span)),
    reason   text      NOT NULL,
    detail   text      NOT NULL DEFAULT '',
    attempts integer   NOT NULL,
    noted_at bigint    NOT NULL,
    due_at   bigint    NOT NULL,
    PRIMARY KEY (relay_id, span)
);

-- What is neither proven nor a gap that has to wait, within [p_since, p_until).
CREATE OR REPLACE FUNCTION public.missing_spans(p_relay_id bigint, p_since bigint, p_until bigint, p_now bigint)
RETURNS int8multirange
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN int8multirange(int8range(p_since, greatest(p_since, p_until)))
        - coalesce((SELECT range_agg(c.proven) FROM public.coverage c WHERE c.relay_id = p_relay_id), '{}')
        - coalesce((SELECT range_agg(g.span) FROM public.gaps g
                    WHERE g.relay_id = p_relay_id AND g.due_at > p_now), '{}');
END $$;

-- Takes spans out of a relay's gaps: what is left of a gap keeps its reason and its history.
CREATE OR REPLACE FUNCTION public.carve_gaps(p_relay_id bigint, p_spans int8multirange) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    WITH cut AS (
        DELETE FROM public.gaps g WHERE g.relay_id = p_relay_id AND g.span && p_spans
        RETURNING *
    )
    INSERT INTO public.gaps (relay_id, span, reason, detail, attempts, noted_at, due_at)
    SELECT cut.relay_id, rest.span, cut.reason, cut.detail, cut.attempts, cut.noted_at, cut.due_at
    FROM cut CROSS JOIN LATERAL unnest(int8multirange(cut.span) - p_spans) AS rest (span);
END $$;

-- Records what one page proved and which gaps it left; belongs into the transaction that stores the page's events.
-- A gap that is met again keeps its count and waits longer. Refused (BB001) when the lease has passed on.
CREATE OR REPLACE FUNCTION public.record_coverage(
    p_relay_id bigint, p_epoch bigint, p_spans int8range[], p_hows text[],
    p_gap_spans int8range[], p_gap_reasons text[], p_gap_details text[], p_now bigint
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    gap record;
    tried integer;
BEGIN
    PERFORM 1 FROM public.visits v WHERE v.relay_id = p_relay_id AND v.epoch = p_epoch FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the lease on relay % has passed to another process', p_relay_id USING ERRCODE = 'BB001';
    END IF;

    IF cardinality(p_spans) > 0 THEN
        INSERT INTO public.coverage AS c (relay_id, how, proven, proven_at)
        SELECT p_relay_id, u.how, range_agg(u.span), p_now
        FROM unnest(p_spans, p_hows) AS u (span, how) GROUP BY u.how ORDER BY u.how
        ON CONFLICT (relay_id, how) DO UPDATE SET
            proven = c.proven + EXCLUDED.proven, proven_at = EXCLUDED.proven_at;
        PERFORM public.carve_gaps(p_relay_id, (SELECT range_agg(s) FROM unnest(p_spans) AS s));
    END IF;

    FOR gap IN SELECT * FROM unnest(p_gap_spans, p_gap_reasons, p_gap_details) AS u (span, reason, detail) LOOP
        SELECT 1 + coalesce(max(g.attempts), 0) INTO tried
        FROM public.gaps g WHERE g.relay_id = p_relay_id AND g.span && gap.span;
        PERFORM public.carve_gaps(p_relay_id, int8multirange(gap.span));
        INSERT INTO public.gaps (relay_id, span, reason, detail, attempts, noted_at, due_at)
        VALUES (p_relay_id, gap.span, gap.reason, gap.detail, tried, p_now, p_now + public.backoff_s(tried));
    END LOOP;
END $$;
