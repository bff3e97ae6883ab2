-- Witnesses: what other monitors say of relays (NIP-66), as they say it. The service witnesses follows the log of arrivals and
-- takes the newest word of each on each relay; who stores events does nothing for it. Anybody may call himself a monitor: so
-- there is room for so many, only relays of this archive count, and a new one weighs nothing until it was compared with us.

CREATE TABLE IF NOT EXISTS bigbrotr.witnesses_lock ();
COMMENT ON TABLE bigbrotr.witnesses_lock IS 'Always empty. A process locks it while it lets monitors in as witnesses.';

CREATE TABLE IF NOT EXISTS bigbrotr.witnesses (
    pubkey          bytea   NOT NULL PRIMARY KEY,
    first_at        bigint  NOT NULL,
    heard_at        bigint  NOT NULL,
    introduced_at   bigint,
    introduction_id bytea,
    frequency_s     integer,
    timeouts_ms     jsonb,
    checks          text[],
    geohash         text,
    relays          integer NOT NULL DEFAULT 0,
    compared        integer NOT NULL DEFAULT 0,
    agreed          integer NOT NULL DEFAULT 0,
    others_compared integer NOT NULL DEFAULT 0,
    others_agreed   integer NOT NULL DEFAULT 0,
    timed           integer NOT NULL DEFAULT 0,
    outliers        integer NOT NULL DEFAULT 0,
    ratio           double precision,
    reliability     double precision NOT NULL DEFAULT 0,
    compared_at     bigint
);
COMMENT ON TABLE bigbrotr.witnesses IS 'Other monitors whose words on relays are kept, and how far they agree with ours.';
COMMENT ON COLUMN bigbrotr.witnesses.pubkey IS 'Public key of the monitor: 32 bytes.';
COMMENT ON COLUMN bigbrotr.witnesses.first_at IS 'When it was first noted here, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.witnesses.heard_at IS 'When its newest word was said, in Unix seconds, by its own clock.';
COMMENT ON COLUMN bigbrotr.witnesses.introduced_at IS
    'When its announcement of itself (kind 10166) was made, in Unix seconds; NULL: there is none.';
COMMENT ON COLUMN bigbrotr.witnesses.introduction_id IS 'Id of that event: 32 bytes.';
COMMENT ON COLUMN bigbrotr.witnesses.frequency_s IS 'How often it says that it speaks of each relay, in seconds.';
COMMENT ON COLUMN bigbrotr.witnesses.timeouts_ms IS 'Time-outs that it says it has, by check, in milliseconds.';
COMMENT ON COLUMN bigbrotr.witnesses.checks IS 'Checks that it says it makes.';
COMMENT ON COLUMN bigbrotr.witnesses.geohash IS 'Where it says it is (NIP-52).';
COMMENT ON COLUMN bigbrotr.witnesses.relays IS 'Relays of which it said something at the newest comparison.';
COMMENT ON COLUMN bigbrotr.witnesses.compared IS 'Statements of its that were compared with ours then.';
COMMENT ON COLUMN bigbrotr.witnesses.agreed IS 'Of these, those that agreed.';
COMMENT ON COLUMN bigbrotr.witnesses.others_compared IS
    'Statements of its that were compared with what the other witnesses say together.';
COMMENT ON COLUMN bigbrotr.witnesses.others_agreed IS 'Of these, those that agreed.';
COMMENT ON COLUMN bigbrotr.witnesses.timed IS 'Round trips of its that were compared with those of others.';
COMMENT ON COLUMN bigbrotr.witnesses.outliers IS
    'Of these, those more than three median absolute deviations from the median.';
COMMENT ON COLUMN bigbrotr.witnesses.ratio IS 'Median of its round trips by ours; NULL: there are none.';
COMMENT ON COLUMN bigbrotr.witnesses.reliability IS
    'How far it can be relied on, 0 to 1: the share of its statements that agree with ours, where few count for little, '
    'with a half-life of three days. Its weight.';
COMMENT ON COLUMN bigbrotr.witnesses.compared_at IS 'When all that was counted, in Unix seconds; NULL: not yet.';

CREATE TABLE IF NOT EXISTS bigbrotr.witness_words (
    pubkey   bytea  NOT NULL REFERENCES bigbrotr.witnesses (pubkey) ON DELETE CASCADE,
    relay_id bigint NOT NULL REFERENCES bigbrotr.relays (id) ON DELETE CASCADE,
    said_at  bigint NOT NULL,
    event_id bytea  NOT NULL,
    open_ms  integer,
    read_ms  integer,
    write_ms integer,
    auth     boolean,
    payment  boolean,
    tls      boolean,
    PRIMARY KEY (pubkey, relay_id)
);
COMMENT ON TABLE bigbrotr.witness_words IS
    'The newest word (kind 30166) of each witness on each relay: it was up then. Words are forgotten after two weeks.';
COMMENT ON COLUMN bigbrotr.witness_words.pubkey IS 'Public key of the witness: 32 bytes.';
COMMENT ON COLUMN bigbrotr.witness_words.relay_id IS 'Number of the relay.';
COMMENT ON COLUMN bigbrotr.witness_words.said_at IS 'When it was said, in Unix seconds, by the clock of the witness.';
COMMENT ON COLUMN bigbrotr.witness_words.event_id IS 'Id of the event: 32 bytes.';
COMMENT ON COLUMN bigbrotr.witness_words.open_ms IS 'Its time to open a connection, in milliseconds; NULL: it does not say.';
COMMENT ON COLUMN bigbrotr.witness_words.read_ms IS 'Its time to read.';
COMMENT ON COLUMN bigbrotr.witness_words.write_ms IS 'Its time to write.';
COMMENT ON COLUMN bigbrotr.witness_words.auth IS 'Whether the relay requires authentication.';
COMMENT ON COLUMN bigbrotr.witness_words.payment IS 'Whether it requires payment.';
COMMENT ON COLUMN bigbrotr.witness_words.tls IS 'Whether its certificate is valid.';
CREATE INDEX IF NOT EXISTS witness_words_relay_idx ON bigbrotr.witness_words (relay_id);

CREATE TABLE IF NOT EXISTS bigbrotr.witness_state (
    is_only     boolean NOT NULL PRIMARY KEY DEFAULT true CHECK (is_only),
    xid         bigint  NOT NULL,
    id          bigint  NOT NULL,
    compared_at bigint,
    judged      integer NOT NULL DEFAULT 0,
    witnessed   integer NOT NULL DEFAULT 0
);
COMMENT ON TABLE bigbrotr.witness_state IS 'How far the service witnesses is: one row, or none where it never ran.';
COMMENT ON COLUMN bigbrotr.witness_state.is_only IS 'Always true.';
COMMENT ON COLUMN bigbrotr.witness_state.xid IS 'Transaction of the last row of arrivals that was read.';
COMMENT ON COLUMN bigbrotr.witness_state.id IS 'Id of that row.';
COMMENT ON COLUMN bigbrotr.witness_state.compared_at IS 'When witnesses were last compared, in Unix seconds; NULL: not yet.';
COMMENT ON COLUMN bigbrotr.witness_state.judged IS 'Relays of which we had a verdict then.';
COMMENT ON COLUMN bigbrotr.witness_state.witnessed IS 'Of these, those of which a witness said something.';

CREATE OR REPLACE FUNCTION bigbrotr.begin_witnesses(p_xid bigint, p_id bigint, p_is_again boolean) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    begun boolean;
BEGIN
    WITH noted AS (
        INSERT INTO bigbrotr.witness_state AS s (xid, id) VALUES (p_xid, p_id)
        ON CONFLICT (is_only) DO UPDATE SET xid = EXCLUDED.xid, id = EXCLUDED.id
        WHERE p_is_again OR s.xid > EXCLUDED.xid
        RETURNING 1
    )
    SELECT count(*) > 0 INTO begun FROM noted;
    RETURN begun;
END $$;
COMMENT ON FUNCTION bigbrotr.begin_witnesses IS
    'Notes that the newest words of the archive were read up to a row of arrivals; with p_is_again although it had begun. '
    'Returns whether that is noted. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.move_witnesses(p_xid bigint, p_id bigint, p_from_xid bigint, p_from_id bigint)
RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE bigbrotr.witness_state s SET xid = p_xid, id = p_id WHERE s.xid = p_from_xid AND s.id = p_from_id;
    RETURN FOUND;
END $$;
COMMENT ON FUNCTION bigbrotr.move_witnesses IS
    'Notes how far arrivals were read, if that was where the caller has begun. Returns false if another was quicker.';

-- Room is made by those who have said nothing for a week, and by those who had a day and are not relied on at all.
CREATE OR REPLACE FUNCTION bigbrotr.admit_witnesses(
    p_pubkeys bytea[], p_named integer[], p_most integer, p_protected bytea[], p_now bigint
) RETURNS bytea[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wanted   integer;
    room     integer;
    admitted bytea[];
BEGIN
    IF NOT EXISTS (
        SELECT FROM unnest(p_pubkeys) AS u (pubkey)
        WHERE NOT EXISTS (SELECT FROM bigbrotr.witnesses w WHERE w.pubkey = u.pubkey))
    THEN
        RETURN '{}';
    END IF;
    -- One at a time, so that there are not more than there is room for.
    LOCK TABLE bigbrotr.witnesses_lock IN EXCLUSIVE MODE;
    SELECT count(*) INTO wanted FROM unnest(p_pubkeys) AS u (pubkey)
    WHERE NOT EXISTS (SELECT FROM bigbrotr.witnesses w WHERE w.pubkey = u.pubkey);
    SELECT p_most - count(*) INTO room FROM bigbrotr.witnesses w;
    DELETE FROM bigbrotr.witnesses w WHERE w.pubkey IN (
        SELECT o.pubkey FROM bigbrotr.witnesses o
        WHERE o.pubkey <> ALL (p_protected)
          AND (o.heard_at < p_now - 604800 OR (o.reliability < 0.1 AND o.first_at < p_now - 86400))
        ORDER BY o.heard_at < p_now - 604800 DESC, o.reliability, o.heard_at, o.pubkey
        LIMIT greatest(0, wanted - room)
    );
    SELECT p_most - count(*) INTO room FROM bigbrotr.witnesses w;
    WITH new_witnesses AS (
        INSERT INTO bigbrotr.witnesses (pubkey, first_at, heard_at)
        SELECT u.pubkey, p_now, 0 FROM unnest(p_pubkeys, p_named) AS u (pubkey, named)
        WHERE NOT EXISTS (SELECT FROM bigbrotr.witnesses w WHERE w.pubkey = u.pubkey)
        ORDER BY u.pubkey = ANY (p_protected) DESC, u.named DESC, u.pubkey
        LIMIT greatest(0, room)
        RETURNING pubkey
    )
    SELECT array_agg(n.pubkey) INTO admitted FROM new_witnesses n;
    RETURN coalesce(admitted, '{}');
END $$;
COMMENT ON FUNCTION bigbrotr.admit_witnesses IS
    'Lets monitors in as witnesses, up to p_most in all: those of p_protected first, then those that name most relays '
    '(p_named). Where there is no room, those make some that have said nothing for a week, and those that had a day and '
    'cannot be relied on; never those of p_protected. Returns who is new.';

CREATE OR REPLACE FUNCTION bigbrotr.note_words(
    p_pubkeys bytea[], p_urls text[], p_said_ats bigint[], p_ids bytea[], p_open_ms integer[], p_read_ms integer[],
    p_write_ms integer[], p_auths boolean[], p_payments boolean[], p_tls boolean[], p_most integer, p_protected bytea[],
    p_now bigint
) RETURNS TABLE (noted integer, unknown integer, refused integer, admitted bytea[])
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT count(*) FILTER (WHERE NOT EXISTS (SELECT FROM bigbrotr.relays r WHERE r.url = u.url)) INTO unknown
    FROM unnest(p_urls) AS u (url);
    SELECT bigbrotr.admit_witnesses(
        p_pubkeys => array_agg(n.pubkey), p_named => array_agg(n.named), p_most => p_most, p_protected => p_protected,
        p_now => p_now)
    INTO admitted
    FROM (
        SELECT u.pubkey, count(DISTINCT r.id)::integer AS named
        FROM unnest(p_pubkeys, p_urls) AS u (pubkey, url) JOIN bigbrotr.relays r ON r.url = u.url
        GROUP BY u.pubkey
    ) AS n
    HAVING count(*) > 0;
    SELECT count(*) INTO refused
    FROM unnest(p_pubkeys, p_urls) AS u (pubkey, url) JOIN bigbrotr.relays r ON r.url = u.url
    WHERE NOT EXISTS (SELECT FROM bigbrotr.witnesses w WHERE w.pubkey = u.pubkey);
    WITH newest AS (
        SELECT DISTINCT ON (u.pubkey, r.id) u.*, r.id AS relay_id
        FROM unnest(
            p_pubkeys, p_urls, p_said_ats, p_ids, p_open_ms, p_read_ms, p_write_ms, p_auths, p_payments, p_tls
        ) AS u (pubkey, url, said_at, id, open_ms, read_ms, write_ms, auth, payment, tls)
        JOIN bigbrotr.relays r ON r.url = u.url
        JOIN bigbrotr.witnesses w ON w.pubkey = u.pubkey
        ORDER BY u.pubkey, r.id, u.said_at DESC, u.id
    ), written AS (
        INSERT INTO bigbrotr.witness_words AS x (
            pubkey, relay_id, said_at, event_id, open_ms, read_ms, write_ms, auth, payment, tls)
        SELECT n.pubkey, n.relay_id, n.said_at, n.id, n.open_ms, n.read_ms, n.write_ms, n.auth, n.payment, n.tls
        FROM newest n
        ON CONFLICT (pubkey, relay_id) DO UPDATE SET
            said_at = EXCLUDED.said_at, event_id = EXCLUDED.event_id, open_ms = EXCLUDED.open_ms,
            read_ms = EXCLUDED.read_ms, write_ms = EXCLUDED.write_ms, auth = EXCLUDED.auth, payment = EXCLUDED.payment,
            tls = EXCLUDED.tls
        -- Of two of one second the lower id counts (NIP-01).
        WHERE x.said_at < EXCLUDED.said_at OR (x.said_at = EXCLUDED.said_at AND x.event_id > EXCLUDED.event_id)
        RETURNING x.pubkey, x.said_at
    ), heard AS (
        UPDATE bigbrotr.witnesses w SET heard_at = greatest(w.heard_at, h.said_at)
        FROM (SELECT x.pubkey, max(x.said_at) AS said_at FROM written x GROUP BY x.pubkey) AS h
        WHERE w.pubkey = h.pubkey
        RETURNING 1
    )
    SELECT count(*) INTO noted FROM written;
    admitted := coalesce(admitted, '{}');
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION bigbrotr.note_words IS
    'Keeps the newest word of each monitor on each relay, for at most p_most monitors: see admit_witnesses. Arrays of one '
    'length. Makes no relay known. Returns how many words are new, how many are of unknown relays, how many of monitors '
    'for whom there is no room, and which monitors are new. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.note_introductions(
    p_pubkeys bytea[], p_said_ats bigint[], p_ids bytea[], p_frequencies integer[], p_timeouts jsonb[], p_checks jsonb[],
    p_geohashes text[]
) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    noted integer;
BEGIN
    WITH newest AS (
        SELECT DISTINCT ON (u.pubkey) u.*
        FROM unnest(p_pubkeys, p_said_ats, p_ids, p_frequencies, p_timeouts, p_checks, p_geohashes)
             AS u (pubkey, said_at, id, frequency_s, timeouts_ms, checks, geohash)
        ORDER BY u.pubkey, u.said_at DESC, u.id
    ), written AS (
        UPDATE bigbrotr.witnesses w SET
            introduced_at = n.said_at, introduction_id = n.id, frequency_s = n.frequency_s, timeouts_ms = n.timeouts_ms,
            checks = ARRAY(SELECT jsonb_array_elements_text(n.checks)), geohash = n.geohash
        FROM newest n
        WHERE w.pubkey = n.pubkey AND (
            w.introduced_at IS NULL OR w.introduced_at < n.said_at
            OR (w.introduced_at = n.said_at AND w.introduction_id > n.id))
        RETURNING 1
    )
    SELECT count(*) INTO noted FROM written;
    RETURN noted;
END $$;
COMMENT ON FUNCTION bigbrotr.note_introductions IS
    'Keeps the newest announcement of each witness of itself. Arrays of one length; p_checks: arrays of texts. Those of '
    'others are left out. Returns how many are new. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.read_words(p_after bigint, p_relays integer, p_since bigint)
RETURNS TABLE (
    relay_id bigint, pubkey bytea, said_at bigint, open_ms integer, read_ms integer, write_ms integer, auth boolean,
    payment boolean, tls boolean
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    RETURN QUERY
    SELECT x.relay_id, x.pubkey, x.said_at, x.open_ms, x.read_ms, x.write_ms, x.auth, x.payment, x.tls
    FROM (SELECT r.id FROM bigbrotr.relays r WHERE r.id > p_after ORDER BY r.id LIMIT p_relays) AS k
    JOIN bigbrotr.witness_words x ON x.relay_id = k.id
    WHERE x.said_at >= p_since
    ORDER BY x.relay_id;
END $$;
COMMENT ON FUNCTION bigbrotr.read_words IS
    'The words said since p_since (Unix seconds) on the p_relays relays behind the number p_after.';

CREATE OR REPLACE FUNCTION bigbrotr.own_words(p_after bigint, p_relays integer, p_since bigint)
RETURNS TABLE (relay_id bigint, online boolean, open_ms double precision, auth boolean, payment boolean, tls boolean)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    RETURN QUERY
    SELECT k.id, CASE WHEN c.checked_at >= p_since AND c.state <> 'unknown' THEN c.state = 'up' END,
           CASE WHEN c.checked_at >= p_since AND c.state = 'up' THEN (
               SELECT (s.tcp_ms + coalesce(s.tls_ms, 0) + s.upgrade_ms)::double precision FROM bigbrotr.rtts s
               WHERE s.relay_id = k.id AND s.checked_at = c.checked_at) END,
           bigbrotr.flag_of(p_data => m.data, p_path => '{auth,seen}'),
           bigbrotr.flag_of(p_data => m.data, p_path => '{payment,seen}'),
           bigbrotr.flag_of(p_data => t.data, p_path => '{valid}')
    FROM (SELECT r.id FROM bigbrotr.relays r WHERE r.id > p_after ORDER BY r.id LIMIT p_relays) AS k
    LEFT JOIN bigbrotr.checks c ON c.relay_id = k.id
    LEFT JOIN bigbrotr.snapshots_latest l ON l.relay_id = k.id AND l.type = 'claims' AND l.snapshot_at >= p_since
    LEFT JOIN bigbrotr.metadata m ON m.id = l.metadata_id
    LEFT JOIN bigbrotr.snapshots_latest n ON n.relay_id = k.id AND n.type = 'nip66_ssl' AND n.snapshot_at >= p_since
    LEFT JOIN bigbrotr.metadata t ON t.id = n.metadata_id
    ORDER BY k.id;
END $$;
COMMENT ON FUNCTION bigbrotr.own_words IS
    'What our own monitor has found since p_since (Unix seconds) of the p_relays relays behind the number p_after; a row '
    'for each of them.';

CREATE OR REPLACE FUNCTION bigbrotr.flag_of(p_data jsonb, p_path text[]) RETURNS boolean
LANGUAGE sql IMMUTABLE
RETURN CASE p_data #> p_path WHEN 'true'::jsonb THEN true WHEN 'false'::jsonb THEN false END;
COMMENT ON FUNCTION bigbrotr.flag_of IS 'What stands in a document at a path, where that is true or false; else NULL.';

CREATE OR REPLACE FUNCTION bigbrotr.keep_comparison(
    p_pubkeys bytea[], p_relays integer[], p_compared integer[], p_agreed integer[], p_others_compared integer[],
    p_others_agreed integer[], p_timed integer[], p_outliers integer[], p_ratios double precision[],
    p_reliabilities double precision[], p_judged integer, p_witnessed integer, p_kept_since bigint, p_now bigint
) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    kept integer;
BEGIN
    UPDATE bigbrotr.witness_state s SET compared_at = p_now, judged = p_judged, witnessed = p_witnessed;
    WITH written AS (
        UPDATE bigbrotr.witnesses w SET
            relays = u.relays, compared = u.compared, agreed = u.agreed, others_compared = u.others_compared,
            others_agreed = u.others_agreed, timed = u.timed, outliers = u.outliers, ratio = u.ratio,
            reliability = u.reliability, compared_at = p_now
        FROM unnest(
            p_pubkeys, p_relays, p_compared, p_agreed, p_others_compared, p_others_agreed, p_timed, p_outliers, p_ratios,
            p_reliabilities
        ) AS u (pubkey, relays, compared, agreed, others_compared, others_agreed, timed, outliers, ratio, reliability)
        WHERE w.pubkey = u.pubkey
        RETURNING 1
    )
    SELECT count(*) INTO kept FROM written;
    -- What was said before, or by a clock of ours that was ahead, after now; and those whom the operator shows to nobody.
    DELETE FROM bigbrotr.witness_words x WHERE x.said_at < p_kept_since OR x.said_at > p_now + 900;
    DELETE FROM bigbrotr.witnesses w
    WHERE w.heard_at < p_kept_since
       OR EXISTS (SELECT FROM bigbrotr.takedowns t
                  WHERE t.what = 'pubkey' AND t.target = w.pubkey AND t.undone_at IS NULL)
       OR EXISTS (SELECT FROM bigbrotr.vanished v WHERE v.pubkey = w.pubkey AND v.until >= w.heard_at);
    DELETE FROM bigbrotr.witness_words x
    WHERE EXISTS (SELECT FROM bigbrotr.takedowns t
                  WHERE t.what = 'event' AND t.target = x.event_id AND t.undone_at IS NULL);
    UPDATE bigbrotr.witnesses w SET heard_at = p_now WHERE w.heard_at > p_now + 900;
    RETURN kept;
END $$;
COMMENT ON FUNCTION bigbrotr.keep_comparison IS
    'Keeps how far witnesses agree. Arrays of one length. p_judged and p_witnessed: relays that we have judged, and of '
    'these those of which a witness says something. Forgets what was said before p_kept_since (Unix seconds), and who was '
    'taken down or has vanished. Returns how many witnesses. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.relay_words(p_url text) RETURNS TABLE (
    pubkey bytea, said_at bigint, event_id bytea, open_ms integer, read_ms integer, write_ms integer, auth boolean,
    payment boolean, tls boolean, heard_at bigint, frequency_s integer, reliability double precision
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    SELECT x.pubkey, x.said_at, x.event_id, x.open_ms, x.read_ms, x.write_ms, x.auth, x.payment, x.tls, w.heard_at,
           w.frequency_s, w.reliability
    FROM bigbrotr.relays r
    JOIN bigbrotr.witness_words x ON x.relay_id = r.id
    JOIN bigbrotr.witnesses w ON w.pubkey = x.pubkey
    WHERE r.url = p_url
    ORDER BY w.reliability DESC, x.pubkey;
END $$;
COMMENT ON FUNCTION bigbrotr.relay_words IS
    'What each witness has said last of the relay at a URL, and what is known of the witness; the most reliable first.';
