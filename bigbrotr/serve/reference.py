"""Writes the page that explains the API to people: plain HTML, no script, no other host."""

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Any

from bigbrotr import __version__
from bigbrotr.serve.parameters import Parameter, words_of
from bigbrotr.serve.problems import PROBLEMS
from bigbrotr.serve.resource import Many, Resource

STYLE = """
:root { color-scheme: light dark; --line: #8884; --tint: #8881; --accent: #6b21a8; }
@media (prefers-color-scheme: dark) { :root { --accent: #d8b4fe; } }
* { box-sizing: border-box; }
body { font: 1rem/1.55 system-ui, sans-serif; margin: 0 auto; max-width: 78rem; padding: 0 1rem
4rem; }
h1, h2, h3, h4 { line-height: 1.25; } h1 { margin-bottom: .3rem; }
h2 { margin-top: 3rem; } h3 { margin: 2.6rem 0 .4rem; border-top: 1px solid var(--line);
padding-top: 1rem; }
h2 + h3 { margin-top: 0; border: 0; padding: 0; } h4 { margin: 1.2rem 0 .3rem; }
a { color: var(--accent); } a:focus-visible, summary:focus-visible { outline: 3px solid;
outline-offset: 2px; }
code, pre { font: .9em/1.5 ui-monospace, monospace; } h3 code { font-size: 1.1em; overflow-wrap:
anywhere; }
pre { background: var(--tint); border: 1px solid var(--line); border-radius: .4rem; padding: .6rem
.8rem;
white-space: pre-wrap; overflow-wrap: anywhere; }
.table { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .35rem 1rem .35rem 0; border-bottom: 1px
solid var(--line); }
th { font-weight: 600; } td:first-child { white-space: nowrap; }
summary { cursor: pointer; font-weight: 600; margin: .8rem 0 .4rem; }
nav ul { list-style: none; margin: 0 0 1rem; padding: 0; } nav h2 { font-size: 1rem; margin: 0 0
.2rem; }
nav a { display: inline-block; overflow-wrap: anywhere; padding: .1rem 0; text-decoration: none; }
nav a:hover { text-decoration: underline; }
@media (max-width: 59.99rem) { nav { columns: 15rem; border-block: 1px solid var(--line);
padding-top: 1rem; }
nav section { break-inside: avoid; } }
@media (min-width: 60rem) { .sides { display: grid; grid-template-columns: 15rem minmax(0, 1fr);
gap: 3rem; }
nav { position: sticky; top: 0; max-height: 100vh; overflow-y: auto; padding: 1.5rem 0; }
main > h2:first-child { margin-top: 1.5rem; } }
"""
_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
# Nothing but this page's own style.
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
# Names of things that stand in paths, as examples.
EXAMPLES = {
    "relay": "relay.example.com",
    "event": 64 * "0",
    "address": f"30023:{64 * 'a'}:title",
    "author": "npub1sg6plzptd64u62a878hep2kev88swjh3tw00gjsfl8f237lmu63q0uf63m",
}


def page(resources: Sequence[Resource], url: str, schema: dict[str, Any]) -> str:
    """The page; `url`: where the API is; `schema`: its description as OpenAPI."""
    return "".join(_parts(resources, url, schema))


def _parts(resources: Sequence[Resource], url: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>The API of bigbrotr</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>The API of bigbrotr</h1>
<p>Version {escape(__version__)}. For programs: <a href="openapi.json">OpenAPI 3.1</a>.</p>
<p>"""
    yield "<br>\n".join(map(_code, schema["info"]["description"].strip().splitlines()))
    yield '</p>\n</header>\n<div class="sides">\n<nav aria-label="Resources">\n'
    families: dict[str, list[Resource]] = {}
    for resource in resources:
        families.setdefault(_family(resource), []).append(resource)
    for name, group in families.items():
        yield f"<section>\n<h2>{name}</h2>\n<ul>\n"
        for resource in group:
            yield f'<li><a href="#{resource.name}"><code>{escape(resource.path)}</code></a></li>\n'
        yield "</ul>\n</section>\n"
    yield '<section>\n<h2>Errors</h2>\n<ul>\n<li><a href="#problems">Problems</a></li>\n</ul>\n'
    yield "</section>\n</nav>\n<main>\n"
    for name, group in families.items():
        yield f"<h2>{name}</h2>\n"
        for resource in group:
            yield from _resource(resource, url, schema)
    yield '<h2 id="problems">Problems</h2>\n<div class="table">\n<table>\n<thead><tr>'
    yield '<th scope="col">Kind</th><th scope="col">Status</th><th scope="col">Meaning</th>'
    yield "</tr></thead>\n<tbody>\n"
    for name, (status, title) in PROBLEMS.items():
        yield f'<tr id="problem-{name}"><td><code>{name}</code></td><td>{status}</td>'
        yield f"<td>{escape(title)}</td></tr>\n"
    yield "</tbody>\n</table>\n</div>\n</main>\n</div>\n</body>\n</html>\n"


# What the resources below a first segment are about; the others are about the archive.
FAMILIES = {
    "relays": "Relays",
    "at-risk": "Relays",
    "candidates": "Relays",
    "events": "Events",
    "counts": "Events",
    "authors": "Authors",
    "statistics": "Statistics",
}


def _family(resource: Resource) -> str:
    return FAMILIES.get(resource.segments[0], "Archive")


def _resource(resource: Resource, url: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f'<h3 id="{resource.name}"><code>GET {escape(resource.path)}</code></h3>\n'
    yield f"<p>{_code(resource.words)}</p>\n"
    path = "/".join(
        EXAMPLES[part[1:-1]] if part.startswith("{") else part for part in resource.segments
    )
    yield f"<pre>curl '{escape(url)}/{escape(path)}'</pre>\n"
    if resource.parameters:
        rows = [
            (parameter.name, _allowed(parameter), parameter.words)
            for parameter in resource.parameters.values()
        ]
        yield from _table(("Parameter", "Value", "Meaning"), rows)
    what = "Each item of the list" if isinstance(resource, Many) else "The answer"
    yield f"<details>\n<summary>{what}</summary>\n"
    shown: list[str] = []
    left = [resource.item.__name__]
    while left:
        name = left.pop(0)
        item = schema["components"]["schemas"][name]
        fields = item.get("properties", {})
        if shown:
            yield f"<h4>{escape(name)}</h4>\n"
        if "description" in item:
            yield f"<p>{_code(item['description'])}</p>\n"
        yield from _table(
            ("Field", "Type", "Meaning"),
            [(key, _type(field), field.get("description", "")) for key, field in fields.items()],
        )
        shown.append(name)
        left += [each for each in _names(fields) if each not in (*shown, *left)]
    yield "</details>\n"


def _table(heads: Iterable[str], rows: Iterable[tuple[str, str, str]]) -> Iterator[str]:
    cells = "".join(f'<th scope="col">{head}</th>' for head in heads)
    yield f'<div class="table">\n<table>\n<thead><tr>{cells}</tr></thead>\n<tbody>\n'
    for name, kind, words in rows:
        yield f"<tr><td><code>{escape(name)}</code></td><td>{_code(kind)}</td>"
        yield f"<td>{_code(words)}</td></tr>\n"
    yield "</tbody>\n</table>\n</div>\n"


def _allowed(parameter: Parameter) -> str:
    allowed = words_of(parameter.schema)
    return allowed if parameter.default is None else f"{allowed}; default: {parameter.default}"


def _names(part: Any) -> Iterator[str]:
    """The names of the types that a schema refers to, in order, each once or more."""
    if isinstance(part, dict):
        if "$ref" in part:
            yield str(part["$ref"]).rpartition("/")[2]
        for value in part.values():
            yield from _names(value)
    elif isinstance(part, list):
        for value in part:
            yield from _names(value)


def _type(schema: dict[str, Any]) -> str:
    """A type in a word or two."""
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"])
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    kind = schema.get("type", "any")
    if kind == "array" and isinstance(schema.get("items"), dict):
        return f"list of {_type(schema['items'])}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    return str(kind)


def _code(words: str) -> str:
    """Words in HTML, with what stands in backquotes as code."""
    parts = escape(words).split("`")
    return "".join(f"<code>{part}</code>" if n % 2 else part for n, part in enumerate(parts))
