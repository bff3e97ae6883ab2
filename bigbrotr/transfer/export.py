"""Writes an archive into a folder of Parquet files, once. `snapshot` keeps one current instead."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from bigbrotr.core.pool import Pool
from bigbrotr.errors import ConfigError
from bigbrotr.models.policy import View
from bigbrotr.reads.datasets import moment
from bigbrotr.transfer import parquet
from bigbrotr.transfer.datasets import WHOLE, month_span
from bigbrotr.transfer.writing import SERIES, Made, Pace, TableWriter


class Exported(NamedTuple):
    """What was written."""

    files: int
    bytes: int
    rows: dict[str, int]  # by table


class Progress(NamedTuple):
    """How far a walk through the events is."""

    events: int
    of: int
    month: str


async def export_parquet(
    pool: Pool,
    folder: Path,
    view: View,
    *,
    months: Sequence[str] | None = None,
    pace: float = 1.0,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Exported:
    """Writes all tables, or those by month of some months alone, into a new or empty folder. A file
    has its name when it is whole.

    Raises:
        ConfigError: the folder holds something, or cannot be written; or pyarrow is missing.
    """
    parquet.require()
    _make_empty(folder)
    exported = Exported(0, 0, {})
    try:
        async with moment(pool, view) as now:
            done = 0
            month = ""

            def count(number: int) -> None:
                nonlocal done
                done += number
                on_progress(Progress(done, total, month))

            writer = TableWriter(now, folder, Pace(pace), count)
            parts = {
                each: (await now.part(*month_span(each))).events
                for each in await writer.months_of_events()
                if months is None or each in months
            }
            total = sum(parts.values())
            for month in parts:
                exported = _keep(exported, folder, await writer.month(month))
            for dataset in SERIES:
                for each in await writer.months_of_series(dataset):
                    if months is None or each in months:
                        exported = _keep(exported, folder, await writer.series(dataset, each))
            for dataset in WHOLE:
                exported = _keep(exported, folder, await writer.whole(dataset))
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        raise ConfigError(f"cannot write into {folder}: {error.strerror}") from None
    return exported


def _make_empty(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        is_empty = not any(folder.iterdir())
    except OSError as error:
        raise ConfigError(f"cannot write into {folder}: {error.strerror}") from None
    if not is_empty:
        raise ConfigError(
            f"{folder} is not empty: an export overwrites nothing; name a new folder, or keep one "
            "current by `bigbrotr snapshot`"
        )


def _keep(exported: Exported, folder: Path, made: Sequence[Made]) -> Exported:
    rows = dict(exported.rows)
    for each in made:
        each.path.rename(folder / f"{each.name}.parquet")
        rows[each.dataset.name] = rows.get(each.dataset.name, 0) + each.written.rows
    return Exported(
        exported.files + len(made),
        exported.bytes + sum(each.written.bytes for each in made),
        rows,
    )
