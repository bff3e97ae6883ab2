"""Secrets: whatever goes wrong, neither the password nor the key is written anywhere."""

import asyncio
import base64
import os
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import parse_qs, urlsplit

import asyncpg
import nostr_sdk
import pytest

from bigbrotr.config.settings import Profile
from bigbrotr.errors import ConfigError
from bigbrotr.secret import read_secret, without_secrets
from tests.conftest import LOGIN, Databases
from tests.kit.events import make_event
from tests.kit.model import Vices
from tests.kit.processes import Place, children, until
from tests.kit.real import free_port
from tests.kit.scripted import ScriptedRelay

PASSWORD = "correct horse/battery:staple%@"  # what escapes badly as well
KEY = "02" * 31 + "a7"
EVENTS = [make_event(1_600_000_000 + n, content=f"note {n}") for n in range(40)]


def spellings() -> Iterator[bytes]:
    """The secrets in every form in which they could be written by mistake."""
    yield PASSWORD.encode()
    yield PASSWORD.replace("/", "%2F").replace(" ", "%20").encode()
    yield base64.b64encode(PASSWORD.encode())
    yield b"battery:staple"
    yield b"battery%3Astaple"
    yield KEY.encode()
    yield bytes.fromhex(KEY)
    yield base64.b64encode(bytes.fromhex(KEY))
    yield nostr_sdk.SecretKey.parse(KEY).to_bech32().encode()


def assert_unspoken(text: bytes, where: str) -> None:
    for spelling in spellings():
        assert spelling not in text, where


def test_directory_that_does_not_open() -> None:
    closed = {"CREDENTIALS_DIRECTORY": "x" * 5000}  # root may look into any other
    with pytest.raises(ConfigError, match="cannot look for DB_PASSWORD"):
        read_secret("DB_PASSWORD", closed)
    assert read_secret("DB_PASSWORD", {"CREDENTIALS_DIRECTORY": "/nowhere"}) is None


@pytest.mark.parametrize("data", [b"\xef\xbb\xbfs3cr\xc3\xa9t\r\n", b"s3cr\xc3\xa9t"])
def test_a_file_as_editors_write_it(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(data)
    assert read_secret("X", {"X_FILE": str(file)}) == "s3cr\u00e9t"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("nsec1abc, NSEC1ABC", "***, ***"),
        ("(ncryptsec1abc)", "(***)"),
        ("postgresql://me:a/b@c@h/d: no", "postgresql://me:***@h/d: no"),
        ("'me:pw@h:1' is none", "'me:***@h:1' is none"),
        ("https://h/?a=1&api_key=x&token=y#z", "https://h/?a=1&api_key=***&token=***"),
        ("host=h password=pw user=u", "host=h password=*** user=u"),
        (f"{KEY}: No such file", "***: No such file"),
        # No secrets.
        (f"/var/lib/{KEY}/data", f"/var/lib/{KEY}/data"),
        ("wss://h:80/x?monkey=1: 3 at 10:20", "wss://h:80/x?monkey=1: 3 at 10:20"),
        ("mail me@h.example", "mail me@h.example"),
        ("[web] listen: is wrong", "[web] listen: is wrong"),
    ],
)
def test_what_is_hidden(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


@pytest.mark.slow
async def test_no_secret_is_written_anywhere(
    make_database: Callable[[Profile | None], Awaitable[str]], databases: Databases, tmp_path: Path
) -> None:
    """A run with a password and a key in use, at DEBUG, in which the database breaks off, a worker
    dies, a relay demands the key, and another misbehaves."""
    dsn = await make_database(None)
    name = urlsplit(dsn).path[1:]
    parts = urlsplit(databases.url)
    query = parse_qs(parts.query)
    host = parts.hostname or query["host"][0]
    server_port = parts.port or int(query.get("port", ["5432"])[0])
    port, serve_port = free_port(), free_port()
    await databases.execute(f"CREATE ROLE {LOGIN} LOGIN PASSWORD '{PASSWORD}'")
    await databases.execute(f"ALTER DATABASE {name} OWNER TO {LOGIN}")
    env = {"DB_PASSWORD": PASSWORD, "PRIVATE_KEY": KEY}
    shown: dict[str, bytes] = {}
    try:
        shy, rude = Vices(needs_auth=True), [*EVENTS, EVENTS[0] | {"content": "tampered with"}]
        async with ScriptedRelay(EVENTS, shy) as first, ScriptedRelay(rude) as second:
            more = (
                f'[database]\nhost = "{host}"\nport = {server_port}\nuser = "{LOGIN}"\n'
                f'database = "{name}"\n[web]\nlisten = "127.0.0.1:{port}"\n'
                f'[serve]\nlisten = "127.0.0.1:{serve_port}"\n'
            )
            place = Place(tmp_path / "place", [first.url, second.url], more=more, workers=2)
            text = place.config.read_text()
            before, found, after = text.partition("workers = 2")
            assert found
            place.config.write_text(f'{before}{found}\nauth = "configured"{after}')
            async with place.start("--log-level", "debug", **env) as running:
                await running.says("ready")
                connection = await asyncpg.connect(dsn)

                async def is_copied() -> bool:
                    return bool(
                        await connection.fetchval("SELECT pairs FROM bigbrotr.totals()") == 80
                    )

                await until(is_copied, "the copy")
                for pid in children(running.pid, "spawn_main")[:1]:
                    os.kill(pid, 9)
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1",
                    LOGIN,
                )
                for path in ("metrics", "readyz", "healthz"):
                    shown[path] = await asyncio.to_thread(_read, f"http://127.0.0.1:{port}/{path}")
                await running.says("serving the archive")
                for path in ("", "openapi.json", "status", "relays", "candidates", "nowhere"):
                    url = f"http://127.0.0.1:{serve_port}/api/v1/{path}"
                    shown[f"served {path}"] = await asyncio.to_thread(_read, url)
                for words in ("status", "config show", "db url", "health"):
                    done = await place.call(*words.split(), **env)
                    shown[words] = (done.out + done.err).encode()
                await connection.close()
                assert await running.end() == 0
                shown["log"] = running.err.encode()
        wrong = await place.call("run", "--once", **(env | {"DB_PASSWORD": PASSWORD + "x"}))
        shown["a wrong password"] = wrong.err.encode()
        assert wrong.code == 3
        key = await place.call("run", "--once", **(env | {"PRIVATE_KEY": KEY + "0"}))
        shown["a wrong key"] = key.err.encode()
        assert key.code == 2
        file = tmp_path / "dump"
        done = await place.call("db", "backup", str(file), **env)
        assert done.code == 0, done.err
        shown["backup"] = (done.out + done.err).encode()
    finally:
        await databases.execute(f"ALTER DATABASE {name} OWNER TO CURRENT_USER")
        connection = await asyncpg.connect(dsn)
        await connection.execute(f"REASSIGN OWNED BY {LOGIN} TO CURRENT_USER")
        await connection.close()
        await databases.execute(f"DROP ROLE {LOGIN}")
    assert b"DEBUG" in shown["log"]
    for where, said in shown.items():
        assert said, where
        assert_unspoken(said, where)
    assert_unwritten(tmp_path)


def assert_unwritten(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            assert_unspoken(path.read_bytes(), str(path))


def _read(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return bytes(answer.read())
    except HTTPError as error:
        with error:
            return bytes(error.read())
