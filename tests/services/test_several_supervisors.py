"""Several supervisors on one database: they share the relays by leases, and take over from the dead."""

import asyncio
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg

from bigbrotr.core.brotr import Brotr
from bigbrotr.models.relay import Relay
from tests.conftest import Databases
from tests.processes import Archive, Place, Running, until
from tests.relays.events import make_event
from tests.relays.model import Vices
from tests.relays.scripted import ScriptedRelay

NAMES = ["anna", "bert", "carl", "dora"]
RELAYS = 12
EVENTS = [make_event(1_600_000_000 + 60 * n, content=f"event {n}") for n in range(150)]
TIMEOUT_S = 0.5
SLICE_S = 2.0

# Notes each claim as it is made, and from whom the relay passes on.
CLAIMS = """
CREATE TABLE claims (
    id bigint GENERATED ALWAYS AS IDENTITY, relay_id bigint, epoch bigint, owner text,
    old_owner text, old_due_at bigint, made_at double precision);
CREATE FUNCTION note_claim() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.claims (relay_id, epoch, owner, old_owner, old_due_at, made_at)
    VALUES (NEW.relay_id, NEW.epoch, NEW.owner, OLD.owner, OLD.due_at,
            extract(epoch FROM clock_timestamp()));
    RETURN NULL;
END $$;
CREATE TRIGGER note_claim AFTER UPDATE ON visits FOR EACH ROW
WHEN (NEW.epoch <> OLD.epoch) EXECUTE FUNCTION note_claim();
"""


async def holders(brotr: Brotr) -> dict[str, set[int]]:
    """Which relays each supervisor holds at this moment."""
    rows = await brotr.pool.fetch("SELECT owner, relay_id FROM visits WHERE owner IS NOT NULL")
    found: dict[str, set[int]] = {}
    for row in rows:
        found.setdefault(row["owner"].partition("/")[0], set()).add(row["relay_id"])
    return found


async def test_four_share_the_work_and_two_are_killed(
    brotr: Brotr, dsn: str, tmp_path: Path
) -> None:
    """No relay is called twice at once, none is forgotten, and all is proven in the end."""
    async with AsyncExitStack() as stack:
        shares = [EVENTS[n * 4 : n * 4 + 100] for n in range(RELAYS)]
        slow = Vices(delay_s=0.1)
        relays = [
            await stack.enter_async_context(ScriptedRelay(share, slow)) for share in shares
        ]
        await brotr.insert_relays([Relay(relay.url) for relay in relays])
        await brotr.pool.execute(CLAIMS)

        running: dict[str, Running] = {}
        for name in NAMES:
            place = Place(
                tmp_path / name,
                page_limit=4,
                timeout_s=TIMEOUT_S,
                revisit_s=600,
                workers=1,
                slice_s=SLICE_S,
                more=f'name = "{name}"\n[database]\nurl = "{dsn}"\n',
            )
            running[name] = await stack.enter_async_context(place.start("--only", "synchronizer"))

        async def is_shared() -> bool:
            return len(await holders(brotr)) == len(NAMES)

        await until(is_shared, "all hold relays")
        victims = NAMES[:2]
        for name in victims:
            assert await running[name].end(signal.SIGKILL) == -signal.SIGKILL
        left = await holders(brotr)
        orphans = {relay for name in victims for relay in left.get(name, set())}
        assert orphans

        async def is_whole() -> bool:
            return bool(
                await brotr.pool.fetchval(
                    "SELECT count(*) = $1 FROM relay_progress"
                    " WHERE outcome = 'complete' AND gaps = 0 AND NOT in_progress",
                    RELAYS,
                )
            )

        await until(is_whole, "every relay is proven")
        for name in NAMES[2:]:
            assert await running[name].end() == 0, running[name].err
            assert "Traceback" not in running[name].err
        claims = await brotr.pool.fetch("SELECT * FROM claims ORDER BY id")
