-- Metrics: the state of the archive in numbers.

-- Reads each relay, gap and candidate once, the due entries of the outbox, and no event.
CREATE OR REPLACE FUNCTION bigbrotr.metrics(p_now bigint, p_networks text[])
RETURNS TABLE (name text, labels text[], value double precision)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    SELECT 'archive_events', '{}'::text[], coalesce(sum(t.events), 0)::double precision FROM bigbrotr.tallies t
    UNION ALL
    SELECT 'archive_pairs', '{}', coalesce(sum(t.pairs), 0)::double precision
    FROM bigbrotr.tallies t JOIN bigbrotr.relays r ON r.id = t.relay_id
    UNION ALL
    SELECT 'relays', ARRAY[r.network, s.state], count(*)::double precision
    FROM bigbrotr.visits v JOIN bigbrotr.relays r ON r.id = v.relay_id,
    LATERAL (SELECT bigbrotr.stage_of(v)) AS s (state)  -- retired, live, copying, failing or waiting
    GROUP BY r.network, s.state
    UNION ALL
    SELECT 'relays_complete', ARRAY[r.network], count(*)::double precision
    FROM bigbrotr.visits v JOIN bigbrotr.relays r ON r.id = v.relay_id
    WHERE v.until > v.since AND v.retired_at IS NULL
      AND isempty(bigbrotr.missing_spans(
          p_relay_id => v.relay_id, p_since => v.since, p_until => v.until, p_filter => v.filter, p_now => p_now))
    GROUP BY r.network
    UNION ALL
    SELECT 'relays_checked', ARRAY[r.network, c.state], count(*)::double precision
    FROM bigbrotr.checks c JOIN bigbrotr.relays r ON r.id = c.relay_id
    GROUP BY r.network, c.state
    UNION ALL
    SELECT 'candidates', ARRAY[c.network, s.state], count(*)::double precision
    FROM bigbrotr.candidates c,
    LATERAL (SELECT CASE WHEN c.alias_of IS NOT NULL THEN 'alias'
                         WHEN c.attempts > 0 THEN 'failing'
                         ELSE 'new' END) AS s (state)
    GROUP BY c.network, s.state
    UNION ALL
    SELECT 'gaps', ARRAY[g.reason], count(*)::double precision
    FROM bigbrotr.gaps g JOIN bigbrotr.visits v ON v.relay_id = g.relay_id AND v.filter = g.filter
    GROUP BY g.reason
    UNION ALL
    SELECT f.name, ARRAY['visits'], f.value FROM (
        SELECT count(*)::double precision AS due, coalesce(p_now - min(v.due_at), 0)::double precision AS age
        FROM bigbrotr.visits v JOIN bigbrotr.relays r ON r.id = v.relay_id
        WHERE v.due_at <= p_now AND v.retired_at IS NULL AND r.network = ANY (p_networks)
    ) AS q, LATERAL (VALUES ('backlog', q.due), ('backlog_age_seconds', q.age)) AS f (name, value)
    UNION ALL
    SELECT f.name, ARRAY['candidates'], f.value FROM (
        SELECT count(*)::double precision AS due, coalesce(p_now - min(c.due_at), 0)::double precision AS age
        FROM bigbrotr.candidates c
        WHERE c.due_at <= p_now AND c.alias_of IS NULL AND c.network = ANY (p_networks)
    ) AS q, LATERAL (VALUES ('backlog', q.due), ('backlog_age_seconds', q.age)) AS f (name, value)
    UNION ALL
    SELECT f.name, ARRAY['checks'], f.value FROM (
        SELECT count(*)::double precision AS due, coalesce(p_now - min(c.due_at), 0)::double precision AS age
        FROM bigbrotr.checks c JOIN bigbrotr.relays r ON r.id = c.relay_id
        WHERE c.due_at <= p_now AND r.network = ANY (p_networks)
    ) AS q, LATERAL (VALUES ('backlog', q.due), ('backlog_age_seconds', q.age)) AS f (name, value)
    UNION ALL
    SELECT f.name, ARRAY['outbox'], f.value FROM (
        SELECT count(*)::double precision AS due, coalesce(p_now - min(o.due_at), 0)::double precision AS age
        FROM bigbrotr.outbox o WHERE o.due_at <= p_now
    ) AS q, LATERAL (VALUES ('backlog', q.due), ('backlog_age_seconds', q.age)) AS f (name, value)
    UNION ALL
    SELECT f.name, ARRAY['alerts'], f.value FROM (
        SELECT count(*)::double precision AS due, coalesce(p_now - min(a.due_at), 0)::double precision AS age
        FROM bigbrotr.alerts a WHERE a.due_at <= p_now
    ) AS q, LATERAL (VALUES ('backlog', q.due), ('backlog_age_seconds', q.age)) AS f (name, value)
    UNION ALL
    SELECT f.name, ARRAY['rescues'], f.value FROM (
        SELECT count(*)::double precision AS due, coalesce(p_now - min(r.due_at), 0)::double precision AS age
        FROM bigbrotr.rescues r WHERE r.state IN ('waiting', 'accepted') AND r.due_at <= p_now
    ) AS q, LATERAL (VALUES ('backlog', q.due), ('backlog_age_seconds', q.age)) AS f (name, value)
    UNION ALL
    SELECT f.name, ARRAY['missing'], f.value FROM (
        SELECT count(*)::double precision AS due, coalesce(p_now - min(m.due_at), 0)::double precision AS age
        FROM bigbrotr.missing_events m WHERE m.state = 'waiting' AND m.due_at <= p_now
    ) AS q, LATERAL (VALUES ('backlog', q.due), ('backlog_age_seconds', q.age)) AS f (name, value)
    UNION ALL
    SELECT 'backlog', ARRAY['completeness'], count(*)::double precision
    FROM bigbrotr.completeness_state s JOIN bigbrotr.arrivals a ON (a.xid, a.id) > (s.xid::text::xid8, s.id)
    UNION ALL
    SELECT 'completeness_filling', '{}', count(*)::double precision FROM bigbrotr.completeness_state s WHERE s.after_at IS NOT NULL
    UNION ALL
    SELECT 'backlog', ARRAY['mentions'], count(*)::double precision FROM bigbrotr.mentions
    UNION ALL
    SELECT 'backlog', ARRAY['statistics'], count(*)::double precision
    FROM bigbrotr.days_due(p_made_before => p_now, p_now => p_now, p_limit => NULL)
    UNION ALL
    SELECT 'backlog', ARRAY['compliance'], count(*)::double precision FROM bigbrotr.compliance_due(p_limit => NULL)
    UNION ALL
    SELECT f.name, ARRAY['reviews'], f.value FROM (
        SELECT count(*)::double precision AS due, coalesce(p_now - min(r.noted_at), 0)::double precision AS age
        FROM bigbrotr.reviews r
    ) AS q, LATERAL (VALUES ('backlog', q.due), ('backlog_age_seconds', q.age)) AS f (name, value)
    UNION ALL
    SELECT 'backlog', ARRAY['arrivals'], count(*)::double precision
    FROM bigbrotr.policy_state s JOIN bigbrotr.arrivals a ON (a.xid, a.id) > (s.xid::text::xid8, s.id)
    UNION ALL
    SELECT 'backlog', ARRAY['search'], count(*)::double precision
    FROM bigbrotr.search_state s JOIN bigbrotr.arrivals a ON (a.xid, a.id) > (s.xid::text::xid8, s.id)
    UNION ALL
    SELECT 'backlog', ARRAY['witnesses'], count(*)::double precision
    FROM bigbrotr.witness_state s JOIN bigbrotr.arrivals a ON (a.xid, a.id) > (s.xid::text::xid8, s.id)
    UNION ALL
    SELECT 'backlog', ARRAY['ranks'], count(*)::double precision
    FROM bigbrotr.rank_state s JOIN bigbrotr.arrivals a ON (a.xid, a.id) > (s.xid::text::xid8, s.id)
    UNION ALL
    SELECT 'backlog', ARRAY['operators'], count(*)::double precision
    FROM bigbrotr.snapshots_latest l LEFT JOIN bigbrotr.operator_documents d ON d.relay_id = l.relay_id
    WHERE l.type = 'nip11' AND d.metadata_id IS DISTINCT FROM l.metadata_id
    UNION ALL
    SELECT 'search_filling', '{}', count(*)::double precision FROM bigbrotr.search_state s WHERE s.after_at IS NOT NULL
    UNION ALL
    SELECT 'database_size_bytes', '{}', pg_database_size(current_database())::double precision;
END $$;
COMMENT ON FUNCTION bigbrotr.metrics IS
    'The state of the archive in numbers: a row for each metric, with its name and the values of its labels. The '
    'backlog counts what is due in the networks p_networks only.';
