"""Imports: what a file holds is archived as what relays send, once, and is no orphan."""

import asyncio
import gzip
import json
import os
import random
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from bigbrotr.config.settings import Config, PoolSettings, Profile, Retry
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.imports import Import
from bigbrotr.errors import DatabaseError, leaves
from bigbrotr.models.coverage import How, Proof, Span
from bigbrotr.models.event import Event
from bigbrotr.models.relay import Relay
from bigbrotr.transfer.import_worker import ImportWorker, LineBatch, Order, Outcome, frame_of
from bigbrotr.transfer.importing import Held, Importer
from bigbrotr.transfer.lines import MOST_LINES, Piece
from tests.kit.archive import BOTH, A, B, check_totals, claim_a, held, ordered, pairs
from tests.kit.events import NOW, make_event, serialise, verified, wire
from tests.kit.policy import judge
from tests.kit.processes import call, children, command, environment, until

EVENTS = [verified(f"note {n}", created_at=NOW - n * 40_000) for n in range(60)]


@pytest.fixture
def config(dsn: str, tmp_path: Path) -> list[str]:
    path = tmp_path / "import.toml"
    path.write_text(f'[database]\nurl = "{dsn}"\n')
    return ["--config", str(path)]


def dump(path: Path, lines: Sequence[bytes | Event]) -> str:
    data = [x.to_json().encode() if isinstance(x, Event) else x for x in lines]
    path.write_bytes(b"\n".join(data) + b"\n")
    return str(path)


async def run(
    brotr: Brotr, file: str, *, is_dry: bool = False, held: Held | None = None
) -> Outcome:
    importer = Importer(
        brotr, Config(), dsn=brotr.pool.address, held=held, is_dry=is_dry, workers=1
    )
    return await importer.run(file, lambda *_: None)


async def archived(brotr: Brotr) -> set[bytes]:
    rows = await brotr.pool.fetch("SELECT id FROM bigbrotr.events_stored")
    assert len(rows) == len({row["id"] for row in rows})
    return {row["id"] for row in rows}


async def state(brotr: Brotr) -> dict[str, list[str]]:
    """All that an import may change, as text."""
    return {
        table: sorted(
            row[0] for row in await brotr.pool.fetch(f"SELECT t::text FROM bigbrotr.{table} AS t")
        )
        for table in (
            *("events_stored", "presence", "imports", "imported", "tallies", "slices"),
            *("dirty_days", "mentions", "relays", "events_raw"),
        )
    }


@BOTH
async def test_a_file_is_archived_and_a_repetition_changes_nothing(
    brotr: Brotr, profile: Profile, tmp_path: Path
) -> None:
    odd = [verified("nul \0 within"), verified("lone \ud800 surrogate")]
    events = [*EVENTS, *odd]
    file = dump(tmp_path / "a.jsonl", events)
    await brotr.insert_events(pairs(EVENTS[:5], A))
    outcome = await run(brotr, file, is_dry=True)
    assert (outcome.events, outcome.new, outcome.invalid) == (62, 57, {})
    assert len(await archived(brotr)) == 5
    assert await run(brotr, file) == Outcome(lines=62, events=62, new=57)
    assert await archived(brotr) == {event.id for event in events}
    await check_totals(brotr)
    before = await state(brotr)
    assert await run(brotr, file) == Outcome(lines=62, events=62)
    assert await run(brotr, dump(tmp_path / "another name", events)) == Outcome(lines=62, events=62)
    assert await state(brotr) == before
    row = await brotr.pool.fetchrow("SELECT * FROM bigbrotr.imports")
    assert row is not None
    assert (row["name"], row["file"], row["new_events"], row["lines"]) == (file, file, 57, 62)
    assert (row["events"], row["new_pairs"], row["held_by"]) == (62, 0, None)
    assert row["finished_at"] >= row["started_at"]
    if profile is Profile.FULL:
        raws = await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.events_raw")
        assert raws == 2


@BOTH
async def test_what_a_file_brought_is_no_orphan(
    brotr: Brotr, profile: Profile, tmp_path: Path
) -> None:
    """Also what was archived before, whose relay goes."""
    others = [verified() for _ in range(3)]
    await brotr.insert_events(pairs([*EVENTS[:10], *others], A))
    await run(brotr, dump(tmp_path / "a", EVENTS))
    assert await brotr.delete_orphan_events() == 0
    await brotr.pool.execute("DELETE FROM bigbrotr.relays")
    assert await brotr.delete_orphan_events() == len(others)
    assert await archived(brotr) == {event.id for event in EVENTS}
    await brotr.pool.execute("DELETE FROM bigbrotr.imported")
    assert await brotr.delete_orphan_events() == len(EVENTS)


async def test_lines_of_any_make_are_taken(brotr: Brotr, tmp_path: Path) -> None:
    events = ordered(EVENTS[:8])
    raw = [event.to_json().encode() for event in events]
    spaced = json.dumps(json.loads(raw[5]), indent=None).encode()
    reordered = json.dumps(dict(reversed(json.loads(raw[6]).items())) | {"x": [1]}).encode()
    lines = [
        b"\xef\xbb\xbf" + raw[0],
        b'["EVENT",' + raw[1] + b"]",
        b'["EVENT","sub",' + raw[2] + b"]\r",
        b"",
        b"  \t\r",
        b' [ "EVENT" , ' + raw[3] + b" ] ",
        raw[4] + b"\r",
        spaced,
        reordered,
        raw[7],
    ]
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"\n".join(lines)))
    assert await run(brotr, str(tmp_path / "a.gz")) == Outcome(lines=10, events=8, new=8)
    assert await archived(brotr) == {event.id for event in events}


async def test_what_is_invalid_is_counted_with_its_lines(brotr: Brotr, tmp_path: Path) -> None:
    good = make_event(content="good")
    forged = {**good, "sig": "00" * 64}
    other = make_event(content="other")
    changed = {**other, "content": "changed"}
    unsigned = {**other, "sig": good["sig"]}
    large = b'{"id":"' + b"0" * (17 << 20) + b'"}'
    lines = [
        b"rubbish",
        wire(forged),
        wire(good),
        wire(changed),
        wire(unsigned),
        b"{}",
        b'["EOSE","sub"]',
        b'{"a":1},{"b":2}',
        b"\xff\xfe\x00",
        b"[" * 5000,
        large,
        wire(good),
        b"null",
    ]
    outcome = await run(brotr, dump(tmp_path / "a", lines))
    assert outcome.first == {
        "malformed": [1, 6, 7, 8, 9],
        "bad signature": [2, 5],
        "bad id": [4],
        "too large": [11],
    }
    assert outcome.invalid == {"malformed": 7, "bad signature": 2, "bad id": 1, "too large": 1}
    assert (outcome.lines, outcome.events, outcome.new, outcome.repeats) == (13, 2, 1, 1)
    assert await archived(brotr) == {bytes.fromhex(good["id"])}
    invalid = await brotr.pool.fetchval("SELECT invalid FROM bigbrotr.imports")
    assert json.loads(invalid) == outcome.invalid


async def test_any_rubbish_is_a_line_and_no_more(brotr: Brotr) -> None:
    """Each valid event is found among what it was mixed with."""
    rng = random.Random(7)
    events = [verified(f"{n}") for n in range(40)]
    for _ in range(20):
        lines: list[bytes] = []
        some = rng.sample(events, 20)
        for event in some:
            text = event.to_json().encode()
            for _ in range(rng.randrange(3)):
                cut = rng.randrange(len(text))
                flipped = bytearray(text)
                flipped[cut] ^= 1 << rng.randrange(8)
                lines.append(rng.choice([text[:cut], text[cut:], bytes(flipped), rng.randbytes(9)]))
            lines.append(text)
        data = b"\n".join(line.replace(b"\n", b"?") for line in lines) + b"\n"
        worker = ImportWorker(brotr, Order((await _begin(brotr)), is_dry=True))
        outcome = await worker.work(Piece(1, data))
        assert outcome.lines == len(lines)
        batch = LineBatch()
        frames = [
            (number, frame_of(line.strip()))
            for number, line in enumerate(data.split(b"\n")[:-1], 1)
            if line.strip()
        ]
        batch.take([number for number, _ in frames], [frame for _, frame in frames])
        assert {event.id for event in some} <= set(batch.events.ids)


async def _begin(brotr: Brotr) -> Import:
    return await brotr.begin_import("name:x", "x", "-", None, None, None, NOW)


def test_a_frame_is_made_of_each_line() -> None:
    assert frame_of(b'{"id":1}') == b'["EVENT","",{"id":1}]'
    assert frame_of(b'["EVENT",{"a":1}]') == b'["EVENT","",{"a":1}]'
    assert frame_of(b'["EVENT","x",{"a":1}]') == b'["EVENT","x",{"a":1}]'
    assert frame_of(b'["NOTICE",{}]') == b'["NOTICE",{}]'


@BOTH
async def test_a_relay_is_noted_as_of_then_and_nothing_is_proven(
    brotr: Brotr, profile: Profile, tmp_path: Path
) -> None:
    await brotr.insert_events(pairs(EVENTS[:3], B))
    file = dump(tmp_path / "a", EVENTS)
    note = Held(A, NOW - 100)
    assert (await run(brotr, file, held=note)).new == 57
    assert await held(brotr) == {(e.id, A.url) for e in EVENTS} | {
        (e.id, B.url) for e in EVENTS[:3]
    }
    seen = await brotr.pool.fetchval(
        "SELECT array_agg(DISTINCT seen_at) FROM bigbrotr.events_relays WHERE relay_url = $1", A.url
    )
    assert seen == [NOW - 100]
    assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.coverage") == 0
    await check_totals(brotr)
    row = await brotr.pool.fetchrow("SELECT held_by, as_of, new_pairs FROM bigbrotr.imports")
    assert row is not None
    assert tuple(row) == (A.url, NOW - 100, 60)
    before = await state(brotr)
    await run(brotr, file, held=note)
    assert await state(brotr) == before


async def test_a_newer_proof_stands(brotr: Brotr, tmp_path: Path) -> None:
    """What a relay was proven to hold no longer is not noted as held."""
    visit = await claim_a(brotr)
    times = sorted(event.created_at for event in EVENTS)
    cut = times[30]
    for at, span in ((NOW - 50, Span(0, cut)), (NOW - 200, Span(cut, NOW + 1))):
        await brotr.store_page(visit, [], proofs=[Proof(span, How.PAGING)], now=at)
    outcome = await run(brotr, dump(tmp_path / "a", EVENTS), held=Held(A, NOW - 100))
    assert (outcome.new, outcome.outdated) == (60, 30)
    assert await held(brotr) == {(e.id, A.url) for e in EVENTS if e.created_at >= cut}
    assert await brotr.delete_orphan_events() == 0
    await check_totals(brotr)


async def test_what_was_erased_or_taken_down_does_not_come_back(
    brotr: Brotr, tmp_path: Path
) -> None:
    gone, down = verified("gone", key=3), verified("down", key=4)
    await brotr.insert_events(pairs([gone], A))
    for target, is_erasing in ((gone.id, True), (down.id, False)):
        await brotr.pool.execute(
            "SELECT bigbrotr.take_down(p_what => 'event', p_target => $1, p_erase => $2,"
            " p_why => 'x', p_who => 'me', p_now => $3)",
            target,
            is_erasing,
            NOW,
        )
    await brotr.pool.execute("INSERT INTO bigbrotr.reviews (name, noted_at) VALUES ('all', 0)")
    await judge(brotr)
    assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.hidden") == 1
    await run(brotr, dump(tmp_path / "a", [gone, down]))
    await judge(brotr)
    contents = await brotr.pool.fetch("SELECT kind, content FROM bigbrotr.events_stored")
    assert ("gone" in {row["content"] for row in contents}) is False
    hidden_ = await brotr.pool.fetch("SELECT id FROM bigbrotr.hidden WHERE why & 192 <> 0")
    assert {row["id"] for row in hidden_} == {gone.id, down.id}


async def test_two_that_import_at_once_agree(brotr: Brotr, tmp_path: Path) -> None:
    import_ = await _begin(brotr)
    data = b"".join(event.to_json().encode() + b"\n" for event in EVENTS)
    workers = [ImportWorker(brotr, Order(import_)) for _ in range(4)]
    outcomes = await asyncio.gather(*(worker.work(Piece(1, data)) for worker in workers))
    assert sum(outcome.new for outcome in outcomes) == len(EVENTS)
    assert await brotr.pool.fetchval("SELECT new_events FROM bigbrotr.imports") == len(EVENTS)
    marked = await brotr.pool.fetchval(
        "SELECT count(*) FROM bigbrotr.events_stored e JOIN bigbrotr.imported i"
        " ON i.slice = e.slice AND i.chunk = e.num >> 8"
        " AND get_bit(i.members, (e.num & 255)::int) = 1"
    )
    assert marked == len(EVENTS)
    assert await brotr.delete_orphan_events() == 0


@BOTH
async def test_extremes_are_events_too(brotr: Brotr, profile: Profile, tmp_path: Path) -> None:
    events = [
        verified("", created_at=0, kind=0),
        verified("", created_at=2**63 - 1, kind=65_535),
        verified("", kind=20_001),
        verified("x" * 3_000_000),
        verified("", [["t", f"{n}"] for n in range(20_000)]),
        verified("", [["t", "y" * 100_000], ["r", "wss://" + "z" * 5000]]),
        verified("", [["a"] * 50_000]),
        verified("\0\ud800\x7f\u2028\U0001f600", [["\0", "\udfff"], ["t", "\0"]]),
        verified("", [["e", ""], ["p", "not hex"], [""]]),
    ]
    file = dump(tmp_path / "a", [wire(json.loads(event.to_json())) for event in events])
    assert await run(brotr, file) == Outcome(lines=9, events=9, new=9)
    assert await archived(brotr) == {event.id for event in events}
    await judge(brotr)
    assert await run(brotr, file) == Outcome(lines=9, events=9)


async def test_what_the_database_refuses_stops_nothing(brotr: Brotr, tmp_path: Path) -> None:
    await brotr.pool.execute(
        "ALTER TABLE bigbrotr.events_stored ADD CHECK (content NOT LIKE 'poison%')"
    )
    events = [*EVENTS, verified("poison 1"), verified("poison 2", created_at=NOW - 9)]
    outcome = await run(brotr, dump(tmp_path / "a", events))
    assert (outcome.events, outcome.new) == (60, 60)
    assert outcome.invalid == {"refused by the database": 2}
    assert sorted(outcome.first["refused by the database"]) == [61, 62]
    assert await archived(brotr) == {event.id for event in EVENTS}
    await check_totals(brotr)


@pytest.mark.slow
async def test_a_database_that_lets_go_is_tried_again(brotr: Brotr, tmp_path: Path) -> None:
    events = [verified(f"{n}" * 30, created_at=NOW - n * 5000, key=n % 5) for n in range(3000)]
    file = dump(tmp_path / "many.jsonl", events)
    cuts = 0

    async def cut() -> None:
        nonlocal cuts
        while True:
            # Those of the workers, not ours.
            cuts += await brotr.pool.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE datname = current_database() AND query ~ 'note_imported|insert_events'"
                " AND pid <> pg_backend_pid()"
            )
            await asyncio.sleep(0.01 if cuts < 2 else 60)

    cutting = asyncio.ensure_future(cut())
    try:
        outcome = await run(brotr, file)
    finally:
        cutting.cancel()
    assert cuts
    assert (outcome.lines, outcome.events, outcome.invalid) == (3000, 3000, {})
    assert await archived(brotr) == {event.id for event in events}
    await check_totals(brotr)
    assert await brotr.pool.fetchval("SELECT new_events FROM bigbrotr.imports") == 3000


@pytest.mark.slow
async def test_a_worker_that_is_killed_is_told(
    brotr: Brotr, dsn: str, tmp_path: Path, config: list[str]
) -> None:
    events = [verified(f"{n}" * 30, created_at=NOW - n * 5000, key=n % 5) for n in range(3000)]
    file = dump(tmp_path / "many.jsonl", events)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bigbrotr", "import", file, *config),
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )

    def worker() -> list[int]:
        return [pid for pid in children(process.pid) if "spawn_main" in command(pid)]

    await until(lambda: bool(worker()), "a worker")
    os.kill(worker()[0], signal.SIGKILL)
    _, err = await process.communicate()
    assert process.returncode == 1
    assert b"a process of the import was killed: import the file again" in err
    assert b"Traceback" not in err
    done = await call("import", file, *config)
    assert done.code == 0
    assert await archived(brotr) == {event.id for event in events}


def leaves_signals(pid: int) -> bool:
    """Whether a process ignores SIGTERM, as workers do once they have begun."""
    status = Path(f"/proc/{pid}/status").read_text()
    ignored = next(line for line in status.splitlines() if line.startswith("SigIgn"))
    return bool(int(ignored.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.slow
async def test_a_killed_worker_takes_the_others_along(config: list[str]) -> None:
    """They have nothing to do, and would wait for it for ever."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is one core, and one worker")
    ours, theirs = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bigbrotr", "import", "-", *config),
        stdin=ours,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )
    os.close(ours)
    piece = (b"x" * 300 + b"\n") * MOST_LINES
    try:
        await asyncio.to_thread(os.write, theirs, piece * 3)

        def workers() -> list[int]:
            found = [pid for pid in children(process.pid) if "spawn_main" in command(pid)]
            return [pid for pid in found if leaves_signals(pid)]

        await until(lambda: len(workers()) >= 2, "two workers")
        os.kill(workers()[0], signal.SIGKILL)
        with suppress(BrokenPipeError):
            await asyncio.to_thread(os.write, theirs, piece * 2)
        async with asyncio.timeout(60):
            _, err = await process.communicate()
    finally:
        os.close(theirs)
    assert process.returncode == 1, err
    assert b"a process of the import was killed" in err


@pytest.mark.slow
async def test_killed_at_any_moment_and_repeated_it_is_complete(
    brotr: Brotr, dsn: str, tmp_path: Path
) -> None:
    config = tmp_path / "c.toml"
    config.write_text(f'[database]\nurl = "{dsn}"\n')
    events = [verified(f"{n}" * 30, created_at=NOW - n * 5000, key=n % 5) for n in range(6000)]
    file = dump(tmp_path / "many.jsonl", events)
    counts = [0]
    for kills in range(1, 30):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bigbrotr", "import", file, "--config", str(config)),
            stderr=asyncio.subprocess.DEVNULL,
            env=environment(),
        )
        waited = asyncio.ensure_future(process.wait())
        wanted = counts[-1] + 1
        while not waited.done():
            number = await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.events_stored")
            if number >= wanted and kills < 5:
                process.kill()
                break
            await asyncio.sleep(0.005)
        code = await waited
        counts.append(await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.events_stored"))
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert len(counts) > 3  # it was killed while it was at it
    assert await archived(brotr) == {event.id for event in events}
    await check_totals(brotr)
    assert await brotr.delete_orphan_events() == 0
    row = await brotr.pool.fetchrow("SELECT new_events, events, finished_at FROM bigbrotr.imports")
    assert row is not None
    assert (row["new_events"], row["events"], row["finished_at"] is None) == (6000, 6000, False)


@pytest.mark.slow
async def test_the_command_says_what_was_in_the_files(
    brotr: Brotr, config: list[str], tmp_path: Path
) -> None:
    good = dump(tmp_path / "good", EVENTS)
    bad = dump(tmp_path / "bad", [b"x", EVENTS[0], b"y"])
    done = await call("import", "--dry-run", good, *config)
    assert done.sentence == (
        f"bigbrotr: {good}: 60 lines, 60 events: 60 would be new, 0 archived already"
    )
    done = await call("import", good, bad, *config)
    assert (done.code, done.out) == (0, "")
    assert f"{good}: 60 lines, 60 events: 60 new, 0 archived already\n" in done.err
    assert f"{bad}: 3 lines, 1 events: 0 new, 1 archived already\n" in done.err
    assert f"{bad}: 2 invalid (malformed): line 1, 3\n" in done.err
    cut = tmp_path / "cut.gz"
    cut.write_bytes(gzip.compress(b"\n".join(e.to_json().encode() for e in EVENTS))[:-20])
    done = await call("import", str(cut), *config)
    assert (done.code, "is damaged or cut off" in done.sentence) == (2, True)


@pytest.mark.slow
async def test_standard_input_is_read(brotr: Brotr, config: list[str], tmp_path: Path) -> None:
    file = dump(tmp_path / "a", EVENTS)
    command = f"{sys.executable} -m bigbrotr import - --name mine {' '.join(config)} < {file}"
    for _ in range(2):
        process = await asyncio.create_subprocess_shell(
            command, stderr=asyncio.subprocess.PIPE, env=environment()
        )
        _, err = await process.communicate()
        assert process.returncode == 0, err
    row = await brotr.pool.fetchrow("SELECT source, file, new_events, sha256 FROM bigbrotr.imports")
    assert row is not None
    assert tuple(row)[:3] == ("name:mine", "-", 60)
    assert row["sha256"] is not None


@pytest.mark.slow
async def test_it_stops_though_its_input_does_not(brotr: Brotr, config: list[str]) -> None:
    ours, theirs = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bigbrotr", "import", "-", *config),
        stdin=ours,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )
    os.close(ours)
    try:

        async def has_begun() -> bool:
            return bool(await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.imports"))

        await until(has_begun, "the import")
        process.terminate()
        async with asyncio.timeout(60):
            _, err = await process.communicate()
    finally:
        os.close(theirs)
    assert process.returncode == 130
    assert b"not finished; 0 new events are stored" in err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["none.jsonl"], "none.jsonl cannot be read: No such file"),
        (["-", "--held-by", "wss://a.example.com"], "--held-by and --as-of go together"),
        (["-", "--as-of", "2024-01-01"], "--held-by and --as-of go together"),
        (["-", "--held-by", "wss://a.example.com", "--as-of", "2999-01-01"], "in the future"),
        (["-", "--held-by", "example"], "'example' is no relay"),
        (["-", "-"], "standard input can be read only once"),
    ],
)
async def test_what_is_wrong_is_told(options: list[str], words: str, tmp_path: Path) -> None:
    done = await call("import", *options, "--data-dir", str(tmp_path / "none"))
    assert (done.code, done.out) == (2, "")
    assert words in done.err
    assert Relay("wss://a.example.com").url == A.url
    assert serialise([]) == "[]"


@pytest.mark.slow
async def test_a_database_that_is_gone_is_told(brotr: Brotr, tmp_path: Path) -> None:
    """Also where a process of the import never reached it."""
    settings = PoolSettings(retry=Retry(max_attempts=1))
    file = dump(tmp_path / "a", EVENTS)
    importer = Importer(
        brotr, Config(pool=settings), dsn="postgresql://x@127.0.0.1:1/none", workers=1
    )
    with pytest.raises(BaseExceptionGroup) as raised:
        await importer.run(file, lambda *_: None)
    (error,) = leaves(raised.value)
    assert isinstance(error, DatabaseError)
    assert "cannot connect to PostgreSQL" in str(error)
