"""Candidates that never answer, beside a few that do: how fast the validator gets through them."""

import socket
import time
from contextlib import AsyncExitStack

from bigbrotr.config.settings import Config, Link, Networks, PoolSettings, Profile
from bigbrotr.core.base_service import Context
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.pool import Pool
from bigbrotr.core.schema import Schema
from bigbrotr.models.relay import Relay
from bigbrotr.services.validator import Validator
from tests.bench.stage import Stage
from tests.kit.scripted import ScriptedRelay

COUNT = 1000
ALIVE = 50  # the others accept a connection and say nothing
WIDTH = 50
TIMEOUT_S = 1.0  # a tenth of the defaults, as is the quick one
QUICK_S = 0.4


async def measure(on: Stage, quick_s: float) -> float:
    """Candidates a second."""
    address = await on.new_database()
    link = Link(width=WIDTH, quick_s=quick_s, timeout_s=TIMEOUT_S)
    config = Config(networks=Networks(clearnet=Link(enabled=False), local=link))
    async with AsyncExitStack() as stack:
        brotr = await stack.enter_async_context(Brotr(Pool(settings=PoolSettings(), dsn=address)))
        async with brotr.pool.acquire() as connection:
            await Schema().migrate(connection, Profile.LITE, int(time.time()))
        silent = [
            stack.enter_context(socket.create_server((f"127.3.{n // 250}.{n % 250 + 1}", 0)))
            for n in range(COUNT - ALIVE)
        ]
        alive = [await stack.enter_async_context(ScriptedRelay()) for _ in range(ALIVE)]
        urls = ["ws://{}:{}".format(*each.getsockname()) for each in silent]
        urls += [relay.url for relay in alive]
        await brotr.insert_candidates([Relay(url) for url in urls], "bench")
        # By chance, as they come in life.
        await brotr.pool.execute(
            "UPDATE bigbrotr.candidates SET due_at = due_at - (hashtext(url) & 4095)"
        )
        async with Validator(brotr, context=Context(config, address, "bench")) as validator:
            started = time.perf_counter()
            await validator.run()
            seconds = time.perf_counter() - started
        totals = await brotr.totals()
        if (totals.relays, totals.candidates) != (ALIVE, COUNT - ALIVE):
            raise SystemExit(f"sorted wrongly: {totals}")
    return COUNT / seconds
