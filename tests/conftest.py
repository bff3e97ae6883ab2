"""What every test may ask for: the event loop that we ship, and databases on real PostgreSQL.

`TEST_DATABASE_URL` names another server, by a role that may create databases; else one embedded
server runs for the whole session. `BIGBROTR_TEST_CITUS` names a database on the coordinator of a
Citus cluster, by a superuser; it has the extension, and knows the workers. Then what is tested is
distributed over them.
"""

import asyncio
import inspect
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import asyncpg
import hypothesis
import pytest

from bigbrotr.config.settings import Limits, PoolSettings, Profile
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.pool import Pool
from bigbrotr.core.schema import Schema
from bigbrotr.embedded.cluster import account_of
from bigbrotr.embedded.server import EmbeddedPostgres
from bigbrotr.net.politeness import politeness_of
from tests.kit.limits import limited
from tests.kit.processes import adopt_orphans, left_behind
from tests.kit.terminal import Terminal

# The same examples each time: a failure is the change's, not the day's.
# HYPOTHESIS_PROFILE=explore looks at others.
hypothesis.settings.register_profile("steady", derandomize=True, deadline=None)
hypothesis.settings.register_profile("explore", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))

LOGIN = "bigbrotr_test_login"  # a role that has to give a password
BEFORE_S = 10.0  # that a test's time is over, it is told
LEFT_S = 20.0  # what was told to end may take this long
HERE = Path(__file__).parent
# The tests of whole services and of the program: each starts something.
SLOW = [HERE / name for name in ("cli", "serve", "services", "test_refusals.py")]
SLOW.append(HERE / "core" / "test_upgrade.py")
QUICK = {HERE / "cli" / "test_completion.py"}  # starts nothing
# Single tests in these take longest: begun last, they would keep one process busy after the others.
LONGEST = [
    HERE / "test_demo.py",
    *(
        HERE / "services" / "sync" / f"test_{name}.py"
        for name in ("end_to_end", "campaign", "live")
    ),
    *(HERE / "services" / f"test_{name}.py" for name in ("several_supervisors", "town")),
    HERE / "serve" / "test_browser.py",
]
MEMORY = Path("/dev/shm")
ROOM = 4 << 30  # bytes that a server of databases in memory finds there
CLUSTER = os.environ.get("BIGBROTR_TEST_CITUS") or None
FAST = (
    "fsync = off\nsynchronous_commit = off\nfull_page_writes = off\nautovacuum = off\n"
    "max_wal_size = 256MB\nmin_wal_size = 64MB\n"
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks as slow, besides those that say so themselves, all tests of some folders and files.

    Where several processes share the tests, what takes longest comes first.
    """
    for item in items:
        if item.path not in QUICK and any(item.path.is_relative_to(place) for place in SLOW):
            item.add_marker(pytest.mark.slow)
    if hasattr(config, "workerinput"):
        items.sort(
            key=lambda item: (item.path not in LONGEST, item.get_closest_marker("slow") is None)
        )


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what needs a cluster, where there is none, and what a cluster does otherwise."""
    for marker, is_met, reason in (
        ("cluster", CLUSTER is not None, "BIGBROTR_TEST_CITUS names no cluster"),
        ("one_server", CLUSTER is None, "a cluster has no partitions, or keeps it otherwise"),
    ):
        if item.get_closest_marker(marker) and not is_met:
            pytest.skip(reason)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Ends a test that waits for ever in the loop, a little before its time is over: what a signal
    raises there, uvloop only logs."""
    marker = pyfuncitem.get_closest_marker("timeout")
    limit_s = float(marker.args[0] if marker else pyfuncitem.config.getini("timeout"))
    if limit_s and inspect.iscoroutinefunction(pyfuncitem.obj):
        pyfuncitem.obj = limited(pyfuncitem.obj, limit_s - BEFORE_S)
    return (yield)


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Fails when a process that a test has started lives on at the end."""
    adopt_orphans()
    yield
    deadline = time.monotonic() + LEFT_S
    while (left := left_behind()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


@pytest.fixture(autouse=True)
def fresh_politeness() -> None:
    """Whom an earlier test was to leave alone is forgotten: ports come again."""
    politeness_of.cache_clear()


Filling: TypeAlias = Callable[[Brotr], Awaitable[Any]]  # what many tests find in their databases


class Databases:
    """Makes databases on one server, and drops them at the end of a test."""

    def __init__(self, url: str, server: EmbeddedPostgres | None = None) -> None:
        self.url = url
        self.server = server  # None: another one, named by the environment
        self.filled: dict[tuple[Profile, Filling], Any] = {}  # what a filling has returned
        self._templates: dict[Profile | tuple[Profile, Filling], str] = {}
        self._made = 0

    def dsn(self, database: str) -> str:
        return urlsplit(self.url)._replace(path=f"/{database}").geturl()

    async def execute(self, query: str) -> None:
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(query)
        finally:
            await connection.close()

    async def create(self, template: Profile | None) -> str:
        """The name of a new database: of a profile, or an empty one."""
        if template is not None and template not in self._templates:
            # In the cache before it is whole: a failed migration fails every test in its own words.
            name = await self.create(None)
            self._templates[template] = name
            await self.prepare(name, template)
        self._made += 1
        name = f"bigbrotr_test_{os.getpid()}_{self._made}"
        source = "template0" if template is None else self._templates[template]
        await self.make(name, source)
        return name

    async def create_filled(self, template: Profile, filling: Filling) -> str:
        """The name of a new database of a profile, filled: that is done once, and copied."""
        key = template, filling
        if key not in self._templates:
            name = await self.create(template)
            await self._fill(name, key)
            self._templates[key] = name
        self._made += 1
        name = f"bigbrotr_test_{os.getpid()}_{self._made}"
        await self.make(name, self._templates[key])
        return name

    async def create_on_one_server(self, template: Profile) -> str:
        """The name of a new database of a profile that is not distributed."""
        return await self.create(template)

    async def _fill(self, name: str, key: tuple[Profile, Filling]) -> None:
        async with Brotr(Pool(dsn=self.dsn(name))) as brotr:
            self.filled[key] = await key[1](brotr)

    async def prepare(self, name: str, profile: Profile) -> None:
        """Makes the schema in an empty database."""
        connection = await asyncpg.connect(self.dsn(name))
        try:
            await Schema().migrate(connection, profile, int(time.time()))
        finally:
            await connection.close()

    async def make(self, name: str, source: str) -> None:
        """Makes a database as a copy of another."""
        await self.execute(f"CREATE DATABASE {name} TEMPLATE {source} STRATEGY FILE_COPY")

    async def drop(self, name: str) -> None:
        await self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    async def drop_templates(self) -> None:
        for name in self._templates.values():
            await self.drop(name)


def roomy_memory() -> Path | None:
    """A folder in memory, if there is much of it: a database is hundreds of files, which are made
    and removed for each test, there in a tenth of the time. None: wherever temporary files are."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
        if min(free, shutil.disk_usage(MEMORY).free) >= ROOM:
            return MEMORY
    return None


class ClusterDatabases(Databases):
    """Makes databases that are distributed over a cluster; an empty one is the coordinator's."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._places: list[tuple[str, int]] = []  # of all nodes, the coordinator first
        self._everywhere: set[str] = set()  # databases

    async def _on_nodes(
        self, *queries: str, database: str | None = None, only_workers: bool = False
    ) -> None:
        if not self._places:
            connection = await asyncpg.connect(self.url)
            try:
                rows = await connection.fetch(
                    "SELECT nodename, nodeport FROM pg_dist_node ORDER BY groupid"
                )
            finally:
                await connection.close()
            self._places = [(row["nodename"], row["nodeport"]) for row in rows]

        async def on(place: tuple[str, int]) -> None:
            user = urlsplit(self.url).username
            base = urlsplit(self.url).path[1:]
            connection = await asyncpg.connect(
                host=place[0], port=place[1], user=user, database=database or base
            )
            try:
                if database is None:
                    # Each node for itself: otherwise they wait for one another.
                    await connection.execute("SET citus.enable_create_database_propagation = off")
                    await connection.execute("SET citus.enable_ddl_propagation = off")
                for query in queries:
                    await connection.execute(query)
            finally:
                await connection.close()

        await asyncio.gather(*map(on, self._places[only_workers:]))

    async def make(self, name: str, source: str) -> None:
        if source == "template0":
            await super().make(name, source)
        else:
            await self._copy(name, source)

    async def _copy(self, name: str, source: str) -> None:
        self._everywhere.add(name)
        await self._on_nodes(
            f"CREATE DATABASE {name} TEMPLATE {source} STRATEGY FILE_COPY",
            # As `db distribute` has it: otherwise each connection takes a second.
            f"ALTER DATABASE {name} SET citus.override_table_visibility = off",
        )
        # This, too.
        await self._on_nodes(
            f"ALTER DATABASE {name} SET search_path = pg_catalog", only_workers=True
        )

    async def create_filled(self, template: Profile, filling: Filling) -> str:
        """Fills each anew: Citus is at work in all of them, and nobody may be in what is copied."""
        name = await self.create(template)
        await self._fill(name, (template, filling))
        return name

    async def create_on_one_server(self, template: Profile) -> str:
        """Makes it on the coordinator, and Citus knows nothing of it."""
        name = await self.create(None)
        await super().prepare(name, template)
        return name

    async def create_blank(self, *, workers: bool = True) -> str:
        """The name of a new database without a schema that knows Citus, and the workers."""
        self._made += 1
        name = f"bigbrotr_test_{os.getpid()}_{self._made}"
        await self._copy(name, "template0")
        await self._on_nodes("CREATE EXTENSION citus", database=name)
        # Shards are made and dropped in time.
        await self.execute(f"ALTER DATABASE {name} SET citus.shard_count = 4")
        connection = await asyncpg.connect(self.dsn(name))
        try:
            (host, port), *places = self._places
            await connection.fetchval("SELECT citus_set_coordinator_host($1, $2)", host, port)
            for place in places if workers else ():
                await connection.fetchval("SELECT citus_add_node($1, $2)", *place)
        finally:
            await connection.close()
        return name

    async def prepare(self, name: str, profile: Profile) -> None:
        blank = await self.create_blank()
        connection = await asyncpg.connect(self.dsn(blank))
        try:
            await Schema().migrate(connection, profile, int(time.time()))
            async for _ in Schema().distribute(connection):
                pass
        finally:
            await connection.close()
        # Nobody may be in a database that is copied, and Citus has a process there.
        await self._on_nodes(
            f"ALTER DATABASE {blank} ALLOW_CONNECTIONS false",
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            f" WHERE datname = '{blank}'",
        )
        self._templates[profile] = blank
        await super().drop(name)

    async def drop(self, name: str) -> None:
        if name in self._everywhere:
            # Citus comes back to where it was thrown out.
            await self._on_nodes(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            for last in (False, False, True):  # and takes a moment to go
                try:
                    await self._on_nodes(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
                except asyncpg.ObjectInUseError:
                    if last:
                        raise
                else:
                    return
        else:
            await super().drop(name)


@pytest.fixture(scope="session")
async def databases() -> AsyncIterator[Databases]:
    """The server of this session."""
    async with AsyncExitStack() as stack:
        if CLUSTER:
            cluster = ClusterDatabases(CLUSTER)
            yield cluster
            await cluster.drop_templates()
            return
        url = os.environ.get("TEST_DATABASE_URL")
        server = None
        if not url:
            # Not below pytest's own directory: another session of pytest would close that to the
            # user that PostgreSQL runs as.
            directory = TemporaryDirectory(prefix="bigbrotr-test-", dir=roomy_memory())
            place = stack.enter_context(directory)
            server = EmbeddedPostgres(Path(place) / "data")
            await stack.enter_async_context(server)
            (server.cluster / "postgresql.user.conf").write_text(FAST)
            url = server.url
            access = server.cluster / "pg_hba.conf"
            access.write_text(f"local all {LOGIN} scram-sha-256\n{access.read_text()}")
            await Databases(url).execute("SELECT pg_reload_conf()")
        made = Databases(url, server)
        yield made
        await made.drop_templates()


@pytest.fixture
async def make_database(
    databases: Databases,
) -> AsyncIterator[Callable[[Profile | None], Awaitable[str]]]:
    """Makes databases, of a profile or empty (None), and returns their addresses."""
    names: list[str] = []

    async def make(template: Profile | None, filling: Filling | None = None) -> str:
        if template is None or filling is None:
            names.append(await databases.create(template))
        else:
            names.append(await databases.create_filled(template, filling))
        return databases.dsn(names[-1])

    yield make
    for name in names:
        await databases.drop(name)


@pytest.fixture
def profile() -> Profile:
    """Which profile `dsn` and `brotr` are of: parametrize it to have another."""
    return Profile.FULL


@pytest.fixture
def filling() -> Filling | None:
    """What puts something into the database of this test, the same as for others: a module that has
    it takes the place of this fixture."""
    return None


@pytest.fixture
async def dsn(
    make_database: Callable[..., Awaitable[str]], profile: Profile, filling: Filling | None
) -> str:
    """The address of this test's own, migrated database; empty, where it has no filling."""
    return await make_database(profile, filling)


@pytest.fixture
def filled(dsn: str, databases: Databases, profile: Profile, filling: Filling) -> Any:
    """What the filling has returned."""
    assert dsn
    return databases.filled[profile, filling]


@pytest.fixture
async def brotr(dsn: str) -> AsyncIterator[Brotr]:
    """The database of this test, connected."""
    async with Brotr(Pool(settings=PoolSettings(limits=Limits(max_size=16)), dsn=dsn)) as brotr:
        yield brotr


@pytest.fixture
def old_server() -> Iterator[str]:
    """The address of a database without anything in it, on the system's own, older PostgreSQL."""
    found = sorted(Path("/usr/lib/postgresql").glob("1[56]/bin/pg_ctl"))
    if not found:
        pytest.skip("no PostgreSQL 15 or 16 (Debian: postgresql)")
    with TemporaryDirectory(prefix="bigbrotr-old-") as place:
        account = account_of(Path(place))
        os.chown(place, account.uid, account.gid)

        def control(*words: str) -> None:
            command = [str(found[-1]), "-D", f"{place}/data", "-s", *words]
            null = subprocess.DEVNULL
            subprocess.run(command, check=True, cwd="/", stdout=null, **account.dropping)

        control("init", "-o", "-U bigbrotr -A trust -E UTF8 --locale=C --no-sync")
        settings = f"-c listen_addresses= -c fsync=off -c unix_socket_directories={place}"
        control("start", "-w", "-l", f"{place}/log", "-o", settings)
        try:
            yield f"postgresql://bigbrotr@/postgres?host={place}"
        finally:
            control("stop", "-m", "fast")


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    """Starts commands on terminals, and ends them with the test."""
    opened: list[Terminal] = []

    def start(*words: str, cwd: Path | str, **env: str) -> Terminal:
        opened.append(Terminal(*words, cwd=cwd, **env))
        return opened[-1]

    yield start
    for each in opened:
        each.close()
