"""Reconciling relays with the archive: who has what, what it costs, and relays that misbehave."""

import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import pytest

from bigbrotr.config.settings import (
    Config,
    Link,
    Networks,
    Profile,
    RelaySettings,
    SynchronizerSettings,
)
from bigbrotr.core.brotr import Brotr
from bigbrotr.models.event import Event, EventRelay
from bigbrotr.models.filter import Filter
from bigbrotr.models.metadata import Metadata, MetadataType, RelayMetadata
from bigbrotr.models.relay import Network, Relay
from bigbrotr.net.politeness import politeness_of
from bigbrotr.reads import where as reads
from bigbrotr.services.sync import honesty, reconcile
from bigbrotr.services.sync.report import Report
from bigbrotr.services.sync.worker import Slice, Worker
from tests.kit.events import make_event, pubkey, wire
from tests.kit.model import Order as Order_
from tests.kit.model import Reconciling, Vices
from tests.kit.processes import until
from tests.kit.real import local_relay
from tests.kit.scripted import ScriptedRelay

BEGIN = 1_600_000_000
EVENTS = [
    make_event(BEGIN + 60 * (n // 2), kind=(1, 7, 1111)[n % 3], content=f"{n}", key=n % 4)
    for n in range(700)
]
OTHERS = [make_event(BEGIN + 331 * n, content=f"another {n}") for n in range(60)]
UNTIL = BEGIN + 100_000  # nothing is wanted of the time that passes during a test
OLD = Relay("wss://old.example.com")
NEWEST = EVENTS[-40:]
BOTH = pytest.mark.parametrize("profile", list(Profile))

TimedSocket = Mapping[str, Any]


async def where(brotr: Brotr, event_id: bytes) -> dict[str, Any]:
    """Where an event is, as plain values."""
    found = msgspec.json.encode(await reads.where(brotr.pool, event_id))
    return msgspec.json.decode(found, type=dict[str, Any])


@pytest.fixture(autouse=True)
def chance() -> None:
    """Which events a relay is tested with is left to chance: the same each time."""
    random.seed(1)


def config(timeout_s: float = 10.0, **settings: Any) -> Config:
    defaults: dict[str, Any] = {
        "settle_s": 0,
        "live": False,
        "filter": Filter(until=UNTIL),
    }
    return Config(
        networks=Networks(clearnet=Link(enabled=False), local=Link(timeout_s=timeout_s)),
        synchronizer=SynchronizerSettings(**defaults | settings),
    )


async def archive(brotr: Brotr, events: Iterable[TimedSocket], relay: Relay = OLD) -> None:
    """An archive of events from a relay that is never asked again."""
    now = int(time.time())
    await brotr.insert_events(
        [EventRelay(Event.from_json(wire(event)), relay, now) for event in events]
    )
    await brotr.pool.execute(
        "UPDATE bigbrotr.visits SET due_at = $1"
        " WHERE relay_id = (SELECT id FROM bigbrotr.relays WHERE url = $2)",
        2**40,
        relay.url,
    )


async def visit(brotr: Brotr, relay: ScriptedRelay | str, settings: Config | None = None) -> Report:
    """One visit to a relay, now."""
    url = Relay(relay if isinstance(relay, str) else relay.url).url
    await brotr.insert_relays([Relay(url)])
    await brotr.pool.execute(
        "UPDATE bigbrotr.visits SET due_at = 0"
        " WHERE relay_id = (SELECT id FROM bigbrotr.relays WHERE url = $1)",
        url,
    )
    worker = Worker(settings or config(), brotr)
    async with asyncio.timeout(60):
        return await worker.work(Slice("test", 30.0, {Network.LOCAL: 5}))


async def held(brotr: Brotr, relay: ScriptedRelay | str) -> set[str]:
    url = Relay(relay if isinstance(relay, str) else relay.url).url
    rows = await brotr.pool.fetch(
        "SELECT event_id FROM bigbrotr.events_relays WHERE relay_url = $1", url
    )
    return {row["event_id"].hex() for row in rows}


async def archived(brotr: Brotr) -> set[str]:
    return {row["id"].hex() for row in await brotr.pool.fetch("SELECT id FROM bigbrotr.events")}


async def outcome(brotr: Brotr) -> str | None:
    found: str | None = await brotr.pool.fetchval("SELECT outcome FROM bigbrotr.reconciliation")
    return found


async def grow_old(brotr: Brotr, seconds: int = 100_000) -> None:
    """What is proven was proven so long ago, and all that is held was seen as long ago."""
    await brotr.pool.execute("UPDATE bigbrotr.coverage SET proven_at = proven_at - $1", seconds)
    for row in await brotr.pool.fetch(
        "SELECT slice, chunk, relay_id, seen_ats::text AS held FROM bigbrotr.presence"
    ):
        bounds, mark, packed = row["held"].rpartition("=")  # the first need not be at 1
        earlier = re.sub(r"\d+", lambda at: str(int(at[0]) - seconds), packed)
        await brotr.pool.execute(
            "UPDATE bigbrotr.presence SET seen_ats = $4::text::integer[]"
            " WHERE slice = $1 AND chunk = $2 AND relay_id = $3",
            *(row["slice"], row["chunk"], row["relay_id"]),
            bounds + mark + earlier,
        )


async def is_proven(brotr: Brotr, relay: ScriptedRelay | str) -> bool:
    url = Relay(relay if isinstance(relay, str) else relay.url).url
    missing = await brotr.pool.fetchval(
        "SELECT bigbrotr.missing_spans(id, 0, $2, $3) FROM bigbrotr.relays WHERE url = $1",
        url,
        UNTIL,
        int(time.time()),
    )
    gaps = await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.gaps")
    return not list(missing) and gaps == 0


def ids(events: Iterable[TimedSocket]) -> set[str]:
    return {event["id"] for event in events}


async def check_totals(brotr: Brotr) -> None:
    """What is counted along the way equals what is there."""
    totals = await brotr.totals()
    events = await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.events")
    pairs = await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.events_relays")
    assert (totals.events, totals.pairs) == (events, pairs)


@pytest.mark.slow
@BOTH
async def test_a_relay_that_is_newly_met(brotr: Brotr) -> None:
    theirs = [*EVENTS[100:], *OTHERS]
    await archive(brotr, EVENTS)
    async with ScriptedRelay(theirs, Vices(reconciles="honestly")) as relay:
        report = await visit(brotr, relay)
        assert await archived(brotr) == ids(EVENTS) | ids(OTHERS)
        assert await held(brotr, relay) == ids(theirs)
        assert await is_proven(brotr, relay)
        assert (report.windows, report.dropped, report.withheld) == (1, 0, 0)
        # Of what is known only the few that it was tested with were sent.
        tested = reconcile.PROBE + 2 * honesty.TESTED
        assert report.received < len(OTHERS) + tested + 20
        assert await outcome(brotr) == "works"
        hows = await brotr.pool.fetch("SELECT how, proven FROM bigbrotr.coverage ORDER BY how DESC")
        assert hows[0]["how"] == "reconciliation"
        await check_totals(brotr)
        place = await where(brotr, bytes.fromhex(EVENTS[0]["id"]))
        assert [each["relay"] for each in place["present"]] == [OLD.url]
        (absent,) = place["absent"]
        assert (absent["relay"], absent["how"]) == (relay.url, "reconciliation")
        assert abs(absent["as_of"] - time.time()) < 60
        place = await where(brotr, bytes.fromhex(OTHERS[3]["id"]))
        assert [each["relay"] for each in place["present"]] == [relay.url]
        assert place["unknown"] == [OLD.url]
        # Nothing is left to do.
        before = relay.seen.bytes_out
        report = await visit(brotr, relay)
        assert (report.new, report.windows) == (0, 0)
        assert relay.seen.bytes_out < before + 4000


async def test_a_relay_that_holds_little_of_the_archive(brotr: Brotr) -> None:
    """Pairs are noted by name where most of a window is absent."""
    await archive(brotr, EVENTS)
    theirs = [*EVENTS[::3], *NEWEST]
    async with ScriptedRelay(theirs, Vices(reconciles="honestly")) as relay:
        report = await visit(brotr, relay)
        assert await held(brotr, relay) == ids(theirs)
        assert (report.windows, report.new) == (1, 0)
        assert await is_proven(brotr, relay)
        await check_totals(brotr)


@pytest.mark.parametrize("stored", [EVENTS[:300], OTHERS + EVENTS[:500]], ids=["small", "strange"])
async def test_pages_are_read_where_ids_are_no_help(
    brotr: Brotr, stored: Sequence[TimedSocket]
) -> None:
    """The archive is small, or does not know what is newest at the relay."""
    await archive(brotr, stored)
    async with ScriptedRelay(EVENTS[500:], Vices(reconciles="honestly")) as relay:
        report = await visit(brotr, relay)
        assert (report.windows, relay.seen.reconciliations) == (0, [])
        assert await held(brotr, relay) == ids(EVENTS[500:])
        assert await is_proven(brotr, relay)


@pytest.mark.slow
async def test_pages_give_way_once_most_of_them_is_known(brotr: Brotr) -> None:
    """The newest events are the relay's own, the many older ones are archived."""
    own = [make_event(BEGIN + 30_000 + n, content=f"own {n}") for n in range(60)]
    await archive(brotr, EVENTS)
    theirs = [*EVENTS[10:], *OTHERS, *own]
    async with ScriptedRelay(theirs, Vices(reconciles="honestly")) as relay:
        report = await visit(brotr, relay, config(page_limit=20))
        assert (report.windows, report.new) == (1, len(OTHERS) + len(own))
        assert await held(brotr, relay) == ids(theirs)
        assert report.received < 500
        assert await is_proven(brotr, relay)
        await check_totals(brotr)


@BOTH
async def test_an_audit_of_what_has_not_changed(brotr: Brotr) -> None:
    await archive(brotr, EVENTS)
    async with ScriptedRelay(EVENTS, Vices(reconciles="honestly")) as relay:
        await visit(brotr, relay)
        await grow_old(brotr)
        before, asked = relay.seen.bytes_out, len(relay.seen.reconciliations)
        report = await visit(brotr, relay)
        assert (report.windows, report.new, report.dropped) == (1, 0, 0)
        assert len(relay.seen.reconciliations) == asked + 1
        assert relay.seen.bytes_out - before < 4000
        ages = await brotr.pool.fetch(
            "SELECT proven_at FROM bigbrotr.coverage c"
            " JOIN bigbrotr.relays r ON r.id = relay_id WHERE url = $1",
            relay.url,
        )
        assert all(row["proven_at"] > time.time() - 60 for row in ages)


@pytest.mark.slow
@BOTH
async def test_an_audit_finds_what_has_come_and_gone(brotr: Brotr) -> None:
    """Events with old dates, in a past that was proven; and events that the relay has dropped."""
    await archive(brotr, EVENTS)
    async with ScriptedRelay(EVENTS, Vices(reconciles="honestly")) as relay:
        await visit(brotr, relay)
        gone, come = EVENTS[50:80], OTHERS[:25]
        await archive(brotr, come[:10])  # another relay had these meanwhile
        relay.events = [event for event in relay.events if event["id"] not in ids(gone)]
        for event in come:
            await relay.add(event)
        await grow_old(brotr)
        report = await visit(brotr, relay)
        assert await archived(brotr) == ids(EVENTS) | ids(come)
        assert await held(brotr, relay) == (ids(EVENTS) - ids(gone)) | ids(come)
        assert (report.new, report.dropped) == (15, 30)
        await check_totals(brotr)
        (absent,) = (await where(brotr, bytes.fromhex(gone[0]["id"])))["absent"]
        assert absent["first_seen"] <= absent["dropped_at"] <= absent["as_of"]
        # It is as if nothing had happened, afterwards; and what comes back is noted again.
        await grow_old(brotr)
        report = await visit(brotr, relay)
        assert (report.windows, report.new, report.dropped, report.matched) == (1, 0, 0, 0)
        await relay.add(gone[0])
        await grow_old(brotr)
        assert (await visit(brotr, relay)).matched == 1
        place = await where(brotr, bytes.fromhex(gone[0]["id"]))
        assert relay.url in {each["relay"] for each in place["present"]}
        await check_totals(brotr)


async def test_dropped_events_stay_in_the_archive(brotr: Brotr) -> None:
    await archive(brotr, EVENTS)
    async with ScriptedRelay([*EVENTS, *OTHERS], Vices(reconciles="honestly")) as relay:
        await visit(brotr, relay)
        relay.events = [event for event in relay.events if event["id"] not in ids(OTHERS)]
        await grow_old(brotr)
        assert (await visit(brotr, relay)).dropped == len(OTHERS)
        assert await held(brotr, relay) == ids(EVENTS)
        assert await brotr.delete_orphan_events() == 0
        assert await archived(brotr) == ids(EVENTS) | ids(OTHERS)
        await brotr.pool.execute("DELETE FROM bigbrotr.relays WHERE url = $1", relay.url)
        assert await brotr.delete_orphan_events() == len(OTHERS)
        await check_totals(brotr)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("manner", "remembered"),
    [
        ("unknown", "refused"),
        ("silent", "silent"),
        ("refused", "refused"),
        ("cut", "refused"),
        ("garbage", "broken"),
    ],
)
async def test_relays_that_cannot(brotr: Brotr, manner: Reconciling, remembered: str) -> None:
    """They are paged, in the same visit where they still listen, and not bothered again."""
    await archive(brotr, EVENTS)
    theirs = [*EVENTS[100:], *OTHERS]
    async with ScriptedRelay(theirs, Vices(reconciles=manner)) as relay:
        await visit(brotr, relay, config(timeout_s=1.0))
        assert await outcome(brotr) == remembered
        if manner == "cut":  # the conversation was over
            await brotr.pool.execute("UPDATE bigbrotr.gaps SET due_at = 0")
            await visit(brotr, relay)
        assert await held(brotr, relay) == ids(theirs)
        assert await is_proven(brotr, relay)
        asked = len(relay.seen.reconciliations)
        relay.vices = Vices(reconciles="honestly")
        await brotr.pool.execute("DELETE FROM bigbrotr.coverage")
        await visit(brotr, relay)
        assert len(relay.seen.reconciliations) == asked
        await brotr.pool.execute("DELETE FROM bigbrotr.coverage")
        await brotr.pool.execute("UPDATE bigbrotr.reconciliation SET due_at = 0")
        await visit(brotr, relay)
        assert len(relay.seen.reconciliations) == asked + 1
        assert await outcome(brotr) == "works"


@pytest.mark.slow
@pytest.mark.parametrize("names_most", [False, True])
async def test_windows_halve_until_they_fit(brotr: Brotr, names_most: bool) -> None:
    await archive(brotr, EVENTS)
    vices = Vices(reconciles="honestly", most_items=360, names_most=names_most)
    async with ScriptedRelay(EVENTS, vices) as relay:
        report = await visit(brotr, relay)
        assert report.windows == 2
        assert report.received < 600
        assert await held(brotr, relay) == ids(EVENTS)
        assert await is_proven(brotr, relay)
        assert await outcome(brotr) == "works"
        most = await brotr.pool.fetchval("SELECT most_items FROM bigbrotr.reconciliation")
        assert most == (360 if names_most else 350)
        # Next time it is asked for more, in case that was a bad day.
        relay.vices = Vices(reconciles="honestly")
        await brotr.pool.execute("DELETE FROM bigbrotr.digests")
        await grow_old(brotr)
        assert (await visit(brotr, relay)).windows == 1


@pytest.mark.slow
@pytest.mark.parametrize("most_items", [-1, 100])
async def test_too_small_windows_are_no_use(brotr: Brotr, most_items: int) -> None:
    await archive(brotr, EVENTS)
    vices = Vices(reconciles="honestly", most_items=most_items)
    async with ScriptedRelay([*EVENTS[100:], *OTHERS], vices) as relay:
        await visit(brotr, relay)
        assert await outcome(brotr) == "refused"
        assert len(relay.seen.reconciliations) <= 3
        assert await held(brotr, relay) == ids(EVENTS[100:]) | ids(OTHERS)
        assert await is_proven(brotr, relay)


@pytest.mark.slow
@pytest.mark.parametrize(
    "vices",
    [
        Vices(reconciles="always-equal"),
        Vices(reconciles="honestly", hides=frozenset(ids(EVENTS[200:]) - ids(NEWEST[:2]))),
    ],
    ids=["says that all is equal", "names few of its ids"],
)
async def test_liars_are_caught(brotr: Brotr, vices: Vices) -> None:
    await archive(brotr, EVENTS)
    theirs = EVENTS[200:] if vices.hides else [*OTHERS, *NEWEST]
    async with ScriptedRelay(theirs, vices) as relay:
        await visit(brotr, relay)
        assert await outcome(brotr) == "lies"
        assert await held(brotr, relay) == ids(theirs)
        assert await archived(brotr) == ids(EVENTS) | ids(theirs)
        assert await is_proven(brotr, relay)
        hows = await brotr.pool.fetch("SELECT DISTINCT how FROM bigbrotr.coverage")
        assert [row["how"] for row in hows] == ["paging"]


async def test_a_liar_is_asked_again_for_what_it_did_not_name(
    brotr: Brotr, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once: another page, without them, cleared it; and then they were said to be absent."""
    places = iter(
        [len(EVENTS) + len(OTHERS) - 1]
    )  # the first page shows the newest, all others the oldest

    def chosen(most: int) -> int:
        return next(places, 0) if most >= len(EVENTS) else most - 1

    monkeypatch.setattr(random, "randrange", chosen)
    monkeypatch.setattr(honesty, "TESTED", 8)
    monkeypatch.setattr(honesty, "HIDDEN", 1)
    await archive(brotr, [*EVENTS, *OTHERS])  # which it has not: few questions meet what it hides
    vices = Vices(reconciles="honestly", hides=frozenset(ids(EVENTS[-3:])))
    async with ScriptedRelay(EVENTS, vices) as relay:
        await visit(brotr, relay)
        assert await outcome(brotr) == "lies"
        assert await held(brotr, relay) == ids(EVENTS)


async def test_what_a_liar_has_told_before_is_taken_back(
    brotr: Brotr, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is caught at a late window, after others in which its lie did not show."""
    monkeypatch.setattr(reconcile, "MOST_ITEMS", 250)
    monkeypatch.setattr(honesty, "TESTED", 8)
    await archive(brotr, EVENTS)
    lacks = {*range(0, 250, 60), *range(300, 640)}
    theirs = [event for place, event in enumerate(EVENTS) if place not in lacks]
    async with ScriptedRelay(theirs, Vices(reconciles="always-equal")) as relay:
        await visit(brotr, relay)
        assert await outcome(brotr) == "lies"
        await visit(brotr, relay)
        assert await held(brotr, relay) == ids(theirs)
        assert await is_proven(brotr, relay)
        assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.digests") == 0
        await check_totals(brotr)


async def test_a_late_event_makes_no_liar(brotr: Brotr) -> None:
    """One that comes between the comparison and the test of it."""
    await archive(brotr, EVENTS)
    late = make_event(EVENTS[-1]["created_at"] + 5, content="late")
    async with ScriptedRelay(EVENTS, Vices(reconciles="honestly")) as relay:
        await visit(brotr, relay)
        await grow_old(brotr)
        asked = len(relay.seen.reconciliations)
        worker = asyncio.create_task(visit(brotr, relay))
        while len(relay.seen.reconciliations) == asked:  # noqa: ASYNC110 -- at once after it
            await asyncio.sleep(0)
        await relay.add(late)
        await worker
        assert await outcome(brotr) == "works"
        await grow_old(brotr)
        await visit(brotr, relay)
        assert await held(brotr, relay) == ids(EVENTS) | {late["id"]}


@pytest.mark.slow
@pytest.mark.parametrize("manner", ["always-equal", "honestly"])
async def test_a_relay_that_is_not_asked_by_id(brotr: Brotr, manner: Reconciling) -> None:
    """What cannot be tested is not believed; what it shows in pages is."""
    await archive(brotr, EVENTS)
    theirs = [*EVENTS[350:], *OTHERS]
    async with ScriptedRelay(theirs, Vices(reconciles=manner, refuses_ids=True)) as relay:
        await visit(brotr, relay)
        assert await outcome(brotr) == "refused"
        assert await held(brotr, relay) == ids(theirs)
        assert await archived(brotr) == ids(EVENTS) | ids(OTHERS)
        assert await is_proven(brotr, relay)


@pytest.mark.slow
async def test_what_is_named_and_not_handed_over_is_not_taken_for_held(brotr: Brotr) -> None:
    await archive(brotr, EVENTS)
    withheld = frozenset(event["id"] for event in EVENTS[::4])
    async with ScriptedRelay(EVENTS, Vices(reconciles="honestly", withholds=withheld)) as relay:
        await visit(brotr, relay)
        assert not await held(brotr, relay) & withheld
        assert await is_proven(brotr, relay)


@pytest.mark.slow
async def test_a_window_of_nothing_but_withheld_events(brotr: Brotr) -> None:
    await archive(brotr, EVENTS)
    async with ScriptedRelay(EVENTS, Vices(reconciles="honestly")) as relay:
        await visit(brotr, relay)
        relay.events = relay.events[:0]
        await relay.add(OTHERS[0])
        relay.vices = Vices(reconciles="honestly", withholds=frozenset(ids(OTHERS[:1])))
        for _ in range(3):
            await grow_old(brotr)
            await visit(brotr, relay)
        assert await outcome(brotr) == "works"
        assert await held(brotr, relay) == set()
        assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.withheld") == 1


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.9, 0.33])
async def test_names_are_tested_before_they_are_noted(brotr: Brotr, share: float) -> None:
    """A relay names all that the archive has, and holds a random share of it."""
    await archive(brotr, EVENTS)
    theirs = [*random.Random(5).sample(EVENTS[:-40], int(share * 660)), *NEWEST]
    withheld = frozenset(ids(EVENTS) - ids(theirs))
    for chance in range(4):
        random.seed(chance)
        await brotr.pool.execute("DELETE FROM bigbrotr.relays WHERE url <> $1", OLD.url)
        vices = Vices(reconciles="honestly", withholds=withheld)
        async with ScriptedRelay(EVENTS, vices) as relay:
            report = await visit(brotr, relay)
            assert (report.windows, await outcome(brotr)) == (
                0,
                "refused" if share > 0.5 else "lies",
            )
            assert await held(brotr, relay) == ids(theirs)
            assert await is_proven(brotr, relay)
            await check_totals(brotr)


@pytest.mark.slow
async def test_an_audit_tests_what_is_named_for_the_first_time(brotr: Brotr) -> None:
    """Others have brought what a relay names from one day to the next."""
    own, others = EVENTS[:100], EVENTS[100:]
    async with ScriptedRelay(own, Vices(reconciles="honestly")) as relay:
        await visit(brotr, relay)
        await brotr.pool.execute(
            "INSERT INTO bigbrotr.reconciliation SELECT id, 'works', '', 0, 0"
            " FROM bigbrotr.relays WHERE url = $1",
            relay.url,
        )
        await archive(brotr, others)
        for event in others:
            await relay.add(event)
        relay.vices = Vices(reconciles="honestly", withholds=frozenset(ids(others)))
        await grow_old(brotr)
        await visit(brotr, relay)
        assert await outcome(brotr) == "lies"
        await visit(brotr, relay)
        assert await held(brotr, relay) == ids(own)
        assert await is_proven(brotr, relay)


@pytest.mark.slow
async def test_what_is_named_is_tested_again_over_time(
    brotr: Brotr, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relay loses events and goes on naming them: nothing has changed, it says."""
    await archive(brotr, EVENTS)
    async with ScriptedRelay(EVENTS, Vices(reconciles="honestly")) as relay:
        await visit(brotr, relay)
        lost = EVENTS[100:400]
        relay.vices = Vices(reconciles="honestly", withholds=frozenset(ids(lost)))
        visits = 0
        while await outcome(brotr) == "works":
            await grow_old(brotr)
            await visit(brotr, relay)
            visits += 1
        assert 1 < visits < 60
        await visit(brotr, relay)
        assert await held(brotr, relay) == ids(EVENTS) - ids(lost)
        assert await is_proven(brotr, relay)
        await check_totals(brotr)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limits", "most_ids"),
    [
        ({"max_limit": 60, "max_filters": 1}, 60),
        ({"max_message_length": 10_000}, 146),
        ({"max_message_length": 8000}, 0),
        ({"max_limit": 15}, 0),
    ],
)
async def test_limits_that_are_told(brotr: Brotr, limits: Mapping[str, int], most_ids: int) -> None:
    await archive(brotr, EVENTS)
    vices = Vices(reconciles="honestly", max_message_bytes=limits.get("max_message_length"))
    async with ScriptedRelay([*EVENTS[350:], *OTHERS], vices) as relay:
        await brotr.insert_relays([Relay(relay.url)])
        document = RelayMetadata(
            Relay(relay.url), Metadata({"limitation": limits}), MetadataType.NIP11, 1
        )
        await brotr.insert_relay_metadata([document])
        assert (await visit(brotr, relay)).windows == bool(most_ids)
        asked = [each for question in relay.seen.filters for each in question]
        most = max(len(each.get("ids", ())) for each in asked)
        assert 50 < most <= most_ids or most == most_ids == 0
        assert max(each["limit"] for each in asked) <= limits.get("max_limit", 500)
        assert "max_filters" not in limits or all(len(q) == 1 for q in relay.seen.filters)
        assert relay.seen.connections == 1
        assert await held(brotr, relay) == ids([*EVENTS[350:], *OTHERS])


@pytest.mark.slow
async def test_messages_that_are_too_large_are_remembered(brotr: Brotr) -> None:
    """A relay that hangs up on a large message is paged, and met with smaller ones next time."""
    many = [make_event(BEGIN + n, content=f"many {n}") for n in range(2500)]
    await archive(brotr, many)
    # Each tenth is the relay's own alone, so that many ids have to be told.
    theirs = [event for n, event in enumerate(many) if n % 10]
    vices = Vices(reconciles="honestly", max_message_bytes=32_768)
    async with ScriptedRelay(theirs, vices) as relay:
        await visit(brotr, relay)
        row = await brotr.pool.fetchrow("SELECT * FROM bigbrotr.reconciliation")
        assert row is not None
        assert row["outcome"] == "refused"
        assert "1009" in row["detail"]
        assert 4096 <= row["most_bytes"] <= 16_000
        assert await held(brotr, relay) == ids(theirs)  # pages took over at once
        assert await is_proven(brotr, relay)
        await brotr.pool.execute("UPDATE bigbrotr.reconciliation SET due_at = 0")
        await brotr.pool.execute("DELETE FROM bigbrotr.coverage")
        report = await visit(brotr, relay)
        assert await outcome(brotr) == "works"
        assert report.windows > 0
        assert relay.seen.connections == 3
        assert await held(brotr, relay) == ids(theirs)
        assert await is_proven(brotr, relay)


@pytest.mark.slow
@pytest.mark.parametrize("theirs", [EVENTS[::2], EVENTS[:-2]], ids=["by ids", "in a talk"])
async def test_who_hangs_up_on_the_smallest_messages_is_paged(
    brotr: Brotr, theirs: Sequence[TimedSocket]
) -> None:
    await archive(brotr, EVENTS)
    relay = ScriptedRelay(theirs, Vices(reconciles="honestly", max_message_bytes=1300))
    async with relay:
        await visit(brotr, relay)
        assert await outcome(brotr) == "refused"
        due_at = await brotr.pool.fetchval("SELECT due_at FROM bigbrotr.reconciliation")
        assert due_at > time.time() + 50_000
        await brotr.pool.execute("UPDATE bigbrotr.gaps SET due_at = 0")
        report = await visit(brotr, relay)
        assert report.windows == 0
        assert await held(brotr, relay) == ids(theirs)


async def test_floods_of_ranges_stall_nobody(brotr: Brotr) -> None:
    """One message of almost a MB after another: it is longer than what was asked for."""
    await archive(brotr, EVENTS)
    async with ScriptedRelay(EVENTS, Vices(reconciles="floods")) as relay:
        await visit(brotr, relay)
        assert await outcome(brotr) == "broken"
        assert relay.seen.bytes_out < 2_500_000
        assert await held(brotr, relay) == ids(EVENTS)


@pytest.mark.slow
async def test_what_is_withheld_en_masse_is_no_holding(
    brotr: Brotr, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bigbrotr.core.calls.reconciliation.MOST_WITHHELD", 20)
    await archive(brotr, EVENTS)
    named = frozenset(ids(OTHERS[:30]))
    vices = Vices(reconciles="honestly", withholds=named)
    async with ScriptedRelay([*EVENTS, *OTHERS], vices) as relay:
        await visit(brotr, relay)
        assert await outcome(brotr) == "refused"
        assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.withheld") == 20
        assert await archived(brotr) == ids(EVENTS) | ids(OTHERS[30:])
        assert await is_proven(brotr, relay)
        # Its pages have said since that it has none of them.
        for row in await brotr.pool.fetch("SELECT event_id FROM bigbrotr.withheld"):
            place = await where(brotr, row["event_id"])
            assert place["present"] == []


@pytest.mark.slow
@pytest.mark.parametrize("text", ["Welcome to our relay", "please read the terms"])
async def test_a_greeting_is_no_refusal(brotr: Brotr, text: str) -> None:
    await archive(brotr, EVENTS)
    async with ScriptedRelay(EVENTS, Vices(reconciles="honestly", greets=text)) as relay:
        await visit(brotr, relay)
        await grow_old(brotr)
        assert (await visit(brotr, relay)).windows == 1
        assert await outcome(brotr) == "works"


@pytest.mark.slow
async def test_notices_without_end_do_not_hold_a_worker(brotr: Brotr) -> None:
    await archive(brotr, EVENTS)
    vices = Vices(reconciles="chatters")
    async with ScriptedRelay(EVENTS, vices) as relay:
        began = time.monotonic()
        await visit(brotr, relay, config(timeout_s=0.5))
        assert time.monotonic() - began < 30
        assert await held(brotr, relay) == ids(EVENTS)


@pytest.mark.slow
async def test_an_audit_that_is_cut_is_not_repeated_at_once(brotr: Brotr) -> None:
    """What it looked at stays proven, and the gap that it left ends when nobody can tell more."""
    await archive(brotr, EVENTS)
    async with ScriptedRelay(EVENTS, Vices(reconciles="honestly")) as relay:
        await visit(brotr, relay)
        await grow_old(brotr)
        relay.vices = Vices(reconciles="cut")
        await visit(brotr, relay)
        assert await outcome(brotr) == "refused"
        relay.vices = Vices()
        await brotr.pool.execute("UPDATE bigbrotr.gaps SET due_at = 100")
        report = await visit(brotr, relay)
        assert report.visits == 1
        due = (
            "SELECT due_at FROM bigbrotr.visits v"
            " JOIN bigbrotr.relays r ON r.id = relay_id WHERE url = $1"
        )
        assert await brotr.pool.fetchval(due, relay.url) > time.time()
        assert await is_proven(brotr, relay)


@pytest.mark.slow
async def test_who_does_not_reconcile_walks_no_more_for_it(brotr: Brotr) -> None:
    await archive(brotr, EVENTS)
    async with ScriptedRelay(EVENTS, Vices(reconciles="honestly")) as relay:
        await visit(brotr, relay)
        await grow_old(brotr)
        assert (await visit(brotr, relay, config(reconcile=False))).received == 0


@pytest.mark.slow
async def test_events_that_are_deleted_meanwhile(brotr: Brotr) -> None:
    """The archive forgets events between reading their ids and noting who holds them."""
    await archive(brotr, EVENTS)
    async with ScriptedRelay(EVENTS, Vices(reconciles="honestly", delay_s=0.05)) as relay:
        worker = asyncio.create_task(visit(brotr, relay))
        await until(lambda: bool(relay.seen.reconciliations), "it reconciles")
        await brotr.pool.execute("DELETE FROM bigbrotr.relays WHERE url = $1", OLD.url)
        await brotr.delete_orphan_events()
        await worker
        assert await held(brotr, relay) == ids(EVENTS)
        assert await is_proven(brotr, relay)


@pytest.mark.slow
async def test_a_relay_that_is_deleted_meanwhile(brotr: Brotr) -> None:
    await archive(brotr, EVENTS)
    async with ScriptedRelay(EVENTS, Vices(reconciles="honestly", delay_s=0.05)) as relay:
        worker = asyncio.create_task(visit(brotr, relay))
        await until(lambda: bool(relay.seen.reconciliations), "it reconciles")
        await brotr.pool.execute("DELETE FROM bigbrotr.relays WHERE url = $1", relay.url)
        assert (await worker).visits == 0
        await check_totals(brotr)


@pytest.mark.slow
async def test_a_relay_that_has_dropped_all_is_no_orphan(brotr: Brotr) -> None:
    own = EVENTS[:40]
    await archive(brotr, EVENTS[40:])
    async with ScriptedRelay(own, Vices(reconciles="honestly")) as relay:
        await visit(brotr, relay)
        await brotr.pool.execute(
            "INSERT INTO bigbrotr.reconciliation SELECT id, 'works', '', 0, 0"
            " FROM bigbrotr.relays WHERE url = $1",
            relay.url,
        )
        relay.events = []
        await grow_old(brotr)
        assert (await visit(brotr, relay)).dropped == 40
        await brotr.cleanup_orphans()
        await brotr.cleanup_orphans()
        assert await archived(brotr) == ids(EVENTS)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["random", "oldest"])
async def test_disorder_does_not_begin_again_and_again(brotr: Brotr, order: Order_) -> None:
    await archive(brotr, EVENTS)
    counts = []
    for manner in ("honestly", "unknown"):
        vices = Vices(reconciles=manner, order=order, pick=order, clamp=40)
        async with ScriptedRelay(EVENTS, vices) as relay:
            report = await visit(brotr, relay)
            assert "complete" in report.outcomes
            counts.append(len(relay.seen.filters))
    assert counts[0] <= counts[1] + 60


@pytest.mark.slow
async def test_a_liar_is_caught_at_an_audit(brotr: Brotr) -> None:
    await archive(brotr, EVENTS)
    async with ScriptedRelay(EVENTS, Vices(reconciles="honestly")) as relay:
        await visit(brotr, relay)
        relay.vices = Vices(reconciles="always-equal")
        relay.events = []
        await grow_old(brotr)
        await visit(brotr, relay)
        assert await outcome(brotr) == "lies"
        assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.dropped") == 0


@pytest.mark.slow
async def test_events_that_are_not_handed_over(brotr: Brotr) -> None:
    """They are recorded, asked for again later, and do not hold up the others."""
    await archive(brotr, EVENTS)
    withheld = ids(OTHERS[:5])
    vices = Vices(reconciles="honestly", withholds=frozenset(withheld))
    async with ScriptedRelay([*EVENTS, *OTHERS], vices) as relay:
        report = await visit(brotr, relay)
        assert report.withheld == 5
        assert await archived(brotr) == ids(EVENTS) | ids(OTHERS[5:])
        assert await is_proven(brotr, relay)
        rows = await brotr.pool.fetch("SELECT * FROM bigbrotr.withheld")
        assert {row["event_id"].hex() for row in rows} == withheld
        assert {(row["reason"], row["attempts"]) for row in rows} == {("not-handed-over", 1)}
        place = await where(brotr, rows[0]["event_id"])
        assert not place["is_archived"]
        assert [(each["relay"], each["is_withheld"]) for each in place["present"]] == [
            (relay.url, True)
        ]
        # Not before they are due: what it says it has has not changed.
        asked = len(relay.seen.filters)
        await grow_old(brotr)
        assert (await visit(brotr, relay)).withheld == 0
        assert not any("ids" in f for each in relay.seen.filters[asked:] for f in each)
        # Asked for again when they are, in vain; in the end they are there.
        await grow_old(brotr)
        await brotr.pool.execute("UPDATE bigbrotr.withheld SET due_at = 0")
        assert (await visit(brotr, relay)).withheld == 5
        assert await brotr.pool.fetchval("SELECT max(attempts) FROM bigbrotr.withheld") == 2
        relay.vices = Vices(reconciles="honestly")
        await grow_old(brotr)
        await brotr.pool.execute("UPDATE bigbrotr.withheld SET due_at = 0")
        assert (await visit(brotr, relay)).withheld == 0
        assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.withheld") == 0
        assert await held(brotr, relay) == ids(relay.events)
        await check_totals(brotr)


@pytest.mark.slow
@pytest.mark.parametrize("clamp", [1, 7, 20])
async def test_few_ids_at_a_time(brotr: Brotr, clamp: int) -> None:
    """A relay that silently hands out fewer events than it was asked for by id."""
    await archive(brotr, EVENTS)
    vices = Vices(reconciles="honestly")
    async with ScriptedRelay([*EVENTS, *OTHERS[:30]], vices) as relay:
        worker = asyncio.create_task(visit(brotr, relay, config(page_limit=500)))
        await until(lambda: bool(relay.seen.reconciliations), "it reconciles")
        relay.vices = Vices(reconciles="honestly", clamp=clamp)
        report = await worker
        assert report.new == 30
        assert await held(brotr, relay) == ids(EVENTS) | ids(OTHERS[:30])


async def test_forged_events_are_not_believed(brotr: Brotr) -> None:
    await archive(brotr, EVENTS)
    bad = {**OTHERS[0], "sig": OTHERS[1]["sig"]}
    async with ScriptedRelay([*EVENTS, bad, *OTHERS[1:4]], Vices(reconciles="honestly")) as relay:
        report = await visit(brotr, relay)
        assert await archived(brotr) == ids(EVENTS) | ids(OTHERS[1:4])
        assert report.withheld == 1
        assert await brotr.pool.fetchval("SELECT count FROM bigbrotr.rejected") >= 1
        assert await is_proven(brotr, relay)


async def test_a_forged_copy_hides_no_good_one(brotr: Brotr) -> None:
    """Asked for by id, the relay hands over one that nobody signed, and then the right one."""
    await archive(brotr, EVENTS)
    forged = [{**event, "sig": OTHERS[0]["sig"]} for event in OTHERS[1:20]]
    theirs = [*EVENTS, *forged, *OTHERS]
    async with ScriptedRelay(theirs, Vices(reconciles="honestly")) as relay:
        report = await visit(brotr, relay)
        assert (report.windows, report.withheld) == (1, 0)
        assert await archived(brotr) == ids(EVENTS) | ids(OTHERS)
        assert await held(brotr, relay) == ids(theirs)


@pytest.mark.slow
async def test_every_rejected_event_is_counted(brotr: Brotr) -> None:
    """Whatever it was asked for with: in pages, by ids, to test the relay, or for a look again."""
    counted: Counter[str] = Counter()

    async def look(relay: ScriptedRelay) -> Report:
        report = await visit(brotr, relay)
        counted.update(report.reasons)
        rows = await brotr.pool.fetch("SELECT reason, sum(count) FROM bigbrotr.rejected GROUP BY 1")
        assert counted == {row[0]: row[1] for row in rows}
        assert report.rejected == sum(report.reasons.values())
        return report

    await archive(brotr, EVENTS)
    bad = {**OTHERS[0], "sig": OTHERS[1]["sig"]}
    async with ScriptedRelay([*EVENTS, bad], Vices(reconciles="honestly")) as relay:
        await look(relay)
        assert counted["bad signature"] >= 1
        # Nothing has changed since, and a page that is only looked at has a forged event.
        await brotr.pool.execute("UPDATE bigbrotr.withheld SET due_at = 2 * due_at")
        relay.vices = Vices(reconciles="honestly", forged=frozenset({"id", "content"}))
        await grow_old(brotr)
        report = await look(relay)
        assert (report.windows, report.reasons) == (1, {"bad id": 2})
        # A page that tells nothing, since it is cut.
        relay.vices = Vices(reconciles="honestly", forged=frozenset({"id"}), closed_after=1)
        await grow_old(brotr)
        assert (await look(relay)).reasons["bad id"] >= 1


@pytest.mark.slow
async def test_interrupted_and_gone_on_with(brotr: Brotr) -> None:
    """Each answer may be the last of its connection: the next one goes on from there."""
    await archive(brotr, EVENTS)
    vices = Vices(reconciles="honestly", drop_after_pages=3, clamp=32)
    async with ScriptedRelay([*EVENTS, *OTHERS], vices) as relay:
        await visit(brotr, relay)
        assert relay.seen.connections > 2
        assert await held(brotr, relay) == ids(EVENTS) | ids(OTHERS)
        assert await is_proven(brotr, relay)
        await check_totals(brotr)


async def test_events_that_come_meanwhile_are_not_taken_for_held(brotr: Brotr) -> None:
    """Between reading the ids and noting the pairs, others bring events of the same window."""
    await archive(brotr, EVENTS)
    async with ScriptedRelay(EVENTS, Vices(reconciles="honestly", delay_s=0.05)) as relay:
        worker = asyncio.create_task(visit(brotr, relay))
        await until(lambda: bool(relay.seen.reconciliations), "it reconciles")
        await archive(brotr, OTHERS)
        await worker
        assert await held(brotr, relay) == ids(EVENTS)
        assert await held(brotr, OLD.url) == ids(EVENTS) | ids(OTHERS)
        await check_totals(brotr)


@pytest.mark.slow
@BOTH
async def test_within_a_filter(brotr: Brotr) -> None:
    """Kinds and authors are told by both profiles; tags are not reconciled."""
    await archive(brotr, EVENTS * 1)
    more = [make_event(BEGIN + n, content=f"more {n}", kind=1) for n in range(600)]
    await archive(brotr, more)
    filter_ = Filter(until=UNTIL, kinds=frozenset([1]), authors=frozenset([pubkey(0), pubkey(1)]))
    wanted = [e for e in [*EVENTS, *more] if e["kind"] == 1 and e["pubkey"] in filter_.authors]  # type: ignore[operator]
    theirs = [*wanted[30:], *EVENTS, *OTHERS]
    async with ScriptedRelay(theirs, Vices(reconciles="honestly")) as relay:
        report = await visit(brotr, relay, config(filter=filter_))
        assert report.windows == 1
        expected = ids(e for e in theirs if e["kind"] == 1 and e["pubkey"] in filter_.authors)  # type: ignore[operator]
        assert await held(brotr, relay) == expected
        await grow_old(brotr)
        report = await visit(brotr, relay, config(filter=filter_))
        assert (report.windows, report.dropped, report.new) == (1, 0, 0)
        tagged = config(filter=Filter(until=UNTIL, tags={"t": frozenset(["x"])}))
        asked = len(relay.seen.reconciliations)
        await visit(brotr, relay, tagged)
        assert len(relay.seen.reconciliations) == asked


@pytest.mark.parametrize("for_all", [True, False])
async def test_it_can_be_switched_off(brotr: Brotr, for_all: bool) -> None:
    await archive(brotr, EVENTS)
    async with ScriptedRelay(EVENTS, Vices(reconciles="honestly")) as relay:
        own = {relay.url: RelaySettings(reconcile=False)}
        await visit(brotr, relay, config(reconcile=False) if for_all else config(relays=own))
        assert relay.seen.reconciliations == []
        assert await held(brotr, relay) == ids(EVENTS)


async def test_a_relay_that_wants_to_know_who_asks(brotr: Brotr) -> None:
    await archive(brotr, EVENTS)
    vices = Vices(reconciles="honestly", needs_auth=True)
    async with ScriptedRelay([*EVENTS, *OTHERS], vices) as relay:
        report = await visit(brotr, relay)
        assert report.windows == 1
        assert await held(brotr, relay) == ids(EVENTS) | ids(OTHERS)


async def test_a_real_relay(brotr: Brotr) -> None:
    await archive(brotr, EVENTS)
    async with local_relay([*EVENTS[100:], *OTHERS]) as url:
        report = await visit(brotr, url)
        assert report.windows == 1
        assert await held(brotr, url) == ids(EVENTS[100:]) | ids(OTHERS)
        assert await archived(brotr) == ids(EVENTS) | ids(OTHERS)
        await grow_old(brotr)
        report = await visit(brotr, url)
        assert (report.windows, report.matched, report.dropped, report.new) == (1, 0, 0, 0)


async def test_pages_tell_of_late_events_where_ids_cannot(brotr: Brotr) -> None:
    """The newest of what was proven is walked again, and after a longer time all of it."""
    now = int(time.time())
    recent = [make_event(now - 5000 - n, content=f"recent {n}") for n in range(5)]
    async with ScriptedRelay([*EVENTS[:20], *recent]) as relay:
        settings = config(
            reconcile=False,
            filter=Filter(),
            audit_s=7200,
            lookback_s=86_400,
            rewalk_s=200_000,
        )
        await visit(brotr, relay, settings)
        late, very_late = make_event(now - 4000, content="late"), make_event(BEGIN, content="late")
        await relay.add(late)
        await relay.add(very_late)
        await visit(brotr, relay, settings)
        assert await held(brotr, relay) == ids([*EVENTS[:20], *recent])
        await grow_old(brotr, 10_000)
        await visit(brotr, relay, settings)
        assert await held(brotr, relay) == ids([*EVENTS[:20], *recent, late])
        await grow_old(brotr, 300_000)
        await visit(brotr, relay, settings)
        assert await held(brotr, relay) == ids([*EVENTS[:20], *recent, late, very_late])
        assert await is_proven(brotr, relay)


def gone_from(relay: ScriptedRelay, *events: TimedSocket) -> None:
    """The relay deletes events."""
    relay.events = [event for event in relay.events if event["id"] not in ids(events)]


async def is_absent(brotr: Brotr, relay: ScriptedRelay, event: TimedSocket) -> bool:
    """What `where` says: it is somewhere, and never in two places at once."""
    place = await where(brotr, bytes.fromhex(event["id"]))
    urls = {
        part: [each if part == "unknown" else each["relay"] for each in place[part]]
        for part in ("present", "absent", "unknown")
    }
    (part,) = (part for part, listed in urls.items() if Relay(relay.url).url in listed)
    return part == "absent"


@BOTH
async def test_walking_again_ends_pairs(brotr: Brotr) -> None:
    """A relay that knows no ids deletes events: the next proof by pages tells so."""
    settings = config(reconcile=False, page_limit=50, audit_s=7200, rewalk_s=200_000)
    theirs = EVENTS[:300]
    async with ScriptedRelay(theirs) as relay:
        await visit(brotr, relay, settings)
        assert await held(brotr, relay) == ids(theirs)
        gone = [theirs[0], theirs[299], *theirs[100:180]]
        gone_from(relay, *gone)
        await grow_old(brotr, 300_000)
        report = await visit(brotr, relay, settings)
        assert (report.dropped, report.new) == (len(gone), 0)
        assert await held(brotr, relay) == ids(theirs) - ids(gone)
        assert await is_absent(brotr, relay, gone[5])
        assert not await is_absent(brotr, relay, theirs[1])
        await check_totals(brotr)
        # All that was deleted since: the relay is empty, says who asks twice.
        gone_from(relay, *theirs)
        await relay.add(gone[0])
        await grow_old(brotr, 300_000)
        assert (await visit(brotr, relay, settings)).dropped == len(theirs) - len(gone)
        assert await held(brotr, relay) == ids(gone[:1])
        assert await archived(brotr) == ids(theirs)
        await check_totals(brotr)


@pytest.mark.parametrize("by", ["ids", "pages"])
async def test_what_a_cut_walk_has_noted_may_be_gone(
    brotr: Brotr, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events of a page that nothing proved are deleted before their second is proven."""
    monkeypatch.setattr(reconcile, "WORTHWHILE", 100)
    await archive(brotr, EVENTS)
    vices = Vices(reconciles="unknown", rate_limited_after=2)
    settings = config(page_limit=40, reconcile=by == "ids")
    async with ScriptedRelay(EVENTS, vices) as relay:
        await visit(brotr, relay, config(page_limit=40, reconcile=False))
        seen = await held(brotr, relay)
        assert len(seen) >= 40
        spans = await brotr.pool.fetchval("SELECT range_agg(proven) FROM bigbrotr.coverage")
        unproven = [
            event
            for event in EVENTS
            if event["id"] in seen
            and not any(span.lower <= event["created_at"] < span.upper for span in spans or ())
        ]
        gone_from(relay, unproven[0])
        relay.vices = Vices(reconciles="honestly" if by == "ids" else "unknown")
        politeness_of.cache_clear()  # as if a while had passed
        await brotr.pool.execute("UPDATE bigbrotr.gaps SET due_at = 0")
        await grow_old(brotr)
        report = await visit(brotr, relay, settings)
        assert report.dropped == 1
        assert bool(report.windows) == (by == "ids")
        assert await held(brotr, relay) == ids(EVENTS) - ids(unproven[:1])
        assert await is_absent(brotr, relay, unproven[0])
        assert await is_proven(brotr, relay)
        await check_totals(brotr)


@pytest.mark.parametrize("profile", list(Profile))
async def test_walking_within_a_filter_ends_no_other_pairs(brotr: Brotr, profile: Profile) -> None:
    tagged = [make_event(BEGIN + n, tags=[["t", "x"]], content=f"{n}") for n in range(4)]
    theirs = [*EVENTS[:40], *tagged]
    async with ScriptedRelay(theirs) as relay:
        await visit(brotr, relay, config(reconcile=False))
        gone_from(relay, EVENTS[0], EVENTS[1], tagged[0])
        await grow_old(brotr)
        for filter_, gone in (
            (Filter(until=UNTIL, kinds=frozenset([7])), [EVENTS[1]]),
            (Filter(until=UNTIL, tags={"t": frozenset("x")}), tagged[:1]),
        ):
            before = await held(brotr, relay)
            await brotr.pool.execute("DELETE FROM bigbrotr.coverage")
            await visit(brotr, relay, config(reconcile=False, filter=filter_))
            can_tell = profile is Profile.FULL or not filter_.tags
            assert await held(brotr, relay) == before - (ids(gone) if can_tell else set())
