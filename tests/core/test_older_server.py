"""An older PostgreSQL, of the system: it may compile a plan, which takes longer than the rest."""

import time

import asyncpg
import pytest

from bigbrotr.config.settings import Profile
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.pool import Pool
from bigbrotr.core.schema import Schema
from bigbrotr.models.event import Event, EventRelay
from bigbrotr.models.relay import Network, Relay
from tests.kit.events import make_event, wire

NOW = int(time.time())
HOLDER, OTHER = Relay("ws://127.0.0.1:1"), Relay("ws://127.0.0.1:2")
# Some in each of many weeks, and many in one.
EVENTS = [
    Event.from_json(wire(make_event(NOW - 86_400 * n, content=f"{n}"))) for n in range(300)
] + [Event.from_json(wire(make_event(NOW - 60 * n - 1, content=f"{n}"))) for n in range(100)]


@pytest.mark.slow
async def test_nothing_is_compiled_to_note_a_known_page(old_server: str) -> None:
    connection = await asyncpg.connect(old_server)
    said: list[str] = []
    try:
        await Schema().migrate(connection, Profile.FULL, NOW)
        await connection.fetchval("SELECT bigbrotr.ensure_partitions($1)", NOW)
        async with Brotr(Pool(dsn=old_server)) as brotr:
            await brotr.insert_events([EventRelay(event, HOLDER, NOW) for event in EVENTS])
            await brotr.insert_relays([OTHER])
            visits = await brotr.claim_visits(
                [Network.LOCAL], limit=2, owner="me", lease_s=600, since=0, until=NOW
            )
        (visit,) = [each for each in visits if each.url == OTHER.url]
        connection.add_log_listener(lambda _, message: said.append(str(message)))
        await connection.execute(
            "LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0;"
            " SET auto_explain.log_nested_statements = on; SET auto_explain.log_analyze = on;"
            " SET auto_explain.log_level = notice; SET jit = on"
        )
        keys = sorted((event.created_at, event.id) for event in EVENTS)
        unknown = await connection.fetchval(
            "SELECT bigbrotr.note_presence($1, $2, $3, $4, $5)",
            visit.relay_id,
            visit.epoch,
            [key[0] for key in keys],
            [key[1] for key in keys],
            NOW,
        )
        assert unknown == []
        await connection.execute("SET jit_above_cost = 0")  # so that a change is seen
        await connection.fetchval("SELECT max(created_at) FROM bigbrotr.events")
    finally:
        await connection.close()
    *looks, last = [each for each in said if "bigbrotr.events_stored" in each or "MAX" in each]
    assert sum("SELECT u.position" in each for each in looks) > 20
    assert not [each for each in said[:-1] if "JIT:" in each]
    assert "JIT:" in said[-1], last
