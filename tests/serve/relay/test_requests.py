"""Requests to the relay (NIP-01, 67): what is stored, in order, each once, and what is refused."""

from typing import Any

import pytest

from bigbrotr.config.settings import Profile
from bigbrotr.core.brotr import Brotr
from bigbrotr.models.event import Event
from tests.kit.events import NOW, make_event, pubkey, verified
from tests.serve.relay.client import client_of, ids_of, newest_first, relay_of, store

EVENTS = [
    verified(f"{n}", [["t", "odd" if n % 2 else "even"]], created_at=NOW + n // 3, key=n % 4)
    for n in range(30)
]


async def test_what_is_stored_comes_as_it_was_signed_newest_first(brotr: Brotr, dsn: str) -> None:
    odd = verified("\x00 \ud800 \\ \x7f", [["t", "\x00"]], created_at=NOW - 5)
    await store(brotr, [*EVENTS, odd])
    async with relay_of(dsn) as place, client_of(place.url) as client:
        await client.say("REQ", "all", {})
        *frames, eose = await client.until("EOSE")
        assert eose == ["EOSE", "all", ["finish"]]
        assert ids_of(frames) == newest_first([*EVENTS, odd])
        for frame in frames:
            Event.from_object(frame[2])  # verified anew
        assert await client.stored({"limit": 7}) == (newest_first(EVENTS)[:7], ["more"])
        assert await client.stored({"limit": 31}) == (ids_of(frames), ["finish"])
        # In both views, until there is something that is not to be shown.
        async with client_of(place.archive) as other:
            assert (await other.stored({}))[0] == ids_of(frames)


async def test_filters_are_asked_one_by_one_and_merged(brotr: Brotr, dsn: str) -> None:
    await store(brotr, EVENTS)
    ours = {
        key: [event for event in EVENTS if event.pubkey.hex() == pubkey(key)] for key in range(4)
    }
    async with relay_of(dsn) as place, client_of(place.url) as client:
        filters: list[Any] = [
            {"authors": [pubkey(0)], "limit": 3},
            {"#t": ["odd"], "limit": 4},
            {"kinds": [1], "limit": 5},
            {"ids": [EVENTS[0].id.hex()]},
            {"kinds": [4]},
        ]
        odd = [event for event in EVENTS if event.tags == (("t", "odd"),)]
        wanted = {
            *newest_first(ours[0])[:3],
            *newest_first(odd)[:4],
            *newest_first(EVENTS)[:5],
            EVENTS[0].id.hex(),
        }
        found, hints = await client.stored(*filters)
        assert found == [each for each in newest_first(EVENTS) if each in wanted]
        assert hints == ["more"]
        every = [{"authors": [pubkey(key)]} for key in range(4)]
        assert await client.stored(*every, {}) == (newest_first(EVENTS), ["finish"])
        assert await client.stored({"kinds": []}, {"since": 5, "until": 4}) == ([], ["finish"])


@pytest.mark.parametrize("number", [499, 500, 501, 1100])
async def test_pages_are_sent_one_after_the_other(brotr: Brotr, dsn: str, number: int) -> None:
    events = [verified(f"{n}", created_at=NOW + n // 7) for n in range(number)]
    await store(brotr, events)
    whole = newest_first(events)
    async with relay_of(dsn, bounds={"max_limit": 1100}) as place:
        async with client_of(place.url) as client:
            found, hints = await client.stored({"limit": 2000})
            assert (found, hints) == (whole, ["finish"])
            # Without a limit as many come as the document says.
            found, hints = await client.stored({})
            assert (found, hints) == (whole[:500], ["finish" if number <= 500 else "more"])
        async with client_of(place.url, compression="deflate") as client:
            assert (await client.stored({"limit": 2000}))[0] == whole
            answer = client.socket.response
            assert answer is not None
            assert "permessage-deflate" in answer.headers["Sec-WebSocket-Extensions"]


async def test_an_answer_that_bytes_cut_goes_on(brotr: Brotr, dsn: str) -> None:
    large = [verified(f"{n}" + 300_000 * "x", created_at=NOW + n) for n in range(9)]
    await store(brotr, large)
    async with relay_of(dsn) as place, client_of(place.url) as client:
        assert await client.stored({}) == (newest_first(large), ["finish"])
        for limit in range(1, 10):
            found = await client.stored({"limit": limit})
            assert found == (newest_first(large)[:limit], ["finish" if limit == 9 else "more"])


async def test_a_limit_of_zero_asks_for_what_comes(brotr: Brotr, dsn: str) -> None:
    await store(brotr, EVENTS)
    async with relay_of(dsn) as place, client_of(place.url) as client:
        assert await client.ask("REQ", "none", {"limit": 0}) == ["EOSE", "none"]
        new = verified()
        await store(brotr, [new])
        assert ids_of([await client.hear()]) == [new.id.hex()]


async def test_a_subscription_is_replaced_by_one_of_its_name_and_ended_by_close(
    brotr: Brotr, dsn: str
) -> None:
    async with relay_of(dsn) as place, client_of(place.url) as client:
        assert (await client.ask("REQ", "a", {"kinds": [1]}))[0] == "EOSE"
        assert (await client.ask("REQ", "a", {"kinds": [7]}))[0] == "EOSE"
        assert (await client.ask("REQ", "b", {"kinds": [1]}))[0] == "EOSE"
        assert (await client.ask("REQ", "c", {"kinds": [1, 7]}))[0] == "EOSE"
        await client.say("CLOSE", "b")
        await client.say("CLOSE", "unknown")
        note, reaction = verified(), verified(kind=7)
        await store(brotr, [note, reaction])
        frames = [await client.hear() for _ in range(3)]
        assert sorted((frame[1], frame[2]["id"]) for frame in frames) == sorted(
            [("a", reaction.id.hex()), ("c", note.id.hex()), ("c", reaction.id.hex())]
        )
        # Nothing else has come.
        assert (await client.ask("COUNT", "n", {}))[0] == "COUNT"


HEX = "a" * 64


@pytest.mark.parametrize(
    ("frame", "answer"),
    [
        (["REQ", "s"], "takes a filter"),
        (["REQ", "s", []], "a filter is a JSON object"),
        (["REQ", "s", {"ids": ["abcd"]}], "64 hex digits"),
        (["REQ", "s", {"authors": [HEX[:63]]}], "64 hex digits"),
        (["REQ", "s", {"kinds": ["1"]}], "a list of numbers"),
        (["REQ", "s", {"kinds": [65536]}], "0 to 65535"),
        (["REQ", "s", {"since": -1}], "not negative"),
        (["REQ", "s", {"limit": 1.5}], "not negative"),
        (["REQ", "s", {"search": 5}], "search: a text"),
        (["REQ", "s", {"search": "x" * 2001}], "2000 characters at most"),
        (["REQ", "s", {"search": "a b c " * 20 + "".join(f" {n}" for n in range(50))}], "50 words"),
        (["REQ", "s", {"searches": "words"}], "no part of a filter"),
        (["REQ", "s", {"#t": [1]}], "a list of texts"),
        (["REQ", "s", {"#t": ["\ud800"]}], "half a character"),
        (["REQ", "s", *([{}] * 21)], "20 filters at most"),
        (["COUNT", "s"], "takes a filter"),
        (["COUNT", "s", {"x": 1}], "no part of a filter"),
    ],
)
async def test_a_filter_that_is_none_is_refused(dsn: str, frame: list[Any], answer: str) -> None:
    async with relay_of(dsn) as place, client_of(place.url) as client:
        kind, name, reason = await client.ask(*frame)
        assert (kind, name) == ("CLOSED", "s")
        assert reason.startswith("invalid: ")
        assert answer in reason


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "nothing",
        "{}",
        "[]",
        "[1]",
        '["REQ"]',
        '["REQ", 1, {}]',
        '["REQ", "", {}]',
        f'["REQ", "{65 * "x"}", {{}}]',
        '["REQ", "\\ud800", {}]',
        '["EVENT"]',
        '["EVENT", 1]',
        '["\\ud800"]',
        '["OK", "x", true, ""]',
        100_000 * "[",
        '["REQ", "x", ' + 60_000 * "[" + 60_000 * "]" + "]",
        '["NEG-MSG"]',
        b"binary",
    ],
)
async def test_garbage_is_answered_by_words(dsn: str, frame: str | bytes) -> None:
    async with relay_of(dsn) as place, client_of(place.url) as client:
        await client.socket.send(frame)
        kind, *words = await client.hear()
        assert kind in ("NOTICE", "CLOSED")
        assert words[-1].startswith("invalid: ")
        assert (await client.stored({}))[1] == ["finish"]


async def test_who_says_nothing_but_garbage_has_to_go(dsn: str) -> None:
    async with relay_of(dsn) as place, client_of(place.url) as client:
        for _ in range(20):
            await client.socket.send("?")
        assert {frame[0] for frame in [await client.hear() for _ in range(20)]} == {"NOTICE"}
        await client.socket.wait_closed()
        assert client.socket.close_code == 1008


async def test_events_are_not_taken(brotr: Brotr, dsn: str) -> None:
    event = make_event()
    async with relay_of(dsn) as place, client_of(place.url) as client:
        kind, event_id, is_taken, reason = await client.ask("EVENT", event)
        assert (kind, event_id, is_taken) == ("OK", event["id"], False)
        assert reason.startswith("blocked: ")
        assert await client.stored({}) == ([], ["finish"])


@pytest.mark.parametrize("profile", [Profile.LITE])
async def test_an_archive_without_contents_counts_and_compares(brotr: Brotr, dsn: str) -> None:
    await store(brotr, EVENTS)
    async with relay_of(dsn) as place, client_of(place.url) as client:
        kind, _, reason = await client.ask("REQ", "s", {})
        assert (kind, reason.partition(":")[0]) == ("CLOSED", "unsupported")
        assert await client.ask("COUNT", "n", {}) == ["COUNT", "n", {"count": 30}]
        assert (await client.ask("COUNT", "n", {"#t": ["odd"]}))[2].startswith("unsupported:")
        assert (await client.ask("NEG-OPEN", "r", {}, "6100000200"))[0] == "NEG-MSG"


@pytest.mark.parametrize(
    ("bounds", "reason"),
    [
        ({"max_subscriptions": 3}, "3 subscriptions"),
        ({"max_values": 30}, "30 values"),
    ],
)
async def test_what_a_connection_may_subscribe_to_is_bounded(
    dsn: str, bounds: dict[str, int], reason: str
) -> None:
    async with relay_of(dsn, bounds=bounds) as place, client_of(place.url) as client:
        wanted = {"kinds": list(range(10))}
        for name in "abc":
            assert (await client.ask("REQ", name, wanted))[0] == "EOSE"
        kind, name, words = await client.ask("REQ", "d", wanted)
        assert (kind, name) == ("CLOSED", "d")
        assert words.startswith("blocked: ")
        assert reason in words
        # One that replaces another needs no more room, and an ended one gives its room back.
        assert (await client.ask("REQ", "c", wanted))[0] == "EOSE"
        await client.say("CLOSE", "a")
        assert (await client.ask("REQ", "d", wanted))[0] == "EOSE"


async def test_who_names_ids_gets_them_all_without_a_limit(brotr: Brotr, dsn: str) -> None:
    await store(brotr, EVENTS)
    async with relay_of(dsn, bounds={"default_limit": 5}) as place, client_of(place.url) as client:
        named = [event.id.hex() for event in EVENTS]
        assert await client.stored({"ids": named}) == (newest_first(EVENTS), ["finish"])
        assert await client.stored({"ids": named, "limit": 6}) == (
            newest_first(EVENTS)[:6],
            ["more"],
        )
        assert await client.stored({}) == (newest_first(EVENTS)[:5], ["more"])
    async with relay_of(dsn, bounds={"max_limit": 7}) as place, client_of(place.url) as client:
        assert await client.stored({"ids": named}) == (newest_first(EVENTS)[:7], ["more"])


async def test_eose_has_no_hint_where_clients_cannot_read_one(brotr: Brotr, dsn: str) -> None:
    await store(brotr, EVENTS)
    async with relay_of(dsn, hints=False) as place, client_of(place.url) as client:
        await client.say("REQ", "all", {"limit": 3})
        assert (await client.until("EOSE"))[-1] == ["EOSE", "all"]
