"""The command line as a person meets it: one clear sentence for each mistake, and its exit code."""

import asyncio
import fcntl
import json
import os
import pty
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote

import asyncpg
import pytest

from bigbrotr.cli import main, parser
from bigbrotr.cli.output import pasteable, remember
from bigbrotr.config.settings import WebSettings
from bigbrotr.core.schema import Schema
from bigbrotr.embedded.server import EmbeddedPostgres, binary
from bigbrotr.serve.app import is_ours
from tests.kit.events import make_event
from tests.kit.processes import Place, call, environment, until
from tests.kit.real import free_port
from tests.kit.scripted import ScriptedRelay

REVISION = Schema().revision
SECRET = "correct-horse-battery-staple"
REVISION = Schema().revision
COMMANDS = [
    "",
    "run",
    "demo",
    "status",
    "where",
    "seed",
    "config",
    "config show",
    "config check",
    "config init",
    "doctor",
    "completion",
    "manual",
    "db",
    "db url",
    "db migrate",
    "db distribute",
    "db psql",
    "health",
    "db roles",
    "db backup",
    "db restore",
]
SPOKEN = (
    "[politeness]\nopt_out = []\n"
    '[monitor.publish.profile]\nname = "\u65e5\u672c \U0001f9ff\u202e"\n'
)
Env = dict[str, str]
EVENTS = [make_event(1_600_000_000 + n, content=f"note {n}") for n in range(40)]


@pytest.fixture
async def relay() -> AsyncIterator[ScriptedRelay]:
    async with ScriptedRelay(EVENTS) as relay:
        yield relay


@pytest.fixture(scope="module")
async def archive(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    """A place whose bigbrotr runs all the time, for those who only look."""
    async with ScriptedRelay(EVENTS) as relay:
        place = Place(tmp_path_factory.mktemp("archive") / "place", [relay.url])
        async with place.start() as running:
            await running.says("ready")
            async with place.look() as connection:

                async def is_copied() -> bool:
                    return bool(
                        await connection.fetchval("SELECT events FROM bigbrotr.totals()") == 40
                    )

                await until(is_copied, "the copy")
            yield place
            assert await running.end() == 0


@pytest.mark.parametrize("command", COMMANDS)
async def test_help_everywhere(command: str) -> None:
    done = await call(*command.split(), "--help")
    assert done.code == 0
    assert "usage: bigbrotr" in done.out
    assert done.err == ""


@pytest.mark.slow
async def test_version_and_nothing() -> None:
    assert re.fullmatch(r"bigbrotr \d+\.\d+\.\d+\n", (await call("--version")).out)
    assert (await call()).code == 2


@pytest.mark.parametrize(
    ("host", "is_known"),
    [
        ("127.0.0.1:9464", True),
        ("203.0.113.7", True),
        ("[::1]:9464", True),
        ("[fe80::1%eth0]", True),
        ("localhost", True),
        ("LocalHost.:9464", True),
        (socket.gethostname(), True),
        ("listens.example:1", True),
        ("named.example", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("xlisten.example", False),
        ("sub.named.example", False),
        ("evil", False),
        ("127.0.0.1.evil.example", False),
        ("evil.example#@localhost", False),
        ("evil.example/@localhost", False),
        ("[::1", False),
        (":80", False),
        (".", False),
    ],
)
def test_whose_name_is_ours(host: str, is_known: bool) -> None:
    settings = WebSettings("listens.example:9464", hosts=("named.example",))
    assert is_ours(host, settings) is is_known


# On a terminal, or where text is not UTF-8


class Terminal:
    """A command on a pseudo-terminal, and what it has written there."""

    def __init__(self, *words: str, cwd: Path | str, **env: str) -> None:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bigbrotr", *words],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=cwd,
            env=environment(TERM="xterm-256color", COLUMNS="120", LINES="40", **env),
            start_new_session=True,
        )
        os.close(theirs)
        os.set_blocking(ours, False)
        self.ours = ours
        self.raw = b""

    def read(self) -> str:
        """All text so far, without colours and movements."""
        try:
            while more := os.read(self.ours, 65536):
                self.raw += more
        except OSError:
            pass  # nothing more now, or the other end has gone
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.raw.decode(errors="replace"))

    async def ends(self) -> int:
        await until(lambda: self.read() is not None and self.process.poll() is not None, "end")
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.ours)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*words: str, cwd: Path | str, **env: str) -> Terminal:
        opened.append(Terminal(*words, cwd=cwd, **env))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


LOCALES = {"en_US.ISO-8859-1": "iso8859-1", "ja_JP.EUC-JP": "euc_jp"}


@pytest.fixture(scope="module", params=[*LOCALES, "ascii"])
def tongue(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Env:
    """The environment of somebody whose terminal and files are not UTF-8."""
    if request.param == "ascii":
        plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        return plain | {"PYTHONIOENCODING": "ascii:strict"}
    place = tmp_path_factory.getbasetemp() / "locales"
    place.mkdir(exist_ok=True)
    name, charset = request.param.split(".")
    if not shutil.which("localedef"):
        pytest.skip("no localedef")
    made = subprocess.run(
        ["localedef", "-i", name, "-f", charset, str(place / request.param)],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("localedef has nothing to make locales of")
    return {"LC_ALL": request.param, "LOCPATH": str(place), "PYTHONUTF8": "0"}


@pytest.fixture(scope="module")
async def foreign_archive(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    """An archive of no relay, in a folder and by a file whose names no other charset has."""
    folder = tmp_path_factory.mktemp("caf\u00e9 \u65e5\u672c \U0001f9ff")
    place = Place(folder / "place", more=SPOKEN)
    place.config.write_bytes(b"\xef\xbb\xbf" + place.config.read_bytes())  # as editors do
    place.seeds.write_bytes("\ufeff# \u65e5\u672c\nwss://\u4f8b.example\n".encode())
    async with place.start() as running:
        await running.says("ready")
        yield place
        assert await running.end() == 0


@pytest.mark.slow
async def test_whatever_the_locale(tongue: Env, foreign_archive: Place, tmp_path: Path) -> None:
    place = foreign_archive
    done = await place.call("config", "show", **tongue)
    assert (done.code, done.err) == (0, "")
    if "PYTHONIOENCODING" not in tongue:  # what is written into a file can be read again
        assert "\u65e5\u672c \U0001f9ff\\U0000202e" in done.out
        shown = tmp_path / "shown.toml"
        shown.write_text(done.out, "utf-8")
        done = await call("config", "check", str(shown), cwd=None, **tongue)
        assert (done.code, done.out) == (0, f"{shown}: ok\n")
    done = await place.call("status", "--json", **tongue)
    assert (done.code, json.loads(done.out)["candidates"]) == (0, 1)
    assert (await call("--help", cwd=None, **tongue)).code == 0
    done = await place.call("seed", "\u65e5 \udcff", **tongue)
    assert (done.code, "No such file" in done.sentence) == (2, True)


@pytest.mark.slow
async def test_a_terminal_that_cannot_show_everything(
    tongue: Env, terminal: Callable[..., Terminal], foreign_archive: Place
) -> None:
    shown = terminal("config", "show", *foreign_archive.options, cwd="/", **tongue)
    assert await shown.ends() == 0, shown.read()
    assert 'name = "' in shown.read()
    if "ISO-8859-1" in tongue["LC_ALL"]:
        assert b'name = "?? ?\\U0000202e"' in shown.raw
    if "EUC-JP" in tongue["LC_ALL"]:
        assert 'name = "\u65e5\u672c ?\\U0000202e"'.encode("euc_jp") in shown.raw


@pytest.mark.slow
async def test_run_whatever_the_locale(tongue: Env, relay: ScriptedRelay, tmp_path: Path) -> None:
    if "EUC-JP" not in tongue["LC_ALL"]:
        return  # the others can less, and are quicker
    place = Place(tmp_path / "place", more=SPOKEN, workers=1)
    seeds = tmp_path / "caf\u00e9 \u65e5\u672c \U0001f9ff"
    seeds.write_text(relay.url)
    place.config.write_text(place.config.read_text().replace(str(place.seeds), str(seeds)))
    async with place.start("--once", **tongue) as running:
        assert await running.wait() == 0, running.err
    assert str(seeds) in running.err.replace('"', "")
    done = await place.call("status", "--json", **tongue)
    assert json.loads(done.out)["events"] == 40


@pytest.mark.slow
async def test_a_path_that_is_none(tmp_path: Path) -> None:
    place = Place(tmp_path / "place")
    text = place.config.read_text()
    place.config.write_text(text.replace(str(place.seeds), "seeds\\u0000.txt"))
    done = await place.call("run", "--once")
    assert (done.code, "[seeder] file: cannot read" in done.sentence) == (2, True)


# Mistakes in files


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[log\n", ["config.toml", "line 1"]),
        ("[log]\nlevle = 'INFO'\n", ["[log] levle", "unknown key", 'did you mean "level"']),
        ("[sychronizer]\n", ["[sychronizer]", 'did you mean "synchronizer"']),
        ("[pool.limits]\nmax_size = 'many'\n", ["[pool.limits] max_size", "'many'", "int"]),
        ("[pool.limits]\nmax_size = 1000\n", ["[pool.limits] max_size", "1000", "200"]),
        ("log = 3\n", ["log", "3"]),
        ("[web]\nlisten = 'nowhere'\n", ["[web]", "address:port"]),
        ("[database]\nurl = 'postgresql://a:b@c/d'\n", ["[database]", "DB_PASSWORD"]),
        ("[networks.loki]\nenabled = true\n", ["[networks]", "loki", "proxy"]),
        ("\xff", ["not UTF-8"]),
    ],
)
async def test_mistake_in_the_configuration(text: str, words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(text.encode("latin-1"))
    for command in (["run", "--config"], ["config", "check"]):
        done = await call(*command, str(path), cwd=tmp_path)
        assert done.code == 2
        assert done.sentence.startswith(f"bigbrotr: {path}")
        assert len(done.err.splitlines()) == 1
        for word in words:
            assert word in done.sentence
        assert "postgresql://a:b" not in done.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("run --config /nowhere/a.toml", 2, "/nowhere/a.toml: No such file"),
        ("run --config /", 2, "/: Is a directory"),
        ("run --profile medium", 2, "a profile is full or lite"),
        ("run --only seeder,finda", 2, "no service is called 'finda'"),
        ("run --only ,", 2, "',' names nothing"),
        ("run --log-level LOUD", 2, "unknown log level 'LOUD'"),
        ("seed notaurl", 2, "notaurl: No such file"),
        ("seed nofile.toml.d/x", 2, "nofile.toml.d"),
        ("db restore /nowhere/a.dump", 2, "cannot restore /nowhere/a.dump: there is no such file"),
        ("status --sort size", 2, "choose from 'holds'"),
        ("status --limit 0", 2, "is not a number from 1 on"),
        ("status --relay http://a.example", 2, "http://a.example is not a relay URL"),
        ("seed http://example.com", 2, "http://example.com is not a relay URL"),
        ("seed ws://127.0.0.1:7777", 2, "[networks.local]"),
        ("frobnicate", 2, "invalid choice"),
        ("status", 3, "there is no archive in"),
        ("db psql", 3, "there is no archive in"),
    ],
)
async def test_mistake_on_the_command_line(
    arguments: str, code: int, words: str, tmp_path: Path
) -> None:
    options = ["--data-dir", str(tmp_path / "data")]
    done = await call(*arguments.split(), *(options if code == 3 else []), cwd=tmp_path)
    assert done.code == code
    assert words in done.sentence
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "words"), [("missing", "No such file"), ("folder", "Is a directory")]
)
async def test_seed_file_that_cannot_be_read(what: str, words: str, tmp_path: Path) -> None:
    place = Place(tmp_path / "place")
    place.seeds.unlink()
    if what == "folder":
        place.seeds.mkdir()
    done = await place.call("run", "--once")
    assert done.code == 2
    assert words in done.sentence
    assert str(place.seeds) in done.sentence
    assert not place.data_dir.exists()  # it is seen before anything is made
    done = await place.call("seed", str(place.seeds))
    assert (done.code, words in done.sentence) == (2, True)


@pytest.mark.slow
async def test_seed_file_of_junk(tmp_path: Path) -> None:
    place = Place(tmp_path / "place", ["not a url", "http://x.example"])
    done = await place.call("seed", str(place.seeds))
    assert done.code == 2
    assert "nothing to add" in done.sentence
    said = await place.run_once("--only", "seeder")
    assert "junk=2" in said
    assert said.count("not a relay URL") == 2


# The database


@pytest.mark.slow
async def test_unreachable_database(tmp_path: Path) -> None:
    url = f"postgresql://bigbrotr@127.0.0.1:{free_port()}/bigbrotr"
    more = f'[database]\nurl = "{url}"\n[pool.retry]\nmax_attempts = 2\ninitial_delay = 0.01\n'
    place = Place(tmp_path / "place", more=more)
    for command in ("run", "status", "db migrate", "db psql"):
        done = await place.call(*command.split(), DB_PASSWORD=SECRET)
        assert done.code == 3
        assert "cannot connect to PostgreSQL at 127.0.0.1:" in done.sentence
        assert "after 2 attempts" in done.sentence
        assert SECRET not in done.out + done.err
    done = await place.call("db", "url", DB_PASSWORD=SECRET)
    assert (done.code, done.out) == (0, f"{url}?options=-csearch_path%3Dbigbrotr%2Cpublic\n")
    place = Place(
        tmp_path / "other",
        more=f"{more}[pool]\npgbouncer = true\n".replace(
            "[pool.retry]\nmax_attempts = 2\ninitial_delay = 0.01\n", ""
        ),
    )
    done = await place.call("db", "url", DB_PASSWORD=SECRET)
    assert (done.code, done.out) == (0, f"{url}\n")  # it would be refused with options


@pytest.fixture
async def tcp_server(tmp_path: Path) -> AsyncIterator[int]:
    """A PostgreSQL of its own on a port, where the role bigbrotr needs its password."""
    port = free_port()
    async with EmbeddedPostgres(tmp_path / "server") as server:
        (server.cluster / "postgresql.user.conf").write_text("fsync = off\n")
        connection = await asyncpg.connect(server.url)
        await connection.execute(f"ALTER ROLE bigbrotr PASSWORD '{SECRET}'")
        await connection.close()
        proxy = await asyncio.start_server(
            lambda reader, writer: _pipe(server.socket_dir, reader, writer), "127.0.0.1", port
        )
        hba = server.cluster / "pg_hba.conf"
        hba.write_text("local all all scram-sha-256\n")
        os.kill(server.pid or 0, signal.SIGHUP)
        async with proxy:
            yield port
            proxy.close()


async def _pipe(folder: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Between a TCP client and the server's socket."""
    back, out = await asyncio.open_unix_connection(str(folder / ".s.PGSQL.5432"))

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
        except OSError:
            pass
        target.close()

    await asyncio.gather(copy(reader, out), copy(back, writer))


@pytest.mark.slow
async def test_wrong_and_right_password(tcp_server: int, tmp_path: Path) -> None:
    more = f'[database]\nhost = "127.0.0.1"\nport = {tcp_server}\n'
    place = Place(tmp_path / "place", more=more)

    async def is_reloaded() -> bool:
        return (await place.call("db", "migrate")).code == 3

    await until(is_reloaded, "a password is needed")
    for password in ("", "wrong-password"):
        done = await place.call("status", DB_PASSWORD=password)
        assert done.code == 3
        assert "is DB_PASSWORD set to the right password?" in done.sentence
        assert "after 1 attempt:" in done.sentence
        assert "wrong-password" not in done.err
    done = await place.call("status", DB_PASSWORD=SECRET)
    assert done.code == 4
    assert "no schema yet" in done.sentence
    done = await place.call("db", "migrate", DB_PASSWORD=SECRET)
    assert (done.code, done.out) == (0, f"the database brought to revision {REVISION}, full\n")
    done = await place.call("db", "psql", "--", "-Atc", "SELECT 6 * 7", DB_PASSWORD=SECRET)
    assert (done.code, done.out) == (0, "42\n")
    done = await place.call("status", "--json", DB_PASSWORD=SECRET)
    assert json.loads(done.out)["events"] == 0
    file = tmp_path / "password"
    file.write_text(f"{SECRET}\n")
    done = await place.call("run", "--once", DB_PASSWORD_FILE=str(file), PRIVATE_KEY="ab" * 32)
    assert done.code == 0, done.err
    assert SECRET not in done.err + done.out
    assert "abababab" not in done.err + done.out


@pytest.mark.slow
async def test_database_of_another_profile_or_revision(tmp_path: Path) -> None:
    place = Place(tmp_path / "place")
    assert (await place.call("db", "migrate")).code == 0
    for command in (["run", "--once"], ["db", "migrate"]):
        done = await call(*command, *place.options, "--profile", "lite")
        assert done.code == 4
        assert "of the profile full, not lite" in done.sentence
    done = await call("status", *place.options, "--profile", "lite")
    assert done.code == 0  # it looks the same
    async with place.database() as connection:
        await connection.execute(
            "INSERT INTO bigbrotr.ledger VALUES (99, 'full', 'x', 0, 98, '9.0.0')"
        )
    for words in ("run --once", "status", "db migrate"):
        done = await place.call(*words.split())
        assert done.code == 4
        assert "install a newer bigbrotr" in done.sentence


@pytest.mark.slow
async def test_database_of_an_older_revision(tmp_path: Path) -> None:
    place = Place(tmp_path / "place")
    assert (await place.call("db", "migrate")).code == 0
    current = Schema().revision
    async with place.database() as connection:
        await connection.execute(
            f"UPDATE bigbrotr.ledger SET revision = {current - 1}, digest = 'x'"
        )
    for words in ("status", "where " + 64 * "0", "seed wss://a.example.com"):
        done = await place.call(*words.split())
        assert done.code == 4
        assert f"of revision {current - 1}, this release needs {current}" in done.sentence
        assert re.search(r"`\S*python\S* -m bigbrotr db migrate --profile full", done.sentence)
    # What comes before an upgrade is done as before.
    file = tmp_path / "archive.dump"
    assert (await place.call("db", "backup", str(file))).code == 0
    assert (await Place(tmp_path / "other").call("db", "restore", str(file))).code == 0
    assert (await place.call("db", "migrate")).code == 0
    assert (await place.call("status")).code == 0


@pytest.mark.slow
async def test_data_dir_that_cannot_be_used(tmp_path: Path) -> None:
    place = Place(tmp_path / "place")
    place.data_dir.write_text("a file")
    done = await place.call("run", "--once")
    assert done.code == 3
    assert str(place.data_dir) in done.sentence
    place.data_dir.unlink()
    (place.data_dir / "postgres").mkdir(parents=True)
    (place.data_dir / "postgres" / "diary.txt").write_text("dear diary")
    done = await place.call("run", "--once")
    assert done.code == 3
    assert "not a PostgreSQL cluster" in done.sentence
    assert (place.data_dir / "postgres" / "diary.txt").read_text() == "dear diary"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("run --once --data-dir /proc/nothing", "choose another data directory"),
        ("status --data-dir {}", "cannot look into"),
    ],
)
def test_data_dir_that_is_not_ours(command: str, words: str, tmp_path: Path) -> None:
    if not shutil.which("setpriv"):
        pytest.skip("no setpriv")
    private = tmp_path / "private"
    private.mkdir(0o700)
    result = subprocess.run(
        [
            *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
            *(sys.executable, "-m", "bigbrotr", *command.format(private).split()),
        ],
        capture_output=True,
        text=True,
        env=environment(),
        cwd="/",
        check=False,
    )
    is_ours = result.stderr.startswith("bigbrotr: ")
    if not is_ours and re.search("No module named|Permission denied", result.stderr[:200]):
        pytest.skip("the interpreter is root's own")
    assert result.returncode == 3, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", ["status", "seed wss://a.example", "db psql"])
def test_data_dir_that_cannot_be_looked_into(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file"
    path.touch()
    assert main([*command.split(), "--data-dir", str(path)]) == 3
    assert f"cannot look into {path}: Not a directory" in capsys.readouterr().err


@pytest.mark.slow
async def test_data_dir_and_port_in_use(archive: Place, tmp_path: Path) -> None:
    done = await archive.call("run", "--once")
    assert done.code == 5
    assert re.search(r"is in use by bigbrotr \(pid \d+\)", done.sentence)
    port = free_port()
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", port)
    async with server:
        place = Place(tmp_path / "place", more=f'[web]\nlisten = "127.0.0.1:{port}"\n')
        done = await place.call("run", "--once")
        assert done.code == 5
        assert f"cannot listen on 127.0.0.1:{port}" in done.sentence


# Looking


NSEC = "nsec1" + 58 * "q"


@pytest.mark.parametrize(
    "words",
    [
        "where {}",
        "where nostr:{}",
        "seed {}",
        "seed http://me:{}@relay.example",
        "run --profile {}",
        "run --log-level {}",
        "run --only {}",
        "run --unknown={}",
        "run --config {}",
        "config check {}",
        "{}",
    ],
)
def test_a_private_key_is_not_repeated(
    words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for secret in (NSEC, NSEC.upper()):
        arguments = words.format(secret).split()
        if words.startswith(("seed", "where")):
            arguments += ["--data-dir", str(tmp_path / "data")]
        try:
            code: object = main(arguments)
        except SystemExit as left:
            code = left.code
        assert code == 2
        said = capsys.readouterr()
        assert "bigbrotr" in said.err
        assert "qqqq" not in (said.out + said.err).lower()


@pytest.mark.slow
async def test_status_while_running_and_after(relay: ScriptedRelay, tmp_path: Path) -> None:
    place = Place(tmp_path / "place", [relay.url])
    await place.run_once()
    done = await place.call("status")
    assert done.code == 0, done.err
    assert "\x1b" not in done.out
    for words in (str(place.data_dir), "relays 1", "events 40", relay.url, "the beginning"):
        assert words in done.out.replace("\n", ""), words


@pytest.mark.slow
async def test_where_an_event_is(archive: Place) -> None:
    event_id = EVENTS[3]["id"]
    done = await archive.call("where", event_id)
    assert done.code == 0
    assert event_id in done.out
    assert re.search(r"present +ws://127\.0\.0\.1:\d+ +since 20", done.out)
    assert "present on 1, absent from 0, unknown for 0" in done.out
    done = await archive.call("where", event_id, "--json")
    place = json.loads(done.out)
    assert (place["event"], place["is_archived"], place["kind"]) == (event_id, True, 1)
    assert place["created_at"] == EVENTS[3]["created_at"]
    (present,) = place["present"]
    assert abs(present["first_seen"] - time.time()) < 300
    assert (place["absent"], place["unknown"]) == ([], [])
    done = await archive.call("where", "00" * 32)
    assert (done.code, "not in the archive" in done.out) == (0, True)
    done = await archive.call("where", f"NOSTR:{event_id.upper()}")
    assert (done.code, event_id in done.out) == (0, True)
    done = await archive.call("where", "xyz")
    assert (done.code, done.err) == (
        *(2, "bigbrotr: 'xyz' is not an event id: give 64 hex digits, a note or an nevent\n"),
    )


@pytest.mark.slow
async def test_status_of_a_running_archive(archive: Place) -> None:
    done = await archive.call("status", "--json")
    assert done.code == 0, done.err
    status = json.loads(done.out)
    assert status.keys() == {
        *("relays", "candidates", "events", "pairs", "gaps", "rejected", "progress"),
        *("candidate_sources", "measured", "profile", "revision"),
    }
    assert (status["relays"], status["events"], status["pairs"]) == (1, 40, 40)
    assert status["measured"]["relays"] == 0
    assert (status["profile"], status["revision"]) == ("full", REVISION)
    (progress,) = status["progress"]
    assert progress.keys() >= {"url", "network", "holds", "gaps", "rejected", "outcome", "proven"}
    assert (progress["holds"], progress["brought"]) == (40, 40)
    assert progress["proven"][0][0] == 0
    done = await archive.call("status")
    assert done.code == 0
    assert "monitored" not in done.out  # nobody monitors here


PATH_OF_USERS = "bigbrotr,public"


@pytest.mark.slow
async def test_url_for_psql_while_running(archive: Place) -> None:
    """Its relations are found by bare names: by psql, and by others that take the address."""
    done = await archive.call("db", "url")
    assert (done.code, done.err) == (0, "")
    psql = subprocess.run(  # noqa: ASYNC221 -- for a moment
        [
            *(binary("psql"), done.out.strip(), "-Atc", "SELECT count(*) FROM events"),
            *("-c", "SHOW search_path"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert psql.stdout == f"40\n{PATH_OF_USERS}\n"
    connection = await asyncpg.connect(done.out.strip())
    assert await connection.fetchval("SHOW search_path") == PATH_OF_USERS
    assert await connection.fetchval("SELECT count(*) FROM events") == 40
    await connection.close()


async def test_psql_finds_bare_names(archive: Place) -> None:
    done = await archive.call(
        *("db", "psql", "--", "-Atc", "SELECT url FROM relays", "-c", "SHOW search_path")
    )
    assert done.code == 0
    url, path = done.out.splitlines()
    assert url.startswith("ws://127.0.0.1:")
    assert path == PATH_OF_USERS


@pytest.mark.slow
async def test_url_while_not_running(tmp_path: Path) -> None:
    place = Place(tmp_path / "place")
    done = await place.call("db", "url")
    assert done.code == 0
    assert done.out.startswith("postgresql://bigbrotr@/bigbrotr?host=")
    assert "not running" in done.err


@pytest.mark.slow
async def test_migrate_and_seed_while_running(archive: Place) -> None:
    done = await archive.call("db", "migrate")
    assert (done.code, done.out) == (0, f"the database is of revision {REVISION}, full\n")
    url = "wss://relay.example"
    done = await archive.call("seed", url, f"{url}/")
    assert (done.code, done.out) == (0, "added 1, known before 0\n")
    done = await archive.call("seed", url)
    assert (done.code, done.out) == (0, "added 0, known before 1\n")


@pytest.mark.slow
async def test_distribute_without_citus(archive: Place) -> None:
    done = await archive.call("db", "distribute")
    assert (done.code, done.out, done.err) == (
        *(3, ""),
        "bigbrotr: the database has no extension citus: it cannot be distributed over machines\n",
    )


async def test_psql_as_everybody_types_it(archive: Place) -> None:
    done = await archive.call("db", "psql", "-c", "SELECT 6 * 7 AS answer")
    assert (done.code, "answer" in done.out, "42" in done.out) == (0, True, True)
    done = await archive.call("db", "psql", "-At", "-c", "SELECT count(*) FROM events")
    assert (done.code, done.out) == (0, "40\n")


async def test_all_about_one_relay(archive: Place) -> None:
    (url,) = archive.seeds.read_text().split()
    done = await archive.call("status", "--relay", url)
    assert done.code == 0, done.err
    for words in (url, "holds        40 archived events", "proven       the beginning to 20"):
        assert words in done.out
    assert "missing      nothing" in done.out
    report = json.loads((await archive.call("status", "--relay", url, "--json")).out)
    assert (report["progress"]["holds"], report["gaps"], report["missing"]) == (40, [], [])
    assert (await archive.call("seed", "candidate.example")).code == 0
    done = await archive.call("status", "--relay", "candidate.example")
    assert (done.code, "a candidate" in done.out) == (0, True)
    done = await archive.call("status", "--relay", "wss://unknown.example")
    assert done.code == 1
    assert re.search("is not known here: `.* seed wss://unknown.example .*` adds it", done.sentence)
    done = await archive.call("status", "--failing", "--limit", "3", "--sort", "url")
    assert (done.code, "0 of 1 relays" in done.out) == (0, True)
    assert done.out.count("\n") < 8


async def test_the_profile_is_the_archive_s(tmp_path: Path) -> None:
    """For every command, also while no server runs; another one is refused if it is insisted on."""
    place = Place(tmp_path / "place")
    options = ["--data-dir", str(place.data_dir), "--config", str(place.config)]
    assert (await place.call("db", "migrate")).code == 0
    for note in ("noted", "forgotten"):
        if note == "forgotten":
            (place.data_dir / "profile").unlink()
        done = await call("db", "migrate", *options)
        assert (done.code, done.out) == (0, f"the database is of revision {REVISION}, full\n")
    done = await call("run", "--once", "--only", "seeder", *options, BIGBROTR_PROFILE="lite")
    assert done.code == 0, done.err
    assert "ready profile=full" in done.err
    assert "the archive is of the profile full, for good" in done.err
    done = await call("run", "--once", "--only", "seeder", *options, "--profile", "lite")
    assert done.code == 4
    bare = ["--data-dir", str(place.data_dir)]
    assert 'listen = "127.0.0.1:9464"' in (await call("config", "show", *bare)).out
    assert 'listen = ""' in (await call("config", "show", *bare, "--profile", "lite")).out


async def test_seeds_as_people_type_them(archive: Place) -> None:
    done = await archive.call("seed", "typed.example", "typed.example:8080/path")
    assert (done.code, done.out) == (0, "added 2, known before 0\n")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bigbrotr", "seed", "-", *archive.options),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    out, err = await process.communicate(b"wss://piped.example\nnonsense\n")
    assert (process.returncode, out) == (0, b"added 1, known before 0\n")
    assert b"left out: standard input, line 2" in err


async def test_a_file_to_begin_with(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    done = await call("config", "init", str(path))
    assert done.code == 0
    assert f"config check {path} --profile lite`" in done.sentence
    assert (await call("config", "check", str(path))).out == f"{path}: ok\n"
    shown = await call("config", "show", "--config", str(path), "--profile", "lite")
    assert shown.out == (await call("config", "show", "--profile", "lite")).out
    done = await call("config", "init", str(path))
    assert (done.code, "exists: it is left alone" in done.sentence) == (2, True)
    printed = await call("config", "init")
    assert printed.out == path.read_text()


async def test_files_that_settings_name(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text('[seeder]\nfile = "/nowhere/a"\n[monitor.geo]\nasn_db = "/nowhere/b"\n')
    done = await call("config", "check", str(path))
    assert done.code == 2
    reason = "No such file or directory"
    assert done.err.splitlines() == [
        f"bigbrotr: {path}:2: [seeder] file: cannot read /nowhere/a: {reason}",
        f"bigbrotr: {path}:4: [monitor.geo] asn_db: cannot read /nowhere/b: {reason}",
    ]
    done = await call("run", "--config", str(path), "--data-dir", str(tmp_path / "data"))
    assert (done.code, "[monitor.geo] asn_db" in done.err) == (2, True)
    assert not (tmp_path / "data").exists()


async def test_restore_of_nothing_makes_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path / "place")
    for file in (tmp_path / "none", tmp_path):
        done = await place.call("db", "restore", str(file))
        assert done.code == 2
        assert f"cannot restore {file}: " in done.sentence
    assert not place.data_dir.exists()


def test_hints_can_be_pasted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    program = tmp_path / ".venv" / "bin" / "bigbrotr"
    program.touch(mode=0o755)
    remember(parser().parse_args(["status"]))
    for started, called in (
        (program, ".venv/bin/bigbrotr"),
        (Path(".venv/bin/bigbrotr"), ".venv/bin/bigbrotr"),
        (Path("/opt/x/bigbrotr/__main__.py"), f"{sys.executable} -m bigbrotr"),
        (Path("/elsewhere/pytest"), "bigbrotr"),
    ):
        monkeypatch.setattr("sys.argv", [str(started)])
        assert pasteable("`bigbrotr run` makes one") == f"`{called} run` makes one"
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.setattr("sys.argv", [str(program)])
    assert pasteable("say `bigbrotr run` or not") == "say `bigbrotr run` or not"
    remember(parser().parse_args(["status", "--data-dir", "/a b"]))
    assert pasteable("`bigbrotr db migrate`") == "`bigbrotr db migrate --data-dir '/a b'`"
    assert pasteable("`bigbrotr run --x`") == "`bigbrotr run --x`"
    remember(parser().parse_args(["demo"]))


@pytest.mark.slow
async def test_psql_passes_on_its_exit_code(archive: Place) -> None:
    done = await archive.call("db", "psql", "--", "-Atc", "SELECT nonsense")
    assert done.code == 1
    assert "nonsense" in done.err


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["full", "lite"])
async def test_config_show_can_be_read_again(profile: str, tmp_path: Path) -> None:
    shown = await call("config", "show", "--profile", profile, DB_PASSWORD=SECRET)
    assert shown.code == 0
    assert SECRET not in shown.out
    path = tmp_path / "shown.toml"
    path.write_text(shown.out)
    done = await call("config", "check", str(path))
    assert (done.code, done.out) == (0, f"{path}: ok\n")
    again = await call("config", "show", "--config", str(path))
    assert again.out == shown.out


@pytest.mark.slow
async def test_reader_of_our_output_goes_away() -> None:
    process = subprocess.Popen(  # noqa: ASYNC220 -- for a moment
        [sys.executable, "-m", "bigbrotr", "config", "show"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 0


# Health


def ask(url: str, host: str | None = None) -> tuple[int, str]:
    request = urllib.request.Request(url, headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.slow
async def test_health(tmp_path: Path) -> None:
    port = free_port()
    hosts = 'hosts = ["Archive.example"]'
    place = Place(tmp_path / "place", more=f'[web]\nlisten = "127.0.0.1:{port}"\n{hosts}\n')
    url = f"http://127.0.0.1:{port}"
    async with place.start() as running:
        await running.says("ready")
        assert await asyncio.to_thread(ask, f"{url}/healthz") == (200, "ok\n")
        assert await asyncio.to_thread(ask, f"{url}/readyz") == (200, "ok\n")
        assert (await asyncio.to_thread(ask, f"{url}/other"))[0] == 404
        # A page of a stranger, whose name leads here, reads nothing.
        for path in ("healthz", "readyz", "metrics", "other"):
            code, words = await asyncio.to_thread(ask, f"{url}/{path}", f"evil.example:{port}")
            assert (code, "[web] hosts" in words, "bigbrotr_" in words) == (421, True, False)
        for host in (f"localhost:{port}", "[::1]", "archive.example", "ARCHIVE.example.:80"):
            assert (await asyncio.to_thread(ask, f"{url}/healthz", host)) == (200, "ok\n")
        done = await place.call("health")
        assert (done.code, done.out) == (0, "ok\n")
        async with place.look() as connection:
            await connection.execute(
                "INSERT INTO bigbrotr.ledger VALUES (99, 'full', 'x', 0, 98, '9.0.0')"
            )
            code, words = await asyncio.to_thread(ask, f"{url}/readyz")
            await connection.execute("DELETE FROM bigbrotr.ledger WHERE revision = 99")
        assert code == 503
        assert "install a newer bigbrotr" in words
        assert await asyncio.to_thread(ask, f"{url}/readyz") == (200, "ok\n")
        os.kill(place.postmaster, signal.SIGKILL)
        assert await asyncio.to_thread(ask, f"{url}/healthz") == (200, "ok\n")

        async def is_ready() -> bool:
            return await asyncio.to_thread(ask, f"{url}/readyz") == (200, "ok\n")

        await until(is_ready, "it recovers")
        assert await running.end() == 0


# On a terminal


@pytest.mark.slow
async def test_live_status_on_a_terminal(
    relay: ScriptedRelay, terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    place = Place(tmp_path / "place", [relay.url])
    run = terminal("run", *place.options, cwd=tmp_path)
    for words in ("running    seeder", "events 40", relay.url, "relays 1", "complete 1 of 1"):
        await until(lambda words=words: words in run.read(), words)
    assert b"\x1b[" in run.raw
    assert "Traceback" not in run.read()
    run.process.send_signal(signal.SIGINT)
    assert await run.ends() == 0
    assert re.search(r"In \d+ .*1 of 1 relays are complete, 40 events are archived", run.read())
    # The cursor is shown again at the end.
    assert run.raw.rfind(b"\x1b[?25h") > run.raw.rfind(b"\x1b[?25l")


@pytest.mark.slow
async def test_status_on_a_terminal_without_a_run(
    terminal: Callable[..., Terminal], archive: Place
) -> None:
    status = terminal("status", *archive.options, cwd=archive.folder)
    assert await status.ends() == 0
    assert "events 40" in status.read()


@pytest.mark.slow
async def test_demo(terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    shown = terminal("demo", "--data-dir", str(tmp_path / "demo"), cwd=tmp_path)
    assert await shown.ends() == 0, shown.read()
    text = shown.read()
    for words in ("making 4,000 signed events", "Archived in", "relays 4", "services", "complete"):
        assert words in text, words
    assert "gaps 0   rejected 0" in text
    # Again, over the first, this time into a file: without any escape sequence.
    done = await call("demo", "--data-dir", str(tmp_path / "demo"))
    assert done.code == 0
    assert "Archived in" in done.err + done.out
    assert "\x1b" not in done.err + done.out
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    done = await call("demo", "--data-dir", str(other))
    assert done.code == 2
    assert "holds something else" in done.sentence
    assert (other / "thesis.txt").exists()


@pytest.mark.slow
async def test_no_escape_sequences_in_a_file(relay: ScriptedRelay, tmp_path: Path) -> None:
    place = Place(tmp_path / "place", [relay.url])
    said = await place.run_once()
    assert "\x1b" not in said
    assert "copied" in said


@pytest.mark.slow
async def test_json_log(relay: ScriptedRelay, tmp_path: Path) -> None:
    place = Place(tmp_path / "place", [relay.url])
    started = time.time()
    said = await place.run_once("--log-json", "--log-level", "debug")
    lines = [json.loads(line) for line in said.splitlines()]
    assert {"copied", "seeded", "ready"} <= {line["message"] for line in lines}
    assert "DEBUG" in {line["level"] for line in lines}
    assert time.time() - started > 0
    assert quote(relay.url, safe=":/") in said
