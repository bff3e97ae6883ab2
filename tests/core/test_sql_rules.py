"""The rules of our SQL, checked with PostgreSQL's own parser: what keeps the schema fit for several
machines, and what keeps others from having their functions called or their locks taken by us."""

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import pglast
import pytest
from pglast import ast, enums

from bigbrotr.config.settings import Profile
from bigbrotr.config.shipped import shipped
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.codes import SCHEMA, SEARCH_PATH, ErrorCode, LockTable
from bigbrotr.core.schema import DISTRIBUTED, Schema
from tests.core.statements import collect

CLOCKS = {"now", "clock_timestamp", "statement_timestamp", "transaction_timestamp", "timeofday"}
SERIALS = {"serial", "serial4", "serial8", "bigserial", "smallserial", "serial2"}
UNIQUE = {
    enums.ConstrType.CONSTR_PRIMARY,
    enums.ConstrType.CONSTR_UNIQUE,
    enums.ConstrType.CONSTR_EXCLUSION,
}
# From which kind of table a key may lead to which.
KEYS = {("ordinary", "ordinary")}
# On a cluster a trigger stands in for keys that lead here from what is distributed.
BY_TRIGGER = "relays"
# Where a rule is broken, and why it may be.
EXCEPTIONS = {
    ("dynamic", "ensure_partitions"): "it makes tables whose names are computed from the date",
    ("dynamic", "detach_quarter"): "it is told the name of the quarter",
    ("dynamic", "attach_quarter"): "it is told the name of the quarter",
    ("dynamic", "make_roles"): "it makes roles, from a list that stands in it",
    ("dynamic", "grant_roles"): "it gives a right that only newer servers know",
    ("dynamic", "set_search_path"): "the name of the database is not known before",
    ("unique", "events_stored"): "a slice follows from created_at; a cluster gets another key",
    ("plpgsql", "events_tagged"): "the planner sees through it, to the index",
    ("empty", "event_lines"): "a cluster has another one, that leaves it to events_page",
}


class Table(NamedTuple):
    """What `distributed.sql` makes of a table."""

    kind: str
    column: str | None


class Offence(NamedTuple):
    """A rule that is broken, and where: a function or table, or the start of the statement."""

    rule: str
    place: str


def walk(node: Any) -> Iterator[ast.Node]:
    """The node and all below it."""
    if isinstance(node, tuple):
        for each in node:
            yield from walk(each)
    elif isinstance(node, ast.Node):
        yield node
        for name in node:
            yield from walk(getattr(node, name))


def found(node: Any, kind: type[ast.Node]) -> list[Any]:
    return [each for each in walk(node) if isinstance(each, kind)]


def words(names: Any) -> list[str]:
    return [str(each.sval) for each in names if isinstance(each, ast.String)]


def nodes_named(tree: Any, name: str) -> Iterator[dict[str, Any]]:
    """All values under a key, anywhere in a tree of dicts and lists."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key == name:
                yield value
            yield from nodes_named(value, name)
    elif isinstance(tree, list):
        for each in tree:
            yield from nodes_named(each, name)


def parse_expression(text: str, mode: int) -> tuple[ast.RawStmt, ...]:
    """What stands in a plpgsql function: a statement, an expression or an assignment."""
    if mode == 2:
        text = f"SELECT {text}"
    elif mode > 2:
        text = f"SELECT {text.partition(':=')[2]}"
    statements: tuple[ast.RawStmt, ...] = pglast.parse_sql(text)
    return statements


@cache
def tables() -> dict[str, Table]:
    """What `distributed.sql` says of each table; a table that stands there twice is an error."""
    script = (shipped("sql") / DISTRIBUTED).read_text()
    rows: list[tuple[Any, Table]] = []
    for statement in pglast.split(script):
        if not statement.lstrip().startswith("DO"):
            continue
        for loop in nodes_named(pglast.parse_plpgsql(statement), "PLpgSQL_stmt_fors"):
            for select in found(
                pglast.parse_sql(loop["query"]["PLpgSQL_expr"]["query"]), ast.SelectStmt
            ):
                for cells in select.valuesLists or ():
                    name, kind, column, _ = (
                        None if cell.isnull else cell.val.sval for cell in cells
                    )
                    rows.append((name, Table(str(kind), column)))
    assert len(dict(rows)) == len(rows)
    return dict(rows)


@cache
def schema_text() -> str:
    """The current truth, in both profiles."""
    files = {path: None for profile in Profile for path in Schema().files(profile)}
    return "\n".join(path.read_text() for path in files)


@cache
def own_functions() -> set[str]:
    made = found(pglast.parse_sql(schema_text()), ast.CreateFunctionStmt)
    return {words(each.funcname)[-1] for each in made}


def kind_of(relation: Any) -> str | None:
    if relation is None:
        return None
    if relation.relname in ("events", "events_relays"):  # views
        return "distributed"
    table = tables().get(relation.relname)
    return table.kind if table else None


def touches_distributed(node: Any) -> bool:
    return any(kind_of(each) == "distributed" for each in found(node, ast.RangeVar))


# The rules


def offences(sql: str) -> list[Offence]:
    """All rules that are broken in a script."""
    broken: list[Offence] = []
    for text in pglast.split(sql):
        for raw in pglast.parse_sql(text):
            statement = raw.stmt
            if isinstance(statement, ast.CreateFunctionStmt):
                broken += of_function(statement, text)
            elif isinstance(statement, ast.DoStmt):
                broken += of_body(text, text[:40])
            else:
                broken += of_statement(statement, text[:40])
            broken += of_definition(statement)
    return list(dict.fromkeys(broken))


def of_function(function: ast.CreateFunctionStmt, text: str) -> Iterator[Offence]:
    *schema, name = words(function.funcname)
    options = {option.defname: option.arg for option in function.options or ()}
    if schema != [SCHEMA]:
        yield Offence("qualified", name)
    settings = settings_of(function)
    # A plan that is not wanted costs so much, before PostgreSQL 18, that one without an alternative
    # would be compiled: a second for each statement.
    if any(each.startswith("enable_") for each in settings) and settings.get("jit") != "off":
        yield Offence("jit", name)
    if options["language"].sval == "plpgsql":
        if settings.get("search_path") != SEARCH_PATH:
            yield Offence("search_path", name)
        yield from of_body(text, name)
        parameters = [each.name for each in function.parameters or ()]
        yield from of_slices(text, name, is_inner=parameters[:1] == ["p_slice"])
        return
    body: Any = function.sql_body
    if body is None:  # a text, whose names are looked up at each call
        if settings.get("search_path") != SEARCH_PATH:
            yield Offence("search_path", name)
        body = pglast.parse_sql("".join(words(options["as"])))
    if function.parameters and touches_distributed(body):
        yield Offence("plpgsql", name)
    yield from of_statement(body, name)


def of_slices(text: str, name: str, *, is_inner: bool) -> Iterator[Offence]:
    """What takes a slice runs on the machine that has it, and finds no other tables there; only
    that writes what is kept by slice."""
    queries = queries_in(pglast.parse_plpgsql(text))
    ctes = {each.ctename for each in found(queries, ast.CommonTableExpr)}
    touched = {each.relname for each in found(queries, ast.RangeVar)} - ctes
    if is_inner and any(each in tables() and tables()[each].kind == "ordinary" for each in touched):
        yield Offence("slice", name)
    writes = [
        statement.relation
        for kind in (ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt)
        for statement in found(queries, kind)
    ]
    if not is_inner and any(kind_of(each) == "distributed" for each in writes):
        yield Offence("slice", name)


def queries_in(tree: Any) -> tuple[ast.RawStmt, ...]:
    """All statements and expressions of a plpgsql function."""
    return tuple(
        statement
        for each in nodes_named(tree, "PLpgSQL_expr")
        for statement in parse_expression(each["query"], each["parseMode"])
    )


def settings_of(function: ast.CreateFunctionStmt) -> dict[str, str]:
    """What a function is run with."""
    return {
        option.arg.name: ", ".join(
            str(getattr(each.val, "sval", each.val)) for each in option.arg.args
        )
        for option in function.options or ()
        if option.defname == "set"
    }


def of_body(text: str, name: str) -> Iterator[Offence]:
    tree = pglast.parse_plpgsql(text)
    queries = queries_in(tree)
    counts = json.dumps(list(nodes_named(tree, "PLpgSQL_stmt_getdiag")))
    if "ROW_COUNT" in counts and found(queries, ast.OnConflictClause):
        yield Offence("count", name)
    for kind in ("PLpgSQL_stmt_dynexecute", "PLpgSQL_stmt_dynfors"):
        if any(nodes_named(tree, kind)):
            yield Offence("dynamic", name)
    for query in queries:
        yield from of_statement(query, name)


def of_statement(statement: Any, place: str) -> Iterator[Offence]:
    """Rules for what is done with tables, wherever it stands."""
    ctes = {each.ctename for each in found(statement, ast.CommonTableExpr)}
    locks = [each.lockedRels for each in found(statement, ast.LockingClause)]
    aliases = {id(each) for each in found(tuple(locks), ast.RangeVar)}
    for relation in found(statement, ast.RangeVar):
        known = relation.relname in ctes or relation.relname.startswith("pg_")
        known = known or id(relation) in aliases
        if relation.schemaname is None and not known:
            yield Offence("qualified", place)
    for call in found(statement, ast.FuncCall):
        names = words(call.funcname)
        if names[0] in own_functions() and len(names) == 1:
            yield Offence("qualified", place)
        if "advisory" in names[-1]:
            yield Offence("advisory", place)
        arguments = call.args or ()
        is_named = all(isinstance(each, ast.NamedArgExpr) for each in arguments)
        if names[0] == SCHEMA and len(arguments) > 2 and not is_named:
            yield Offence("named", place)
    for kind in (ast.UpdateStmt, ast.OnConflictClause):
        for changing in found(statement, kind):
            if reads_clock((changing.targetList, changing.whereClause)):
                yield Offence("time", place)
    for select in found(statement, ast.SelectStmt):
        for lock in select.lockingClause or ():
            if "distributed" in locked(select, lock):
                yield Offence("lock", place)
    yield from of_correlation(statement, place)
    # The machine that has the slice would be asked within a question to itself.
    arguments = {each.name for each in found(statement, ast.NamedArgExpr)}
    if "p_slice" in arguments and touches_distributed(statement):
        yield Offence("nested", place)


def reads_clock(node: Any) -> bool:
    calls = {words(each.funcname)[-1] for each in found(node, ast.FuncCall)}
    return bool(calls & CLOCKS or found(node, ast.SQLValueFunction))


def locked(select: ast.SelectStmt, lock: ast.LockingClause) -> set[str | None]:
    """The kinds of the tables whose rows a query locks."""
    relations = found(select.fromClause, ast.RangeVar)
    names = {each.relname for each in lock.lockedRels or ()}
    return {
        kind_of(each)
        for each in relations
        if not names or (each.alias.aliasname if each.alias else each.relname) in names
    }


def of_correlation(statement: Any, place: str) -> Iterator[Offence]:
    """Rows that no machine has for itself must not be asked about one by one: a query from a
    function, a CTE or a small table whose subquery reads distributed ones, row by row."""
    for kind in (ast.SelectStmt, ast.UpdateStmt, ast.DeleteStmt):
        for query in found(statement, kind):
            names = ("relation", "fromClause", "usingClause", "targetList", "whereClause")
            *sources, targets, conditions = (getattr(query, name, None) for name in names)
            if touches_distributed(tuple(sources)):
                continue
            outside = {each.aliasname for each in found(tuple(sources), ast.Alias)}
            outside |= {each.relname for each in found(tuple(sources), ast.RangeVar)}
            for link in found((targets, conditions), ast.SubLink):
                columns = found(link.subselect, ast.ColumnRef)
                owners = {words(each.fields)[0] for each in columns if len(words(each.fields)) > 1}
                if not touches_distributed(link.subselect):
                    continue
                if owners & outside:
                    yield Offence("correlated", place)
                elif not link.subselect.targetList:
                    # A cluster brings the rows to the coordinator; without columns it cannot.
                    yield Offence("empty", place)


def of_definition(statement: Any) -> Iterator[Offence]:
    """Rules for tables, their columns, keys and indexes."""
    relation: Any = getattr(statement, "relation", None)
    if isinstance(statement, ast.CreateTrigStmt):
        if kind_of(relation) == "distributed":
            yield Offence("trigger", relation.relname)
    elif isinstance(statement, ast.IndexStmt):
        columns = {each.name for each in statement.indexParams or ()}
        if statement.unique and lacks_column(relation, columns):
            yield Offence("unique", relation.relname)
    elif isinstance(statement, ast.CreateStmt | ast.AlterTableStmt):
        yield from of_columns(statement)


def of_columns(statement: Any) -> Iterator[Offence]:
    relation = statement.relation
    for column in found(statement, ast.ColumnDef):
        type_name = words(column.typeName.names)[-1] if column.typeName else ""
        constraints = column.constraints or ()
        is_identity = any(each.contype == enums.ConstrType.CONSTR_IDENTITY for each in constraints)
        if type_name in SERIALS or (is_identity and type_name != "int8"):
            yield Offence("identity", relation.relname)
        if (type_name in SERIALS or is_identity) and kind_of(relation) == "distributed":
            yield Offence("sequence", relation.relname)
        for each in constraints:
            yield from of_constraint(relation, each, {column.colname})
    for constraint in found(statement, ast.Constraint):
        keys = {*words(constraint.keys or ()), *words(constraint.fk_attrs or ())}
        if keys:
            yield from of_constraint(relation, constraint, keys)


def of_constraint(
    relation: Any, constraint: ast.Constraint, columns: set[str]
) -> Iterator[Offence]:
    if constraint.contype in UNIQUE and lacks_column(relation, columns):
        yield Offence("unique", relation.relname)
    if constraint.contype == enums.ConstrType.CONSTR_FOREIGN:
        goal: Any = constraint.pktable
        ends = (kind_of(relation), kind_of(goal))
        if ends not in KEYS and goal.relname != BY_TRIGGER:
            yield Offence("key", relation.relname)


def lacks_column(relation: Any, columns: set[str]) -> bool:
    table = tables().get(relation.relname)
    return table is not None and table.kind == "distributed" and table.column not in columns


# The schema keeps them


def test_the_schema_keeps_the_rules() -> None:
    broken = {(each.rule, each.place) for each in offences(schema_text())}
    assert broken == EXCEPTIONS.keys()


def test_migrations_keep_the_rules() -> None:
    for path in Schema().migrations().values():
        assert offences(path.read_text()) == [], path.name


def test_the_statements_of_the_program_keep_the_rules() -> None:
    """Behind PgBouncer, a session does not keep a search path: their functions say their schema,
    and so do operators that take any type."""
    statements = collect()
    assert len(statements) > 80
    for statement in statements:
        assert of_program(statement) == set(), statement


PLAIN = {"=", "<>", "<", "<=", ">", ">=", "+", "-", "*", "/", "||"}


def of_program(statement: str) -> set[str]:
    """The rules that a statement in Python breaks."""
    (raw,) = pglast.parse_sql(statement)
    broken = {each.rule for each in of_statement(raw.stmt, "")}
    for call in found(raw.stmt, ast.FuncCall):
        schema = words(call.funcname)[0]
        if schema not in (SCHEMA, "pg_catalog") or len(words(call.funcname)) == 1:
            broken.add("qualified")
        is_named = all(isinstance(each, ast.NamedArgExpr) for each in call.args or ())
        if schema == SCHEMA and not is_named:
            broken.add("named")
    for expression in found(raw.stmt, ast.A_Expr):
        if len(expression.name) == 1 and not set(words(expression.name)) <= PLAIN:
            broken.add("operator")
    for relation in found(raw.stmt, ast.RangeVar):
        if relation.schemaname not in (SCHEMA, "pg_catalog"):
            broken.add("qualified")
    return broken


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        ("SELECT count(*) FROM bigbrotr.relays", "qualified"),
        ("SELECT url FROM relays", "qualified"),
        ("SELECT * FROM bigbrotr.f(p_a => $1, p_b => lower($2))", "qualified"),
        ("SELECT * FROM bigbrotr.f($1)", "named"),
        ("SELECT * FROM bigbrotr.digests WHERE span && $1", "operator"),
        ("SELECT pg_catalog.pg_advisory_lock($1)", "advisory"),
    ],
)
def test_a_statement_that_breaks_a_rule_is_found(statement: str, rule: str) -> None:
    assert of_program(statement) == {rule}


def test_the_registry_of_error_codes_is_whole() -> None:
    text = "".join(path.read_text() for path in Schema().folder.rglob("*.sql"))
    raised = set(re.findall(r"ERRCODE = '(\w+)'", text))
    assert raised - {"22023"} == set(ErrorCode)  # invalid_parameter_value is PostgreSQL's


def test_the_registry_of_locks_is_whole() -> None:
    """Each lock is a table without columns, and nothing else is locked but to change tables."""
    texts = [schema_text(), *collect()]
    made = set(re.findall(r"CREATE TABLE IF NOT EXISTS bigbrotr\.(\w+) \(\);", schema_text()))
    taken = {name for text in texts for name in re.findall(r"LOCK TABLE bigbrotr\.(\w+)", text)}
    assert made == taken == set(LockTable)


async def test_everything_has_a_comment(brotr: Brotr) -> None:
    """Of tables, columns, views and functions; partitions are as their parents."""
    rows = await brotr.pool.fetch(UNCOMMENTED)
    assert [row[0] for row in rows] == []
    await brotr.pool.execute("COMMENT ON COLUMN bigbrotr.relays.url IS NULL")
    await brotr.pool.execute("CREATE VIEW bigbrotr.news AS SELECT 1 AS one")
    rows = await brotr.pool.fetch(UNCOMMENTED)
    assert [row[0] for row in rows] == ["news", "news.one", "relays.url"]


UNCOMMENTED = """
    SELECT c.relname FROM pg_class c
    WHERE c.relnamespace = 'bigbrotr'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm')
      AND NOT c.relispartition AND obj_description(c.oid, 'pg_class') IS NULL
    UNION ALL
    SELECT c.relname || '.' || a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relnamespace = 'bigbrotr'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm')
      AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped
      AND col_description(c.oid, a.attnum) IS NULL
    UNION ALL
    SELECT p.proname FROM pg_proc p
    WHERE p.pronamespace = 'bigbrotr'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL
    ORDER BY 1"""


def test_each_table_is_distributed_in_one_way() -> None:
    made = found(pglast.parse_sql(schema_text()), ast.CreateStmt)
    assert sorted(each.relation.relname for each in made) == sorted(tables())
    columns = {
        each.relation.relname: {column.colname for column in found(each, ast.ColumnDef)}
        for each in made
    }
    for name, table in tables().items():
        assert table.kind in ("distributed", "ordinary")
        assert (table.column in columns[name]) is (table.kind == "distributed")


def test_what_distributes_can_be_read() -> None:
    """It is run where Citus is; here, PostgreSQL's parser takes every statement of it."""
    script = (shipped("sql") / DISTRIBUTED).read_text()
    called = set()
    for text in pglast.split(script):
        for raw in pglast.parse_sql(text):
            if isinstance(raw.stmt, ast.DoStmt):
                for each in nodes_named(pglast.parse_plpgsql(text), "PLpgSQL_expr"):
                    queries = parse_expression(each["query"], each["parseMode"])
                    called |= {words(c.funcname)[-1] for c in found(queries, ast.FuncCall)}
    made = {"create_distributed_table", "create_distributed_function"}
    made.add("run_command_on_workers")
    assert called == made | {"format", "current_database", "admit_reader"}


def test_each_function_that_calls_for_a_slice_is_known_by_it() -> None:
    """`distributed.sql` tells by its text which function calls one that takes a slice."""
    made = found(pglast.parse_sql(schema_text()), ast.CreateFunctionStmt)
    inner = {
        words(each.funcname)[-1]
        for each in made
        if [parameter.name for parameter in each.parameters or ()][:1] == ["p_slice"]
        and len(each.parameters) > 1
    }
    assert len(inner) > 8
    calls = re.findall(r"bigbrotr\.(\w+)\(\s*(p_slice => )?", schema_text())
    named = re.findall(r"(?:FUNCTION|ON FUNCTION) bigbrotr\.(\w+)", schema_text())
    for name in inner:
        definitions = 2  # and its comment
        mentions = [marked for called, marked in calls if called == name]
        assert named.count(name) == definitions
        assert mentions.count("") == 1, name  # its definition
        assert len(mentions) >= 2, name


# The rules can be broken


def function(body: str, declare: str = "DECLARE n integer;") -> str:
    return (
        "CREATE FUNCTION bigbrotr.f(p_id bytea, p_now bigint) RETURNS integer LANGUAGE plpgsql"
        f" SET search_path = pg_catalog, pg_temp AS $$ {declare} BEGIN {body} RETURN n; END $$;"
    )


UPSERT = "INSERT INTO bigbrotr.digests VALUES (1, '') ON CONFLICT (relay_id, filter)"
PATH = "SET search_path = pg_catalog, pg_temp"
SLICED = "bigbrotr.numbers_of(p_slice => 1, p_created_ats => '{}', p_ids => '{}')"
SQL_FUNCTION = "CREATE FUNCTION bigbrotr.f(p_id bytea) RETURNS bigint LANGUAGE sql"
BROKEN = [
    ("empty", "SELECT EXISTS (SELECT FROM bigbrotr.hidden);"),
    ("nested", f"SELECT FROM {SLICED} f JOIN bigbrotr.presence p ON p.chunk = f.num >> 8;"),
    ("count", function(f"{UPSERT} DO NOTHING; GET DIAGNOSTICS n = ROW_COUNT;")),
    ("dynamic", function("EXECUTE 'SELECT 1';")),
    (
        "plpgsql",
        f"{SQL_FUNCTION} RETURN (SELECT count(*) FROM bigbrotr.events e WHERE e.id = p_id);",
    ),
    (
        "search_path",
        "CREATE FUNCTION bigbrotr.f() RETURNS integer LANGUAGE plpgsql AS $$ BEGIN END $$;",
    ),
    (
        "search_path",
        "CREATE FUNCTION bigbrotr.f() RETURNS int LANGUAGE sql SET search_path = public AS ''",
    ),
    ("search_path", "CREATE FUNCTION bigbrotr.f() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;"),
    ("advisory", function("PERFORM pg_advisory_xact_lock(1);")),
    ("named", function("PERFORM bigbrotr.insert_relays('{}', '{}', '{}');")),
    (
        "plpgsql",
        f"{SQL_FUNCTION} {PATH} AS $$SELECT count(*) FROM bigbrotr.events_relays$$;",
    ),
    ("qualified", function("SELECT count(*) INTO n FROM events;")),
    ("qualified", function("n := backoff_s(3);")),
    ("qualified", "CREATE FUNCTION f() RETURNS integer LANGUAGE sql RETURN 1;"),
    ("qualified", "CREATE VIEW bigbrotr.v AS SELECT * FROM relays;"),
    ("time", function(f"{UPSERT} DO UPDATE SET created_at = extract(epoch FROM now());")),
    (
        "time",
        function("UPDATE bigbrotr.checks SET due_at = extract(epoch FROM timeofday());"),
    ),
    ("time", function("UPDATE bigbrotr.visits SET detail = CURRENT_TIMESTAMP;")),
    ("time", function("UPDATE bigbrotr.visits SET due_at = 0 WHERE now() > '2026-01-01';")),
    ("lock", function("PERFORM FROM bigbrotr.presence p WHERE slice > 5 FOR UPDATE OF p;")),
    (
        "correlated",
        function(
            "SELECT count(*) INTO n FROM unnest(ARRAY[p_id]) AS u (id) WHERE NOT EXISTS"
            " (SELECT FROM bigbrotr.presence p WHERE p.chunk = u.id);"
        ),
    ),
    (
        "correlated",
        function(
            "DELETE FROM bigbrotr.relays r WHERE NOT EXISTS"
            " (SELECT FROM bigbrotr.presence p WHERE r.id = p.relay_id);"
        ),
    ),
    (
        "trigger",
        "CREATE TRIGGER t AFTER INSERT ON bigbrotr.events_stored EXECUTE FUNCTION bigbrotr.f();",
    ),
    ("unique", "CREATE UNIQUE INDEX ON bigbrotr.events_stored (created_at, kind);"),
    ("unique", "ALTER TABLE bigbrotr.presence ADD CONSTRAINT c UNIQUE (created_at);"),
    ("unique", "CREATE TABLE bigbrotr.events_stored (id bytea, sig bytea PRIMARY KEY);"),
    ("identity", "CREATE TABLE bigbrotr.outbox (id integer GENERATED ALWAYS AS IDENTITY);"),
    ("identity", "CREATE TABLE bigbrotr.outbox (id bigserial);"),
    ("sequence", "ALTER TABLE bigbrotr.dropped ADD COLUMN n bigint GENERATED ALWAYS AS IDENTITY;"),
    (
        "key",
        "ALTER TABLE bigbrotr.presence ADD FOREIGN KEY (event_id) REFERENCES bigbrotr.withheld;",
    ),
    ("slice", function("DELETE FROM bigbrotr.presence WHERE slice = 5;")),
    (
        "jit",
        function("n := 1;").replace("LANGUAGE", "SET enable_sort = off LANGUAGE"),
    ),
    (
        "jit",
        function("n := 1;").replace("LANGUAGE", "SET jit = on SET enable_sort = off LANGUAGE"),
    ),
    (
        "slice",
        function("n := (SELECT count(*) FROM bigbrotr.relays r);").replace("p_id", "p_slice"),
    ),
    ("key", "CREATE TABLE bigbrotr.visits (e bytea REFERENCES bigbrotr.events_raw (event_id));"),
]


@pytest.mark.parametrize(("rule", "sql"), BROKEN)
def test_a_broken_rule_is_found(rule: str, sql: str) -> None:
    assert [each.rule for each in offences(sql)] == [rule]


@pytest.mark.parametrize(
    "sql",
    [
        function(f"{UPSERT} DO UPDATE SET seen_ats = EXCLUDED.seen_ats;"),
        function("UPDATE bigbrotr.visits SET due_at = p_now; GET DIAGNOSTICS n = ROW_COUNT;"),
        function(
            "PERFORM FROM bigbrotr.visits v JOIN bigbrotr.relays r ON r.id = v.relay_id"
            " FOR UPDATE OF v SKIP LOCKED;"
        ),
        function(
            "SELECT count(*) INTO n FROM bigbrotr.presence p WHERE NOT EXISTS"
            " (SELECT FROM bigbrotr.relays r WHERE r.id = p.relay_id);"
        ),
        "CREATE FUNCTION bigbrotr.f(a bigint) RETURNS bigint LANGUAGE sql RETURN a + 1;",
        function("n := 1;").replace("LANGUAGE", "SET jit = off SET enable_sort = off LANGUAGE"),
        "CREATE UNIQUE INDEX ON bigbrotr.events_stored (slice, id);",
        "CREATE TABLE bigbrotr.outbox (id bigint GENERATED ALWAYS AS IDENTITY, UNIQUE (id));",
        "ALTER TABLE bigbrotr.dropped ADD FOREIGN KEY (relay_id) REFERENCES bigbrotr.relays (id);",
    ],
)
def test_what_is_allowed(sql: str) -> None:
    assert offences(sql) == []
