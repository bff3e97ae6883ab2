"""What is counted is what a dumb recount finds, in whatever order it comes; and who is ranked."""

import asyncio
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nostr_sdk
import pytest

from bigbrotr.config.settings import Config, Profile, RanksSettings
from bigbrotr.core.base_service import Context
from bigbrotr.core.brotr import Brotr
from bigbrotr.models.event import Event
from bigbrotr.models.policy import View
from bigbrotr.models.query import Query
from bigbrotr.models.ranks import COUNTED, What, facts_of
from bigbrotr.reads.events import EventReads
from bigbrotr.services.ranks import service
from bigbrotr.services.ranks.service import Ranks
from tests.kit.events import NOW, pubkey, verified
from tests.kit.invoices import zap
from tests.kit.policy import judge
from tests.kit.processes import call
from tests.kit.served import served
from tests.models.test_page_rank import dumb
from tests.serve.relay.client import store

Sums = dict[bytes, dict[str, int]]
AUTHOR = {
    What.POST: "posts",
    What.REPLY: "replies",
    What.REACTED: "reactions",
    What.ZAP_RECEIVED: "zaps_received",
    What.ZAP_SENT: "zaps_sent",
    What.REPORT_RECEIVED: "reports_received",
    What.REPORT_SENT: "reports_sent",
}
SUBJECT = {
    What.COMMENTED: "comments",
    What.QUOTED: "quotes",
    What.REPOSTED: "reposts",
    What.REACTION_TO: "reactions",
    What.ZAPPED: "zaps",
}
AMOUNT = {What.ZAP_RECEIVED: "msat_received", What.ZAP_SENT: "msat_sent", What.ZAPPED: "msat"}


async def cycle(brotr: Brotr, **settings: Any) -> None:
    """One cycle of a process of its own."""
    wanted = RanksSettings(**settings)
    async with Ranks(brotr, wanted, Context(Config())) as made:
        await made.run()


async def recount(brotr: Brotr) -> tuple[Sums, Sums]:
    """What is counted of all that the current view shows, slowly."""
    authors: Sums = defaultdict(Counter)
    subjects: Sums = defaultdict(Counter)
    firsts: dict[bytes, int] = {}
    async for event in EventReads(brotr.pool, View.CURRENT).all(Query(kinds=COUNTED)):
        tags = Event.from_json(event.to_json()).tags
        for what, subject, msat in facts_of(event.pubkey, event.kind, tags):
            if what < 10:
                authors[subject][AUTHOR[What(what)]] += 1
            else:
                what = What(what if what < 20 else what - 10)
                subjects[subject][SUBJECT[what]] += 1
            if what in AMOUNT:
                (authors if what < 10 else subjects)[subject][AMOUNT[What(what)]] += msat
            if what in (What.POST, What.REPLY):
                firsts[subject] = min(firsts.get(subject, event.created_at), event.created_at)
    for subject, first in firsts.items():
        authors[subject]["first_at"] = first
    return plain(authors), plain(subjects)


def plain(sums: Sums) -> Sums:
    return {subject: {k: v for k, v in each.items() if v} for subject, each in sums.items()}


async def kept(brotr: Brotr, table: str, key: str) -> Sums:
    rows = await brotr.pool.fetch(f"SELECT * FROM bigbrotr.{table}")
    found = {row[key]: {k: v for k, v in row.items() if k != key and v} for row in rows}
    return {subject: each for subject, each in found.items() if each}


async def check(brotr: Brotr) -> None:
    authors, subjects = await recount(brotr)
    assert await kept(brotr, "rank_authors", "pubkey") == authors
    assert await kept(brotr, "rank_subjects", "subject") == subjects


def some_events(chance: random.Random, number: int, before: list[Event]) -> list[Event]:
    """Events of a few people about each other's, some of which delete, expire or replace others."""
    events: list[Event] = []
    for _ in range(number):
        key = chance.randrange(5)
        known = [*before, *events]
        named = chance.choice(known) if known else verified("a root")
        at = NOW + chance.randrange(-2_000_000, 2_000_000)
        target = ["e", named.id.hex(), "", "reply"]
        article = ["a", f"30023:{pubkey(chance.randrange(5))}:{chance.randrange(3)}", "", "root"]
        kind = chance.choice([1, 1, 1, 6, 7, 7, 1111, 1984, 30023, 5, 9735])
        tags = {
            1: chance.choice([[], [target], [target, article], [["q", named.id.hex()]]]),
            5: [["e", named.id.hex()]],
            6: [target],
            7: [target, article],
            1111: [["E", named.id.hex()], article],
            1984: [["p", pubkey(chance.randrange(5)), "spam"]],
            30023: [["d", str(chance.randrange(3))]],
            9735: [],
        }[kind]
        if kind == 9735:
            sender, receiver = chance.randrange(5), chance.randrange(5)
            events.append(zap(sender, receiver, chance.randrange(1, 99), target, created_at=at))
            continue
        if kind == 5 and named.kind != 5:
            key = next(each for each in range(100) if pubkey(each) == named.pubkey.hex())
        if chance.random() < 0.1:
            tags = [*tags, ["expiration", str(chance.choice([NOW, 4_000_000_000]))]]
        events.append(verified(None, tags, kind=kind, created_at=at, key=key))
    return events


@pytest.mark.parametrize("seed", range(3))
async def test_counts_in_any_order(
    brotr: Brotr, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "PAGE", 7)
    monkeypatch.setattr(service, "ROWS", 2)
    chance = random.Random(seed)
    events = some_events(chance, 120, [])
    chance.shuffle(events)  # a request for deletion may come before what it is about
    for start in range(0, len(events), 30):
        await store(brotr, sorted(events[start : start + 30], key=lambda e: (e.created_at, e.id)))
        if chance.random() < 0.5:
            await cycle(brotr)  # before it is judged, perhaps
        await judge(brotr)
        await cycle(brotr)
        await check(brotr)
    authors, _ = await recount(brotr)
    assert sum(each.get("msat_received", 0) for each in authors.values()) > 0
    assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.hidden WHERE why <> 0") > 0


async def test_what_is_counted(brotr: Brotr) -> None:
    note = verified("hello", created_at=NOW, key=1)
    answer = verified("well", [["e", note.id.hex(), "", "root"]], created_at=NOW + 1, key=2)
    await store(brotr, [note, answer, zap(2, 1, 21, ["e", note.id.hex()], created_at=NOW + 2)])
    await judge(brotr)
    await cycle(brotr)
    authors = await kept(brotr, "rank_authors", "pubkey")
    assert authors[note.pubkey] == {
        "posts": 1,
        "zaps_received": 1,
        "msat_received": 21_000,
        "first_at": NOW,
    }
    assert authors[answer.pubkey] == {
        "replies": 1,
        "zaps_sent": 1,
        "msat_sent": 21_000,
        "first_at": NOW + 1,
    }
    assert await kept(brotr, "rank_subjects", "subject") == {
        note.id: {"comments": 1, "zaps": 1, "msat": 21_000}
    }
    await store(brotr, [verified("", [["e", note.id.hex()]], kind=5, created_at=NOW + 3, key=1)])
    await judge(brotr)
    await cycle(brotr)
    authors = await kept(brotr, "rank_authors", "pubkey")
    assert authors[note.pubkey] == {"zaps_received": 1, "msat_received": 21_000}


async def test_an_event_whose_time_is_over(brotr: Brotr) -> None:
    await store(brotr, [verified("x", [["expiration", str(int(time.time()) + 3600)]], key=1)])
    await judge(brotr)
    await cycle(brotr)
    (author,) = (await kept(brotr, "rank_authors", "pubkey")).values()
    assert author["posts"] == 1
    # An hour later: it has expired since we have looked.
    await brotr.pool.execute("UPDATE bigbrotr.hidden SET expires_at = expires_at - 3700")
    await brotr.pool.execute("UPDATE bigbrotr.rank_state SET expired_at = expired_at - 3700")
    await cycle(brotr)
    assert await kept(brotr, "rank_authors", "pubkey") == {}


async def test_the_same_again_changes_nothing(brotr: Brotr) -> None:
    """A process that was killed before it had noted how far it is counts the same once more."""
    chance = random.Random(7)
    await store(brotr, sorted(some_events(chance, 60, []), key=lambda e: (e.created_at, e.id)))
    await judge(brotr)
    await cycle(brotr)
    await brotr.pool.execute(
        "UPDATE bigbrotr.rank_state SET after_at = 9223372036854775807, after_id = ''"
    )
    await cycle(brotr)
    await check(brotr)
    position = await brotr.rank_position()
    assert position is not None
    stale = position._replace(step=position.step - 1)
    assert not await brotr.count_events([], [], stale, position)  # another was quicker


async def test_rows_that_were_pruned_unread(brotr: Brotr) -> None:
    await store(brotr, [verified("a", key=1)])
    await judge(brotr)
    await cycle(brotr)
    await store(brotr, [verified("b", key=2)])
    await judge(brotr)
    await brotr.prune_arrivals(int(time.time()) + 100)
    await store(brotr, [verified("c", key=3)])
    await judge(brotr)
    await cycle(brotr)
    await check(brotr)
    assert len(await kept(brotr, "rank_authors", "pubkey")) == 3


async def test_it_stops_in_between_and_goes_on(
    brotr: Brotr, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "PAGE", 5)
    events = some_events(random.Random(3), 80, [])
    await store(brotr, sorted(events, key=lambda e: (e.created_at, e.id)))
    await judge(brotr)
    for _ in range(3):  # killed amid the walk, whatever it was at
        async with Ranks(brotr, RanksSettings(), Context(Config())) as made:
            await made.brotr.begin_ranks()
            for _ in range(3):
                await made._step(EventReads(brotr.pool, View.CURRENT))
    position = await brotr.rank_position()
    assert position is not None
    assert position.after_at is not None
    await cycle(brotr)
    await check(brotr)


def follows(key: int, followed: Iterable[int], created_at: int = NOW) -> Event:
    tags = [["p", pubkey(each)] for each in followed]
    return verified("", tags, kind=3, created_at=created_at, key=key)


async def scores(brotr: Brotr) -> dict[str, float]:
    rows = await brotr.pool.fetch("SELECT pubkey, score FROM bigbrotr.ranks")
    return {row["pubkey"].hex(): row["score"] for row in rows}


async def test_ranks_by_follows(brotr: Brotr, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "PAGE", 2)
    monkeypatch.setattr(service, "KEPT", 3)
    lists = {1: [2, 3], 2: [3], 3: [], 4: [3, 1], 5: [9]}
    old = follows(5, [1, 2, 3, 4], NOW - 9)
    await store(brotr, [old, verified("a note", key=1), verified("a note", key=8)])
    await store(brotr, [follows(key, each) for key, each in lists.items()])
    await judge(brotr)
    await cycle(brotr)
    expected = {pubkey(int.from_bytes(key, "big")): score for key, score in dumb(lists).items()}
    assert await scores(brotr) == pytest.approx(expected, abs=1e-8)
    row = await brotr.pool.fetchrow(
        "SELECT * FROM bigbrotr.ranks WHERE pubkey = $1", bytes.fromhex(pubkey(3))
    )
    assert row is not None
    assert (row["followers"], row["follows"], row["rank"]) == (3, 0, 100)
    state = await brotr.pool.fetchrow("SELECT * FROM bigbrotr.rank_state")
    assert state is not None
    assert (state["pubkeys"], state["listed"], state["follows"]) == (6, 5, 6)
    assert (state["writers"], state["writers_listed"]) == (2, 1)
    # Not due yet; then it is, and one is gone from the graph.
    await store(brotr, [follows(5, [], NOW + 9)])
    await judge(brotr)
    await cycle(brotr)
    assert pubkey(9) in await scores(brotr)
    await brotr.pool.execute("UPDATE bigbrotr.rank_state SET ranked_at = ranked_at - 21600")
    await cycle(brotr)
    expected = {
        pubkey(int.from_bytes(key, "big")): score for key, score in dumb(lists | {5: []}).items()
    }
    assert await scores(brotr) == pytest.approx(expected, abs=1e-8)
    assert await brotr.end_ranking(1, listed=0, follows=0, iterations=0, at=NOW) is False


@pytest.mark.parametrize("profile", [Profile.LITE])
async def test_an_archive_without_tags(brotr: Brotr) -> None:
    await store(brotr, [verified("a note", key=1)])
    await cycle(brotr)
    assert await brotr.rank_position() is None


async def test_two_at_once(brotr: Brotr) -> None:
    await store(
        brotr, sorted(some_events(random.Random(5), 60, []), key=lambda e: (e.created_at, e.id))
    )
    await judge(brotr)
    await asyncio.gather(cycle(brotr), cycle(brotr))
    await check(brotr)


async def test_answers(brotr: Brotr, dsn: str, tmp_path: Path) -> None:
    path = tmp_path / "ranks.toml"
    path.write_text(f'[database]\nurl = "{dsn}"\n')
    config = ["--config", str(path)]
    done = await call("rank", "--top", "3", *config)
    assert (done.code, "nothing was counted yet" in done.out) == (0, True)
    note = verified("hello", created_at=NOW, key=3)
    article = f"30023:{pubkey(3)}:d"
    await store(
        brotr,
        [
            note,
            *(follows(key, [3, 4]) for key in (1, 2)),
            verified("", [["a", article]], kind=7, created_at=NOW + 1, key=5),
            zap(1, 3, 21, ["e", note.id.hex()], created_at=NOW + 2),
        ],
    )
    await judge(brotr)
    await cycle(brotr)
    async with served(dsn) as api:
        item = (await api.get(f"ranks/{pubkey(3)}")).json
        counts = {name: item[name] for name in ("posts", "followers", "sats_received", "first_at")}
        assert counts == {"posts": 1, "followers": 2, "sats_received": 21, "first_at": NOW}
        assert (item["rank"], item["relays"], item["relays_sample"]) == (100, 1, 1)
        basis = (await api.get("rank-basis")).json
        assert item["basis"] == basis
        assert (basis["listed"], basis["pubkeys"], basis["follows"]) == (2, 4, 4)
        assert (basis["writers"], basis["writers_listed"]) == (1, 0)
        assert basis["is_counted"]
        top = await api.all("ranks", 1)
        assert [each["rank"] for each in top] == [100, 100, 0, 0]
        assert {each["pubkey"] for each in top} == {pubkey(key) for key in range(1, 5)}
        nobody = (await api.get(f"ranks/{pubkey(9)}")).json
        assert (nobody["rank"], nobody["posts"]) == (None, 0)
        event = (await api.get(f"events/{note.id.hex()}/rank")).json
        assert (event["zaps"], event["sats"], event["comments"]) == (1, 21, 0)
        found = (await api.get(f"addresses/{quote(article, safe='')}/rank")).json
        assert (found["subject"], found["reactions"], found["zaps"]) == (article, 1, 0)
        await api.get("ranks/nonsense", status=400)
        await api.get("addresses/nonsense/rank", status=400)
        root = api.url.removesuffix("/api/v1")
        for page, words in {
            f"/authors/{pubkey(3)}": ("<dd>100 of 100</dd>", "<dd>2</dd>", "21 sats"),
            f"/events/{note.id.hex()}": ("1 zap (21 sats)",),
        }.items():
            async with api.client.get(root + page) as response:
                text = await response.text()
            assert [each for each in words if each not in text] == []
    npub = nostr_sdk.PublicKey.parse(pubkey(3)).to_bech32()
    done = await call("rank", npub, *config)
    assert (done.code, done.err) == (0, "")
    assert "rank              100 of 100" in done.out
    assert "sats received     21" in done.out
    assert "0 of 1 archived writers (0%) have a list" in done.out
    done = await call("rank", note.id.hex(), "--json", *config)  # a public key has no such counts
    assert json.loads(done.out)["sats"] == 21
    coordinate = nostr_sdk.Coordinate(nostr_sdk.Kind(30023), nostr_sdk.PublicKey.parse(pubkey(3)))
    for text in (article, nostr_sdk.Nip19Coordinate(coordinate, []).to_bech32()):
        done = await call("rank", text, *config)
        assert done.code == 0, done.err
    done = await call("rank", article, *config)
    assert "reactions         1" in done.out
    done = await call("rank", "--top", "2", "--json", *config)
    found = json.loads(done.out)
    assert [each["pubkey"] for each in found["ranks"]] == [each["pubkey"] for each in top[:2]]
    assert found["basis"] == basis
    for wrong in (["rank"], ["rank", "nonsense"], ["rank", "naddr1xyz"], ["rank", "--top", "0"]):
        done = await call(*wrong, *config)
        assert (done.code, done.out) == (2, ""), wrong
