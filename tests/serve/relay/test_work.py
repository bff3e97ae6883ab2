"""Who has used much of the database's time waits, and nobody else does."""

import asyncio

import pytest

from bigbrotr.serve.limits import REMEMBERED
from bigbrotr.serve.relay.work import WAITING, Desk, NoTimeError, Work


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_time_is_paid_for_afterwards() -> None:
    clock = Clock()
    work = Work(0.5, 10.0, clock)
    assert work.missing("a") == 0.0
    work.spend("a", 9.0)
    assert work.missing("a") == 0.0
    work.spend("a", 4.0)
    assert work.missing("a") == pytest.approx(6.0)  # three seconds, at half of one a second
    assert work.missing("b") == 0.0
    clock.now += 5.0
    assert work.missing("a") == pytest.approx(1.0)
    clock.now += 1000.0
    work.spend("a", 11.0)  # no more than ten seconds were saved
    assert work.missing("a") == pytest.approx(2.0)


def test_without_a_rate_everything_is_free() -> None:
    work = Work(0.0, 1.0)
    work.spend("a", 1e9)
    assert work.missing("a") == 0.0


def test_addresses_are_forgotten() -> None:
    work = Work(1.0, 1.0)
    for number in range(REMEMBERED + 5):
        work.spend(f"{number}", 1000.0)
    assert work.missing("0") == 0.0
    assert work.missing(f"{REMEMBERED}") > 0
    assert len(work._levels) == REMEMBERED


async def test_so_many_questions_at_once_and_so_many_that_wait() -> None:
    desk = Desk(Work(0.0, 1.0), 2)
    asked: list[int] = []
    go_on = asyncio.Event()

    async def question(number: int) -> int:
        asked.append(number)
        await go_on.wait()
        return number

    numbers = range(2 + 2 * WAITING)
    tasks = [
        asyncio.create_task(desk.ask("a", lambda number=number: question(number)))  # type: ignore[misc]
        for number in numbers
    ]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert asked == [0, 1]
    with pytest.raises(NoTimeError, match=r"^rate-limited: too many questions"):
        await desk.ask("a", lambda: question(-1))
    tasks[50].cancel()  # who waits may go
    go_on.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found.pop(50), asyncio.CancelledError)
    assert found == [number for number in numbers if number != 50]
    assert asked == found
    assert await desk.ask("a", lambda: question(7)) == 7


async def test_what_fails_is_paid_for_as_well() -> None:
    clock = Clock()
    desk = Desk(Work(0.01, 0.001, clock), 1)

    async def question() -> None:
        await asyncio.sleep(0.01)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await desk.ask("a", question)
    assert desk.work.missing("a") > 0
    desk.work.spend("a", 1.0)
    with pytest.raises(NoTimeError, match=r"^rate-limited: this address"):
        await desk.ask("a", question)
