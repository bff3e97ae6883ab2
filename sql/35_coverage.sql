-- Coverage: the seconds of the past that are proven complete, by relay, and the gaps with their reasons. What is missing
-- is one subtraction. What is proven for all events (filter '') is proven for any filter; nothing else follows from one
-- filter for another.

-- A row collects what was proven in one way within an hour. Its time is that of the first proof, so no second counts as
-- proven later than it was.
CREATE TABLE IF NOT EXISTS bigbrotr.coverage (
    relay_id  bigint         NOT NULL REFERENCES bigbrotr.relays (id) ON DELETE CASCADE,
    filter    text           NOT NULL DEFAULT '',
    how       text           NOT NULL CHECK (how IN ('paging', 'finish', 'reconciliation', 'import')),
    proven    int8multirange NOT NULL,
    proven_at bigint         NOT NULL,
    PRIMARY KEY (relay_id, filter, proven_at, how)
);
COMMENT ON TABLE bigbrotr.coverage IS
    'For each relay the seconds of the past that are proven complete. Each second of a filter stands in one row, the '
    'one of its newest proof.';
COMMENT ON COLUMN bigbrotr.coverage.relay_id IS 'Number of the relay.';
COMMENT ON COLUMN bigbrotr.coverage.filter IS
    'For which events: the canonical conditions of a filter, empty for all events.';
COMMENT ON COLUMN bigbrotr.coverage.how IS
    'How it was proven: paging, finish (the relay says that there is no more), reconciliation (ids were compared, '
    'NIP-77), or import (another archive says so, and the operator trusts it).';
COMMENT ON COLUMN bigbrotr.coverage.proven IS 'Proven spans, half-open [since, until), in Unix seconds.';
COMMENT ON COLUMN bigbrotr.coverage.proven_at IS
    'When the first span of the row was proven, in Unix seconds. A row collects one hour.';

CREATE TABLE IF NOT EXISTS bigbrotr.gaps (
    relay_id bigint    NOT NULL REFERENCES bigbrotr.relays (id) ON DELETE CASCADE,
    filter   text      NOT NULL DEFAULT '',
    span     int8range NOT NULL CHECK (NOT isempty(span)),
    reason   text      NOT NULL,
    detail   text      NOT NULL DEFAULT '',
    attempts integer   NOT NULL,
    noted_at bigint    NOT NULL,
    due_at   bigint    NOT NULL,
    PRIMARY KEY (relay_id, filter, span)
);
COMMENT ON TABLE bigbrotr.gaps IS
    'For each relay the seconds of the past that could not be copied, and why. Each gap is tried again.';
COMMENT ON COLUMN bigbrotr.gaps.relay_id IS 'Number of the relay.';
COMMENT ON COLUMN bigbrotr.gaps.filter IS
    'For which events: the canonical conditions of a filter, empty for all events.';
COMMENT ON COLUMN bigbrotr.gaps.span IS 'The gap, half-open [since, until), in Unix seconds.';
COMMENT ON COLUMN bigbrotr.gaps.reason IS 'Why, in one word, e.g. timeout or full.';
COMMENT ON COLUMN bigbrotr.gaps.detail IS 'Why, in words.';
COMMENT ON COLUMN bigbrotr.gaps.attempts IS 'Tries in vain in a row.';
COMMENT ON COLUMN bigbrotr.gaps.noted_at IS 'When it was last met, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.gaps.due_at IS 'When to try again, in Unix seconds.';

-- A proof from the future (clocks differ by up to a minute) is of a clock that was wrong: it may be of seconds that had not
-- been yet, and does not count.
CREATE OR REPLACE FUNCTION bigbrotr.missing_spans(
    p_relay_id bigint, p_since bigint, p_until bigint, p_now bigint, p_filter text DEFAULT ''
) RETURNS int8multirange
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN int8multirange(int8range(p_since, greatest(p_since, p_until)))
        - coalesce((SELECT range_agg(c.proven) FROM bigbrotr.coverage c
                    WHERE c.relay_id = p_relay_id AND c.filter IN ('', p_filter)
                      AND c.proven_at <= p_now + 60), '{}')
        - coalesce((SELECT range_agg(g.span) FROM bigbrotr.gaps g
                    WHERE g.relay_id = p_relay_id AND g.filter = p_filter AND g.due_at > p_now), '{}');
END $$;
COMMENT ON FUNCTION bigbrotr.missing_spans IS
    'Spans of [p_since, p_until), in Unix seconds, that are neither proven nor a gap that waits, for the conditions '
    'p_filter.';

CREATE OR REPLACE FUNCTION bigbrotr.stale_spans(
    p_relay_id bigint, p_since bigint, p_until bigint, p_by_ids boolean, p_audit_s bigint, p_lookback_s bigint,
    p_rewalk_s bigint, p_now bigint, p_filter text DEFAULT ''
) RETURNS int8multirange
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    all_before bigint := CASE
        WHEN p_by_ids AND EXISTS (SELECT FROM bigbrotr.reconciliation r WHERE r.relay_id = p_relay_id AND r.outcome = 'works')
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
    FROM bigbrotr.coverage c
    WHERE c.relay_id = p_relay_id AND c.filter IN ('', p_filter) AND c.proven_at <= p_now + 60;
    RETURN stale * int8multirange(int8range(p_since, greatest(p_since, p_until)))
        - coalesce((SELECT range_agg(g.span) FROM bigbrotr.gaps g
                    WHERE g.relay_id = p_relay_id AND g.filter = p_filter AND g.due_at > p_now), '{}');
END $$;
COMMENT ON FUNCTION bigbrotr.stale_spans IS
    'Proven spans of [p_since, p_until) that are to be looked at again: where the relay compares ids (and p_by_ids), '
    'those older than p_audit_s seconds; elsewhere the newest p_lookback_s seconds of these, and all that is older '
    'than p_rewalk_s (0: nothing). Gaps that wait are left out.';

CREATE OR REPLACE FUNCTION bigbrotr.carve_gaps(
    p_relay_id bigint, p_filter text, p_spans int8multirange, p_is_progress boolean
) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    WITH cut AS (
        DELETE FROM bigbrotr.gaps g
        WHERE g.relay_id = p_relay_id AND (p_filter IS NULL OR g.filter = p_filter) AND g.span && p_spans
        RETURNING *
    )
    INSERT INTO bigbrotr.gaps (relay_id, filter, span, reason, detail, attempts, noted_at, due_at)
    SELECT cut.relay_id, cut.filter, rest.span, cut.reason, cut.detail,
           CASE WHEN p_is_progress THEN 0 ELSE cut.attempts END, cut.noted_at, cut.due_at
    FROM cut CROSS JOIN LATERAL unnest(int8multirange(cut.span) - p_spans) AS rest (span);
END $$;
COMMENT ON FUNCTION bigbrotr.carve_gaps IS
    'Cuts spans out of the gaps of a relay: those for p_filter, or with NULL for any filter. The rest of a gap keeps '
    'its reason. p_is_progress: the spans were proven, so attempts start again at 0.';

CREATE OR REPLACE FUNCTION bigbrotr.take_back(p_relay_id bigint, p_epoch bigint, p_hows text[], p_spans int8multirange)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM bigbrotr.hold_lease(p_relay_id, p_epoch);  -- before its proofs: as all do who write these
    UPDATE bigbrotr.coverage c SET proven = c.proven - coalesce(p_spans, c.proven)
    WHERE c.relay_id = p_relay_id AND c.how = ANY (p_hows);
    DELETE FROM bigbrotr.coverage c WHERE c.relay_id = p_relay_id AND isempty(c.proven);
END $$;
COMMENT ON FUNCTION bigbrotr.take_back IS
    'Takes back what was proven of a relay in the ways p_hows, for any filter: all of it, or only within p_spans. '
    'Refused (BB001) if another process has claimed the relay. Idempotent.';

-- A relay that is followed leaves a row for each day. What was proven long ago need not be dated to the hour: a month
-- becomes one row, as old as its oldest, so that no second counts as proven later than it was. The lock keeps visits out:
-- what they prove meanwhile would stand in two rows.
CREATE OR REPLACE FUNCTION bigbrotr.merge_old_coverage(p_before bigint, p_limit integer) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    month  constant bigint := 2592000;
    relays bigint[];
    each   bigint;
BEGIN
    SELECT array_agg(f.relay_id) INTO relays FROM (
        SELECT DISTINCT c.relay_id FROM bigbrotr.coverage c WHERE c.proven_at < p_before
        GROUP BY c.relay_id, c.filter, c.how, c.proven_at / month HAVING count(*) > 1
        ORDER BY c.relay_id LIMIT p_limit
    ) AS f;
    FOREACH each IN ARRAY coalesce(relays, '{}') LOOP
        PERFORM FROM bigbrotr.visits v WHERE v.relay_id = each FOR UPDATE;
        WITH months AS (
            SELECT c.filter, c.how, min(c.proven_at) AS first, max(c.proven_at) AS last, range_agg(c.proven) AS proven
            FROM bigbrotr.coverage c WHERE c.relay_id = each AND c.proven_at < p_before
            GROUP BY c.filter, c.how, c.proven_at / month HAVING count(*) > 1
        ), gone AS (
            DELETE FROM bigbrotr.coverage c USING months m
            WHERE c.relay_id = each AND c.filter = m.filter AND c.how = m.how
              AND c.proven_at > m.first AND c.proven_at <= m.last
        )
        UPDATE bigbrotr.coverage c SET proven = m.proven FROM months m
        WHERE c.relay_id = each AND c.filter = m.filter AND c.how = m.how AND c.proven_at = m.first;
    END LOOP;
    RETURN coalesce(cardinality(relays), 0);
END $$;
COMMENT ON FUNCTION bigbrotr.merge_old_coverage IS
    'Merges what was proven before p_before (Unix seconds) of up to p_limit relays: one row a month, filter and way. '
    'Returns of how many relays. Idempotent.';

-- A gap that is met again, without progress, waits longer. One that adjoins another for the same reason becomes one with
-- it: a relay that refuses every time has one gap, and not one for each visit.
CREATE OR REPLACE FUNCTION bigbrotr.record_coverage(
    p_relay_id bigint, p_epoch bigint, p_spans int8range[], p_hows text[],
    p_gap_spans int8range[], p_gap_reasons text[], p_gap_details text[], p_identity bytea, p_now bigint
) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    conditions text;
    known_as bytea;
    spans int8multirange;
    is_proven boolean;  -- some of it, before
    has_gaps boolean;
    told int8multirange := '{}';  -- in an earlier turn of the loop: a second stands in one row
    proof record;
    gap record;
    tried integer;
    whole int8range;
    beside int8range;
BEGIN
    SELECT v.filter, v.identity INTO conditions, known_as FROM bigbrotr.visits v
    WHERE v.relay_id = p_relay_id AND v.epoch = p_epoch FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the lease on relay % has passed to another process', p_relay_id USING ERRCODE = 'BB001';
    END IF;

    IF cardinality(p_spans) > 0 THEN
        IF known_as IS DISTINCT FROM p_identity THEN
            UPDATE bigbrotr.visits v SET identity = p_identity WHERE v.relay_id = p_relay_id;
        END IF;
        SELECT range_agg(s) INTO spans FROM unnest(p_spans) AS s;
        -- A page nearly always proves what was neither proven nor a gap: one look is less than two changes of nothing.
        SELECT EXISTS (SELECT FROM bigbrotr.coverage c
                       WHERE c.relay_id = p_relay_id AND c.filter = conditions AND c.proven && spans),
               EXISTS (SELECT FROM bigbrotr.gaps g WHERE g.relay_id = p_relay_id AND g.span && spans)
        INTO is_proven, has_gaps;
        IF is_proven THEN
            UPDATE bigbrotr.coverage c SET proven = c.proven - spans
            WHERE c.relay_id = p_relay_id AND c.filter = conditions AND c.proven && spans;
            DELETE FROM bigbrotr.coverage c
            WHERE c.relay_id = p_relay_id AND c.filter = conditions AND isempty(c.proven);
        END IF;
        FOR proof IN
            SELECT u.how, range_agg(u.span) AS proven FROM unnest(p_spans, p_hows) AS u (span, how)
            GROUP BY u.how ORDER BY u.how
        LOOP
            INSERT INTO bigbrotr.coverage AS c (relay_id, filter, how, proven, proven_at)
            SELECT p_relay_id, conditions, proof.how, proof.proven - told, coalesce(max(o.proven_at), p_now)
            FROM bigbrotr.coverage o
            WHERE o.relay_id = p_relay_id AND o.filter = conditions AND o.how = proof.how
              AND o.proven_at > p_now - 3600 AND o.proven_at <= p_now
            ON CONFLICT (relay_id, filter, proven_at, how) DO UPDATE SET proven = c.proven + EXCLUDED.proven;
            told := told + proof.proven;
        END LOOP;
        IF has_gaps THEN
            PERFORM bigbrotr.carve_gaps(
                p_relay_id => p_relay_id, p_filter => nullif(conditions, ''), p_spans => spans, p_is_progress => true);
        END IF;
    END IF;

    IF cardinality(p_gap_spans) = 0 THEN
        RETURN;
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
        -- All that one visit notes counts as one attempt.
        SELECT greatest(1, max(
            g.attempts + CASE WHEN g.span && gap.span OR g.noted_at < p_now - 30 THEN 1 ELSE 0 END)) INTO tried
        FROM bigbrotr.gaps g
        WHERE g.relay_id = p_relay_id AND g.filter = conditions
          AND (g.span && gap.span OR (g.span -|- gap.span AND g.reason = gap.reason));
        PERFORM bigbrotr.carve_gaps(
            p_relay_id => p_relay_id, p_filter => conditions, p_spans => int8multirange(gap.span),
            p_is_progress => false);
        whole := gap.span;
        FOR beside IN
            DELETE FROM bigbrotr.gaps g
            WHERE g.relay_id = p_relay_id AND g.filter = conditions
              AND g.reason = gap.reason AND g.span -|- gap.span
            RETURNING g.span
        LOOP
            whole := range_merge(whole, beside);
        END LOOP;
        INSERT INTO bigbrotr.gaps (relay_id, filter, span, reason, detail, attempts, noted_at, due_at)
        VALUES (p_relay_id, conditions, whole, gap.reason, gap.detail, tried, p_now, p_now + bigbrotr.backoff_s(tried));
    END LOOP;
END $$;
COMMENT ON FUNCTION bigbrotr.record_coverage IS
    'Records what a page has proven for the filter of the visit, with which identity, and which gaps it left. Belongs '
    'into the transaction that stores the events of the page. Refused (BB001) if another process has claimed the '
    'relay.';
