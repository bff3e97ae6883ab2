"""Reads configuration files, explains what is wrong in them, and shows the settings in force."""

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import (
    Annotated,
    Any,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec
import tomli
from msgspec import Struct

from bigbrotr.config.settings import Config, Profile, Section
from bigbrotr.config.shipped import shipped
from bigbrotr.errors import ConfigError
from bigbrotr.secret import without_secrets

S = TypeVar("S", bound=Section)


def load(path: Path | None, profile: Profile) -> Config:
    """The configuration in `path`; without one, the file shipped for the profile.

    Raises:
        ConfigError: naming the file, the key, the reason and the nearest known key.
    """
    path = path or shipped("configs") / f"{profile}.toml"
    return decode(read_toml(path), Config, source=str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file."""
    try:
        return tomli.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8") from None
    except tomli.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {without_secrets(str(error))}") from None


def decode(values: Mapping[str, Any], section: type[S], *, source: str) -> S:
    """`values` as settings; `source` names them in errors.

    Raises:
        ConfigError: naming the source, the key, the reason and the nearest known key.
    """
    # A table that is absent keeps the defaults of its parent, and so do the keys that are absent
    # in one that is there: [networks.tor] enabled = true leaves its proxy as declared.
    if keys := _not_finite(values):
        where = without_secrets(_where(keys))
        raise ConfigError(f"{source}: {where}: expected a finite number")
    try:
        return msgspec.convert(_over_defaults(values, section), section)
    except msgspec.ValidationError as error:
        words = _explain(str(error), values, section)
        raise ConfigError(f"{source}: {without_secrets(words)}") from None


def _not_finite(values: Mapping[str, Any]) -> list[str]:
    """Where an infinite number stands, or one that is none: TOML has them, ranges let them pass."""
    for key, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            return [key]
        if isinstance(value, Mapping) and (below := _not_finite(value)):
            return [key, *below]
    return []


def _over_defaults(values: Mapping[str, Any], section: type[Section]) -> dict[str, Any]:
    merged = dict(values)
    for known in msgspec.structs.fields(section):
        given = merged.get(known.name)
        if not (isinstance(known.type, type) and issubclass(known.type, Section)):
            continue
        if isinstance(given, Mapping):
            default = (
                known.default_factory()
                if known.default_factory is not msgspec.NODEFAULT
                else known.default
            )
            base = msgspec.to_builtins(default) if isinstance(default, known.type) else {}
            merged[known.name] = _over_defaults({**_tables_apart(base, given)}, known.type)
    return merged


def _tables_apart(base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`base` overlaid by `given`, table by table."""
    overlaid = dict(base)
    for key, value in given.items():
        below = base.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            overlaid[key] = _tables_apart(below, value)
        else:
            overlaid[key] = value
    return overlaid


def _explain(message: str, values: Mapping[str, Any], section: type[Section]) -> str:
    """msgspec's message in the words of a TOML file."""
    reason, _, path = message.partition(" - at `$")
    keys, kind = _follow(path, values, section)
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", reason)
    if not unknown:
        return f"{_where(keys)}: {_value(values, keys)}{_plain(reason)}"
    known = [known.name for known in msgspec.structs.fields(kind)]
    near = difflib.get_close_matches(unknown[1], known, n=1, cutoff=0.5)
    hint = f'; did you mean "{near[0]}"?' if near else f"; known here: {', '.join(known)}"
    return f"{_where([*keys, unknown[1]])}: unknown key{hint}"


def _follow(path: str, found: Any, kind: Any) -> tuple[list[str], Any]:
    """The keys on msgspec's path, and the type that was expected at its end.

    It does not say which key of a table it means where any is allowed: the first that is wrong.
    """
    keys: list[str] = []
    for key, any_key in re.findall(r"\.([A-Za-z0-9_-]+)|(\[\.\.\.\])", path):
        if not any_key:
            kind, name = _bare(get_type_hints(kind, include_extras=True)[key]), key
        elif isinstance(found, Mapping):
            each = get_args(kind)[1]
            name = next(name for name, value in found.items() if not _is_right(value, each))
            kind = _bare(each)
        else:
            break  # inside a list
        keys.append(name)
        found = found[name]
    return keys, kind


def _bare(kind: Any) -> Any:
    """A type without what surrounds it: its range and words, and None."""
    if get_origin(kind) is Annotated or type(None) in get_args(kind):
        return _bare(get_args(kind)[0])
    return kind


def _is_right(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def _where(keys: list[str]) -> str:
    if not keys:
        return "the file"
    keys = [_toml_key(key) for key in keys]
    table, key = ".".join(keys[:-1]), keys[-1]
    return f"[{table}] {key}" if table else f"[{key}]"


def _value(values: Mapping[str, Any], keys: list[str]) -> str:
    found: Any = values
    for key in keys:
        if not isinstance(found, Mapping) or key not in found:
            return ""
        found = found[key]
    if isinstance(found, Mapping) or keys[0] == "database":
        return ""
    return f"{found!r} is wrong: "


def _plain(reason: str) -> str:
    words = {
        "`": "",
        "Expected int >=": "expected at least",
        "Expected float >=": "expected at least",
    }
    for code, plain in words.items():
        reason = reason.replace(code, plain)
    return reason[:1].lower() + reason[1:]


def show(config: Config) -> str:
    """The settings that are in force as a TOML file, each with its words."""
    return "\n".join(_tables(config, "")) + "\n"


def _tables(section: Struct, name: str) -> Iterator[str]:
    below: list[tuple[str, Struct]] = []
    hints = get_type_hints(type(section), include_extras=True)
    if name:
        yield f"[{name}]"
    for known in msgspec.structs.fields(section):
        value = getattr(section, known.name)
        table = f"{name}.{known.name}" if name else known.name
        if isinstance(value, Struct):
            below.append((table, value))
            continue
        if isinstance(value, Mapping) and any(isinstance(each, Struct) for each in value.values()):
            below += [(f"{table}.{_toml_key(key)}", each) for key, each in value.items()]
            continue
        meta = getattr(hints[known.name], "__metadata__", ())
        words = "".join(f"  # {m.description}" for m in meta if m.description)
        line = f"# {known.name} =" if value is None else f"{known.name} = {_toml(value)}"
        yield line + words
    for table, value in below:
        yield ""
        yield from _tables(value, table)


def _toml_key(key: str) -> str:
    return key if re.fullmatch("[A-Za-z0-9_-]+", key) else _toml(key)


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        inside = ", ".join(f"{_toml_key(key)} = {_toml(each)}" for key, each in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, frozenset):
        return f"[{', '.join(_toml(each) for each in sorted(value))}]"
    # The same literals in TOML for these types; DEL must be escaped there, and what is not
    # printable cannot be seen, or steers a terminal.
    text = msgspec.json.encode(value).decode()
    return "".join(each if each.isprintable() else f"\\U{ord(each):08x}" for each in text)
