"""What is at risk: events that one relay alone holds, those of failing relays first."""

from bigbrotr.core.brotr import Brotr
from bigbrotr.models.event import Event, EventRelay
from bigbrotr.models.relay import Network, Relay
from bigbrotr.reads.at_risk import AtRisk, AtRiskReads
from bigbrotr.reads.relays import Stage
from bigbrotr.services.statistics import Statistics
from tests.kit.events import NOW, make_event

# How many events each alone holds; two more are held by all.
ALONE = {"up": 5, "down": 1, "failing": 2, "retired": 1, "unknown": 4, "none": 0}
URLS = {name: f"wss://{name}.example.com" for name in ALONE}
STATES = """
    INSERT INTO bigbrotr.checks (relay_id, due_at, state, since, checked_at, outcome, failed)
    SELECT r.id, 0, s.state, 7, 8, 'x', '{}' FROM bigbrotr.relays r
    JOIN (VALUES ('up', 'up'), ('down', 'down'), ('failing', 'down'), ('retired', 'up'))
        AS s (name, state) ON r.url = 'wss://' || s.name || '.example.com';
    UPDATE bigbrotr.visits v SET retired_at = 1 FROM bigbrotr.relays r
    WHERE r.id = v.relay_id AND r.url LIKE '%retired%';
    UPDATE bigbrotr.visits v SET failures = 3 FROM bigbrotr.relays r
    WHERE r.id = v.relay_id AND r.url LIKE '%failing%';
"""


async def fill(brotr: Brotr) -> None:
    await brotr.insert_relays([Relay(url) for url in URLS.values()])
    number = 0
    for name, alone in [*ALONE.items(), *((name, -2) for name in ALONE)]:
        for n in range(abs(alone)):
            number += alone > 0
            at = NOW - 90_000 * (n if alone < 0 else number)
            event = Event.from_object(
                make_event(at, content=f"{alone < 0} {n} {number * (alone > 0)}")
            )
            await brotr.insert_events([EventRelay(event, Relay(URLS[name]), NOW)])
    await brotr.pool.execute(STATES)
    async with Statistics(brotr) as statistics:
        await statistics.run()


async def test_which_relays_alone_hold_events(brotr: Brotr) -> None:
    await fill(brotr)
    reads = AtRiskReads(brotr.pool)
    rows = [row for _, row in await reads.page("risk", None, 100)]
    order = ["retired", "failing", "down", "unknown", "up"]
    assert [(row.relay, row.alone) for row in rows] == [(URLS[x], ALONE[x]) for x in order]
    assert rows[1] == AtRisk(URLS["failing"], "clearnet", "down", 7, "failing", 4, 2, 2)
    assert (rows[3].state, rows[3].since) == ("unknown", None)
    most = [row.relay for _, row in await reads.page("alone", None, 100)]
    assert most == [URLS[x] for x in ("up", "unknown", "failing", "down", "retired")]
    for sort in ("risk", "alone"):
        whole = await reads.page(sort, None, 100)
        paged, after = [], None
        while page := await reads.page(sort, after, 2):
            paged += page
            after = page[-1][0]
        assert paged == whole


async def test_conditions(brotr: Brotr) -> None:
    await fill(brotr)
    reads = AtRiskReads(brotr.pool)
    for conditions, names in (
        ({"states": ["down"]}, ["failing", "down"]),
        ({"stages": [Stage.RETIRED, Stage.FAILING]}, ["retired", "failing"]),
        ({"states": ["up"], "stages": [Stage.WAITING]}, ["up"]),
        ({"networks": [Network.TOR]}, []),
    ):
        rows = await reads.page("risk", None, 100, **conditions)
        assert [row.relay for _, row in rows] == [URLS[name] for name in names]


async def test_the_sums_are_made_once_a_minute(brotr: Brotr) -> None:
    await fill(brotr)
    patient, eager = AtRiskReads(brotr.pool), AtRiskReads(brotr.pool, fresh_s=0)
    before = await patient.page("risk", None, 100)
    assert before == await eager.page("risk", None, 100)
    await brotr.pool.execute("DELETE FROM bigbrotr.scarce")
    assert await patient.page("risk", None, 100) == before
    assert await eager.page("risk", None, 100) == []
