"""What a release asks of the database: every statement in `bigbrotr/`, found in its source.

`NNNN.txt` beside this file holds those of the release of revision NNNN, with the types that they
take and return. `python -m tests.core.statements` writes the file of the current revision.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import asyncpg

import bigbrotr
from bigbrotr.core.calls.base import call_of
from bigbrotr.core.schema import Schema
from tests.conftest import CLUSTER

FOLDER = Path(__file__).parent
CALLS = {"_value", "_row", "_rows", "value_of", "rows_of"}
# Arguments that are handed on as a dict come from these functions.
DICTS = {"coverage": "coverage_of", "columns": "event_columns", "asks": "asks_about"}
VERBS = r"\s*(SELECT|INSERT INTO|UPDATE|DELETE FROM|ANALYZE|LOCK TABLE|CREATE SCHEMA)\s+[\S]"
OF_CITUS = (
    "pg_dist_partition",
    "slices_moved",
    "run_command_on",
    "admit_reader",
)  # needs the extension
OF_PARTITIONS = ("events_default",)  # asked where there are some, and a cluster has none


def modules() -> Iterator[ast.Module]:
    """The source of the package, but for the demo: it shows statements and sends none."""
    for path in sorted(Path(bigbrotr.__file__).parent.rglob("*.py")):
        if path.name != "demo.py":
            yield ast.parse(path.read_text())


def collect() -> list[str]:
    """Every statement of ours, once."""
    trees = list(modules())
    dicts = {name: keys_of(trees, function) for name, function in DICTS.items()}
    found = {statement for tree in trees for statement in of_module(tree, dicts)}
    return sorted(found)


def asked_here(statements: list[str]) -> list[str]:
    """Those of these statements that are sent to the servers of this session."""
    return [
        statement
        for statement in statements
        if not (CLUSTER and any(name in statement for name in OF_PARTITIONS))
    ]


def of_module(tree: ast.Module, dicts: dict[str, list[str]]) -> Iterator[str]:
    """The statements of a module: texts, and calls of stored functions."""
    parts = {id(part) for node in ast.walk(tree) for part in getattr(node, "values", ())}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            is_whole = id(node) not in parts  # of an f-string
            if (
                is_whole
                and re.match(VERBS, node.value)
                and not any(name in node.value for name in OF_CITUS)
            ):
                yield " ".join(node.value.split())
        elif isinstance(node, ast.Call) and (call := call_in(node, dicts)):
            yield call


def call_in(node: ast.Call, dicts: dict[str, list[str]]) -> str | None:
    """The statement of a call of a stored function, if this is one."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    texts = [each.value for each in node.args if isinstance(each, ast.Constant)]
    if name not in CALLS or not texts:
        return None
    if isinstance(node.func, ast.Attribute) != name.startswith("_"):
        return None  # a function that has the name of a method
    parameters: list[str] = []
    for keyword in node.keywords:
        if keyword.arg is None:
            assert isinstance(keyword.value, ast.Name)
            parameters += dicts[keyword.value.id]
        elif keyword.arg != "timeout":
            parameters.append(keyword.arg)
    return call_of(str(texts[0]), *parameters)


def keys_of(trees: list[ast.Module], function: str) -> list[str]:
    """The keys of the dict that a function returns."""
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name == function:
                (keys,) = (
                    each.value.keys
                    for each in ast.walk(node)
                    if isinstance(each, ast.Return) and isinstance(each.value, ast.Dict)
                )
                return [str(key.value) for key in keys if isinstance(key, ast.Constant)]
    raise LookupError(function)


async def described(
    connection: "asyncpg.Connection[asyncpg.Record]", statement: str
) -> tuple[list[str], list[str]]:
    """What a statement takes, and what it returns: `name type` each.

    Raises:
        asyncpg.PostgresError: the database does not understand it (any more).
    """
    prepared = await connection.prepare(statement)
    takes = [of_type(each) for each in prepared.get_parameters()]
    returns = [f"{each.name} {of_type(each.type)}" for each in prepared.get_attributes()]
    return takes, returns


def of_type(type_: asyncpg.Type) -> str:
    """A type by its name; arrays as `text[]`."""
    return type_.name if type_.schema == "pg_catalog" else f"{type_.schema}.{type_.name}"


def path_of(revision: int) -> Path:
    """Where the statements of a revision stand."""
    return FOLDER / f"{revision:04}.txt"


async def record(connection: "asyncpg.Connection[asyncpg.Record]") -> str:
    """The text of the file of the current revision."""
    lines = [f"What the release of revision {Schema().revision} asks of the database.", ""]
    for statement in collect():
        takes, returns = await described(connection, statement)
        lines += [statement, f"  takes {', '.join(takes) or 'nothing'}"]
        lines += [f"  returns {', '.join(returns) or 'nothing'}"]
    return "\n".join(lines) + "\n"


def recorded(text: str) -> list[tuple[str, list[str], list[str]]]:
    """The statements of such a file, with what they take and return."""
    lines = text.splitlines()[2:]
    return [
        (statement, _words(takes, "  takes "), _words(returns, "  returns "))
        for statement, takes, returns in zip(lines[::3], lines[1::3], lines[2::3], strict=True)
    ]


def _words(line: str, start: str) -> list[str]:
    words = line.removeprefix(start)
    return [] if words == "nothing" else words.split(", ")


async def broken(
    connection: "asyncpg.Connection[asyncpg.Record]",
    statements: list[tuple[str, list[str], list[str]]],
) -> list[str]:
    """Which of these statements the database no longer takes as it did, and why."""
    found = []
    asked = asked_here([statement for statement, *_ in statements])
    for statement, takes, returns in statements:
        if statement not in asked:
            continue
        try:
            now_takes, now_returns = await described(connection, statement)
        except asyncpg.PostgresError as error:
            found.append(f"{statement}: {error}")
            continue
        # A `SELECT *` may return more.
        if now_takes != takes or not set(returns) <= set(now_returns):
            found.append(f"{statement}: takes {now_takes}, returns {now_returns}")
    return found
