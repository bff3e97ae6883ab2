"""The relay under load, while events come: many wait, some ask all the time, nobody misses any."""

import asyncio
import itertools
import random
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg
import msgspec

from bigbrotr.config.settings import Profile
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.metrics import memory_of
from bigbrotr.core.pool import Pool
from bigbrotr.core.schema import Schema
from bigbrotr.models.event import Event, EventRelay
from tests.bench import corpus
from tests.bench.relay_serve import HOLDER, LIMITS, Wire
from tests.bench.stage import Stage
from tests.kit.processes import until
from tests.kit.served import serving

IDLE = 2000  # wait for an author who does not write
BUSY = 200  # ask again as soon as they are answered
WATCHERS = 20  # wait for all that comes, and count it
BATCH = 50  # events that are stored at once, as the synchronizer stores a page
PAUSE_S = 0.1  # between them
GROWTH = 1.2  # of the memory, from the middle to the end: more is a leak
PATIENCE_S = 60.0  # for the last event, once all is stored


class Load:
    """What has happened so far."""

    def __init__(self, until_at: int) -> None:
        self.answers = 0
        self.is_over = False
        self.memory: list[int] = []
        self.until_at = until_at


async def measure(on: Stage, events: int) -> None:
    """Prints what became of it; raises SystemExit if an event was lost or memory grew."""
    address = await on.new_database()
    connection = await asyncpg.connect(address)
    await Schema().migrate(connection, Profile.FULL, int(time.time()))
    await connection.close()
    found = [Event.from_json(body) for _, body in corpus.build(events)]
    random.Random(1).shuffle(found)
    before, after = found[: events // 2], found[events // 2 :]
    async with Brotr(Pool(dsn=address)) as brotr:
        await brotr.insert_relays([HOLDER])
        for start in range(0, len(before), 500):
            await brotr.insert_events(
                [EventRelay(event, HOLDER, 1) for event in before[start : start + 500]]
            )
        await brotr.pool.execute("ANALYZE")
        with TemporaryDirectory() as folder:
            async with serving(Path(folder) / "place", address, limits=LIMITS) as (running, api):
                url = api.removesuffix("/api/v1")
                await _load(
                    url, running.process.pid, brotr, after, max(e.created_at for e in found)
                )


async def _load(url: str, pid: int, brotr: Brotr, after: list[Event], newest: int) -> None:
    load = Load(newest)
    idle = [await _subscribed(url, {"authors": [f"{n:064x}"]}) for n in range(IDLE)]
    watchers = [await _subscribed(url, {"since": 1}) for _ in range(WATCHERS)]
    told: list[dict[str, int]] = [{} for _ in watchers]
    watching = [
        asyncio.create_task(_watch(client, seen))
        for client, seen in zip(watchers, told, strict=True)
    ]
    busy = [asyncio.create_task(_ask(url, load, number)) for number in range(BUSY)]
    began = time.perf_counter()
    for start in range(0, len(after), BATCH):
        await brotr.insert_events(
            [EventRelay(event, HOLDER, 1) for event in after[start : start + BATCH]]
        )
        load.memory.append(memory_of([pid]))
        await asyncio.sleep(PAUSE_S)
    took_s = time.perf_counter() - began
    wanted = {event.id.hex() for event in after}
    await until(lambda: all(seen.keys() >= wanted for seen in told), "the last event", PATIENCE_S)
    load.is_over = True
    await asyncio.gather(*busy)
    for task in watching:
        task.cancel()
    twice = sum(number > 1 for seen in told for number in seen.values())
    more = sum(len(seen.keys() - wanted) for seen in told)
    middle, end = load.memory[len(load.memory) // 2], load.memory[-1]
    print(
        f"  {len(after):,} events in {took_s:.0f} s to {WATCHERS} who want all, beside {IDLE:,} who"
        f" wait and {BUSY} who ask: none lost, {twice} came twice;"
        f" {load.answers / took_s:.0f} answers a second;"
        f" memory {middle / 1e6:.0f} MB in the middle, {end / 1e6:.0f} at the end",
        flush=True,
    )
    for client in (*idle, *watchers):
        client.close()
    if twice or more:
        raise SystemExit(f"{twice} events came twice, {more} that are not new came")
    if end > GROWTH * middle:
        raise SystemExit("the memory grows")


async def _subscribed(url: str, wanted: dict[str, object]) -> Wire:
    client = await Wire.open(url)
    client.say("REQ", "live", wanted | {"limit": 0})
    await client.hear()
    return client


async def _watch(client: Wire, seen: dict[str, int]) -> None:
    while True:
        event_id = msgspec.json.decode(await client.hear())[2]["id"]
        seen[event_id] = seen.get(event_id, 0) + 1


async def _ask(url: str, load: Load, number: int) -> None:
    chance = random.Random(number)
    client = await Wire.open(url)
    for name in map(str, itertools.count()):
        if load.is_over:
            break
        at = chance.randrange(load.until_at - 30 * 86_400, load.until_at)
        match chance.randrange(10):
            case 0:
                client.say("COUNT", name, {"kinds": [1], "until": at})
                await client.hear()
            case 1:
                client.say("NEG-OPEN", name, {}, "6100000200")
                await client.hear()
                client.say("NEG-CLOSE", name)
            case _:
                client.say("REQ", name, {"until": at, "limit": 20})
                while not (await client.hear()).startswith((b'["EOSE"', b'["CLOSED"')):
                    pass
                client.say("CLOSE", name)
        load.answers += 1
    client.close()
