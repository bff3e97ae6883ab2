"""Relays that others wrote, started for a test: nostr-sdk's LocalRelay and the nostr-relay package.

What they cannot do, as of nostr-sdk 0.45.1 and nostr-relay 1.14:

- LocalRelay never hands out more than 500 events for a filter, whatever its builder is told; less
  is possible. It closes a connection after 6,000 messages. It keeps events in memory: a database
  given from Python is called back on threads without an event loop, and then no EVENT is ever
  answered. It takes ephemeral events without keeping them, keeps only the newest of replaceable
  events, and obeys deletions.
- nostr-relay takes `until` for the first second that is *not* wanted, gives nothing at all for a
  filter without any condition (`{"limit": 10}`), does not order the events of one second by id,
  and takes `limit: 0` for no limit. It knows nothing of NIP-45, 67 and 77, answers a refused
  filter with a NOTICE or a bare EOSE, and an OK for a refused event names no id. It deletes
  ephemeral and expired events only every five minutes, and takes events of any age here. Of its
  three servers, gunicorn and uvicorn work; "purple" needs an older websockets.
"""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import anyio
import nostr_sdk
from websockets.asyncio.client import connect

START_S = 30.0
STOP_S = 10.0
WINDOW = 100  # events on the way to a relay without an OK yet
BATCH = 5000  # events per connection

CONFIG = """
DEBUG: false
relay_name: a relay to test against
storage:
  sqlalchemy.url: sqlite+aiosqlite:///{folder}/nostr.sqlite3
  validators: [nostr_relay.validators.is_signed]
verification: {{nip05_verification: disabled}}
authentication: {{enabled: false}}
gunicorn: {{bind: "127.0.0.1:{port}", workers: 1, loglevel: warning}}
max_limit: {max_limit}
subscription_limit: 200
max_event_size: 1000000
hellthread_limit: 0
"""


@asynccontextmanager
async def local_relay(
    events: Iterable[Mapping[str, Any]] = (), *, max_limit: int = 500
) -> AsyncIterator[str]:
    """The URL of nostr-sdk's relay while it runs."""
    builder = nostr_sdk.LocalRelayBuilder().addr("127.0.0.1").port(free_port())
    builder = builder.rate_limit(nostr_sdk.RateLimit(max_reqs=1000, notes_per_minute=10_000_000))
    builder = builder.max_filter_limit(max_limit).default_filter_limit(max_limit)
    relay = builder.build()
    await relay.run()
    try:
        url = str(await relay.url()).rstrip("/")
        await fill(url, events)
        yield url
    finally:
        relay.shutdown()


@asynccontextmanager
async def nostr_relay(
    folder: Path, events: Iterable[Mapping[str, Any]] = (), *, max_limit: int = 100_000
) -> AsyncIterator[str]:
    """The URL of the nostr-relay package's relay while it runs, with an sqlite file in `folder`."""
    port = free_port()
    config = folder / "config.yaml"
    config.write_text(CONFIG.format(folder=folder, port=port, max_limit=max_limit))
    script = Path(sys.executable).parent / "nostr-relay"
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(str(script), "-c", str(config), "serve"),
            cwd=folder,
            stdout=log,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # its workers end with it
        )
    try:
        await listening(port, process, folder / "log")
        url = f"ws://127.0.0.1:{port}"
        await fill(url, events)
        yield url
    finally:
        await stop(process)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def listening(port: int, process: asyncio.subprocess.Process, log: Path) -> None:
    """Return once something accepts connections on the port."""
    with anyio.move_on_after(START_S):
        while process.returncode is None:
            try:
                stream = await anyio.connect_tcp("127.0.0.1", port)
            except OSError:
                await anyio.sleep(0.05)
            else:
                await stream.aclose()
                return
    raise RuntimeError(f"nostr-relay did not start:\n{await anyio.Path(log).read_text()}")


async def stop(process: asyncio.subprocess.Process) -> None:
    """End a process of ours and its children."""
    if process.returncode is None:
        process.terminate()
        with anyio.move_on_after(STOP_S):
            await process.wait()
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def fill(url: str, events: Iterable[Mapping[str, Any]]) -> None:
    """Give events to a relay; RuntimeError unless it takes every one."""
    rest = iter(events)
    while batch := list(islice(rest, BATCH)):
        async with connect(url, compression=None, max_size=None) as client:
            due = 0
            for event in batch:
                await client.send(json.dumps(["EVENT", event]))
                due += 1
                while due >= WINDOW:
                    due -= is_accepted(await client.recv())
            while due:
                due -= is_accepted(await client.recv())


def is_accepted(frame: str | bytes) -> bool:
    """Whether this is an OK; RuntimeError for one that says no."""
    verb, *rest = json.loads(frame)
    if verb != "OK":
        return False
    if not rest[1] and not str(rest[2]).startswith("duplicate:"):
        raise RuntimeError(f"the relay refused an event: {rest}")
    return True
