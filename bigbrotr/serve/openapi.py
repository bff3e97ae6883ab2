"""Writes the description of the API (OpenAPI 3.1) from what the resources declare."""

import inspect
import re
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, get_args, get_type_hints

import msgspec
from msgspec import Struct

from bigbrotr import __version__
from bigbrotr.serve.parameters import Parameter
from bigbrotr.serve.problems import PROBLEMS, TYPE, Problem
from bigbrotr.serve.resource import EVENTS, NDJSON, Many, Resource

REFS = "#/components/schemas/{name}"
ABOUT = """\
What a bigbrotr has archived and measured of the Nostr network. Everything is read-only.
Times are Unix seconds, spans are half-open, ids and keys are in hex.
A list answers with `items` and `next`: a cursor that leads to the following page, or null.
With `Accept: application/x-ndjson` a list is a stream of all its items, one a line.
Errors are of the type application/problem+json, and say what to do.
"""
# What any request may be refused with, besides what its parameters allow.
ALWAYS = ("bad-parameter", "foreign-origin", "wrong-host", "too-many-requests", "busy")


def describe(resources: Sequence[Resource], url: str) -> dict[str, Any]:
    """The document; `url`: where the API is."""
    items, components = msgspec.json.schema_components(
        [*(resource.item for resource in resources), Problem], ref_template=REFS
    )
    *schemas, problem = items
    for struct in structs_in([*(resource.item for resource in resources), Problem]):
        for name, words in words_of_fields(struct).items():
            field = components[struct.__name__]["properties"][name]
            # A reference stands alone in older readers of JSON schemas.
            components[struct.__name__]["properties"][name] = field | {"description": words}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "bigbrotr",
            "version": __version__,
            "description": ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": url}],
        "paths": {
            f"/{resource.path}": {"get": _operation(resource, schema, problem)}
            for resource, schema in zip(resources, schemas, strict=True)
        },
        "components": {"schemas": {name: components[name] for name in sorted(components)}},
    }


def structs_in(types: Iterable[Any]) -> list[type[Struct]]:
    """All structs in the types, and in their fields."""
    found: dict[type[Struct], None] = {}

    def look(kind: Any) -> None:
        if isinstance(kind, type) and issubclass(kind, Struct) and kind not in found:
            found[kind] = None
            for hint in get_type_hints(kind, include_extras=True).values():
                look(hint)
        for part in get_args(kind):
            look(part)

    for each in types:
        look(each)
    return list(found)


def words_of_fields(struct: type[Struct]) -> dict[str, str]:
    """What the comments behind the fields of a struct say, by name."""
    fields = set(struct.__struct_fields__)
    found = re.findall(r"(?m)^    (\w+): .*?  # (.+)$", _body_of(struct))
    return {name: words for name, words in found if name in fields}


def _body_of(struct: type[Struct]) -> str:
    """The source of a class of a module's own level, after its head.

    inspect finds a class by parsing its module, which CPython refuses ("AST constructor recursion
    depth mismatch") where it collects garbage meanwhile that parses as well: a task that was
    destroyed does, by its traceback.
    """
    head = rf"^class {struct.__name__}\b.*?:\n"
    found = re.search(rf"(?ms){head}(?P<body>(?:[ ][^\n]*\n|\n)*)", _source_of(struct.__module__))
    return found["body"] if found else ""


@cache
def _source_of(module: str) -> str:
    return inspect.getsource(sys.modules[module])


def _operation(
    resource: Resource, schema: dict[str, Any], problem: dict[str, Any]
) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if isinstance(resource, Many):
        content["application/json"]["schema"] = {
            "type": "object",
            "properties": {
                "items": {"type": "array", "items": schema},
                "next": {
                    "type": ["string", "null"],
                    "description": "the cursor of the following page; null: there is none",
                },
            },
            "required": ["items", "next"],
        }
        content[NDJSON] = {"schema": {"type": "string", "description": "an item a line"}}
        if resource.follows is not None:
            words = "an event an item, with its id, as items come (Server-Sent Events)"
            content[EVENTS] = {"schema": {"type": "string", "description": words}}
    kinds = [*ALWAYS]
    if any(each.is_in_path for each in resource.parameters.values()):
        kinds.append("not-found")
    statuses = sorted({PROBLEMS[kind].status for kind in kinds})
    return {
        "operationId": resource.name,
        "summary": resource.summary,
        "description": resource.words,
        "parameters": [_parameter(each) for each in resource.parameters.values()],
        "responses": {
            "200": {"description": resource.summary, "content": content},
            "304": {"description": "It has not changed: see If-None-Match"},
            **{
                str(status): {
                    "description": "; ".join(
                        title for code, title in PROBLEMS.values() if code == status
                    ),
                    "content": {TYPE: {"schema": problem}},
                }
                for status in statuses
            },
        },
    }


def _parameter(parameter: Parameter) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": parameter.name,
        "in": "path" if parameter.is_in_path else "query",
        "required": parameter.is_in_path,
        "description": parameter.words,
        "schema": dict(parameter.schema),
    }
    if parameter.is_list:
        found |= {"style": "form", "explode": parameter.is_whole}
    if parameter.default is not None:
        found["schema"]["default"] = msgspec.to_builtins(parameter.default)
    return found
