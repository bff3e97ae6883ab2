"""`bigbrotr export jsonl`: what lands in which file, and what is said of it."""

import asyncio
import gzip
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bigbrotr.config.settings import Profile
from bigbrotr.core.brotr import Brotr
from bigbrotr.errors import ConfigError
from bigbrotr.transfer.files import Sink, zstd
from tests.kit.archive import A, ordered, pairs
from tests.kit.events import NOW, verified
from tests.kit.processes import call, environment, until
from tests.kit.terminal import Terminal

EVENTS = [verified(f"note {n}", created_at=NOW + n // 2) for n in range(40)]
LINES = [json.loads(event.to_json()) for event in ordered(EVENTS)]


@pytest.fixture
def config(dsn: str, tmp_path: Path) -> list[str]:
    path = tmp_path / "export.toml"
    path.write_text(f'[database]\nurl = "{dsn}"\n')
    return ["--config", str(path)]


async def shell(command: str) -> "subprocess.CompletedProcess[bytes]":
    """What a shell makes of a command."""
    return await asyncio.to_thread(
        subprocess.run,
        ["bash", "-c", command],
        capture_output=True,
        env=environment(),
        check=False,
    )


def lines_of(data: bytes) -> list[object]:
    return [json.loads(line) for line in data.splitlines()]


async def test_a_file_is_compressed_by_its_name(
    brotr: Brotr, config: list[str], tmp_path: Path
) -> None:
    await brotr.insert_events(pairs(EVENTS, A))
    for name, opened in (
        ("all.jsonl", bytes),
        ("all.jsonl.gz", gzip.decompress),
        ("all.jsonl.zst", zstd.decompress),
    ):
        path = tmp_path / name
        done = await call("export", "jsonl", "-o", str(path), *config)
        assert (done.code, done.out) == (0, "")
        assert done.sentence == f"bigbrotr: exported 40 events to {path}"
        assert lines_of(opened(path.read_bytes())) == LINES
    done = await call("export", "jsonl", "-o", str(path), *config)
    assert (done.code, "exists already" in done.sentence) == (2, True)
    assert len(os.listdir(tmp_path)) == 4  # noqa: PTH208


async def test_standard_output_holds_lines_alone(brotr: Brotr, config: list[str]) -> None:
    await brotr.insert_events(pairs(EVENTS, A))
    done = await call("export", "jsonl", "--relay", A.url, "--since", str(NOW + 3), *config)
    assert (done.code, done.err) == (0, "")
    assert lines_of(done.out.encode()) == [e for e in LINES if e["created_at"] >= NOW + 3]
    last = LINES[9]
    after = f"{last['created_at']}:{last['id']}"
    done = await call("export", "jsonl", "--after", after, "--reverse", *config)
    assert lines_of(done.out.encode()) == LINES[8::-1]
    done = await call("export", "jsonl", "--filter", '{"kinds": [7]}', *config)
    assert (done.code, done.out, done.err) == (0, "", "")


@pytest.mark.parametrize("profile", [Profile.LITE])
async def test_lite_says_what_its_lines_lack(
    brotr: Brotr, config: list[str], profile: Profile
) -> None:
    await brotr.insert_events(pairs(EVENTS[:1], A))
    done = await call("export", "jsonl", *config)
    assert done.code == 0
    assert "of the profile lite" in done.sentence
    assert set(json.loads(done.out)) == {"id", "pubkey", "created_at", "kind"}
    done = await call("export", "jsonl", "--tag", "t=x", *config)
    assert (done.code, "keeps no tags" in done.sentence) == (2, True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--filter", '{"limit": 3}'], "an export has no limit"),
        (["--after", "1700000000"], "is no created_at:id"),
        (["--relay", "http://x"], "'http://x' is no relay"),
        (["--relay", "wss://nobody.example"], "no relay wss://nobody.example is known here"),
        (["-o", "/nowhere/at/all.jsonl"], "/nowhere/at/all.jsonl.part cannot be written"),
        (["--view", "all"], "invalid choice"),
    ],
)
async def test_what_is_wrong_is_told(
    brotr: Brotr, config: list[str], options: list[str], words: str
) -> None:
    done = await call("export", "jsonl", *options, *config)
    assert (done.code, done.out) == (2, "")
    assert words in done.err


async def test_a_disk_that_is_full_is_told(brotr: Brotr, config: list[str]) -> None:
    await brotr.insert_events(pairs(EVENTS, A))
    command = f"{sys.executable} -m bigbrotr export jsonl {' '.join(config)} > /dev/full"
    done = await shell(command)
    err = done.stderr.decode()
    assert done.returncode == 2
    assert "No space left on device" in err
    assert "Traceback" not in err


async def test_whoever_has_seen_enough_may_go(brotr: Brotr, config: list[str]) -> None:
    events = [verified("x" * 50_000, created_at=NOW + n) for n in range(100)]
    await brotr.insert_events(pairs(events, A))
    command = f"{sys.executable} -m bigbrotr export jsonl {' '.join(config)} | head -n 1"
    done = await shell(command)
    assert done.stderr == b""
    assert json.loads(done.stdout)["content"] == events[0].content


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_what_is_stopped_tells_how_to_go_on(
    brotr: Brotr, config: list[str], number: signal.Signals
) -> None:
    """The reader stalls: the export waits, and ends when it is told to; the rest comes later."""
    events = [verified("x" * 50_000, created_at=NOW + n) for n in range(200)]
    await brotr.insert_events(pairs(events, A))
    process = subprocess.Popen(  # noqa: ASYNC220 -- its pipe is not read for us
        [sys.executable, "-m", "bigbrotr", "export", "jsonl", *config],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    got = os.read(process.stdout.fileno(), 100)  # it has begun
    while got.count(b"\n") < 60:  # more than one page, less than all
        got += os.read(process.stdout.fileno(), 65536)
    process.send_signal(number)
    await until(lambda: process.poll() is not None, "its end")
    with process.stdout, process.stderr:
        got += process.stdout.read()
        err = process.stderr.read().decode()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    said = int(err.split("not finished: ")[1].split()[0])
    some = lines_of(got[: got.rfind(b"\n") + 1])
    assert 0 < said <= len(some) < len(events)
    after = err.split("--after ")[1].split()[0]
    done = await call("export", "jsonl", "--after", after, *config)
    assert (done.code, done.err) == (0, "")
    assert [*some[:said], *lines_of(done.out.encode())] == [
        json.loads(event.to_json()) for event in events
    ]


async def test_what_is_not_whole_is_kept(brotr: Brotr, config: list[str], tmp_path: Path) -> None:
    await brotr.insert_events(pairs(EVENTS, A))
    part = tmp_path / "all.jsonl.part"
    part.write_text("precious")
    done = await call("export", "jsonl", "-o", str(tmp_path / "all.jsonl"), *config)
    assert (done.code, "of an export that has not finished" in done.sentence) == (2, True)
    assert part.read_text() == "precious"


def test_a_file_that_fails_ends_with_what_was_written(tmp_path: Path) -> None:
    """The disk is full in the middle of a line."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    sink = Sink(str(tmp_path / "all"))
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limit[1]))
        sink.write(b"line\n" * 500)
        with pytest.raises(ConfigError, match="File too large"):
            sink.write(b"more\n" * 1000)
        sink.close(is_whole=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert Path(sink.partial).read_bytes() == b"line\n" * 500
    assert not Path(sink.name).exists()


async def test_a_terminal_shows_how_far_it_is(
    brotr: Brotr, config: list[str], tmp_path: Path
) -> None:
    await brotr.insert_events(pairs(EVENTS, A))
    await brotr.analyze()
    terminal = Terminal("export", "jsonl", "-o", str(tmp_path / "all.jsonl"), *config, cwd=tmp_path)
    try:
        assert await terminal.ends() == 0
        said = terminal.read()
    finally:
        terminal.close()
    assert "40 of about" in said
    assert "a second, at 2025-06-15" in said
    assert f"exported 40 events to {tmp_path / 'all.jsonl'}" in said.replace("\r\n", "")
