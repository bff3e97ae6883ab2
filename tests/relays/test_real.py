"""The real relays start, take events, and give them back."""

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.relays.events import make_event
from tests.relays.real import local_relay, nostr_relay

Start = Callable[..., AbstractAsyncContextManager[str]]

EVENTS = [
    make_event(1_600_000_000 + n // 2, kind=1 + n % 3, content=f'"{n}"\n', tags=[["t", "x"]])
    for n in range(250)
]


async def ask(url: str, wanted: dict[str, Any]) -> list[dict[str, Any]]:
    async with connect(url, compression=None) as socket:
        await socket.send(json.dumps(["REQ", "all", wanted]))
        events = []
        async for frame in socket:
            verb, *rest = json.loads(frame)
            if verb == "EOSE":
                break
            assert (verb, rest[0]) == ("EVENT", "all")
            events.append(rest[1])
        return events


def by_id(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(events, key=lambda event: str(event["id"]))


@pytest.mark.parametrize("start", [local_relay, nostr_relay])
async def test_a_real_relay_gives_back_what_it_takes(start: Start, tmp_path: Path) -> None:
    async with start(tmp_path, EVENTS) as url:
        events = await ask(url, {"since": 0, "limit": 500})
        assert by_id(events) == by_id(EVENTS)
        times = [event["created_at"] for event in events]
        assert times == sorted(times, reverse=True)


@pytest.mark.parametrize(("start", "is_included"), [(local_relay, True), (nostr_relay, False)])
async def test_whether_until_is_included(start: Start, is_included: bool, tmp_path: Path) -> None:
    async with start(tmp_path, EVENTS[:2]) as url:
        second = EVENTS[0]["created_at"]
        events = await ask(url, {"since": second, "until": second})
        assert len(events) == (2 if is_included else 0)
