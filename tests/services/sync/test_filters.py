"""What is wanted: the archive holds exactly that, and no change of mind leaves a hole."""

import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bigbrotr.config.settings import (
    Config,
    Link,
    Networks,
    RelaySettings,
    SynchronizerSettings,
    SyncPolicy,
)
from bigbrotr.core.brotr import Brotr
from bigbrotr.errors import ConfigError
from bigbrotr.models.columns import Columns
from bigbrotr.models.event import WireEvent
from bigbrotr.models.filter import Filter
from bigbrotr.models.keys import Keys
from bigbrotr.models.relay import Network, Relay
from bigbrotr.nostr.auth import Throwaway
from bigbrotr.nostr.questions import End, Probe, Question
from bigbrotr.nostr.session import Page
from bigbrotr.reads.relays import progress as progress_of
from bigbrotr.services.sync.dialect import NARROW_KINDS, KnownElsewhere, filters_for
from bigbrotr.services.sync.ingest import sift
from bigbrotr.services.sync.worker import Slice, Worker, signer_of
from bigbrotr.supervisor import choose
from tests.kit.events import make_event, pubkey, wire
from tests.kit.model import Vices, matches
from tests.kit.processes import Archive, Place, until
from tests.kit.real import local_relay, nostr_relay
from tests.kit.scripted import ScriptedRelay

Event = Mapping[str, Any]

BEGIN = 1_600_000_000
EVENTS = [
    make_event(
        BEGIN + 10 * (n // 2),
        kind=(1, 7, 1111)[n % 3],
        tags=[["t", f"tag{n % 5}"], ["e", f"{n:064x}"]],
        content=f"event {n}",
        key=n % 4,
    )
    for n in range(120)
]
END = EVENTS[-1]["created_at"]
ORDER = Slice("test/synchronizer", 60.0, {Network.LOCAL: 10})
NOTES = Filter(kinds=frozenset([1]))


def config(**settings: Any) -> Config:
    return Config(
        networks=Networks(clearnet=Link(enabled=False), local=Link(timeout_s=30.0)),
        synchronizer=SynchronizerSettings(
            **{"page_limit": 20, "settle_s": 0, "slice_s": 60.0, **settings}
        ),
    )


def selected(request_: Mapping[str, Any], events: Sequence[Event] = EVENTS) -> set[str]:
    """The dumb oracle."""
    return {event["id"] for event in events if matches(event, request_)}


def decode(event: Event) -> WireEvent:
    return msgspec.json.decode(wire(event), type=WireEvent)


async def archived(brotr: Brotr) -> set[str]:
    rows = await brotr.pool.fetch("SELECT encode(id, 'hex') AS id FROM bigbrotr.events")
    return {row["id"] for row in rows}


async def visit(brotr: Brotr, **settings: Any) -> None:
    """Every relay is called at once, and all that is due is done."""
    await brotr.pool.execute("UPDATE bigbrotr.visits SET due_at = 0")
    worker = Worker(config(**settings), brotr)
    while (await worker.work(ORDER)).visits:
        pass


async def gaps(brotr: Brotr) -> list[tuple[str, str]]:
    rows = await brotr.pool.fetch("SELECT filter, reason FROM bigbrotr.gaps")
    return sorted(map(tuple, rows))


@asynccontextmanager
async def known_relay(brotr: Brotr, vices: Vices | None = None) -> AsyncIterator[ScriptedRelay]:
    async with ScriptedRelay(EVENTS, vices) as relay:
        await brotr.insert_relays([Relay(relay.url)])
        yield relay


# One question and its answer


def test_requests() -> None:
    both = Filter(kinds=frozenset([7, 1]), tags={"t": frozenset("ba")}, until=90)
    policy = SyncPolicy(5, both, 100, True, True)
    conditions = {"kinds": [1, 7], "#t": ["a", "b"]}
    assert filters_for(Question(5, 50, 500), policy) == [
        {**conditions, "since": 5, "until": 50, "limit": 100}
    ]
    assert filters_for(Question(5, None, 20), policy) == [
        {**conditions, "since": 5, "until": 90, "limit": 20}
    ]
    assert filters_for(Question(5, None, 20), policy._replace(filter=Filter())) == [
        {"since": 5, "limit": 20}
    ]
    assert filters_for(Question(0, None, 20, Probe.ANY), policy) == [
        {**conditions, "until": 90, "limit": 20}
    ]


@pytest.mark.parametrize(
    ("kinds", "asked"),
    [
        (None, list(NARROW_KINDS)),
        ([1], [1]),
        ([5, 3, 1, 7], [1, 3]),
        ([20, 10, 30, 50, 40], [10, 20, 30, 40]),
    ],
)
def test_narrow_requests_stay_within_the_filter(kinds: list[int] | None, asked: list[int]) -> None:
    filter_ = Filter(
        kinds=None if kinds is None else frozenset(kinds), authors=frozenset([pubkey()])
    )
    said = filters_for(Question(0, None, 20, Probe.KINDS), SyncPolicy(0, filter_, 100, True, True))
    assert said == [{"limit": 20, "authors": [pubkey()], "kinds": asked}]


def test_requests_for_what_is_known_from_elsewhere() -> None:
    policy = SyncPolicy(0, Filter(), 100, True, True)
    known = KnownElsewhere(["aa", "bb"], ["cc"])
    assert filters_for(Question(0, None, 20, Probe.KNOWN), policy, known) == [
        {"limit": 20, "authors": ["aa", "bb"]},
        {"ids": ["cc"], "limit": 1},
    ]
    mine = policy._replace(filter=Filter(authors=frozenset([pubkey()])))
    assert filters_for(Question(0, None, 20, Probe.KNOWN), mine, known)[0] == {
        "limit": 20,
        "authors": [pubkey()],
    }


def test_sifting() -> None:
    events = [make_event(time_, kind=kind) for time_ in range(10) for kind in (1, 7)]

    def page() -> Page:
        return Page(Columns.of(map(decode, events)), End.EOSE)

    policy = SyncPolicy(3, msgspec.structs.replace(NOTES, until=6), 100, True, True)
    answer, batch = sift(page(), Question(2, 7, 100), policy)
    # A second more on either side was asked for: heard, but not wanted.
    assert answer.created_ats == [2, 3, 4, 5, 6, 7]
    assert list(batch.events.created_ats) == [3, 4, 5, 6]
    assert answer.off_filter == len(events) - 6
    answer, batch = sift(page(), Question(3, None, 100), policy)
    assert answer.created_ats == list(batch.events.created_ats) == [3, 4, 5, 6]


def test_sifting_tags_that_are_none() -> None:
    bad = make_event(tags=[["t", 7]])  # type: ignore[list-item]
    page = Page(Columns.of([decode(bad)]), End.EOSE)
    policy = SyncPolicy(0, Filter(tags={"t": frozenset(["x"])}), 100, True, True)
    answer, batch = sift(page, Question(0, None, 100), policy)
    assert (answer.off_filter, len(batch.events)) == (0, 0)
    assert batch.rejected.keys() == {"malformed"}


# One relay

FILTERS = {
    "kinds": Filter(kinds=frozenset([1, 7])),
    "authors": Filter(authors=frozenset([pubkey(1), pubkey(2)])),
    "tags": Filter(tags={"t": frozenset(["tag1", "tag3"])}),
    "all of them": Filter(
        kinds=frozenset([1, 1111]),
        authors=frozenset([pubkey(0), pubkey(1)]),
        tags={"t": frozenset(["tag0", "tag1"])},
    ),
    "nothing there": Filter(kinds=frozenset([30_000, 30_001])),
}


@pytest.mark.parametrize("name", list(FILTERS))
async def test_archive_holds_what_the_filter_selects(brotr: Brotr, name: str) -> None:
    async with known_relay(brotr):
        await visit(brotr, filter=FILTERS[name])
        assert await archived(brotr) == selected(FILTERS[name].to_request())
        assert await gaps(brotr) == []
        await visit(brotr)
        assert await archived(brotr) == selected({})
        assert await gaps(brotr) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "vices", [Vices(), Vices(until_excluded=True), Vices(pick="oldest", order="oldest")]
)
@pytest.mark.parametrize("until", [END, END - 10, END - 11, END + 1, BEGIN, BEGIN - 1, 2**52])
async def test_archive_ends_where_it_should(brotr: Brotr, vices: Vices, until: int) -> None:
    since = min(until, BEGIN + 30)
    async with known_relay(brotr, vices) as relay:
        await visit(brotr, since=since, filter=Filter(until=until))
        assert await archived(brotr) == selected({"since": since, "until": until})
        # Of an archive that knows nothing, nobody can say whether a relay is empty.
        assert await gaps(brotr) == [] if until >= BEGIN else [("", "suspected-empty")]
        asked = relay.seen.filters.copy()
        assert all(filter_["until"] <= until + 1 for (filter_,) in asked)
        await visit(brotr, since=since, filter=Filter(until=until))
        if until < END + 2:  # all is in the past and proven: the relay is left in peace
            assert relay.seen.filters == asked
        await brotr.pool.execute("UPDATE bigbrotr.gaps SET due_at = 0")
        await visit(brotr)
        assert await archived(brotr) == selected({})
        assert await gaps(brotr) == []


@pytest.mark.slow
async def test_relays_of_others(brotr: Brotr, tmp_path: Path) -> None:
    filter_ = Filter(kinds=frozenset([1, 7]), tags={"t": frozenset(["tag1"])}, until=END - 10)
    async with AsyncExitStack() as stack:
        for url in (
            await stack.enter_async_context(local_relay(EVENTS)),
            await stack.enter_async_context(nostr_relay(tmp_path, EVENTS)),
        ):
            await brotr.insert_relays([Relay(url)])
        await visit(brotr, filter=filter_)
        wanted = selected({**filter_.to_request(), "until": END - 10})
        assert await archived(brotr) == wanted
        assert (await brotr.totals()).pairs == 2 * len(wanted)
        await visit(brotr)
        assert await archived(brotr) == selected({})
        assert (await brotr.totals()).pairs == 2 * len(EVENTS)
        assert await gaps(brotr) == []


async def test_changes_of_mind_leave_no_hole_and_ask_nothing_twice(brotr: Brotr) -> None:
    async with known_relay(brotr) as relay:

        async def asked(**settings: Any) -> int:
            """The earliest second that was asked for."""
            relay.seen.filters.clear()
            await visit(brotr, **settings)
            # None at all within the same second.
            sinces: list[int] = [filter_["since"] for (filter_,) in relay.seen.filters]
            return min(sinces, default=begun)

        begun = int(time.time())
        assert await asked(filter=NOTES) == 0
        assert await archived(brotr) == selected({"kinds": [1]})
        other = Filter(kinds=frozenset([7]))
        assert await asked(filter=other) == 0
        assert await archived(brotr) == selected({"kinds": [1, 7]})
        assert await asked(filter=NOTES) >= begun - 1  # as it was
        assert await asked() == 0  # everything
        assert await archived(brotr) == selected({})
        for filter_ in (NOTES, other, FILTERS["tags"], Filter()):
            assert await asked(filter=filter_) >= begun - 1  # all of it is there


async def test_earlier_pairs_do_not_make_an_honest_relay_suspect(brotr: Brotr) -> None:
    """The archive knows events of it, but none in what is wanted now."""
    async with known_relay(brotr):
        await visit(brotr, filter=Filter(until=END))
        for settings in (
            {"filter": FILTERS["nothing there"]},
            {"since": END + 1},
            {"since": END + 1, "filter": Filter(until=END + 9)},
        ):
            await visit(brotr, **settings)
            assert await gaps(brotr) == []


async def test_new_filter_beside_old_gaps(brotr: Brotr) -> None:
    async with known_relay(brotr, Vices(refuses="error: too broad")) as relay:
        await visit(brotr)
        assert await gaps(brotr) == [("", "closed")]
        relay.vices = Vices()
        await visit(brotr, filter=NOTES)
        assert await archived(brotr) == selected({"kinds": [1]})
        assert await gaps(brotr) == [("", "closed")]  # waits for its time
        due_at = await brotr.next_visit_at([Network.LOCAL])
        assert due_at is not None
        assert due_at > time.time() + 60
        await brotr.pool.execute("UPDATE bigbrotr.gaps SET due_at = 0")
        await visit(brotr)
        assert await archived(brotr) == selected({})
        assert await gaps(brotr) == []


async def test_relay_that_does_not_heed_the_filter(brotr: Brotr) -> None:
    async with known_relay(brotr, Vices(ignores=frozenset({"kinds"}))):
        await visit(brotr, filter=NOTES)
        assert await archived(brotr) <= selected({"kinds": [1]})
        reasons = {reason for _, reason in await gaps(brotr)}
        assert reasons <= {"ignores-filter"}
        if not reasons:
            assert await archived(brotr) == selected({"kinds": [1]})
    totals = await brotr.totals()
    assert totals.rejected == 0


async def test_some_relays_apart(brotr: Brotr) -> None:
    async with AsyncExitStack() as stack:
        relays = [await stack.enter_async_context(ScriptedRelay(EVENTS)) for _ in range(4)]
        urls = [Relay(relay.url).url for relay in relays]
        await brotr.insert_relays([Relay(url) for url in urls])
        await visit(
            brotr,
            filter=NOTES,
            relays={
                f"{urls[1].replace('ws', 'WS')}/": RelaySettings(enabled=False),
                urls[2]: RelaySettings(filter=Filter(until=BEGIN + 50), page_limit=3),
                urls[3]: RelaySettings(since=BEGIN + 300),
            },
        )
        rows = await brotr.pool.fetch(
            "SELECT encode(event_id, 'hex') AS id, relay_url FROM bigbrotr.events_relays"
        )
        held = [{row["id"] for row in rows if row["relay_url"] == url} for url in urls]
        assert held == [
            selected({"kinds": [1]}),
            set(),
            selected({"until": BEGIN + 50}),
            selected({"kinds": [1], "since": BEGIN + 300}),
        ]
        assert relays[1].seen.connections == 0
        assert {filter_["limit"] for (filter_,) in relays[2].seen.filters} == {3}
        assert {filter_["limit"] for (filter_,) in relays[0].seen.filters} == {20}
        progress = {row.url: row.filter for row in await progress_of(brotr.pool)}
        assert progress == {url: '{"kinds":[1]}' if url != urls[2] else "" for url in urls} | {
            urls[1]: ""
        }


# Keys


async def identity(brotr: Brotr) -> str | None:
    (row,) = await progress_of(brotr.pool)
    return row.identity


async def test_relay_that_insists_on_a_key(brotr: Brotr) -> None:
    async with known_relay(brotr, Vices(needs_auth=True)) as relay:
        await visit(brotr, auth="never")
        assert await gaps(brotr) == [("", "closed")]
        detail = await brotr.pool.fetchval("SELECT detail FROM bigbrotr.gaps")
        assert detail == "auth-required: who are you?"
        assert await identity(brotr) is None
        await brotr.pool.execute("UPDATE bigbrotr.gaps SET due_at = 0")
        await visit(brotr)
        assert await archived(brotr) == selected({})
        assert await gaps(brotr) == []
        first = await identity(brotr)
        assert first is not None
        await brotr.pool.execute("DELETE FROM bigbrotr.coverage")
        await visit(brotr)  # another worker
        assert await identity(brotr) not in (None, first)
        relay.vices = Vices()
        await brotr.pool.execute("DELETE FROM bigbrotr.coverage")
        await visit(brotr)
        assert await identity(brotr) is None


def test_keys_by_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Keys.generate()
    monkeypatch.delenv("PRIVATE_KEY", raising=False)
    assert signer_of("never") is None
    assert isinstance(signer_of("throwaway"), Throwaway)
    with pytest.raises(ConfigError, match="PRIVATE_KEY is not set"):
        choose(config(auth="configured"), None)
    monkeypatch.setenv("PRIVATE_KEY", "nonsense")
    with pytest.raises(ConfigError, match="PRIVATE_KEY is not a private key"):
        choose(config(auth="configured"), None)
    assert choose(config(auth="configured"), ["validator"]) == ["validator"]
    monkeypatch.setenv("PRIVATE_KEY", "01" * 32)
    signer = signer_of("configured")
    assert signer is not None
    assert signer.public_key == Keys("01" * 32).public_key != keys.public_key


# The whole


@pytest.mark.slow
async def test_filtered_archive_and_then_everything(tmp_path: Path) -> None:
    secret = "02" * 32
    async with ScriptedRelay(EVENTS) as relay, ScriptedRelay(EVENTS[::2]) as shy:
        urls = [relay.url, shy.url]
        more = '[synchronizer.filter]\nkinds = [1, 7]\ntags = { t = ["tag1", "tag2"] }\n'
        more += f'until = {END - 20}\n[synchronizer.relays."{shy.url}/"]\nsince = {BEGIN + 100}\n'
        place = Place(tmp_path / "place", urls, more=more, workers=2)
        await place.run_once()
        wanted = {"kinds": [1, 7], "#t": ["tag1", "tag2"], "until": END - 20}
        async with place.database() as connection:
            archive = await Archive.read(connection)
            held = selected(wanted)
            assert archive.events.keys() == held
            later = selected({**wanted, "since": BEGIN + 100}, EVENTS[::2])
            assert archive.pairs == {(each, relay.url) for each in held} | {
                (each, shy.url) for each in later
            }
            await connection.execute("UPDATE bigbrotr.visits SET due_at = 0")
        shy.vices = Vices(needs_auth=True)
        text = place.config.read_text().replace(more, "")
        place.config.write_text(text.replace("workers = 2", 'workers = 2\nauth = "configured"'))
        async with place.start("--once", PRIVATE_KEY=secret) as running:
            assert await running.wait() == 0, running.err
            assert secret not in running.err
        async with place.database() as connection:
            archive = await Archive.read(connection)
            assert archive.events.keys() == selected({})
            assert len(archive.pairs) == len(EVENTS) + len(EVENTS[::2])
            assert archive.totals["gaps"] == 0
        status = await place.call("status", "--json")
        progress = {row["url"]: row for row in json.loads(status.out)["progress"]}
        assert progress[shy.url]["identity"] == Keys(secret).public_key
        assert progress[relay.url]["identity"] is None
        assert {row["filter"] for row in progress.values()} == {""}
    missing = await place.call("run", "--once")
    assert missing.code == 2
    assert missing.sentence.endswith("but PRIVATE_KEY is not set")


@pytest.mark.slow
async def test_what_comes_in_live_is_filtered(tmp_path: Path) -> None:
    async with ScriptedRelay(EVENTS, Vices(needs_auth=True)) as relay, ScriptedRelay() as still:
        more = "[synchronizer.filter]\nkinds = [1]\n"
        more += f'[synchronizer.relays."{still.url}"]\nlive = false\n'
        place = Place(
            tmp_path / "place", [relay.url, still.url], live=True, revisit_s=1, more=more, workers=2
        )
        async with place.start() as running:
            await running.says("ready")

            async def outcomes() -> dict[str, str | None]:
                async with place.look() as connection:
                    rows = await connection.fetch(
                        "SELECT r.url, outcome FROM bigbrotr.visits v"
                        " JOIN bigbrotr.relays r ON r.id = relay_id"
                    )
                    return {row["url"]: row["outcome"] for row in rows}

            async def is_live() -> bool:
                return await outcomes() == {relay.url: "live", still.url: "complete"}

            await until(is_live, "one of them is followed")
            now = int(time.time())
            other, note = make_event(now, kind=7), make_event(now, content="new")
            for event in (other, note):
                await relay.add(event)

            async def is_there() -> bool:
                async with place.look() as connection:
                    return note["id"] in (await Archive.read(connection)).events

            await until(is_there, "the note is archived")
            assert await is_live()
            assert await running.end() == 0
        async with place.database() as connection:
            archive = await Archive.read(connection)
        assert archive.events.keys() == selected({"kinds": [1]}) | {note["id"]}
