"""Verification: a database that is damaged in each way is told from one that is whole; what can be
derived is mended."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from bigbrotr.config.settings import Config, Profile
from bigbrotr.core.brotr import Brotr
from bigbrotr.models.coverage import How, Proof, Span
from bigbrotr.models.event import Event
from bigbrotr.transfer.verify import Result, Verification
from bigbrotr.transfer.verify_worker import EventVerifier, Looked
from bigbrotr.transfer.verify_worker import Span as Seconds
from tests.conftest import CLUSTER
from tests.kit.archive import BOTH, A, B, check_totals, claim_one, held, pairs
from tests.kit.events import NOW, verified
from tests.kit.policy import judge
from tests.kit.processes import call

EVENTS = [
    verified(f"note {n}", [["t", f"{n % 3}"], ["p", "x"]], created_at=NOW - n * 400_000)
    for n in range(20)
]
ODD = [
    verified("nul \0 within", [["t", "\0"]]),
    verified("lone \ud800 surrogate"),
    verified("bell \x07", verbatim=True),
]
ALL = Seconds(0, 2**63 - 1)
TAGS = "the index of tags has others than the event"


async def fill(brotr: Brotr) -> None:
    await brotr.insert_events([*pairs([*EVENTS, *ODD], A), *pairs(EVENTS[:5], B)])


def verification(brotr: Brotr, profile: Profile, *, mends: bool = False) -> Verification:
    return Verification(brotr.pool, Config(), profile, dsn=brotr.pool.address, mends=mends, seed=1)


async def look(brotr: Brotr, profile: Profile, *, mends: bool = False) -> Looked:
    """What is found in the events, without a process of its own."""
    verifier = EventVerifier(brotr.pool, is_whole=profile is Profile.FULL, mends=mends)
    return await verifier.look(ALL)


def words(result: Result) -> list[str]:
    return [finding.words for finding in result.findings]


@BOTH
async def test_what_is_whole_is_well(brotr: Brotr, profile: Profile) -> None:
    await fill(brotr)
    visit = await claim_one(brotr, A)
    for at, span in ((NOW, Span(0, 500)), (NOW + 9, Span(300, 900))):
        await brotr.store_page(visit, [], proofs=[Proof(span, How.PAGING)], now=at)
    told: list[str] = []
    checking = Verification(
        brotr.pool,
        Config(),
        profile,
        dsn=brotr.pool.address,
        tell=lambda what, number, share: told.append(what),
    )
    for name, check in checking.checks.items():
        result = await check()
        assert (result.check, result.findings, result.is_well) == (name, [], True)
        assert (result.skipped is None) == bool(result.looked_at)
    assert set(told) == set(checking.checks)
    events = await checking.events()
    assert "of 23 events" in events.looked_at
    assert ("the profile lite keeps nothing" in events.looked_at) == (profile is Profile.LITE)
    extensions = "SELECT count(*) FROM pg_extension WHERE extname = 'amcheck'"
    assert await brotr.pool.fetchval(extensions) == 0  # nothing stays


async def test_nothing_is_well(brotr: Brotr, profile: Profile) -> None:
    for check in verification(brotr, profile).checks.values():
        assert (await check()).findings == []


def one(event: Event) -> str:
    return f"id = '\\x{event.id.hex()}'"


@pytest.mark.parametrize(
    ("change", "damage"),
    [
        ("content = content || '!'", "the bytes do not hash to the id"),
        ("tags = '[]', tag_hashes = NULL", "the bytes do not hash to the id"),
        ("kind = 7", "the bytes do not hash to the id"),
        ("pubkey = id", "the bytes do not hash to the id"),
        ("sig = pubkey || id", "the signature is wrong"),
        ("sig = pubkey", "the signature is wrong"),
        ("sig = NULL", "tags, content or signature are missing"),
        ("content = NULL", "tags, content or signature are missing"),
        ("pubkey = 'x'", "id or pubkey has not 32 bytes"),
        pytest.param(
            "slice = slice + 1",
            "the number of the week is not that of created_at",
            marks=pytest.mark.one_server,
        ),
        ("tag_hashes = NULL", TAGS),
        ("tag_hashes = tag_hashes || 5", TAGS),
    ],
)
async def test_a_damaged_event_is_named(brotr: Brotr, change: str, damage: str) -> None:
    await fill(brotr)
    event = EVENTS[7]
    await brotr.pool.execute(f"UPDATE bigbrotr.events_stored SET {change} WHERE {one(event)}")
    looked = await look(brotr, Profile.FULL)
    assert looked.events == 23
    assert looked.wrong == {damage: 1}
    assert looked.first == {damage: [event.id.hex()]}
    mended = await look(brotr, Profile.FULL, mends=True)
    assert mended.mended == (damage == TAGS)
    assert (await look(brotr, Profile.FULL)).wrong == ({} if damage == TAGS else {damage: 1})


@pytest.mark.parametrize(
    ("change", "damage"),
    [
        ("UPDATE bigbrotr.events_raw SET raw = raw || ' '", "the bytes do not hash to the id"),
        ("DELETE FROM bigbrotr.events_raw", "the bytes do not hash to the id"),
        (
            "UPDATE bigbrotr.events_stored SET content = 'else' WHERE content ~ 'nul|lone|bell'",
            "the columns are not those of the exact bytes",
        ),
    ],
)
async def test_damaged_exact_bytes_are_named(brotr: Brotr, change: str, damage: str) -> None:
    await fill(brotr)
    await brotr.pool.execute(change)
    assert (await look(brotr, Profile.FULL)).wrong == {damage: 3}


async def test_what_was_erased_is_no_damage(brotr: Brotr) -> None:
    await fill(brotr)
    await brotr.pool.execute(
        "SELECT bigbrotr.take_down(p_what => 'event', p_target => $1, p_erase => true,"
        " p_why => 'x', p_who => 'me', p_now => $2)",
        EVENTS[3].id,
        NOW,
    )
    await brotr.pool.execute("INSERT INTO bigbrotr.reviews (name, noted_at) VALUES ('all', 0)")
    await judge(brotr)
    looked = await look(brotr, Profile.FULL)
    assert (looked.erased, looked.wrong) == (1, {})


@BOTH
async def test_a_sample_looks_at_a_part(
    brotr: Brotr, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bigbrotr.transfer import verify

    monkeypatch.setattr(verify, "SAMPLED", 1)
    await fill(brotr)
    checking = verification(brotr, profile)
    checking._sample = 0.3
    windows = [window async for window in checking._windows()]
    assert windows[0][0].since == 0
    assert windows[-1][0].until == 2**63 - 1
    assert all(b[0].since == a[0].until + 1 for a, b in pairwise(windows))
    assert 0 < sum(is_chosen for _, is_chosen in windows) < len(windows)


@BOTH
async def test_pairs_of_events_that_are_gone(brotr: Brotr, profile: Profile) -> None:
    await fill(brotr)
    await brotr.pool.execute(f"DELETE FROM bigbrotr.events_stored WHERE {one(EVENTS[2])}")
    found = words(await verification(brotr, profile).presence())
    week = EVENTS[2].created_at // 604_800
    assert found == [
        f"2 pairs of the week {week} are of events that are not there ({A.url}, {B.url})",
        "22 events are archived, and the tallies say 23",
    ]
    result = await verification(brotr, profile, mends=True).presence()
    assert result.is_well
    assert result.findings
    assert (await verification(brotr, profile).presence()).findings == []
    await check_totals(brotr)
    assert len(await held(brotr)) == 23 + 5 - 2


@BOTH
async def test_tallies_that_are_not_what_is_there(brotr: Brotr, profile: Profile) -> None:
    await fill(brotr)
    await brotr.pool.execute(
        "UPDATE bigbrotr.tallies SET pairs = pairs + 7, events = events - 2 WHERE relay_id ="
        " (SELECT id FROM bigbrotr.relays WHERE url = $1)",
        A.url,
    )
    wanted = [
        f"{A.url} holds 23 events, and its tally says 30",
        "23 events are archived, and the tallies say 21",
    ]
    assert words(await verification(brotr, profile).presence()) == wanted
    result = await verification(brotr, profile, mends=True).presence()
    assert (words(result), result.is_well) == (wanted, True)
    assert (await verification(brotr, profile).presence()).findings == []
    await check_totals(brotr)


@pytest.mark.parametrize(
    ("change", "damage", "is_mended"),
    [
        ("UPDATE bigbrotr.events_stored SET num = 5", " events share their number", False),
        ("DELETE FROM bigbrotr.slices", "weeks with events are not in the list of weeks", True),
        pytest.param(
            "UPDATE bigbrotr.events_stored SET slice = slice + 1 WHERE content = 'note 3'",
            "1 events have the number of another week",
            False,
            marks=pytest.mark.one_server,  # a cluster refuses it
        ),
    ],
)
async def test_numbers_and_weeks(brotr: Brotr, change: str, damage: str, is_mended: bool) -> None:
    await fill(brotr)
    await brotr.pool.execute(change)
    found = words(await verification(brotr, Profile.FULL).presence())
    assert any(damage in each for each in found), found
    mended = await verification(brotr, Profile.FULL, mends=True).presence()
    state = {each.is_mended for each in mended.findings if damage in each.words}
    assert state == {is_mended}


@pytest.mark.parametrize(
    ("change", "damages"),
    [
        (
            "UPDATE bigbrotr.coverage SET proven = '{[0,900)}' WHERE proven_at = {now}",
            ["proven twice: {[300,900)}"],
        ),
        ("UPDATE bigbrotr.coverage SET proven_at = 2^40", ["proven in the future: {[0,900)}"]),
        (
            "UPDATE bigbrotr.coverage SET proven = '{}' WHERE proven_at = {now}",
            ["nothing is proven: {}"],
        ),
    ],
)
async def test_coverage_that_contradicts_itself(
    brotr: Brotr, change: str, damages: Sequence[str]
) -> None:
    visit = await claim_one(brotr, A)
    await brotr.store_page(visit, [], proofs=[Proof(Span(0, 500), How.PAGING)], now=NOW)
    newer = [Proof(Span(300, 900), How.FINISH)]
    await brotr.store_page(visit, [], proofs=newer, now=NOW)
    if "2^40" in change:
        await brotr.pool.execute("DELETE FROM bigbrotr.coverage WHERE how = 'paging'")
        await brotr.pool.execute("UPDATE bigbrotr.coverage SET proven = '{[0,900)}'")
    else:
        await brotr.pool.execute(
            "UPDATE bigbrotr.coverage SET proven_at = proven_at + 1 WHERE how = 'finish'"
        )
    await brotr.pool.execute(change.replace("{now}", str(NOW)))
    checking = verification(brotr, Profile.FULL)
    assert words(await checking.coverage()) == [f"{A.url}: {each}" for each in damages]
    assert await brotr.sum_relays(0, NOW, NOW + 9) == 1
    assert (await verification(brotr, Profile.FULL, mends=True).coverage()).is_well
    assert (await checking.coverage()).findings == []
    # What was summed up of it is not so any more, and no visit says so.
    assert not await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.relay_sums")


async def test_two_gaps_of_one_second(brotr: Brotr) -> None:
    await claim_one(brotr, A)
    for span in ("[0,10)", "[5,20)"):
        await brotr.pool.execute(
            "INSERT INTO bigbrotr.gaps (relay_id, span, reason, attempts, noted_at, due_at)"
            f" SELECT id, '{span}', 'timeout', 1, 0, 0 FROM bigbrotr.relays"
        )
    result = await verification(brotr, Profile.FULL, mends=True).coverage()
    assert (words(result), result.is_well) == ([f"{A.url}: two gaps: [5,10)"], False)


@pytest.mark.one_server
async def test_partitions_with_other_bounds_than_their_events(brotr: Brotr) -> None:
    await fill(brotr)
    rows = await brotr.pool.fetch(
        "SELECT tableoid::regclass::text AS name, count(*) AS count FROM bigbrotr.events_stored"
        " GROUP BY 1 ORDER BY 2 DESC LIMIT 2"
    )
    one, other = (row["name"].removeprefix("bigbrotr.") for row in rows)
    await brotr.pool.execute(
        "UPDATE pg_class c SET relpartbound = o.relpartbound FROM pg_class o"
        " WHERE (c.relname, o.relname) IN (($1, $2), ($2, $1))",
        one,
        other,
    )
    result = await verification(brotr, Profile.FULL).partitions()
    assert [each.split(" are outside")[0] for each in sorted(words(result))] == sorted(
        f"{row['count']} events in {row['name'].removeprefix('bigbrotr.')}" for row in rows
    )


@pytest.mark.one_server
async def test_an_index_that_misses_an_event(brotr: Brotr) -> None:
    await fill(brotr)
    index = await brotr.pool.fetchval(
        "SELECT i.indexrelid::regclass::text FROM pg_index i JOIN bigbrotr.events_stored e"
        " ON i.indrelid = e.tableoid WHERE i.indexrelid::regclass::text ~ 'kind' LIMIT 1"
    )
    for state in (False, True):
        await brotr.pool.execute(
            "UPDATE pg_index SET indisready = $1 WHERE indexrelid = $2::text::regclass",
            state,
            index,
        )
        if not state:
            missed = [verified(created_at=NOW - n * 400_000) for n in range(20)]
            await brotr.insert_events(pairs(missed, A))
    result = await verification(brotr, Profile.FULL).indexes()
    (found,) = words(result)
    assert found.startswith(f"{index}: heap tuple")
    assert not result.is_well
    assert (await verification(brotr, Profile.FULL, mends=True).indexes()).is_well
    assert (await verification(brotr, Profile.FULL).indexes()).findings == []


async def test_an_extension_that_is_there_is_used_where_it_is(brotr: Brotr) -> None:
    await brotr.pool.execute('CREATE SCHEMA "odd name"')
    await brotr.pool.execute('CREATE EXTENSION amcheck SCHEMA "odd name"')
    result = await verification(brotr, Profile.FULL).indexes()
    assert (result.findings, result.skipped) == ([], None)
    assert "B-tree indexes" in result.looked_at


@pytest.mark.slow
async def test_the_command_exits_with_1_where_something_is_wrong(
    brotr: Brotr, dsn: str, tmp_path: Path
) -> None:
    config = tmp_path / "verify.toml"
    config.write_text(f'[database]\nurl = "{dsn}"\n')
    await fill(brotr)
    done = await call("verify", "--sample", "50%", "--config", str(config))
    assert (done.code, done.err) == (0, "")
    assert [line.split()[:2] for line in done.out.splitlines()] == [
        ["partitions", "skipped" if CLUSTER else "ok"],
        ["indexes", "ok"],
        ["events", "ok"],
        ["presence", "ok"],
        ["coverage", "ok"],
    ]
    await brotr.pool.execute(f"UPDATE bigbrotr.events_stored SET content = '' WHERE {one(ODD[1])}")
    await brotr.pool.execute(
        f"UPDATE bigbrotr.events_stored SET tag_hashes = NULL WHERE {one(EVENTS[1])}"
    )
    await brotr.pool.execute("UPDATE bigbrotr.tallies SET pairs = pairs + 7 WHERE relay_id > 0")
    done = await call("verify", "--config", str(config))
    assert (done.code, done.err) == (1, "")
    assert f"{TAGS}: 1 events ({EVENTS[1].id.hex()})" in done.out
    assert "its tally says" in done.out
    assert "--repair mends what can be derived" in done.out
    done = await call("verify", "--repair", "--config", str(config))
    assert done.code == 1
    assert f"mended: {TAGS}" in done.out
    assert f"the columns are not those of the exact bytes: 1 events ({ODD[1].id.hex()})" in done.out
    done = await call("verify", "--config", str(config))
    assert (done.code, len(done.out.splitlines())) == (1, 7)


@pytest.mark.parametrize("text", ["0", "-1", "101", "all"])
async def test_what_is_wrong_is_told(text: str, tmp_path: Path) -> None:
    done = await call("verify", f"--sample={text}", "--data-dir", str(tmp_path / "none"))
    assert done.code == 2
    assert f"{text!r} is not a percentage above 0, up to 100" in done.err
