"""The documentation: what is generated is current, what can be run runs, links lead somewhere."""

import gzip
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import asyncpg
import pytest
import tomli

from bigbrotr.cli import parser
from bigbrotr.config.settings import Config, Profile
from bigbrotr.config.toml import decode
from bigbrotr.net.connect import Failure
from bigbrotr.nostr.questions import GapReason
from bigbrotr.services import validator
from bigbrotr.transfer import parquet
from bigbrotr.transfer.datasets import EVENTS
from docs import generate, generate_schema
from tests.conftest import CLUSTER
from tests.kit import starter
from tests.kit.events import make_event, wire
from tests.kit.processes import CARELESS, Done, Running, environment
from tests.models.test_where import bech32

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
EVENT_ID = "00" * 32
# What stands for something of the reader's own.
PLACEHOLDERS = {
    "note1…": bech32("note", bytes(32)),
    "npub1…": bech32("npub", bytes(32)),
    "FILE|URL…": "wss://relay.example.com",
    "…": EVENT_ID,
}
# Programs of the system, which change it: nothing of ours is in their lines but what is checked.
SYSTEM = {"systemctl", "sudoedit", "git", "apt", "docker", "python3", "pip", "cd", "curl"}
# Those that go on until they are stopped, and what they say first.
READY = {"run": " supervisor: ready ", "serve": " serving the archive "}


@dataclass(frozen=True)
class Block:
    """A fenced block: its language and text, and where it stands."""

    place: str
    language: str
    text: str


def blocks(language: str) -> list[Block]:
    found = [
        Block(f"{path.name}: {fence[2].strip()[:40]}", language, fence[2])
        for path in PAGES
        for fence in re.finditer(r"(?ms)^```(\w+)\n(.*?)^```$", path.read_text("utf-8"))
        if fence[1] == language
    ]
    assert found
    return found


def lines(block: Block) -> Iterator[list[str]]:
    """The commands of a block, in words, without `sudo` and comments."""
    for line in block.text.splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["sudo"]:
            del words[0]
        if words:
            yield [PLACEHOLDERS.get(word, word) for word in words]


COMMANDS = [words for block in blocks("sh") for words in lines(block)]
OURS = sorted({shlex.join(words[1:]) for words in COMMANDS if words[0] == "bigbrotr"})


def test_pages_are_as_generated() -> None:
    made = generate.pages()
    assert made
    for path, text in made.items():
        assert path.read_text("utf-8") == text, f"{path.name}: run `make docs`"


@pytest.mark.parametrize("profile", [Profile.FULL])
async def test_the_page_of_the_schema_is_as_generated(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        made = await generate_schema.page(connection)
    finally:
        await connection.close()
    assert generate_schema.PAGE.read_text("utf-8") == made, "run `make docs`"


def test_every_setting_has_a_meaning() -> None:
    rows = re.findall(r"(?m)^\| `(\w+)` \|.* \| ([^|]*) \|$", generate.settings())
    assert len(rows) > 100
    assert [name for name, meaning in rows if not meaning.strip()] == []


@pytest.mark.parametrize("block", blocks("toml"), ids=lambda block: block.place)
def test_settings_are_accepted(block: Block) -> None:
    decode(tomli.loads(block.text), Config, source=block.place)


@pytest.mark.parametrize("block", blocks("sql"), ids=lambda block: block.place)
@pytest.mark.parametrize("profile", [Profile.FULL])
async def test_queries_run(block: Block, dsn: str) -> None:
    if CLUSTER and "quarter(" in block.text:
        pytest.skip("a cluster has no quarters")
    connection = await asyncpg.connect(dsn, server_settings={"search_path": "bigbrotr"})
    try:
        for statement in re.sub("--.*", "", block.text).split(";"):
            if query := statement.replace("…", EVENT_ID).strip():
                await connection.fetch(query)
    finally:
        await connection.close()


def test_every_command_is_known() -> None:
    targets = set(re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text("utf-8")))
    for words in COMMANDS:
        if words[0] == "make":
            assert words[1] in targets, words
        elif words[0] == "bigbrotr":
            parser().parse_args(words[1:])
        elif words[0] == "psql":
            assert words[1:] == ["$(bigbrotr db url)"]
        else:
            assert words[0] in SYSTEM, words


@pytest.fixture(scope="module")
async def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with an archive, and the files that the pages speak of."""
    home = tmp_path_factory.mktemp("home")
    (home / "my.toml").write_text(
        '[networks.clearnet]\nenabled = false\n[web]\nlisten = ""\n[serve]\nlisten = ""\n'
    )
    (home / "bigbrotr.toml").write_text(
        '[networks.clearnet]\nenabled = false\n[web]\nlisten = "127.0.0.1:0"\n'
        '[serve]\nlisten = "127.0.0.1:0"\n[database]\nsummarize_wal = true\n'
    )
    events = [wire(make_event(content=f"{n}")) for n in range(9)]
    (home / "dump.jsonl").write_bytes(b"\n".join(events))
    (home / "more.jsonl.gz").write_bytes(gzip.compress(b"\n".join(events[:3])))
    parquet.Writer(home / "events.parquet", EVENTS).close()
    done = await bigbrotr(home, "db migrate --profile full")
    assert done.code == 0, done.err
    with (home / "bigbrotr" / "postgres" / "postgresql.user.conf").open("a") as settings:
        settings.write(CARELESS)
    return home


async def bigbrotr(home: Path, command: str) -> Done:
    """Runs it as its reader would; one that goes on is stopped as soon as it is ready."""
    words = shlex.split(command)
    log = home / "err"
    with tempfile.TemporaryFile() as out, log.open("wb") as err:
        process = await starter.start(
            words,
            out=out.fileno(),
            err=err.fileno(),
            cwd=home,
            env=environment(
                HOME=str(home), XDG_DATA_HOME=str(home), BIGBROTR_CONFIG=str(home / "bigbrotr.toml")
            ),
        )
        running = Running(process, log)
        if words[0] in READY and "--once" not in words:
            await running.says(READY[words[0]])
            process.send_signal(signal.SIGTERM)
        code = await running.wait()
        out.seek(0)
        return Done(code, out.read().decode(), running.err)


# What may be said of an archive that holds nothing, or where nothing runs.
CODES = {"health": {1, 2}, "doctor": {0, 1}, "takedown": {0, 2}, "compliance": {2}}
# No network is enabled there, and no relay known.
CODES |= {"rescue": {0, 2}, "at-risk": {0, 2}, "witnesses": {0, 2}, "operators": {0, 2}}


@pytest.mark.slow
@pytest.mark.parametrize("command", OURS)
async def test_commands_run(command: str, home: Path) -> None:
    dump = home / "archive.dump"
    if command.startswith("db backup"):
        dump.unlink(missing_ok=True)
    elif command.startswith("db restore backups") and not (home / "backups").exists():
        await bigbrotr(home, "db backup --incremental backups")
    elif command.startswith("db restore") and not dump.exists():
        await bigbrotr(home, f"db backup {dump.name}")
    elif command.startswith(("import", "snapshot")) and not (home / "out").exists():
        await bigbrotr(home, "snapshot out")
    done = await bigbrotr(home, command)
    assert done.code in CODES.get(command.split()[0], {0}), done.err
    assert "Traceback" not in done.err


def anchors(text: str) -> set[str]:
    """As the site and code forges make them of headings."""
    heads = re.findall(r"(?m)^#+ (.*)$", re.sub(r"(?ms)^```.*?^```$", "", text))
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"(?ms)^```.*?^```$", "", path.read_text("utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        linked = path.parent / file if file else path
        assert linked.exists(), f"{path.name}: {target}"
        if anchor:
            assert anchor in anchors(linked.read_text("utf-8")), f"{path.name}: {target}"


def test_troubleshooting_is_about_what_is_really_said() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    code = " ".join(
        re.sub(r'"\s*f?"', "", path.read_text("utf-8"))
        for path in (ROOT / "bigbrotr").rglob("*.py")
    )
    code = re.sub(r"\s+", " ", code)
    for message in re.findall(r"(?m)^### (.*)$", text):
        assert message in code or message == "No space left on device", message
    named = set(re.findall("`([a-z-]+)`", text))
    known = {*map(str, Failure), *map(str, GapReason), *get_args(validator.Answer)}
    assert known - {validator.SPEAKS, "alias"} <= named


def test_the_site_is_built(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} <= {
        path.stem for path in (tmp_path / "dist" / "site").glob("*.html")
    }
