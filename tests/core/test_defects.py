"""Defects that strangers bring to light: told, but not for ever; and what is none."""

import asyncio
from collections.abc import Sequence

import asyncpg
import pytest

from bigbrotr.config.settings import PoolSettings, Timeouts
from bigbrotr.core import defects
from bigbrotr.core.defects import Defects, end_of, is_outside, one_by_one
from bigbrotr.core.logger import Logger, configure
from bigbrotr.core.pool import Pool
from bigbrotr.errors import DatabaseError, LeaseLostError


def caught(error: Exception) -> Exception:
    """The same, as it is raised from here."""
    try:
        raise error
    except Exception as same:
        return same


def test_a_place_is_told_once_an_hour(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure("INFO")
    now = 100.0
    monkeypatch.setattr("bigbrotr.core.defects.time.monotonic", lambda: now)
    noted = Defects(Logger("test"))
    words = []
    for n in range(50):
        try:
            raise ExceptionGroup("several", [caught(KeyError(f"relay {n}"))])
        except ExceptionGroup as error:
            words.append(noted.note(error, relay=n))
    assert words == [f"KeyError: 'relay {n}'" for n in range(50)]
    assert len(caplog.records) == 1
    assert "Traceback" in (caplog.records[0].exc_text or caplog.text)
    try:
        raise KeyError("elsewhere")
    except KeyError as error:
        noted.note(error)
    assert len(caplog.records) == 2
    now += defects.AGAIN_S
    try:
        raise ExceptionGroup("several", [caught(KeyError("again"))])
    except ExceptionGroup as error:
        noted.note(error)
    assert "times_before=49" in caplog.records[2].getMessage()


def test_no_memory_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defects, "REMEMBERED", 10)
    noted = Defects(Logger("test"))
    for n in range(50):
        try:
            exec("\n" * n + "raise KeyError")
        except KeyError as error:
            noted.note(error)
    assert len(noted._told) == 10


@pytest.mark.parametrize(
    ("error", "is_theirs"),
    [
        (LeaseLostError("gone"), True),
        (DatabaseError("gone"), True),
        (asyncpg.ConnectionDoesNotExistError("gone"), True),
        (asyncpg.InterfaceError("gone"), True),
        (asyncpg.InternalClientError("gone"), True),
        (asyncpg.UndefinedFunctionError("gone"), True),
        (asyncio.CancelledError(), True),
        (asyncpg.DataError("a row that does not fit"), False),
        (asyncpg.ProgramLimitExceededError("a row that does not fit"), False),
        (ConnectionResetError("the relay's"), False),
        (TimeoutError(), False),
        (KeyError("x"), False),
    ],
)
def test_whose_it_is(error: BaseException, is_theirs: bool) -> None:
    assert is_outside(error) is is_theirs
    assert is_outside(BaseExceptionGroup("", [KeyError(), error])) is is_theirs


async def test_a_database_that_does_not_answer_is_no_defect(dsn: str) -> None:
    settings = PoolSettings(timeouts=Timeouts(command=1.0))
    async with Pool(settings=settings, dsn=dsn) as pool:
        with pytest.raises(TimeoutError) as late:
            await pool.execute("SELECT pg_sleep(60)", timeout=0.05)
        assert is_outside(late.value)


async def test_two_who_wait_for_one_task_both_learn_whose_the_error_is(dsn: str) -> None:
    settings = PoolSettings(timeouts=Timeouts(command=1.0))
    async with Pool(settings=settings, dsn=dsn) as pool:
        task = asyncio.create_task(pool.execute("SELECT pg_sleep(60)", timeout=0.05))
        for _ in range(2):
            with pytest.raises(TimeoutError) as late:
                await end_of(task)
            assert is_outside(late.value)


async def test_rows_that_do_not_fit_are_found() -> None:
    recorded: list[int] = []

    async def record(rows: Sequence[int]) -> None:
        if any(row % 10 == 3 for row in rows):
            raise asyncpg.DataError("three")
        recorded.extend(rows)

    await one_by_one(range(40), record, lambda row, _: 1000 + row + 1)
    assert sorted(recorded) == sorted(
        [n for n in range(40) if n % 10 != 3] + [1004, 1014, 1024, 1034]
    )
    with pytest.raises(asyncpg.DataError):
        await one_by_one([3], record, lambda *_: None)
