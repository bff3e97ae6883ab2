-- Roles: what others than the owner may do. The owner, who made the database, is the one who migrates it.
--   bigbrotr_reader  looks: SELECT, and nothing else. For analysts and dashboards.
--   bigbrotr_writer  runs bigbrotr: reads and writes rows, has partitions made; changes no definition.
--   bigbrotr_admin   looks after the data: what the writer may, empties tables, makes views and indexes of its own, sees what
--                    all sessions do and ends them, and from PostgreSQL 17 on vacuums and analyzes. Owns nothing.
-- None of them can log in: `GRANT bigbrotr_reader TO somebody` makes somebody one.

-- Makes the roles, where they are missing. They are the server's, not the database's: only who may create roles can.
CREATE OR REPLACE FUNCTION public.make_roles() RETURNS integer
LANGUAGE plpgsql AS $$
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

-- Gives those of the roles that exist their rights in this database, as it is now. Idempotent; done at each migration,
-- and after a backup, which holds no rights, was restored.
CREATE OR REPLACE FUNCTION public.grant_roles() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    -- Works with the rights of its owner: not for everybody.
    REVOKE EXECUTE ON FUNCTION public.ensure_partitions(bigint) FROM PUBLIC;
    IF to_regrole('bigbrotr_reader') IS NOT NULL THEN
        GRANT USAGE ON SCHEMA public TO bigbrotr_reader;
        GRANT SELECT ON ALL TABLES IN SCHEMA public TO bigbrotr_reader;
    END IF;
    IF to_regrole('bigbrotr_writer') IS NOT NULL THEN
        GRANT USAGE ON SCHEMA public TO bigbrotr_writer;
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO bigbrotr_writer;
        REVOKE INSERT, UPDATE, DELETE ON public.ledger FROM bigbrotr_writer;
        GRANT EXECUTE ON FUNCTION public.ensure_partitions(bigint) TO bigbrotr_writer;
    END IF;
    IF to_regrole('bigbrotr_admin') IS NOT NULL THEN
        GRANT USAGE, CREATE ON SCHEMA public TO bigbrotr_admin;
        GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA public TO bigbrotr_admin;
        REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON public.ledger FROM bigbrotr_admin;
        GRANT EXECUTE ON FUNCTION public.ensure_partitions(bigint) TO bigbrotr_admin;
        IF current_setting('server_version_num')::integer >= 170000 THEN
            EXECUTE 'GRANT MAINTAIN ON ALL TABLES IN SCHEMA public TO bigbrotr_admin';
        END IF;
    END IF;
END $$;
