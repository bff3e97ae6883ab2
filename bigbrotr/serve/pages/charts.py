"""Draws charts as SVG, made here: no script, no foreign host, and a table under each."""

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

HEIGHT = 100.0  # of the plot, in its own units
MOST_SERIES = 6  # there are as many colours


class Series(NamedTuple):
    """Values of one kind, one for each place on the axis; None: there is none."""

    name: str
    values: Sequence[float | None]


class Chart(NamedTuple):
    """A drawing with its axes, and the figures in it as a table."""

    svg: Markup
    top: float  # what the height of the plot stands for
    labels: Sequence[str]  # of the places on the axis
    series: Sequence[Series]

    @property
    def ends(self) -> tuple[str, str, str]:
        """Labels of the first place, of the middle and of the last."""
        if not self.labels:
            return "", "", ""
        return self.labels[0], self.labels[len(self.labels) // 2], self.labels[-1]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to see."""
        return not any(value for each in self.series for value in each.values)

    @property
    def rows(self) -> list[tuple[str, list[float | None]]]:
        """The figures by place."""
        return [
            (label, [each.values[place] for each in self.series])
            for place, label in enumerate(self.labels)
        ]


def nice(top: float) -> float:
    """A round number that is not below."""
    if top <= 0:
        return 1.0
    step = 10.0 ** (len(str(int(top))) - 1) if top >= 1 else 0.1
    for factor in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10):
        if step * factor >= top:
            return step * factor
    return step * 10


def bars(labels: Sequence[str], series: Sequence[Series], unit: str = "") -> Chart:
    """Bars, of several series one upon the other."""
    sums = [sum(each.values[place] or 0.0 for each in series) for place in range(len(labels))]
    top = nice(max(sums, default=0.0))
    parts = []
    for place, label in enumerate(labels):
        below = 0.0
        told = []
        rects = []
        for number, each in enumerate(series):
            value = each.values[place] or 0.0
            tall = value / top * HEIGHT
            if tall > 0:
                at = HEIGHT - below - tall
                rects.append(
                    f'<rect class="s{number % MOST_SERIES + 1}" x="{place + 0.08:.2f}"'
                    f' y="{at:.3f}" width="0.84" height="{tall:.3f}"/>'
                )
                below += tall
                told.append(f"{each.name}: {value:,.0f}{unit}".replace(",", "\u202f"))
        title = escape(f"{label}\n" + "\n".join(reversed(told)) if told else f"{label}: 0")
        parts.append(
            f'<g><title>{title}</title><rect class="hit" x="{place}" y="0" width="1"'
            f' height="{HEIGHT:.0f}"/>{"".join(rects)}</g>'
        )
    return Chart(_svg(len(labels), parts), top, labels, series)


def lines(labels: Sequence[str], series: Sequence[Series], unit: str = "") -> Chart:
    """Lines; they break where there is no value."""
    top = nice(max((v for each in series for v in each.values if v is not None), default=0.0))
    parts = []
    for number, each in enumerate(series):
        runs: list[list[str]] = [[]]
        for place, value in enumerate(each.values):
            if value is None:
                runs.append([])
            else:
                runs[-1].append(f"{place + 0.5:.2f},{HEIGHT - value / top * HEIGHT:.3f}")
        parts += [
            # A round end makes a point of a line that has no length.
            f'<polyline class="l{number % MOST_SERIES + 1}" points="{" ".join(run)}"/>'
            for run in (each * 2 if len(each) == 1 else each for each in runs)
            if run
        ]
    for place, label in enumerate(labels):
        told = [
            f"{each.name}: {each.values[place]:,.0f}{unit}".replace(",", "\u202f")
            for each in series
            if each.values[place] is not None
        ]
        if told:
            title = escape("\n".join([label, *told]))
            parts.append(
                f'<rect class="hit" x="{place}" y="0" width="1" height="{HEIGHT:.0f}">'
                f"<title>{title}</title></rect>"
            )
    return Chart(_svg(len(labels), parts), top, labels, series)


class Part(NamedTuple):
    """A stretch of a strip, from 0 to 1, of a kind that has a colour, and what it is."""

    since: float
    until: float
    kind: str
    title: str


def strip(parts: Sequence[Part], *, least: float = 0.0015) -> Markup:
    """A strip of coloured stretches; the thinnest can still be seen."""
    rects = [
        f'<rect class="{part.kind}" x="{part.since * 1000:.2f}" y="0"'
        f' width="{max(part.until - part.since, least) * 1000:.2f}" height="10">'
        f"<title>{escape(part.title)}</title></rect>"
        for part in parts
    ]
    return Markup(  # noqa: S704 -- of numbers, our own words and what is escaped above
        '<svg class="strip" viewBox="0 0 1000 10" preserveAspectRatio="none" aria-hidden="true">'
        f"{''.join(rects)}</svg>"
    )


def _svg(places: int, parts: Sequence[str]) -> Markup:
    return Markup(  # noqa: S704 -- of numbers, our own words and what is escaped above
        f'<svg class="plot" viewBox="0 0 {max(places, 1)} {HEIGHT:.0f}"'
        f' preserveAspectRatio="none" aria-hidden="true">{"".join(parts)}</svg>'
    )
