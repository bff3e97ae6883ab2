"""Several supervisors on one database: they share relays by leases, and take over from the dead."""

import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from bigbrotr.core.brotr import Brotr
from bigbrotr.models.relay import Relay
from tests.kit.events import make_event
from tests.kit.model import Vices
from tests.kit.processes import Archive, Place, Running, until
from tests.kit.scripted import ScriptedRelay

NAMES = ["anna", "bert", "carl", "dora"]
VICTIMS, SURVIVORS = set(NAMES[:2]), set(NAMES[2:])
RELAYS = 12
EVENTS = [
    make_event(1_600_000_000 + 60 * n, content=f"event {n}") for n in range(200 + 10 * RELAYS)
]

# Notes each claim as it is made, and from whom the relay passes on.
CLAIMS = """
CREATE TABLE public.claims (
    id bigint GENERATED ALWAYS AS IDENTITY, relay_id bigint, epoch bigint, owner text,
    old_owner text, old_due_at bigint, made_at double precision);
CREATE FUNCTION public.note_claim() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.claims (relay_id, epoch, owner, old_owner, old_due_at, made_at)
    VALUES (NEW.relay_id, NEW.epoch, split_part(NEW.owner, '/', 1),
            split_part(OLD.owner, '/', 1), OLD.due_at,
            extract(epoch FROM clock_timestamp()));
    RETURN NULL;
END $$;
CREATE TRIGGER note_claim AFTER UPDATE ON bigbrotr.visits FOR EACH ROW
WHEN (NEW.epoch <> OLD.epoch) EXECUTE FUNCTION public.note_claim();
"""


async def holders(brotr: Brotr) -> dict[str, set[int]]:
    """Which relays each supervisor holds at this moment."""
    rows = await brotr.pool.fetch(
        "SELECT owner, relay_id FROM bigbrotr.visits WHERE owner IS NOT NULL"
    )
    found: dict[str, set[int]] = {}
    for row in rows:
        found.setdefault(row["owner"].partition("/")[0], set()).add(row["relay_id"])
    return found


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_four_share_the_work_and_two_are_killed(
    brotr: Brotr, dsn: str, tmp_path: Path
) -> None:
    """No relay is called twice at once, none is forgotten, and all is proven in the end."""
    async with AsyncExitStack() as stack:
        shares = [EVENTS[10 * n : 10 * n + 200] for n in range(RELAYS)]
        slow = Vices(delay_s=0.1)
        relays = [await stack.enter_async_context(ScriptedRelay(s, slow)) for s in shares]
        await brotr.insert_relays([Relay(relay.url) for relay in relays])
        await brotr.pool.execute(CLAIMS)
        running: dict[str, Running] = {}
        for name in NAMES:
            place = Place(
                tmp_path / name,
                page_limit=4,
                width=RELAYS // len(NAMES),
                timeout_s=1.0,
                revisit_s=2,
                workers=1,
                slice_s=1,
                more=f'name = "{name}"\n[database]\nurl = "{without_password(dsn)}"\n',
            )
            password = {"DB_PASSWORD": urlsplit(dsn).password or ""}
            start = place.start("--only", "synchronizer", **password)
            running[name] = await stack.enter_async_context(start)

        async def is_shared() -> bool:
            return len(await holders(brotr)) == len(NAMES)

        await until(is_shared, "all four hold relays")
        for name in VICTIMS:  # as if their machines had gone: no worker lives on to give back
            os.killpg(running[name].pid, signal.SIGKILL)
            assert await running[name].wait() == -signal.SIGKILL
        left = await holders(brotr)
        orphans = {relay for name in VICTIMS for relay in left.get(name, set())}
        assert orphans
        last = await brotr.pool.fetchval("SELECT max(id) FROM public.claims")

        async def is_whole() -> bool:
            done = await brotr.pool.fetchval(
                "SELECT count(*) FROM bigbrotr.relay_progress"
                " WHERE outcome = 'complete' AND gaps = 0"
            )
            return done == RELAYS and VICTIMS.isdisjoint(await holders(brotr))

        await until(is_whole, "every relay is proven, by those who live", 150)
        for name in SURVIVORS:
            assert await running[name].end() == 0, running[name].err
            assert "Traceback" not in running[name].err

        assert [relay.seen.most for relay in relays] == [1] * RELAYS
        claims = await brotr.pool.fetch("SELECT * FROM public.claims ORDER BY id")
        assert {each["owner"] for each in claims} == set(NAMES)
        # Nobody took what another one still held: it was given back, or its time was over.
        assert [c for c in claims if c["made_at"] < c["old_due_at"]] == []
        later = [c for c in claims if c["id"] > last]
        assert {c["owner"] for c in later} == SURVIVORS
        assert {c["relay_id"] for c in later} >= orphans
        # By time; but for what a last word of the dead still gave back.
        inherited = [c["relay_id"] for c in later if c["old_owner"] in VICTIMS]
        assert inherited
        assert set(inherited) <= orphans
        assert len(inherited) == len(set(inherited))
        archive = await read_archive(dsn)
    assert archive.events.keys() == {event["id"] for share in shares for event in share}
    assert archive.pairs == {
        (event["id"], relay.url)
        for relay, share in zip(relays, shares, strict=True)
        for event in share
    }
    assert (archive.totals["gaps"], archive.totals["rejected"]) == (0, 0)


def without_password(dsn: str) -> str:
    parts = urlsplit(dsn)
    user, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user.partition(':')[0]}@{host}").geturl()


async def read_archive(dsn: str) -> Archive:
    connection = await asyncpg.connect(dsn)
    try:
        return await Archive.read(connection)
    finally:
        await connection.close()
