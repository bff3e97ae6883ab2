"""Writes the page that explains the API to people: plain HTML, no script, no other host."""

import base64
import hashlib
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from bigbrotr import __version__
from bigbrotr.serve.parameters import Parameter, words_of
from bigbrotr.serve.problems import PROBLEMS
from bigbrotr.serve.resource import Many, Resource

STYLE = """
:root { color-scheme: light dark; }
body { font: 1rem/1.55 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1, h2, h3 { line-height: 1.25; } h2 { margin-top: 2.5rem; border-top: 1px solid #8886; }
code, pre { font: .9em/1.5 ui-monospace, monospace; } pre { overflow-x: auto; padding: .8rem;
background: #8882; border-radius: .4rem; } h2 code { font-size: 1em; overflow-wrap: anywhere; }
table { border-collapse: collapse; display: block; overflow-x: auto; } th, td { text-align: left;
vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8884; }
nav ul { columns: 16rem; padding-left: 1.2rem; }
a:focus-visible { outline: 3px solid; outline-offset: 2px; }
"""
_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
# Nothing but this page's own style.
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


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
"""
    for sentence in schema["info"]["description"].strip().splitlines():
        yield f"<p>{_code(sentence)}</p>\n"
    yield '</header>\n<nav aria-label="Resources">\n<ul>\n'
    for resource in resources:
        yield f'<li><a href="#{resource.name}"><code>{escape(resource.path)}</code></a></li>\n'
    yield '<li><a href="#problems">Problems</a></li>\n</ul>\n</nav>\n<main>\n'
    for resource in resources:
        yield from _resource(resource, url, schema)
    yield '<h2 id="problems">Problems</h2>\n<table>\n<thead><tr><th scope="col">Status</th>'
    yield '<th scope="col">Kind</th><th scope="col">Meaning</th></tr></thead>\n<tbody>\n'
    for name, (status, title) in PROBLEMS.items():
        yield f'<tr id="problem-{name}"><td>{status}</td><td><code>{name}</code></td>'
        yield f"<td>{escape(title)}</td></tr>\n"
    yield "</tbody>\n</table>\n</main>\n</body>\n</html>\n"


def _resource(resource: Resource, url: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f'<h2 id="{resource.name}"><code>GET {escape(resource.path)}</code></h2>\n'
    yield f"<p>{_code(resource.words)}</p>\n"
    yield f"<pre>curl '{escape(url)}/{escape(resource.path)}'</pre>\n"
    if resource.parameters:
        yield '<table>\n<thead><tr><th scope="col">Parameter</th><th scope="col">Value</th>'
        yield '<th scope="col">Meaning</th></tr></thead>\n<tbody>\n'
        for parameter in resource.parameters.values():
            yield _row(parameter)
        yield "</tbody>\n</table>\n"
    what = "A list; each item" if isinstance(resource, Many) else "The answer"
    item = schema["components"]["schemas"][resource.item.__name__]
    yield f"<h3>{what}</h3>\n"
    if "description" in item:
        yield f"<p>{_code(item['description'])}</p>\n"
    yield '<table>\n<thead><tr><th scope="col">Field</th><th scope="col">Type</th></tr></thead>\n'
    yield "<tbody>\n"
    for name, field in item.get("properties", {}).items():
        yield f"<tr><td><code>{escape(name)}</code></td><td>{escape(_type(field))}</td></tr>\n"
    yield "</tbody>\n</table>\n"


def _row(parameter: Parameter) -> str:
    allowed = words_of(parameter.schema)
    if parameter.default is not None:
        allowed += f"; default: {parameter.default}"
    cells = (f"<code>{escape(parameter.name)}</code>", _code(allowed), _code(parameter.words))
    return f"<tr>{''.join(f'<td>{each}</td>' for each in cells)}</tr>\n"


def _type(schema: dict[str, Any]) -> str:
    """A type in a word or two."""
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"])
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    kind = str(schema.get("type", "any"))
    if kind == "array" and isinstance(schema.get("items"), dict):
        return f"list of {_type(schema['items'])}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    return kind


def _code(words: str) -> str:
    """Words in HTML, with what stands in backquotes as code."""
    parts = escape(words).split("`")
    return "".join(f"<code>{part}</code>" if n % 2 else part for n, part in enumerate(parts))
