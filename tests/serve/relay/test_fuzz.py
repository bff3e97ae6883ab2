"""Any filters give what a relay would give that looks at every event, and no frame does harm.

`BIGBROTR_FUZZ` says how many requests there are, and five times as many frames;
`BIGBROTR_FUZZ_SEED` which ones. 50,000 take twenty minutes, and want `--timeout 0`.
"""

import asyncio
import json
import os
import random
from typing import Any

import pytest

from bigbrotr.core.brotr import Brotr
from bigbrotr.models.event import Event
from bigbrotr.serve.relay import connection
from tests.kit.events import NOW, make_event, pubkey, wire
from tests.serve.relay.client import Client, client_of, newest_first, relay_of, store

ROUNDS = int(os.environ.get("BIGBROTR_FUZZ", "400"))
SEED = int(os.environ.get("BIGBROTR_FUZZ_SEED", "17"))
FRAMES = 40  # to a connection
TIMES = [0, 1, NOW - 400 * 86_400, NOW - 1, NOW, NOW + 1, NOW + 2, 2**40, 2**63 - 1]
KINDS = [0, 1, 7, 30023]
KINDS_OF_ANSWERS = ["EVENT", "EOSE", "CLOSED", "NOTICE", "OK", "COUNT", "NEG-MSG", "NEG-ERR"]
WORDS = ["a", "b", "ünï 🦣", "", "e" * 64]
LETTERS = ["e", "t", "E"]


def some_events(chance: random.Random, number: int) -> list[Event]:
    made = {}
    for n in range(number):
        tags = [
            [chance.choice([*LETTERS, "long"]), *chance.choices(WORDS, k=chance.randint(0, 2))]
            for _ in range(chance.randint(0, 3))
        ]
        event = make_event(
            chance.choice(TIMES), chance.choice(KINDS), tags, f"{n}", chance.randrange(4)
        )
        made[event["id"]] = Event.from_json(wire(event))
    return list(made.values())


def some_filter(chance: random.Random, events: list[Event]) -> dict[str, Any]:
    """A filter; most of its conditions are met by some event."""
    found: dict[str, Any] = {}
    if chance.random() < 0.2:
        found["ids"] = [
            chance.choice(events).id.hex() if chance.random() < 0.9 else f"{n:064x}"
            for n in range(chance.randint(0, 8))
        ]
    if chance.random() < 0.4:
        found["authors"] = [pubkey(chance.randrange(6)) for _ in range(chance.randint(0, 3))]
    if chance.random() < 0.5:
        found["kinds"] = chance.choices([*KINDS, 5, 65535], k=chance.randint(0, 4))
    for letter in LETTERS:
        if chance.random() < 0.2:
            found["#" + letter] = chance.choices(WORDS, k=chance.randint(0, 3))
    if chance.random() < 0.3:
        found["since"] = chance.choice(TIMES)
    if chance.random() < 0.3:
        found["until"] = chance.choice([*TIMES, 2**64])
    if chance.random() < 0.5:
        found["limit"] = chance.choice([0, 1, 2, 3, 10, 100, 10**30])
    return found


def expected(events: list[Event], filters: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """What a dumb relay answers: it looks at each event for each filter."""
    found: set[str] = set()
    has_more, is_asked = False, False
    for value in filters:
        matching = newest_first(event for event in events if matches(value, event))
        limit = min(value.get("limit", 500), 5000)
        found.update(matching[:limit])
        has_more |= len(matching) > limit > 0
        is_asked |= limit > 0
    ids = [each for each in newest_first(events) if each in found]
    return ids, ["more" if has_more else "finish"] if is_asked else []


def matches(value: dict[str, Any], event: Event) -> bool:
    return all(
        (
            event.id.hex() in value.get("ids", [event.id.hex()]),
            event.pubkey.hex() in value.get("authors", [event.pubkey.hex()]),
            event.kind in value.get("kinds", [event.kind]),
            value.get("since", 0) <= event.created_at <= value.get("until", 2**63),
            *(
                any(tag[0] == name[1:] and tag[1:2] and tag[1] in texts for tag in event.tags)
                for name, texts in value.items()
                if name.startswith("#")
            ),
        )
    )


async def test_any_filters_are_answered_as_by_a_dumb_relay(brotr: Brotr, dsn: str) -> None:
    chance = random.Random(SEED)
    events = some_events(chance, 300)
    await store(brotr, events)
    async with relay_of(dsn) as place, client_of(place.url) as client:
        for round_ in range(ROUNDS):
            filters = [some_filter(chance, events) for _ in range(chance.choice([1, 1, 2, 5]))]
            assert await client.stored(*filters, name=f"{round_}") == expected(events, filters)
            if round_ % 10 == 0:
                number = len(
                    {event.id for event in events if any(matches(each, event) for each in filters)}
                )
                counted = (await client.ask("COUNT", "n", *filters))[2]
                assert counted["count"] == number, filters


async def test_any_filters_are_told_of_what_they_match(brotr: Brotr, dsn: str) -> None:
    chance = random.Random(SEED + 1)
    events = some_events(chance, 200)
    async with relay_of(dsn) as place, client_of(place.url) as client:
        asked = {
            f"{n}": [some_filter(chance, events) for _ in range(chance.choice([1, 2]))]
            for n in range(80)
        }
        for name, filters in asked.items():
            await client.say("REQ", name, *filters)
            assert (await client.until("EOSE"))[-1][1] == name
        await store(brotr, events)
        wanted = {
            (name, event.id.hex())
            for name, filters in asked.items()
            for event in events
            if any(matches(each, event) for each in filters)
        }
        found = [await client.hear() for _ in wanted]
        assert {(frame[1], frame[2]["id"]) for frame in found} == wanted
        assert (await client.ask("COUNT", "n", {}))[0] == "COUNT"


def mangled(chance: random.Random, frame: str) -> str:
    """A frame with some of its characters wrong."""
    text = list(frame)
    for _ in range(chance.randint(0, 4)):
        place = chance.randrange(len(text) + 1)
        match chance.randrange(4):
            case 0:
                del text[place : place + chance.randint(1, 5)]
            case 1:
                text.insert(place, chance.choice(['"', "[", "]", "{", "}", ",", "\\u", "1e9", "-"]))
            case 2:
                text[place : place + 1] = chr(chance.choice([0, 9, 127, 0x1F9A3, 0xFFFF]))
            case _:
                text[place:place] = text[place // 2 : place]
    return "".join(text)


async def test_no_frame_does_harm(brotr: Brotr, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MOST_GARBAGE", 10**9)
    chance = random.Random(SEED + 2)
    events = some_events(chance, 50)
    await store(brotr, events)

    def some_frame() -> str:
        name: Any = chance.choice(["a", "b", "", "x" * 64, "x" * 65, 5, None])
        value: Any = some_filter(chance, events)
        if chance.random() < 0.3:
            value[chance.choice(["ids", "kinds", "since", "limit", "search", "#e", "x"])] = (
                chance.choice(
                    [
                        None,
                        "x",
                        -1,
                        1.5,
                        [None],
                        [[]],
                        {},
                        True,
                        2**70,
                        ["\x00"],
                        "\ud800",
                        ["\ud800"],
                    ]
                )
            )
        payload = chance.choice(["6100000200", "61", "", "zz", chance.randbytes(20).hex(), 7])
        kind = chance.choice(
            [
                "REQ",
                "REQ",
                "COUNT",
                "CLOSE",
                "NEG-OPEN",
                "NEG-MSG",
                "NEG-CLOSE",
                "EVENT",
                "AUTH",
                "?",
            ]
        )
        rest = {"NEG-OPEN": [name, value, payload], "NEG-MSG": [name, payload]}
        frame = [kind, *rest.get(kind, [name, value])]
        return mangled(chance, json.dumps(frame, ensure_ascii=chance.random() < 0.5))

    async def talk(client: Client, frames: list[str]) -> None:
        async def listen() -> None:
            while True:
                kind, *rest = await client.hear()
                assert kind in KINDS_OF_ANSWERS
                if kind == "COUNT" and rest[0] == "last":
                    return

        listening = asyncio.create_task(listen())
        for frame in frames:
            await client.socket.send(frame.encode("utf-8", "replace").decode())
        await client.say("COUNT", "last", {})
        await listening

    async with relay_of(dsn) as place:
        defects: list[Exception] = []
        place.relay.defects.note = lambda error, **_: defects.append(error)
        place.relay.follower._defects.note = lambda error, **_: defects.append(error)
        for _ in range(5 * ROUNDS // FRAMES):
            async with client_of(place.url) as client:
                await talk(client, [some_frame() for _ in range(FRAMES)])
        assert not defects
        async with client_of(place.url) as client:
            assert (await client.stored({}))[0] == newest_first(events)
