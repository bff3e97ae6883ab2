-- Operators: relays that are one operator's, under several addresses, and the evidence for it. What one side alone can say or
-- copy joins nothing: bigbrotr/models/operators.py has the rules. Joining changes nothing about what is archived.

CREATE TABLE IF NOT EXISTS bigbrotr.operator_names (
    relay_id bigint NOT NULL REFERENCES bigbrotr.relays (id) ON DELETE CASCADE,
    url      text   NOT NULL,
    PRIMARY KEY (relay_id, url)
);
COMMENT ON TABLE bigbrotr.operator_names IS 'Which other relays the document (NIP-11) of a relay names: a claim of one side.';
COMMENT ON COLUMN bigbrotr.operator_names.relay_id IS 'Number of the relay.';
COMMENT ON COLUMN bigbrotr.operator_names.url IS 'URL that it names.';

CREATE TABLE IF NOT EXISTS bigbrotr.operator_documents (
    relay_id    bigint NOT NULL PRIMARY KEY REFERENCES bigbrotr.relays (id) ON DELETE CASCADE,
    metadata_id bytea  NOT NULL
);
COMMENT ON TABLE bigbrotr.operator_documents IS 'Which document of a relay was read for operator_names.';
COMMENT ON COLUMN bigbrotr.operator_documents.relay_id IS 'Number of the relay.';
COMMENT ON COLUMN bigbrotr.operator_documents.metadata_id IS 'Id of the document in metadata.';

CREATE TABLE IF NOT EXISTS bigbrotr.operator_tests (
    relay_a   bigint  NOT NULL REFERENCES bigbrotr.relays (id) ON DELETE CASCADE,
    relay_b   bigint  NOT NULL REFERENCES bigbrotr.relays (id) ON DELETE CASCADE,
    tested_at bigint  NOT NULL DEFAULT 0,
    weeks     integer NOT NULL DEFAULT 0,
    by_both   bigint  NOT NULL DEFAULT 0,
    by_one    bigint  NOT NULL DEFAULT 0,
    asked_at  bigint  NOT NULL DEFAULT 0,
    PRIMARY KEY (relay_a, relay_b),
    CHECK (relay_a < relay_b)
);
COMMENT ON TABLE bigbrotr.operator_tests IS
    'Pairs of relays whose events were compared: in weeks by chance of which both are proven, and by asking both.';
COMMENT ON COLUMN bigbrotr.operator_tests.relay_a IS 'Number of the one.';
COMMENT ON COLUMN bigbrotr.operator_tests.relay_b IS 'Number of the other, the larger one.';
COMMENT ON COLUMN bigbrotr.operator_tests.tested_at IS 'When, in Unix seconds; 0: not yet, or by a clock that was ahead.';
COMMENT ON COLUMN bigbrotr.operator_tests.weeks IS 'Weeks in which one of both holds any.';
COMMENT ON COLUMN bigbrotr.operator_tests.by_both IS 'Events of these weeks that both hold.';
COMMENT ON COLUMN bigbrotr.operator_tests.by_one IS 'Events that one of both alone holds.';
COMMENT ON COLUMN bigbrotr.operator_tests.asked_at IS 'When both were last asked for the same, in Unix seconds; 0: not yet.';
CREATE INDEX IF NOT EXISTS operator_tests_relay_b_idx ON bigbrotr.operator_tests (relay_b);

CREATE TABLE IF NOT EXISTS bigbrotr.operator_evidence (
    relay_a  bigint NOT NULL REFERENCES bigbrotr.relays (id) ON DELETE CASCADE,
    relay_b  bigint NOT NULL REFERENCES bigbrotr.relays (id) ON DELETE CASCADE,
    kind     text   NOT NULL CHECK (kind IN ('word', 'certificate', 'events', 'alike', 'self', 'document')),
    detail   text   NOT NULL,
    first_at bigint NOT NULL,
    seen_at  bigint NOT NULL,
    PRIMARY KEY (relay_a, relay_b, kind),
    CHECK (relay_a < relay_b)
);
COMMENT ON TABLE bigbrotr.operator_evidence IS 'What says of two relays that they are one operator''s, as it is now. Not each piece suffices.';
COMMENT ON COLUMN bigbrotr.operator_evidence.relay_a IS 'Number of the one.';
COMMENT ON COLUMN bigbrotr.operator_evidence.relay_b IS 'Number of the other, the larger one.';
COMMENT ON COLUMN bigbrotr.operator_evidence.kind IS
    'word (each document names the other), certificate, events (the same in proven weeks by chance), alike (asked at the '
    'same moments by chance, both hand out the same), self (the same key), or document (the same, with a key or a contact).';
COMMENT ON COLUMN bigbrotr.operator_evidence.detail IS 'What was seen.';
COMMENT ON COLUMN bigbrotr.operator_evidence.first_at IS 'When it was first seen, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.operator_evidence.seen_at IS 'When it was last seen, in Unix seconds.';
CREATE INDEX IF NOT EXISTS operator_evidence_relay_b_idx ON bigbrotr.operator_evidence (relay_b);

CREATE TABLE IF NOT EXISTS bigbrotr.operators (
    relay_id    bigint NOT NULL PRIMARY KEY REFERENCES bigbrotr.relays (id) ON DELETE CASCADE,
    operator_id bigint NOT NULL,
    joined_at   bigint NOT NULL
);
COMMENT ON TABLE bigbrotr.operators IS 'Relays that are joined with others under one operator. All other relays have one of their own each.';
COMMENT ON COLUMN bigbrotr.operators.relay_id IS 'Number of the relay.';
COMMENT ON COLUMN bigbrotr.operators.operator_id IS 'Smallest number of the relays that are joined.';
COMMENT ON COLUMN bigbrotr.operators.joined_at IS 'When it was joined, in Unix seconds.';
CREATE INDEX IF NOT EXISTS operators_operator_id_idx ON bigbrotr.operators (operator_id);

CREATE TABLE IF NOT EXISTS bigbrotr.operator_state (
    is_only   boolean NOT NULL PRIMARY KEY DEFAULT true CHECK (is_only),
    joined_at bigint  NOT NULL,
    relays    integer NOT NULL,
    known     integer NOT NULL
);
COMMENT ON TABLE bigbrotr.operator_state IS 'When relays were last joined: one row, or none.';
COMMENT ON COLUMN bigbrotr.operator_state.is_only IS 'Always true.';
COMMENT ON COLUMN bigbrotr.operator_state.joined_at IS 'When that was, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.operator_state.relays IS 'Relays there were.';
COMMENT ON COLUMN bigbrotr.operator_state.known IS 'Of these, those of which a document (NIP-11) or a certificate was known.';

CREATE OR REPLACE FUNCTION bigbrotr.operator_documents_due(p_limit integer)
RETURNS TABLE (relay_id bigint, url text, metadata_id bytea, data jsonb)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    SELECT l.relay_id, r.url, l.metadata_id, m.data
    FROM bigbrotr.snapshots_latest l
    JOIN bigbrotr.relays r ON r.id = l.relay_id
    JOIN bigbrotr.metadata m ON m.id = l.metadata_id
    LEFT JOIN bigbrotr.operator_documents d ON d.relay_id = l.relay_id
    WHERE l.type = 'nip11' AND d.metadata_id IS DISTINCT FROM l.metadata_id
    ORDER BY l.relay_id LIMIT p_limit;
END $$;
COMMENT ON FUNCTION bigbrotr.operator_documents_due IS 'Documents (NIP-11) that are new since their names were read.';

CREATE OR REPLACE FUNCTION bigbrotr.note_operator_names(
    p_relay_ids bigint[], p_metadata_ids bytea[], p_naming bigint[], p_named text[]
) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    noted integer;
BEGIN
    DELETE FROM bigbrotr.operator_names n WHERE n.relay_id = ANY (p_relay_ids);
    WITH new_documents AS (
        INSERT INTO bigbrotr.operator_documents AS d (relay_id, metadata_id)
        SELECT u.relay_id, u.metadata_id FROM unnest(p_relay_ids, p_metadata_ids) AS u (relay_id, metadata_id)
        ORDER BY u.relay_id
        ON CONFLICT (relay_id) DO UPDATE SET metadata_id = EXCLUDED.metadata_id
        RETURNING 1
    ), new_names AS (
        INSERT INTO bigbrotr.operator_names (relay_id, url)
        SELECT DISTINCT u.relay_id, u.url FROM unnest(p_naming, p_named) AS u (relay_id, url)
        ORDER BY u.relay_id, u.url
        ON CONFLICT (relay_id, url) DO NOTHING
        RETURNING 1
    )
    SELECT count(*) INTO noted FROM new_names;
    RETURN noted;
END $$;
COMMENT ON FUNCTION bigbrotr.note_operator_names IS
    'Notes which relays the documents of others name (p_naming: numbers, p_named: URLs), in the place of what they named '
    'before. Returns how many names. Idempotent.';

-- A certificate that names many hosts is a provider's; one that names a host by a wildcard says nothing of who has that host.
CREATE OR REPLACE FUNCTION bigbrotr.shared_certificates(p_since bigint)
RETURNS TABLE (relay_a bigint, relay_b bigint, fingerprint text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    WITH shown AS (
        SELECT l.relay_id, bigbrotr.host_of(r.url) AS host, m.data ->> 'fingerprint' AS fingerprint,
               row_number() OVER (
                   PARTITION BY m.data ->> 'fingerprint' ORDER BY coalesce(t.pairs, 0) DESC, l.relay_id) AS place
        FROM bigbrotr.snapshots_latest l
        JOIN bigbrotr.relays r ON r.id = l.relay_id
        JOIN bigbrotr.metadata m ON m.id = l.metadata_id
        LEFT JOIN bigbrotr.tallies t ON t.relay_id = l.relay_id
        WHERE l.type = 'nip66_ssl' AND l.snapshot_at >= p_since AND m.data -> 'valid' = 'true'::jsonb
          AND jsonb_typeof(m.data -> 'names') = 'array' AND jsonb_array_length(m.data -> 'names') BETWEEN 2 AND 20
          AND m.data -> 'names' ? bigbrotr.host_of(r.url)
          AND length(m.data ->> 'fingerprint') = 64
    )
    SELECT a.relay_id, b.relay_id, a.fingerprint
    FROM shown a JOIN shown b ON b.fingerprint = a.fingerprint AND b.relay_id > a.relay_id AND b.host <> a.host
    WHERE a.place <= 10 AND b.place <= 10;
END $$;
COMMENT ON FUNCTION bigbrotr.shared_certificates IS
    'Pairs of relays on two hosts that have shown the same valid certificate since p_since (Unix seconds), which names both '
    'hosts and at most 20 in all; of each certificate, of the ten relays that hold most.';

-- Of those that claim the same, the ten of each network that hold most: a crowd that copies a document hides nobody.
CREATE OR REPLACE FUNCTION bigbrotr.shared_claims()
RETURNS TABLE (relay_a bigint, relay_b bigint, kind text, detail text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    WITH documents AS (
        SELECT l.relay_id, r.network, bigbrotr.host_of(r.url) AS host, l.metadata_id, m.data, coalesce(t.pairs, 0) AS pairs
        FROM bigbrotr.snapshots_latest l
        JOIN bigbrotr.relays r ON r.id = l.relay_id
        JOIN bigbrotr.metadata m ON m.id = l.metadata_id
        LEFT JOIN bigbrotr.tallies t ON t.relay_id = l.relay_id
        WHERE l.type = 'nip11'
    ), claims AS (
        SELECT d.relay_id, d.network, d.host, d.pairs, 'self' AS kind, lower(d.data ->> 'self') AS claim
        FROM documents d WHERE d.data ->> 'self' ~* '^[0-9a-f]{64}$'
        UNION ALL
        SELECT d.relay_id, d.network, d.host, d.pairs, 'document', encode(d.metadata_id, 'hex')
        FROM documents d
        WHERE coalesce(d.data ->> 'self', '') <> '' OR coalesce(d.data ->> 'pubkey', '') <> ''
           OR coalesce(d.data ->> 'contact', '') <> ''
    ), ranked AS (
        SELECT c.*, row_number() OVER (PARTITION BY c.kind, c.claim, c.network ORDER BY c.pairs DESC, c.relay_id) AS place
        FROM claims c
    )
    SELECT a.relay_id, b.relay_id, a.kind, a.claim
    FROM ranked a JOIN ranked b ON b.kind = a.kind AND b.claim = a.claim AND b.relay_id > a.relay_id
    WHERE a.place <= 10 AND b.place <= 10;
END $$;
COMMENT ON FUNCTION bigbrotr.shared_claims IS
    'Pairs of relays whose documents claim the same key as their own (self), or are equal and name a key or a contact '
    '(document).';

CREATE OR REPLACE FUNCTION bigbrotr.are_apart(p_a bigint, p_b bigint) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT bool_or(r.network IN ('tor', 'i2p', 'loki')) OR count(DISTINCT bigbrotr.host_of(r.url)) = 1
            FROM bigbrotr.relays r WHERE r.id IN (p_a, p_b));
END $$;
COMMENT ON FUNCTION bigbrotr.are_apart IS
    'Whether no certificate could join two relays: one is of an overlay network, or both are of one host.';

CREATE OR REPLACE FUNCTION bigbrotr.operator_tests_due(p_least bigint, p_before bigint, p_certified_since bigint, p_limit integer)
RETURNS TABLE (relay_a bigint, relay_b bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    SELECT p.relay_a, p.relay_b
    FROM (
        SELECT c.relay_a, c.relay_b FROM bigbrotr.shared_certificates(p_since => p_certified_since) AS c
        UNION
        SELECT c.relay_a, c.relay_b FROM bigbrotr.shared_claims() AS c
        WHERE bigbrotr.are_apart(p_a => c.relay_a, p_b => c.relay_b)
    ) AS p
    JOIN bigbrotr.tallies a ON a.relay_id = p.relay_a
    JOIN bigbrotr.tallies b ON b.relay_id = p.relay_b
    LEFT JOIN bigbrotr.operator_tests t ON t.relay_a = p.relay_a AND t.relay_b = p.relay_b
    WHERE least(a.pairs, b.pairs) >= p_least AND (t.tested_at IS NULL OR t.tested_at < p_before)
    ORDER BY t.tested_at NULLS FIRST, least(a.pairs, b.pairs) DESC, p.relay_a, p.relay_b
    LIMIT p_limit;
END $$;
COMMENT ON FUNCTION bigbrotr.operator_tests_due IS
    'Pairs of relays that each hold p_least events, of which something says that they are one operator''s, and whose events '
    'were not compared since p_before (Unix seconds).';

CREATE OR REPLACE FUNCTION bigbrotr.proven_weeks(p_a bigint, p_b bigint, p_now bigint) RETURNS SETOF integer
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    proven int8multirange;
BEGIN
    SELECT coalesce(range_agg(c.proven) FILTER (WHERE c.relay_id = p_a), '{}')
         * coalesce(range_agg(c.proven) FILTER (WHERE c.relay_id = p_b), '{}')
    INTO proven
    FROM bigbrotr.coverage c
    WHERE c.relay_id IN (p_a, p_b) AND c.filter = '' AND c.how IN ('paging', 'finish') AND c.proven_at <= p_now + 60;
    RETURN QUERY
    SELECT DISTINCT s.slice FROM bigbrotr.slices s
    WHERE bigbrotr.slice_end(s.slice) < p_now - 604800
      AND int8range(bigbrotr.slice_start(s.slice), bigbrotr.slice_end(s.slice), '[]') <@ proven;
END $$;
COMMENT ON FUNCTION bigbrotr.proven_weeks IS
    'Weeks in which there are events and of which both relays are proven complete by events that they have sent: ids alone, '
    'and what other archives say, prove nothing of who holds them.';

CREATE OR REPLACE FUNCTION bigbrotr.compare_week(p_slice integer, p_a integer, p_b integer, OUT by_both bigint, OUT by_one bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    SELECT count(*) FILTER (WHERE p.seen = 2), count(*) FILTER (WHERE p.seen = 1) INTO by_both, by_one
    FROM (
        SELECT count(*) AS seen
        FROM bigbrotr.presence c
        CROSS JOIN LATERAL unnest(c.seen_ats) WITH ORDINALITY AS u (seen_at, place)
        WHERE c.slice = p_slice AND c.relay_id IN (p_a, p_b) AND u.seen_at IS NOT NULL
        GROUP BY c.chunk, u.place
    ) AS p;
END $$;
COMMENT ON FUNCTION bigbrotr.compare_week IS 'The part of compare_weeks that reads one slice.';

CREATE OR REPLACE FUNCTION bigbrotr.compare_weeks(
    p_weeks integer[], p_a integer, p_b integer, p_most integer, OUT weeks integer, OUT by_both bigint, OUT by_one bigint
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    week integer;
    part record;
BEGIN
    weeks := 0;
    by_both := 0;
    by_one := 0;
    FOREACH week IN ARRAY p_weeks LOOP
        EXIT WHEN weeks = p_most;
        SELECT c.by_both, c.by_one INTO part FROM bigbrotr.compare_week(p_slice => week, p_a => p_a, p_b => p_b) AS c;
        IF part.by_both + part.by_one > 0 THEN
            weeks := weeks + 1;
            by_both := by_both + part.by_both;
            by_one := by_one + part.by_one;
        END IF;
    END LOOP;
END $$;
COMMENT ON FUNCTION bigbrotr.compare_weeks IS
    'How many events of the first p_most of these weeks in which there are any two relays both hold, and how many one of '
    'both alone.';

CREATE OR REPLACE FUNCTION bigbrotr.note_operator_test(
    p_a bigint, p_b bigint, p_weeks integer, p_both bigint, p_one bigint, p_is_equal boolean, p_now bigint
) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO bigbrotr.operator_tests AS t (relay_a, relay_b, tested_at, weeks, by_both, by_one)
    VALUES (p_a, p_b, p_now, p_weeks, p_both, p_one)
    ON CONFLICT (relay_a, relay_b) DO UPDATE SET
        tested_at = EXCLUDED.tested_at, weeks = EXCLUDED.weeks, by_both = EXCLUDED.by_both, by_one = EXCLUDED.by_one;
    IF p_is_equal THEN
        INSERT INTO bigbrotr.operator_evidence AS e (relay_a, relay_b, kind, detail, first_at, seen_at)
        VALUES (p_a, p_b, 'events', format('%s of %s events of %s weeks', p_both, p_both + p_one, p_weeks), p_now, p_now)
        ON CONFLICT (relay_a, relay_b, kind) DO UPDATE SET detail = EXCLUDED.detail, seen_at = EXCLUDED.seen_at;
    ELSE
        DELETE FROM bigbrotr.operator_evidence e WHERE e.relay_a = p_a AND e.relay_b = p_b AND e.kind = 'events';
    END IF;
END $$;
COMMENT ON FUNCTION bigbrotr.note_operator_test IS
    'Notes what came of comparing the events of two relays, and whether that is evidence. Idempotent.';

-- A claim puts a pair off for p_lease_s; what comes of it for good.
CREATE OR REPLACE FUNCTION bigbrotr.claim_twins(
    p_networks text[], p_every_s bigint, p_lease_s bigint, p_limit integer, p_now bigint
) RETURNS TABLE (relay_a bigint, relay_b bigint, url_a text, url_b text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    WITH due AS (
        SELECT p.relay_a, p.relay_b, a.url AS url_a, b.url AS url_b
        FROM (
            SELECT e.relay_a, e.relay_b, bool_or(e.kind = 'certificate') AS is_certified
            FROM bigbrotr.operator_evidence e GROUP BY e.relay_a, e.relay_b
        ) AS p
        JOIN bigbrotr.relays a ON a.id = p.relay_a AND a.network = ANY (p_networks)
        JOIN bigbrotr.relays b ON b.id = p.relay_b AND b.network = ANY (p_networks)
        JOIN bigbrotr.checks c ON c.relay_id = a.id AND c.state = 'up'
        JOIN bigbrotr.checks d ON d.relay_id = b.id AND d.state = 'up'
        LEFT JOIN bigbrotr.operator_tests t ON t.relay_a = p.relay_a AND t.relay_b = p.relay_b
        WHERE coalesce(t.asked_at, 0) < p_now - p_every_s
          AND (p.is_certified OR a.network IN ('tor', 'i2p', 'loki') OR b.network IN ('tor', 'i2p', 'loki')
               OR bigbrotr.host_of(a.url) = bigbrotr.host_of(b.url))
        ORDER BY coalesce(t.asked_at, 0), p.relay_a, p.relay_b LIMIT p_limit
    ), claimed AS (
        INSERT INTO bigbrotr.operator_tests AS t (relay_a, relay_b, asked_at)
        SELECT d.relay_a, d.relay_b, p_now - p_every_s + p_lease_s FROM due d ORDER BY d.relay_a, d.relay_b
        ON CONFLICT ON CONSTRAINT operator_tests_pkey DO UPDATE SET asked_at = EXCLUDED.asked_at
        WHERE t.asked_at < p_now - p_every_s
        RETURNING t.relay_a, t.relay_b
    )
    SELECT d.relay_a, d.relay_b, d.url_a, d.url_b
    FROM due d JOIN claimed c ON c.relay_a = d.relay_a AND c.relay_b = d.relay_b;
END $$;
COMMENT ON FUNCTION bigbrotr.claim_twins IS
    'Claims pairs of relays that are up, of which something says that they are one operator''s, and that were not asked for '
    'the same for p_every_s seconds. Nobody else gets them for p_lease_s seconds.';

CREATE OR REPLACE FUNCTION bigbrotr.note_twins(
    p_a bigint, p_b bigint, p_are_alike boolean, p_every_s bigint, p_now bigint
) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE bigbrotr.operator_tests t SET asked_at = CASE WHEN p_are_alike THEN p_now ELSE p_now - p_every_s + 86400 END
    WHERE t.relay_a = p_a AND t.relay_b = p_b;
    IF p_are_alike THEN
        INSERT INTO bigbrotr.operator_evidence AS e (relay_a, relay_b, kind, detail, first_at, seen_at)
        SELECT p_a, p_b, 'alike', 'asked at the same moments by chance, both handed out the same', p_now, p_now
        WHERE EXISTS (SELECT FROM bigbrotr.relays r WHERE r.id = p_a) AND EXISTS (SELECT FROM bigbrotr.relays r WHERE r.id = p_b)
        ON CONFLICT (relay_a, relay_b, kind) DO UPDATE SET seen_at = EXCLUDED.seen_at;
    ELSE
        DELETE FROM bigbrotr.operator_evidence e
        WHERE e.relay_a = p_a AND e.relay_b = p_b AND e.kind = 'alike' AND e.seen_at < p_now - p_every_s - 604800;
    END IF;
END $$;
COMMENT ON FUNCTION bigbrotr.note_twins IS
    'Notes whether two relays that were asked for the same have answered alike. Those that have not are asked again after '
    'a day, and a week of that ends the evidence: a conversation may have been cut. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.evidence_now(p_certified_since bigint)
RETURNS TABLE (relay_a bigint, relay_b bigint, kind text, detail text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    SELECT a.id, b.id, 'word', 'each document names the other'
    FROM bigbrotr.operator_names n
    JOIN bigbrotr.relays a ON a.id = n.relay_id
    JOIN bigbrotr.relays b ON b.url = n.url AND b.id > a.id
    JOIN bigbrotr.operator_names m ON m.relay_id = b.id AND m.url = a.url
    UNION ALL
    SELECT c.relay_a, c.relay_b, 'certificate', c.fingerprint
    FROM bigbrotr.shared_certificates(p_since => p_certified_since) AS c
    UNION ALL
    SELECT c.relay_a, c.relay_b, c.kind, c.detail FROM bigbrotr.shared_claims() AS c;
END $$;
COMMENT ON FUNCTION bigbrotr.evidence_now IS
    'All evidence on operators that follows from documents and certificates, those shown since p_certified_since (Unix '
    'seconds).';

CREATE OR REPLACE FUNCTION bigbrotr.gather_evidence(p_certified_since bigint, p_now bigint) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    pieces integer;
BEGIN
    WITH seen AS (
        SELECT n.* FROM bigbrotr.evidence_now(p_certified_since => p_certified_since) AS n
    ), written AS (
        INSERT INTO bigbrotr.operator_evidence AS e (relay_a, relay_b, kind, detail, first_at, seen_at)
        SELECT s.relay_a, s.relay_b, s.kind, s.detail, p_now, p_now FROM seen s
        ORDER BY s.relay_a, s.relay_b, s.kind
        ON CONFLICT (relay_a, relay_b, kind) DO UPDATE SET detail = EXCLUDED.detail, seen_at = EXCLUDED.seen_at
        RETURNING 1
    )
    SELECT count(*) INTO pieces FROM written;
    -- What is not so any more; events are compared anew in their own time, as long as something else calls for it.
    DELETE FROM bigbrotr.operator_evidence e WHERE e.kind NOT IN ('events', 'alike') AND NOT EXISTS (
        SELECT FROM bigbrotr.evidence_now(p_certified_since => p_certified_since) AS n
        WHERE n.relay_a = e.relay_a AND n.relay_b = e.relay_b AND n.kind = e.kind);
    DELETE FROM bigbrotr.operator_evidence e WHERE e.kind IN ('events', 'alike') AND NOT EXISTS (
        SELECT FROM bigbrotr.operator_evidence o
        WHERE o.relay_a = e.relay_a AND o.relay_b = e.relay_b AND o.kind NOT IN ('events', 'alike'));
    DELETE FROM bigbrotr.operator_tests t WHERE NOT EXISTS (
        SELECT FROM bigbrotr.operator_evidence o WHERE o.relay_a = t.relay_a AND o.relay_b = t.relay_b);
    -- Of a clock that was ahead: it would keep them from being compared again.
    UPDATE bigbrotr.operator_tests t SET tested_at = 0 WHERE t.tested_at > p_now + 60;
    UPDATE bigbrotr.operator_tests t SET asked_at = 0 WHERE t.asked_at > p_now + 60;
    RETURN pieces;
END $$;
COMMENT ON FUNCTION bigbrotr.gather_evidence IS
    'Notes all evidence on operators that follows from documents and certificates, those shown since p_certified_since '
    '(Unix seconds), and forgets what is not so any more. Returns how many pieces. Idempotent.';

CREATE OR REPLACE FUNCTION bigbrotr.keep_operators(p_relay_ids bigint[], p_operator_ids bigint[], p_now bigint) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed integer;
BEGIN
    DELETE FROM bigbrotr.operators o WHERE o.relay_id <> ALL (p_relay_ids);
    WITH written AS (
        INSERT INTO bigbrotr.operators AS o (relay_id, operator_id, joined_at)
        SELECT u.relay_id, u.operator_id, p_now FROM unnest(p_relay_ids, p_operator_ids) AS u (relay_id, operator_id)
        WHERE EXISTS (SELECT FROM bigbrotr.relays r WHERE r.id = u.relay_id)
        ORDER BY u.relay_id
        ON CONFLICT (relay_id) DO UPDATE SET operator_id = EXCLUDED.operator_id, joined_at = EXCLUDED.joined_at
        WHERE o.operator_id <> EXCLUDED.operator_id
        RETURNING 1
    )
    SELECT count(*) INTO changed FROM written;
    INSERT INTO bigbrotr.operator_state AS s (joined_at, relays, known)
    SELECT p_now, (SELECT count(*) FROM bigbrotr.relays r),
           (SELECT count(DISTINCT l.relay_id) FROM bigbrotr.snapshots_latest l WHERE l.type IN ('nip11', 'nip66_ssl'))
    ON CONFLICT (is_only) DO UPDATE SET
        joined_at = EXCLUDED.joined_at, relays = EXCLUDED.relays, known = EXCLUDED.known;
    RETURN changed;
END $$;
COMMENT ON FUNCTION bigbrotr.keep_operators IS
    'Notes which relays are joined, all others are not. Returns how many have changed. Idempotent.';
