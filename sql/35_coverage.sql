-- Coverage: for each relay the seconds of the past that are proven complete, and the gaps with their reasons.
-- What is missing is one subtraction. Spans are half-open, [since, until), in Unix seconds.
-- `filter` says for which events: a filter's canonical conditions, '' for all of them. What is proven for all events is
-- proven for any filter; nothing else follows from one filter for another.

-- Each proven second stands in one row of its filter, the one of its newest proof. A row gathers what was proven within an
-- hour in one way; its time is that of the first, so that "as of" is never said of a later moment than is true.
CREATE TABLE IF NOT EXISTS public.coverage (
    relay_id  bigint         NOT NULL REFERENCES public.relays (id) ON DELETE CASCADE,
    filter    text           NOT NULL DEFAULT '',
    how       text           NOT NULL CHECK (how IN ('paging', 'finish', 'reconciliation')),
    proven    int8multirange NOT NULL,
    proven_at bigint         NOT NULL,
    PRIMARY KEY (relay_id, filter, proven_at, how)
);

CREATE TABLE IF NOT EXISTS public.gaps (
    relay_id bigint    NOT NULL REFERENCES public.relays (id) ON DELETE CASCADE,
    filter   text      NOT NULL DEFAULT '',
    span     int8range NOT NULL CHECK (NOT isempty(span)),
    reason   text      NOT NULL,
    detail   text      NOT NULL DEFAULT '',
    attempts integer   NOT NULL,
    noted_at bigint    NOT NULL,
    due_at   bigint    NOT NULL,
    PRIMARY KEY (relay_id, filter, span)
);

-- What is neither proven nor a gap that has to wait, within [p_since, p_until), for the conditions p_filter. A proof of
-- a later moment than now (but for clocks that differ a little) is of a clock that was wrong: it may be of seconds that
-- had not been yet, and does not count.
CREATE OR REPLACE FUNCTION public.missing_spans(
    p_relay_id bigint, p_since bigint, p_until bigint, p_now bigint, p_filter text DEFAULT ''
) RETURNS int8multirange
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN int8multirange(int8range(p_since, greatest(p_since, p_until)))
        - coalesce((SELECT range_agg(c.proven) FROM public.coverage c
                    WHERE c.relay_id = p_relay_id AND c.filter IN ('', p_filter)
                      AND c.proven_at <= p_now + 60), '{}')
        - coalesce((SELECT range_agg(g.span) FROM public.gaps g
                    WHERE g.relay_id = p_relay_id AND g.filter = p_filter AND g.due_at > p_now), '{}');
END $$;

-- What is proven, but so long ago that it is to be looked at again, within [p_since, p_until): all that is older than
-- p_audit_s where the relay reconciles (and p_by_ids, if we do), which costs next to nothing; elsewhere the newest
-- p_lookback_s of it, and all that is older than p_rewalk_s (0: nothing). What was tried in vain and has to wait is left
-- out.
CREATE OR REPLACE FUNCTION public.stale_spans(
    p_relay_id bigint, p_since bigint, p_until bigint, p_by_ids boolean, p_audit_s bigint, p_lookback_s bigint,
    p_rewalk_s bigint, p_now bigint, p_filter text DEFAULT ''
) RETURNS int8multirange
LANGUAGE plpgsql STABLE AS $$
DECLARE
    all_before bigint := CASE
        WHEN p_by_ids AND EXISTS (SELECT FROM public.reconciliation r WHERE r.relay_id = p_relay_id AND r.outcome = 'works')
            THEN p_now - p_audit_s
        WHEN p_rewalk_s > 0 THEN p_now - p_rewalk_s
    END;
    stale int8multirange;
BEGIN
    SELECT coalesce(range_agg(c.proven) FILTER (WHERE c.proven_at < all_before), '{}')
         + coalesce(range_agg(c.proven) FILTER (WHERE c.proven_at < p_now - p_audit_s), '{}')
           * int8multirange(int8range(p_now - p_lookback_s, NULL))
         - coalesce(range_agg(c.proven) FILTER (WHERE c.proven_at >= p_now - p_audit_s), '{}')
    INTO stale
    FROM public.coverage c
    WHERE c.relay_id = p_relay_id AND c.filter IN ('', p_filter) AND c.proven_at <= p_now + 60;
    RETURN stale * int8multirange(int8range(p_since, greatest(p_since, p_until)))
        - coalesce((SELECT range_agg(g.span) FROM public.gaps g
                    WHERE g.relay_id = p_relay_id AND g.filter = p_filter AND g.due_at > p_now), '{}');
END $$;

-- Takes spans out of a relay's gaps, those for p_filter or, with NULL, for any. What is left of a gap keeps its reason;
-- its attempts are counted anew when p_is_progress says that the spans were proven.
CREATE OR REPLACE FUNCTION public.carve_gaps(
    p_relay_id bigint, p_filter text, p_spans int8multirange, p_is_progress boolean
) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    WITH cut AS (
        DELETE FROM public.gaps g
        WHERE g.relay_id = p_relay_id AND (p_filter IS NULL OR g.filter = p_filter) AND g.span && p_spans
        RETURNING *
    )
    INSERT INTO public.gaps (relay_id, filter, span, reason, detail, attempts, noted_at, due_at)
    SELECT cut.relay_id, cut.filter, rest.span, cut.reason, cut.detail,
           CASE WHEN p_is_progress THEN 0 ELSE cut.attempts END, cut.noted_at, cut.due_at
    FROM cut CROSS JOIN LATERAL unnest(int8multirange(cut.span) - p_spans) AS rest (span);
END $$;

-- Takes back what was proven of a relay in the ways p_hows, for any filter, since it was found to lie: all of it, or
-- within p_spans. Refused (BB001) when the lease has passed on. Idempotent.
CREATE OR REPLACE FUNCTION public.take_back(p_relay_id bigint, p_epoch bigint, p_hows text[], p_spans int8multirange)
RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE public.coverage c SET proven = c.proven - coalesce(p_spans, c.proven)
    WHERE c.relay_id = p_relay_id AND c.how = ANY (p_hows);
    DELETE FROM public.coverage c WHERE c.relay_id = p_relay_id AND isempty(c.proven);
    PERFORM public.hold_lease(p_relay_id, p_epoch);
END $$;

-- Records what one page proved for the filter of the visit, with which identity, and which gaps it left; belongs into
-- the transaction that stores the page's events. A gap that is met again, without progress, waits longer; one that
-- adjoins another for the same reason is one with it, so that a relay that always says no has one gap and not one a visit.
-- Refused (BB001) when the lease has passed on.
CREATE OR REPLACE FUNCTION public.record_coverage(
    p_relay_id bigint, p_epoch bigint, p_spans int8range[], p_hows text[],
    p_gap_spans int8range[], p_gap_reasons text[], p_gap_details text[], p_identity bytea, p_now bigint
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    conditions text;
    known_as bytea;
    spans int8multirange;
    told int8multirange := '{}';  -- in an earlier turn of the loop: a second stands in one row
    proof record;
    gap record;
    tried integer;
    whole int8range;
    beside int8range;
BEGIN
    SELECT v.filter, v.identity INTO conditions, known_as FROM public.visits v
    WHERE v.relay_id = p_relay_id AND v.epoch = p_epoch FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the lease on relay % has passed to another process', p_relay_id USING ERRCODE = 'BB001';
    END IF;

    IF cardinality(p_spans) > 0 THEN
        IF known_as IS DISTINCT FROM p_identity THEN
            UPDATE public.visits v SET identity = p_identity WHERE v.relay_id = p_relay_id;
        END IF;
        SELECT range_agg(s) INTO spans FROM unnest(p_spans) AS s;
        UPDATE public.coverage c SET proven = c.proven - spans
        WHERE c.relay_id = p_relay_id AND c.filter = conditions AND c.proven && spans;
        IF FOUND THEN
            DELETE FROM public.coverage c
            WHERE c.relay_id = p_relay_id AND c.filter = conditions AND isempty(c.proven);
        END IF;
        FOR proof IN
            SELECT u.how, range_agg(u.span) AS proven FROM unnest(p_spans, p_hows) AS u (span, how)
            GROUP BY u.how ORDER BY u.how
        LOOP
            INSERT INTO public.coverage AS c (relay_id, filter, how, proven, proven_at)
            SELECT p_relay_id, conditions, proof.how, proof.proven - told, coalesce(max(o.proven_at), p_now)
            FROM public.coverage o
            WHERE o.relay_id = p_relay_id AND o.filter = conditions AND o.how = proof.how
              AND o.proven_at > p_now - 3600 AND o.proven_at <= p_now
            ON CONFLICT (relay_id, filter, proven_at, how) DO UPDATE SET proven = c.proven + EXCLUDED.proven;
            told := told + proof.proven;
        END LOOP;
        PERFORM public.carve_gaps(p_relay_id, nullif(conditions, ''), spans, true);
    END IF;

    FOR gap IN
        SELECT s.span, u.reason, max(u.detail) AS detail FROM (
            SELECT n.reason, range_agg(n.span) AS spans FROM unnest(p_gap_spans, p_gap_reasons) AS n (span, reason)
            GROUP BY n.reason
        ) AS m
        CROSS JOIN LATERAL unnest(m.spans) AS s (span)
        JOIN unnest(p_gap_spans, p_gap_reasons, p_gap_details) AS u (span, reason, detail)
            ON u.reason = m.reason AND u.span <@ s.span
        GROUP BY s.span, u.reason
    LOOP
        -- What is noted within one visit is one attempt.
        SELECT greatest(1, max(
            g.attempts + CASE WHEN g.span && gap.span OR g.noted_at < p_now - 30 THEN 1 ELSE 0 END)) INTO tried
        FROM public.gaps g
        WHERE g.relay_id = p_relay_id AND g.filter = conditions
          AND (g.span && gap.span OR (g.span -|- gap.span AND g.reason = gap.reason));
        PERFORM public.carve_gaps(p_relay_id, conditions, int8multirange(gap.span), false);
        whole := gap.span;
        FOR beside IN
            DELETE FROM public.gaps g
            WHERE g.relay_id = p_relay_id AND g.filter = conditions
              AND g.reason = gap.reason AND g.span -|- gap.span
            RETURNING g.span
        LOOP
            whole := range_merge(whole, beside);
        END LOOP;
        INSERT INTO public.gaps (relay_id, filter, span, reason, detail, attempts, noted_at, due_at)
        VALUES (p_relay_id, conditions, whole, gap.reason, gap.detail, tried, p_now, p_now + public.backoff_s(tried));
    END LOOP;
END $$;
