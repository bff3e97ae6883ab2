-- Statistics for people: a view for each question. Figures by day are as of when the day was last counted; what is in
-- dirty_days is still to come.

CREATE OR REPLACE FUNCTION bigbrotr.day_date(p_day bigint) RETURNS date
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN p_day < 2932897 THEN date '1970-01-01' + p_day::integer ELSE 'infinity' END;
COMMENT ON FUNCTION bigbrotr.day_date IS 'The date of a day since 1970, of UTC; infinity after the year 9999.';

CREATE TABLE IF NOT EXISTS bigbrotr.day_checks (
    day         bigint           NOT NULL PRIMARY KEY,
    checks      bigint           NOT NULL,
    checks_up   bigint           NOT NULL,
    relays      bigint           NOT NULL,
    relays_up   bigint           NOT NULL,
    open_ms     double precision,
    open_ms_90  double precision,
    read_ms     double precision,
    read_ms_90  double precision
);
COMMENT ON TABLE bigbrotr.day_checks IS
    'What the checks of each day came to. A day is counted until the next one is over, and stays when its measurements '
    'are deleted.';
COMMENT ON COLUMN bigbrotr.day_checks.day IS 'Day of the checks: days since 1970, of UTC.';
COMMENT ON COLUMN bigbrotr.day_checks.checks IS 'Verdicts.';
COMMENT ON COLUMN bigbrotr.day_checks.checks_up IS 'Verdicts that the relay is up.';
COMMENT ON COLUMN bigbrotr.day_checks.relays IS 'Relays that were checked.';
COMMENT ON COLUMN bigbrotr.day_checks.relays_up IS 'Relays that were up at one check at least.';
COMMENT ON COLUMN bigbrotr.day_checks.open_ms IS 'Median time to open a relay (TCP, TLS and upgrade), in milliseconds.';
COMMENT ON COLUMN bigbrotr.day_checks.open_ms_90 IS 'Nine of ten were opened within that time, in milliseconds.';
COMMENT ON COLUMN bigbrotr.day_checks.read_ms IS 'Median time until the first EVENT or EOSE, in milliseconds.';
COMMENT ON COLUMN bigbrotr.day_checks.read_ms_90 IS 'Nine of ten answered within that time, in milliseconds.';

CREATE OR REPLACE FUNCTION bigbrotr.count_checks(p_now bigint) RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET jit = off SET enable_seqscan = off SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    first_day bigint;
    counted   integer;
BEGIN
    LOCK TABLE bigbrotr.statistics_lock IN EXCLUSIVE MODE;
    SELECT max(d.day) - 1 INTO first_day FROM bigbrotr.day_checks d WHERE d.day <= p_now / 86400;
    IF first_day IS NULL THEN
        SELECT min(x.at) / 86400 INTO first_day
        FROM bigbrotr.relays r CROSS JOIN LATERAL (
            SELECT min(s.checked_at) AS at FROM bigbrotr.rtts s WHERE s.relay_id = r.id) AS x;
    END IF;
    WITH counts AS (
        SELECT s.day, count(*) AS checks, count(*) FILTER (WHERE s.is_up) AS checks_up, count(DISTINCT s.relay_id) AS relays,
               count(DISTINCT s.relay_id) FILTER (WHERE s.is_up) AS relays_up,
               percentile_cont('{0.5,0.9}'::double precision[]) WITHIN GROUP (ORDER BY s.open_ms) AS open_ms,
               percentile_cont('{0.5,0.9}'::double precision[]) WITHIN GROUP (ORDER BY s.read_ms) AS read_ms
        FROM bigbrotr.relays r CROSS JOIN LATERAL (
            SELECT t.relay_id, t.checked_at / 86400 AS day, t.outcome IS NULL AS is_up,
                   (t.tcp_ms + coalesce(t.tls_ms, 0) + t.upgrade_ms)::double precision AS open_ms,
                   t.read_ms::double precision AS read_ms
            FROM bigbrotr.rtts t WHERE t.relay_id = r.id AND t.checked_at >= first_day * 86400 AND t.checked_at <= p_now
        ) AS s
        GROUP BY s.day
    ), written AS (
        INSERT INTO bigbrotr.day_checks AS d (
            day, checks, checks_up, relays, relays_up, open_ms, open_ms_90, read_ms, read_ms_90)
        SELECT c.day, c.checks, c.checks_up, c.relays, c.relays_up, c.open_ms[1], c.open_ms[2], c.read_ms[1], c.read_ms[2]
        FROM counts c
        ON CONFLICT (day) DO UPDATE SET
            checks = EXCLUDED.checks, checks_up = EXCLUDED.checks_up, relays = EXCLUDED.relays,
            relays_up = EXCLUDED.relays_up, open_ms = EXCLUDED.open_ms, open_ms_90 = EXCLUDED.open_ms_90,
            read_ms = EXCLUDED.read_ms, read_ms_90 = EXCLUDED.read_ms_90
        RETURNING 1
    )
    SELECT count(*) INTO counted FROM written;
    RETURN counted;
END $$;
COMMENT ON FUNCTION bigbrotr.count_checks IS
    'Counts the checks of the days that are not over since they were last counted, up to p_now (Unix seconds). Returns '
    'how many days. Idempotent.';

CREATE OR REPLACE VIEW bigbrotr.statistics_days AS
SELECT bigbrotr.day_date(t.day) AS day, t.events, t.pairs, t.held, t.day AS number FROM bigbrotr.day_totals t;
COMMENT ON VIEW bigbrotr.statistics_days IS 'Events by day of creation.';
COMMENT ON COLUMN bigbrotr.statistics_days.day IS 'Day, of UTC.';
COMMENT ON COLUMN bigbrotr.statistics_days.events IS 'Archived events.';
COMMENT ON COLUMN bigbrotr.statistics_days.pairs IS 'Pairs of event and relay: what all relays together hold.';
COMMENT ON COLUMN bigbrotr.statistics_days.held IS 'Events that a relay holds still.';
COMMENT ON COLUMN bigbrotr.statistics_days.number IS 'Days since 1970.';

CREATE OR REPLACE VIEW bigbrotr.statistics_authors AS
SELECT bigbrotr.day_date(t.day) AS day, g.name AS "group", t.authors[g.place] AS authors,
       t.new_authors[g.place] AS new_authors, t.authors_7_days[g.place] AS authors_7_days,
       t.authors_30_days[g.place] AS authors_30_days, t.day AS number
FROM bigbrotr.day_totals t
CROSS JOIN (VALUES ('all', 1), ('with profile', 2), ('with follow list', 3)) AS g (name, place);
COMMENT ON VIEW bigbrotr.statistics_authors IS
    'Authors by day. Events of the kinds 445 and 1059, which throwaway keys sign, make nobody an author.';
COMMENT ON COLUMN bigbrotr.statistics_authors.day IS 'Day, of UTC.';
COMMENT ON COLUMN bigbrotr.statistics_authors."group" IS
    'Which authors: all, those of whom a profile (kind 0) is archived, or a follow list (kind 3).';
COMMENT ON COLUMN bigbrotr.statistics_authors.authors IS 'How many have signed an event of the day.';
COMMENT ON COLUMN bigbrotr.statistics_authors.new_authors IS 'How many have signed their first archived event that day.';
COMMENT ON COLUMN bigbrotr.statistics_authors.authors_7_days IS
    'About how many have signed an event of the seven days up to it (1.6 % standard error).';
COMMENT ON COLUMN bigbrotr.statistics_authors.authors_30_days IS 'The same of 30 days.';
COMMENT ON COLUMN bigbrotr.statistics_authors.number IS 'Days since 1970.';

CREATE OR REPLACE VIEW bigbrotr.statistics_kinds AS
SELECT bigbrotr.day_date(k.day) AS day, k.kind, k.events, k.day AS number FROM bigbrotr.day_kinds k;
COMMENT ON VIEW bigbrotr.statistics_kinds IS 'Events by day and kind.';
COMMENT ON COLUMN bigbrotr.statistics_kinds.day IS 'Day, of UTC.';
COMMENT ON COLUMN bigbrotr.statistics_kinds.kind IS 'Kind.';
COMMENT ON COLUMN bigbrotr.statistics_kinds.events IS 'Archived events.';
COMMENT ON COLUMN bigbrotr.statistics_kinds.number IS 'Days since 1970.';

CREATE OR REPLACE VIEW bigbrotr.statistics_replication AS
SELECT bigbrotr.day_date(k.day) AS day, k.kind, u.relays, u.events, k.day AS number
FROM bigbrotr.day_kinds k CROSS JOIN LATERAL unnest(k.held_by, k.held_events) AS u (relays, events);
COMMENT ON VIEW bigbrotr.statistics_replication IS 'How many relays hold an event: a histogram by day and kind.';
COMMENT ON COLUMN bigbrotr.statistics_replication.day IS 'Day, of UTC.';
COMMENT ON COLUMN bigbrotr.statistics_replication.kind IS 'Kind.';
COMMENT ON COLUMN bigbrotr.statistics_replication.relays IS 'Number of relays; 0: all have dropped them.';
COMMENT ON COLUMN bigbrotr.statistics_replication.events IS 'Events that just so many relays hold.';
COMMENT ON COLUMN bigbrotr.statistics_replication.number IS 'Days since 1970.';

CREATE OR REPLACE VIEW bigbrotr.statistics_top_relays AS
SELECT bigbrotr.day_date(t.day) AS day, u.relays, u.events,
       CASE WHEN t.held > 0 THEN round(u.events / t.held::numeric, 4)::double precision END AS share, t.day AS number
FROM bigbrotr.day_totals t CROSS JOIN LATERAL unnest(t.tops, t.covered) AS u (relays, events);
COMMENT ON VIEW bigbrotr.statistics_top_relays IS 'What the relays that hold most of a day hold together.';
COMMENT ON COLUMN bigbrotr.statistics_top_relays.day IS 'Day, of UTC.';
COMMENT ON COLUMN bigbrotr.statistics_top_relays.relays IS 'So many of the relays, those that hold most of the day.';
COMMENT ON COLUMN bigbrotr.statistics_top_relays.events IS 'Events that one of them holds.';
COMMENT ON COLUMN bigbrotr.statistics_top_relays.share IS 'Of the events that any relay holds: 0 to 1.';
COMMENT ON COLUMN bigbrotr.statistics_top_relays.number IS 'Days since 1970.';

CREATE OR REPLACE VIEW bigbrotr.statistics_networks AS
SELECT bigbrotr.day_date(n.day) AS day, n.network, n.events, n.pairs, n.day AS number FROM bigbrotr.day_networks n;
COMMENT ON VIEW bigbrotr.statistics_networks IS 'What the relays of each network hold, by day.';
COMMENT ON COLUMN bigbrotr.statistics_networks.day IS 'Day, of UTC.';
COMMENT ON COLUMN bigbrotr.statistics_networks.network IS 'Network.';
COMMENT ON COLUMN bigbrotr.statistics_networks.events IS 'Events that a relay of the network holds.';
COMMENT ON COLUMN bigbrotr.statistics_networks.pairs IS 'Pairs of event and relay.';
COMMENT ON COLUMN bigbrotr.statistics_networks.number IS 'Days since 1970.';

CREATE OR REPLACE VIEW bigbrotr.statistics_growth AS
SELECT bigbrotr.day_date(u.day) AS day, sum(u.events)::bigint AS events, u.day AS number
FROM bigbrotr.day_totals t CROSS JOIN LATERAL unnest(t.arrival_days, t.arrivals) AS u (day, events) GROUP BY u.day;
COMMENT ON VIEW bigbrotr.statistics_growth IS
    'Growth of the archive: when events were first seen at one of the relays that hold them.';
COMMENT ON COLUMN bigbrotr.statistics_growth.day IS 'Day of arrival, of UTC.';
COMMENT ON COLUMN bigbrotr.statistics_growth.events IS 'Events.';
COMMENT ON COLUMN bigbrotr.statistics_growth.number IS 'Days since 1970.';

CREATE OR REPLACE VIEW bigbrotr.statistics_relay_days AS
SELECT bigbrotr.day_date(d.day) AS day, r.url AS relay_url, d.events, d.alone,
       (SELECT sum(u.events)::bigint FROM unnest(d.dropped) AS u (events)) AS dropped, d.day AS number
FROM bigbrotr.day_relays d JOIN bigbrotr.relays r ON r.id = d.relay_id;
COMMENT ON VIEW bigbrotr.statistics_relay_days IS 'What each relay holds and has dropped, by day of creation.';
COMMENT ON COLUMN bigbrotr.statistics_relay_days.day IS 'Day, of UTC.';
COMMENT ON COLUMN bigbrotr.statistics_relay_days.relay_url IS 'URL of the relay.';
COMMENT ON COLUMN bigbrotr.statistics_relay_days.events IS 'Events that it holds.';
COMMENT ON COLUMN bigbrotr.statistics_relay_days.alone IS 'Events that it alone holds.';
COMMENT ON COLUMN bigbrotr.statistics_relay_days.dropped IS 'Events that it once held and then dropped.';
COMMENT ON COLUMN bigbrotr.statistics_relay_days.number IS 'Days since 1970.';

CREATE OR REPLACE VIEW bigbrotr.statistics_relays AS
SELECT r.url AS relay_url, r.network, coalesce(s.events, 0) AS events, coalesce(s.alone, 0) AS alone,
       coalesce(s.hour, 0) AS dropped_in_hour, coalesce(s.day, 0) AS dropped_in_day, coalesce(s.week, 0) AS dropped_in_week,
       coalesce(s.month, 0) AS dropped_in_30_days, coalesce(s.year, 0) AS dropped_in_year,
       coalesce(s.later, 0) AS dropped_later
FROM bigbrotr.relays r CROSS JOIN LATERAL (
    SELECT sum(d.events)::bigint AS events, sum(d.alone)::bigint AS alone, sum(d.dropped[1])::bigint AS hour,
           sum(d.dropped[2])::bigint AS day, sum(d.dropped[3])::bigint AS week, sum(d.dropped[4])::bigint AS month,
           sum(d.dropped[5])::bigint AS year, sum(d.dropped[6])::bigint AS later
    FROM bigbrotr.day_relays d WHERE d.relay_id = r.id
) AS s;
COMMENT ON VIEW bigbrotr.statistics_relays IS
    'What each relay holds, alone and with others, and how soon it drops what it has.';
COMMENT ON COLUMN bigbrotr.statistics_relays.relay_url IS 'URL of the relay.';
COMMENT ON COLUMN bigbrotr.statistics_relays.network IS 'Network of the relay.';
COMMENT ON COLUMN bigbrotr.statistics_relays.events IS 'Events that it holds.';
COMMENT ON COLUMN bigbrotr.statistics_relays.alone IS 'Events that it alone holds: with it, they would be gone.';
COMMENT ON COLUMN bigbrotr.statistics_relays.dropped_in_hour IS
    'Events that it dropped within an hour after they were first seen there, as far as it is known.';
COMMENT ON COLUMN bigbrotr.statistics_relays.dropped_in_day IS 'Later, and within a day.';
COMMENT ON COLUMN bigbrotr.statistics_relays.dropped_in_week IS 'Later, and within a week.';
COMMENT ON COLUMN bigbrotr.statistics_relays.dropped_in_30_days IS 'Later, and within 30 days.';
COMMENT ON COLUMN bigbrotr.statistics_relays.dropped_in_year IS 'Later, and within a year of 365 days.';
COMMENT ON COLUMN bigbrotr.statistics_relays.dropped_later IS 'After a year.';

CREATE OR REPLACE VIEW bigbrotr.statistics_checks AS
SELECT bigbrotr.day_date(c.day) AS day, c.relays, c.relays_up, c.checks, c.checks_up,
       round(c.checks_up / c.checks::numeric, 4)::double precision AS uptime,
       round(c.open_ms::numeric, 1)::double precision AS open_ms, round(c.open_ms_90::numeric, 1)::double precision AS open_ms_90,
       round(c.read_ms::numeric, 1)::double precision AS read_ms, round(c.read_ms_90::numeric, 1)::double precision AS read_ms_90,
       c.day AS number
FROM bigbrotr.day_checks c;
COMMENT ON VIEW bigbrotr.statistics_checks IS 'Uptime and round trips of all relays together, by day.';
COMMENT ON COLUMN bigbrotr.statistics_checks.day IS 'Day, of UTC.';
COMMENT ON COLUMN bigbrotr.statistics_checks.relays IS 'Relays that were checked.';
COMMENT ON COLUMN bigbrotr.statistics_checks.relays_up IS 'Relays that were up at one check at least.';
COMMENT ON COLUMN bigbrotr.statistics_checks.checks IS 'Checks with a verdict.';
COMMENT ON COLUMN bigbrotr.statistics_checks.checks_up IS 'Checks that found the relay up.';
COMMENT ON COLUMN bigbrotr.statistics_checks.uptime IS 'Share of these: 0 to 1.';
COMMENT ON COLUMN bigbrotr.statistics_checks.open_ms IS 'Median time to open a relay, in milliseconds.';
COMMENT ON COLUMN bigbrotr.statistics_checks.open_ms_90 IS 'Nine of ten were opened within that time, in milliseconds.';
COMMENT ON COLUMN bigbrotr.statistics_checks.read_ms IS 'Median time until the first answer, in milliseconds.';
COMMENT ON COLUMN bigbrotr.statistics_checks.read_ms_90 IS 'Nine of ten answered within that time, in milliseconds.';
COMMENT ON COLUMN bigbrotr.statistics_checks.number IS 'Days since 1970.';

CREATE OR REPLACE VIEW bigbrotr.statistics_software AS
SELECT coalesce(left(m.data ->> 'software', 200), '') AS software, coalesce(left(m.data ->> 'version', 200), '') AS version,
       count(*) AS relays, count(DISTINCT coalesce(o.operator_id, s.relay_id)) AS operators
FROM bigbrotr.snapshots_latest s JOIN bigbrotr.metadata m ON m.id = s.metadata_id
LEFT JOIN bigbrotr.operators o ON o.relay_id = s.relay_id
WHERE s.type = 'nip11' GROUP BY 1, 2;
COMMENT ON VIEW bigbrotr.statistics_software IS 'What relays say they run.';
COMMENT ON COLUMN bigbrotr.statistics_software.software IS 'Software; empty: they do not say.';
COMMENT ON COLUMN bigbrotr.statistics_software.version IS 'Version of it; empty: they do not say.';
COMMENT ON COLUMN bigbrotr.statistics_software.relays IS 'Relays.';
COMMENT ON COLUMN bigbrotr.statistics_software.operators IS 'Their operators, as far as they are known: each relay has one of its own, or shares one.';

CREATE OR REPLACE VIEW bigbrotr.statistics_nips AS
SELECT u.nip, count(*) FILTER (WHERE u.is_claimed) AS claimed, count(*) FILTER (WHERE u.is_seen IS NOT NULL) AS tested,
       count(*) FILTER (WHERE u.is_seen) AS seen, count(*) FILTER (WHERE u.is_claimed AND NOT u.is_seen) AS refuted
FROM (
    SELECT coalesce(d.relay_id, c.relay_id) AS relay_id, coalesce(d.nip, c.nip) AS nip, d.relay_id IS NOT NULL AS is_claimed,
           c.is_seen
    FROM (
        SELECT DISTINCT s.relay_id, n.nip::text AS nip
        FROM bigbrotr.snapshots_latest s JOIN bigbrotr.metadata m ON m.id = s.metadata_id
        CROSS JOIN LATERAL jsonb_path_query(m.data, '$.supported_nips[*] ? (@.type() == "number")') AS n (nip)
        WHERE s.type = 'nip11'
    ) AS d
    FULL JOIN (
        SELECT s.relay_id, n.nip, CASE WHEN jsonb_typeof(n.claim -> 'seen') = 'boolean' THEN (n.claim ->> 'seen')::boolean END AS is_seen
        FROM bigbrotr.snapshots_latest s JOIN bigbrotr.metadata m ON m.id = s.metadata_id
        CROSS JOIN LATERAL jsonb_each(CASE WHEN jsonb_typeof(m.data -> 'nips') = 'object' THEN m.data -> 'nips' END) AS n (nip, claim)
        WHERE s.type = 'claims'
    ) AS c ON c.relay_id = d.relay_id AND c.nip = d.nip
) AS u
GROUP BY u.nip;
COMMENT ON VIEW bigbrotr.statistics_nips IS 'Which NIPs relays claim to support (NIP-11), and which were seen.';
COMMENT ON COLUMN bigbrotr.statistics_nips.nip IS 'Number of the NIP.';
COMMENT ON COLUMN bigbrotr.statistics_nips.claimed IS 'Relays that claim it.';
COMMENT ON COLUMN bigbrotr.statistics_nips.tested IS 'Relays of which it is known.';
COMMENT ON COLUMN bigbrotr.statistics_nips.seen IS 'Relays at which it was seen.';
COMMENT ON COLUMN bigbrotr.statistics_nips.refuted IS 'Relays that claim it and do not have it.';

CREATE OR REPLACE VIEW bigbrotr.statistics_countries AS
SELECT coalesce(left(m.data ->> 'country', 10), '') AS country, count(*) AS relays,
       count(DISTINCT coalesce(o.operator_id, s.relay_id)) AS operators
FROM bigbrotr.snapshots_latest s JOIN bigbrotr.metadata m ON m.id = s.metadata_id
LEFT JOIN bigbrotr.operators o ON o.relay_id = s.relay_id
WHERE s.type = 'nip66_geo' GROUP BY 1;
COMMENT ON VIEW bigbrotr.statistics_countries IS 'Where relays are, by their addresses.';
COMMENT ON COLUMN bigbrotr.statistics_countries.country IS 'Two letters (ISO 3166); empty: it is not known.';
COMMENT ON COLUMN bigbrotr.statistics_countries.relays IS 'Relays.';
COMMENT ON COLUMN bigbrotr.statistics_countries.operators IS 'Their operators, as far as they are known.';

CREATE OR REPLACE VIEW bigbrotr.statistics_access AS
SELECT r.network, count(*) AS relays, count(*) FILTER (WHERE c.state = 'up') AS up, count(n.data) AS documents,
       count(*) FILTER (WHERE n.data @> '{"limitation": {"auth_required": true}}') AS auth,
       count(*) FILTER (WHERE n.data @> '{"limitation": {"payment_required": true}}') AS payment,
       count(*) FILTER (WHERE n.data @> '{"limitation": {"restricted_writes": true}}') AS restricted,
       count(DISTINCT coalesce(o.operator_id, r.id)) AS operators
FROM bigbrotr.relays r
LEFT JOIN bigbrotr.operators o ON o.relay_id = r.id
LEFT JOIN bigbrotr.checks c ON c.relay_id = r.id
LEFT JOIN (
    SELECT s.relay_id, m.data FROM bigbrotr.snapshots_latest s JOIN bigbrotr.metadata m ON m.id = s.metadata_id
    WHERE s.type = 'nip11'
) AS n ON n.relay_id = r.id
GROUP BY r.network;
COMMENT ON VIEW bigbrotr.statistics_access IS 'Relays by network, and whom they say they are for (NIP-11).';
COMMENT ON COLUMN bigbrotr.statistics_access.network IS 'Network.';
COMMENT ON COLUMN bigbrotr.statistics_access.relays IS 'Relays.';
COMMENT ON COLUMN bigbrotr.statistics_access.up IS 'Relays that are up.';
COMMENT ON COLUMN bigbrotr.statistics_access.documents IS 'Relays that describe themselves.';
COMMENT ON COLUMN bigbrotr.statistics_access.auth IS 'Relays that say that they require authentication.';
COMMENT ON COLUMN bigbrotr.statistics_access.payment IS 'Relays that say that they require payment.';
COMMENT ON COLUMN bigbrotr.statistics_access.restricted IS 'Relays that say that not everybody may write.';
COMMENT ON COLUMN bigbrotr.statistics_access.operators IS 'Operators of these relays, as far as they are known.';

CREATE OR REPLACE VIEW bigbrotr.statistics_completeness AS
SELECT bigbrotr.month_name(s.month) COLLATE "C" AS month,
       s.kind, s.via COLLATE "C" AS via, s.total AS "references", s.held AS archived,
       round(s.held::numeric / s.total, 4)::double precision AS archived_share
FROM bigbrotr.reference_sums s;
COMMENT ON VIEW bigbrotr.statistics_completeness IS
    'What the events of a sample refer to, and how much of it is archived, by month, kind and way. See completeness_state.';
COMMENT ON COLUMN bigbrotr.statistics_completeness.month IS 'Month in which the referring events were created, of UTC.';
COMMENT ON COLUMN bigbrotr.statistics_completeness.kind IS 'Kind of the referring events.';
COMMENT ON COLUMN bigbrotr.statistics_completeness.via IS 'How they refer to others, see sampled_references.';
COMMENT ON COLUMN bigbrotr.statistics_completeness."references" IS 'References of the sample.';
COMMENT ON COLUMN bigbrotr.statistics_completeness.archived IS 'Those of them to what is archived.';
COMMENT ON COLUMN bigbrotr.statistics_completeness.archived_share IS 'The share of these.';

CREATE OR REPLACE VIEW bigbrotr.statistics_moves AS
SELECT bigbrotr.month_name(m.month) COLLATE "C" AS month, m.authors, m.moved, m.added, m.removed, m.made_at
FROM bigbrotr.month_moves m;
COMMENT ON VIEW bigbrotr.statistics_moves IS 'Who has changed their list of relays (kind 10002), by month.';
COMMENT ON COLUMN bigbrotr.statistics_moves.month IS 'Month of the new lists, of UTC.';
COMMENT ON COLUMN bigbrotr.statistics_moves.authors IS 'Authors who have published a list.';
COMMENT ON COLUMN bigbrotr.statistics_moves.moved IS 'Those of them who have added or removed a relay.';
COMMENT ON COLUMN bigbrotr.statistics_moves.added IS 'Relays that were added; first lists do not count.';
COMMENT ON COLUMN bigbrotr.statistics_moves.removed IS 'Relays that were removed.';
COMMENT ON COLUMN bigbrotr.statistics_moves.made_at IS 'When this was counted, in Unix seconds.';

CREATE OR REPLACE VIEW bigbrotr.statistics_listed AS
SELECT l.url COLLATE "C" AS relay_url, l.authors,
       CASE WHEN r.id = ANY (i.ill) THEN 'failing'
            WHEN c.state = 'up' OR v.visited_at IS NOT NULL THEN 'up'
            WHEN r.id IS NULL AND k.attempts > 2 AND k.alias_of IS NULL THEN 'never'
            WHEN r.id IS NULL AND k.alias_of IS NOT NULL
                THEN CASE WHEN k.alias_of = ANY (i.ill) THEN 'failing' ELSE 'up' END
            ELSE 'unknown' END AS state, l.made_at
FROM bigbrotr.listed_relays l
CROSS JOIN (SELECT bigbrotr.unwell_relays() AS ill) AS i
LEFT JOIN bigbrotr.relays r ON r.url = l.url
LEFT JOIN bigbrotr.visits v ON v.relay_id = r.id
LEFT JOIN bigbrotr.checks c ON c.relay_id = r.id
LEFT JOIN bigbrotr.candidates k ON k.url = l.url;
COMMENT ON VIEW bigbrotr.statistics_listed IS 'Relays that authors list today (kind 10002), and how they are.';
COMMENT ON COLUMN bigbrotr.statistics_listed.relay_url IS 'URL of the relay.';
COMMENT ON COLUMN bigbrotr.statistics_listed.authors IS 'Authors whose newest list names it.';
COMMENT ON COLUMN bigbrotr.statistics_listed.state IS 'up, failing, never (reached) or unknown, see listed_states.';
COMMENT ON COLUMN bigbrotr.statistics_listed.made_at IS 'When the lists were counted, in Unix seconds.';

CREATE OR REPLACE VIEW bigbrotr.statistics_listed_states AS
SELECT s.state COLLATE "C" AS state, count(*) AS relays, sum(s.authors)::bigint AS entries,
       round(sum(s.authors) / sum(sum(s.authors)) OVER (), 4)::double precision AS entries_share, max(s.made_at) AS made_at
FROM bigbrotr.statistics_listed s GROUP BY s.state;
COMMENT ON VIEW bigbrotr.statistics_listed_states IS 'How the relays are that authors list today: which share of the entries is dead.';
COMMENT ON COLUMN bigbrotr.statistics_listed_states.state IS 'up, failing, never (reached) or unknown, see listed_states.';
COMMENT ON COLUMN bigbrotr.statistics_listed_states.relays IS 'Relays in this state.';
COMMENT ON COLUMN bigbrotr.statistics_listed_states.entries IS 'Entries of the newest lists of all authors that name them.';
COMMENT ON COLUMN bigbrotr.statistics_listed_states.entries_share IS 'Their share of all entries.';
COMMENT ON COLUMN bigbrotr.statistics_listed_states.made_at IS 'When the lists were counted, in Unix seconds.';
