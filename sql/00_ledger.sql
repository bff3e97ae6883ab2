-- Ledger: the revision and profile of this database, and the rule for waiting that every family uses.

CREATE TABLE IF NOT EXISTS bigbrotr.ledger (
    revision    integer NOT NULL PRIMARY KEY,
    profile     text    NOT NULL CHECK (profile IN ('full', 'lite')),
    digest      text    NOT NULL,
    applied_at  bigint  NOT NULL,
    serves_from integer NOT NULL,
    release     text    NOT NULL
);
COMMENT ON TABLE bigbrotr.ledger IS 'The revisions that this database has been through. The newest row counts.';
COMMENT ON COLUMN bigbrotr.ledger.revision IS 'Number of the revision, from 1.';
COMMENT ON COLUMN bigbrotr.ledger.profile IS 'What the archive keeps of an event: full or lite. Never changes.';
COMMENT ON COLUMN bigbrotr.ledger.digest IS 'SHA-256 (hex) of the schema files that were run last.';
COMMENT ON COLUMN bigbrotr.ledger.applied_at IS
    'When the revision was reached or its files were run again, in Unix seconds.';
COMMENT ON COLUMN bigbrotr.ledger.serves_from IS 'Oldest revision whose release may still use this database.';
COMMENT ON COLUMN bigbrotr.ledger.release IS 'Version of bigbrotr that ran the files last.';

-- A quarter more or less, so that what failed together does not come back together.
CREATE OR REPLACE FUNCTION bigbrotr.backoff_s(p_attempts integer) RETURNS bigint
LANGUAGE sql VOLATILE
RETURN (least(604800, 60 * 2 ^ least(greatest(p_attempts, 1) - 1, 20)) * (0.75 + 0.5 * random()))::bigint;
COMMENT ON FUNCTION bigbrotr.backoff_s IS
    'Seconds to wait after p_attempts failures in a row: one minute, doubled each time up to a week, plus or minus a '
    'quarter.';
