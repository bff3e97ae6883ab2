"""What is copied is what would have been inserted."""

from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest

from bigbrotr.config.settings import Profile
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls import event_rows
from bigbrotr.core.calls import events as event_calls
from bigbrotr.core.calls.event_rows import Rows, make_rows
from bigbrotr.core.calls.events import EventCalls, event_columns
from bigbrotr.errors import LeaseLostError
from bigbrotr.models import native
from bigbrotr.models.burst import Burst
from bigbrotr.models.columns import Columns, Found
from bigbrotr.models.event import Event
from bigbrotr.models.plain import Scan
from tests.kit.archive import BOTH, A, B, check_totals, claim_a, held, ordered, pairs
from tests.kit.c import NATIVE
from tests.kit.events import NOW, verified


def some() -> list[Event]:
    """Events with all that may be odd about a row, in the order of their keys."""
    far = 2**62
    return ordered(
        [
            verified("plain"),
            verified("", [], created_at=0),
            verified(
                "ünï ☃ 𝄞", [["t", "nostr"], ["t", "nostr"], ["e"], ["p", ""], ["a", "b", "c"]]
            ),
            verified("null \x00 and \x1f", [["x", "\x00"], ["d", 'quo"te\\']]),
            verified("verbatim \x07", [["t", "\x07"]], verbatim=True),
            verified("many", [["p", f"{n:064x}"] for n in range(6000)]),
            verified("far", created_at=far),
            verified("furthest", created_at=2**63 - 1),
            *(verified(created_at=NOW - n * 400_000) for n in range(20)),
        ]
    )


async def table(brotr: Brotr) -> Sequence[asyncpg.Record]:
    return await brotr.pool.fetch(
        "SELECT e.created_at, e.kind, e.slice, e.id, e.pubkey, e.sig, e.tags, e.tag_hashes,"
        " e.content, r.raw FROM bigbrotr.events_stored e"
        " LEFT JOIN bigbrotr.events_raw r ON r.slice = e.slice AND r.event_id = e.id"
        " ORDER BY e.created_at, e.id"
    )


@BOTH
async def test_what_is_copied_is_what_is_inserted(brotr: Brotr, profile: Profile) -> None:
    events = some()
    visit = await claim_a(brotr)
    assert await brotr.store_page(visit, events, now=NOW) == len(events)
    copied = await table(brotr)
    assert len(copied) == len(events)
    assert await held(brotr) == {(event.id, A.url) for event in events}
    for name in ("presence", "events_raw", "events_stored"):
        await brotr.pool.execute(f"DELETE FROM bigbrotr.{name}")
    assert await brotr.insert_events(pairs(events, B)) == (len(events), 0)
    assert await table(brotr) == copied


def rows_of(events: Sequence[Event]) -> Rows:
    """The same events with rows, made in C as far as it does so."""
    return make_rows(columns_of(events), refuse)


def columns_of(events: Sequence[Event]) -> Columns[Found]:
    """Events as they come from a relay."""
    burst = Burst.of([b'["EVENT","s",%b]' % event.to_json().encode() for event in events])
    scan, columns = Scan(burst, "s"), Columns[Found]()
    for place, event in enumerate(events):
        if scan.plain_until(place) > place:
            columns.take(scan, place, place + 1)
        else:
            columns.append(event)
    return columns


def refuse(reason: str, event_id: bytes) -> None:
    raise AssertionError(f"{event_id.hex()}: {reason}")


@BOTH
@NATIVE
async def test_rows_made_in_c_are_what_is_inserted(brotr: Brotr, profile: Profile) -> None:
    events = some()
    stored = rows_of(events)
    assert len(stored.events.others) == 5  # NUL, a bell, 6,000 tags, far
    assert list(stored) == events
    visit = await claim_a(brotr)
    assert await brotr.store_page(visit, stored, now=NOW) == len(events)
    assert await held(brotr) == {(event.id, A.url) for event in events}
    copied = await table(brotr)
    for name in ("presence", "events_raw", "events_stored"):
        await brotr.pool.execute(f"DELETE FROM bigbrotr.{name}")
    assert await brotr.insert_events(pairs(events, B)) == (len(events), 0)
    assert await table(brotr) == copied


@BOTH
@pytest.mark.parametrize("times", [0, 1, 2], ids=["row by row", "noted", "copied again"])
@pytest.mark.parametrize("made_in", ["Python", pytest.param("C", marks=NATIVE)])
async def test_what_somebody_else_has_stored_meanwhile_is_stored_once(
    brotr: Brotr, profile: Profile, times: int, made_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That these are held is noted, and the others are stored, in each way."""
    copies: list[int] = []
    copy_page = EventCalls._copy_page

    async def watched(self: EventCalls, rows: Rows, *arguments: Any) -> int:
        copies.append(len(rows))
        return await copy_page(self, rows, *arguments)

    monkeypatch.setattr(EventCalls, "_copy_page", watched)
    monkeypatch.setattr(event_calls, "TIMES_COPIED", times)
    events = some()
    visit = await claim_a(brotr)
    await brotr.insert_events(pairs(events[3:6], B))
    stored = rows_of(events) if made_in == "C" else events
    assert await brotr.store_page(visit, stored, now=NOW) == len(events) - 3
    assert copies == [len(events), len(events) - 3][:times]
    both = {(e.id, A.url) for e in events} | {(e.id, B.url) for e in events[3:6]}
    assert await held(brotr) == both
    copies.clear()
    assert await brotr.store_page(visit, stored, now=NOW) == 0
    assert copies == [len(events)][:times]  # nothing is left to copy again
    assert await held(brotr) == both
    await check_totals(brotr)
    copied = await table(brotr)
    for name in ("presence", "events_raw", "events_stored"):
        await brotr.pool.execute(f"DELETE FROM bigbrotr.{name}")
    assert await brotr.insert_events(pairs(events, B)) == (len(events), 0)
    assert await table(brotr) == copied


@NATIVE
async def test_relays_that_rows_name_are_noted(brotr: Brotr) -> None:
    inside = "nrelay1" + "q" * 40  # no relay, but it looks like one
    events = ordered(
        [
            verified("a", [["e", "00", "wss://hint.example"], ["r", "WSS://Two.example/"]]),
            verified("wss://three.example", kind=2),
            verified('{"wss://four.example":{}}', kind=3),
            verified(inside, [["r", " wss://five.example"], ["r", "https://six.example"]]),
            verified("b", [["r", "\u2003wss://seven.example"]]),
        ]
    )
    stored = rows_of(events)
    assert not stored.events.others
    found = sorted(url for _, _, urls in stored.named() for url in urls)
    names = ("five", "four", "hint", "seven", "three", "two")
    assert found == sorted(f"wss://{name}.example" for name in names)
    await brotr.store_page(await claim_a(brotr), stored, now=NOW)
    noted = await brotr.pool.fetch("SELECT DISTINCT unnest(urls) AS url FROM bigbrotr.mentions")
    assert sorted(row["url"] for row in noted) == found


async def test_nothing_is_copied_for_who_has_lost_the_lease(brotr: Brotr) -> None:
    visit = await claim_a(brotr)
    with pytest.raises(LeaseLostError):
        await brotr.store_page(visit._replace(epoch=visit.epoch + 1), some(), now=NOW)
    assert not await table(brotr)


@NATIVE
def test_c_makes_the_columns_that_are_copied() -> None:
    import bigbrotr_native

    assert (*bigbrotr_native.ROW_COLUMNS, "num") == event_rows.FULL


def test_a_profile_that_is_not_known_is_not_copied() -> None:
    assert event_rows.columns_of(frozenset()) == event_rows.ESSENTIAL
    assert event_rows.columns_of({"sig", "tags", "content", "raw"}) == event_rows.FULL
    assert event_rows.columns_of({"sig"}) is None


@NATIVE
@pytest.mark.parametrize("kept", [(), ("sig", "tags", "content", "raw")])
def test_rows_are_inserted_as_their_events_are(kept: Sequence[str]) -> None:
    """Where some of a page turn out to be archived."""
    events = [verified("", [["r", f"wss://{n % 3}.example"]], created_at=n + 1) for n in range(9)]
    events = ordered([*some(), *events, verified("wss://kind.example", kind=2)])
    columns = event_columns(rows_of(events), [NOW], frozenset(kept), notes_mentions=True)
    assert columns == event_columns(events, [NOW], frozenset(kept), notes_mentions=True)
    assert len(columns["p_named"]) == 10


@NATIVE
def test_rows_in_several_parts_are_the_same_rows() -> None:
    whole = rows_of(some())
    parts = [whole[:3], whole[3:4], whole[4:4], whole[4:]]
    joined = Rows.joined([parts[3], *parts[:3]]).in_order()
    nums = list(range(len(whole)))
    for columns in (event_rows.FULL, event_rows.ESSENTIAL):
        assert joined.copied(nums, columns) == whole.copied(nums, columns)
    assert (joined.ids, joined.created_ats) == (whole.ids, whole.created_ats)
    assert [*joined.named()] == [*whole.named()]
    assert joined[-1] == whole[len(whole) - 1]


def test_without_c_the_same_bytes_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    events = some()
    nums = list(range(len(events)))
    with_c = [
        rows_of(events).copied(nums, each) for each in (event_rows.FULL, event_rows.ESSENTIAL)
    ]
    monkeypatch.setattr(native, "here", None)
    rows = Rows.of(events)
    assert [rows.copied(nums, each) for each in (event_rows.FULL, event_rows.ESSENTIAL)] == with_c
