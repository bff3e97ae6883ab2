-- Statistics: figures by day of created_at, always equal to a recount. Who changes what is known of a day notes the day in
-- dirty_days, in its own transaction; the statistics service takes the note away and counts the day anew. So a page that
-- commits late is not missed, no difference adds up, and a service that dies in between begins that day again.
-- All of this stands on one machine: a day is counted where its slice lies, and its figures are small.

CREATE TABLE IF NOT EXISTS bigbrotr.statistics_lock ();
COMMENT ON TABLE bigbrotr.statistics_lock IS 'Always empty. A process locks it while it counts a day.';

CREATE TABLE IF NOT EXISTS bigbrotr.dirty_days (
    day bigint NOT NULL
);
CREATE INDEX IF NOT EXISTS dirty_days_day_idx ON bigbrotr.dirty_days (day);
COMMENT ON TABLE bigbrotr.dirty_days IS
    'Days of which something has changed since they were counted: a queue with a row for each page and day.';
COMMENT ON COLUMN bigbrotr.dirty_days.day IS 'Day of created_at: days since 1970, of UTC.';

CREATE OR REPLACE FUNCTION bigbrotr.note_days(p_created_ats bigint[], p_changed integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    last_day bigint := p_created_ats[cardinality(p_created_ats)] / 86400;
    day      bigint;
    days     bigint[] := '{}';
    place    integer := 1;
BEGIN
    IF p_changed = 0 THEN
        RETURN;
    END IF;
    WHILE place <= cardinality(p_created_ats) LOOP
        day := p_created_ats[place] / 86400;
        days := days || day;
        EXIT WHEN day = last_day;  -- which may have no last second
        place := greatest(place, width_bucket(day * 86400 + 86399, p_created_ats)) + 1;  -- on, even if they are not sorted
    END LOOP;
    INSERT INTO bigbrotr.dirty_days (day) SELECT u.day FROM unnest(days) AS u (day);
END $$;
COMMENT ON FUNCTION bigbrotr.note_days IS
    'Has the days of these sorted times (Unix seconds) counted anew, if anything has changed.';

CREATE OR REPLACE FUNCTION bigbrotr.note_week(p_week integer, p_since bigint, p_until bigint, p_changed integer)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    IF p_changed = 0 THEN
        RETURN;
    END IF;
    IF p_week < 2147483647 THEN
        INSERT INTO bigbrotr.dirty_days (day)
        SELECT generate_series(greatest(bigbrotr.slice_start(p_week), p_since) / 86400,
                               (least(bigbrotr.slice_end(p_week), p_until) - 1) / 86400);
    ELSE  -- it has no end
        INSERT INTO bigbrotr.dirty_days (day)
        SELECT DISTINCT e.created_at / 86400 FROM bigbrotr.events_stored e
        WHERE e.slice = p_week AND e.created_at >= p_since AND e.created_at <= p_until;
    END IF;
END $$;
COMMENT ON FUNCTION bigbrotr.note_week IS
    'Has the days of one slice, as far as they are within [p_since, p_until) (Unix seconds), counted anew, if anything '
    'has changed.';

CREATE TABLE IF NOT EXISTS bigbrotr.day_totals (
    day              bigint    NOT NULL PRIMARY KEY,
    made_at          bigint    NOT NULL,
    events           bigint    NOT NULL,
    pairs            bigint    NOT NULL,
    held             bigint    NOT NULL,
    authors          bigint[]  NOT NULL,
    new_authors      bigint[]  NOT NULL,
    sketches         bytea[],
    authors_7_days   bigint[],
    authors_30_days  bigint[],
    tops             integer[] NOT NULL,
    covered          bigint[]  NOT NULL,
    arrival_days     bigint[]  NOT NULL,
    arrivals         bigint[]  NOT NULL,
    common_tags      integer[] NOT NULL
);
ALTER TABLE bigbrotr.day_totals ALTER COLUMN sketches SET STATISTICS 0;
CREATE INDEX IF NOT EXISTS day_totals_unmade_idx ON bigbrotr.day_totals (day) WHERE authors_7_days IS NULL;
COMMENT ON TABLE bigbrotr.day_totals IS
    'Figures of each day of created_at. Lists of authors have three places: all; with a profile (kind 0); with a follow '
    'list (kind 3). Events of the kinds 445 and 1059, which throwaway keys sign, make nobody an author.';
COMMENT ON COLUMN bigbrotr.day_totals.day IS 'Days since 1970, of UTC.';
COMMENT ON COLUMN bigbrotr.day_totals.made_at IS
    'When the day was last counted, in Unix seconds; 0: another day has shown that it is to be counted again.';
COMMENT ON COLUMN bigbrotr.day_totals.events IS 'Archived events.';
COMMENT ON COLUMN bigbrotr.day_totals.pairs IS 'Pairs of event and relay.';
COMMENT ON COLUMN bigbrotr.day_totals.held IS 'Events that a relay holds; the others were dropped by all.';
COMMENT ON COLUMN bigbrotr.day_totals.authors IS 'Authors of events of the day.';
COMMENT ON COLUMN bigbrotr.day_totals.new_authors IS 'Authors whose first archived event is of the day.';
COMMENT ON COLUMN bigbrotr.day_totals.sketches IS
    'The authors as sketches (HyperLogLog, 4,096 registers of a byte, BLAKE2b), which can be merged.';
COMMENT ON COLUMN bigbrotr.day_totals.authors_7_days IS
    'About how many authors the seven days up to this one have; NULL: to be estimated again.';
COMMENT ON COLUMN bigbrotr.day_totals.authors_30_days IS 'About how many authors the 30 days up to this one have.';
COMMENT ON COLUMN bigbrotr.day_totals.tops IS 'Numbers of relays for covered.';
COMMENT ON COLUMN bigbrotr.day_totals.covered IS
    'How many events the N relays that hold most of the day hold together, for each N of tops.';
COMMENT ON COLUMN bigbrotr.day_totals.arrival_days IS 'Days on which a relay was first seen to hold events.';
COMMENT ON COLUMN bigbrotr.day_totals.arrivals IS 'For each day of arrival_days, how many events.';
COMMENT ON COLUMN bigbrotr.day_totals.common_tags IS
    'Hashes (tag_hash) of tags that many of the day''s events bear, as far as its first ones tell.';

CREATE TABLE IF NOT EXISTS bigbrotr.day_kinds (
    day           bigint    NOT NULL,
    kind          integer   NOT NULL,
    events        bigint    NOT NULL,
    held_by       integer[] NOT NULL,
    held_events   bigint[]  NOT NULL,
    common_tags   integer[] NOT NULL,
    PRIMARY KEY (day, kind)
);
COMMENT ON TABLE bigbrotr.day_kinds IS 'Events of each day by kind, and how many relays hold them.';
COMMENT ON COLUMN bigbrotr.day_kinds.day IS 'Day of created_at: days since 1970, of UTC.';
COMMENT ON COLUMN bigbrotr.day_kinds.kind IS 'Kind of the events.';
COMMENT ON COLUMN bigbrotr.day_kinds.events IS 'Archived events.';
COMMENT ON COLUMN bigbrotr.day_kinds.held_by IS 'Numbers of relays, ascending.';
COMMENT ON COLUMN bigbrotr.day_kinds.held_events IS 'How many events just so many relays hold, as held_by says.';
COMMENT ON COLUMN bigbrotr.day_kinds.common_tags IS
    'Which of the day''s common tags (day_totals) events of this kind bear: what is absent here, none of them bears.';

CREATE TABLE IF NOT EXISTS bigbrotr.day_relays (
    day      bigint    NOT NULL,
    relay_id integer   NOT NULL,
    events   bigint    NOT NULL,
    alone    bigint    NOT NULL,
    dropped  bigint[]  NOT NULL,
    PRIMARY KEY (relay_id, day)
);
CREATE INDEX IF NOT EXISTS day_relays_day_idx ON bigbrotr.day_relays (day);
COMMENT ON TABLE bigbrotr.day_relays IS 'What each relay holds of each day, and has dropped of it.';
COMMENT ON COLUMN bigbrotr.day_relays.day IS 'Day of created_at: days since 1970, of UTC.';
COMMENT ON COLUMN bigbrotr.day_relays.relay_id IS 'Number of the relay.';
COMMENT ON COLUMN bigbrotr.day_relays.events IS 'Events that it holds.';
COMMENT ON COLUMN bigbrotr.day_relays.alone IS 'Events that it alone holds.';
COMMENT ON COLUMN bigbrotr.day_relays.dropped IS
    'Events that it held and dropped, by how long after they were first seen there: within an hour, a day, a week, 30 '
    'days, a year, later.';

CREATE TABLE IF NOT EXISTS bigbrotr.day_networks (
    day     bigint NOT NULL,
    network text   NOT NULL,
    events  bigint NOT NULL,
    pairs   bigint NOT NULL,
    PRIMARY KEY (day, network)
);
COMMENT ON TABLE bigbrotr.day_networks IS 'What the relays of each network hold of each day.';
COMMENT ON COLUMN bigbrotr.day_networks.day IS 'Day of created_at: days since 1970, of UTC.';
COMMENT ON COLUMN bigbrotr.day_networks.network IS 'Network of the relays.';
COMMENT ON COLUMN bigbrotr.day_networks.events IS 'Events that a relay of the network holds.';
COMMENT ON COLUMN bigbrotr.day_networks.pairs IS 'Pairs of event and relay.';

-- Lists of relays (kind 10002), each version: by them, who has moved, and which relays are listed still.
CREATE TABLE IF NOT EXISTS bigbrotr.author_lists (
    day        bigint NOT NULL,
    created_at bigint NOT NULL,
    pubkey     bytea  NOT NULL,
    id         bytea  NOT NULL,
    urls       text[] NOT NULL,
    PRIMARY KEY (pubkey, created_at, id)
);
CREATE INDEX IF NOT EXISTS author_lists_day_idx ON bigbrotr.author_lists (day);
COMMENT ON TABLE bigbrotr.author_lists IS 'Lists of relays (kind 10002) that authors have published: every archived version, as of the days that are counted.';
COMMENT ON COLUMN bigbrotr.author_lists.day IS 'Day of created_at: days since 1970, of UTC.';
COMMENT ON COLUMN bigbrotr.author_lists.created_at IS 'When it was created, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.author_lists.pubkey IS 'Public key of its author: 32 bytes.';
COMMENT ON COLUMN bigbrotr.author_lists.id IS 'Id of the event: 32 bytes.';
COMMENT ON COLUMN bigbrotr.author_lists.urls IS 'Relays that it names, each once, at most 100; see listed_url.';

CREATE TABLE IF NOT EXISTS bigbrotr.month_moves (
    month   integer NOT NULL PRIMARY KEY,
    made_at bigint  NOT NULL,
    authors bigint  NOT NULL,
    moved   bigint  NOT NULL,
    added   bigint  NOT NULL,
    removed bigint  NOT NULL
);
COMMENT ON TABLE bigbrotr.month_moves IS 'Who has changed their list of relays in each month.';
COMMENT ON COLUMN bigbrotr.month_moves.month IS 'Month of the new list: months since 1970, of UTC.';
COMMENT ON COLUMN bigbrotr.month_moves.made_at IS 'When this was counted, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.month_moves.authors IS 'Authors who have published a list.';
COMMENT ON COLUMN bigbrotr.month_moves.moved IS 'Those of them who have added or removed a relay, against their list before.';
COMMENT ON COLUMN bigbrotr.month_moves.added IS 'Relays that were added; first lists do not count.';
COMMENT ON COLUMN bigbrotr.month_moves.removed IS 'Relays that were removed.';

CREATE TABLE IF NOT EXISTS bigbrotr.listed_relays (
    made_at bigint NOT NULL,
    authors bigint NOT NULL,
    url     text   NOT NULL PRIMARY KEY
);
COMMENT ON TABLE bigbrotr.listed_relays IS 'Relays that authors list today (kind 10002).';
COMMENT ON COLUMN bigbrotr.listed_relays.url IS 'URL of the relay, see listed_url.';
COMMENT ON COLUMN bigbrotr.listed_relays.authors IS 'How many authors list it in their newest list.';
COMMENT ON COLUMN bigbrotr.listed_relays.made_at IS 'When this was counted, in Unix seconds.';

-- As others are compared with the URLs of relays here, for all but odd ones.
CREATE OR REPLACE FUNCTION bigbrotr.listed_url(p_text text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN length(p_text) <= 300 AND p_text ~* '^\s*wss?://[^/\s]+[^\s]*\s*$' THEN
    lower(substring(btrim(p_text) FROM '^[^/]*//[^/]*')) || rtrim(substring(btrim(p_text) FROM '^[^/]*//[^/]*(.*)$'), '/') END;
COMMENT ON FUNCTION bigbrotr.listed_url IS
    'The URL of a relay in a list as it is compared here: host in lower case, no slash at the end; NULL: it is none.';

CREATE OR REPLACE FUNCTION bigbrotr.lists_of_day(p_slice integer, p_since bigint, p_last bigint)
RETURNS TABLE (created_at bigint, pubkey bytea, id bytea, urls text[])
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    RETURN QUERY
    SELECT e.created_at, e.pubkey, e.id, ARRAY(
               SELECT u.url FROM (
                   SELECT bigbrotr.listed_url(t.tag ->> 1) AS url, t.place
                   FROM jsonb_array_elements(e.tags::jsonb) WITH ORDINALITY AS t (tag, place)
                   WHERE t.tag ->> 0 = 'r' AND t.place <= 1000
               ) AS u WHERE u.url IS NOT NULL GROUP BY u.url ORDER BY min(u.place) LIMIT 100)
    FROM bigbrotr.events_stored e
    WHERE e.slice = p_slice AND e.created_at >= p_since AND e.created_at <= p_last AND e.kind = 10002 AND e.tags IS NOT NULL;
END $$;
COMMENT ON FUNCTION bigbrotr.lists_of_day IS
    'The lists of relays (kind 10002) of one slice that were created from p_since to p_last, both included (Unix seconds), and '
    'the relays that they name.';

-- What few relays hold: who they are, by kind. By it, whoever asks sees what is lost with which relays, however these are
-- today. What more relays hold than three counts as safe.
CREATE TABLE IF NOT EXISTS bigbrotr.day_scarce (
    day     bigint    NOT NULL,
    events  bigint    NOT NULL,
    kind    integer   NOT NULL,
    holders integer[] NOT NULL,
    PRIMARY KEY (day, holders, kind)
);
COMMENT ON TABLE bigbrotr.day_scarce IS 'Events of each day that three relays hold or fewer, by kind and by these relays.';
COMMENT ON COLUMN bigbrotr.day_scarce.day IS 'Day of created_at: days since 1970, of UTC.';
COMMENT ON COLUMN bigbrotr.day_scarce.kind IS 'Kind of the events.';
COMMENT ON COLUMN bigbrotr.day_scarce.holders IS 'Numbers of the relays that hold them, ascending.';
COMMENT ON COLUMN bigbrotr.day_scarce.events IS 'How many events these are.';

CREATE TABLE IF NOT EXISTS bigbrotr.scarce (
    events  bigint    NOT NULL,
    kind    integer   NOT NULL,
    holders integer[] NOT NULL,
    PRIMARY KEY (holders, kind)
);
CREATE INDEX IF NOT EXISTS scarce_nothing_idx ON bigbrotr.scarce (holders) WHERE events = 0;
COMMENT ON TABLE bigbrotr.scarce IS 'The sums of day_scarce over all days. Both change in one transaction.';
COMMENT ON COLUMN bigbrotr.scarce.kind IS 'Kind of the events.';
COMMENT ON COLUMN bigbrotr.scarce.holders IS 'Numbers of the relays that hold them, ascending.';
COMMENT ON COLUMN bigbrotr.scarce.events IS 'How many events these are.';

CREATE TABLE IF NOT EXISTS bigbrotr.authors (
    first_day   bigint NOT NULL,
    profile_day bigint,
    follows_day bigint,
    pubkey      bytea  NOT NULL PRIMARY KEY
);
CREATE INDEX IF NOT EXISTS authors_first_day_idx ON bigbrotr.authors (first_day);
CREATE INDEX IF NOT EXISTS authors_profile_day_idx ON bigbrotr.authors (profile_day);
CREATE INDEX IF NOT EXISTS authors_follows_day_idx ON bigbrotr.authors (follows_day);
COMMENT ON TABLE bigbrotr.authors IS
    'Who has signed archived events of other kinds than 445 and 1059. As of the days that are counted.';
COMMENT ON COLUMN bigbrotr.authors.pubkey IS 'Public key: 32 bytes.';
COMMENT ON COLUMN bigbrotr.authors.first_day IS 'Day of the first event: days since 1970, of UTC.';
COMMENT ON COLUMN bigbrotr.authors.profile_day IS 'A day with a profile (kind 0) of theirs; NULL: there is none.';
COMMENT ON COLUMN bigbrotr.authors.follows_day IS 'A day with a follow list (kind 3) of theirs; NULL: there is none.';

-- A day, with its events and their presence, lies within one slice. A pass over the pairs finds how often each event is
-- held, a second one who holds most of the day.
CREATE OR REPLACE FUNCTION bigbrotr.count_day_of(
    p_slice integer, p_since bigint, p_last bigint, p_relay_ids integer[], p_relay_networks text[], p_tops integer[],
    OUT kinds integer[], OUT held_by integer[], OUT kind_events bigint[],
    OUT relay_ids integer[], OUT relay_events bigint[], OUT relay_alone bigint[],
    OUT networks text[], OUT network_events bigint[], OUT network_pairs bigint[],
    OUT covered bigint[], OUT arrival_days bigint[], OUT arrivals bigint[],
    OUT pubkeys bytea[], OUT are_profiled boolean[], OUT are_following boolean[],
    OUT leaver_ids integer[], OUT leaver_places integer[], OUT leaver_events bigint[],
    OUT common_tags integer[], OUT tag_kinds integer[], OUT kind_tags integer[], OUT requests bytea[],
    OUT scarce_kinds integer[], OUT scarce_holders text[], OUT scarce_events bigint[]
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    sample CONSTANT integer := 2000;  -- events of the day
    common CONSTANT integer := 20;  -- of them bear a tag that is worth a note
BEGIN
    WITH day AS MATERIALIZED (
        SELECT e.num, e.kind FROM bigbrotr.events_stored e
        WHERE e.slice = p_slice AND e.created_at >= p_since AND e.created_at <= p_last
    ), pairs AS MATERIALIZED (
        SELECT d.num, d.kind, p.relay_id, p.seen_ats[(d.num & 255)::integer + 1] AS seen_at
        FROM day d JOIN bigbrotr.presence p ON p.slice = p_slice AND p.chunk = d.num >> 8
        WHERE p.seen_ats[(d.num & 255)::integer + 1] IS NOT NULL
    ), counts AS MATERIALIZED (
        SELECT p.relay_id, count(*) AS events FROM pairs p GROUP BY p.relay_id
    ), holders AS MATERIALIZED (  -- so few that the pairs need not be hashed to find theirs
        SELECT c.relay_id, r.network, c.events, row_number() OVER (ORDER BY c.events DESC, c.relay_id) AS place
        FROM counts c JOIN unnest(p_relay_ids, p_relay_networks) AS r (id, network) ON r.id = c.relay_id
    ), nets AS MATERIALIZED (
        SELECT h.network, sum(h.events)::bigint AS pairs, 1 << (row_number() OVER (ORDER BY h.network))::integer AS mark
        FROM holders h GROUP BY h.network
    ), held AS MATERIALIZED (
        SELECT p.num, p.kind, count(*)::integer AS relays, min(p.relay_id) AS one,
               max(p.relay_id) AS last, sum(p.relay_id) AS numbers, min(h.place) AS place,
               bit_or(n.mark) AS marks, min(p.seen_at) AS seen_at
        FROM pairs p JOIN holders h ON h.relay_id = p.relay_id JOIN nets n ON n.network = h.network
        GROUP BY p.num, p.kind
    ), by_kind AS (
        SELECT x.kind, x.relays, sum(x.events)::bigint AS events FROM (
            SELECT h.kind, h.relays, count(*) AS events FROM held h GROUP BY h.kind, h.relays
            UNION ALL
            SELECT d.kind, 0, count(*) FROM day d WHERE NOT EXISTS (SELECT FROM held h WHERE h.num = d.num) GROUP BY d.kind
        ) AS x GROUP BY x.kind, x.relays
    ), by_relay AS (
        SELECT h.relay_id, h.events, coalesce(a.events, 0) AS alone
        FROM holders h
        LEFT JOIN (SELECT x.one, count(*) AS events FROM held x WHERE x.relays = 1 GROUP BY x.one) AS a ON a.one = h.relay_id
    ), by_network AS (
        SELECT n.network, n.pairs, sum(m.events) FILTER (WHERE m.marks & n.mark > 0)::bigint AS events
        FROM nets n CROSS JOIN (SELECT h.marks, count(*) AS events FROM held h GROUP BY h.marks) AS m
        GROUP BY n.network, n.pairs
    ), by_top AS (
        SELECT t.top, (SELECT count(*) FROM held h WHERE h.place <= t.top) AS events FROM unnest(p_tops) AS t (top)
    ), by_arrival AS (
        SELECT bigbrotr.unpack_seen(h.seen_at) / 86400 AS day, count(*) AS events FROM held h GROUP BY 1
    ), by_holders AS (  -- of three, the first, the last and the sum tell the second
        SELECT h.kind, h.one, h.last, h.numbers, h.relays, count(*) AS events FROM held h WHERE h.relays <= 3
        GROUP BY h.kind, h.one, h.last, h.numbers, h.relays
    )
    SELECT k.kinds, k.relays, k.events, r.ids, r.events, r.alone, n.networks, n.events, n.pairs, t.events, a.days, a.events,
           s.kinds, s.holders, s.events
    INTO kinds, held_by, kind_events, relay_ids, relay_events, relay_alone, networks, network_events, network_pairs,
         covered, arrival_days, arrivals, scarce_kinds, scarce_holders, scarce_events
    FROM (SELECT array_agg(b.kind) AS kinds, array_agg(b.relays) AS relays, array_agg(b.events) AS events
          FROM by_kind b) AS k,
         (SELECT array_agg(b.relay_id) AS ids, array_agg(b.events) AS events, array_agg(b.alone) AS alone
          FROM by_relay b) AS r,
         (SELECT array_agg(b.network) AS networks, array_agg(b.events) AS events, array_agg(b.pairs) AS pairs
          FROM by_network b) AS n,
         (SELECT array_agg(b.events ORDER BY b.top) AS events FROM by_top b) AS t,
         (SELECT coalesce(array_agg(b.day ORDER BY b.day), '{}') AS days,
                 coalesce(array_agg(b.events ORDER BY b.day), '{}') AS events FROM by_arrival b) AS a,
         (SELECT array_agg(b.kind) AS kinds, array_agg(b.events) AS events,
                 array_agg((CASE b.relays WHEN 1 THEN ARRAY[b.one] WHEN 2 THEN ARRAY[b.one, b.last]
                            ELSE ARRAY[b.one, (b.numbers - b.one - b.last)::integer, b.last] END)::text) AS holders
          FROM by_holders b) AS s;

    SELECT array_agg(x.pubkey), array_agg(x.is_profiled), array_agg(x.is_following)
    INTO pubkeys, are_profiled, are_following
    FROM (
        SELECT e.pubkey, bool_or(e.kind = 0) AS is_profiled, bool_or(e.kind = 3) AS is_following
        FROM bigbrotr.events_stored e
        WHERE e.slice = p_slice AND e.created_at >= p_since AND e.created_at <= p_last AND e.kind NOT IN (-1, 445, 1059)
        GROUP BY e.pubkey
    ) AS x;

    SELECT array_agg(x.relay_id), array_agg(x.place), array_agg(x.events)
    INTO leaver_ids, leaver_places, leaver_events
    FROM (
        SELECT d.relay_id::integer AS relay_id,
               width_bucket(d.dropped_at - d.seen_at, '{3600,86400,604800,2592000,31536000}'::bigint[]) + 1 AS place,
               count(*) AS events
        FROM bigbrotr.dropped d
        WHERE d.slice = p_slice AND d.created_at >= p_since AND d.created_at <= p_last AND d.relay_id = ANY (p_relay_ids)
        GROUP BY 1, 2
    ) AS x;

    common_tags := ARRAY(
        SELECT u.hash
        FROM (
            SELECT e.tag_hashes FROM bigbrotr.events_stored e
            WHERE e.slice = p_slice AND e.created_at >= p_since AND e.created_at <= p_last
            ORDER BY e.created_at LIMIT sample
        ) AS s CROSS JOIN unnest(s.tag_hashes) AS u (hash)
        GROUP BY u.hash HAVING count(*) >= common ORDER BY u.hash);
    SELECT array_agg(x.kind), array_agg(x.hash) INTO tag_kinds, kind_tags
    FROM (
        SELECT DISTINCT e.kind, u.hash
        FROM bigbrotr.events_stored e CROSS JOIN unnest(e.tag_hashes) AS u (hash)
        WHERE e.slice = p_slice AND e.created_at >= p_since AND e.created_at <= p_last
          AND coalesce(e.tag_hashes && common_tags, false)  -- no index: most of the day has one of them
          AND u.hash = ANY (common_tags)
    ) AS x;

    requests := ARRAY(
        SELECT e.id FROM bigbrotr.events_stored e
        WHERE e.slice = p_slice AND e.created_at >= p_since AND e.created_at <= p_last AND e.kind IN (5, 62));
END $$;
COMMENT ON FUNCTION bigbrotr.count_day_of IS
    'The part of count_day that reads the slice of a day, which lasts from p_since to p_last, both included (Unix '
    'seconds). p_relay_ids, p_relay_networks: the relays that count. Lists of one length: events by kind and number of relays; by relay, and those that it alone holds; by '
    'network; those that the p_tops largest relays cover; by day of arrival; authors, and whether a profile and a '
    'follow list of theirs are of that day; what relays have dropped, by place in day_relays.dropped; the common tags, and kinds with those of them that they bear; requests for deletion, and to vanish; events that three relays hold or '
    'fewer, by kind and by these relays, as literals of arrays.';

-- What the archive has of some authors, on any day.
CREATE OR REPLACE FUNCTION bigbrotr.days_of_authors(p_pubkeys bytea[]) RETURNS SETOF bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET jit = off SET enable_seqscan = off SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    RETURN QUERY SELECT DISTINCT e.created_at / 86400 FROM bigbrotr.events_stored e WHERE e.pubkey = ANY (p_pubkeys);
END $$;
COMMENT ON FUNCTION bigbrotr.days_of_authors IS 'The days on which there are events of some authors.';

CREATE OR REPLACE FUNCTION bigbrotr.first_days_of(p_pubkeys bytea[])
RETURNS TABLE (pubkey bytea, first_day bigint, profile_day bigint, follows_day bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET jit = off SET enable_seqscan = off SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    RETURN QUERY
    SELECT e.pubkey, min(e.created_at) / 86400, (min(e.created_at) FILTER (WHERE e.kind = 0)) / 86400,
           (min(e.created_at) FILTER (WHERE e.kind = 3)) / 86400
    FROM bigbrotr.events_stored e WHERE e.pubkey = ANY (p_pubkeys) AND e.kind NOT IN (-1, 445, 1059) GROUP BY e.pubkey;
END $$;
COMMENT ON FUNCTION bigbrotr.first_days_of IS
    'For those of some authors who have events: the days of the first event, profile and follow list.';

-- What is new of an author on one day may change what is to be said of others: they are noted.
CREATE OR REPLACE FUNCTION bigbrotr.note_authors(
    p_day bigint, p_pubkeys bytea[], p_are_profiled boolean[], p_are_following boolean[]
) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    turned bytea[];  -- who has a profile or a follow list now, or no longer
    lost   bytea[];  -- of whom something is noted for this day that is gone
    again  bigint[];  -- days to be counted again
    more   bigint[];
BEGIN
    again := ARRAY(
        SELECT DISTINCT a.first_day FROM bigbrotr.authors a WHERE a.pubkey = ANY (p_pubkeys) AND a.first_day > p_day);

    turned := ARRAY(
        SELECT a.pubkey
        FROM unnest(p_pubkeys, p_are_profiled, p_are_following) AS u (pubkey, is_profiled, is_following)
        JOIN bigbrotr.authors a ON a.pubkey = u.pubkey
        WHERE (u.is_profiled AND a.profile_day IS NULL) OR (u.is_following AND a.follows_day IS NULL));

    INSERT INTO bigbrotr.authors AS a (pubkey, first_day, profile_day, follows_day)
    SELECT u.pubkey, p_day, CASE WHEN u.is_profiled THEN p_day END, CASE WHEN u.is_following THEN p_day END
    FROM unnest(p_pubkeys, p_are_profiled, p_are_following) AS u (pubkey, is_profiled, is_following)
    ON CONFLICT (pubkey) DO UPDATE SET
        first_day = least(a.first_day, EXCLUDED.first_day), profile_day = coalesce(a.profile_day, EXCLUDED.profile_day),
        follows_day = coalesce(a.follows_day, EXCLUDED.follows_day)
    WHERE a.first_day > EXCLUDED.first_day OR (a.profile_day IS NULL AND EXCLUDED.profile_day IS NOT NULL)
       OR (a.follows_day IS NULL AND EXCLUDED.follows_day IS NOT NULL);

    -- Events have been deleted.
    lost := ARRAY(
        SELECT x.pubkey FROM (
            SELECT a.pubkey FROM bigbrotr.authors a WHERE a.first_day = p_day
            EXCEPT SELECT u.pubkey FROM unnest(p_pubkeys) AS u (pubkey)
        ) AS x
        UNION
        SELECT x.pubkey FROM (
            SELECT a.pubkey FROM bigbrotr.authors a WHERE a.profile_day = p_day
            EXCEPT SELECT u.pubkey FROM unnest(p_pubkeys, p_are_profiled) AS u (pubkey, is_profiled) WHERE u.is_profiled
        ) AS x
        UNION
        SELECT x.pubkey FROM (
            SELECT a.pubkey FROM bigbrotr.authors a WHERE a.follows_day = p_day
            EXCEPT SELECT u.pubkey FROM unnest(p_pubkeys, p_are_following) AS u (pubkey, is_following) WHERE u.is_following
        ) AS x);
    IF cardinality(lost) > 0 THEN
        WITH real AS (
            SELECT l.pubkey, f.first_day, f.profile_day, f.follows_day
            FROM unnest(lost) AS l (pubkey)
            LEFT JOIN bigbrotr.first_days_of(p_pubkeys => lost) AS f ON f.pubkey = l.pubkey
        ), gone AS (
            DELETE FROM bigbrotr.authors a USING real r WHERE a.pubkey = r.pubkey AND r.first_day IS NULL
        ), changed AS (
            UPDATE bigbrotr.authors a
            SET first_day = r.first_day, profile_day = r.profile_day, follows_day = r.follows_day
            FROM real r WHERE a.pubkey = r.pubkey AND r.first_day IS NOT NULL
        )
        SELECT turned || coalesce(array_agg(a.pubkey) FILTER (
                   WHERE (a.profile_day IS NULL) <> (r.profile_day IS NULL)
                      OR (a.follows_day IS NULL) <> (r.follows_day IS NULL)), '{}'),
               array_agg(DISTINCT r.first_day) FILTER (WHERE r.first_day <> p_day)
        INTO turned, more
        FROM bigbrotr.authors a JOIN real r ON r.pubkey = a.pubkey;
        again := again || more;
    END IF;
    IF cardinality(turned) > 0 THEN
        again := again || ARRAY(
            SELECT d.day FROM bigbrotr.days_of_authors(p_pubkeys => turned) AS d (day) WHERE d.day <> p_day);
    END IF;
    IF cardinality(again) > 0 THEN
        INSERT INTO bigbrotr.dirty_days (day) SELECT DISTINCT u.day FROM unnest(again) AS u (day);
        UPDATE bigbrotr.day_totals t SET made_at = 0 WHERE t.day = ANY (again);  -- due at once
    END IF;
END $$;
COMMENT ON FUNCTION bigbrotr.note_authors IS
    'Brings the table authors to what one day says: its authors, and whether a profile and a follow list of theirs are '
    'of that day.';

CREATE OR REPLACE FUNCTION bigbrotr.count_day(p_day bigint, p_now bigint)
RETURNS TABLE (pubkeys bytea[], with_profile boolean[], with_follows boolean[])
LANGUAGE plpgsql ROWS 1 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    since_at bigint := p_day * 86400;
    tops     CONSTANT integer[] := '{1,2,3,5,10,20,50,100}';
    relays   record;
    done     record;
BEGIN
    LOCK TABLE bigbrotr.statistics_lock IN EXCLUSIVE MODE;
    -- What commits from here on leaves a note of its own.
    DELETE FROM bigbrotr.dirty_days d WHERE d.day = p_day;
    SELECT array_agg(r.id::integer) AS ids, array_agg(r.network) AS networks INTO relays FROM bigbrotr.relays r;
    SELECT c.* INTO done
    FROM bigbrotr.count_day_of(
        p_slice => bigbrotr.slice_of(since_at), p_since => since_at,
        p_last => least(since_at::numeric + 86399, 9223372036854775807)::bigint,
        p_relay_ids => coalesce(relays.ids, '{}'), p_relay_networks => coalesce(relays.networks, '{}'), p_tops => tops) AS c;
    PERFORM bigbrotr.note_authors(
        p_day => p_day, p_pubkeys => done.pubkeys, p_are_profiled => done.are_profiled,
        p_are_following => done.are_following);

    DELETE FROM bigbrotr.day_kinds k WHERE k.day = p_day;
    INSERT INTO bigbrotr.day_kinds (day, kind, events, held_by, held_events, common_tags)
    SELECT p_day, u.kind, sum(u.events), array_agg(u.relays ORDER BY u.relays), array_agg(u.events ORDER BY u.relays),
           ARRAY(SELECT t.hash FROM unnest(done.tag_kinds, done.kind_tags) AS t (kind, hash)
                 WHERE t.kind = u.kind ORDER BY t.hash)
    FROM unnest(done.kinds, done.held_by, done.kind_events) AS u (kind, relays, events) GROUP BY u.kind;

    DELETE FROM bigbrotr.day_relays r WHERE r.day = p_day;
    INSERT INTO bigbrotr.day_relays (day, relay_id, events, alone, dropped)
    SELECT p_day, relay_id, coalesce(h.events, 0), coalesce(h.alone, 0), coalesce(l.dropped, '{0,0,0,0,0,0}')
    FROM unnest(done.relay_ids, done.relay_events, done.relay_alone) AS h (relay_id, events, alone)
    FULL JOIN (
        SELECT u.relay_id, ARRAY(
                   SELECT coalesce(sum(w.events) FILTER (WHERE w.relay_id = u.relay_id AND w.place = s.place), 0)::bigint
                   FROM generate_series(1, 6) AS s (place)
                   CROSS JOIN unnest(done.leaver_ids, done.leaver_places, done.leaver_events) AS w (relay_id, place, events)
                   GROUP BY s.place ORDER BY s.place) AS dropped
        FROM unnest(done.leaver_ids) AS u (relay_id) GROUP BY u.relay_id
    ) AS l USING (relay_id);

    DELETE FROM bigbrotr.day_networks n WHERE n.day = p_day;
    INSERT INTO bigbrotr.day_networks (day, network, events, pairs)
    SELECT p_day, u.network, u.events, u.pairs
    FROM unnest(done.networks, done.network_events, done.network_pairs) AS u (network, events, pairs);

    DELETE FROM bigbrotr.author_lists l WHERE l.day = p_day;
    INSERT INTO bigbrotr.author_lists (day, created_at, pubkey, id, urls)
    SELECT p_day, l.created_at, l.pubkey, l.id, l.urls
    FROM bigbrotr.lists_of_day(
        p_slice => bigbrotr.slice_of(since_at), p_since => since_at,
        p_last => least(since_at::numeric + 86399, 9223372036854775807)::bigint) AS l;

    -- What a day no longer says is taken from the sums, and what it says now is added.
    WITH gone AS (
        DELETE FROM bigbrotr.day_scarce s WHERE s.day = p_day RETURNING s.kind, s.holders, s.events
    ), changes AS (
        SELECT c.kind, c.holders, sum(c.events)::bigint AS events FROM (
            SELECT g.kind, g.holders, -g.events AS events FROM gone g
            UNION ALL
            SELECT u.kind, u.holders::integer[], u.events
            FROM unnest(done.scarce_kinds, done.scarce_holders, done.scarce_events) AS u (kind, holders, events)
        ) AS c GROUP BY c.kind, c.holders HAVING sum(c.events) <> 0
    )
    INSERT INTO bigbrotr.scarce AS s (kind, holders, events)
    SELECT c.kind, c.holders, c.events FROM changes c
    ON CONFLICT (holders, kind) DO UPDATE SET events = s.events + EXCLUDED.events;
    DELETE FROM bigbrotr.scarce s WHERE s.events = 0;
    INSERT INTO bigbrotr.day_scarce (day, kind, holders, events)
    SELECT p_day, u.kind, u.holders::integer[], u.events
    FROM unnest(done.scarce_kinds, done.scarce_holders, done.scarce_events) AS u (kind, holders, events);

    SELECT array_agg(a.pubkey), array_agg(a.profile_day IS NOT NULL), array_agg(a.follows_day IS NOT NULL)
    INTO pubkeys, with_profile, with_follows
    FROM bigbrotr.authors a WHERE a.pubkey = ANY (done.pubkeys);
    DELETE FROM bigbrotr.day_totals t WHERE t.day = p_day;
    INSERT INTO bigbrotr.day_totals (
        day, made_at, events, pairs, held, authors, new_authors, tops, covered, arrival_days, arrivals,
        common_tags)
    SELECT p_day, p_now,
           (SELECT sum(u.events) FROM unnest(done.kind_events) AS u (events)),
           (SELECT coalesce(sum(u.events), 0) FROM unnest(done.relay_events) AS u (events)),
           (SELECT coalesce(sum(u.events), 0) FROM unnest(done.arrivals) AS u (events)),
           (SELECT ARRAY[count(*), count(*) FILTER (WHERE u.is_profiled), count(*) FILTER (WHERE u.is_following)]
            FROM unnest(with_profile, with_follows) AS u (is_profiled, is_following)),
           (SELECT ARRAY[count(*), count(a.profile_day), count(a.follows_day)]
            FROM bigbrotr.authors a WHERE a.first_day = p_day),
           tops, done.covered, done.arrival_days, done.arrivals, done.common_tags
    WHERE cardinality(done.kinds) > 0;
    UPDATE bigbrotr.day_totals t SET authors_7_days = NULL, authors_30_days = NULL
    WHERE t.day > p_day AND t.day < p_day + 30 AND t.authors_7_days IS NOT NULL;
    PERFORM bigbrotr.note_compliance(p_day => p_day, p_requests => done.requests);
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION bigbrotr.count_day IS
    'Counts a day anew and takes it out of the queue. Returns its authors, and whether they have a profile and a '
    'follow list, for keep_sketches within the same transaction. Waits for who counts another day. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.keep_sketches(p_day bigint, p_sketches bytea[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE bigbrotr.day_totals t SET sketches = p_sketches WHERE t.day = p_day;
END $$;
COMMENT ON FUNCTION bigbrotr.keep_sketches IS 'Keeps the sketches of the authors of a day: all, with a profile, with a follow list.';

CREATE OR REPLACE FUNCTION bigbrotr.days_due(p_made_before bigint, p_now bigint, p_limit integer) RETURNS SETOF bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- The queue may hold a day many thousand times: the index leads from each day to the next.
    RETURN QUERY
    WITH RECURSIVE noted AS (
        SELECT (SELECT max(d.day) FROM bigbrotr.dirty_days d) AS day
        UNION ALL
        SELECT (SELECT max(d.day) FROM bigbrotr.dirty_days d WHERE d.day < n.day) FROM noted n WHERE n.day IS NOT NULL
    )
    SELECT n.day FROM noted n LEFT JOIN bigbrotr.day_totals t ON t.day = n.day
    WHERE n.day IS NOT NULL AND (t.day IS NULL OR t.made_at <= p_made_before OR t.made_at > p_now)
    ORDER BY n.day DESC LIMIT p_limit;
END $$;
COMMENT ON FUNCTION bigbrotr.days_due IS
    'Days of the queue that were not counted after p_made_before (Unix seconds), the newest first, at most p_limit.';

-- Relays are deleted by hand as well, and nothing may depend on a trigger there. Their tallies stay.
CREATE OR REPLACE FUNCTION bigbrotr.note_deleted_relays() RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    noted integer;
BEGIN
    WITH gone AS (
        SELECT t.relay_id FROM bigbrotr.tallies t
        WHERE t.relay_id > 0 AND NOT EXISTS (SELECT FROM bigbrotr.relays r WHERE r.id = t.relay_id)
    ), added AS (
        INSERT INTO bigbrotr.dirty_days (day)
        SELECT DISTINCT d.day FROM gone g JOIN bigbrotr.day_relays d ON d.relay_id = g.relay_id
        RETURNING 1
    )
    SELECT count(*) INTO noted FROM added;
    RETURN noted;
END $$;
COMMENT ON FUNCTION bigbrotr.note_deleted_relays IS
    'Has the days counted anew whose figures speak of relays that are deleted by now. Returns how many.';

CREATE OR REPLACE FUNCTION bigbrotr.thin_dirty_days() RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    gone integer;
BEGIN
    LOCK TABLE bigbrotr.statistics_lock IN EXCLUSIVE MODE;
    WITH deleted AS (
        DELETE FROM bigbrotr.dirty_days d USING (
            SELECT x.day, max(x.ctid) AS kept FROM bigbrotr.dirty_days x GROUP BY x.day HAVING count(*) > 1
        ) AS k
        WHERE d.day = k.day AND d.ctid <> k.kept
        RETURNING 1
    )
    SELECT count(*) INTO gone FROM deleted;
    RETURN gone;
END $$;
COMMENT ON FUNCTION bigbrotr.thin_dirty_days IS
    'Leaves one row a day in the queue of days, so that it stays small while nobody counts. Returns how many have gone.';

CREATE OR REPLACE FUNCTION bigbrotr.windows_due(p_limit integer) RETURNS TABLE (day bigint, days bigint[], sketches bytea[])
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    SELECT w.day, array_agg(t.day), array_agg(t.sketches)
    FROM (
        SELECT x.day FROM bigbrotr.day_totals x WHERE x.authors_7_days IS NULL AND x.sketches IS NOT NULL
        ORDER BY x.day DESC LIMIT p_limit
    ) AS w
    JOIN bigbrotr.day_totals t ON t.day > w.day - 30 AND t.day <= w.day AND t.sketches IS NOT NULL
    GROUP BY w.day ORDER BY w.day DESC;
END $$;
COMMENT ON FUNCTION bigbrotr.windows_due IS
    'Days whose windows are to be estimated, at most p_limit, the newest first: each with the days of the 30 days up to '
    'it, and their sketches.';

CREATE OR REPLACE FUNCTION bigbrotr.keep_windows(p_day bigint, p_7_days bigint[], p_30_days bigint[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE bigbrotr.day_totals t SET authors_7_days = p_7_days, authors_30_days = p_30_days WHERE t.day = p_day;
END $$;
COMMENT ON FUNCTION bigbrotr.keep_windows IS
    'Keeps about how many authors the 7 and the 30 days up to a day have: all, with a profile, with a follow list.';

CREATE OR REPLACE FUNCTION bigbrotr.days_without(p_kinds integer[], p_hashes integer[], p_since bigint, p_until bigint)
RETURNS int8multirange
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (
        SELECT coalesce(range_agg(int8range(t.day * 86400, (t.day + 1) * 86400)), '{}')
        FROM bigbrotr.day_totals t
        WHERE t.day >= p_since / 86400 AND t.day <= p_until / 86400 AND t.day < 106751991167300  -- its end can be told
          AND t.common_tags @> p_hashes
          AND NOT EXISTS (SELECT FROM bigbrotr.dirty_days d WHERE d.day = t.day)
          AND NOT EXISTS (
              SELECT FROM bigbrotr.day_kinds k
              WHERE k.day = t.day AND k.kind = ANY (p_kinds) AND k.common_tags && p_hashes));
END $$;
COMMENT ON FUNCTION bigbrotr.days_without IS
    'The days, as [since, until) in Unix seconds, of which it is known that no event of these kinds bears a tag with one of '
    'these hashes. All of them must be common on such a day, and nothing may have changed since it was counted.';

-- A pass over all lists that were ever met: some hundred thousand in an archive of ten million events, and a second or two.
CREATE OR REPLACE FUNCTION bigbrotr.sum_lists(p_made_before bigint, p_now bigint) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET work_mem = '64MB' SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    LOCK TABLE bigbrotr.statistics_lock IN EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM bigbrotr.month_moves m WHERE m.made_at > p_made_before AND m.made_at <= p_now) THEN
        RETURN false;
    END IF;
    DELETE FROM bigbrotr.month_moves;
    INSERT INTO bigbrotr.month_moves (month, made_at, authors, moved, added, removed)
    SELECT x.month, p_now, count(DISTINCT x.pubkey), count(DISTINCT x.pubkey) FILTER (WHERE x.added + x.removed > 0),
           sum(x.added), sum(x.removed)
    FROM (
        SELECT v.pubkey, bigbrotr.month_of(v.created_at) AS month,
               CASE WHEN v.before IS NULL THEN 0
                    ELSE (SELECT count(*) FROM unnest(v.urls) AS u (url) WHERE u.url <> ALL (v.before)) END AS added,
               CASE WHEN v.before IS NULL THEN 0
                    ELSE (SELECT count(*) FROM unnest(v.before) AS u (url) WHERE u.url <> ALL (v.urls)) END AS removed
        FROM (
            -- Of two lists of one second, that with the lowest id counts: it comes last.
            SELECT l.pubkey, l.created_at, l.urls,
                   lag(l.urls) OVER (PARTITION BY l.pubkey ORDER BY l.created_at, l.id DESC) AS before
            FROM bigbrotr.author_lists l
        ) AS v
    ) AS x
    GROUP BY x.month;
    DELETE FROM bigbrotr.listed_relays;
    INSERT INTO bigbrotr.listed_relays (made_at, authors, url)
    SELECT p_now, count(*), u.url
    FROM (
        SELECT DISTINCT ON (l.pubkey) l.urls FROM bigbrotr.author_lists l ORDER BY l.pubkey, l.created_at DESC, l.id
    ) AS n CROSS JOIN unnest(n.urls) AS u (url)
    GROUP BY u.url;
    RETURN true;
END $$;
COMMENT ON FUNCTION bigbrotr.sum_lists IS
    'Counts who has moved, and which relays are listed, unless that was done after p_made_before (Unix seconds). Returns '
    'whether it has counted. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.month_of(p_time bigint) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN p_time > 253402300799 THEN 96359 ELSE
    (extract(year FROM to_timestamp(p_time) AT TIME ZONE 'UTC')::integer - 1970) * 12
    + extract(month FROM to_timestamp(p_time) AT TIME ZONE 'UTC')::integer - 1 END;
COMMENT ON FUNCTION bigbrotr.month_of IS 'Months since 1970 (of UTC) of a time (Unix seconds); what is later than 9999 counts as of its end.';

CREATE OR REPLACE FUNCTION bigbrotr.month_name(p_month integer) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN lpad((1970 + p_month / 12)::text, 4, '0') || '-' || lpad((p_month % 12 + 1)::text, 2, '0');
COMMENT ON FUNCTION bigbrotr.month_name IS 'A month, in months since 1970, as people write it, e.g. 2024-05.';
