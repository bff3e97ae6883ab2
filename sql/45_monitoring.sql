-- Monitoring: when each relay is checked next, whether it is up, and what its checks measured, as a time series.

-- A work table, ordinary and small: a row a relay.
CREATE TABLE IF NOT EXISTS public.checks (
    relay_id         bigint  NOT NULL PRIMARY KEY REFERENCES public.relays (id) ON DELETE CASCADE,
    due_at           bigint  NOT NULL,
    epoch            bigint  NOT NULL DEFAULT 0,  -- grows with every claim: the fence against a late holder
    owner            text,
    state            text    NOT NULL DEFAULT 'unknown' CHECK (state IN ('unknown', 'up', 'down')),
    since            bigint,                      -- when the state began
    failures         integer NOT NULL DEFAULT 0,  -- checks in a row that found it down
    suspect_at       bigint,                      -- a first time-out that nothing has confirmed yet
    suspect_outcome  text,
    checked_at       bigint,                      -- the newest verdict, in the columns below
    outcome          text,                        -- 'up', or why not; 'defect': since then our own code failed at it
    detail           text,
    failed           jsonb,                       -- {"nip11": "too-large", …}: the checks that failed, and why
    published_at     bigint,                      -- when a 30166 was last made of it
    published_digest bytea                        -- of what it said, but for the round-trip times
);
CREATE INDEX IF NOT EXISTS checks_due_at_idx ON public.checks (due_at);

-- A row a verdict; round-trip times in milliseconds.
CREATE TABLE IF NOT EXISTS public.rtts (
    relay_id   integer NOT NULL REFERENCES public.relays (id) ON DELETE CASCADE,
    holds_s    integer NOT NULL,  -- how long the verdict counts when no other follows
    checked_at bigint  NOT NULL,
    outcome    text,              -- why it is down; NULL: it is up
    dns_ms     real,              -- the look for its address, by our resolver
    tcp_ms     real,
    tls_ms     real,
    upgrade_ms real,
    read_ms    real,
    write_ms   real,
    ttl_s      integer,           -- of its address, as our resolver has it
    PRIMARY KEY (relay_id, checked_at)
);

CREATE OR REPLACE VIEW public.relay_rtts AS
SELECT r.url AS relay_url, s.checked_at, s.outcome IS NULL AS is_up, s.outcome, s.dns_ms, s.tcp_ms, s.tls_ms,
       s.upgrade_ms, s.tcp_ms + coalesce(s.tls_ms, 0) + s.upgrade_ms AS open_ms, s.read_ms, s.write_ms, s.ttl_s
FROM public.rtts s JOIN public.relays r ON r.id = s.relay_id;

CREATE OR REPLACE VIEW public.relay_states AS
SELECT r.url AS relay_url, r.network, c.state, c.since, c.checked_at, c.outcome, c.detail, c.failures, c.failed, c.due_at,
       c.published_at
FROM public.checks c JOIN public.relays r ON r.id = c.relay_id;

-- Round-trip times as a document, to a hundredth of a millisecond.
CREATE OR REPLACE FUNCTION public.rtt_document(p_rtt public.rtts) RETURNS jsonb
LANGUAGE sql IMMUTABLE
RETURN jsonb_strip_nulls(jsonb_build_object(
    'dns_ms', round((p_rtt).dns_ms::numeric, 2), 'tcp_ms', round((p_rtt).tcp_ms::numeric, 2),
    'tls_ms', round((p_rtt).tls_ms::numeric, 2), 'upgrade_ms', round((p_rtt).upgrade_ms::numeric, 2),
    'open_ms', round(((p_rtt).tcp_ms + coalesce((p_rtt).tls_ms, 0) + (p_rtt).upgrade_ms)::numeric, 2),
    'read_ms', round((p_rtt).read_ms::numeric, 2), 'write_ms', round((p_rtt).write_ms::numeric, 2)));

-- The newest snapshot per relay and type with its document; round-trip times, which are never the same twice, have no
-- document of their own in `metadata`.
CREATE OR REPLACE VIEW public.relay_metadata_latest AS
SELECT r.url AS relay_url, s.snapshot_at, s.type, s.metadata_id, m.data
FROM public.snapshots_latest s
JOIN public.relays r ON r.id = s.relay_id
JOIN public.metadata m ON m.id = s.metadata_id
UNION ALL
SELECT r.url, t.checked_at, 'nip66_rtt', NULL::bytea, public.rtt_document(t)
FROM public.relays r
CROSS JOIN LATERAL (
    SELECT s.* FROM public.rtts s
    WHERE s.relay_id = r.id AND s.outcome IS NULL ORDER BY s.checked_at DESC LIMIT 1
) AS t
WHERE NOT EXISTS (SELECT FROM public.snapshots_latest l WHERE l.relay_id = r.id AND l.type = 'nip66_rtt');

-- Claims relays that are due: nobody else gets them within the lease. Relays that have no row yet are due at once.
CREATE OR REPLACE FUNCTION public.claim_checks(
    p_networks text[], p_limit integer, p_owner text, p_lease_s bigint, p_now bigint
) RETURNS TABLE (
    relay_id bigint, url text, epoch bigint, state text, suspect_at bigint, published_at bigint, published_digest bytea
)
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.checks AS c (relay_id, due_at)
    SELECT r.id, p_now FROM public.relays r
    WHERE NOT EXISTS (SELECT FROM public.checks k WHERE k.relay_id = r.id)
    ORDER BY r.id
    ON CONFLICT ON CONSTRAINT checks_pkey DO NOTHING;

    RETURN QUERY
    WITH due AS (
        SELECT c.relay_id FROM public.checks c
        WHERE c.due_at <= p_now
          AND EXISTS (SELECT FROM public.relays r WHERE r.id = c.relay_id AND r.network = ANY (p_networks))
        ORDER BY c.due_at, c.relay_id
        LIMIT p_limit
        FOR UPDATE OF c SKIP LOCKED
    )
    UPDATE public.checks c SET due_at = p_now + p_lease_s, epoch = c.epoch + 1, owner = p_owner
    FROM due JOIN public.relays r ON r.id = due.relay_id
    WHERE c.relay_id = due.relay_id
    RETURNING c.relay_id, r.url, c.epoch, c.state, c.suspect_at, c.published_at, c.published_digest;
END $$;

-- Records what checks came to. Arrays of one length. `p_verdicts`: 'up'; 'down'; 'suspect', a failure that has to be
-- confirmed, of which nothing goes into the series yet; 'void', no verdict: nobody's fault but ours; 'spared', none, since
-- it wants to be left alone; 'defect', none, since our own code failed at it: the outcome says so, the state stays. A
-- confirmed one goes into the series with the first. An up, spared or defect one comes back after p_every_s, give or take
-- a tenth, and sooner when it was down; a dead one after a growing delay; a suspect or void one after a minute or two.
-- Where p_digests is not NULL, a 30166 was made. Returns the relays that were recorded: those whose lease had not passed
-- on. Idempotent.
CREATE OR REPLACE FUNCTION public.record_checks(
    p_relay_ids bigint[], p_epochs bigint[], p_verdicts text[], p_outcomes text[], p_details text[], p_failed jsonb[],
    p_dns_ms real[], p_tcp_ms real[], p_tls_ms real[], p_upgrade_ms real[], p_read_ms real[], p_write_ms real[],
    p_ttls integer[], p_digests bytea[], p_every_s bigint, p_now bigint
) RETURNS bigint[]
LANGUAGE plpgsql AS $$
DECLARE
    recorded bigint[];
BEGIN
    WITH given AS (
        SELECT * FROM unnest(
            p_relay_ids, p_epochs, p_verdicts, p_outcomes, p_details, p_failed, p_dns_ms, p_tcp_ms, p_tls_ms, p_upgrade_ms,
            p_read_ms, p_write_ms, p_ttls, p_digests
        ) AS g (relay_id, epoch, verdict, outcome, detail, failed, dns_ms, tcp_ms, tls_ms, upgrade_ms, read_ms, write_ms,
                ttl_s, digest)
    ), before AS (
        SELECT g.*, c.state AS old_state, c.since AS old_since, c.failures AS old_failures,
               c.suspect_at AS old_suspect_at, c.suspect_outcome AS old_suspect_outcome,
               p_now + CASE g.verdict
                   WHEN 'up' THEN (CASE c.state WHEN 'down' THEN p_every_s / 4.0 ELSE p_every_s END
                                   * (0.9 + 0.2 * random()))::bigint
                   WHEN 'down' THEN public.backoff_s(c.failures + 1)
                   WHEN 'suspect' THEN (60 + 60 * random())::bigint
                   WHEN 'void' THEN (60 + 60 * random())::bigint
                   ELSE (p_every_s * (0.9 + 0.2 * random()))::bigint END AS due_at
        FROM given g
        JOIN public.checks c ON c.relay_id = g.relay_id AND c.epoch = g.epoch
        ORDER BY g.relay_id
        FOR UPDATE OF c
    ), updated AS (
        UPDATE public.checks c SET
            due_at           = b.due_at,
            epoch            = c.epoch + 1,
            owner            = NULL,
            state            = CASE WHEN b.verdict IN ('up', 'down') THEN b.verdict ELSE c.state END,
            since            = CASE WHEN b.verdict IN ('up', 'down') AND b.verdict <> c.state
                               THEN CASE b.verdict WHEN 'down' THEN coalesce(c.suspect_at, p_now) ELSE p_now END
                               ELSE c.since END,
            failures         = CASE b.verdict WHEN 'up' THEN 0 WHEN 'down' THEN c.failures + 1 ELSE c.failures END,
            suspect_at       = CASE b.verdict WHEN 'suspect' THEN p_now WHEN 'void' THEN c.suspect_at END,
            suspect_outcome  = CASE b.verdict WHEN 'suspect' THEN left(b.outcome, 100) WHEN 'void' THEN c.suspect_outcome END,
            checked_at       = CASE WHEN b.verdict IN ('up', 'down') THEN p_now ELSE c.checked_at END,
            outcome          = CASE WHEN b.verdict IN ('up', 'down', 'defect') THEN left(b.outcome, 100) ELSE c.outcome END,
            detail           = CASE WHEN b.verdict IN ('up', 'down', 'defect') THEN left(b.detail, 500) ELSE c.detail END,
            failed           = CASE WHEN b.verdict IN ('up', 'down') THEN b.failed ELSE c.failed END,
            published_at     = CASE WHEN b.digest IS NULL THEN c.published_at ELSE p_now END,
            published_digest = coalesce(b.digest, c.published_digest)
        FROM before b WHERE c.relay_id = b.relay_id
        RETURNING c.relay_id
    ), first_rows AS (
        INSERT INTO public.rtts (relay_id, holds_s, checked_at, outcome)
        SELECT b.relay_id, 2 * (p_now - b.old_suspect_at), b.old_suspect_at, b.old_suspect_outcome
        FROM before b
        WHERE b.verdict = 'down' AND b.old_suspect_at < p_now
        ON CONFLICT (relay_id, checked_at) DO NOTHING
    ), rows AS (
        INSERT INTO public.rtts (
            relay_id, holds_s, checked_at, outcome, dns_ms, tcp_ms, tls_ms, upgrade_ms, read_ms, write_ms, ttl_s)
        SELECT b.relay_id, 2 * (b.due_at - p_now) + 600, p_now, CASE b.verdict WHEN 'down' THEN left(b.outcome, 100) END,
               b.dns_ms, b.tcp_ms, b.tls_ms, b.upgrade_ms, b.read_ms, b.write_ms, b.ttl_s
        FROM before b
        WHERE b.verdict IN ('up', 'down')
        ON CONFLICT (relay_id, checked_at) DO UPDATE SET  -- twice in a second: the newer one
            holds_s = EXCLUDED.holds_s, outcome = EXCLUDED.outcome, dns_ms = EXCLUDED.dns_ms, tcp_ms = EXCLUDED.tcp_ms,
            tls_ms = EXCLUDED.tls_ms, upgrade_ms = EXCLUDED.upgrade_ms, read_ms = EXCLUDED.read_ms,
            write_ms = EXCLUDED.write_ms, ttl_s = EXCLUDED.ttl_s
    )
    SELECT array_agg(u.relay_id) INTO recorded FROM updated u;
    RETURN coalesce(recorded, '{}');
END $$;

-- What the monitor knows, in numbers: relays by state, and what the newest verdicts since p_since measured: how many
-- there are, of how many relays opened, answered a question and took an event, the median of the round trips until a
-- relay is open, and when the newest verdict of all was. It looks at each relay's newest verdict, and at no other.
CREATE OR REPLACE FUNCTION public.monitoring(p_since bigint)
RETURNS TABLE (
    relays bigint, up bigint, down bigint, checked bigint, open bigint, readable bigint, writable bigint,
    open_ms double precision, newest_at bigint, undelivered bigint
)
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY
    SELECT count(*), count(*) FILTER (WHERE c.state = 'up'), count(*) FILTER (WHERE c.state = 'down'),
           count(s.checked_at), count(s.upgrade_ms), count(s.read_ms), count(s.write_ms),
           percentile_cont(0.5) WITHIN GROUP (ORDER BY s.tcp_ms + coalesce(s.tls_ms, 0) + s.upgrade_ms),
           max(c.checked_at), (SELECT count(*) FROM public.outbox)
    FROM public.checks c
    LEFT JOIN LATERAL (
        SELECT t.* FROM public.rtts t
        WHERE c.checked_at >= p_since AND t.relay_id = c.relay_id AND t.checked_at = c.checked_at
        LIMIT 1  -- so that it is looked up for each relay, however the series has grown
    ) AS s ON true;
END $$;

-- Gives back the leases of an owner, said at its start. Returns how many. Idempotent.
CREATE OR REPLACE FUNCTION public.release_checks(p_owner text, p_now bigint) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    released integer;
BEGIN
    WITH back AS (
        UPDATE public.checks SET due_at = p_now, owner = NULL WHERE owner = p_owner RETURNING 1
    )
    SELECT count(*) INTO released FROM back;
    RETURN released;
END $$;

-- A few relays of a network that were up when they were last looked at, by chance, but for those of p_apart.
CREATE OR REPLACE FUNCTION public.some_relays_up(p_network text, p_apart bigint[], p_limit integer) RETURNS SETOF text
LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY
    SELECT r.url FROM public.checks c JOIN public.relays r ON r.id = c.relay_id
    WHERE c.state = 'up' AND r.network = p_network AND c.relay_id <> ALL (p_apart)
    ORDER BY random() LIMIT p_limit;
END $$;

-- How much of the last p_days a relay was up. A verdict counts until the next one, or until it no longer holds: what lies
-- between is unknown, neither up nor down. `uptime` is what was up of what is known, NULL when nothing is. An incident
-- begins with a first verdict 'down' and ends with the next 'up' (NULL: it has not), whatever is unknown in between;
-- those that reach into the time are told as a whole, oldest first: [{"since": …, "until": …, "reason": …}, …].
CREATE OR REPLACE FUNCTION public.relay_uptime(
    p_relay text, p_days integer, p_now bigint DEFAULT floor(extract(epoch FROM now()))::bigint
) RETURNS TABLE (
    uptime double precision, up_s bigint, down_s bigint, unknown_s bigint, checks bigint, incidents jsonb
)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    began   bigint := p_now - 86400::bigint * p_days;
    number  bigint := (SELECT r.id FROM public.relays r WHERE r.url = p_relay);
    earlier bigint;
BEGIN
    -- From the last verdict 'up' before: an incident that reaches into the time began after it.
    SELECT max(s.checked_at) INTO earlier FROM public.rtts s
    WHERE s.relay_id = number AND s.outcome IS NULL AND s.checked_at <= began;

    RETURN QUERY
    WITH verdicts AS (
        SELECT s.checked_at AS at, s.outcome AS reason, s.outcome IS NULL AS is_up,
               least(lead(s.checked_at) OVER later, s.checked_at + s.holds_s, p_now) AS until,
               lag(s.outcome IS NULL) OVER later AS was_up
        FROM public.rtts s
        WHERE s.relay_id = number AND s.checked_at < p_now AND (earlier IS NULL OR s.checked_at >= earlier)
        WINDOW later AS (ORDER BY s.checked_at)
    ), parts AS (
        SELECT v.is_up, v.at >= began AS is_within, greatest(0, v.until - greatest(v.at, began)) AS seconds
        FROM verdicts v
    ), changes AS (  -- the first verdict of each run of equal ones
        SELECT v.at, v.is_up, v.reason, lead(v.at) OVER (ORDER BY v.at) AS next_at
        FROM verdicts v WHERE v.was_up IS DISTINCT FROM v.is_up
    ), sums AS (
        SELECT coalesce(sum(p.seconds) FILTER (WHERE p.is_up), 0)::bigint AS up,
               coalesce(sum(p.seconds) FILTER (WHERE NOT p.is_up), 0)::bigint AS down,
               count(*) FILTER (WHERE p.is_within) AS number
        FROM parts p
    )
    SELECT s.up::double precision / nullif(s.up + s.down, 0), s.up, s.down, p_now - began - s.up - s.down, s.number,
           (SELECT coalesce(jsonb_agg(
                jsonb_build_object('since', c.at, 'until', c.next_at, 'reason', c.reason) ORDER BY c.at), '[]')
            FROM changes c WHERE NOT c.is_up AND (c.next_at IS NULL OR c.next_at > began))
    FROM sums s;
END $$;

-- Deletes what was measured before p_before: the series and the snapshots, but for the newest of each relay and type. Of
-- large documents (4 kB) each relay has a hundred of a type at most: some say something else each time. Documents that
-- nothing names any more go with delete_orphan_metadata. Returns how many rows. Idempotent.
CREATE OR REPLACE FUNCTION public.delete_old_measurements(p_before bigint) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    gone bigint;
BEGIN
    WITH old_snapshots AS (
        DELETE FROM public.snapshots s
        WHERE s.snapshot_at < p_before
          AND NOT EXISTS (SELECT FROM public.snapshots_latest l
                          WHERE l.relay_id = s.relay_id AND l.type = s.type AND l.snapshot_at = s.snapshot_at)
        RETURNING 1
    ), old_rtts AS (
        DELETE FROM public.rtts s
        WHERE s.checked_at < p_before
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM old_snapshots) + (SELECT count(*) FROM old_rtts) INTO gone;
    WITH large AS (
        SELECT s.relay_id, s.type, s.metadata_id,
               row_number() OVER (PARTITION BY s.relay_id, s.type ORDER BY max(s.snapshot_at) DESC) AS place
        FROM public.snapshots s JOIN public.metadata m ON m.id = s.metadata_id
        WHERE pg_column_size(m.data) > 4096
        GROUP BY s.relay_id, s.type, s.metadata_id
    ), surplus AS (
        DELETE FROM public.snapshots s USING large l
        WHERE l.place > 100
          AND s.relay_id = l.relay_id AND s.type = l.type AND s.metadata_id = l.metadata_id
        RETURNING 1
    )
    SELECT gone + count(*) INTO gone FROM surplus;
    RETURN gone;
END $$;

-- Documents as they came, byte for byte, of those of which the bytes say more than the data: the first that came.
CREATE TABLE IF NOT EXISTS public.metadata_raw (
    metadata_id bytea NOT NULL PRIMARY KEY REFERENCES public.metadata (id) ON DELETE CASCADE,
    raw         bytea NOT NULL
);

-- Keeps the bytes of documents; those without metadata are left out. Returns how many were new. Idempotent.
CREATE OR REPLACE FUNCTION public.insert_raw_metadata(p_ids bytea[], p_raws bytea[]) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    added integer;
BEGIN
    WITH new_raws AS (
        INSERT INTO public.metadata_raw (metadata_id, raw)
        SELECT DISTINCT ON (u.id) u.id, u.raw FROM unnest(p_ids, p_raws) AS u (id, raw)
        WHERE EXISTS (SELECT FROM public.metadata m WHERE m.id = u.id)
        ORDER BY u.id
        ON CONFLICT (metadata_id) DO NOTHING
        RETURNING 1
    )
    SELECT count(*) INTO added FROM new_raws;
    RETURN added;
END $$;
