"""The relay under load, while events come: many wait, some ask all the time, nobody misses any."""

import asyncio
import itertools
import random
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from bigbrotr.core.metrics import memory_of
from bigbrotr.models.event import Event
from tests.bench import corpus
from tests.bench.relay_serve import LIMITS, Wire
from tests.bench.stage import Archive, Stage
from tests.kit.processes import until
from tests.kit.served import serving

IDLE = 2000  # wait for an author who does not write
BUSY = 200  # ask again as soon as they are answered
WATCHERS = 20  # wait for all that comes, and count it
RELAYS = 20  # that are copied one after the other
PAUSE_S = 0.5  # between them
GROWTH = 1.2  # of the memory, from the middle to the end: more is a leak
PATIENCE_S = 60.0  # for the last event, once all is stored


class Load:
    """What has happened so far."""

    def __init__(self, until_at: int, pid: int) -> None:
        self.answers = 0
        self.is_over = False
        self.memory: list[int] = []
        self.until_at = until_at
        self.pid = pid  # of who serves


async def measure(on: Stage, events: int) -> None:
    """Prints what became of it; raises SystemExit if an event was lost or memory grew."""
    data = corpus.build(events)
    random.Random(1).shuffle(data)
    before, after = data[: events // 2], data[events // 2 :]
    async with on.archive() as archive, on.relays(after, RELAYS, shared=0.0) as urls:
        await on.store(archive, before)
        with TemporaryDirectory() as folder:
            dsn = archive.brotr.pool.address
            async with serving(Path(folder) / "place", dsn, limits=LIMITS) as (running, api):
                wanted = {Event.from_json(body).id.hex() for _, body in after}
                newest = max(at for at, _ in data)
                load = Load(newest, running.pid)
                await _load(api.removesuffix("/api/v1"), load, archive, urls, wanted)


async def _load(url: str, load: Load, archive: Archive, urls: list[str], wanted: set[str]) -> None:
    idle = [await _subscribed(url, {"authors": [f"{n:064x}"]}) for n in range(IDLE)]
    watchers = [await _subscribed(url, {"since": 1}) for _ in range(WATCHERS)]
    told: list[dict[str, int]] = [{} for _ in watchers]
    watching = [
        asyncio.create_task(_watch(client, seen))
        for client, seen in zip(watchers, told, strict=True)
    ]
    busy = [asyncio.create_task(_ask(url, load, number)) for number in range(BUSY)]
    began = time.perf_counter()
    for relay in urls:  # the synchronizer copies one after the other
        await archive.copy([relay])
        load.memory.append(memory_of([load.pid]))
        await asyncio.sleep(PAUSE_S)
    took_s = time.perf_counter() - began
    await until(lambda: all(seen.keys() >= wanted for seen in told), "the last event", PATIENCE_S)
    load.is_over = True
    await asyncio.gather(*busy)
    for task in watching:
        task.cancel()
    twice = sum(number > 1 for seen in told for number in seen.values())
    more = sum(len(seen.keys() - wanted) for seen in told)
    middle, end = load.memory[len(load.memory) // 2], load.memory[-1]
    print(
        f"  {len(wanted):,} events, copied by the synchronizer in {took_s:.0f} s, to {WATCHERS} who"
        f" want all, beside {IDLE:,} who"
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
