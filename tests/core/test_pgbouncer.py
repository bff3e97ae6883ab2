"""Behind PgBouncer in transaction mode: the same database, though each statement may meet another
session of it."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import parse_qs, urlsplit

import anyio
import asyncpg
import pytest

from bigbrotr.config.settings import Database, Limits, PoolSettings
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.pool import Pool
from bigbrotr.embedded.cluster import Account
from bigbrotr.models.event import Event, EventRelay
from bigbrotr.models.relay import Network, Relay
from tests.conftest import Databases
from tests.kit.events import make_event
from tests.kit.processes import Place
from tests.kit.real import free_port
from tests.kit.scripted import ScriptedRelay

SESSIONS = 2  # fewer than clients: they must be shared


@contextmanager
def pgbouncer(program: str, socket_dir: str, account: Account, port: int) -> Iterator[None]:
    """A PgBouncer before the server in `socket_dir`, run by the user whom that lets in."""
    with TemporaryDirectory(prefix="bigbrotr-pgbouncer-") as place:
        folder = Path(place)
        settings, users = folder / "pgbouncer.ini", folder / "users.txt"
        settings.write_text(
            f"[databases]\n* = host={socket_dir}\n[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = trust\nauth_file = {users}\npool_mode = transaction\n"
            f"default_pool_size = {SESSIONS}\nmax_client_conn = 100\n"
        )
        users.write_text('"bigbrotr" ""\n')
        for path in (folder, settings, users):
            os.chown(path, account.uid, account.gid)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [program, str(settings)], stdout=log, stderr=log, **account.dropping
            )
        try:
            deadline = time.monotonic() + 30
            while True:
                assert process.poll() is None, (folder / "log").read_text()
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            yield
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture
def address(databases: Databases, dsn: str) -> Iterator[str]:
    """The address of this test's database, at a PgBouncer of its own."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("no pgbouncer: Debian's package of this name has it")
    if databases.server is None:
        pytest.skip("PgBouncer is put before the embedded server only")
    owner = databases.server.cluster.stat()
    parts, port = urlsplit(dsn), free_port()
    socket_dir = parse_qs(parts.query)["host"][0]
    with pgbouncer(program, socket_dir, Account(owner.st_uid, owner.st_gid, ""), port):
        yield f"postgresql://bigbrotr@127.0.0.1:{port}{parts.path}"


@pytest.mark.slow
async def test_many_clients_share_few_sessions(address: str) -> None:
    settings = PoolSettings(pgbouncer=True, limits=Limits(min_size=8, max_size=8))
    relays = [Relay(f"wss://relay{n}.example") for n in range(8)]
    events = [
        Event.from_object(make_event(1_700_000_000 + n, content=f"note {n}")) for n in range(40)
    ]
    stored: Counter[Relay] = Counter()
    async with Brotr(Pool(Database(url=address), settings)) as brotr:

        async def store(relay: Relay) -> None:
            for event in events:
                new, _ = await brotr.insert_events([EventRelay(event, relay, 1)])
                stored[relay] += new

        async with anyio.create_task_group() as group:
            for relay in relays:
                group.start_soon(store, relay)
        totals = await brotr.totals()
        assert (totals.events, totals.pairs) == (40, 320)
        assert sum(stored.values()) == 40  # each event is new once
        async with brotr.pool.transaction() as connection:
            rows = [row async for row in connection.cursor("SELECT id FROM bigbrotr.events")]
        assert len(rows) == 40
        assert await brotr.next_visit_at([Network.CLEARNET]) is not None
        used = await brotr.pool.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        )
        assert used <= SESSIONS


@pytest.mark.slow
async def test_all_of_bigbrotr_behind_it(address: str, tmp_path: Path) -> None:
    events = [make_event(1_600_000_000 + n, content=f"note {n}") for n in range(40)]
    async with ScriptedRelay(events) as relay:
        more = f'[database]\nurl = "{address}"\n[pool]\npgbouncer = true\n'
        place = Place(tmp_path / "place", [relay.url], more=more)
        said = await place.run_once()
    assert "new_events=40" in said
    assert not place.data_dir.exists()
    done = await place.call("status", "--json")
    assert json.loads(done.out)["events"] == 40


@pytest.mark.slow
async def test_all_of_bigbrotr_where_names_are_looked_for_elsewhere(
    dsn: str, tmp_path: Path
) -> None:
    """A session of PgBouncer keeps no search path of ours: that of the database counts, and nothing
    of ours is found by it."""
    connection = await asyncpg.connect(dsn)
    database = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {database} SET search_path = public")
    await connection.close()
    events = [make_event(1_600_000_000 + n, content=f"note {n}") for n in range(40)]
    parts = urlsplit(dsn)
    url = parts._replace(
        netloc=f"{parts.username or ''}@{parts.netloc.rpartition('@')[2]}"
    ).geturl()
    async with ScriptedRelay(events) as relay:
        more = f'[database]\nurl = "{url}"\n[pool]\npgbouncer = true\n'
        place = Place(tmp_path / "place", [relay.url], more=more)
        async with place.start("--once", DB_PASSWORD=parts.password or "") as running:
            assert await running.wait() == 0, running.err
            said = running.err
    assert "new_events=40" in said
    done = await place.call("status", "--json", DB_PASSWORD=parts.password or "")
    assert json.loads(done.out)["events"] == 40
