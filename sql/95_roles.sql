-- Roles: what others than the owner may do. The owner of the schema is the one who migrates it.
--   bigbrotr_reader  looks: SELECT, and functions that change nothing. For analysts and dashboards.
--   bigbrotr_writer  runs bigbrotr: reads and writes rows, has partitions made; changes no definition.
--   bigbrotr_admin   looks after the data: what the writer may, empties tables, sees what all sessions do and ends them,
--                    and from PostgreSQL 17 on vacuums and analyzes. Owns nothing.
-- None of them can log in: `GRANT bigbrotr_reader TO somebody` makes somebody one. None of them may create anything in the
-- schema bigbrotr: what stands there is called with the rights of those who run bigbrotr.

-- Roles are the server's, not the database's.
CREATE OR REPLACE FUNCTION bigbrotr.make_roles() RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wanted text;
    made   integer := 0;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['bigbrotr_reader', 'bigbrotr_writer', 'bigbrotr_admin'] LOOP
        IF to_regrole(wanted) IS NULL THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
            made := made + 1;
        END IF;
    END LOOP;
    RETURN made;
END $$;
COMMENT ON FUNCTION bigbrotr.make_roles IS
    'Makes the missing ones of the roles bigbrotr_reader, bigbrotr_writer and bigbrotr_admin. Needs the right to create '
    'roles. Returns how many were made. Idempotent.';

-- A backup holds no rights: done after a restore as well as at each migration.
CREATE OR REPLACE FUNCTION bigbrotr.grant_roles() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    looking text;
BEGIN
    REVOKE ALL ON SCHEMA bigbrotr FROM PUBLIC;
    REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA bigbrotr FROM PUBLIC;
    IF to_regrole('bigbrotr_reader') IS NOT NULL THEN
        REVOKE CREATE ON SCHEMA bigbrotr FROM bigbrotr_reader;
        GRANT USAGE ON SCHEMA bigbrotr TO bigbrotr_reader;
        GRANT SELECT ON ALL TABLES IN SCHEMA bigbrotr TO bigbrotr_reader;
        -- What only read in an earlier revision may write now.
        REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA bigbrotr FROM bigbrotr_reader;
        FOR looking IN
            SELECT p.oid::regprocedure::text FROM pg_proc p
            WHERE p.pronamespace = 'bigbrotr'::regnamespace AND p.provolatile <> 'v'
        LOOP
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO bigbrotr_reader', looking);
        END LOOP;
    END IF;
    IF to_regrole('bigbrotr_writer') IS NOT NULL THEN
        REVOKE CREATE ON SCHEMA bigbrotr FROM bigbrotr_writer;
        GRANT USAGE ON SCHEMA bigbrotr TO bigbrotr_writer;
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA bigbrotr TO bigbrotr_writer;
        REVOKE INSERT, UPDATE, DELETE ON bigbrotr.ledger FROM bigbrotr_writer;
        GRANT USAGE ON SEQUENCE bigbrotr.event_numbers TO bigbrotr_writer;
        GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA bigbrotr TO bigbrotr_writer;
    END IF;
    IF to_regrole('bigbrotr_admin') IS NOT NULL THEN
        REVOKE CREATE ON SCHEMA bigbrotr FROM bigbrotr_admin;
        GRANT USAGE ON SCHEMA bigbrotr TO bigbrotr_admin;
        GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA bigbrotr TO bigbrotr_admin;
        REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON bigbrotr.ledger FROM bigbrotr_admin;
        GRANT USAGE ON SEQUENCE bigbrotr.event_numbers TO bigbrotr_admin;
        GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA bigbrotr TO bigbrotr_admin;
        IF current_setting('server_version_num')::integer >= 170000 THEN
            EXECUTE 'GRANT MAINTAIN ON ALL TABLES IN SCHEMA bigbrotr TO bigbrotr_admin';
        END IF;
    END IF;
END $$;
COMMENT ON FUNCTION bigbrotr.grant_roles IS 'Gives the roles that exist their rights in this database. Idempotent.';

-- Settings of a role are not inherited by its members, so it is the database that has one. Our own code does not need it.
CREATE OR REPLACE FUNCTION bigbrotr.set_search_path() RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_database d WHERE d.datname = current_database() AND pg_has_role(d.datdba, 'USAGE')) THEN
        RETURN false;
    END IF;
    IF NOT EXISTS (
        SELECT FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
        WHERE d.datname = current_database() AND s.setrole = 0
          AND EXISTS (SELECT FROM unnest(s.setconfig) AS c (setting) WHERE starts_with(c.setting, 'search_path='))
    ) THEN
        EXECUTE format('ALTER DATABASE %I SET search_path = bigbrotr, public', current_database());
    END IF;
    RETURN true;
END $$;
COMMENT ON FUNCTION bigbrotr.set_search_path IS
    'Lets every new session of the database find the relations of bigbrotr by their bare names (search_path = bigbrotr, '
    'public), unless the database has a search_path of its own already. Returns false if that is up to the owner of the '
    'database. Idempotent.';
