-- The ledger: which revision and profile this database is of, and the few rules that every family uses.

CREATE TABLE IF NOT EXISTS public.ledger (
    revision   integer NOT NULL PRIMARY KEY,
    profile    text    NOT NULL CHECK (profile IN ('full', 'lite')),
    digest     text    NOT NULL,  -- of the files that state the current truth
    applied_at bigint  NOT NULL  -- Unix seconds, like every time in this schema
);

-- Seconds to wait after `p_attempts` failures in a row: doubling from a minute to a week, give or take a quarter,
-- so that what failed together does not come back together.
CREATE OR REPLACE FUNCTION public.backoff_s(p_attempts integer) RETURNS bigint
LANGUAGE sql VOLATILE
RETURN (least(604800, 60 * 2 ^ least(greatest(p_attempts, 1) - 1, 20)) * (0.75 + 0.5 * random()))::bigint;
