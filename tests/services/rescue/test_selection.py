"""What is selected: which events, for which relays, and why the others are left out."""

import json
from collections import Counter
from typing import Any

import msgspec
import pytest

from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.rescues import ToRescue
from bigbrotr.models.query import Query
from bigbrotr.models.relay import Relay
from bigbrotr.models.rescue import Left
from bigbrotr.services.rescue.selection import Selecting, Selection
from tests.kit.events import NOW, make_event, pubkey
from tests.services.rescue.town import DEAD, WELL, archive, config

TARGET = "wss://target.example.com"
OTHER = Relay("wss://other.example.com")
ME = frozenset([bytes.fromhex(pubkey(0))])


async def select(
    brotr: Brotr, selection: Selection, **more: Any
) -> tuple[list[ToRescue], Counter[tuple[str, Left]], int]:
    events: list[ToRescue] = []
    left: Counter[tuple[str, Left]] = Counter()
    looked = 0
    async for found in Selecting(brotr, config(), selection, **more).pages():
        events += found.events
        left += found.left
        looked += found.looked
    assert len({(each.url, each.id) for each in events}) == len(events)
    return events, left, looked


def to(target: str = TARGET, **more: Any) -> Selection:
    return Selection(**{"query": Query(authors=ME), "to": (target,), **more})


async def test_what_a_relay_alone_holds_page_by_page(
    brotr: Brotr, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bigbrotr.services.rescue.selection.HELD_IDS", 4)
    monkeypatch.setattr("bigbrotr.services.rescue.selection.PAGE", 3)
    alone = await archive(
        brotr, [make_event(NOW - n // 3, content=f"alone {n}", key=n % 2) for n in range(23)], DEAD
    )
    await archive(brotr, [make_event(NOW - n, content=f"safe {n}") for n in range(9)], DEAD, WELL)
    doomed = await archive(
        brotr, [make_event(NOW - n, content=f"doomed {n}") for n in range(5)], DEAD, OTHER
    )
    await archive(brotr, [make_event(content="elsewhere")], WELL)
    await brotr.pool.execute(
        "UPDATE bigbrotr.visits v SET retired_at = 1 FROM bigbrotr.relays r"
        " WHERE r.id = v.relay_id AND r.url = $1",
        OTHER.url,
    )
    held = to(query=Query(), held_by=DEAD.url, below=1)
    events, left, looked = await select(brotr, held)
    assert looked == 37
    assert {each.id for each in events} == {event.id for event in [*alone, *doomed]}
    assert not left
    mine = to(held_by=DEAD.url, below=1)
    events, _, _ = await select(brotr, mine)
    assert {each.pubkey for each in events} == set(ME)
    events, _, looked = await select(brotr, to(query=Query(), held_by=DEAD.url))
    assert (len(events), looked) == (37, 37)
    events, _, _ = await select(brotr, to(query=Query(), held_by=DEAD.url, below=1, limit=7))
    assert len(events) == 7
    assert await select(brotr, to(held_by="wss://unknown.example.com")) == ([], Counter(), 0)
    with pytest.raises(ValueError, match="cannot be where they go"):
        to(held_by=TARGET)


async def test_what_is_left_out_is_counted_by_why(brotr: Brotr) -> None:
    secret = make_event(tags=[["-"]], content="secret")
    await archive(
        brotr,
        [
            secret,
            make_event(NOW, 6, content=json.dumps(secret)),
            make_event(NOW, 20_001),
            make_event(NOW, 0, content="{}"),
            make_event(NOW - 1, 0, content='{"name":"old"}'),
            make_event(NOW, 1, [["expiration", "7"]]),
            make_event(content="fine"),
        ],
        DEAD,
    )
    await archive(brotr, [make_event(content="there")], Relay(TARGET))
    events, left, looked = await select(brotr, to())
    assert (len(events), looked) == (2, 8)
    assert left == {
        ("", Left.PROTECTED): 1,
        ("", Left.EMBEDS): 1,
        ("", Left.EPHEMERAL): 1,
        ("", Left.SUPERSEDED): 1,
        ("", Left.EXPIRED): 1,
        (TARGET, Left.HELD): 1,
    }


async def test_what_relays_say_that_they_take_is_known_beforehand(brotr: Brotr) -> None:
    await archive(
        brotr,
        [make_event(NOW, content="x" * 900), make_event(NOW, tags=[["t", "a"]] * 9)],
        DEAD,
        targets=[TARGET],
    )
    limits = {"max_message_length": 1000, "max_event_tags": 8, "restricted_writes": False}
    await brotr.pool.execute(
        "SELECT bigbrotr.insert_relay_metadata(p_urls => $1, p_types => $2,"
        " p_snapshot_ats => $3, p_ids => $4, p_datas => $5)",
        *([TARGET], ["nip11"], [NOW], [b"1" * 32]),
        [msgspec.json.encode({"limitation": limits}).decode()],
    )
    events, left, _ = await select(brotr, to(), heeds_documents=True)
    assert events == []
    assert left == {(TARGET, Left.MESSAGE): 1, (TARGET, Left.TAGS): 1}
    events, left, _ = await select(brotr, to())  # it is asked anew when something is sent
    assert (len(events), left) == (2, Counter())


async def test_where_an_author_writes_the_relays_that_are_well_come_first(brotr: Brotr) -> None:
    names = ("failing", "unknown", "well", "well2", "dead")
    urls = {name: f"wss://{name}.example.com" for name in names}
    tags = [["r", urls[name]] for name in names]
    await archive(
        brotr,
        [make_event(NOW, 10002, tags), make_event(content="mine")],
        DEAD,
        targets=[urls["failing"], urls["well"], urls["well2"]],
    )
    await brotr.pool.execute(
        "UPDATE bigbrotr.visits v SET retired_at = 1 FROM bigbrotr.relays r"
        " WHERE r.id = v.relay_id AND r.url = $1",
        urls["failing"],
    )
    events, _, _ = await select(brotr, to(to=(), most_relays=2, held_by=DEAD.url))
    assert {each.url for each in events} == {urls["well"], urls["well2"]}
    events, _, _ = await select(brotr, to(to=(), most_relays=9, held_by=DEAD.url))
    assert {each.url for each in events} == set(urls.values()) - {DEAD.url}
