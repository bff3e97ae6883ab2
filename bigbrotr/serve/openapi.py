"""Writes the description of the API (OpenAPI 3.1) from what the resources declare."""

from collections.abc import Sequence
from typing import Any

import msgspec

from bigbrotr import __version__
from bigbrotr.serve.parameters import Parameter
from bigbrotr.serve.problems import PROBLEMS, TYPE, Problem
from bigbrotr.serve.resource import Many, Resource

NDJSON = "application/x-ndjson"
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
