"""The real relays start, take events, give them back, and can be walked to the end."""

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from bigbrotr.models.coverage import Span, merge
from bigbrotr.nostr.paging import Paging
from bigbrotr.nostr.questions import End, PageAnswer
from tests.kit.events import make_event
from tests.kit.real import local_relay, nostr_relay

Start = Callable[..., AbstractAsyncContextManager[str]]

EVENTS = [
    make_event(
        1_600_000_000 + n // 2, kind=(1, 7, 1063)[n % 3], content=f'"{n}"\n', tags=[["t", "x"]]
    )
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


@pytest.fixture(params=["LocalRelay", "nostr-relay"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Start:
    return local_relay if request.param == "LocalRelay" else partial(nostr_relay, tmp_path)


@pytest.mark.slow
async def test_a_real_relay_gives_back_what_it_takes(start: Start) -> None:
    async with start(EVENTS) as url:
        events = await ask(url, {"since": 0, "limit": 500})
        assert by_id(events) == by_id(EVENTS)
        times = [event["created_at"] for event in events]
        assert times == sorted(times, reverse=True)
        second = EVENTS[100]["created_at"]
        within = await ask(url, {"since": second, "until": second})
        assert len(within) == (2 if start is local_relay else 0)  # one excludes its `until`


@pytest.mark.slow
async def test_a_walk_over_a_real_relay_proves_everything(start: Start) -> None:
    wanted = Span(1_600_000_010, 1_600_000_100)
    inside = {e["id"] for e in EVENTS if wanted.since <= e["created_at"] < wanted.until}
    paging = Paging(wanted, limit=20)
    found: set[str] = set()
    proven: list[Span] = []
    async with start(EVENTS) as url:
        while question := paging.ask():
            asked = {"since": question.since, "until": question.until, "limit": question.limit}
            events = await ask(url, asked)
            found |= {event["id"] for event in events}
            progress = paging.answer(
                PageAnswer([event["created_at"] for event in events], End.EOSE)
            )
            assert progress.gaps == []
            proven += [span for span, _ in progress.proven]
    assert merge(proven) == [wanted]
    assert found >= inside
    assert paging.habits.until_excluded == (start is not local_relay)
