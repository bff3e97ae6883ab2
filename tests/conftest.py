"""What every test may ask for: the event loop that we ship, and databases on real PostgreSQL.

`TEST_DATABASE_URL` names another server, by a role that may create databases; else one embedded
server runs for the whole session.
"""

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import hypothesis
import pytest

from bigbrotr.config.settings import Limits, PoolSettings, Profile
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.pool import Pool
from bigbrotr.core.schema import Schema
from bigbrotr.embedded.server import EmbeddedPostgres
from bigbrotr.net.politeness import politeness_of
from tests.kit.processes import adopt_orphans, left_behind

# The same examples each time: a failure is the change's, not the day's.
# HYPOTHESIS_PROFILE=explore looks at others.
hypothesis.settings.register_profile("steady", derandomize=True, deadline=None)
hypothesis.settings.register_profile("explore", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))

LOGIN = "bigbrotr_test_login"  # a role that has to give a password
LEFT_S = 20.0  # what was told to end may take this long
SERVICES = Path(__file__).parent / "services"
PROGRAM = {
    "test_cli.py",
    "test_doctor.py",
    "test_metrics.py",
    "test_upgrade.py",
    "test_refusals.py",
}
FAST = "fsync = off\nsynchronous_commit = off\nfull_page_writes = off\nautovacuum = off\n"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks as slow, besides those that say so themselves, the tests of whole services and of the
    program: each starts something."""
    for item in items:
        if item.path.is_relative_to(SERVICES) or item.path.name in PROGRAM:
            item.add_marker(pytest.mark.slow)


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


class Databases:
    """Makes databases on one server, and drops them at the end of a test."""

    def __init__(self, url: str, server: EmbeddedPostgres | None = None) -> None:
        self.url = url
        self.server = server  # None: another one, named by the environment
        self._templates: dict[Profile, str] = {}
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
            connection = await asyncpg.connect(self.dsn(name))
            try:
                await Schema().migrate(connection, template, int(time.time()))
            finally:
                await connection.close()
        self._made += 1
        name = f"bigbrotr_test_{os.getpid()}_{self._made}"
        source = "template0" if template is None else self._templates[template]
        await self.execute(f"CREATE DATABASE {name} TEMPLATE {source} STRATEGY FILE_COPY")
        return name

    async def drop(self, name: str) -> None:
        await self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    async def drop_templates(self) -> None:
        for name in self._templates.values():
            await self.drop(name)


@pytest.fixture(scope="session")
async def databases() -> AsyncIterator[Databases]:
    """The server of this session."""
    async with AsyncExitStack() as stack:
        url = os.environ.get("TEST_DATABASE_URL")
        server = None
        if not url:
            # Not below pytest's own directory: another session of pytest would close that to the
            # user that PostgreSQL runs as.
            place = stack.enter_context(TemporaryDirectory(prefix="bigbrotr-test-"))
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

    async def make(template: Profile | None) -> str:
        names.append(await databases.create(template))
        return databases.dsn(names[-1])

    yield make
    for name in names:
        await databases.drop(name)


@pytest.fixture
def profile() -> Profile:
    """Which profile `dsn` and `brotr` are of: parametrize it to have another."""
    return Profile.FULL


@pytest.fixture
async def dsn(make_database: Callable[[Profile | None], Awaitable[str]], profile: Profile) -> str:
    """The address of this test's own, migrated and empty database."""
    return await make_database(profile)


@pytest.fixture
async def brotr(dsn: str) -> AsyncIterator[Brotr]:
    """The database of this test, connected."""
    async with Brotr(Pool(settings=PoolSettings(limits=Limits(max_size=16)), dsn=dsn)) as brotr:
        yield brotr
