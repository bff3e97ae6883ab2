"""Lays out tables in text: what is least wanted goes first where there is no room for all."""

from collections.abc import Sequence
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from bigbrotr.core.logger import printable

GAP = "  "
ELLIPSIS = "\u2026"


class Column(NamedTuple):
    """A column: its title, and how it gives way."""

    title: str
    cells: Sequence[str]
    rank: int = 0  # 0 always stays; the highest goes first
    is_number: bool = False
    least: int | None = None  # cells that it may be cut to; None: it is never cut


def lay_out(columns: Sequence[Column], width: int | None) -> list[Text]:
    """A title and a line for each row. `width` in cells; None: as wide as it takes, nothing is cut.

    Relays choose some of the words: no markup and no escape sequence may come of them.
    """
    shown = [
        column._replace(cells=[printable(cell) for cell in column.cells]) for column in columns
    ]
    if width is not None:
        while _width(shown, least=True) > width and any(column.rank for column in shown):
            shown.remove(max(shown, key=lambda column: column.rank))
    widths = [_needed(column) for column in shown]
    if width is not None:
        # What may be cut gives way, the last column first.
        for at in reversed(range(len(shown))):
            excess = sum(widths) + len(GAP) * (len(shown) - 1) - width
            least = shown[at].least
            if excess > 0 and least is not None:
                widths[at] = max(min(least, widths[at]), widths[at] - excess)
    lines = [Text(_line([c.title for c in shown], shown, widths), style="bold")]
    count = len(shown[0].cells) if shown else 0
    return lines + [Text(_line([c.cells[n] for c in shown], shown, widths)) for n in range(count)]


def _needed(column: Column) -> int:
    return max(map(cell_len, (column.title, *column.cells)))


def _width(columns: Sequence[Column], *, least: bool) -> int:
    widths = (
        min(_needed(c), c.least) if least and c.least is not None else _needed(c) for c in columns
    )
    return sum(widths) + len(GAP) * (len(columns) - 1)


def _line(cells: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> str:
    parts = []
    for cell, column, width in zip(cells, columns, widths, strict=True):
        if cell_len(cell) > width:
            parts.append(set_cell_size(cell, width - 1) + ELLIPSIS)
        elif column.is_number:
            parts.append(" " * (width - cell_len(cell)) + cell)
        else:
            parts.append(cell + " " * (width - cell_len(cell)))
    return GAP.join(parts).rstrip()
