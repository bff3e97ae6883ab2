"""Exports: any selection gives what a look at every event gives, in order, page by page."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from bigbrotr.config.settings import Profile
from bigbrotr.core.brotr import Brotr
from bigbrotr.errors import ConfigError
from bigbrotr.models.event import Event
from bigbrotr.models.policy import View
from bigbrotr.models.query import Position, Query
from bigbrotr.reads.events import NotKeptError
from bigbrotr.reads.policy import hidden_of
from bigbrotr.secret import without_secrets
from bigbrotr.transfer import jsonl
from bigbrotr.transfer.jsonl import Exporter, Lines
from bigbrotr.transfer.selection import Selection, position, position_text
from tests.kit.archive import BOTH, A, B, C, keys, ordered, pairs
from tests.kit.events import NOW, verified
from tests.kit.policy import hidden, judge
from tests.reads.test_events import EVENTS, QUERIES, matching

HELD = {A.url: EVENTS[::2], B.url: EVENTS[::3]}  # C: the rest


async def export(brotr: Brotr, selection: Selection) -> list[bytes]:
    """All lines of a selection."""
    found: list[bytes] = []

    async def write(lines: Lines) -> None:
        assert lines.data.endswith(b"\n")
        some = lines.data[:-1].split(b"\n")
        assert len(some) == lines.number
        last = json.loads(some[-1])
        assert (last["created_at"], last["id"]) == (lines.last.created_at, lines.last.id.hex())
        found.extend(some)

    assert await Exporter(brotr.pool, selection).run(write) == len(found)
    return found


def wanted(selection: Selection) -> list[bytes]:
    """The ids of the events of a selection: each event is looked at."""
    held = {e.id for url in selection.relays for e in HELD[url]}
    some = [event for event in EVENTS if not selection.relays or event.id in held]
    matches = set(matching(selection.query, some))
    found = sorted(
        ((e.created_at, e.id) for e in some if e.id in matches), reverse=selection.is_reversed
    )
    if (after := selection.after) is not None:
        found = [k for k in found if (k < after if selection.is_reversed else k > after)]
    return [event_id for _, event_id in found]


SELECTIONS = st.builds(
    Selection,
    query=QUERIES,
    relays=st.sets(st.sampled_from([A.url, B.url]), max_size=2).map(sorted).map(tuple),
    is_reversed=st.booleans(),
    after=st.none()
    | st.sampled_from([Position(event.created_at, event.id) for event in EVENTS])
    | st.just(Position(NOW, bytes(32))),
)


async def fill(brotr: Brotr) -> None:
    known = {event.id for events in HELD.values() for event in events}
    rest = [event for event in EVENTS if event.id not in known]
    await brotr.insert_events([*pairs(HELD[A.url], A), *pairs(HELD[B.url], B), *pairs(rest, C)])


@BOTH
@pytest.mark.parametrize("is_analyzed", [False, True])
async def test_any_selection_gives_what_a_look_at_every_event_gives(
    brotr: Brotr, profile: Profile, is_analyzed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl, "PAGE", 3)
    monkeypatch.setattr(jsonl, "WINDOW", 10)
    await fill(brotr)
    if is_analyzed:
        await brotr.analyze()
    signed = {event.id.hex(): json.loads(event.to_json()) for event in EVENTS}
    cases: list[Selection] = []

    @settings(
        max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(SELECTIONS)
    def generate(selection: Selection) -> None:
        if not selection.query.tags or profile is Profile.FULL:
            cases.append(selection)

    generate()
    cases += [Selection(), Selection(is_reversed=True)]
    some = 0
    for selection in cases:
        lines = [json.loads(line) for line in await export(brotr, selection)]
        assert [bytes.fromhex(each["id"]) for each in lines] == wanted(selection), selection
        some += bool(lines)
        for each in lines if profile is Profile.FULL else ():
            assert each == signed[each["id"]]
    assert some > 1


async def test_all_goes_through_windows_and_pages_of_any_size(
    brotr: Brotr, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(brotr)
    for page, window, most_bytes in ((1, 1, 10**6), (7, 20, 1), (1000, 3, 10**6)):
        monkeypatch.setattr(jsonl, "PAGE", page)
        monkeypatch.setattr(jsonl, "WINDOW", window)
        monkeypatch.setattr(jsonl, "PAGE_BYTES", most_bytes)
        for is_reversed in (False, True):
            selection = Selection(is_reversed=is_reversed)
            lines = await export(brotr, selection)
            assert [bytes.fromhex(json.loads(x)["id"]) for x in lines] == wanted(selection)
            for at in (0, 57, len(lines) - 1):
                last = json.loads(lines[at])
                after = Position(last["created_at"], bytes.fromhex(last["id"]))
                assert await export(brotr, replace(selection, after=after)) == lines[at + 1 :]


async def test_events_are_exported_as_they_were_signed(brotr: Brotr) -> None:
    """Also where columns cannot hold them."""
    events = [
        verified('"quoted" \\ \n\u2028 é \x7f \b\f\r\t', tags=[["t", 'a"b\n'], ["p"]]),
        verified("a" * 100_000),
        verified('{"raw":"' + "0" * 64 + '"}', tags=[["x", "\u0001"]]),
        verified("nul \0 within", tags=[["t", "\0"]]),
        verified("lone \ud800 surrogate"),
        verified("bell \x07", verbatim=True),
    ]
    await brotr.insert_events(pairs(events, A))
    lines = await export(brotr, Selection())
    found = {event.id: event for event in map(Event.from_json, lines)}
    assert len(found) == len(lines) == len(events)
    for event in events:
        assert found[event.id].raw == event.raw
        assert (found[event.id].content, found[event.id].tags) == (event.content, event.tags)


@BOTH
async def test_a_view_hides_what_it_hides(brotr: Brotr, profile: Profile) -> None:
    old, new = (verified(kind=0, created_at=NOW + n) for n in range(2))
    gone = verified()
    delete = verified("", [["e", gone.id.hex()]], kind=5, created_at=NOW + 9)
    expired = verified(tags=[["expiration", str(NOW + 10)]])
    events = [old, new, gone, delete, expired]
    await brotr.insert_events(pairs(events, A))
    await judge(brotr)
    assert profile is Profile.LITE or len(await hidden(brotr)) >= 3
    for view in View:
        found = {
            bytes.fromhex(json.loads(x)["id"]) for x in await export(brotr, Selection(view=view))
        }
        hides = await hidden_of(brotr.pool, view, keys(ordered(events)))
        assert found == {event.id for n, event in enumerate(ordered(events)) if n not in hides}
        if view is View.KEPT:
            assert len(found) == 5


async def test_what_is_wrong_is_told(brotr: Brotr) -> None:
    with pytest.raises(ConfigError, match=r"no relay wss://b\.example\.com is known here"):
        await export(brotr, Selection(relays=(B.url,)))
    for text in ("1", "1:2", f"-1:{'a' * 64}", f"1:{'g' * 64}", ""):
        with pytest.raises(ValueError, match="is no created_at:id"):
            position(text)
    at = Position(5, bytes(range(32)))
    assert position(position_text(at)) == position(f"5:{at.id.hex().upper()}") == at
    assert without_secrets(position_text(at)) == position_text(at)


@pytest.mark.parametrize("profile", [Profile.LITE])
async def test_tags_that_are_not_kept_are_no_condition(brotr: Brotr, profile: Profile) -> None:
    with pytest.raises(NotKeptError, match="keeps no tags"):
        await export(brotr, Selection(query=Query(tags={"t": frozenset("a")})))


async def test_nothing_is_read_ahead_of_a_writer_that_is_slow(
    brotr: Brotr, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits in memory has a bound."""
    monkeypatch.setattr(jsonl, "PAGE", 1)
    await fill(brotr)
    exporter = Exporter(brotr.pool, Selection())
    calls: list[str] = []
    inner = exporter.pool.fetch

    async def fetch(query: str, *arguments: Any, timeout: float | None = None) -> list[Any]:
        calls.append(query)
        return await inner(query, *arguments, timeout=timeout)

    monkeypatch.setattr(exporter.pool, "fetch", fetch)
    written = 0

    async def write(lines: Lines) -> None:
        nonlocal written
        written += lines.number
        pages = sum("export_lines" in each for each in calls)
        # In hand, waiting, and one that each reader holds.
        assert pages <= written + exporter.readers * (jsonl.AHEAD + 2)

    assert await exporter.run(write) == len(EVENTS)
