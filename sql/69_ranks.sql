-- Ranks: what is counted of public keys, events and addresses, and PageRank over the follow graph, where the operator wants
-- them. Who stores events does nothing for it: the service ranks follows the log of arrivals and that of what was judged
-- again, walks through what was archived before, and keeps what each event has counted for, so that it can be taken back
-- when the event is shown no longer, although its content may be gone. Counts and the position go in one transaction.

CREATE TABLE IF NOT EXISTS bigbrotr.rank_facts (
    created_at bigint   NOT NULL,
    msat       bigint   NOT NULL,
    n          smallint NOT NULL,
    what       smallint NOT NULL,
    id         bytea    NOT NULL,
    subject    bytea    NOT NULL,
    PRIMARY KEY (id, n)
);
COMMENT ON TABLE bigbrotr.rank_facts IS 'What events that the current view shows have counted for.';
COMMENT ON COLUMN bigbrotr.rank_facts.created_at IS 'When the event was created, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.rank_facts.msat IS 'Amount of a zap, in millisatoshi; else 0.';
COMMENT ON COLUMN bigbrotr.rank_facts.n IS 'Which one of the event''s, from 1.';
COMMENT ON COLUMN bigbrotr.rank_facts.what IS
    'Of a public key: 1 posted, 2 replied, 3 reacted, 4 zap received, 5 zap sent, 6 report received, 7 report sent; of an '
    'event: 11 commented, 12 quoted, 13 reposted, 14 reaction, 15 zapped; of an address: 10 more.';
COMMENT ON COLUMN bigbrotr.rank_facts.id IS 'Id of the event: 32 bytes.';
COMMENT ON COLUMN bigbrotr.rank_facts.subject IS
    'What it counts for: a public key, the id of an event (32 bytes), or an address (kind:pubkey:d in UTF-8).';
CREATE INDEX IF NOT EXISTS rank_facts_written_idx ON bigbrotr.rank_facts (subject, created_at) WHERE what IN (1, 2);

CREATE TABLE IF NOT EXISTS bigbrotr.rank_authors (
    pubkey           bytea   NOT NULL PRIMARY KEY,
    first_at         bigint,
    msat_received    bigint  NOT NULL DEFAULT 0,
    msat_sent        bigint  NOT NULL DEFAULT 0,
    posts            integer NOT NULL DEFAULT 0,
    replies          integer NOT NULL DEFAULT 0,
    reactions        integer NOT NULL DEFAULT 0,
    zaps_received    integer NOT NULL DEFAULT 0,
    zaps_sent        integer NOT NULL DEFAULT 0,
    reports_received integer NOT NULL DEFAULT 0,
    reports_sent     integer NOT NULL DEFAULT 0
);
COMMENT ON TABLE bigbrotr.rank_authors IS 'What is counted of public keys: sums of rank_facts.';
COMMENT ON COLUMN bigbrotr.rank_authors.pubkey IS 'Public key: 32 bytes.';
COMMENT ON COLUMN bigbrotr.rank_authors.first_at IS 'When the first post or reply was created, in Unix seconds; NULL: there is none.';
COMMENT ON COLUMN bigbrotr.rank_authors.msat_received IS 'Amount of the zaps received, in millisatoshi.';
COMMENT ON COLUMN bigbrotr.rank_authors.msat_sent IS 'Amount of the zaps sent, in millisatoshi.';
COMMENT ON COLUMN bigbrotr.rank_authors.posts IS 'Posts: notes that answer nothing, pictures, videos and articles.';
COMMENT ON COLUMN bigbrotr.rank_authors.replies IS 'Notes and comments that answer something.';
COMMENT ON COLUMN bigbrotr.rank_authors.reactions IS 'Reactions to events of others, or of its own.';
COMMENT ON COLUMN bigbrotr.rank_authors.zaps_received IS 'Zaps received.';
COMMENT ON COLUMN bigbrotr.rank_authors.zaps_sent IS 'Zaps sent.';
COMMENT ON COLUMN bigbrotr.rank_authors.reports_received IS 'Reports about it.';
COMMENT ON COLUMN bigbrotr.rank_authors.reports_sent IS 'Reports by it.';

CREATE TABLE IF NOT EXISTS bigbrotr.rank_subjects (
    subject   bytea   NOT NULL PRIMARY KEY,
    msat      bigint  NOT NULL DEFAULT 0,
    comments  integer NOT NULL DEFAULT 0,
    quotes    integer NOT NULL DEFAULT 0,
    reposts   integer NOT NULL DEFAULT 0,
    reactions integer NOT NULL DEFAULT 0,
    zaps      integer NOT NULL DEFAULT 0
);
COMMENT ON TABLE bigbrotr.rank_subjects IS 'What is counted of events and addresses: sums of rank_facts.';
COMMENT ON COLUMN bigbrotr.rank_subjects.subject IS 'Id of an event (32 bytes), or an address (kind:pubkey:d in UTF-8).';
COMMENT ON COLUMN bigbrotr.rank_subjects.msat IS 'Amount of the zaps, in millisatoshi.';
COMMENT ON COLUMN bigbrotr.rank_subjects.comments IS 'Events that answer it, or are in a thread that it began.';
COMMENT ON COLUMN bigbrotr.rank_subjects.quotes IS 'Events that quote it.';
COMMENT ON COLUMN bigbrotr.rank_subjects.reposts IS 'Reposts.';
COMMENT ON COLUMN bigbrotr.rank_subjects.reactions IS 'Reactions.';
COMMENT ON COLUMN bigbrotr.rank_subjects.zaps IS 'Zaps.';

CREATE TABLE IF NOT EXISTS bigbrotr.ranks (
    pubkey    bytea            NOT NULL PRIMARY KEY,
    score     double precision NOT NULL,
    run       bigint           NOT NULL,
    followers integer          NOT NULL,
    follows   integer,
    rank      smallint         NOT NULL
);
COMMENT ON TABLE bigbrotr.ranks IS 'The follow graph, key by key, as it was ranked last.';
COMMENT ON COLUMN bigbrotr.ranks.pubkey IS 'Public key: 32 bytes.';
COMMENT ON COLUMN bigbrotr.ranks.score IS 'PageRank: all of them sum up to 1.';
COMMENT ON COLUMN bigbrotr.ranks.run IS 'Number of the run that has ranked it.';
COMMENT ON COLUMN bigbrotr.ranks.followers IS 'How many follow it.';
COMMENT ON COLUMN bigbrotr.ranks.follows IS 'How many it follows; NULL: no list of it is archived.';
COMMENT ON COLUMN bigbrotr.ranks.rank IS 'The score from 0 to 100, on a logarithmic scale.';
CREATE INDEX IF NOT EXISTS ranks_score_idx ON bigbrotr.ranks (score DESC, pubkey);

CREATE TABLE IF NOT EXISTS bigbrotr.rank_state (
    is_only     boolean NOT NULL PRIMARY KEY DEFAULT true CHECK (is_only),
    step        bigint  NOT NULL DEFAULT 0,
    xid         bigint  NOT NULL,
    id          bigint  NOT NULL,
    judged_xid  bigint  NOT NULL,
    judged_id   bigint  NOT NULL DEFAULT 0,
    expired_at  bigint  NOT NULL,
    hides       integer NOT NULL,
    after_at    bigint,
    after_id    bytea,
    counted_at  bigint  NOT NULL,
    run         bigint  NOT NULL DEFAULT 0,
    ranked_at   bigint,
    pubkeys     bigint  NOT NULL DEFAULT 0,
    listed      bigint  NOT NULL DEFAULT 0,
    follows     bigint  NOT NULL DEFAULT 0,
    writers     bigint  NOT NULL DEFAULT 0,
    writers_listed bigint NOT NULL DEFAULT 0,
    iterations  integer NOT NULL DEFAULT 0
);
COMMENT ON TABLE bigbrotr.rank_state IS 'How far the service ranks is: one row, or none where it never ran.';
COMMENT ON COLUMN bigbrotr.rank_state.is_only IS 'Always true.';
COMMENT ON COLUMN bigbrotr.rank_state.step IS 'Grows with each step. Who has begun at another is too late.';
COMMENT ON COLUMN bigbrotr.rank_state.xid IS 'Transaction of the last row of arrivals that was read.';
COMMENT ON COLUMN bigbrotr.rank_state.id IS 'Id of that row.';
COMMENT ON COLUMN bigbrotr.rank_state.judged_xid IS 'Transaction from which on rejudged is to be read.';
COMMENT ON COLUMN bigbrotr.rank_state.judged_id IS 'Id of the last row of that transaction that was read.';
COMMENT ON COLUMN bigbrotr.rank_state.expired_at IS 'Events that expired up to then (Unix seconds) are counted no longer.';
COMMENT ON COLUMN bigbrotr.rank_state.hides IS 'Reasons for which the current view hides events, added up as in hidden.why.';
COMMENT ON COLUMN bigbrotr.rank_state.after_at IS
    'What was archived before is counted from the newest on: the time (Unix seconds) of the last event; NULL: all of it is.';
COMMENT ON COLUMN bigbrotr.rank_state.after_id IS 'Its id.';
COMMENT ON COLUMN bigbrotr.rank_state.counted_at IS 'When events were last counted, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.rank_state.run IS 'Number of the last whole run over the follow graph.';
COMMENT ON COLUMN bigbrotr.rank_state.ranked_at IS 'When it was begun, in Unix seconds; NULL: there was none.';
COMMENT ON COLUMN bigbrotr.rank_state.pubkeys IS 'Public keys that it has ranked.';
COMMENT ON COLUMN bigbrotr.rank_state.listed IS 'Of these, those of whom a list of follows is archived.';
COMMENT ON COLUMN bigbrotr.rank_state.follows IS 'Follows in these lists.';
COMMENT ON COLUMN bigbrotr.rank_state.writers IS 'Authors with a post or reply, as of then.';
COMMENT ON COLUMN bigbrotr.rank_state.writers_listed IS 'Of these, those of whom a list of follows is archived.';
COMMENT ON COLUMN bigbrotr.rank_state.iterations IS 'Iterations until scores changed no more.';

-- Counting

CREATE OR REPLACE FUNCTION bigbrotr.begin_ranks(p_is_again boolean, p_now bigint) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    log_end record;
    judged  record;
    shown   record;
    begun   boolean;
BEGIN
    SELECT a.xid, a.id INTO log_end FROM bigbrotr.arrivals_end() AS a;
    -- What was not judged yet is followed, too.
    SELECT p.xid, p.id INTO judged FROM bigbrotr.policy_position() AS p;
    IF (judged.xid, judged.id) < (log_end.xid, log_end.id) THEN
        log_end := judged;
    END IF;
    SELECT s.xid, s.current INTO shown FROM bigbrotr.shown_state(p_xid => 0) AS s;
    WITH noted AS (
        INSERT INTO bigbrotr.rank_state AS s (xid, id, judged_xid, expired_at, hides, after_at, after_id, counted_at)
        VALUES (log_end.xid, log_end.id, shown.xid, p_now, shown.current, 9223372036854775807, '', p_now)
        ON CONFLICT (is_only) DO UPDATE SET
            step = s.step + 1, xid = EXCLUDED.xid, id = EXCLUDED.id, judged_xid = EXCLUDED.judged_xid, judged_id = 0,
            expired_at = EXCLUDED.expired_at, hides = EXCLUDED.hides, after_at = EXCLUDED.after_at,
            after_id = EXCLUDED.after_id
        WHERE p_is_again OR s.hides <> EXCLUDED.hides OR s.judged_xid > EXCLUDED.judged_xid
        RETURNING 1
    )
    SELECT count(*) > 0 INTO begun FROM noted;
    IF begun THEN
        DELETE FROM bigbrotr.rank_facts;
        DELETE FROM bigbrotr.rank_authors;
        DELETE FROM bigbrotr.rank_subjects;
    END IF;
    RETURN begun;
END $$;
COMMENT ON FUNCTION bigbrotr.begin_ranks IS
    'Begins to count, with all that is archived; again where the current view hides for other reasons, the log of arrivals '
    'is another, or with p_is_again. Returns whether it has begun. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.move_ranks(
    p_step bigint, p_xid bigint, p_id bigint, p_judged_xid bigint, p_judged_id bigint, p_expired_at bigint, p_after_at bigint,
    p_after_id bytea, p_now bigint
) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE bigbrotr.rank_state s SET
        step = s.step + 1, xid = p_xid, id = p_id, judged_xid = p_judged_xid, judged_id = p_judged_id,
        expired_at = p_expired_at, after_at = p_after_at, after_id = p_after_id, counted_at = p_now
    WHERE s.step = p_step;
    RETURN FOUND;
END $$;
COMMENT ON FUNCTION bigbrotr.move_ranks IS
    'Notes how far events are counted, if that was where the caller has begun. Returns false if another was quicker: then '
    'all of this transaction is to be undone.';

CREATE OR REPLACE FUNCTION bigbrotr.sum_facts(
    p_whats smallint[], p_subjects bytea[], p_created_ats bigint[], p_msats bigint[], p_sign integer
) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO bigbrotr.rank_authors AS a (
        pubkey, first_at, msat_received, msat_sent, posts, replies, reactions, zaps_received, zaps_sent, reports_received,
        reports_sent)
    SELECT u.subject, min(u.created_at) FILTER (WHERE u.what IN (1, 2) AND p_sign > 0),
           p_sign * coalesce(sum(u.msat) FILTER (WHERE u.what = 4), 0),
           p_sign * coalesce(sum(u.msat) FILTER (WHERE u.what = 5), 0),
           p_sign * count(*) FILTER (WHERE u.what = 1), p_sign * count(*) FILTER (WHERE u.what = 2),
           p_sign * count(*) FILTER (WHERE u.what = 3), p_sign * count(*) FILTER (WHERE u.what = 4),
           p_sign * count(*) FILTER (WHERE u.what = 5), p_sign * count(*) FILTER (WHERE u.what = 6),
           p_sign * count(*) FILTER (WHERE u.what = 7)
    FROM unnest(p_whats, p_subjects, p_created_ats, p_msats) AS u (what, subject, created_at, msat)
    WHERE u.what < 10
    GROUP BY u.subject
    ON CONFLICT (pubkey) DO UPDATE SET
        first_at = least(a.first_at, EXCLUDED.first_at), msat_received = a.msat_received + EXCLUDED.msat_received,
        msat_sent = a.msat_sent + EXCLUDED.msat_sent, posts = a.posts + EXCLUDED.posts,
        replies = a.replies + EXCLUDED.replies, reactions = a.reactions + EXCLUDED.reactions,
        zaps_received = a.zaps_received + EXCLUDED.zaps_received, zaps_sent = a.zaps_sent + EXCLUDED.zaps_sent,
        reports_received = a.reports_received + EXCLUDED.reports_received,
        reports_sent = a.reports_sent + EXCLUDED.reports_sent;
    INSERT INTO bigbrotr.rank_subjects AS s (subject, msat, comments, quotes, reposts, reactions, zaps)
    SELECT u.subject, p_sign * sum(u.msat), p_sign * count(*) FILTER (WHERE u.what IN (11, 21)),
           p_sign * count(*) FILTER (WHERE u.what IN (12, 22)), p_sign * count(*) FILTER (WHERE u.what IN (13, 23)),
           p_sign * count(*) FILTER (WHERE u.what IN (14, 24)), p_sign * count(*) FILTER (WHERE u.what IN (15, 25))
    FROM unnest(p_whats, p_subjects, p_msats) AS u (what, subject, msat)
    WHERE u.what > 10
    GROUP BY u.subject
    ON CONFLICT (subject) DO UPDATE SET
        msat = s.msat + EXCLUDED.msat, comments = s.comments + EXCLUDED.comments, quotes = s.quotes + EXCLUDED.quotes,
        reposts = s.reposts + EXCLUDED.reposts, reactions = s.reactions + EXCLUDED.reactions,
        zaps = s.zaps + EXCLUDED.zaps;
END $$;
COMMENT ON FUNCTION bigbrotr.sum_facts IS
    'Adds facts to the sums, with p_sign -1 takes them away. Arrays of one length. A part of count_facts and uncount_facts.';

CREATE OR REPLACE FUNCTION bigbrotr.count_facts(
    p_ids bytea[], p_ns integer[], p_whats integer[], p_subjects bytea[], p_created_ats bigint[], p_msats bigint[]
) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    added record;
BEGIN
    WITH noted AS (
        INSERT INTO bigbrotr.rank_facts AS f (id, n, what, subject, created_at, msat)
        SELECT u.id, u.n, u.what, u.subject, u.created_at, u.msat
        FROM unnest(p_ids, p_ns, p_whats, p_subjects, p_created_ats, p_msats) AS u (id, n, what, subject, created_at, msat)
        ON CONFLICT (id, n) DO NOTHING
        RETURNING f.what, f.subject, f.created_at, f.msat
    )
    SELECT array_agg(d.what) AS whats, array_agg(d.subject) AS subjects, array_agg(d.created_at) AS created_ats,
           array_agg(d.msat) AS msats, count(*)::integer AS facts INTO added FROM noted d;
    IF added.facts > 0 THEN
        PERFORM bigbrotr.sum_facts(
            p_whats => added.whats, p_subjects => added.subjects, p_created_ats => added.created_ats,
            p_msats => added.msats, p_sign => 1);
    END IF;
    RETURN added.facts;
END $$;
COMMENT ON FUNCTION bigbrotr.count_facts IS
    'Counts what events say, each fact once. Arrays of one length. Returns how many facts are new. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.uncount_facts(p_ids bytea[]) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    taken record;
BEGIN
    WITH deleted AS (
        DELETE FROM bigbrotr.rank_facts f WHERE f.id = ANY (p_ids) RETURNING f.what, f.subject, f.created_at, f.msat
    )
    SELECT array_agg(d.what) AS whats, array_agg(d.subject) AS subjects, array_agg(d.created_at) AS created_ats,
           array_agg(d.msat) AS msats, count(*)::integer AS facts INTO taken FROM deleted d;
    IF taken.facts > 0 THEN
        PERFORM bigbrotr.sum_facts(
            p_whats => taken.whats, p_subjects => taken.subjects, p_created_ats => taken.created_ats,
            p_msats => taken.msats, p_sign => -1);
        UPDATE bigbrotr.rank_authors a SET first_at = (
            SELECT min(f.created_at) FROM bigbrotr.rank_facts f WHERE f.subject = a.pubkey AND f.what IN (1, 2))
        FROM (
            SELECT u.subject, min(u.created_at) AS at
            FROM unnest(taken.whats, taken.subjects, taken.created_ats) AS u (what, subject, created_at)
            WHERE u.what IN (1, 2) GROUP BY u.subject
        ) AS w
        WHERE a.pubkey = w.subject AND a.first_at >= w.at;
    END IF;
    RETURN taken.facts;
END $$;
COMMENT ON FUNCTION bigbrotr.uncount_facts IS
    'Takes back what events have counted for. Returns how many facts that were. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.next_rejudged(p_xid bigint, p_id bigint, p_until bigint, p_limit integer)
RETURNS TABLE (xid bigint, id bigint, created_ats bigint[], ids bytea[])
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    RETURN QUERY
    SELECT r.xid::text::bigint, r.id, r.created_ats, r.ids FROM bigbrotr.rejudged r
    WHERE (r.xid, r.id) > (p_xid::text::xid8, p_id) AND r.xid < p_until::text::xid8
    ORDER BY r.xid, r.id LIMIT p_limit;
END $$;
COMMENT ON FUNCTION bigbrotr.next_rejudged IS
    'The next rows of rejudged behind (p_xid, p_id), at most p_limit: those of the transactions before p_until.';

-- Ranking

CREATE OR REPLACE FUNCTION bigbrotr.keep_ranks(
    p_run bigint, p_pubkeys bytea[], p_scores double precision[], p_ranks integer[], p_followers integer[],
    p_follows integer[]
) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    kept integer;
BEGIN
    WITH written AS (
        INSERT INTO bigbrotr.ranks AS r (pubkey, score, rank, followers, follows, run)
        SELECT u.pubkey, u.score, u.rank, u.followers, u.follows, p_run
        FROM unnest(p_pubkeys, p_scores, p_ranks, p_followers, p_follows) AS u (pubkey, score, rank, followers, follows)
        ORDER BY u.pubkey
        ON CONFLICT (pubkey) DO UPDATE SET
            score = EXCLUDED.score, rank = EXCLUDED.rank, followers = EXCLUDED.followers, follows = EXCLUDED.follows,
            run = EXCLUDED.run
        WHERE r.run <= EXCLUDED.run
        RETURNING 1
    )
    SELECT count(*) INTO kept FROM written;
    RETURN kept;
END $$;
COMMENT ON FUNCTION bigbrotr.keep_ranks IS
    'Writes what a run has found of some public keys. Arrays of one length. Returns how many. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.end_ranking(
    p_run bigint, p_listed bigint, p_follows bigint, p_iterations integer, p_at bigint
) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    seen record;
BEGIN
    SELECT count(*) AS writers,
           count(*) FILTER (WHERE EXISTS (
               SELECT FROM bigbrotr.ranks r WHERE r.pubkey = a.pubkey AND r.run = p_run AND r.follows IS NOT NULL)) AS listed
    INTO seen FROM bigbrotr.rank_authors a WHERE a.first_at IS NOT NULL;
    UPDATE bigbrotr.rank_state s SET
        run = p_run, ranked_at = p_at, listed = p_listed, follows = p_follows, iterations = p_iterations,
        pubkeys = (SELECT count(*) FROM bigbrotr.ranks r WHERE r.run = p_run),
        writers = seen.writers, writers_listed = seen.listed
    WHERE s.run < p_run;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    DELETE FROM bigbrotr.ranks r WHERE r.run < p_run;
    RETURN true;
END $$;
COMMENT ON FUNCTION bigbrotr.end_ranking IS
    'Ends a run: what it has not found goes. Returns false if a later one has ended already. Idempotent.';

-- Publishing

CREATE TABLE IF NOT EXISTS bigbrotr.rank_published (
    published_at bigint  NOT NULL,
    kind         integer NOT NULL,
    target       text    NOT NULL,
    signer       bytea   NOT NULL,
    d            text    NOT NULL,
    said         jsonb   NOT NULL,
    PRIMARY KEY (target, signer, kind, d)
);
COMMENT ON TABLE bigbrotr.rank_published IS 'What was last said to whom of ranks (NIP-85), so that only what has changed is said again.';
COMMENT ON COLUMN bigbrotr.rank_published.published_at IS 'When it was put into the outbox, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.rank_published.kind IS 'Kind of the event: 30382 to 30384, or 0 for the profile of the signer.';
COMMENT ON COLUMN bigbrotr.rank_published.target IS 'URL of the relay.';
COMMENT ON COLUMN bigbrotr.rank_published.signer IS 'Public key of the algorithm: 32 bytes.';
COMMENT ON COLUMN bigbrotr.rank_published.d IS 'Value of the d tag: a public key or an id in hex, or an address.';
COMMENT ON COLUMN bigbrotr.rank_published.said IS 'What it says: values by name.';

CREATE OR REPLACE FUNCTION bigbrotr.read_assertions(p_most integer, p_signer bytea)
RETURNS TABLE (
    pubkey bytea, rank smallint, followers integer, first_at bigint, posts integer, replies integer, reactions integer,
    zaps_received integer, msat_received bigint, zaps_sent integer, msat_sent bigint, reports_received integer,
    reports_sent integer
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    RETURN QUERY
    SELECT k.pubkey, r.rank, r.followers, a.first_at, a.posts, a.replies, a.reactions, a.zaps_received, a.msat_received,
           a.zaps_sent, a.msat_sent, a.reports_received, a.reports_sent
    FROM (
        (SELECT t.pubkey FROM bigbrotr.ranks t ORDER BY t.score DESC, t.pubkey LIMIT p_most)
        UNION
        SELECT decode(p.d, 'hex') FROM bigbrotr.rank_published p WHERE p.signer = p_signer AND p.kind = 30382
    ) AS k
    LEFT JOIN bigbrotr.ranks r ON r.pubkey = k.pubkey
    LEFT JOIN bigbrotr.rank_authors a ON a.pubkey = k.pubkey
    ORDER BY r.score DESC NULLS LAST, k.pubkey;
END $$;
COMMENT ON FUNCTION bigbrotr.read_assertions IS
    'What is known of the p_most public keys of the highest score, and of those of which p_signer has said something. '
    'NULL: nothing is.';

CREATE OR REPLACE FUNCTION bigbrotr.read_subject_assertions(p_most integer, p_signer bytea)
RETURNS TABLE (
    subject bytea, msat bigint, comments integer, quotes integer, reposts integer, reactions integer, zaps integer
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    RETURN QUERY
    SELECT k.subject, s.msat, s.comments, s.quotes, s.reposts, s.reactions, s.zaps
    FROM (
        (SELECT t.subject FROM bigbrotr.rank_subjects t
         ORDER BY t.comments + t.quotes + t.reposts + t.reactions + t.zaps DESC, t.subject LIMIT p_most)
        UNION
        SELECT CASE p.kind WHEN 30383 THEN decode(p.d, 'hex') ELSE convert_to(p.d, 'UTF8') END
        FROM bigbrotr.rank_published p WHERE p.signer = p_signer AND p.kind IN (30383, 30384)
    ) AS k
    LEFT JOIN bigbrotr.rank_subjects s ON s.subject = k.subject
    ORDER BY s.comments + s.quotes + s.reposts + s.reactions + s.zaps DESC NULLS LAST, k.subject;
END $$;
COMMENT ON FUNCTION bigbrotr.read_subject_assertions IS
    'What is counted of the p_most events and addresses of which most is, and of those of which p_signer has said '
    'something. NULL: nothing is.';

CREATE OR REPLACE FUNCTION bigbrotr.note_published(
    p_targets text[], p_signer bytea, p_kinds integer[], p_ds text[], p_saids jsonb[], p_now bigint
) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    noted integer;
BEGIN
    WITH written AS (
        INSERT INTO bigbrotr.rank_published (target, signer, kind, d, said, published_at)
        SELECT u.target, p_signer, u.kind, u.d, u.said, p_now
        FROM unnest(p_targets, p_kinds, p_ds, p_saids) AS u (target, kind, d, said)
        ORDER BY u.target, u.kind, u.d
        ON CONFLICT (target, signer, kind, d) DO UPDATE SET said = EXCLUDED.said, published_at = EXCLUDED.published_at
        RETURNING 1
    )
    SELECT count(*) INTO noted FROM written;
    RETURN noted;
END $$;
COMMENT ON FUNCTION bigbrotr.note_published IS
    'Notes what was said to whom. Arrays of one length. Returns how much. Idempotent.';
