"""The command `doctor`: looks for what keeps an archive from working, and says what to do."""

import asyncio
import ctypes
import os
import resource
import shutil
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import anyio
import asyncpg
from rich.console import Console
from rich.text import Text

from bigbrotr.cli.output import pasteable, shown
from bigbrotr.cli.place import GLANCE, Place
from bigbrotr.config.settings import Config
from bigbrotr.config.shipped import shipped
from bigbrotr.core.defects import refusal
from bigbrotr.core.identity import identity
from bigbrotr.core.pool import Pool
from bigbrotr.core.schema import Schema, check_server, read_ledger
from bigbrotr.embedded import server as embedded
from bigbrotr.embedded.server import EmbeddedPostgres, binary
from bigbrotr.errors import BigBrotrError
from bigbrotr.models import signatures
from bigbrotr.models.relay import Network, Relay
from bigbrotr.net.connect import Unreached
from bigbrotr.net.dial import dial
from bigbrotr.serve.ask import ask, at
from bigbrotr.services.seeder import read_seeds, usable_relays
from bigbrotr.supervisor import choose

LITTLE_ROOM = 5 << 30  # bytes: as the alert rule has it
NO_ROOM = 512 << 20
TRIED_RELAYS = 8  # of each network; one that answers is enough
FRAME_BYTES = 1 << 20
OWN_DESCRIPTORS = 200  # files, connections to the database, processes
UNSYNCHRONISED = 5  # TIME_ERROR of adjtimex(2)
TIMEX_BYTES = 512  # more than its struct has
RELEASED_AT = 1_767_225_600  # 2026-01-01: no clock is right that is before


class Finding(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Diagnosis(NamedTuple):
    """What was looked at, how it is, and, where it is not well, what to do."""

    finding: Finding
    what: str
    words: str


async def examine(there: Place) -> int:
    """Prints each check as it is done; 1 if any has failed."""
    console = Console()
    colours = {Finding.OK: "green", Finding.WARN: "yellow", Finding.FAIL: "bold red"}
    failed = 0
    async for finding, what, words in checks(there):
        failed += finding is Finding.FAIL
        line = Text(f"{finding:<5}", style=colours[finding])
        line.append(f"{what:<14} {shown(pasteable(words))}", style="default")
        console.print(line, highlight=False, soft_wrap=True)
    return 1 if failed else 0


async def checks(there: Place) -> AsyncIterator[Diagnosis]:
    """Each check, as it is done."""
    yield clock(time.time(), _is_synchronised())
    if there.config.database.is_embedded:
        yield room(there.data_dir)
    yield descriptors(there.config, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    yield settings(there.config)
    yield verification(signatures.here.uses_batches)
    yield await database(there)
    yield await web(there)
    for network, link in there.config.networks.enabled():
        if link.proxy is not None:
            yield await proxy(network, link.proxy)
    async for check in reach(there.config):
        yield check


def clock(now: float, is_synchronised: bool | None) -> Diagnosis:
    """Whether the clock can be right: what is proven is dated by it."""
    told = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    if now < RELEASED_AT:
        return Diagnosis(Finding.FAIL, "clock", f"it says {told}, which is long ago: set it")
    if is_synchronised is False:
        words = f"it says {told}, and nothing keeps it: run chrony or systemd-timesyncd"
        return Diagnosis(Finding.WARN, "clock", words)
    known = "" if is_synchronised is None else ", and it is kept"
    return Diagnosis(Finding.OK, "clock", f"it says {told}{known}")


def _is_synchronised() -> bool | None:
    """What the kernel says of its clock; None where it does not."""
    if sys.platform != "linux":
        return None
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else bool(state != UNSYNCHRONISED)


def room(data_dir: Path) -> Diagnosis:
    """Whether the disk has room for the embedded database."""
    try:
        place = next(each for each in (data_dir, *data_dir.parents) if each.exists())
        free = shutil.disk_usage(place).free
    except OSError as error:
        return Diagnosis(Finding.FAIL, "disk", f"cannot look at {data_dir}: {error.strerror}")
    words = f"{free / 1e9:,.1f} GB are free for {data_dir}"
    if not os.access(place, os.W_OK):
        words = f"{place} cannot be written to: choose another --data-dir"
        return Diagnosis(Finding.FAIL, "disk", words)
    if free < NO_ROOM:
        words += ": no space left for an archive; make room, or choose another --data-dir"
        return Diagnosis(Finding.FAIL, "disk", words)
    if free < LITTLE_ROOM:
        words += ": not enough for long; make room, or narrow [synchronizer.filter]"
        return Diagnosis(Finding.WARN, "disk", words)
    return Diagnosis(Finding.OK, "disk", words)


def descriptors(config: Config, limit: int) -> Diagnosis:
    """Whether there may be as many connections as the settings want."""
    widths = sum(link.width for _, link in config.networks.enabled())
    wanted = OWN_DESCRIPTORS + 2 * widths + config.synchronizer.live_relays
    if limit != resource.RLIM_INFINITY and limit < wanted:
        words = (
            f"{limit:,} files and connections are allowed, {wanted:,} may be wanted: "
            f"ulimit -n {wanted}, or a smaller width or live_relays"
        )
        return Diagnosis(Finding.WARN, "descriptors", words)
    told = "any number" if limit == resource.RLIM_INFINITY else f"{limit:,}"
    return Diagnosis(Finding.OK, "descriptors", f"{told} allowed, {wanted:,} may be wanted")


def settings(config: Config) -> Diagnosis:
    """Whether the services could begin: files that are named, and keys."""
    try:
        names = choose(config, None)
    except BigBrotrError as error:
        return Diagnosis(Finding.FAIL, "settings", "; ".join(str(error).splitlines()))
    return Diagnosis(Finding.OK, "settings", f"services: {', '.join(names)}")


def verification(uses_batches: bool) -> Diagnosis:
    """How events are read and their signatures verified: both ways are right."""
    if uses_batches:
        return Diagnosis(Finding.OK, "signatures", "verified in batches")
    words = "verified one by one, which costs three times as much: bigbrotr-native is not installed"
    return Diagnosis(Finding.OK, "signatures", words)


async def database(there: Place) -> Diagnosis:
    """Whether the database can be worked with; an embedded one that does not run is left alone."""
    config = there.config.database
    dsn = None
    try:
        if config.is_embedded:
            binary("postgres")
            postgres = EmbeddedPostgres(there.data_dir)
            if not postgres.cluster.exists():
                words = f"none in {there.data_dir} yet: `bigbrotr run` makes it"
                return Diagnosis(Finding.OK, "database", words)
            if embedded.running(postgres.data_dir) is None:
                words = f"{there.profile}, not running: `bigbrotr run` starts it"
                return Diagnosis(Finding.OK, "database", words)
            dsn = postgres.url
        async with Pool(config, GLANCE, dsn=dsn) as pool, pool.acquire() as connection:
            await check_server(connection)
            ledger = await read_ledger(connection)
            if ledger is None:
                words = f"{there}: empty; `bigbrotr run` or `bigbrotr db migrate` makes the schema"
                return Diagnosis(Finding.OK, "database", words)
            await Schema().check(connection, ledger.profile)
    except (BigBrotrError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        ours = refusal(error)
        return Diagnosis(Finding.FAIL, "database", str(ours or error).splitlines()[0])
    if ledger.revision < Schema().revision:
        words = f"of revision {ledger.revision}, older than this release: `bigbrotr db migrate`"
        return Diagnosis(Finding.WARN, "database", words)
    words = f"{there}: {ledger.profile}, revision {ledger.revision}"
    return Diagnosis(Finding.OK, "database", words)


async def web(there: Place) -> Diagnosis:
    """Whether the address for health and metrics is free, or ours."""
    if not there.config.web.listen:
        words = 'nothing is served: [web] listen = "127.0.0.1:9464" serves health and metrics'
        return Diagnosis(Finding.OK, "web", words)
    host, port = there.config.web.address()
    name = identity(there.config.database, there.data_dir)
    is_well, words = await anyio.to_thread.run_sync(
        lambda: ask(host, port, "/readyz", identity=name)
    )
    place = at(host, port)
    if is_well:
        return Diagnosis(Finding.OK, "web", f"this archive runs and is well, says {place}")
    if words.startswith("nobody answers"):
        return Diagnosis(Finding.OK, "web", f"{place} is free")
    return Diagnosis(Finding.FAIL, "web", words)


async def proxy(network: Network, url: str) -> Diagnosis:
    """Whether somebody listens where a proxy should be."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 0
    what = f"proxy {network}"
    try:
        async with asyncio.timeout(5):
            _, writer = await asyncio.open_connection(host, port)
        writer.close()
    except (OSError, TimeoutError) as error:
        reason = getattr(error, "strerror", None) or "no answer"
        words = (
            f"nobody listens at {at(host, port)} ({reason}): start it, or change "
            f"[networks.{network}] proxy, or enabled = false"
        )
        return Diagnosis(Finding.FAIL, what, words)
    return Diagnosis(Finding.OK, what, f"somebody listens at {at(host, port)}")


async def reach(config: Config) -> AsyncIterator[Diagnosis]:
    """Whether names can be resolved and relays reached, by a few of the seeds of each network."""
    try:
        file = config.seeder.file
        path = Path(file) if file else shipped("configs") / "seeds.txt"
        relays = usable_relays((await read_seeds(path))[0], config.networks)
    except BigBrotrError as error:
        yield Diagnosis(Finding.WARN, "reach", f"no relay to try: {error}")
        return
    for network, link in config.networks.enabled():
        some = [relay for relay in relays if relay.network is network][:TRIED_RELAYS]
        if not some:
            continue
        if network is Network.CLEARNET and (check := await names(some)) is not None:
            yield check
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(dial(relay, link, max_frame_bytes=FRAME_BYTES, allow_local=True))
                for relay in some
            ]
        reached, reasons = 0, []
        for relay, task in zip(some, tasks, strict=True):
            result = task.result()
            if isinstance(result, Unreached):
                reasons.append(f"{relay.url}: {result.failure} ({result.detail})")
            else:
                reached += 1
                result.abort()
        what = f"reach {network}"
        if reached:
            yield Diagnosis(Finding.OK, what, f"{reached} of {len(some)} seeds answer")
        else:
            yield Diagnosis(
                Finding.FAIL,
                what,
                f"none of {len(some)} seeds answers: is this machine online, and does a firewall "
                f"let it out? {reasons[0]}",
            )


async def names(relays: list[Relay]) -> Diagnosis | None:
    """Whether the resolver knows one of the hosts; None: all of them are addresses."""
    hosts = [relay.host for relay in relays if not relay.host.replace(".", "").isdigit()]
    hosts = [host for host in hosts if ":" not in host]
    reason = ""
    running = asyncio.get_running_loop()
    for host in hosts:
        try:
            async with asyncio.timeout(5):
                await running.getaddrinfo(host, 443)
        except TimeoutError:
            reason = f"no answer about {host}"
        except OSError as error:
            reason = f"{host}: {error.strerror or error}"
        else:
            return Diagnosis(Finding.OK, "dns", f"{host} has an address")
    if not hosts:
        return None
    words = f"no name can be resolved ({reason}): look at /etc/resolv.conf, and whether it is up"
    return Diagnosis(Finding.FAIL, "dns", words)
