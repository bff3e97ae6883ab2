"""Reads configuration files, explains what is wrong in them, and shows the settings in force."""

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeAlias,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec
import tomli
from msgspec import Meta, Struct

from bigbrotr.config.settings import Config, Profile, Section
from bigbrotr.config.shipped import shipped
from bigbrotr.errors import ConfigError
from bigbrotr.models.filter import MOMENT
from bigbrotr.secret import without_secrets

S = TypeVar("S", bound=Section)

Keys: TypeAlias = tuple[str, ...]


class Mistake(NamedTuple):
    """What is wrong with a setting."""

    keys: Keys
    words: str


def load(path: Path | None, profile: Profile | None) -> Config:
    """The settings in `path` over those of the shipped profile; None: those of the profile alone.

    Tables are laid over each other key by key, also those that have names of their own, like
    [finder.sources.NAME]; any other value takes the place of the profile's. Without a profile, the
    file lies over the defaults.

    Raises:
        ConfigError: a line for each mistake, naming the file, the line, the key, the reason, and
            what is known or allowed there.
    """
    base: dict[str, Any] = {}
    if profile is not None:
        under = shipped("configs") / f"{profile}.toml"
        base = read_toml(under)
        if path is None:
            return decode(base, Config, source=str(under))
    if path is None:
        return Config()
    values = read_toml(path)
    return decode(_tables_apart(base, values), Config, source=str(path), lines=lines_in(path))


def lines_in(path: Path) -> dict[Keys, int]:
    """In which line of a configuration file each table and key stands, from 1 on."""
    return lines_of(_text(path))


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file."""
    try:
        return tomli.loads(_text(path))
    except tomli.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        place = f"{path}:{line[1]}" if line else f"{path}"
        raise ConfigError(f"{place}: {without_secrets(str(error))}") from None


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        if isinstance(error, UnicodeDecodeError):
            raise ConfigError(f"{path}: not UTF-8") from None
        raise ConfigError(f"{str(path)!r} is not a path: {error}") from None


def lines_of(text: str) -> dict[Keys, int]:
    """In which line of a TOML file each table and key stands, from 1 on."""
    found: dict[Keys, int] = {}
    table: Keys = ()
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        # A statement is as many lines as it takes until they can be read.
        for end in range(at + 1, len(lines) + 1):
            with suppress(tomli.TOMLDecodeError):
                said = tomli.loads("\n".join(lines[at:end]))
                break
        else:
            return found
        is_table = lines[at].lstrip().startswith("[")
        for keys in _paths(said):
            whole = keys if is_table else (*table, *keys)
            found.setdefault(whole, at + 1)
            if is_table:
                table = keys
        at = end
    return found


def _paths(values: Mapping[str, Any], above: Keys = ()) -> Iterator[Keys]:
    for key, value in values.items():
        yield (*above, key)
        if isinstance(value, list) and len(value) == 1:  # [[…]]
            value = value[0]
        if isinstance(value, Mapping):
            yield from _paths(value, (*above, key))


def decode(
    values: Mapping[str, Any],
    section: type[S],
    *,
    source: str,
    lines: Mapping[Keys, int] | None = None,
) -> S:
    """`values` as settings; `source` names them in errors, `lines` says where they stand in it.

    Raises:
        ConfigError: a line for each mistake, naming the source, the key, the reason, and what is
            known or allowed there.
    """
    # A table that is absent keeps the defaults of its parent, and so do the keys that are absent
    # in one that is there: [networks.tor] enabled = true leaves its proxy as declared.
    whole = _over_defaults(_in_seconds(values, section), section)
    mistakes = [*_mistakes(whole, section, ())]
    if not mistakes:
        return msgspec.convert(whole, section)
    raise ConfigError(explain(mistakes, source, lines or {}))


def explain(mistakes: Iterable[Mistake], source: str, lines: Mapping[Keys, int]) -> str:
    """A line for each mistake: where it stands, and what is wrong."""
    said = sorted((_line(keys, lines) or 0, without_secrets(words)) for keys, words in mistakes)
    return "\n".join(
        f"{source}:{line}: {words}" if line else f"{source}: {words}" for line, words in said
    )


def _line(keys: Keys, lines: Mapping[Keys, int]) -> int | None:
    """The line of a key, or of the table that it belongs to."""
    for length in range(len(keys), 0, -1):
        if (line := lines.get(keys[:length])) is not None:
            return line
    return None


def _mistakes(values: Mapping[str, Any], table: type[Struct], keys: Keys) -> Iterator[Mistake]:
    """All that is wrong in a table and those below; what concerns it as a whole, if nothing else
    is."""
    hints = get_type_hints(table, include_extras=True)
    is_right = True
    for key, value in values.items():
        here = (*keys, key)
        if key not in hints:
            found: Iterable[Mistake] = [Mistake(here, _unknown(here, table))]
        else:
            found = _mistakes_in(value, hints[key], here)
        for mistake in found:
            is_right = False
            yield mistake
    if is_right:
        try:
            msgspec.convert(values, table)
        except msgspec.ValidationError as error:
            reason = str(error).partition(" - at `$")[0]
            yield Mistake(keys, f"{where(keys)}: {_plain(reason)}")


def _mistakes_in(value: Any, hint: Any, keys: Keys) -> Iterator[Mistake]:
    kind = _bare(hint)
    if isinstance(kind, type) and issubclass(kind, Struct) and isinstance(value, Mapping):
        yield from _mistakes(value, kind, keys)
        return
    if get_origin(kind) is dict and isinstance(value, Mapping):
        for key, each in value.items():
            yield from _mistakes_in(each, get_args(kind)[1], (*keys, key))
        return
    if isinstance(value, float) and not math.isfinite(value):
        # TOML has infinite numbers, and those that are none; ranges let them pass.
        yield Mistake(keys, f"{where(keys)}: expected a finite number")
        return
    try:
        msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        reason = str(error).partition(" - at `$")[0]
        if get_origin(kind) is Literal:
            reason = f"expected one of {', '.join(map(str, get_args(kind)))}"
        yield Mistake(keys, f"{where(keys)}: {_value(value, keys)}{_plain(reason)}")


def _unknown(keys: Keys, table: type[Struct]) -> str:
    known = [known.name for known in msgspec.structs.fields(table)]
    near = difflib.get_close_matches(keys[-1], known, n=1, cutoff=0.5)
    hint = f'; did you mean "{near[0]}"?' if near else f"; known here: {', '.join(known)}"
    return f"{where(keys)}: unknown key{hint}"


def _in_seconds(values: Mapping[str, Any], table: type[Struct]) -> dict[str, Any]:
    """The values with dates, where moments are expected, as Unix seconds; those without a time zone
    are of UTC."""
    hints = get_type_hints(table, include_extras=True)
    return {key: _moment(value, hints.get(key)) for key, value in values.items()}


def _moment(value: Any, hint: Any) -> Any:
    kind = _bare(hint)
    if isinstance(value, Mapping):
        if isinstance(kind, type) and issubclass(kind, Struct):
            return _in_seconds(value, kind)
        if get_origin(kind) is dict:
            return {key: _moment(each, get_args(kind)[1]) for key, each in value.items()}
    if isinstance(value, date) and _is_moment(hint):
        if not isinstance(value, datetime):
            value = datetime(value.year, value.month, value.day)
        return int((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp())
    return value


def _is_moment(hint: Any) -> bool:
    metas = (each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Meta))
    if any((meta.extra or {}).get(MOMENT) for meta in metas):
        return True
    return any(_is_moment(inner) for inner in get_args(hint))


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


def _bare(kind: Any) -> Any:
    """A type without what surrounds it: its range and words, and None."""
    if get_origin(kind) is Annotated or type(None) in get_args(kind):
        return _bare(get_args(kind)[0])
    return kind


def where(keys: Keys) -> str:
    """The place of a setting as a file has it: [table] key."""
    if not keys:
        return "the file"
    names = [_toml_key(key) for key in keys]
    table, key = ".".join(names[:-1]), names[-1]
    return f"[{table}] {key}" if table else f"[{key}]"


def _value(value: Any, keys: Keys) -> str:
    if isinstance(value, Mapping) or keys[0] == "database":
        return ""
    said = value.isoformat() if isinstance(value, date) else repr(value)
    return f"{said} is wrong: "


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


BEGINNING = """\
# Settings of bigbrotr. This file lies over those of its profile, {profile}: what is not said here
# stays as it is shipped. Take the # away from what you want to change, and look at the file with
# `bigbrotr config check FILE`. No password and no key belongs here: they come from the environment
# (DB_PASSWORD, PRIVATE_KEY), or from files that it names (DB_PASSWORD_FILE, PRIVATE_KEY_FILE).
"""


def begin(profile: Profile) -> str:
    """A file to begin with: it says everything that can be set, and changes nothing."""
    lines = [BEGINNING.format(profile=profile)]
    for line in _tables(load(None, profile), ""):
        is_own = re.fullmatch(r"\[(finder\.sources|synchronizer\.relays)\..*\]", line)
        is_said = not line or (line.startswith("[") and not is_own) or line.startswith("# ")
        lines.append(line if is_said else f"# {line}")
    return "\n".join(lines) + "\n"


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
