-- Policy: which archived events have a reason not to be shown, whatever the order in which they and the requests for it
-- came. Who stores events does nothing for it: the service policy follows the log of arrivals, and judges each event by
-- what it says, and by what others have said of it. What has changed and the position in the log go together, in one
-- transaction, so that it is exact whenever it was stopped. All but hidden stands on one machine.

CREATE TABLE IF NOT EXISTS bigbrotr.policy_lock ();
COMMENT ON TABLE bigbrotr.policy_lock IS 'Always empty. A process locks it while it judges events.';

-- Readers leave out what stands here with a reason that their view hides.
CREATE TABLE IF NOT EXISTS bigbrotr.hidden (
    created_at bigint   NOT NULL,
    expires_at bigint,
    slice      integer  NOT NULL,
    why        smallint NOT NULL,
    id         bytea    NOT NULL,
    PRIMARY KEY (created_at, slice, id) INCLUDE (why, expires_at)
);
COMMENT ON TABLE bigbrotr.hidden IS 'Archived events that have a reason not to be shown, or an end. What a view hides, its reader says.';
COMMENT ON COLUMN bigbrotr.hidden.created_at IS 'When the event was created, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.hidden.expires_at IS 'From when on it is not to be shown, in Unix seconds; NULL: its time has no end.';
COMMENT ON COLUMN bigbrotr.hidden.slice IS 'Week of created_at, see slice_of.';
COMMENT ON COLUMN bigbrotr.hidden.why IS
    'Reasons, added up: 1 superseded by a newer version, 2 its deletion was asked for, 8 its author has asked to vanish, '
    '16 protected, 32 ephemeral, 64 taken down, 128 erased. That it has expired (4) follows from expires_at.';
COMMENT ON COLUMN bigbrotr.hidden.id IS 'Id of the event: 32 bytes.';
CREATE INDEX IF NOT EXISTS hidden_expires_at_idx ON bigbrotr.hidden (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE IF NOT EXISTS bigbrotr.deletions (
    until    bigint NOT NULL,
    asked_at bigint NOT NULL,
    pubkey   bytea  NOT NULL,
    target   bytea  NOT NULL,
    request  bytea  NOT NULL,
    PRIMARY KEY (pubkey, target, request)
);
CREATE INDEX IF NOT EXISTS deletions_request_idx ON bigbrotr.deletions (request);
COMMENT ON TABLE bigbrotr.deletions IS
    'What authors have asked to delete (NIP-09). A request counts for good, also before its target comes, and when the '
    'archive keeps the request no longer.';
COMMENT ON COLUMN bigbrotr.deletions.until IS 'Last second (Unix) of the versions that are meant.';
COMMENT ON COLUMN bigbrotr.deletions.pubkey IS 'Public key of who has asked: 32 bytes.';
COMMENT ON COLUMN bigbrotr.deletions.target IS 'Id of an event (32 bytes), or an address (20 bytes, see addresses).';
COMMENT ON COLUMN bigbrotr.deletions.request IS 'Id of the event that asks: 32 bytes.';
COMMENT ON COLUMN bigbrotr.deletions.asked_at IS 'When that event was created, in Unix seconds.';

CREATE TABLE IF NOT EXISTS bigbrotr.vanished (
    until   bigint NOT NULL,
    pubkey  bytea  NOT NULL,
    request bytea  NOT NULL,
    PRIMARY KEY (pubkey, request)
);
COMMENT ON TABLE bigbrotr.vanished IS 'Who has asked all relays, or us, to vanish (NIP-62). A request counts for good.';
COMMENT ON COLUMN bigbrotr.vanished.until IS 'Last second (Unix) of the events that are meant, in which the request was created.';
COMMENT ON COLUMN bigbrotr.vanished.pubkey IS 'Public key: 32 bytes.';
COMMENT ON COLUMN bigbrotr.vanished.request IS 'Id of the event that asks: 32 bytes.';

CREATE TABLE IF NOT EXISTS bigbrotr.vanished_from (
    until     bigint NOT NULL,
    pubkey    bytea  NOT NULL,
    request   bytea  NOT NULL,
    relay_url text   NOT NULL,
    PRIMARY KEY (pubkey, relay_url, request)
);
COMMENT ON TABLE bigbrotr.vanished_from IS 'Who has asked one relay to vanish from it (NIP-62): it hides nothing here, but tells what that relay was asked.';
COMMENT ON COLUMN bigbrotr.vanished_from.until IS 'Last second (Unix) of the events that are meant, in which the request was created.';
COMMENT ON COLUMN bigbrotr.vanished_from.pubkey IS 'Public key: 32 bytes.';
COMMENT ON COLUMN bigbrotr.vanished_from.request IS 'Id of the event that asks: 32 bytes.';
COMMENT ON COLUMN bigbrotr.vanished_from.relay_url IS 'URL of the relay.';

CREATE TABLE IF NOT EXISTS bigbrotr.addresses (
    created_at bigint NOT NULL,
    pubkey     bytea  NOT NULL,
    address    bytea  NOT NULL,
    id         bytea  NOT NULL,
    PRIMARY KEY (pubkey, address)
);
COMMENT ON TABLE bigbrotr.addresses IS 'The newest version of each replaceable and addressable event; of those of a second, that with the lowest id.';
COMMENT ON COLUMN bigbrotr.addresses.created_at IS 'When the newest version was created, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.addresses.pubkey IS 'Public key of the author: 32 bytes.';
COMMENT ON COLUMN bigbrotr.addresses.address IS
    'The kind (4 bytes, most significant first) and the first 16 bytes of the SHA-256 of the d tag''s value.';
COMMENT ON COLUMN bigbrotr.addresses.id IS 'Id of the newest version: 32 bytes; all zero if it was erased.';

CREATE TABLE IF NOT EXISTS bigbrotr.takedowns (
    id         bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    what       text    NOT NULL CHECK (what IN ('event', 'pubkey')),
    target     bytea   NOT NULL,
    is_erasing boolean NOT NULL,
    why        text    NOT NULL,
    who        text    NOT NULL,
    at         bigint  NOT NULL,
    undone_why text,
    undone_who text,
    undone_at  bigint
);
COMMENT ON TABLE bigbrotr.takedowns IS 'What the operator has taken down, and taken back: a log. Rows stay.';
COMMENT ON COLUMN bigbrotr.takedowns.id IS 'Number of the takedown.';
COMMENT ON COLUMN bigbrotr.takedowns.what IS 'What is taken down: an event, or all events of a pubkey.';
COMMENT ON COLUMN bigbrotr.takedowns.target IS 'Id of the event, or public key: 32 bytes.';
COMMENT ON COLUMN bigbrotr.takedowns.is_erasing IS 'Whether the content is erased.';
COMMENT ON COLUMN bigbrotr.takedowns.why IS 'Why, in the words of who did it.';
COMMENT ON COLUMN bigbrotr.takedowns.who IS 'Who did it: a user of the machine, or a public key.';
COMMENT ON COLUMN bigbrotr.takedowns.at IS 'When, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.takedowns.undone_why IS 'Why it was taken back; NULL: it stands.';
COMMENT ON COLUMN bigbrotr.takedowns.undone_who IS 'Who has taken it back.';
COMMENT ON COLUMN bigbrotr.takedowns.undone_at IS 'When it was taken back, in Unix seconds.';
CREATE UNIQUE INDEX IF NOT EXISTS takedowns_target_idx ON bigbrotr.takedowns (target, what) WHERE undone_at IS NULL;

CREATE TABLE IF NOT EXISTS bigbrotr.reviews (
    name     text    NOT NULL PRIMARY KEY,
    pubkey   bytea,
    kind     integer,
    tag_hash integer,
    after_at bigint  NOT NULL DEFAULT 0,
    after_id bytea   NOT NULL DEFAULT '',
    is_again boolean NOT NULL DEFAULT false,
    noted_at bigint  NOT NULL,
    step     bigint  GENERATED ALWAYS AS IDENTITY
);
COMMENT ON TABLE bigbrotr.reviews IS 'Archived events that are to be judged again: walks through the archive, and how far each one is.';
COMMENT ON COLUMN bigbrotr.reviews.name IS 'Which events, e.g. all.';
COMMENT ON COLUMN bigbrotr.reviews.pubkey IS 'Those of one author; NULL: of any.';
COMMENT ON COLUMN bigbrotr.reviews.kind IS 'Those of one kind; NULL: of any.';
COMMENT ON COLUMN bigbrotr.reviews.tag_hash IS 'Those with a tag of this hash, see tag_hash; NULL: any.';
COMMENT ON COLUMN bigbrotr.reviews.after_at IS 'Time of the last event that was judged, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.reviews.after_id IS 'Its id.';
COMMENT ON COLUMN bigbrotr.reviews.is_again IS 'Whether to begin once more at the end.';
COMMENT ON COLUMN bigbrotr.reviews.noted_at IS 'When it was asked for, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.reviews.step IS 'Order of the walks: the lowest is next.';

CREATE TABLE IF NOT EXISTS bigbrotr.departures (
    id          bigint   GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created_ats bigint[] NOT NULL,
    ids         bytea[]  NOT NULL,
    pubkeys     bytea[]  NOT NULL
);
ALTER TABLE bigbrotr.departures
    ALTER COLUMN created_ats SET STATISTICS 0, ALTER COLUMN ids SET STATISTICS 0, ALTER COLUMN pubkeys SET STATISTICS 0;
COMMENT ON TABLE bigbrotr.departures IS 'Events that may have left the archive: a queue for the service policy.';
COMMENT ON COLUMN bigbrotr.departures.id IS 'Position in the queue.';
COMMENT ON COLUMN bigbrotr.departures.created_ats IS 'When the events were created, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.departures.ids IS 'Their ids: 32 bytes each.';
COMMENT ON COLUMN bigbrotr.departures.pubkeys IS 'Their authors, each once.';

CREATE TABLE IF NOT EXISTS bigbrotr.rejudged (
    id          bigint   GENERATED ALWAYS AS IDENTITY,
    xid         xid8     NOT NULL DEFAULT pg_current_xact_id(),
    created_ats bigint[] NOT NULL,
    ids         bytea[]  NOT NULL,
    PRIMARY KEY (xid, id)
);
ALTER TABLE bigbrotr.rejudged  -- as arrivals
    ALTER COLUMN created_ats SET STORAGE EXTERNAL, ALTER COLUMN ids SET STORAGE EXTERNAL,
    ALTER COLUMN created_ats SET STATISTICS 0, ALTER COLUMN ids SET STATISTICS 0;
COMMENT ON TABLE bigbrotr.rejudged IS
    'Events that views may show no longer, or again, or that have gone: a log for those who hold ids in memory. Rows go with '
    'those of arrivals.';
COMMENT ON COLUMN bigbrotr.rejudged.id IS 'Order within a transaction.';
COMMENT ON COLUMN bigbrotr.rejudged.xid IS 'Transaction that has changed it.';
COMMENT ON COLUMN bigbrotr.rejudged.created_ats IS 'When the events were created, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.rejudged.ids IS 'Their ids: 32 bytes each.';

CREATE TABLE IF NOT EXISTS bigbrotr.erased_slices (
    slice integer NOT NULL PRIMARY KEY
);
COMMENT ON TABLE bigbrotr.erased_slices IS 'Weeks in which events were erased, until they are vacuumed.';
COMMENT ON COLUMN bigbrotr.erased_slices.slice IS 'Week of created_at, see slice_of.';

CREATE TABLE IF NOT EXISTS bigbrotr.policy_state (
    is_only boolean NOT NULL PRIMARY KEY DEFAULT true CHECK (is_only),
    xid     bigint  NOT NULL,
    id      bigint  NOT NULL,
    urls    text[]  NOT NULL,
    erases  integer NOT NULL,
    current integer NOT NULL,
    archive integer NOT NULL
);
COMMENT ON TABLE bigbrotr.policy_state IS 'How far the service policy is, and what it goes by: one row, or none.';
COMMENT ON COLUMN bigbrotr.policy_state.is_only IS 'Always true.';
COMMENT ON COLUMN bigbrotr.policy_state.xid IS 'Transaction of the last row of arrivals that was judged.';
COMMENT ON COLUMN bigbrotr.policy_state.id IS 'Id of that row.';
COMMENT ON COLUMN bigbrotr.policy_state.urls IS 'Our addresses as a relay, for requests to vanish.';
COMMENT ON COLUMN bigbrotr.policy_state.erases IS 'Reasons for which content is erased, added up as in hidden.why.';

COMMENT ON COLUMN bigbrotr.policy_state.current IS 'Reasons for which the current view hides events, added up likewise.';
COMMENT ON COLUMN bigbrotr.policy_state.archive IS 'Reasons for which the view of the archive hides events.';

-- What is to be judged

CREATE OR REPLACE FUNCTION bigbrotr.ask_review(p_names text[], p_pubkeys bytea[], p_kinds integer[], p_tag_hashes integer[], p_now bigint)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO bigbrotr.reviews AS r (name, pubkey, kind, tag_hash, noted_at)
    SELECT DISTINCT ON (u.name) u.name, u.pubkey, u.kind, u.tag_hash, p_now
    FROM unnest(p_names, p_pubkeys, p_kinds, p_tag_hashes) AS u (name, pubkey, kind, tag_hash)
    ORDER BY u.name
    ON CONFLICT (name) DO UPDATE SET is_again = r.is_again OR r.after_id <> '';
END $$;
COMMENT ON FUNCTION bigbrotr.ask_review IS
    'Has archived events judged again: all, or those of an author, of a kind, with a tag. One that is under way begins '
    'once more at its end.';

CREATE OR REPLACE FUNCTION bigbrotr.review_authors(p_pubkeys bytea[], p_now bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM bigbrotr.ask_review(
        p_names => ARRAY(SELECT 'author ' || encode(u.pubkey, 'hex') FROM unnest(p_pubkeys) AS u (pubkey)),
        p_pubkeys => p_pubkeys, p_kinds => '{}', p_tag_hashes => '{}', p_now => p_now);
END $$;
COMMENT ON FUNCTION bigbrotr.review_authors IS 'Has all events of some authors judged again.';

CREATE OR REPLACE FUNCTION bigbrotr.begin_policy(
    p_urls text[], p_erases integer, p_current integer, p_archive integer, p_now bigint
) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before  record;
    log_end record;
    review  text;
BEGIN
    LOCK TABLE bigbrotr.policy_lock IN EXCLUSIVE MODE;
    SELECT s.xid, s.urls, s.erases INTO before FROM bigbrotr.policy_state s;
    SELECT a.xid, a.id INTO log_end FROM bigbrotr.arrivals_end() AS a;
    review := CASE
        -- Nothing was judged yet; or a backup has come to another server, which has counted fewer transactions.
        WHEN before.xid IS NULL OR before.xid > log_end.xid THEN 'all'
        WHEN before.erases <> p_erases THEN 'all'
        WHEN before.urls <> p_urls THEN 'kind 62' END;
    INSERT INTO bigbrotr.policy_state AS s (xid, id, urls, erases, current, archive)
    VALUES (log_end.xid, log_end.id, p_urls, p_erases, p_current, p_archive)
    ON CONFLICT (is_only) DO UPDATE SET
        xid = least(s.xid, EXCLUDED.xid), id = CASE WHEN s.xid > EXCLUDED.xid THEN EXCLUDED.id ELSE s.id END,
        urls = EXCLUDED.urls, erases = EXCLUDED.erases, current = EXCLUDED.current, archive = EXCLUDED.archive
    WHERE s.xid > EXCLUDED.xid
       OR (s.urls, s.erases, s.current, s.archive)
          <> (EXCLUDED.urls, EXCLUDED.erases, EXCLUDED.current, EXCLUDED.archive);
    IF review IS NOT NULL THEN
        PERFORM bigbrotr.ask_review(
            p_names => ARRAY[review], p_pubkeys => '{}', p_kinds => CASE review WHEN 'kind 62' THEN '{62}'::integer[] END,
            p_tag_hashes => '{}', p_now => p_now);
    END IF;
END $$;
COMMENT ON FUNCTION bigbrotr.begin_policy IS
    'Notes what to go by from now on, and has judged again what that changes; the first time, and where the log of '
    'arrivals is another, all events. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.policy_is_due(p_now bigint) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    at record;
BEGIN
    SELECT s.xid, s.id, s.erases INTO at FROM bigbrotr.policy_state s;
    IF EXISTS (
           SELECT FROM bigbrotr.arrivals a
           WHERE (a.xid, a.id) > (at.xid::text::xid8, at.id) AND a.xid < pg_snapshot_xmin(pg_current_snapshot()))
       OR at.xid > (SELECT a.xid FROM bigbrotr.arrivals_end() AS a)
       OR EXISTS (SELECT FROM bigbrotr.reviews) OR EXISTS (SELECT FROM bigbrotr.departures) THEN
        RETURN true;
    END IF;
    -- By itself: a cluster asks all its machines.
    RETURN at.erases & 4 <> 0 AND EXISTS (
        SELECT 1 FROM bigbrotr.hidden h WHERE h.expires_at <= p_now LIMIT 1);
END $$;
COMMENT ON FUNCTION bigbrotr.policy_is_due IS 'Whether there is anything to judge, or to erase, as of p_now (Unix seconds).';

CREATE OR REPLACE FUNCTION bigbrotr.next_arrivals(p_limit integer, p_now bigint) RETURNS TABLE (created_ats bigint[], ids bytea[])
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    at   record;
    page record;
BEGIN
    SELECT s.xid, s.id INTO at FROM bigbrotr.policy_state s;
    FOR page IN
        SELECT r.xid, r.id, r.created_ats, r.ids, r.is_missing
        FROM bigbrotr.read_arrivals(p_xid => at.xid, p_id => at.id, p_limit => p_limit) AS r
    LOOP
        IF page.is_missing THEN
            PERFORM bigbrotr.ask_review(p_names => '{all}', p_pubkeys => '{}', p_kinds => '{}', p_tag_hashes => '{}', p_now => p_now);
        END IF;
        UPDATE bigbrotr.policy_state s SET xid = page.xid, id = page.id;
        created_ats := page.created_ats;
        ids := page.ids;
        RETURN NEXT;
    END LOOP;
END $$;
COMMENT ON FUNCTION bigbrotr.next_arrivals IS
    'The next p_limit rows of arrivals, and moves behind them: judge them in the same transaction. If rows were pruned '
    'unread, all events are judged again.';

-- Tags are read only where they may say something of this: they are looked for as text, which costs a tenth.
CREATE OR REPLACE FUNCTION bigbrotr.telling_tags(p_kind integer, p_tags text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN p_kind IN (5, 62, 1059) OR p_kind BETWEEN 30000 AND 39999
              OR strpos(p_tags, '["-"') > 0 OR strpos(p_tags, '["expiration",') > 0 THEN p_tags END;
COMMENT ON FUNCTION bigbrotr.telling_tags IS 'The tags of an event if they may say whether it, or another, is to be shown; else NULL.';

CREATE OR REPLACE FUNCTION bigbrotr.read_judged_slice(p_slice integer, p_created_ats bigint[], p_ids bytea[])
RETURNS TABLE (created_at bigint, id bytea, pubkey bytea, kind integer, tags text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN QUERY
    SELECT f.created_at, f.id, f.pubkey, f.kind, bigbrotr.telling_tags(f.kind, f.tags)
    FROM unnest(p_created_ats, p_ids) WITH ORDINALITY AS u (created_at, id, position)
    CROSS JOIN LATERAL (
        SELECT e.created_at, e.id, e.pubkey, e.kind, e.tags FROM bigbrotr.events_stored e
        WHERE e.slice = p_slice AND e.created_at = u.created_at AND e.id = u.id AND e.kind >= 0 OFFSET 0
    ) AS f
    ORDER BY u.position;
END $$;
COMMENT ON FUNCTION bigbrotr.read_judged_slice IS 'The part of read_judged that reads one slice.';

CREATE OR REPLACE FUNCTION bigbrotr.read_judged(p_created_ats bigint[], p_ids bytea[])
RETURNS TABLE (created_at bigint, id bytea, pubkey bytea, kind integer, tags text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    run record;
BEGIN
    FOR run IN SELECT r.slice, r.first, r.last FROM bigbrotr.runs_of(p_created_ats) AS r LOOP
        RETURN QUERY
        SELECT s.created_at, s.id, s.pubkey, s.kind, s.tags
        FROM bigbrotr.read_judged_slice(
            p_slice => run.slice, p_created_ats => p_created_ats[run.first:run.last], p_ids => p_ids[run.first:run.last]) AS s;
    END LOOP;
END $$;
COMMENT ON FUNCTION bigbrotr.read_judged IS
    'What those of the given events that are archived, and not erased, say that matters to whether they are shown. '
    'Arrays of one length, sorted by time. tags: see telling_tags.';

CREATE OR REPLACE FUNCTION bigbrotr.walk_review_slice(
    p_slice integer, p_pubkey bytea, p_kind integer, p_tag_hash integer, p_after_at bigint, p_after_id bytea, p_limit integer
) RETURNS TABLE (created_at bigint, id bytea, pubkey bytea, kind integer, tags text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET jit = off SET enable_seqscan = off SET plan_cache_mode = force_custom_plan
AS $$
BEGIN
    RETURN QUERY
    SELECT e.created_at, e.id, e.pubkey, e.kind, bigbrotr.telling_tags(e.kind, e.tags)
    FROM bigbrotr.events_stored e
    WHERE (p_slice IS NULL OR e.slice = p_slice)
      AND e.created_at >= p_after_at AND (e.created_at, e.id) > (p_after_at, p_after_id)
      AND (p_pubkey IS NULL OR e.pubkey = p_pubkey) AND (p_kind IS NULL OR e.kind = p_kind)
      AND (p_tag_hash IS NULL OR e.tag_hashes && ARRAY[p_tag_hash])
    ORDER BY e.created_at, e.id LIMIT p_limit;
END $$;
COMMENT ON FUNCTION bigbrotr.walk_review_slice IS 'The part of next_review that reads one slice, or with NULL all of them.';

CREATE OR REPLACE FUNCTION bigbrotr.next_review(p_pubkey bytea, p_limit integer)
RETURNS TABLE (name text, created_at bigint, id bytea, pubkey bytea, kind integer, tags text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    review record;
    part   integer;
    got    integer;
    most   integer := p_limit;
BEGIN
    SELECT r.* INTO review FROM bigbrotr.reviews r WHERE p_pubkey IS NULL OR r.pubkey = p_pubkey ORDER BY r.step LIMIT 1;
    IF review.name IS NULL THEN
        RETURN;
    END IF;
    FOR part IN SELECT s.slice FROM bigbrotr.parts_of(review.after_at, 9223372036854775807) AS s (slice) LOOP
        RETURN QUERY
        SELECT review.name, s.created_at, s.id, s.pubkey, s.kind, s.tags
        FROM bigbrotr.walk_review_slice(
            p_slice => part, p_pubkey => review.pubkey, p_kind => review.kind, p_tag_hash => review.tag_hash,
            p_after_at => review.after_at, p_after_id => review.after_id, p_limit => most) AS s;
        GET DIAGNOSTICS got = ROW_COUNT;
        most := most - got;
        EXIT WHEN most <= 0;
    END LOOP;
    IF most = p_limit THEN
        name := review.name;
        RETURN NEXT;
    END IF;
END $$;
COMMENT ON FUNCTION bigbrotr.next_review IS
    'The next events, at most p_limit, of the review whose turn it is, with p_pubkey of those of an author; where none '
    'are left, its name alone.';

CREATE OR REPLACE FUNCTION bigbrotr.move_review(p_name text, p_after_at bigint, p_after_id bytea) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF p_after_at IS NOT NULL THEN
        UPDATE bigbrotr.reviews r SET after_at = p_after_at, after_id = p_after_id, step = DEFAULT WHERE r.name = p_name;
    ELSE
        DELETE FROM bigbrotr.reviews r WHERE r.name = p_name AND NOT r.is_again;
        UPDATE bigbrotr.reviews r SET after_at = 0, after_id = '', is_again = false, step = DEFAULT WHERE r.name = p_name;
    END IF;
END $$;
COMMENT ON FUNCTION bigbrotr.move_review IS
    'Notes how far a review is; with NULL, that it is at its end. Others have their turn then.';

-- What is judged

CREATE OR REPLACE FUNCTION bigbrotr.note_requests(
    p_pubkeys bytea[], p_targets bytea[], p_untils bigint[], p_asked_ats bigint[], p_requests bytea[],
    p_vanishing bytea[], p_vanish_urls text[], p_vanish_untils bigint[], p_vanish_requests bytea[], p_now bigint
) RETURNS TABLE (created_at bigint, id bytea)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    added     record;
    vanishing bytea[];
    leaving   bytea[];  -- one relay
    found_ats bigint[];
BEGIN
    WITH noted AS (
        INSERT INTO bigbrotr.deletions (pubkey, target, request, until, asked_at)
        SELECT u.pubkey, u.target, u.request, max(u.until), max(u.asked_at)
        FROM unnest(p_pubkeys, p_targets, p_requests, p_untils, p_asked_ats) AS u (pubkey, target, request, until, asked_at)
        GROUP BY u.pubkey, u.target, u.request ORDER BY u.pubkey, u.target, u.request
        ON CONFLICT (pubkey, target, request) DO NOTHING
        RETURNING pubkey, target
    )
    SELECT array_agg(DISTINCT n.pubkey) FILTER (WHERE length(n.target) = 20) AS pubkeys,
           array_agg(DISTINCT n.target) FILTER (WHERE length(n.target) = 32) AS ids
    INTO added FROM noted n;
    WITH noted AS (
        INSERT INTO bigbrotr.vanished (pubkey, request, until)
        SELECT u.pubkey, u.request, u.until
        FROM unnest(p_vanishing, p_vanish_urls, p_vanish_requests, p_vanish_untils) AS u (pubkey, url, request, until)
        WHERE u.url IS NULL ORDER BY u.pubkey, u.request
        ON CONFLICT (pubkey, request) DO NOTHING
        RETURNING pubkey
    )
    SELECT array_agg(DISTINCT n.pubkey) INTO vanishing FROM noted n;
    WITH noted AS (
        INSERT INTO bigbrotr.vanished_from (pubkey, relay_url, request, until)
        SELECT u.pubkey, u.url, u.request, u.until
        FROM unnest(p_vanishing, p_vanish_urls, p_vanish_requests, p_vanish_untils) AS u (pubkey, url, request, until)
        WHERE u.url IS NOT NULL ORDER BY u.pubkey, u.url, u.request
        ON CONFLICT (pubkey, relay_url, request) DO NOTHING
        RETURNING pubkey
    )
    SELECT array_agg(DISTINCT n.pubkey) INTO leaving FROM noted n;
    IF leaving IS NOT NULL THEN
        PERFORM bigbrotr.note_vanishing(p_pubkeys => leaving);
    END IF;
    PERFORM bigbrotr.review_authors(coalesce(added.pubkeys, '{}') || coalesce(vanishing, '{}'), p_now);
    IF vanishing IS NOT NULL AND 'tags' = ANY (bigbrotr.kept_columns()) THEN
        PERFORM bigbrotr.ask_review(
            p_names => ARRAY(SELECT 'gift wraps for ' || encode(u.pubkey, 'hex') FROM unnest(vanishing) AS u (pubkey)),
            p_pubkeys => '{}', p_kinds => array_fill(1059, ARRAY[cardinality(vanishing)]),
            p_tag_hashes => ARRAY(
                SELECT bigbrotr.tag_hash('p:' || encode(u.pubkey, 'hex'))
                FROM unnest(vanishing) WITH ORDINALITY AS u (pubkey, position) ORDER BY u.position),
            p_now => p_now);
    END IF;
    IF added.ids IS NOT NULL THEN
        found_ats := bigbrotr.find_events(p_ids => added.ids, p_since => 0, p_until => 9223372036854775807);
        RETURN QUERY
        SELECT u.at, u.id FROM unnest(found_ats, added.ids) AS u (at, id) WHERE u.at IS NOT NULL ORDER BY u.at, u.id;
    END IF;
END $$;
COMMENT ON FUNCTION bigbrotr.note_requests IS
    'Keeps requests for deletion, and requests to vanish: from the relay of a URL, or with NULL from all, or us. Returns the archived events that new ones name; what else '
    'they may be about is reviewed. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.note_addresses(
    p_pubkeys bytea[], p_addresses bytea[], p_created_ats bigint[], p_ids bytea[]
) RETURNS TABLE (created_at bigint, id bytea)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET jit = off SET enable_seqscan = off SET plan_cache_mode = force_custom_plan
AS $$
BEGIN
    RETURN QUERY
    WITH newest AS MATERIALIZED (
        SELECT DISTINCT ON (u.pubkey, u.address) u.pubkey, u.address, u.created_at, u.id
        FROM unnest(p_pubkeys, p_addresses, p_created_ats, p_ids) AS u (pubkey, address, created_at, id)
        WHERE u.address IS NOT NULL
        ORDER BY u.pubkey, u.address, u.created_at DESC, u.id
    ), older AS MATERIALIZED (
        SELECT a.pubkey, a.address, a.created_at, a.id
        FROM newest n JOIN bigbrotr.addresses a ON a.pubkey = n.pubkey AND a.address = n.address
    ), written AS (
        INSERT INTO bigbrotr.addresses AS a (pubkey, address, created_at, id)
        SELECT n.pubkey, n.address, n.created_at, n.id FROM newest n
        ON CONFLICT (pubkey, address) DO UPDATE SET created_at = EXCLUDED.created_at, id = EXCLUDED.id
        WHERE a.created_at < EXCLUDED.created_at OR (a.created_at = EXCLUDED.created_at AND a.id > EXCLUDED.id)
        RETURNING a.pubkey, a.address
    )
    SELECT o.created_at, o.id FROM older o JOIN written w ON w.pubkey = o.pubkey AND w.address = o.address
    ORDER BY o.created_at, o.id;
END $$;
COMMENT ON FUNCTION bigbrotr.note_addresses IS
    'Notes which versions of replaceable and addressable events are the newest. Returns those that were and are so no '
    'longer. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.mark_hidden(
    p_slice integer, p_created_ats bigint[], p_ids bytea[], p_whys integer[], p_expires_ats bigint[],
    OUT unmarked boolean, OUT marked boolean
)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET jit = off SET enable_seqscan = off SET plan_cache_mode = force_custom_plan
AS $$
BEGIN
    DELETE FROM bigbrotr.hidden h
    USING unnest(p_created_ats, p_ids, p_whys, p_expires_ats) AS u (created_at, id, why, expires_at)
    WHERE h.slice = p_slice AND h.created_at = u.created_at AND h.id = u.id
      AND u.why = 0 AND u.expires_at IS NULL AND h.why & 128 = 0;
    unmarked := FOUND;
    INSERT INTO bigbrotr.hidden AS h (created_at, slice, id, why, expires_at)
    SELECT u.created_at, p_slice, u.id, u.why, u.expires_at
    FROM unnest(p_created_ats, p_ids, p_whys, p_expires_ats) AS u (created_at, id, why, expires_at)
    WHERE u.why <> 0 OR u.expires_at IS NOT NULL
    ON CONFLICT (created_at, slice, id) DO UPDATE SET why = EXCLUDED.why, expires_at = EXCLUDED.expires_at
    WHERE h.why & 128 = 0 AND (h.why <> EXCLUDED.why OR h.expires_at IS DISTINCT FROM EXCLUDED.expires_at);
    marked := FOUND;
END $$;
COMMENT ON FUNCTION bigbrotr.mark_hidden IS
    'Writes the reasons of events of one slice, in place of those that were noted; of erased ones nothing changes. '
    'Returns whether any have none any more, and whether any have others. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.judge_events(
    p_created_ats bigint[], p_ids bytea[], p_pubkeys bytea[], p_kinds integer[], p_whys integer[], p_expires_ats bigint[],
    p_addresses bytea[], p_recipients bytea[], p_recipients_of integer[], p_now bigint
) RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET jit = off SET enable_seqscan = off SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    erases  integer := (SELECT s.erases FROM bigbrotr.policy_state s);
    whys    integer[];
    doomed  boolean[];
    run     record;
    changed record;
    again   integer[] := '{}';  -- positions of those that may be shown no longer, or again
BEGIN
    SELECT array_agg(w.why ORDER BY w.position),
           array_agg(w.is_erasing OR w.why & erases <> 0 OR (erases & 4 <> 0 AND coalesce(w.expires_at <= p_now, false))
                     ORDER BY w.position)
    INTO whys, doomed
    FROM (
        -- Each is one probe of an index, whatever the planner believes about the tables.
        SELECT u.position, u.expires_at, coalesce(t.event OR t.author, t.event, t.author, false) AS is_erasing,
               u.why
               | CASE WHEN (
                     SELECT a.created_at > u.created_at OR (a.created_at = u.created_at AND a.id < u.id)
                     FROM bigbrotr.addresses a WHERE a.pubkey = u.pubkey AND a.address = u.address) THEN 1 ELSE 0 END
               -- A request for the deletion of a request has no effect.
               | CASE WHEN u.kind NOT IN (5, 62) AND (
                     r.is_deleted
                     OR (SELECT max(d.until) FROM bigbrotr.deletions d WHERE d.pubkey = u.pubkey AND d.target = u.id)
                        >= u.created_at
                     OR (SELECT max(d.until) FROM bigbrotr.deletions d WHERE d.pubkey = u.pubkey AND d.target = u.address)
                        >= u.created_at) THEN 2 ELSE 0 END
               | CASE WHEN u.kind <> 62 AND (
                     r.is_vanished
                     OR (SELECT max(v.until) FROM bigbrotr.vanished v WHERE v.pubkey = u.pubkey) >= u.created_at) THEN 8 ELSE 0 END
               | CASE WHEN t.event IS NOT NULL OR t.author IS NOT NULL THEN 64 ELSE 0 END AS why
        FROM unnest(p_created_ats, p_ids, p_pubkeys, p_kinds, p_whys, p_expires_ats, p_addresses)
             WITH ORDINALITY AS u (created_at, id, pubkey, kind, why, expires_at, address, position)
        CROSS JOIN LATERAL (
            SELECT (SELECT x.is_erasing FROM bigbrotr.takedowns x
                    WHERE x.undone_at IS NULL AND x.target = u.id AND x.what = 'event') AS event,
                   (SELECT x.is_erasing FROM bigbrotr.takedowns x
                    WHERE x.undone_at IS NULL AND x.target = u.pubkey AND x.what = 'pubkey') AS author
            OFFSET 0
        ) AS t
        LEFT JOIN (
            SELECT o.position,
                   bool_or((SELECT true FROM bigbrotr.deletions d
                            WHERE d.pubkey = o.recipient AND d.target = p_ids[o.position] LIMIT 1)) AS is_deleted,
                   bool_or((SELECT max(v.until) FROM bigbrotr.vanished v WHERE v.pubkey = o.recipient)
                           >= p_created_ats[o.position]) AS is_vanished
            FROM unnest(p_recipients, p_recipients_of) AS o (recipient, position) GROUP BY o.position
        ) AS r ON r.position = u.position
    ) AS w;
    FOR run IN SELECT r.slice, r.first, r.last FROM bigbrotr.runs_of(p_created_ats) AS r LOOP
        SELECT m.unmarked, m.marked INTO changed
        FROM bigbrotr.mark_hidden(
            p_slice => run.slice, p_created_ats => p_created_ats[run.first:run.last], p_ids => p_ids[run.first:run.last],
            p_whys => whys[run.first:run.last], p_expires_ats => p_expires_ats[run.first:run.last]) AS m;
        IF changed.unmarked OR changed.marked THEN
            again := again || ARRAY(
                SELECT n FROM generate_series(run.first, run.last) AS n
                WHERE CASE WHEN whys[n] = 0 AND p_expires_ats[n] IS NULL THEN changed.unmarked ELSE changed.marked END
                ORDER BY n)::integer[];
        END IF;
    END LOOP;
    IF cardinality(again) > 0 THEN
        INSERT INTO bigbrotr.rejudged (created_ats, ids)
        SELECT array_agg(p_created_ats[a.position] ORDER BY a.position), array_agg(p_ids[a.position] ORDER BY a.position)
        FROM unnest(again) AS a (position);
    END IF;
    INSERT INTO bigbrotr.compliance_days (day)
    SELECT DISTINCT u.at / 86400 FROM unnest(p_created_ats, whys) AS u (at, why) WHERE u.why & 10 <> 0;
    IF true = ANY (doomed) THEN
        RETURN bigbrotr.erase_events(
            ARRAY(SELECT p_created_ats[d.position] FROM unnest(doomed) WITH ORDINALITY AS d (is_one, position)
                  WHERE d.is_one ORDER BY d.position),
            ARRAY(SELECT p_ids[d.position] FROM unnest(doomed) WITH ORDINALITY AS d (is_one, position)
                  WHERE d.is_one ORDER BY d.position));
    END IF;
    RETURN 0;
END $$;
COMMENT ON FUNCTION bigbrotr.judge_events IS
    'Writes for which reasons these events are not to be shown, in place of what was noted of them, and erases those of '
    'which that is wanted. Arrays of one length, sorted by time; p_whys: the reasons that each has by itself. '
    'p_recipients: keys that may have gift wraps deleted; p_recipients_of: for each, the position of its event, from 1. '
    'Returns how many were erased. Idempotent.';

-- What is erased

-- The row stays, and with it presence: the event counts as known, and nobody fetches it again.
CREATE OR REPLACE FUNCTION bigbrotr.erase_slice(
    p_slice integer, p_created_ats bigint[], p_ids bytea[], OUT ids bytea[], OUT pubkeys bytea[]
)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET jit = off SET enable_seqscan = off SET plan_cache_mode = force_custom_plan
AS $$
BEGIN
    SELECT coalesce(array_agg(x.id), '{}'), coalesce(array_agg(DISTINCT x.pubkey), '{}') INTO ids, pubkeys
    FROM unnest(p_created_ats, p_ids) AS u (created_at, id)
    CROSS JOIN LATERAL (
        SELECT e.id, e.pubkey FROM bigbrotr.events_stored e
        WHERE e.slice = p_slice AND e.created_at = u.created_at AND e.id = u.id AND e.kind >= 0 OFFSET 0
    ) AS x;
    UPDATE bigbrotr.events_stored e SET
        kind = -1, pubkey = decode(repeat('00', 32), 'hex'), sig = NULL, tags = NULL, tag_hashes = NULL, content = NULL
    FROM unnest(p_created_ats, p_ids) AS u (created_at, id)
    WHERE e.slice = p_slice AND e.created_at = u.created_at AND e.id = u.id AND e.kind >= 0;
    DELETE FROM bigbrotr.events_raw w WHERE w.slice = p_slice AND w.event_id = ANY (p_ids);
    DELETE FROM bigbrotr.search s USING unnest(p_created_ats, p_ids) AS u (created_at, id)
    WHERE s.slice = p_slice AND s.created_at = u.created_at AND s.id = u.id;
    INSERT INTO bigbrotr.hidden AS h (created_at, slice, id, why, expires_at)
    SELECT u.created_at, p_slice, u.id, 128, NULL FROM unnest(p_created_ats, p_ids) AS u (created_at, id)
    ON CONFLICT (created_at, slice, id) DO UPDATE SET why = h.why | 128, expires_at = NULL
    WHERE h.why & 128 = 0;
END $$;
COMMENT ON FUNCTION bigbrotr.erase_slice IS
    'The part of erase_events that writes one slice. Returns the ids that were not erased before, and their authors.';

CREATE OR REPLACE FUNCTION bigbrotr.erase_events(p_created_ats bigint[], p_ids bytea[]) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    erased  integer := 0;
    authors bytea[] := '{}';
    run     record;
    done    record;
BEGIN
    FOR run IN SELECT r.slice, r.first, r.last FROM bigbrotr.runs_of(p_created_ats) AS r LOOP
        SELECT s.ids, s.pubkeys INTO done
        FROM bigbrotr.erase_slice(
            p_slice => run.slice, p_created_ats => p_created_ats[run.first:run.last], p_ids => p_ids[run.first:run.last]) AS s;
        CONTINUE WHEN cardinality(done.ids) = 0;
        erased := erased + cardinality(done.ids);
        authors := authors || done.pubkeys;
        INSERT INTO bigbrotr.erased_slices (slice) VALUES (run.slice) ON CONFLICT (slice) DO NOTHING;
        INSERT INTO bigbrotr.rejudged (created_ats, ids)
        VALUES (p_created_ats[run.first:run.last], p_ids[run.first:run.last]);
    END LOOP;
    IF erased = 0 THEN
        RETURN 0;
    END IF;
    -- The lowest id wins: what was older stays so.
    UPDATE bigbrotr.addresses a SET id = decode(repeat('00', 32), 'hex')
    FROM unnest(p_created_ats, p_ids) AS u (created_at, id)
    WHERE a.pubkey = ANY (authors) AND a.created_at = u.created_at AND a.id = u.id;
    -- An invalid event may have been a copy with another signature.
    UPDATE bigbrotr.rejected r SET samples = ARRAY(
        SELECT s.sample FROM unnest(r.samples) WITH ORDINALITY AS s (sample, position)
        WHERE NOT EXISTS (SELECT FROM unnest(authors) AS a (pubkey)
                          WHERE position(convert_to(encode(a.pubkey, 'hex'), 'UTF8') IN s.sample) > 0)
        ORDER BY s.position)
    WHERE EXISTS (SELECT FROM unnest(r.samples) AS s (sample), unnest(authors) AS a (pubkey)
                  WHERE position(convert_to(encode(a.pubkey, 'hex'), 'UTF8') IN s.sample) > 0);
    DELETE FROM bigbrotr.outbox o
    WHERE decode(substring(o.event FROM '"id": ?"([0-9a-f]{64})"'), 'hex') = ANY (p_ids);
    PERFORM bigbrotr.note_days(p_created_ats, erased);
    RETURN erased;
END $$;
COMMENT ON FUNCTION bigbrotr.erase_events IS
    'Erases all of these events but their times and ids, wherever it is kept. Arrays of one length, sorted by time. '
    'Returns how many were not erased before. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.erase_expired(p_limit integer, p_now bigint) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    due record;
BEGIN
    SELECT array_agg(x.created_at ORDER BY x.created_at, x.id) AS created_ats,
           array_agg(x.id ORDER BY x.created_at, x.id) AS ids INTO due
    FROM (
        SELECT h.created_at, h.id FROM bigbrotr.hidden h WHERE h.expires_at <= p_now ORDER BY h.expires_at LIMIT p_limit
    ) AS x;
    IF due.ids IS NULL OR (SELECT s.erases & 4 FROM bigbrotr.policy_state s) = 0 THEN
        RETURN 0;
    END IF;
    RETURN bigbrotr.erase_events(due.created_ats, due.ids);
END $$;
COMMENT ON FUNCTION bigbrotr.erase_expired IS
    'Erases up to p_limit events whose time is over as of p_now (Unix seconds), where that is wanted. Returns how many.';

-- What leaves the archive

CREATE OR REPLACE FUNCTION bigbrotr.note_departures(p_created_ats bigint[], p_ids bytea[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO bigbrotr.departures (created_ats, ids, pubkeys)
    SELECT p_created_ats, p_ids, coalesce(array_agg(DISTINCT j.pubkey), '{}')
    FROM bigbrotr.read_judged(p_created_ats, p_ids) AS j;
END $$;
COMMENT ON FUNCTION bigbrotr.note_departures IS
    'Notes that these events are about to leave the archive, in the same transaction. Arrays of one length, sorted by time.';

CREATE OR REPLACE FUNCTION bigbrotr.unmark_hidden(p_slice integer, p_created_ats bigint[], p_ids bytea[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET jit = off SET enable_seqscan = off SET plan_cache_mode = force_custom_plan
AS $$
BEGIN
    DELETE FROM bigbrotr.hidden h USING unnest(p_created_ats, p_ids) AS u (created_at, id)
    WHERE h.slice = p_slice AND h.created_at = u.created_at AND h.id = u.id;
    DELETE FROM bigbrotr.search s USING unnest(p_created_ats, p_ids) AS u (created_at, id)
    WHERE s.slice = p_slice AND s.created_at = u.created_at AND s.id = u.id;
END $$;
COMMENT ON FUNCTION bigbrotr.unmark_hidden IS 'Forgets what was noted of events of one slice.';

CREATE OR REPLACE FUNCTION bigbrotr.settle_departures(p_limit integer, p_now bigint) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    settled  integer := 0;
    leaving  record;
    run      record;
    present  bigint[];
    gone_ats bigint[];
    gone     bytea[];
    bereft   bytea[];  -- authors whose newest version has gone
BEGIN
    FOR leaving IN SELECT d.id, d.created_ats, d.ids, d.pubkeys FROM bigbrotr.departures d ORDER BY d.id LIMIT p_limit LOOP
        FOR run IN SELECT r.slice, r.first, r.last FROM bigbrotr.runs_of(leaving.created_ats) AS r LOOP
            SELECT f.places INTO present
            FROM bigbrotr.numbers_of(
                p_slice => run.slice, p_created_ats => leaving.created_ats[run.first:run.last],
                p_ids => leaving.ids[run.first:run.last]) AS f;
            SELECT array_agg(u.created_at), array_agg(u.id) INTO gone_ats, gone
            FROM unnest(leaving.created_ats[run.first:run.last], leaving.ids[run.first:run.last])
                 WITH ORDINALITY AS u (created_at, id, position)
            WHERE u.position <> ALL (present);
            CONTINUE WHEN gone IS NULL;
            PERFORM bigbrotr.unmark_hidden(p_slice => run.slice, p_created_ats => gone_ats, p_ids => gone);
            INSERT INTO bigbrotr.rejudged (created_ats, ids) VALUES (gone_ats, gone);
            WITH forgotten AS (
                DELETE FROM bigbrotr.addresses a USING unnest(gone_ats, gone) AS u (created_at, id)
                WHERE a.pubkey = ANY (leaving.pubkeys) AND a.created_at = u.created_at AND a.id = u.id
                RETURNING a.pubkey
            )
            SELECT array_agg(DISTINCT f.pubkey) INTO bereft FROM forgotten f;
            IF bereft IS NOT NULL THEN
                PERFORM bigbrotr.review_authors(bereft, p_now);
            END IF;
        END LOOP;
        DELETE FROM bigbrotr.departures d WHERE d.id = leaving.id;
        settled := settled + 1;
    END LOOP;
    RETURN settled;
END $$;
COMMENT ON FUNCTION bigbrotr.settle_departures IS
    'Forgets what was noted of events that have left the archive, of up to p_limit rows of the queue. Returns how many rows.';

-- What the operator takes down

CREATE OR REPLACE FUNCTION bigbrotr.take_down(p_what text, p_target bytea, p_erase boolean, p_why text, p_who text, p_now bigint)
RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    born bigint[];
BEGIN
    LOCK TABLE bigbrotr.policy_lock IN EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM bigbrotr.takedowns t
               WHERE t.what = p_what AND t.target = p_target AND t.undone_at IS NULL AND (t.is_erasing OR NOT p_erase)) THEN
        RETURN false;
    END IF;
    UPDATE bigbrotr.takedowns t SET undone_at = p_now, undone_who = p_who, undone_why = 'erased from then on'
    WHERE t.what = p_what AND t.target = p_target AND t.undone_at IS NULL;
    INSERT INTO bigbrotr.takedowns (what, target, is_erasing, why, who, at)
    VALUES (p_what, p_target, p_erase, p_why, p_who, p_now);
    IF p_what = 'pubkey' AND p_erase THEN
        -- What the key has asked for is content of its events.
        DELETE FROM bigbrotr.deletions d WHERE d.pubkey = p_target;
    END IF;
    RETURN true;
END $$;
COMMENT ON FUNCTION bigbrotr.take_down IS
    'Takes down an event, or all events of a pubkey, also those that come later; judge them in the same transaction. '
    'Returns false if that is so already. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.undo_takedown(p_what text, p_target bytea, p_why text, p_who text, p_now bigint)
RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    is_undone boolean;
BEGIN
    LOCK TABLE bigbrotr.policy_lock IN EXCLUSIVE MODE;
    WITH undone AS (
        UPDATE bigbrotr.takedowns t SET undone_at = p_now, undone_who = p_who, undone_why = p_why
        WHERE t.what = p_what AND t.target = p_target AND t.undone_at IS NULL RETURNING 1
    )
    SELECT count(*) > 0 INTO is_undone FROM undone;
    RETURN is_undone;
END $$;
COMMENT ON FUNCTION bigbrotr.undo_takedown IS
    'Takes a takedown back; judge its events in the same transaction. What was erased stays so. Returns false if there '
    'is none. Idempotent.';

-- What readers ask

-- Every reader of events goes through this: a view is its name, and what that hides, the archive says.
CREATE OR REPLACE FUNCTION bigbrotr.view_hides(p_view text, p_now bigint, OUT hides integer, OUT expired_by bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF p_view = 'kept' THEN
        hides := 128;
    ELSE
        SELECT CASE p_view WHEN 'archive' THEN s.archive ELSE s.current END INTO hides FROM bigbrotr.policy_state s;
        hides := coalesce(hides, CASE p_view WHEN 'archive' THEN 254 ELSE 255 END);
    END IF;
    expired_by := CASE WHEN hides & 4 <> 0 THEN p_now END;
END $$;
COMMENT ON FUNCTION bigbrotr.view_hides IS
    'For which reasons, added up as in hidden.why, a view (current, archive or kept) hides events. expired_by: so it does '
    'with those that expire up to then (Unix seconds), with NULL with none for that reason.';

CREATE OR REPLACE FUNCTION bigbrotr.hidden_of_slice(
    p_slice integer, p_created_ats bigint[], p_ids bytea[], p_hides integer, p_expired_by bigint
) RETURNS TABLE ("position" bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN QUERY
    SELECT u.position FROM unnest(p_created_ats, p_ids) WITH ORDINALITY AS u (created_at, id, position)
    CROSS JOIN LATERAL (
        SELECT FROM bigbrotr.hidden h
        WHERE h.created_at = u.created_at AND h.slice = p_slice AND h.id = u.id
          AND (h.why & p_hides <> 0 OR h.expires_at <= p_expired_by) OFFSET 0
    ) AS f;
END $$;
COMMENT ON FUNCTION bigbrotr.hidden_of_slice IS 'The part of hidden_of that reads one slice.';

CREATE OR REPLACE FUNCTION bigbrotr.hidden_of(p_view text, p_now bigint, p_created_ats bigint[], p_ids bytea[])
RETURNS integer[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    shown      record;
    found_ones integer[] := '{}';
    run        record;
BEGIN
    SELECT v.hides, v.expired_by INTO shown FROM bigbrotr.view_hides(p_view, p_now) AS v;
    FOR run IN SELECT r.slice, r.first, r.last FROM bigbrotr.runs_of(p_created_ats) AS r LOOP
        found_ones := found_ones || ARRAY(
            SELECT h.position::integer + run.first - 1
            FROM bigbrotr.hidden_of_slice(
                p_slice => run.slice, p_created_ats => p_created_ats[run.first:run.last],
                p_ids => p_ids[run.first:run.last], p_hides => shown.hides, p_expired_by => shown.expired_by) AS h
            ORDER BY 1);
    END LOOP;
    RETURN found_ones;
END $$;
COMMENT ON FUNCTION bigbrotr.hidden_of IS
    'Which of these events a view hides as of p_now (Unix seconds): their positions, from 1. Arrays of one length, sorted '
    'by time.';

CREATE OR REPLACE FUNCTION bigbrotr.read_shown_slice(
    p_slice integer, p_hides integer, p_expired_by bigint, p_since bigint, p_until bigint, p_after bytea, p_limit bigint,
    p_kinds integer[], p_pubkeys bytea[],
    OUT created_ats bytea, OUT ids bytea, OUT count bigint
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_custom_plan
AS $$
BEGIN
    SELECT string_agg(int8send(x.created_at), ''), string_agg(x.id, ''), count(*) INTO created_ats, ids, count FROM (
        SELECT e.created_at, e.id FROM bigbrotr.events_stored e
        WHERE (p_slice IS NULL OR e.slice = p_slice)
          AND e.created_at >= p_since AND e.created_at < p_until AND (e.created_at, e.id) > (p_since, p_after)
          AND (p_kinds IS NULL OR e.kind = ANY (p_kinds)) AND (p_pubkeys IS NULL OR e.pubkey = ANY (p_pubkeys))
          AND (SELECT true FROM bigbrotr.hidden h
               WHERE h.created_at = e.created_at AND h.slice = bigbrotr.slice_of(e.created_at) AND h.id = e.id
                 AND (p_slice IS NULL OR h.slice = p_slice)
                 AND (h.why & p_hides <> 0 OR h.expires_at <= p_expired_by)) IS NULL
        ORDER BY e.created_at, e.id LIMIT p_limit
    ) AS x;
END $$;
COMMENT ON FUNCTION bigbrotr.read_shown_slice IS
    'The part of read_shown_ids that reads one slice, or with NULL all of them; count: how many ids there are.';

CREATE OR REPLACE FUNCTION bigbrotr.read_shown_ids(
    p_view text, p_now bigint, p_since bigint, p_until bigint, p_after bytea, p_limit bigint, p_kinds integer[],
    p_pubkeys bytea[]
) RETURNS TABLE (created_ats bytea, ids bytea)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    shown     record;
    part      integer;
    page      record;
    times     bytea[] := '{}';
    found_ids bytea[] := '{}';
BEGIN
    SELECT v.hides, v.expired_by INTO shown FROM bigbrotr.view_hides(p_view, p_now) AS v;
    FOR part IN SELECT s.slice FROM bigbrotr.parts_of(p_since, p_until) AS s (slice) LOOP
        SELECT s.created_ats, s.ids, s.count INTO page
        FROM bigbrotr.read_shown_slice(
            p_slice => part, p_hides => shown.hides, p_expired_by => shown.expired_by, p_since => p_since,
            p_until => p_until, p_after => p_after, p_limit => p_limit, p_kinds => p_kinds, p_pubkeys => p_pubkeys) AS s;
        times := times || page.created_ats;
        found_ids := found_ids || page.ids;
        p_limit := p_limit - page.count;
        EXIT WHEN p_limit <= 0;
    END LOOP;
    RETURN QUERY SELECT string_agg(u.times, ''), string_agg(u.ids, '') FROM unnest(times, found_ids) AS u (times, ids);
END $$;
COMMENT ON FUNCTION bigbrotr.read_shown_ids IS
    'What read_ids does, without what a view hides as of p_now (Unix seconds).';

CREATE OR REPLACE FUNCTION bigbrotr.why_hidden(p_id bytea) RETURNS TABLE (why integer, expires_at bigint, takedown text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    born   bigint;
    part   integer;
    author bytea;
BEGIN
    SELECT e.created_at, e.slice, e.pubkey INTO born, part, author FROM bigbrotr.events_stored e WHERE e.id = p_id;
    SELECT h.why, h.expires_at INTO why, expires_at FROM bigbrotr.hidden h
    WHERE h.created_at = born AND h.slice = part AND h.id = p_id;
    SELECT t.why INTO takedown FROM bigbrotr.takedowns t
    WHERE t.undone_at IS NULL AND ((t.what = 'event' AND t.target = p_id) OR (t.what = 'pubkey' AND t.target = author))
    ORDER BY t.at DESC LIMIT 1;
    IF why IS NULL AND takedown IS NOT NULL THEN
        why := 64;
    END IF;
    IF why IS NOT NULL THEN
        RETURN NEXT;
    END IF;
END $$;
COMMENT ON FUNCTION bigbrotr.why_hidden IS
    'For which reasons an event may be hidden, added up as in hidden.why, when it expires, and why the operator has '
    'taken it down; no row: there is none. Known of events that are taken down before they come, too.';

CREATE OR REPLACE FUNCTION bigbrotr.what_is(p_key bytea) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    IF EXISTS (SELECT FROM bigbrotr.takedowns t WHERE t.target = p_key AND t.what = 'event') THEN
        RETURN 'event';
    ELSIF EXISTS (SELECT FROM bigbrotr.takedowns t WHERE t.target = p_key) THEN
        RETURN 'pubkey';
    ELSIF EXISTS (SELECT 1 FROM bigbrotr.events_stored e WHERE e.id = p_key LIMIT 1) THEN
        RETURN 'event';
    ELSIF EXISTS (SELECT 1 FROM bigbrotr.events_stored e WHERE e.pubkey = p_key LIMIT 1) THEN
        RETURN 'pubkey';
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION bigbrotr.what_is IS
    'Whether these 32 bytes are the id of an event that is archived or was taken down, or the public key of an author; '
    'NULL: neither is known.';

CREATE OR REPLACE FUNCTION bigbrotr.policy_position(OUT xid bigint, OUT id bigint, OUT reviews bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT s.xid, s.id INTO xid, id FROM bigbrotr.policy_state s;
    SELECT count(*) INTO reviews FROM bigbrotr.reviews r;
END $$;
COMMENT ON FUNCTION bigbrotr.policy_position IS
    'Up to which row of arrivals events were judged, and how many walks through archived ones are not at their end. '
    'NULL: none was ever judged.';

CREATE OR REPLACE FUNCTION bigbrotr.is_settled() RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN NOT EXISTS (SELECT FROM bigbrotr.reviews r WHERE r.name = 'all');
END $$;
COMMENT ON FUNCTION bigbrotr.is_settled IS
    'Whether it is known of all archived events which are not to be shown: false while a walk through all of them is under '
    'way, as the first time.';

-- For those who hold ids in memory

CREATE OR REPLACE FUNCTION bigbrotr.shown_state(
    p_xid bigint, OUT xid bigint, OUT is_missing boolean, OUT current integer, OUT archive integer
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    xid := pg_snapshot_xmin(pg_current_snapshot())::text::bigint;
    is_missing := xid < p_xid OR EXISTS (SELECT FROM bigbrotr.arrivals_pruned p WHERE p.xid >= p_xid::text::xid8);
    SELECT v.hides INTO current FROM bigbrotr.view_hides('current', 0) AS v;
    SELECT v.hides INTO archive FROM bigbrotr.view_hides('archive', 0) AS v;
END $$;
COMMENT ON FUNCTION bigbrotr.shown_state IS
    'The transaction up to which all are over, and for which reasons views hide events. is_missing: of what is noted in '
    'arrivals and rejudged from the transaction p_xid on, some was pruned.';

CREATE OR REPLACE FUNCTION bigbrotr.read_rejudged(p_from bigint, p_until bigint, p_limit integer)
RETURNS TABLE (created_ats bigint[], ids bytea[])
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    RETURN QUERY
    SELECT r.created_ats, r.ids FROM bigbrotr.rejudged r
    WHERE r.xid >= p_from::text::xid8 AND r.xid < p_until::text::xid8 ORDER BY r.xid, r.id LIMIT p_limit;
END $$;
COMMENT ON FUNCTION bigbrotr.read_rejudged IS
    'Rows of rejudged, at most p_limit: those of the transactions from p_from on, and before p_until.';

CREATE OR REPLACE FUNCTION bigbrotr.read_expiring(p_after bigint, p_until bigint, p_limit integer)
RETURNS TABLE (created_at bigint, id bytea)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    RETURN QUERY
    SELECT h.created_at, h.id FROM bigbrotr.hidden h
    WHERE h.expires_at > p_after AND h.expires_at <= p_until ORDER BY h.expires_at LIMIT p_limit;
END $$;
COMMENT ON FUNCTION bigbrotr.read_expiring IS
    'The events, at most p_limit, whose time is over from after p_after up to p_until (Unix seconds).';
