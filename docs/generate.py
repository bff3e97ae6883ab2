"""Writes the parts of the documentation that are made from the code: `python -m docs.generate`.

A page holds a line `<!-- generated: NAME -->`; what follows it, up to `<!-- end -->`, is replaced.
"""

import re
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from bigbrotr.config.settings import AlertTarget, Config, RelaySettings, SourceSettings
from bigbrotr.transfer.datasets import BY_MONTH, WHOLE, Column

DOCS = Path(__file__).parent
PART = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
# Tables of which a file may hold any number.
MANY: dict[str, tuple[str, type[msgspec.Struct]]] = {
    "alerts.to": ("alerts.to.NAME", AlertTarget),
    "finder.sources": ("finder.sources.NAME", SourceSettings),
    "synchronizer.relays": ('synchronizer.relays."wss://…"', RelaySettings),
}
UNITS = {"_per_s": "a second", "_s": "seconds", "_days": "days", "_bytes": "bytes", "_bits": "bits"}
ALIKE = ("networks.tor", "networks.i2p", "networks.loki", "networks.local")
SPANS = ((86_400, "d"), (3_600, "h"), (60, "min"))


def settings() -> str:
    """Every setting by table: default, what is allowed, meaning."""
    return "\n".join(_tables(Config(), Config, "")) + "\n"


def _tables(values: msgspec.Struct | None, kind: type[msgspec.Struct], name: str) -> Iterator[str]:
    below: list[tuple[msgspec.Struct | None, type[msgspec.Struct], str]] = []
    rows: list[str] = []
    hints = get_type_hints(kind, include_extras=True)
    for field in msgspec.structs.fields(kind):
        inner = _inner(hints[field.name])
        table = f"{name}.{field.name}" if name else field.name
        if table in MANY:
            many, each = MANY[table]
            below.append((None, each, many))
        elif isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            below.append((getattr(values, field.name, None), inner, table))
        else:
            default = field.default if values is None else getattr(values, field.name)
            rows.append(_row(field.name, hints[field.name], default))
    if name in ALIKE:
        if name == ALIKE[0]:
            yield "The other networks have the same settings, with defaults of their own:\n"
            yield f"| table | {' | '.join(f'`{key}`' for key in hints)} |"
            yield "| --- " * (len(hints) + 1) + "|"
        yield f"| `[{name}]` | " + " | ".join(_shown(getattr(values, key)) for key in hints) + " |"
        return
    if name:
        yield f"### `[{name}]`\n"
        yield f"{' '.join((kind.__doc__ or '').split())}\n"
    if rows:
        yield from ("| setting | default | allowed | meaning |", "| --- | --- | --- | --- |", *rows)
        yield ""
    for value, each, table in below:
        yield from _tables(value, each, table)
    if name == "networks":
        yield ""


def _row(name: str, hint: Any, default: object) -> str:
    cells = (f"`{name}`", _default(name, default), _allowed(name, hint), _meaning(hint))
    return f"| {' | '.join(each.replace('|', chr(92) + '|') for each in cells)} |"


def _default(name: str, value: object) -> str:
    """A default; long times and sizes also in units that one knows by heart."""
    words = _shown(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if name.endswith("_s") and value >= 60:
            size, unit = next((size, unit) for size, unit in SPANS if value >= size)
            words += f" ({value / size:g} {unit})"
        elif name.endswith("_bytes"):
            words += (
                f" ({value / 1024:g} KiB)" if value < 1 << 20 else f" ({value / (1 << 20):g} MiB)"
            )
    return words


def _inner(hint: Any) -> Any:
    """A type without its notes, and without the None of what may be left out."""
    while get_origin(hint) is not None and hasattr(hint, "__metadata__"):
        hint = get_args(hint)[0]
    choices = [each for each in get_args(hint) if each is not type(None)]
    if type(None) in get_args(hint) and len(choices) == 1:
        return _inner(choices[0])
    return hint


def _metas(hint: Any) -> Iterator[msgspec.Meta]:
    yield from getattr(hint, "__metadata__", ())
    for each in get_args(hint):
        if hasattr(each, "__metadata__") or type(None) in get_args(each):
            yield from _metas(each)


def _meaning(hint: Any) -> str:
    return next((meta.description for meta in _metas(hint) if meta.description), "")


def _allowed(name: str, hint: Any) -> str:
    inner = _inner(hint)
    if get_origin(inner) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(inner))
    if isinstance(inner, type) and issubclass(inner, Enum):
        return ", ".join(f'`"{each.value}"`' for each in inner)
    unit = next((f" {unit}" for end, unit in UNITS.items() if name.endswith(end)), "")
    low, high = "", ""
    for meta in _metas(hint):
        low = low or (f"over {_number(meta.gt)}" if meta.gt is not None else "")
        low = low or (f"from {_number(meta.ge)}" if meta.ge is not None else "")
        high = high or (f"to {_number(meta.le)}" if meta.le is not None else "")
    if low or high:
        return f"{low} {high}".strip() + unit
    if inner is bool:
        return "`true`, `false`"
    if inner is str:
        return "text"
    return "list" if get_origin(inner) in (tuple, frozenset, list) else "table"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"


def _shown(value: object) -> str:
    if value is None or value is msgspec.NODEFAULT:
        return "-" if value is None else "required"
    return f"`{msgspec.json.encode(value).decode()}`"


def datasets() -> str:
    """The tables of a snapshot and their columns."""
    made = []
    for dataset in (*BY_MONTH, *WHOLE):
        is_divided = dataset.month is not None
        where = f"{dataset.name}/2024-05….parquet" if is_divided else f"{dataset.name}….parquet"
        order = ", ".join(dataset.order)
        made += [
            f"### `{dataset.name}`\n",
            f"{dataset.words} Sorted by {order}; `{where}`.\n",
            "| column | type | |\n| --- | --- | --- |",
            *(
                f"| `{each.name}` | {_type(each)} | {each.words.replace('|', chr(92) + '|')} |"
                for each in dataset.columns
            ),
            "",
        ]
    return "\n".join(made) + "\n"


def _type(column: Column) -> str:
    name = "list of lists of strings" if column.type == "tags" else column.type
    return f"{name}, or NULL" if column.is_optional else name


PARTS: dict[str, Callable[[], str]] = {"settings": settings, "datasets": datasets}


def pages() -> dict[Path, str]:
    """Each page that holds generated parts, as it should be."""
    found = {}
    for path in sorted(DOCS.rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        made = PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]]()}{part[3]}", text)
        if PART.search(text):
            found[path] = made
    return found


def main() -> int:
    """Writes what has changed, and says so."""
    for path, text in pages().items():
        if path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"written: {path.relative_to(DOCS.parent)}")  # noqa: T201 -- a command
    return 0


if __name__ == "__main__":
    sys.exit(main())
