"""Look-ups that block: the slow ones keep nobody else waiting, and our queue is nobody's time."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from bigbrotr.net import lookup
from bigbrotr.net.lookup import Lookups, NoTurnError
from tests.kit.processes import until

FOUND = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 1))]


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Names that begin with "slow" have no answer until this is set; others at once."""
    is_set = threading.Event()

    def getaddrinfo(host: str, *_: Any, **__: Any) -> Any:
        if host.startswith("slow"):
            is_set.wait(30.0)
        if host.startswith("no"):
            raise socket.gaierror(socket.EAI_NONAME, "no")
        return FOUND

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(lookup, "AT_ONCE", 4)
    monkeypatch.setattr(lookup, "MOST_SLOW", 8)
    monkeypatch.setattr(lookup, "SLOW_S", 0.05)
    yield is_set
    is_set.set()


async def find(lookups: Lookups, host: str, wait_s: float = 10.0, timeout_s: float = 10.0) -> Any:
    return await lookups.find(host, 1, wait_s=wait_s, timeout_s=timeout_s)


async def test_the_slow_let_others_pass(release: threading.Event) -> None:
    lookups = Lookups()
    async with asyncio.TaskGroup() as group:
        slow = [group.create_task(find(lookups, f"slow{n}")) for n in range(8)]
        await asyncio.sleep(0)
        quick = [group.create_task(find(lookups, f"name{n}")) for n in range(100)]
        for each in quick:
            answer = await each
            assert answer.found == FOUND
            assert answer.took_s < 5.0
        assert not any(each.done() for each in slow)
        with pytest.raises(socket.gaierror):
            await find(lookups, "no")
        release.set()
    assert {task.result().found == FOUND for task in slow} == {True}
    assert (lookups._running, lookups._slow) == (0, 0)


async def test_who_has_no_turn_was_not_asked_for(release: threading.Event) -> None:
    lookups = Lookups()
    async with asyncio.TaskGroup() as group:
        slow = [group.create_task(find(lookups, f"slow{n}")) for n in range(12)]
        await until(lambda: lookups._slow == 8, "the slow ones are put aside")
        with pytest.raises(NoTurnError):
            await find(lookups, "name", wait_s=0.05)
        # Nor does waiting count where it was not in vain.
        waits = group.create_task(find(lookups, "name", timeout_s=5.0))
        asked = time.monotonic()
        await asyncio.sleep(0.2)
        release.set()
        assert (await waits).took_s < time.monotonic() - asked - 0.1
        await asyncio.gather(*slow)
    assert (lookups._running, lookups._slow) == (0, 0)


async def test_nobody_who_goes_away_keeps_a_place(release: threading.Event) -> None:
    lookups = Lookups()
    for n in range(4):
        with pytest.raises(TimeoutError):
            await find(lookups, f"slow{n}", timeout_s=0.001)
    waits = [asyncio.create_task(find(lookups, f"slow{n}")) for n in range(20)]
    await asyncio.sleep(0.01)
    for each in waits:
        each.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
    release.set()
    assert (await find(lookups, "name")).found == FOUND
    await until(lambda: not lookups._running + lookups._slow, "the threads have ended")
    assert not lookups._waiting


async def test_no_more_threads(release: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    lookups = Lookups()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(NoTurnError, match="can't start"):
            await find(lookups, "name")
    assert (await find(lookups, "name")).found == FOUND
    assert lookups._running == 0
