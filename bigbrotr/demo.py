"""The demo: a small Nostr network on loopback, and the real pipeline at work on it."""

import asyncio
import random
import shlex
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import nostr_sdk
from rich.console import Console

from bigbrotr.config.settings import Config, Link, LogSettings, Networks, Profile, SeederSettings
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.pool import Pool
from bigbrotr.embedded.server import EmbeddedPostgres, running
from bigbrotr.errors import BusyError, ConfigError
from bigbrotr.models.event import Event
from bigbrotr.models.keys import Keys
from bigbrotr.models.relay import Relay
from bigbrotr.net.connect import Unreached
from bigbrotr.net.dial import dial
from bigbrotr.net.frames import one_by_one
from bigbrotr.nostr import message
from bigbrotr.reads import status
from bigbrotr.supervisor import Supervisor
from bigbrotr.view import archive

RELAYS = 4
AUTHORS = 40
EVENTS = 4000
DAYS = 90  # over which they are spread: each day is counted by itself
MARK = "this folder belongs to bigbrotr demo, which empties it at each start\n"
WORDS = [
    *("relay", "archive", "signal", "morning", "coffee", "zap", "bitcoin", "garden", "river"),
    *("protocol", "gossip", "client", "key", "cipher", "quiet", "lantern", "market", "train"),
    *("window", "paper", "orbit", "stone", "bridge", "harbour", "letter", "north"),
]
UNLIMITED = 1_000_000

Supervise = Callable[..., Awaitable[int]]


async def run(data_dir: Path, supervise: Supervise, log: LogSettings, program: str) -> int:
    """Archives the demo's network into `data_dir`, which is made anew, and says what came of it.

    `supervise` runs a supervisor as `bigbrotr run` does. `program` is what is typed to start us.

    Raises:
        ConfigError: `data_dir` holds something else.
    """
    started = time.monotonic()
    console = Console(stderr=True)
    make_folder(data_dir)
    console.print(f"making {EVENTS:,} signed events by {AUTHORS} authors", highlight=False)
    events = await asyncio.to_thread(make_events, random.Random(1))
    async with network(events, console) as urls:
        seeds = data_dir / "seeds.txt"
        lines = ["# the relays of the last demo", *urls]
        seeds.write_text("\n".join(lines) + "\n", "utf-8")
        config = Config(
            networks=Networks(clearnet=Link(enabled=False), local=Link(timeout_s=5.0)),
            seeder=SeederSettings(file=str(seeds)),
            log=log,
        )
        await supervise(Supervisor(config, Profile.FULL, data_dir), config, is_once=True)
    await report(data_dir, config, console, time.monotonic() - started, program)
    return 0


def make_folder(data_dir: Path) -> None:
    """Makes the folder, or empties that of an earlier demo."""
    mark = data_dir / "demo.txt"
    if data_dir.exists() and any(data_dir.iterdir()):
        if not mark.is_file() or mark.read_bytes() != MARK.encode():
            raise ConfigError(f"{data_dir} holds something else: choose another --data-dir")
        if running(data_dir) is not None:
            raise BusyError(f"{data_dir} is in use by another demo")
        for entry in data_dir.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    data_dir.mkdir(parents=True, exist_ok=True)
    mark.write_bytes(MARK.encode())


# The network


def make_events(chance: random.Random) -> list[Event]:
    """Signed events of the usual kinds, most of them new."""
    now = int(time.time()) - 86400
    authors = [Keys.generate() for _ in range(AUTHORS)]
    events: list[Event] = []
    ids: list[str] = []
    for _ in range(EVENTS):
        author = chance.choice(authors)
        created_at = now - int(chance.triangular(0, DAYS * 86400, 0))
        kind, content, tags = make_content(chance, authors, ids)
        event = Event.from_json(author.sign_event(kind, content, tags, created_at))
        events.append(event)
        ids.append(event.id.hex())
    return events


def make_content(
    chance: random.Random, authors: Sequence[Keys], ids: Sequence[str]
) -> tuple[int, str, list[list[str]]]:
    """Kind, content and tags of one event: notes, replies, reactions, profiles, follow lists."""
    words = " ".join(chance.choices(WORDS, k=chance.randint(3, 40)))
    draw = chance.random()
    if draw < 0.05:
        return 0, f'{{"name":"{chance.choice(WORDS)}","about":"{words}"}}', []
    if draw < 0.08:
        follows = chance.sample(authors, k=chance.randint(5, 25))
        return 3, "", [["p", followed.public_key] for followed in follows]
    if draw < 0.35 and ids:
        return 7, "+", [["e", chance.choice(ids)], ["p", chance.choice(authors).public_key]]
    if draw < 0.55 and ids:
        return 1, words, [["e", chance.choice(ids), "", "reply"]]
    return 1, words, [["t", chance.choice(WORDS)]]


@asynccontextmanager
async def network(events: Sequence[Event], console: Console) -> AsyncIterator[list[str]]:
    """Relays on loopback that hold the events between them; yields their URLs."""
    chance = random.Random(2)
    relays = []
    urls = []
    try:
        for _ in range(RELAYS):
            builder = nostr_sdk.LocalRelayBuilder().addr("127.0.0.1")
            limit = nostr_sdk.RateLimit(max_reqs=UNLIMITED, notes_per_minute=UNLIMITED)
            relay = builder.rate_limit(limit).build()
            await relay.run()
            relays.append(relay)
            urls.append(str(await relay.url()))
        shares: list[list[Event]] = [[] for _ in relays]
        for event in events:
            for index in chance.sample(range(RELAYS), k=chance.randint(1, RELAYS)):
                shares[index].append(event)
        for url, share in zip(urls, shares, strict=True):
            taken = await fill(url, share)
            console.print(f"  {url} took {taken:,} of them", highlight=False)
        yield urls
    finally:
        for relay in relays:
            relay.shutdown()


async def fill(url: str, events: Sequence[Event]) -> int:
    """Publishes events to a relay; returns how many it took (not older versions of a profile)."""
    stream = await dial(Relay(url), Link(), max_frame_bytes=1 << 20, allow_local=True)
    if isinstance(stream, Unreached):
        raise ConnectionError(f"{url}: {stream.detail}")
    answers: list[message.Ok] = []

    async def offer() -> None:
        for event in events:
            await stream.send(message.publish(event))

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(offer)
            while len(answers) < len(events):
                async with asyncio.timeout(30):
                    received = map(message.decode, one_by_one(await stream.receive()))
                answers += [answer for answer in received if isinstance(answer, message.Ok)]
    finally:
        stream.abort()
    return sum(answer.is_accepted for answer in answers)


# What came of it


async def report(
    data_dir: Path, config: Config, console: Console, elapsed_s: float, program: str
) -> None:
    """Says what was archived, and how to look at it."""
    server = EmbeddedPostgres(data_dir)
    async with server, Brotr(Pool(config.database, config.pool, dsn=server.url)) as brotr:
        every_s = config.monitor.check_every_s
        found = await status.status(brotr, every_s)
        console.print()
        words = f"Archived in {elapsed_s:.0f} s into {data_dir}"
        archive.print_status(found, words, status.ROUND * every_s)
        shared = found.pairs / max(found.events, 1)
        console.print(
            f"Each event is kept once; it was found on {shared:.1f} relays on average, and each "
            "of these pairs is known.\nHave a look:",
            highlight=False,
        )
        for command in (
            f"{program} status --data-dir {shlex.quote(str(data_dir))}",
            f"{program} db psql --data-dir {shlex.quote(str(data_dir))}",
            "    SELECT kind, count(*) FROM events GROUP BY kind ORDER BY 2 DESC;",
            "    SELECT relay_url, count(*) FROM events_relays GROUP BY 1;",
        ):
            console.print(f"  {command}", highlight=False, markup=False, soft_wrap=True)
