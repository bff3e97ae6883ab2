"""What somebody has said of themselves through time: each version that was ever met."""

import json
import time
from collections.abc import Sequence
from typing import Any

import pytest

from bigbrotr.config.settings import Profile
from bigbrotr.core.brotr import Brotr
from bigbrotr.models.event import Event, EventRelay
from bigbrotr.models.policy import View
from bigbrotr.models.relay import Relay
from bigbrotr.reads.author_history import (
    AuthorHistory,
    AuthorThen,
    Move,
    Stay,
    author_history,
    author_then,
)
from bigbrotr.reads.events import EventReads, NotKeptError
from tests.kit.events import NOW, make_event, pubkey
from tests.kit.policy import judge

HOLDER = Relay("wss://holder.example.com")
A, B, C = (f"wss://{name}.example.com" for name in "abc")
DAY = 86_400
LISTS = [
    make_event(NOW - 30 * DAY, 10002, [["r", A], ["r", B, "read"]]),
    make_event(NOW - 20 * DAY, 10002, [["r", A, "write"], ["r", C]]),
    make_event(NOW - 10 * DAY, 10002, [["r", C], ["r", A, "write"], ["r", C]]),
    make_event(NOW, 10002, [["r", B]]),
]
ME = bytes.fromhex(pubkey(0))


async def store(brotr: Brotr, events: Sequence[dict[str, Any]]) -> None:
    await brotr.insert_relays([HOLDER])
    for event in events:
        await brotr.insert_events([EventRelay(Event.from_object(event), HOLDER, NOW)])
    await judge(brotr)


async def then(brotr: Brotr, at: int | None = None) -> AuthorThen:
    return await author_then(EventReads(brotr.pool, View.ARCHIVE), brotr.pool, ME, at)


async def history(brotr: Brotr, **more: Any) -> AuthorHistory:
    return await author_history(EventReads(brotr.pool, View.ARCHIVE), brotr.pool, ME, **more)


async def test_who_wrote_where_and_when_they_moved(brotr: Brotr) -> None:
    """In whatever order the versions came."""
    await store(brotr, [LISTS[3], LISTS[0], LISTS[2], LISTS[1]])
    found = await history(brotr)
    assert (found.versions, found.is_complete, found.relays_known) == (4, True, 1)
    ats = [each["created_at"] for each in LISTS]
    assert set(found.moves) == {
        Move(ats[0], A, "added", read=True, write=True),
        Move(ats[0], B, "added", read=True, write=False),
        Move(ats[1], A, "changed", read=False, write=True),
        Move(ats[1], B, "removed", read=False, write=False),
        Move(ats[1], C, "added", read=True, write=True),
        Move(ats[3], A, "removed", read=False, write=False),
        Move(ats[3], B, "added", read=True, write=True),
        Move(ats[3], C, "removed", read=False, write=False),
    }
    assert [each.at for each in found.moves] == sorted((m.at for m in found.moves), reverse=True)
    assert set(found.stays) == {
        Stay(A, True, True, ats[0], ats[1]),
        Stay(B, True, False, ats[0], ats[1]),
        Stay(A, False, True, ats[1], ats[3]),
        Stay(C, True, True, ats[1], ats[3]),
        Stay(B, True, True, ats[3], None),
    }
    month = await history(brotr, since=NOW - 15 * DAY, until=NOW - 5 * DAY)
    assert {(each.relay, each.write) for each in month.stays} == {(A, True), (C, True)}
    assert month.moves == ()
    for n, listed in enumerate([{A, B}, {A, C}, {A, C}, {B}]):
        was = await then(brotr, ats[n])
        assert was.relays is not None
        assert was.relays.created_at == ats[n]
        assert {each.url for each in was.relays.relays} == listed
    before = await then(brotr, ats[0] - 1)
    said = (before.relays, before.profile, before.contacts, before.inboxes)
    assert said == (None, None, None, None)
    assert before.at == ats[0] - 1


async def test_profiles_contacts_and_inboxes(brotr: Brotr) -> None:
    follows = [["p", pubkey(n)] for n in range(1, 6)]
    await store(
        brotr,
        [
            make_event(NOW - 9, 0, content='{"name":"old"}'),
            make_event(NOW, 0, content='{"name":"new"}'),
            make_event(NOW - 9, 3, follows[:3]),
            make_event(NOW, 3, [*follows, follows[0], ["p"], ["p", pubkey(1).upper()], ["e", "x"]]),
            make_event(NOW, 10050, [["relay", A], ["relay", "nonsense"]]),
        ],
    )
    now, before = await then(brotr), await then(brotr, NOW - 1)
    assert now.profile is not None and before.profile is not None  # noqa: PT018
    assert (before.profile.name, now.profile.name) == ("old", "new")
    assert now.contacts is not None and before.contacts is not None  # noqa: PT018
    assert (before.contacts.contacts, now.contacts.contacts) == (3, 5)
    assert now.inboxes is not None
    assert ([each.url for each in now.inboxes.relays], now.inboxes.invalid) == ([A], 1)
    found = await history(brotr)
    assert [each.contacts for each in found.contacts] == [5, 3]
    assert [each.name for each in found.profiles] == ["new", "old"]


async def test_how_many_of_the_listed_relays_are_dead(brotr: Brotr) -> None:
    names = ("up", "down", "retired", "never", "unknown", "new")
    urls = {name: f"wss://{name}.example.com" for name in names}
    await store(brotr, [make_event(NOW, 10002, [["r", url] for url in urls.values()])])
    await brotr.insert_relays([Relay(urls[name]) for name in ("up", "down", "retired", "new")])
    await brotr.insert_candidates([Relay(urls["never"])], "a list")
    await brotr.pool.execute(
        """
        INSERT INTO bigbrotr.checks (relay_id, due_at, state, since, checked_at, outcome, failed)
        SELECT r.id, 0, s.state, 7, 8, 'x', '{}' FROM bigbrotr.relays r
        JOIN (VALUES ('up', 'up'), ('down', 'down'), ('retired', 'up')) AS s (name, state)
        ON r.url = 'wss://' || s.name || '.example.com';
        UPDATE bigbrotr.visits v SET retired_at = 1 FROM bigbrotr.relays r
        WHERE r.id = v.relay_id AND r.url LIKE '%retired%';
        UPDATE bigbrotr.candidates SET attempts = 5;
        """
    )
    found = (await then(brotr)).relays
    assert found is not None
    assert {each.url: each.state for each in found.relays} == {
        urls["up"]: "up",
        urls["down"]: "failing",
        urls["retired"]: "failing",
        urls["never"]: "never",
        urls["unknown"]: "unknown",
        urls["new"]: "unknown",
    }
    assert (found.dead, found.known, found.dead_share) == (3, 4, 0.75)


async def test_versions_stay_although_newer_ones_came(brotr: Brotr) -> None:
    """They go only where the policy says so, or their author, or the operator."""
    await store(brotr, LISTS)
    assert (await history(brotr)).versions == 4
    await store(brotr, [make_event(NOW + 1, 5, [["e", LISTS[1]["id"]]])])
    assert (await history(brotr)).versions == 3
    await brotr.take_down("event", bytes.fromhex(LISTS[0]["id"]), why="spam", who="me")
    assert (await history(brotr)).versions == 2


async def test_what_is_garbage_costs_nothing_else(brotr: Brotr) -> None:
    many = [["r", f"wss://r{n}.example.com"] for n in range(3000)]
    odd = [["r"], ["r", ""], ["r", "x" * 5000], ["r", "\u0000"], ["r", A, "sideways", "x"], ["x"]]
    await store(
        brotr,
        [
            make_event(NOW - 3, 10002, [*odd, *many]),
            make_event(NOW - 2, 10002, []),
            make_event(NOW - 1, 0, content='{"name": 7, "about": ["x"]}'),
            make_event(NOW, 0, content="[" * 3000),
            make_event(2**40, 10002, [["r", B]]),
        ],
    )
    found = await history(brotr)
    assert found.versions == 3
    assert [each.is_readable for each in found.profiles] == [False, True]
    assert len(found.moves) <= 2_000
    now = await then(brotr)
    assert now.relays is not None
    assert now.relays.relays == ()
    future = await then(brotr, 2**62)
    assert future.relays is not None
    assert [each.url for each in future.relays.relays] == [B]


async def test_huge_follow_lists_are_counted_in_little_memory(brotr: Brotr) -> None:
    lists = [
        make_event(NOW - n, 3, [["p", f"{m:064x}"] for m in range(10_000 - n)]) for n in range(12)
    ]
    await store(brotr, lists)
    began = time.monotonic()
    found = await history(brotr)
    assert [each.contacts for each in found.contacts] == [10_000 - n for n in range(12)]
    assert found.is_complete
    assert time.monotonic() - began < 30
    few = await history(brotr, most=5)
    assert (len(few.contacts), few.is_complete) == (5, False)
    late = await history(brotr, budget_s=0.0)
    assert late.contacts
    assert len(json.dumps([each.created_at for each in late.contacts])) > 2


@pytest.mark.parametrize("profile", [Profile.LITE])
async def test_an_archive_without_tags_says_so(brotr: Brotr) -> None:
    await store(brotr, LISTS)
    with pytest.raises(NotKeptError):
        await history(brotr)
    with pytest.raises(NotKeptError):
        await then(brotr)
