"""What other monitors say is kept and compared; liars, floods and clocks ahead do no harm."""

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from bigbrotr.config.settings import Config, Profile, WitnessesSettings
from bigbrotr.config.toml import decode
from bigbrotr.core.base_service import Context
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.monitoring import INTRODUCED, CheckResult, Rtts
from bigbrotr.core.calls.witnesses import Noted
from bigbrotr.errors import ConfigError
from bigbrotr.models.event import Event
from bigbrotr.models.metadata import Metadata, MetadataType, RelayMetadata
from bigbrotr.models.relay import Network, Relay
from bigbrotr.models.witnesses import KEPT_S, Word
from bigbrotr.reads.witnesses import Witness, list_witnesses, relay_witnesses
from bigbrotr.services import witnesses as service
from bigbrotr.services.witnesses import Witnesses
from tests.kit.archive import A, pairs
from tests.kit.events import pubkey, verified
from tests.kit.processes import call, until
from tests.kit.served import served

RELAYS = [Relay(f"wss://w{n}.example.com") for n in range(6)]
URLS = [relay.url for relay in RELAYS]
HOUR = 3600


def now() -> int:
    return int(time.time())


def said(url: str, key: int, *more: list[str], ago_s: int = 60) -> Event:
    return verified("", [["d", url], *more], kind=30166, created_at=now() - ago_s, key=key)


def introduced(key: int, frequency_s: int = HOUR, *, ago_s: int = 900_000) -> Event:
    tags = [["frequency", str(frequency_s)], ["c", "open"], ["timeout", "open", "5000"]]
    return verified("", tags, kind=10166, created_at=now() - ago_s, key=key)


async def keep(brotr: Brotr, *events: Event) -> None:
    ordered = sorted(events, key=lambda each: (each.created_at, each.id))
    await brotr.insert_events(pairs(ordered, A))


async def cycle(brotr: Brotr, **settings: Any) -> Witnesses:
    """One cycle of a process of its own."""
    wanted = WitnessesSettings(**settings)
    async with Witnesses(brotr, wanted, Context(Config())) as made:
        await made.run()
    return made


async def again(brotr: Brotr, **settings: Any) -> None:
    """A cycle that compares, an hour after the one before."""
    await brotr.pool.execute("UPDATE bigbrotr.witness_state SET compared_at = compared_at - 3600")
    await brotr.pool.execute("UPDATE bigbrotr.witnesses SET compared_at = compared_at - 3600")
    await cycle(brotr, **settings)


async def judge(brotr: Brotr, up: Sequence[Relay], down: Sequence[Relay] = ()) -> None:
    """Our own monitor has found these, just now."""
    await brotr.insert_relays([*up, *down])
    dues = await brotr.claim_checks(Network.CLEARNET, limit=1000, owner="me", lease_s=60)
    verdicts = dict.fromkeys(up, "up") | dict.fromkeys(down, "down")
    results = [
        CheckResult(
            due, verdicts[due.relay], verdicts[due.relay], rtts=Rtts(None, 10.0, 20.0, 20.0)
        )
        for due in dues
        if due.relay in verdicts
    ]
    await brotr.record_checks(results, 3600)


async def all_of(brotr: Brotr) -> dict[str, Witness]:
    return {each.pubkey: each for _, each in await list_witnesses(brotr.pool, None, 1000)}


async def words(brotr: Brotr) -> int:
    number: int = await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.witness_words")
    return number


@pytest.fixture
async def archive(brotr: Brotr) -> Brotr:
    """Six relays, of which ours has found five up and the last one down."""
    await judge(brotr, RELAYS[:5], RELAYS[5:])
    return brotr


async def test_words_are_kept_as_they_come(archive: Brotr) -> None:
    await keep(archive, introduced(1), said(URLS[0], 1, ["rtt-open", "77"], ["R", "auth"]))
    assert await words(archive) == 0  # who stores events does nothing for it
    await cycle(archive)  # from what is archived
    assert set(await all_of(archive)) == {pubkey(1)}
    await keep(archive, said(URLS[1], 1, ago_s=50), said(URLS[0], 1, ["rtt-open", "88"], ago_s=40))
    await keep(archive, said(URLS[0], 1, ["rtt-open", "99"], ago_s=45))  # late, and older
    await cycle(archive)  # from what has come
    found = await relay_witnesses(archive.pool, URLS[0])
    assert found is not None
    (word,) = found.witnesses
    assert (word.pubkey, word.says.open_ms, word.says.auth) == (pubkey(1), 88, None)
    assert await words(archive) == 2
    witness = (await all_of(archive))[pubkey(1)]
    assert (witness.frequency_s, witness.checks) == (HOUR, ("open",))
    assert witness.timeouts_ms == {"open": 5000}


async def test_hostile_announcements(archive: Brotr) -> None:
    hostile = [
        verified("", [], kind=30166, created_at=now(), key=1),
        verified("x" * 100_000, [["d", "wss://\0"]], kind=30166, created_at=now(), key=1),
        said(URLS[0], 1, ["d", URLS[1]]),
        said("wss://nobody-knows.example.com", 1),
        said(URLS[0], 1, ago_s=-100_000),  # of the future
        said(URLS[0], 1, ago_s=10_000_000),
        verified("", [["d", URLS[0]]], kind=30166, created_at=2**40, key=1),
        verified("", [["frequency", "9" * 400]], kind=10166, created_at=now(), key=1),
        verified("", [["d", URLS[2]], *[["R", "x"]] * 2100], kind=30166, created_at=now(), key=1),
        said("wss://lone.example.com", 1, ["x", "lone \ud800"], ["\ud800", "\0"]),
        said("wss://x\udfff.example.com", 1),
    ]
    await keep(archive, *hostile)
    await cycle(archive)
    assert await words(archive) == 0
    assert await all_of(archive) == {}
    await keep(archive, said(URLS[0], 2, ["rtt-open", "9" * 30], ["R", "auth"], ["R", "!auth"]))
    made = await cycle(archive)
    assert made.words["noted"] == 1
    rows = await archive.pool.fetch("SELECT url FROM bigbrotr.relays")
    assert {row["url"] for row in rows} == {*URLS, A.url}  # a word makes no relay known
    found = await relay_witnesses(archive.pool, URLS[0])
    assert found is not None
    assert [word.says.auth for word in found.witnesses] == [None]
    assert [word.says.open_ms for word in found.witnesses] == [None]


async def test_the_same_again_changes_nothing(archive: Brotr) -> None:
    """A process that dies before it has noted how far it is takes the same once more."""
    await keep(archive, introduced(1), *(said(url, 1) for url in URLS))
    await cycle(archive)
    before = await archive.pool.fetch("SELECT * FROM bigbrotr.witness_words ORDER BY relay_id")
    position = await archive.witness_position()
    await archive.pool.execute("DELETE FROM bigbrotr.witness_state")
    await cycle(archive)
    after = await archive.pool.fetch("SELECT * FROM bigbrotr.witness_words ORDER BY relay_id")
    assert after == before
    assert position is not None
    stale = (position[0] - 1, 0), position
    assert await archive.note_words([], [], most=9, moved=stale) is None  # another was quicker


async def test_rows_that_were_pruned_unread(archive: Brotr) -> None:
    await cycle(archive)
    await keep(archive, said(URLS[0], 1))
    await archive.prune_arrivals(now() + 100)
    await keep(archive, said(URLS[1], 1))
    await cycle(archive)
    assert await words(archive) == 2


async def test_ours_is_no_witness(archive: Brotr) -> None:
    await archive.upsert_service_data([(*INTRODUCED, "10166", {"said": [pubkey(3), "", [], []]})])
    await keep(archive, said(URLS[0], 3), said(URLS[0], 4))
    await cycle(archive)
    assert set(await all_of(archive)) == {pubkey(4)}


async def test_agreement_silence_and_disagreement(archive: Brotr) -> None:
    honest, liar, idle = 1, 2, 3
    await keep(
        archive,
        *(introduced(key) for key in (honest, liar)),
        # The honest one has not seen the last relay for hours; it still speaks of the others.
        *(said(url, honest, ["rtt-open", "60"]) for url in URLS[:5]),
        said(URLS[5], honest, ago_s=5 * HOUR),
        # The liar says the opposite.
        *(said(url, liar, ago_s=5 * HOUR) for url in URLS[:5]),
        said(URLS[5], liar, ["rtt-open", "1"]),
        said(URLS[0], idle, ago_s=30 * HOUR),
    )
    await cycle(archive)
    found = await all_of(archive)
    truth, lies, none = (found[pubkey(key)] for key in (honest, liar, idle))
    assert (truth.compared, truth.agreed, truth.relays, truth.share) == (6, 6, 6, 1.0)
    assert (lies.compared, lies.agreed) == (6, 0)
    assert (none.compared, none.relays, none.share) == (0, 0, 0.0)
    assert truth.reliability > lies.reliability == none.reliability == 0
    assert truth.ratio == 60 / 50
    assert next(iter(found)) == pubkey(honest)
    await again(archive)
    truth = (await all_of(archive))[pubkey(honest)]
    assert truth.others_compared == 0  # the others have no weight
    # Ours says that it is down, and stays so, whatever the others say.
    relay = await relay_witnesses(archive.pool, URLS[5])
    assert relay is not None
    assert relay.ours.online is False
    assert {word.pubkey: word.agrees for word in relay.witnesses} == {
        pubkey(honest): True,
        pubkey(liar): False,
    }
    assert relay.together["online"].verdict is False
    assert relay.together["online"].agrees is True
    assert relay.known == 3
    state = await archive.pool.fetchval(
        "SELECT state FROM bigbrotr.relay_states WHERE relay_url = $1", URLS[5]
    )
    assert state == "down"


async def test_what_else_is_compared(archive: Brotr) -> None:
    claims = {"auth": {"claimed": None, "seen": False}, "payment": {"claimed": 1, "seen": None}}
    await archive.insert_relay_metadata(
        [
            RelayMetadata(RELAYS[0], Metadata(data), kind, now())
            for kind, data in (
                (MetadataType.CLAIMS, claims),
                (MetadataType.NIP66_SSL, {"valid": True}),
            )
        ]
    )
    await keep(archive, said(URLS[0], 1, ["R", "auth"], ["R", "payment"], ["ssl", "valid"]))
    await cycle(archive)
    found = await relay_witnesses(archive.pool, URLS[0])
    assert found is not None
    assert (found.ours.online, found.ours.auth, found.ours.payment, found.ours.tls) == (
        *(True, False, None),
        True,
    )
    witness = (await all_of(archive))[pubkey(1)]
    assert (witness.compared, witness.agreed) == (3, 2)


async def test_a_flood_of_keys(archive: Brotr) -> None:
    """There is room for so many; those that were there stay, and the operator's choice always."""
    await keep(archive, *(said(url, 1) for url in URLS))
    await cycle(archive, most=3)
    flood = [Word(bytes([n]) * 32, URLS[0], now(), bytes([n]) * 32) for n in range(50)]
    done = await archive.note_words(flood, [], most=3)
    assert done is not None
    assert (done.noted, done.refused, len(done.admitted)) == (2, 48, 2)
    assert pubkey(1) in await all_of(archive)
    # A day later those that nobody can rely on make room; who is relied on does not.
    await archive.pool.execute(
        "UPDATE bigbrotr.witnesses SET first_at = first_at - 90000,"
        " reliability = CASE WHEN pubkey = $1 THEN 0.5 ELSE 0 END",
        bytes.fromhex(pubkey(1)),
    )
    chosen = bytes.fromhex(pubkey(2))
    others = [Word(bytes([n]) * 32, url, now(), b"o" * 32) for n in (200, 201) for url in URLS]
    done = await archive.note_words(
        [*others[:7], Word(chosen, URLS[0], now(), b"c" * 32)], [], most=3, protected=[chosen]
    )
    assert done is not None
    assert set(done.admitted) == {chosen, bytes([200]) * 32}  # that which names most relays
    assert set(await all_of(archive)) == {pubkey(1), pubkey(2), (bytes([200]) * 32).hex()}
    # Who has said nothing for a week makes room first.
    await archive.pool.execute(
        "UPDATE bigbrotr.witnesses SET heard_at = heard_at - 700000 WHERE pubkey = $1",
        bytes.fromhex(pubkey(1)),
    )
    done = await archive.note_words(flood[:1], [], most=3, protected=[chosen])
    assert done is not None
    assert len(done.admitted) == 1
    assert pubkey(1) not in await all_of(archive)


async def test_a_race_for_the_last_place(archive: Brotr) -> None:
    done = await asyncio.gather(
        *(
            archive.note_words([Word(bytes([n]) * 32, URLS[0], now(), b"r" * 32)], [], most=3)
            for n in range(20)
        )
    )
    assert sum(len(each.admitted) for each in done if each is not None) == 3
    assert len(await all_of(archive)) == 3


async def test_only_the_chosen(archive: Brotr) -> None:
    await keep(archive, said(URLS[0], 1), said(URLS[0], 2))
    await cycle(archive, pubkeys=(pubkey(2),), only_these=True)
    assert set(await all_of(archive)) == {pubkey(2)}


async def test_what_is_old_is_forgotten(archive: Brotr) -> None:
    await keep(archive, said(URLS[0], 1), said(URLS[1], 1), said(URLS[0], 2))
    await cycle(archive)
    await archive.pool.execute(
        "UPDATE bigbrotr.witness_words SET said_at = said_at - $1::bigint"
        " WHERE pubkey = $2 OR relay_id = (SELECT id FROM bigbrotr.relays WHERE url = $3)",
        KEPT_S,
        bytes.fromhex(pubkey(2)),
        URLS[0],
    )
    await archive.pool.execute(
        "UPDATE bigbrotr.witnesses SET heard_at = heard_at - $1::bigint WHERE pubkey = $2",
        KEPT_S,
        bytes.fromhex(pubkey(2)),
    )
    await again(archive)
    assert set(await all_of(archive)) == {pubkey(1)}
    assert await words(archive) == 1


async def test_a_clock_of_ours_that_was_ahead(archive: Brotr) -> None:
    """What was taken, compared and dated then does not stand for ever."""
    ahead = now() + 400_000
    await archive.note_words(
        [Word(bytes.fromhex(pubkey(1)), URLS[0], ahead, b"a" * 32)], [], most=9
    )
    await archive.begin_witnesses(0, 0)
    await archive.pool.execute("UPDATE bigbrotr.witness_state SET compared_at = $1::bigint", ahead)
    await archive.pool.execute("UPDATE bigbrotr.witnesses SET compared_at = $1::bigint", ahead)
    found = await relay_witnesses(archive.pool, URLS[0])
    assert found is not None
    assert [word.says.online for word in found.witnesses] == [None]
    await cycle(archive)  # although the next comparison seems days away
    assert await words(archive) == 0
    witness = (await all_of(archive))[pubkey(1)]
    assert witness.heard_at <= now()
    assert witness.as_of is not None
    assert witness.as_of <= now()
    await keep(archive, said(URLS[0], 1))
    await cycle(archive)
    assert await words(archive) == 1


async def test_who_is_taken_down_is_no_witness(archive: Brotr) -> None:
    await keep(archive, *(said(URLS[n], n) for n in (1, 2, 3)))
    await cycle(archive)
    events = await archive.pool.fetch("SELECT pubkey, event_id FROM bigbrotr.witness_words")
    by_key = {row["pubkey"].hex(): row["event_id"] for row in events}
    for what, target in (("pubkey", bytes.fromhex(pubkey(1))), ("event", by_key[pubkey(2)])):
        await archive.pool.execute(
            "INSERT INTO bigbrotr.takedowns (what, target, is_erasing, why, who, at)"
            " VALUES ($1, $2, false, 'why', 'who', 1)",
            what,
            target,
        )
    await again(archive)
    assert set(await all_of(archive)) == {pubkey(2), pubkey(3)}
    assert await words(archive) == 1


@pytest.mark.parametrize("brotr", [Profile.LITE], indirect=True)
async def test_an_archive_without_tags(brotr: Brotr) -> None:
    """It has the words that the finder fetches, and compares them."""
    await judge(brotr, RELAYS[:2])
    await brotr.note_words(
        [Word(bytes.fromhex(pubkey(1)), URLS[0], now(), b"l" * 32, open_ms=5)], [], most=9
    )
    await cycle(brotr)
    witness = (await all_of(brotr))[pubkey(1)]
    assert (witness.compared, witness.agreed, witness.share) == (1, 1, 0.5)
    await keep(brotr, said(URLS[0], 2))
    await cycle(brotr)
    rows = await brotr.metrics()
    assert [
        value for name, value, labels in rows if (name, labels) == ("backlog", ("witnesses",))
    ] == [0]


async def test_thousands_of_relays_and_many_witnesses(
    archive: Brotr, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Are compared part by part, to the same figures."""
    monkeypatch.setattr(service, "RELAYS", 37)
    relays = [Relay(f"wss://many{n}.example.com") for n in range(500)]
    await judge(archive, relays)
    many = [
        Word(bytes([key]) * 32, relay.url, now(), bytes([key]) * 32, open_ms=10 + key)
        for key in range(20)
        for relay in relays
    ]
    done = await archive.note_words(many, [], most=200)
    assert done == Noted(10_000, 0, 0, done.admitted if done else ())
    await cycle(archive)
    found = await all_of(archive)
    assert len(found) == 20
    assert {(each.compared, each.agreed, each.timed) for each in found.values()} == {
        (500, 500, 500)
    }


async def test_backlog_is_a_metric(archive: Brotr) -> None:
    async def waiting() -> dict[str, float]:
        rows = await archive.metrics()
        return {row[2][0]: row[1] for row in rows if row[0] == "backlog"}

    await cycle(archive)
    await keep(archive, said(URLS[0], 1))
    assert (await waiting())["witnesses"] == 1
    await cycle(archive)
    assert (await waiting())["witnesses"] == 0


async def test_api_and_terminal(archive: Brotr, dsn: str, tmp_path: Path) -> None:
    await keep(archive, introduced(1), *(said(url, 1, ["rtt-open", "9"]) for url in URLS))
    await cycle(archive)
    async with served(dsn) as api:
        (item,) = (await api.get("witnesses")).json["items"]
        assert (item["pubkey"], item["compared"], item["agreed"]) == (pubkey(1), 6, 5)
        assert item["share"] == 1.0
        assert await api.all("witnesses", 1) == [item]
        relay = (await api.get("relays/w5.example.com/witnesses")).json
        assert relay["ours"]["online"] is False
        assert [word["agrees"] for word in relay["witnesses"]] == [False]
        assert relay["together"]["online"]["agrees"] is False
        await api.get("relays/nobody.example.com/witnesses", status=404)
    path = tmp_path / "witnesses.toml"
    path.write_text(f'[database]\nurl = "{dsn}"\n')
    config = ["--config", str(path)]
    done = await call("witnesses", *config)
    assert (done.code, done.err) == (0, "")
    assert pubkey(1) in done.out
    assert "5 of 6" in done.out
    done = await call("witnesses", URLS[5], *config)
    assert done.code == 0
    assert "DISAGREES" in done.out
    assert "ours: down" in done.out
    done = await call("witnesses", "--json", URLS[5], *config)
    assert json.loads(done.out)["relay"] == URLS[5]
    done = await call("witnesses", "wss://nobody.example.com", *config)
    assert (done.code, done.out) == (2, "")


def test_settings() -> None:
    for wrong, words_ in (
        ({"pubkeys": ["npub1nonsense"]}, "pubkeys"),
        ({"only_these": True}, "name the monitors"),
        ({"most": 1, "pubkeys": [pubkey(1), pubkey(2)]}, "more than most"),
    ):
        with pytest.raises(ConfigError, match=words_):
            decode({"witnesses": wrong}, Config, source="a test")


async def test_a_process_that_dies_while_it_writes(archive: Brotr, dsn: str) -> None:
    """What it had read and not noted is read again; nothing is noted twice or passed over."""
    await cycle(archive)
    await keep(archive, introduced(1), *(said(url, 1) for url in URLS))
    position = await archive.witness_position()
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE bigbrotr.witness_words IN EXCLUSIVE MODE")
            dying = asyncio.create_task(cycle(archive))

            async def is_waiting() -> bool:
                return bool(
                    await archive.pool.fetchval(
                        "SELECT pg_catalog.count(*) FROM pg_catalog.pg_locks l"
                        " WHERE NOT l.granted AND l.relation = 'bigbrotr.witness_words'::regclass"
                    )
                )

            await until(is_waiting, "the words to be written")
            dying.cancel()
            with pytest.raises(asyncio.CancelledError):
                await dying
    finally:
        await connection.close()
    assert await archive.witness_position() == position
    assert await words(archive) == 0
    await cycle(archive)
    assert await words(archive) == len(URLS)
    assert (await all_of(archive))[pubkey(1)].frequency_s == HOUR
