"""What the relay tells of itself: in the metrics, over several lives of a process."""

from collections.abc import Iterator

from bigbrotr.config.settings import Config, SupervisorSettings
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.logger import Logger
from bigbrotr.serve import orders
from bigbrotr.serve.children import Children
from bigbrotr.serve.orders import Order, RelayReport, Report
from tests.kit.events import NOW, verified
from tests.kit.processes import until
from tests.serve.relay.client import client_of, relay_of, store

EVENTS = [verified(f"{n}", created_at=NOW + n) for n in range(7)]


async def test_the_relay_tells_what_it_does(brotr: Brotr, dsn: str) -> None:
    await store(brotr, EVENTS[:5])
    async with relay_of(dsn) as place, client_of(place.url) as client:
        await client.say("REQ", "a", {})
        await client.until("EOSE")
        await client.say("REQ", "b", {"limit": 0})
        await client.until("EOSE")
        await client.ask("COUNT", "c", {})
        await client.ask("NEG-OPEN", "d", {}, "6100000200")
        await store(brotr, EVENTS[5:6])
        await client.hear()
        await client.hear()
        found = place.relay.report()
        assert found == RelayReport(
            connections=1,
            subscriptions=2,
            reconciliations=1,
            ids=5,
            requests={"REQ": 2, "COUNT": 1, "NEG-OPEN": 1},
            events=7,
        )
        report = Report(relay=found)
        assert orders.read(orders.write(report)) == report
        await client.socket.close()
        await until(lambda: not place.relay.report().connections, "its end")
        after = place.relay.report()
        assert (after.subscriptions, after.reconciliations, after.events) == (0, 0, 7)


async def test_nothing_is_shown_while_it_is_looked_for_what_is_to_be_hidden(
    brotr: Brotr, dsn: str
) -> None:
    await store(brotr, EVENTS)
    await brotr.begin_policy([], 0, 255, 254)  # as at the first start: all is to be judged
    async with relay_of(dsn) as place, client_of(place.url) as client:
        words = "error: it is being looked for what is not to be shown here; ask again later"
        assert await client.ask("REQ", "a", {}) == ["CLOSED", "a", words]
        assert await client.ask("COUNT", "a", {}) == ["CLOSED", "a", words]
        assert await client.ask("NEG-OPEN", "a", {}, "6100000200") == ["NEG-ERR", "a", words]
        while not (await brotr.judge_review([])).is_done:
            pass

        async def is_open() -> bool:
            await client.say("REQ", "b", {})
            return bool((await client.until("EOSE", "CLOSED"))[-1][0] == "EOSE")

        await until(is_open, "the end of the walk")
        assert len((await client.stored({}))[0]) == len(EVENTS)


def test_the_metrics_add_up_over_processes_and_their_lives() -> None:
    children = Children(Order(Config(), None, "x"), SupervisorSettings(), Logger("test"))

    def values() -> Iterator[tuple[tuple[str, ...], float]]:
        for sample in children.metrics():
            if sample.name.startswith("serve_relay"):
                yield (sample.name, *sample.labels), sample.value

    assert set(dict(values()).values()) == {0}
    requests = {"REQ": 3, "COUNT": 0, "NEG-OPEN": 1}
    one = RelayReport(connections=2, ids=100, requests=requests, events=50, cut=1)
    children._latest = {0: Report(relay=one), 1: Report(relay=one), 2: Report()}
    children._forget(0)
    found = dict(values())
    assert found["serve_relay_connections",] == 2
    assert found["serve_relay_ids",] == 100
    assert found["serve_relay_requests", "REQ"] == 6
    assert found["serve_relay_events",] == 100
    assert found["serve_relay_cut",] == 2
    children._forget(0)
    assert dict(values()) == found
