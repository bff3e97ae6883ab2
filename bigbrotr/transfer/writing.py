"""Writes the tables of one moment of an archive as Parquet files, in a measured way."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import anyio.to_thread

from bigbrotr.reads.datasets import Moment
from bigbrotr.transfer import parquet
from bigbrotr.transfer.datasets import (
    DOCUMENTS,
    DROPPED,
    EVENTS,
    FIGURES,
    HEADERS,
    PRESENCE,
    ROUND_TRIPS,
    SURROGATES,
    Dataset,
    month_span,
    months_between,
)

UNFINISHED = ".unfinished"
SERIES = (ROUND_TRIPS, DOCUMENTS)  # of measurements, by month


class Made(NamedTuple):
    """A file that was written, under a name for the time being."""

    dataset: Dataset
    month: str | None
    path: Path
    written: parquet.Written

    @property
    def name(self) -> str:
        """What it is to be called, without its ending."""
        return self.dataset.name if self.month is None else f"{self.dataset.name}/{self.month}"


class Pace:
    """Works only for a share of the time, so that others get on; up to a time by which it has to
    come to an end, and hurries then."""

    def __init__(self, share: float = 1.0, patience_s: float = float("inf")) -> None:
        self._share = share
        self._hurries_at = time.monotonic() + patience_s
        self._since = time.monotonic()

    @property
    def is_hurried(self) -> bool:
        """Whether it works all the time by now."""
        return time.monotonic() >= self._hurries_at

    async def rest(self) -> None:
        """Rests, as long as the work since the last rest demands."""
        worked_s = time.monotonic() - self._since
        if self._share < 1.0 and not self.is_hurried:
            left_s = self._hurries_at - time.monotonic()
            await anyio.sleep(min(worked_s * (1 / self._share - 1), left_s))
        self._since = time.monotonic()


class TableWriter:
    """Writes tables of a moment into a folder, each file under an unfinished name.

    `on_events` is told how many events were written since it was last.
    """

    def __init__(
        self,
        moment: Moment,
        folder: Path,
        pace: Pace,
        on_events: Callable[[int], None] = lambda number: None,
    ) -> None:
        self._moment = moment
        self._folder = folder
        self._pace = pace
        self._on_events = on_events
        self._footer = {"bigbrotr.view": moment.view.value}

    async def months_of_events(self) -> list[str]:
        """The months in which there may be events."""
        spans = await self._moment.spans_of_events()
        return sorted({month for span in spans for month in months_between(*span)})

    async def months_of_series(self, dataset: Dataset) -> list[str]:
        """The months of a series of measurements."""
        if dataset is ROUND_TRIPS:
            span = await self._moment.span_of_round_trips()
        else:
            span = await self._moment.span_of_documents()
        return [] if span is None else months_between(*span)

    async def month(self, month: str) -> list[Made]:
        """Writes the events of a month, who holds them, and who has dropped them."""
        first, last = month_span(month)
        whole = EVENTS if self._moment.is_whole else HEADERS
        wanted = (whole, SURROGATES, PRESENCE, DROPPED)
        presence = parquet.Presence(self._moment.relays)
        with self._files(month, *wanted) as (events, surrogates, pairs, dropped):

            def put(rows: Sequence[Any]) -> None:
                odd = [row for row in rows if row["raw"] and not parquet.is_unicode(row["raw"])]
                if odd:
                    odd_ids = {row["id"] for row in odd}
                    plain = [row for row in rows if row["id"] not in odd_ids]
                    found = [(row["id"], row["created_at"], row["raw"], row["sig"]) for row in odd]
                    surrogates.write(parquet.columns(SURROGATES, found))
                else:
                    plain = list(rows)
                if plain:
                    make = parquet.event_columns if whole is EVENTS else parquet.header_columns
                    events.write(make(plain))
                pairs.write(presence.columns(rows))

            async for rows in self._moment.events(first, last):
                await anyio.to_thread.run_sync(put, rows)
                self._on_events(len(rows))
                await self._pace.rest()
            async for rows in self._moment.dropped(first, last):
                made = parquet.columns(DROPPED, rows)
                await anyio.to_thread.run_sync(dropped.write, made)
                await self._pace.rest()
            return await self._close(
                month, dict(zip(wanted, (events, surrogates, pairs, dropped), strict=True))
            )

    async def series(self, dataset: Dataset, month: str) -> list[Made]:
        """Writes a month of a series of measurements."""
        return await self._table(
            dataset, month, self._moment.table(dataset.name, *month_span(month))
        )

    async def whole(self, dataset: Dataset) -> list[Made]:
        """Writes a table that is not divided."""
        statistic = FIGURES.get(dataset.name)
        if statistic is not None:
            return await self._table(dataset, None, self._moment.figures(statistic))
        return await self._table(dataset, None, self._moment.table(dataset.name))

    async def _table(self, dataset: Dataset, month: str | None, found: Any) -> list[Made]:
        with self._files(month, dataset) as (writer,):

            def put(rows: Sequence[Any]) -> None:
                writer.write(parquet.columns(dataset, rows))

            async for rows in found:
                await anyio.to_thread.run_sync(put, rows)
                await self._pace.rest()
            return await self._close(month, {dataset: writer})

    @contextmanager
    def _files(self, month: str | None, *datasets: Dataset) -> Iterator[list[parquet.Writer]]:
        writers: list[parquet.Writer] = []
        try:
            for dataset in datasets:
                path = self._path(dataset, month)
                path.parent.mkdir(exist_ok=True)
                writers.append(parquet.Writer(path, dataset, self._footer))
            yield writers
        except BaseException:
            for writer, dataset in zip(writers, datasets, strict=False):
                writer.abandon()
                self._path(dataset, month).unlink(missing_ok=True)
            raise

    async def _close(self, month: str | None, writers: dict[Dataset, parquet.Writer]) -> list[Made]:
        made = []
        for dataset, writer in writers.items():
            path = self._path(dataset, month)
            written = await anyio.to_thread.run_sync(writer.close)
            # Of a table that is not divided, no row says something, too.
            if written.rows or month is None:
                made.append(Made(dataset, month, path, written))
            else:
                path.unlink()
                with suppress(OSError):  # the files of other months may be there
                    path.parent.rmdir()
        return made

    def _path(self, dataset: Dataset, month: str | None) -> Path:
        name = dataset.name if month is None else f"{dataset.name}/{month}"
        return self._folder / f"{name}.parquet{UNFINISHED}"
