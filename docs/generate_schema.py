"""Writes docs/schema.md from the comments in the database: `python -m docs.generate_schema`.

The database is a new one, on a server of its own; `page` reads any that holds the schema.
"""

import asyncio
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import asyncpg

from bigbrotr.config.settings import Profile
from bigbrotr.core.schema import Schema
from bigbrotr.embedded.server import EmbeddedPostgres

PAGE = Path(__file__).parent / "schema.md"
HEAD = """# Schema

Made from the comments in the database by `make docs`. In psql, `\\d+ NAME` and `\\df+ NAME` show
them.

Everything stands in the schema `bigbrotr`. Its relations are found by bare names in
`bigbrotr db psql`, by the address that `bigbrotr db url` prints, and, after `bigbrotr db roles`, by
every login. Elsewhere say `bigbrotr.events`, or `SET search_path = bigbrotr, public`.

Times are Unix seconds, unless their name ends in `_ms` (milliseconds). Spans are half-open:
`[since, until)`. Ids, keys and signatures are `bytea`: `encode(id, 'hex')`. URLs are in their
normal form.

## Who may do what

`bigbrotr db roles` makes three roles, which cannot log in: `GRANT bigbrotr_reader TO somebody`.
None of them can create anything in the schema; only its owner can.

| role | relations | functions |
| --- | --- | --- |
| `bigbrotr_reader` | `SELECT` | those marked *reads* |
| `bigbrotr_writer` | `SELECT`, `INSERT`, `UPDATE`, `DELETE`; of `ledger` only `SELECT` | all |
| `bigbrotr_admin` | the same and `TRUNCATE`; from PostgreSQL 17 on `VACUUM`, `ANALYZE` | all |
"""
NAMED = re.compile(
    r"^CREATE (?:TABLE IF NOT EXISTS|OR REPLACE VIEW|OR REPLACE FUNCTION) bigbrotr\.(\w+)",
    re.MULTILINE,
)

RELATIONS = """
    SELECT c.relname AS name, c.relkind = 'v' AS is_view,
           obj_description(c.oid, 'pg_class') AS words
    FROM pg_class c WHERE c.relnamespace = 'bigbrotr'::regnamespace
      AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition"""
COLUMNS = """
    SELECT c.relname AS relation, a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type,
           a.attnotnull AS is_needed, col_description(c.oid, a.attnum) AS words
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relnamespace = 'bigbrotr'::regnamespace AND c.relkind IN ('r', 'p', 'v')
      AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY 1, a.attnum"""
FUNCTIONS = """
    SELECT p.proname AS name, pg_get_function_arguments(p.oid) AS arguments,
           pg_get_function_result(p.oid) AS result, p.provolatile <> 'v' AS is_reading,
           obj_description(p.oid, 'pg_proc') AS words
    FROM pg_proc p WHERE p.pronamespace = 'bigbrotr'::regnamespace ORDER BY 1, 2"""


class Family(NamedTuple):
    """A file of `sql/`: its title and words, and what it makes, in this order."""

    title: str
    words: str
    names: list[str]


def families() -> list[Family]:
    """The families of the schema, as its files have them."""
    found = []
    for path in Schema().files(Profile.FULL):
        text = path.read_text("utf-8")
        first = re.match(r"(?:--[^\n]*\n)+", text)
        words = re.sub(r"\s*--\s*", " ", first[0] if first else "").strip()
        title, _, rest = words.partition(": ")
        names = list(dict.fromkeys(NAMED.findall(text)))
        if path.parent.name == "profiles":
            title, rest = "Profiles", "What an archive keeps of an event."
        elif path.parent.name == "previous":
            title, rest = "Kept for the previous release", words
        if names:
            found.append(Family(title, rest.partition("\n")[0], names))
    return found


async def page(connection: "asyncpg.Connection[asyncpg.Record]") -> str:
    """The page, of a database that holds the schema."""
    await connection.execute("SET search_path = pg_catalog")  # types without a schema are its
    relations = {row["name"]: row for row in await connection.fetch(RELATIONS)}
    functions = {row["name"]: row for row in await connection.fetch(FUNCTIONS)}
    columns: dict[str, list[asyncpg.Record]] = {}
    for row in await connection.fetch(COLUMNS):
        columns.setdefault(row["relation"], []).append(row)
    lines = [HEAD]
    for family in families():
        lines += [f"## {family.title}", "", _sentence(family.words), ""]
        for name in family.names:
            if name in relations:
                lines += _relation(relations[name], columns.get(name, []))
        calls = [functions[name] for name in family.names if name in functions]
        lines += [line for call in calls for line in _function(call)]
    return "\n".join(lines).rstrip() + "\n"


def _sentence(words: str) -> str:
    """What a file says of itself, in one sentence."""
    first = re.split(r"(?<=[.])\s", words, maxsplit=1)[0]
    return first[:1].upper() + first[1:]


def _relation(relation: asyncpg.Record, columns: list[asyncpg.Record]) -> Iterator[str]:
    kind = "view" if relation["is_view"] else "table"
    yield from (f"### `{relation['name']}` ({kind})", "", relation["words"], "")
    if columns:
        yield from ("| column | type | meaning |", "| --- | --- | --- |")
        for column in columns:
            yield f"| `{column['name']}` | `{column['type']}` | {_cell(column['words'])} |"
        yield ""


def _function(function: asyncpg.Record) -> Iterator[str]:
    kind = " *reads*" if function["is_reading"] else ""
    result = function["result"].replace("bigbrotr.", "")
    yield f"**`{function['name']}`**{kind}"
    yield ""
    yield "```text"
    yield f"{function['name']}({function['arguments'].replace('bigbrotr.', '')}) → {result}"
    yield from ("```", "", function["words"], "")


def _cell(words: str) -> str:
    return words.replace("|", "\\|")


async def make() -> str:
    """The page, of a database of its own."""
    with TemporaryDirectory(prefix="bigbrotr-docs-") as place:
        async with EmbeddedPostgres(Path(place) / "data") as server:
            connection = await asyncpg.connect(server.url)
            try:
                await Schema().migrate(connection, Profile.FULL, int(time.time()))
                return await page(connection)
            finally:
                await connection.close()


def main() -> int:
    """Writes the page if it has changed, and says so."""
    text = asyncio.run(make())
    if not PAGE.exists() or PAGE.read_text("utf-8") != text:
        PAGE.write_text(text, "utf-8")
        print(f"written: docs/{PAGE.name}")  # noqa: T201 -- a command
    return 0


if __name__ == "__main__":
    sys.exit(main())
