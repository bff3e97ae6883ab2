"""Reads the parameters of a request into a struct, and says what is wrong with them in words."""

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from types import NoneType
from typing import Annotated, Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints
from urllib.parse import unquote

import msgspec
from msgspec import Meta, Struct

from bigbrotr.serve.problems import RefusedError

Q = TypeVar("Q", bound=Struct)

WHOLE = "whole"  # in `Meta(extra=…)` of a list: its values may hold commas
PARSE = "parse"  # in `Meta(extra=…)`: turns the text into what is meant; ValueError: it cannot
MAX_PARAMETERS = 100
MAX_SHOWN = 60  # characters of a wrong value


class Parameter(NamedTuple):
    """A parameter, as the annotation of a struct's field declares it."""

    name: str
    type: Any  # without the None of what may be left out
    is_list: bool
    is_in_path: bool
    is_required: bool
    default: Any
    words: str
    schema: dict[str, Any]
    parse: Callable[[str], Any] | None  # of each value of a list
    is_whole: bool  # a list is given by repetition alone


def parameters_of(query: type[Struct], path: str = "") -> dict[str, Parameter]:
    """The parameters that a struct declares, by name; those in the path stand there as {name}."""
    hints = get_type_hints(query, include_extras=True)
    return {
        field.name: _parameter(field, hints[field.name], f"{{{field.name}}}" in path)
        for field in msgspec.structs.fields(query)
    }


def _parameter(field: msgspec.structs.FieldInfo, hint: Any, is_in_path: bool) -> Parameter:
    words, parse, type_, is_whole = "", None, hint, False
    for meta in _metas(hint):
        words = words or meta.description or ""
        parse = parse or (meta.extra or {}).get(PARSE)
        is_whole = is_whole or WHOLE in (meta.extra or {})
    bare = _without_notes(hint)
    if NoneType in get_args(bare):
        (type_,) = (each for each in get_args(bare) if each is not NoneType)
    schema = {k: v for k, v in _schema(type_).items() if k not in ("description", "title")}
    if schema.get("type") == "array":
        schema["minItems"] = 1
    return Parameter(
        field.name,
        type_,
        get_origin(_without_notes(type_)) is tuple,
        is_in_path,
        field.required,
        None if field.default is msgspec.NODEFAULT else field.default,
        words,
        schema,
        parse,
        is_whole,
    )


def _schema(type_: Any) -> dict[str, Any]:
    """The JSON schema of a simple type, with enumerations where they are used."""
    (schema,), components = msgspec.json.schema_components([type_], ref_template="{name}")

    def inlined(part: Any) -> Any:
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            found = components[part["$ref"]]
            return {key: found[key] for key in found if key not in ("title", "description")}
        return {key: inlined(value) for key, value in part.items()}

    found: dict[str, Any] = inlined(schema)
    return found


def _metas(hint: Any) -> list[Meta]:
    found = [each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Meta)]
    for each in get_args(hint):
        found += _metas(each) if get_origin(each) is Annotated or get_args(each) else []
    return found


def _without_notes(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def split_query(text: str) -> list[tuple[str, str]]:
    """The pairs of a query string, in order.

    Raises:
        RefusedError: it is not UTF-8, holds U+0000, or too many pairs.
    """
    if not text:
        return []
    parts = text.split("&", MAX_PARAMETERS + 1)
    if len(parts) > MAX_PARAMETERS:
        raise RefusedError("bad-request", f"give at most {MAX_PARAMETERS} parameters")
    pairs = []
    for part in parts:
        if part:
            name, _, value = part.partition("=")
            pairs.append((decoded(name.replace("+", " ")), decoded(value.replace("+", " "))))
    return pairs


def decoded(text: str) -> str:
    """The text behind the percent-encoding of a URL.

    Raises:
        RefusedError: it is not UTF-8, or holds U+0000, which PostgreSQL cannot hold.
    """
    try:
        plain = unquote(text, errors="strict") if "%" in text else text
        plain.encode()
    except UnicodeError:
        raise RefusedError("bad-request", "the URL is not UTF-8: encode it as UTF-8") from None
    if "\0" in plain:
        raise RefusedError("bad-request", "the URL holds the character U+0000: leave it out")
    return plain


def read_parameters(
    query: type[Q],
    known: Mapping[str, Parameter],
    in_path: Mapping[str, str],
    pairs: Sequence[tuple[str, str]],
) -> Q:
    """The struct `query` of the parameters, those of the path and those behind the `?`.

    Raises:
        RefusedError: one is not known, not of its type, or there twice.
    """
    given: dict[str, list[str]] = {name: [value] for name, value in in_path.items()}
    for name, value in pairs:
        parameter = known.get(name)
        if parameter is None or parameter.is_in_path:
            raise _unknown(name, known)
        if parameter.is_list:
            texts = [value] if parameter.is_whole else value.split(",")
            given.setdefault(name, []).extend(texts)
        elif name in given:
            raise RefusedError(
                "bad-parameter", f"{name} is there twice: give it once", parameter=name
            )
        else:
            given[name] = [value]
    return query(**{name: _value(known[name], texts) for name, texts in given.items()})


def _unknown(name: str, known: Mapping[str, Parameter]) -> RefusedError:
    names = [each.name for each in known.values() if not each.is_in_path]
    near = get_close_matches(name, names, n=1, cutoff=0.4)
    if near:
        advice = f"do you mean {near[0]}?"
    else:
        advice = f"there are {', '.join(names)}" if names else "there is none here"
    return RefusedError(
        "unknown-parameter", f"no parameter is called {shown(name)}: {advice}", parameter=name[:100]
    )


def _value(parameter: Parameter, texts: list[str]) -> Any:
    try:
        value = msgspec.convert(
            texts if parameter.is_list else texts[0], parameter.type, strict=False
        )
        if parameter.parse is None:
            return value
        return tuple(map(parameter.parse, value)) if parameter.is_list else parameter.parse(value)
    except msgspec.ValidationError:
        text = shown(",".join(texts))
        wanted = words_of(parameter.schema)
        raise RefusedError(
            "bad-parameter", f"{parameter.name} is {wanted}, not {text}", parameter=parameter.name
        ) from None
    except ValueError as error:
        raise RefusedError(
            "bad-parameter", f"{parameter.name}: {error}", parameter=parameter.name
        ) from None


def shown(text: str) -> str:
    """A stranger's text in a sentence."""
    return ascii(text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…")


def words_of(schema: Mapping[str, Any]) -> str:
    """What a simple JSON schema allows, in words."""
    if "enum" in schema:
        values = [str(value) for value in schema["enum"]]
        return f"one of {', '.join(values)}"
    kind = schema.get("type")
    low, high = schema.get("minimum"), schema.get("maximum")
    if kind == "array":
        return f"a list, each {words_of(schema['items'])}"
    if kind == "boolean":
        return "true or false"
    if kind in ("integer", "number"):
        what = "a whole number" if kind == "integer" else "a number"
        if low is not None and high is not None:
            return f"{what} from {low} to {high}"
        return what
    low, high = schema.get("minLength", 0), schema.get("maxLength")
    if low and low == high:
        return f"a text of {low} characters"
    return f"a text of {low} to {high} characters" if high is not None else "a text"
