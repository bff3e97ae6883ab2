-- Reads: pages for those who read over HTTP. A page begins behind the last row of the one before, so that each costs the
-- same. A parameter that is NULL stands for any value.

CREATE OR REPLACE FUNCTION bigbrotr.open_ms_of(p_rtt bigbrotr.rtts) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN round(((p_rtt).tcp_ms + coalesce((p_rtt).tls_ms, 0) + (p_rtt).upgrade_ms)::numeric, 2)::double precision;
COMMENT ON FUNCTION bigbrotr.open_ms_of IS
    'Time to open a relay: TCP, TLS and upgrade together, in milliseconds with two decimals.';

-- One plan serves any page, row by row.
CREATE OR REPLACE FUNCTION bigbrotr.relay_rows(p_ids bigint[]) RETURNS TABLE (
    id bigint, url text, network text, stage text, state text, since bigint, checked_at bigint, discovered_at bigint,
    holds bigint, brought bigint, name text, software text, version text, nips jsonb, country text, open_ms double precision,
    read_ms double precision, uptime double precision, coverage double precision, alone bigint
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET join_collapse_limit = 1
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
BEGIN
    RETURN QUERY
    SELECT f.id, r.url, r.network, coalesce(bigbrotr.stage_of(v), 'waiting'), coalesce(c.state, 'unknown'), c.since,
           c.checked_at, r.discovered_at, coalesce(t.pairs, 0), coalesce(t.events, 0), left(d.data ->> 'name', 200),
           left(d.data ->> 'software', 200), left(d.data ->> 'version', 200), d.data -> 'supported_nips', g.data ->> 'country',
           bigbrotr.open_ms_of(s), round(s.read_ms::numeric, 2)::double precision, m.uptime, m.coverage, m.alone
    FROM unnest(p_ids) AS f (id)
    JOIN bigbrotr.relays r ON r.id = f.id
    LEFT JOIN bigbrotr.visits v ON v.relay_id = f.id
    LEFT JOIN bigbrotr.tallies t ON t.relay_id = f.id
    LEFT JOIN bigbrotr.checks c ON c.relay_id = f.id
    LEFT JOIN bigbrotr.rtts s ON s.relay_id = f.id AND s.checked_at = c.checked_at
    LEFT JOIN bigbrotr.snapshots_latest n ON n.relay_id = f.id AND n.type = 'nip11'
    LEFT JOIN bigbrotr.metadata d ON d.id = n.metadata_id
    LEFT JOIN bigbrotr.snapshots_latest l ON l.relay_id = f.id AND l.type = 'nip66_geo'
    LEFT JOIN bigbrotr.metadata g ON g.id = l.metadata_id
    LEFT JOIN bigbrotr.relay_sums m ON m.relay_id = f.id;
END $$;
COMMENT ON FUNCTION bigbrotr.relay_rows IS 'What is shown of the relays p_ids in a list; times in Unix seconds.';

-- To look for the best order of so many joins would take longer than to do them in this one; joins that no condition needs
-- are left out. The rank orders the rows of a sort, what is not known last; by URL alone it is 0, and the index has the
-- order.
CREATE OR REPLACE FUNCTION bigbrotr.find_relays(
    p_networks text[], p_states text[], p_stages text[], p_country text, p_software text, p_nips integer[], p_text text,
    p_sort text, p_after_rank double precision, p_after_url text, p_limit integer,
    OUT ids bigint[], OUT ranks double precision[]
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan SET join_collapse_limit = 1 AS $$
BEGIN
    IF p_sort = 'url' AND num_nonnulls(p_networks, p_states, p_stages, p_country, p_software, p_nips, p_text) = 0 THEN
        SELECT array_agg(f.id), array_agg(0::double precision) INTO ids, ranks
        FROM (SELECT r.id FROM bigbrotr.relays r WHERE r.url > coalesce(p_after_url, '') ORDER BY r.url LIMIT p_limit) AS f;
        RETURN;
    END IF;
    SELECT array_agg(f.id ORDER BY f.rank, f.url), array_agg(f.rank ORDER BY f.rank, f.url) INTO ids, ranks
    FROM (
        SELECT r.id, r.url, k.rank
        FROM bigbrotr.relays r
        LEFT JOIN bigbrotr.visits v ON v.relay_id = r.id
        LEFT JOIN bigbrotr.tallies t ON t.relay_id = r.id
        LEFT JOIN bigbrotr.checks c ON c.relay_id = r.id
        LEFT JOIN bigbrotr.rtts s ON s.relay_id = r.id AND s.checked_at = c.checked_at
        LEFT JOIN bigbrotr.snapshots_latest n ON n.relay_id = r.id AND n.type = 'nip11'
        LEFT JOIN bigbrotr.metadata d ON d.id = n.metadata_id
        LEFT JOIN bigbrotr.snapshots_latest l ON l.relay_id = r.id AND l.type = 'nip66_geo'
        LEFT JOIN bigbrotr.metadata g ON g.id = l.metadata_id
        LEFT JOIN bigbrotr.relay_sums m ON m.relay_id = r.id
        CROSS JOIN LATERAL (SELECT CASE p_sort
            WHEN 'holds' THEN -coalesce(t.pairs, 0)::double precision
            WHEN 'brought' THEN -coalesce(t.events, 0)::double precision
            WHEN 'discovered_at' THEN -r.discovered_at::double precision
            WHEN 'checked_at' THEN -coalesce(c.checked_at, 0)::double precision
            WHEN 'open_ms' THEN coalesce(bigbrotr.open_ms_of(s), 1e12)
            WHEN 'uptime' THEN -coalesce(m.uptime, -1)
            WHEN 'coverage' THEN -coalesce(m.coverage, -1)
            WHEN 'alone' THEN -coalesce(m.alone, -1)::double precision
            ELSE 0 END) AS k (rank)
        WHERE (p_networks IS NULL OR r.network = ANY (p_networks))
          AND (p_states IS NULL OR coalesce(c.state, 'unknown') = ANY (p_states))
          AND (p_stages IS NULL OR coalesce(bigbrotr.stage_of(v), 'waiting') = ANY (p_stages))
          AND (p_country IS NULL OR g.data ->> 'country' = p_country)
          AND (p_software IS NULL OR strpos(lower(d.data ->> 'software'), lower(p_software)) > 0)
          AND (p_nips IS NULL OR d.data -> 'supported_nips' @> to_jsonb(p_nips))
          AND (p_text IS NULL OR strpos(lower(r.url), lower(p_text)) > 0
               OR strpos(lower(d.data ->> 'name'), lower(p_text)) > 0
               OR strpos(lower(d.data ->> 'description'), lower(p_text)) > 0)
          AND (p_after_url IS NULL OR p_sort <> 'url' OR r.url > p_after_url)
          AND (p_after_url IS NULL OR p_sort = 'url' OR (k.rank, r.url) > (p_after_rank, p_after_url))
        ORDER BY k.rank, r.url LIMIT p_limit
    ) AS f;
END $$;
COMMENT ON FUNCTION bigbrotr.find_relays IS
    'A page of relays that fulfil all conditions: their ids, and their ranks in the sort. p_software and p_text: a part of '
    'it, in any case; p_text looks into URL, name and description. p_nips: claims all of these. p_sort: url, holds, brought, '
    'discovered_at, checked_at, uptime, coverage, alone (largest first) or open_ms (smallest first). The page begins behind the row with '
    'p_after_rank and p_after_url.';

CREATE OR REPLACE FUNCTION bigbrotr.list_candidates(
    p_networks text[], p_source text, p_outcome text, p_text text, p_aliases boolean, p_after_url text, p_limit integer
) RETURNS TABLE (
    url text, network text, source text, discovered_at bigint, named integer, attempts integer, tried_at bigint,
    outcome text, alias_of text
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    RETURN QUERY
    SELECT c.url, c.network, c.source, c.discovered_at, c.named, c.attempts, c.tried_at, c.outcome, r.url
    FROM bigbrotr.candidates c LEFT JOIN bigbrotr.relays r ON r.id = c.alias_of
    WHERE (p_networks IS NULL OR c.network = ANY (p_networks))
      AND (p_source IS NULL OR c.source = p_source)
      AND (p_outcome IS NULL OR c.outcome = p_outcome)
      AND (p_text IS NULL OR strpos(c.url, lower(p_text)) > 0)
      AND (p_aliases IS NULL OR (c.alias_of IS NOT NULL) = p_aliases)
      AND (p_after_url IS NULL OR c.url > p_after_url)
    ORDER BY c.url LIMIT p_limit;
END $$;
COMMENT ON FUNCTION bigbrotr.list_candidates IS
    'A page of candidates by URL that fulfil all conditions; times in Unix seconds. p_text: a part of the URL. '
    'p_aliases: only those that repeat a relay, or only the others. The page begins behind p_after_url.';

CREATE OR REPLACE FUNCTION bigbrotr.list_rtts(p_url text, p_since bigint, p_until bigint, p_after_at bigint, p_limit integer)
RETURNS TABLE (
    checked_at bigint, is_up boolean, outcome text, dns_ms double precision, tcp_ms double precision,
    tls_ms double precision, upgrade_ms double precision, open_ms double precision, read_ms double precision,
    write_ms double precision
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    RETURN QUERY
    SELECT s.checked_at, s.outcome IS NULL, s.outcome, round(s.dns_ms::numeric, 2)::double precision,
           round(s.tcp_ms::numeric, 2)::double precision, round(s.tls_ms::numeric, 2)::double precision,
           round(s.upgrade_ms::numeric, 2)::double precision, bigbrotr.open_ms_of(s),
           round(s.read_ms::numeric, 2)::double precision, round(s.write_ms::numeric, 2)::double precision
    FROM bigbrotr.rtts s
    WHERE s.relay_id = (SELECT r.id FROM bigbrotr.relays r WHERE r.url = p_url)
      AND (p_since IS NULL OR s.checked_at >= p_since)
      AND (p_until IS NULL OR s.checked_at < p_until)
      AND (p_after_at IS NULL OR s.checked_at < p_after_at)
    ORDER BY s.checked_at DESC LIMIT p_limit;
END $$;
COMMENT ON FUNCTION bigbrotr.list_rtts IS
    'A page of the checks of the relay at p_url within [p_since, p_until), in Unix seconds, the newest first: whether '
    'it was up, or why not, and its round-trip times in milliseconds. The page begins before p_after_at.';

CREATE OR REPLACE FUNCTION bigbrotr.list_documents(
    p_url text, p_types text[], p_since bigint, p_until bigint, p_after_at bigint, p_after_type text, p_limit integer
) RETURNS TABLE (type text, snapshot_at bigint, id bytea, data jsonb)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    RETURN QUERY
    SELECT s.type, s.snapshot_at, s.metadata_id, m.data
    FROM bigbrotr.snapshots s JOIN bigbrotr.metadata m ON m.id = s.metadata_id
    WHERE s.relay_id = (SELECT r.id FROM bigbrotr.relays r WHERE r.url = p_url)
      AND (p_types IS NULL OR s.type = ANY (p_types))
      AND (p_since IS NULL OR s.snapshot_at >= p_since)
      AND (p_until IS NULL OR s.snapshot_at < p_until)
      AND (p_after_at IS NULL OR (-s.snapshot_at, s.type) > (-p_after_at, p_after_type))
    ORDER BY s.snapshot_at DESC, s.type LIMIT p_limit;
END $$;
COMMENT ON FUNCTION bigbrotr.list_documents IS
    'A page of the documents of the relay at p_url within [p_since, p_until), in Unix seconds, the newest first. The '
    'page begins behind the document with p_after_at and p_after_type.';

CREATE OR REPLACE FUNCTION bigbrotr.list_gaps(
    p_url text, p_reasons text[], p_after_span int8range, p_after_filter text, p_limit integer
) RETURNS TABLE (span int8range, filter text, reason text, attempts integer, noted_at bigint, due_at bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    RETURN QUERY
    SELECT g.span, g.filter, g.reason, g.attempts, g.noted_at, g.due_at
    FROM bigbrotr.gaps g
    WHERE g.relay_id = (SELECT r.id FROM bigbrotr.relays r WHERE r.url = p_url)
      AND (p_reasons IS NULL OR g.reason = ANY (p_reasons))
      AND (p_after_span IS NULL OR (g.span, g.filter) > (p_after_span, p_after_filter))
    ORDER BY g.span, g.filter LIMIT p_limit;
END $$;
COMMENT ON FUNCTION bigbrotr.list_gaps IS
    'A page of the gaps of the relay at p_url, oldest first, for any filter. The page begins behind the gap with '
    'p_after_span and p_after_filter.';

CREATE OR REPLACE FUNCTION bigbrotr.list_coverage(
    p_url text, p_hows text[], p_after_at bigint, p_after_filter text, p_after_how text, p_limit integer
) RETURNS TABLE (proven_at bigint, filter text, how text, proven int8multirange)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    RETURN QUERY
    SELECT c.proven_at, c.filter, c.how, c.proven
    FROM bigbrotr.coverage c
    WHERE c.relay_id = (SELECT r.id FROM bigbrotr.relays r WHERE r.url = p_url)
      AND (p_hows IS NULL OR c.how = ANY (p_hows))
      AND (p_after_at IS NULL OR (-c.proven_at, c.filter, c.how) > (-p_after_at, p_after_filter, p_after_how))
    ORDER BY c.proven_at DESC, c.filter, c.how LIMIT p_limit;
END $$;
COMMENT ON FUNCTION bigbrotr.list_coverage IS
    'A page of the proofs of the relay at p_url, the newest first, for any filter. The page begins behind the proof '
    'with p_after_at, p_after_filter and p_after_how.';

-- Events as they are sent: where no tags are asked for, one look finds them and makes their text from the rows it has.
CREATE OR REPLACE FUNCTION bigbrotr.event_text(
    p_id bytea, p_pubkey bytea, p_created_at bigint, p_kind integer, p_tags text, p_content text, p_sig bytea
) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN '{"id":"' || encode(p_id, 'hex') || '","pubkey":"' || encode(p_pubkey, 'hex')
    || '","created_at":' || p_created_at || ',"kind":' || p_kind
    || coalesce(',"tags":' || p_tags || ',"content":' || to_json(p_content)::text || ',"sig":"' || encode(p_sig, 'hex')
                || '"}', '}');
COMMENT ON FUNCTION bigbrotr.event_text IS
    'An event as a JSON object; without tags, content and signature where one of them is NULL.';

CREATE OR REPLACE FUNCTION bigbrotr.event_lines(
    p_way text, p_since bigint, p_until bigint, p_after_at bigint, p_after_id bytea, p_kinds integer[], p_pubkeys bytea[],
    p_limit integer, p_examine integer, p_most_bytes bigint, p_view text, p_now bigint,
    OUT lines bytea, OUT number integer, OUT matches integer, OUT last_at bigint, OUT last_id bytea, OUT is_raw boolean
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    shown record;
    ids   bytea[];
BEGIN
    SELECT v.hides, v.expired_by INTO shown FROM bigbrotr.view_hides(p_view, p_now) AS v;
    CASE p_way
    WHEN 'walk_events' THEN
        SELECT convert_to(string_agg(bigbrotr.event_text(
                   p_id => t.id, p_pubkey => t.pubkey, p_created_at => t.created_at, p_kind => t.kind, p_tags => t.tags,
                   p_content => t.content, p_sig => t.sig), E'\n') FILTER (WHERE t.is_shown), 'UTF8'),
               count(*) FILTER (WHERE t.is_shown), count(*), min(t.created_at) FILTER (WHERE t.is_shown),
               array_agg(t.id) FILTER (WHERE t.is_shown)
        INTO lines, number, matches, last_at, ids
        FROM (
            SELECT f.*, row_number() OVER () <= p_limit AND coalesce(sum(octet_length(f.tags) + octet_length(f.content))
                   OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) < p_most_bytes AS is_shown
            FROM (
                SELECT e.* FROM (
                    SELECT x.created_at, x.id, x.slice, x.pubkey, x.kind, x.tags, x.content, x.sig
                    FROM bigbrotr.events_stored x
                    WHERE x.created_at >= p_since AND x.created_at <= p_until
                      AND (p_after_at IS NULL OR x.created_at < p_after_at OR (x.created_at = p_after_at AND x.id > p_after_id))
                    ORDER BY x.created_at DESC, x.id LIMIT p_examine
                ) AS e
                WHERE (p_kinds IS NULL OR e.kind = ANY (p_kinds))
                  AND (p_pubkeys IS NULL OR e.pubkey IN (SELECT unnest(p_pubkeys)))
                  AND (SELECT true FROM bigbrotr.hidden h
                       WHERE h.created_at = e.created_at AND h.slice = e.slice AND h.id = e.id
                         AND (h.why & shown.hides <> 0 OR h.expires_at <= shown.expired_by)) IS NULL
                LIMIT p_limit + 1
            ) AS f
        ) AS t;
    WHEN 'find_by_pubkeys' THEN
        SELECT convert_to(string_agg(bigbrotr.event_text(
                   p_id => t.id, p_pubkey => t.pubkey, p_created_at => t.created_at, p_kind => t.kind, p_tags => t.tags,
                   p_content => t.content, p_sig => t.sig), E'\n') FILTER (WHERE t.is_shown), 'UTF8'),
               count(*) FILTER (WHERE t.is_shown), count(*), min(t.created_at) FILTER (WHERE t.is_shown),
               array_agg(t.id) FILTER (WHERE t.is_shown)
        INTO lines, number, matches, last_at, ids
        FROM (
            SELECT f.*, row_number() OVER () <= p_limit AND coalesce(sum(octet_length(f.tags) + octet_length(f.content))
                   OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) < p_most_bytes AS is_shown
            FROM (
                SELECT e.* FROM unnest(p_pubkeys) AS u (pubkey) CROSS JOIN LATERAL (
                    SELECT x.created_at, x.id, x.slice, x.pubkey, x.kind, x.tags, x.content, x.sig
                    FROM bigbrotr.events_stored x
                    WHERE x.pubkey = u.pubkey AND x.created_at >= p_since AND x.created_at <= p_until
                      AND (p_after_at IS NULL OR x.created_at < p_after_at OR (x.created_at = p_after_at AND x.id > p_after_id))
                      AND (p_kinds IS NULL OR x.kind + 0 = ANY (p_kinds))
                      AND (SELECT true FROM bigbrotr.hidden h
                           WHERE h.created_at = x.created_at AND h.slice = x.slice AND h.id = x.id
                             AND (h.why & shown.hides <> 0 OR h.expires_at <= shown.expired_by)) IS NULL
                    ORDER BY x.pubkey, x.created_at DESC, x.id LIMIT p_limit + 1
                ) AS e
                ORDER BY e.created_at DESC, e.id LIMIT p_limit + 1
            ) AS f
        ) AS t;
    WHEN 'find_by_kinds' THEN
        SELECT convert_to(string_agg(bigbrotr.event_text(
                   p_id => t.id, p_pubkey => t.pubkey, p_created_at => t.created_at, p_kind => t.kind, p_tags => t.tags,
                   p_content => t.content, p_sig => t.sig), E'\n') FILTER (WHERE t.is_shown), 'UTF8'),
               count(*) FILTER (WHERE t.is_shown), count(*), min(t.created_at) FILTER (WHERE t.is_shown),
               array_agg(t.id) FILTER (WHERE t.is_shown)
        INTO lines, number, matches, last_at, ids
        FROM (
            SELECT f.*, row_number() OVER () <= p_limit AND coalesce(sum(octet_length(f.tags) + octet_length(f.content))
                   OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) < p_most_bytes AS is_shown
            FROM (
                SELECT e.* FROM unnest(p_kinds) AS u (kind) CROSS JOIN LATERAL (
                    SELECT x.created_at, x.id, x.slice, x.pubkey, x.kind, x.tags, x.content, x.sig
                    FROM bigbrotr.events_stored x
                    WHERE x.kind = u.kind AND x.created_at >= p_since AND x.created_at <= p_until
                      AND (p_after_at IS NULL OR x.created_at < p_after_at OR (x.created_at = p_after_at AND x.id > p_after_id))
                      AND (p_pubkeys IS NULL OR x.pubkey || '' = ANY (p_pubkeys))
                      AND (SELECT true FROM bigbrotr.hidden h
                           WHERE h.created_at = x.created_at AND h.slice = x.slice AND h.id = x.id
                             AND (h.why & shown.hides <> 0 OR h.expires_at <= shown.expired_by)) IS NULL
                    ORDER BY x.kind, x.created_at DESC, x.id LIMIT p_limit + 1
                ) AS e
                ORDER BY e.created_at DESC, e.id LIMIT p_limit + 1
            ) AS f
        ) AS t;
    END CASE;
    last_id := ids[number];
    is_raw := EXISTS (SELECT FROM bigbrotr.events_raw w WHERE w.event_id = ANY (ids));
END $$;
COMMENT ON FUNCTION bigbrotr.event_lines IS
    'Up to p_limit events, newest first and by id within a second, as JSON objects, one a line (UTF-8); as few as tags and content '
    'of p_most_bytes take, but for the last of them; those that a view shows as of p_now (Unix seconds). p_way, p_examine and the conditions are those of events_page, without '
    'tags. number: how many lines there are; matches: how many there are, p_limit + 1 at most; last_at and last_id: of the '
    'last line; is_raw: the exact bytes of one of them are in events_raw. matches NULL: another way has to be taken.';

CREATE OR REPLACE FUNCTION bigbrotr.relays_at_risk(p_kinds integer[])
RETURNS TABLE (
    url text, network text, state text, since bigint, stage text, events bigint, alone bigint, endangered bigint
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    failing integer[] := bigbrotr.unwell_relays();
BEGIN
    RETURN QUERY
    WITH few AS (
        SELECT s.holders, sum(s.events)::bigint AS events, s.holders <@ failing AS is_endangered
        FROM bigbrotr.scarce s WHERE p_kinds IS NULL OR s.kind = ANY (p_kinds) GROUP BY s.holders
    ), by_relay AS (
        SELECT h.relay_id, coalesce(sum(f.events) FILTER (WHERE cardinality(f.holders) = 1), 0)::bigint AS alone,
               coalesce(sum(f.events) FILTER (WHERE f.is_endangered), 0)::bigint AS endangered
        FROM few f CROSS JOIN unnest(f.holders) AS h (relay_id) GROUP BY h.relay_id
    )
    SELECT r.url, r.network, coalesce(c.state, 'unknown'), c.since, coalesce(bigbrotr.stage_of(v), 'waiting'),
           coalesce(t.pairs, 0), b.alone, b.endangered
    FROM by_relay b
    JOIN bigbrotr.relays r ON r.id = b.relay_id
    LEFT JOIN bigbrotr.visits v ON v.relay_id = b.relay_id
    LEFT JOIN bigbrotr.checks c ON c.relay_id = b.relay_id
    LEFT JOIN bigbrotr.tallies t ON t.relay_id = b.relay_id
    WHERE b.alone > 0 OR b.endangered > 0;
END $$;
COMMENT ON FUNCTION bigbrotr.relays_at_risk IS
    'Relays that alone hold events, or together with failing ones only (see unwell_relays; endangered): how many, of how '
    'many that they hold, as far as days have been counted and no more than three relays hold an event; their state, since '
    'when (Unix seconds), and their stage. p_kinds: only events of these kinds.';

CREATE OR REPLACE FUNCTION bigbrotr.kinds_at_risk(p_url text)
RETURNS TABLE (kind integer, alone bigint, endangered bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    failing integer[] := bigbrotr.unwell_relays();
    holder  integer := (SELECT r.id FROM bigbrotr.relays r WHERE r.url = p_url);
BEGIN
    IF p_url IS NOT NULL AND holder IS NULL THEN
        RETURN;
    END IF;
    RETURN NEXT;  -- there is such a relay
    RETURN QUERY
    SELECT x.kind, x.alone, x.endangered FROM (
        SELECT s.kind, coalesce(sum(s.events) FILTER (WHERE cardinality(s.holders) = 1), 0)::bigint AS alone,
               coalesce(sum(s.events) FILTER (WHERE s.holders <@ failing), 0)::bigint AS endangered
        FROM bigbrotr.scarce s WHERE holder IS NULL OR holder = ANY (s.holders) GROUP BY s.kind
    ) AS x
    WHERE x.alone > 0 OR x.endangered > 0
    ORDER BY x.kind;
END $$;
COMMENT ON FUNCTION bigbrotr.kinds_at_risk IS
    'Events that one relay alone holds, or only failing ones, by kind; with p_url those that this relay holds. The first row is '
    'empty; no row: there is no such relay.';

CREATE OR REPLACE FUNCTION bigbrotr.risk_basis(p_now bigint)
RETURNS TABLE (
    alone bigint, endangered bigint, counted bigint, archived bigint, days_waiting bigint, relays bigint, failing bigint,
    copied bigint, counted_at bigint
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    ill integer[] := bigbrotr.unwell_relays();
BEGIN
    RETURN QUERY
    SELECT f.alone, f.endangered, d.events, (SELECT coalesce(sum(t.events), 0)::bigint FROM bigbrotr.tallies t),
           (SELECT count(*) FROM bigbrotr.days_due(p_made_before => p_now, p_now => p_now, p_limit => NULL)),
           (SELECT count(*) FROM bigbrotr.relays), cardinality(ill)::bigint,
           (SELECT count(*) FROM bigbrotr.relays r JOIN bigbrotr.tallies t ON t.relay_id = r.id WHERE t.pairs > 0), d.at
    FROM (
        SELECT coalesce(sum(s.events) FILTER (WHERE cardinality(s.holders) = 1), 0)::bigint AS alone,
               coalesce(sum(s.events) FILTER (WHERE s.holders <@ ill), 0)::bigint AS endangered
        FROM bigbrotr.scarce s
    ) AS f, (SELECT coalesce(sum(t.events), 0)::bigint AS events, max(t.made_at) AS at FROM bigbrotr.day_totals t) AS d;
END $$;
COMMENT ON FUNCTION bigbrotr.risk_basis IS
    'How many events one relay alone holds, and how many only failing ones; of how many that were counted and are archived; '
    'days that wait to be counted; relays, failing ones, those that hold anything; and when a day was last counted (Unix '
    'seconds).';

CREATE OR REPLACE FUNCTION bigbrotr.author_at_risk(p_pubkey bytea, p_most integer)
RETURNS TABLE (kind integer, holders integer[], events bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    times bigint[];
    ids   bytea[];
    kinds integer[];
BEGIN
    SELECT array_agg(x.created_at ORDER BY x.created_at, x.id), array_agg(x.id ORDER BY x.created_at, x.id),
           array_agg(x.kind ORDER BY x.created_at, x.id)
    INTO times, ids, kinds
    FROM (
        SELECT e.created_at, e.id, e.kind FROM bigbrotr.events_stored e
        WHERE e.pubkey = p_pubkey ORDER BY e.pubkey, e.created_at DESC LIMIT p_most
    ) AS x;
    RETURN QUERY
    SELECT k.kind, h.holders, count(*)
    FROM unnest(kinds) WITH ORDINALITY AS k (kind, position)
    LEFT JOIN bigbrotr.holders_of_each(p_created_ats => times, p_ids => ids) AS h ON h.position = k.position
    GROUP BY k.kind, h.holders;
END $$;
COMMENT ON FUNCTION bigbrotr.author_at_risk IS
    'Of the newest p_most events of an author: how many of each kind are held by just these relays (their numbers, ascending; '
    'NULL: none).';

-- Authors: their newest events stand for all where there are many.
CREATE OR REPLACE FUNCTION bigbrotr.author_kinds(p_pubkey bytea, p_most integer)
RETURNS TABLE (kind integer, events bigint, first_at bigint, last_at bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN QUERY
    SELECT x.kind, count(*), min(x.created_at), max(x.created_at)
    FROM (
        SELECT e.kind, e.created_at FROM bigbrotr.events_stored e
        WHERE e.pubkey = p_pubkey ORDER BY e.pubkey, e.created_at DESC LIMIT p_most
    ) AS x
    GROUP BY x.kind ORDER BY 2 DESC, 1;
END $$;
COMMENT ON FUNCTION bigbrotr.author_kinds IS
    'How many of the newest p_most events of an author are of each kind, and from when to when; times in Unix seconds.';

CREATE OR REPLACE FUNCTION bigbrotr.author_began(p_pubkey bytea) RETURNS bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN (SELECT e.created_at FROM bigbrotr.events_stored e
            WHERE e.pubkey = p_pubkey ORDER BY e.pubkey, e.created_at LIMIT 1);
END $$;
COMMENT ON FUNCTION bigbrotr.author_began IS 'When the first event of an author was created, in Unix seconds; NULL: there is none.';

CREATE OR REPLACE FUNCTION bigbrotr.holders_of(p_slices integer[], p_nums bigint[])
RETURNS TABLE (url text, held bigint, alone bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN QUERY
    SELECT r.url, count(*), count(*) FILTER (WHERE h.holders = 1)
    FROM (
        SELECT p.relay_id, count(*) OVER (PARTITION BY u.num) AS holders
        FROM unnest(p_slices, p_nums) AS u (slice, num)
        JOIN bigbrotr.presence p ON p.slice = u.slice AND p.chunk = u.num >> 8
        WHERE p.seen_ats[(u.num & 255)::integer + 1] IS NOT NULL
    ) AS h
    JOIN bigbrotr.relays r ON r.id = h.relay_id
    GROUP BY r.url ORDER BY 2 DESC, 1;
END $$;
COMMENT ON FUNCTION bigbrotr.holders_of IS
    'Which relays hold how many of these events (arrays of one length: their slices and numbers), and how many of them no '
    'other relay is known to hold; those that hold most first.';

CREATE OR REPLACE FUNCTION bigbrotr.author_holders(p_pubkey bytea, p_most integer)
RETURNS TABLE (url text, held bigint, alone bigint, sample integer)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    slices integer[];
    nums   bigint[];
BEGIN
    SELECT array_agg(x.slice), array_agg(x.num) INTO slices, nums
    FROM (
        SELECT e.slice, e.num FROM bigbrotr.events_stored e
        WHERE e.pubkey = p_pubkey ORDER BY e.pubkey, e.created_at DESC LIMIT p_most
    ) AS x;
    sample := coalesce(cardinality(nums), 0);
    RETURN NEXT;
    RETURN QUERY
    SELECT h.url, h.held, h.alone, NULL::integer FROM bigbrotr.holders_of(p_slices => slices, p_nums => nums) AS h;
END $$;
COMMENT ON FUNCTION bigbrotr.author_holders IS
    'Which relays hold how many of the newest p_most events of an author, as holders_of has it; the first row has how many '
    'events these are.';

-- A relay's newest week is where the look begins: it may have ended long ago.
-- A day is in one week; a relay holds few events of most days.
CREATE OR REPLACE FUNCTION bigbrotr.held_alone(p_url text, p_examine integer, p_limit integer)
RETURNS TABLE (created_at bigint, id bytea)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    holder  integer := (SELECT r.id FROM bigbrotr.relays r WHERE r.url = p_url);
    of_day  bigint;
    times   bigint[];
    ids     bytea[];
    alone   boolean[];
    to_read integer := p_examine;
    wanted  integer := p_limit;
BEGIN
    FOR of_day IN
        SELECT d.day FROM bigbrotr.day_relays d WHERE d.relay_id = holder AND d.alone > 0 ORDER BY d.day DESC
    LOOP
        SELECT array_agg(x.created_at), array_agg(x.id), array_agg(
            x.seen_ats[(x.num & 255)::integer + 1] IS NOT NULL AND NOT EXISTS (
                SELECT FROM bigbrotr.presence o
                WHERE o.slice = bigbrotr.slice_of(86400 * of_day) AND o.chunk = x.num >> 8 AND o.relay_id <> holder
                  AND o.seen_ats[(x.num & 255)::integer + 1] IS NOT NULL))
        INTO times, ids, alone
        FROM (
            SELECT e.created_at, e.id, e.num, p.seen_ats
            FROM (
                SELECT s.created_at, s.id, s.num FROM bigbrotr.events_stored s
                WHERE s.slice = bigbrotr.slice_of(86400 * of_day)
                  AND s.created_at >= 86400 * of_day AND s.created_at < 86400 * (of_day + 1)
                ORDER BY s.created_at DESC, s.id LIMIT to_read
            ) AS e
            LEFT JOIN bigbrotr.presence p
                ON p.slice = bigbrotr.slice_of(86400 * of_day) AND p.chunk = e.num >> 8 AND p.relay_id = holder
        ) AS x;
        RETURN QUERY
        SELECT u.created_at, u.id FROM unnest(times, ids, alone) WITH ORDINALITY AS u (created_at, id, is_alone, position)
        WHERE u.is_alone ORDER BY u.position LIMIT wanted;
        to_read := to_read - coalesce(cardinality(times), 0);
        wanted := wanted - coalesce(cardinality(array_positions(alone, true)), 0);
        EXIT WHEN to_read <= 0 OR wanted <= 0;
    END LOOP;
END $$;
COMMENT ON FUNCTION bigbrotr.held_alone IS
    'Up to p_limit of the newest events that the relay at p_url alone is known to hold, newest first, among the newest '
    'p_examine archived events of the days of which it holds any alone, as they were counted.';

CREATE OR REPLACE FUNCTION bigbrotr.relay_sample(
    p_relay_id integer, p_until bigint, p_examine integer,
    OUT created_ats bigint[], OUT slices integer[], OUT nums bigint[], OUT kinds integer[], OUT are_held boolean[]
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    top      integer;
    until_at bigint;
BEGIN
    SELECT p.slice INTO top FROM bigbrotr.presence p
    WHERE p.relay_id = p_relay_id AND p.slice <= bigbrotr.slice_of(p_until) ORDER BY p.relay_id DESC, p.slice DESC LIMIT 1;
    IF top IS NULL THEN
        RETURN;
    END IF;
    until_at := least(p_until, bigbrotr.slice_end(top));
    SELECT array_agg(x.created_at), array_agg(x.slice), array_agg(x.num), array_agg(x.kind),
           array_agg(x.seen_ats[(x.num & 255)::integer + 1] IS NOT NULL)
    INTO created_ats, slices, nums, kinds, are_held
    FROM (
        SELECT e.created_at, e.slice, e.num, e.kind, p.seen_ats
        FROM (
            SELECT s.created_at, s.slice, s.num, s.kind FROM bigbrotr.events_stored s
            WHERE s.created_at < until_at ORDER BY s.created_at DESC LIMIT p_examine
        ) AS e
        LEFT JOIN bigbrotr.presence p ON p.slice = e.slice AND p.chunk = e.num >> 8 AND p.relay_id = p_relay_id
    ) AS x;
END $$;
COMMENT ON FUNCTION bigbrotr.relay_sample IS
    'The newest p_examine archived events before p_until (Unix seconds), from the newest week on in which the relay '
    'holds any, and whether it holds each. NULLs: it holds none.';

CREATE OR REPLACE FUNCTION bigbrotr.relay_kinds(p_url text, p_until bigint, p_examine integer)
RETURNS TABLE (kind integer, archived bigint, held bigint, since bigint, until bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    found_id integer := (SELECT r.id FROM bigbrotr.relays r WHERE r.url = p_url);
    times    bigint[];
    kinds    integer[];
    are_held boolean[];
BEGIN
    IF found_id IS NULL THEN
        RETURN;
    END IF;
    SELECT s.created_ats, s.kinds, s.are_held INTO times, kinds, are_held
    FROM bigbrotr.relay_sample(p_relay_id => found_id, p_until => p_until, p_examine => p_examine) AS s;
    archived := coalesce(cardinality(times), 0);
    since := times[archived];
    until := times[1] + 1;
    RETURN NEXT;
    RETURN QUERY
    SELECT u.kind, count(*), count(*) FILTER (WHERE u.is_held), NULL::bigint, NULL::bigint
    FROM unnest(kinds, are_held) AS u (kind, is_held) GROUP BY u.kind ORDER BY 3 DESC, 2 DESC, 1;
END $$;
COMMENT ON FUNCTION bigbrotr.relay_kinds IS
    'How many events of each kind are archived in a sample, see relay_sample, and how many of them the relay at p_url '
    'holds. The first row has the sample: its size and [since, until) in Unix seconds. No row: there is no such relay.';

CREATE OR REPLACE FUNCTION bigbrotr.relay_overlap(p_url text, p_until bigint, p_examine integer)
RETURNS TABLE (url text, held bigint, alone bigint, looked integer, since bigint, until bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    found_id integer := (SELECT r.id FROM bigbrotr.relays r WHERE r.url = p_url);
    times    bigint[];
    slices   integer[];
    nums     bigint[];
    are_held boolean[];
BEGIN
    IF found_id IS NULL THEN
        RETURN;
    END IF;
    SELECT s.created_ats, s.slices, s.nums, s.are_held INTO times, slices, nums, are_held
    FROM bigbrotr.relay_sample(p_relay_id => found_id, p_until => p_until, p_examine => p_examine) AS s;
    looked := coalesce(cardinality(times), 0);
    since := times[looked];
    until := times[1] + 1;
    RETURN NEXT;
    SELECT array_agg(u.slice), array_agg(u.num) INTO slices, nums
    FROM unnest(slices, nums, are_held) AS u (slice, num, is_held) WHERE u.is_held;
    RETURN QUERY
    SELECT h.url, h.held, h.alone, NULL::integer, NULL::bigint, NULL::bigint
    FROM bigbrotr.holders_of(p_slices => slices, p_nums => nums) AS h;
END $$;
COMMENT ON FUNCTION bigbrotr.relay_overlap IS
    'Which relays, that at p_url among them, hold how many of the events that it holds in a sample, see relay_sample; '
    'alone: those that no other relay is known to hold. The first row has the sample: how many archived events were '
    'looked at, and [since, until) in Unix seconds. No row: there is no such relay.';
