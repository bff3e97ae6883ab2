"""What is counted along the way agrees with what is there."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bigbrotr.core.brotr import Brotr
from bigbrotr.models.event import EventRelay
from tests.kit.archive import A, B, C, check_totals, claim, claim_one, held, keys, ordered
from tests.kit.events import NOW, verified

POOL_OF_EVENTS = [verified(f"number {n}", created_at=NOW - 10**7 * n) for n in range(6)]


RELAYS = [A, B, C]


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(
            st.just("insert"),
            st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), max_size=6),
        ),
        st.tuples(st.just("note"), st.integers(0, 2)),
        st.tuples(st.just("page"), st.lists(st.integers(0, 5), max_size=4, unique=True)),
        st.tuples(st.just("delete"), st.integers(0, 2)),
        st.tuples(st.just("orphans"), st.booleans()),
    ),
    max_size=12,
)


@pytest.mark.slow
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(OPERATIONS)
async def test_totals_and_pairs_agree_with_a_dumb_archive(
    brotr: Brotr, operations: list[tuple[str, Any]]
) -> None:
    await brotr.pool.execute("DELETE FROM bigbrotr.relays")
    await brotr.cleanup_orphans()
    assert tuple(await brotr.totals()) == (0, 0, 0, 0, 0, 0)
    holders: dict[bytes, set[str]] = {}
    known: set[str] = set()
    for operation, given_ in operations:
        if operation == "insert":
            batch = [EventRelay(POOL_OF_EVENTS[e], RELAYS[r], NOW) for e, r in given_]
            new = {pair.event.id for pair in batch} - set(holders)
            assert await brotr.insert_events(batch) == (len(new), len(batch) - len(new))
            for pair in batch:
                holders.setdefault(pair.event.id, set()).add(pair.relay.url)
                known.add(pair.relay.url)
        elif operation == "note" and RELAYS[given_].url in known:
            visit = await claim_one(brotr, RELAYS[given_])
            listed = ordered(POOL_OF_EVENTS)
            unknown = await brotr.note_presence(visit, keys(listed), NOW)
            assert unknown == [n for n, e in enumerate(listed) if e.id not in holders]
            for each in holders.values():
                each.add(RELAYS[given_].url)
        elif operation == "page":
            await brotr.insert_relays([A])
            known.add(A.url)
            await brotr.pool.execute("UPDATE bigbrotr.visits SET due_at = 0")
            visit = next(each for each in await claim(brotr) if each.url == A.url)
            events = ordered([POOL_OF_EVENTS[e] for e in given_])
            stored = await brotr.store_page(visit, events, now=NOW)
            assert stored == sum(event.id not in holders for event in events)
            for event in events:
                holders.setdefault(event.id, set()).add(A.url)
        elif operation == "delete":
            await brotr.pool.execute(
                "DELETE FROM bigbrotr.relays WHERE url = $1", RELAYS[given_].url
            )
            known.discard(RELAYS[given_].url)
            for each in holders.values():
                each.discard(RELAYS[given_].url)
        elif operation == "orphans":
            gone = await brotr.cleanup_orphans(include_relays=given_)
            assert gone["events"] == sum(not each for each in holders.values())
            holders = {event: each for event, each in holders.items() if each}
            if given_:
                known = {url for url in known if any(url in each for each in holders.values())}
        assert await held(brotr) == {(e, url) for e, each in holders.items() for url in each}
        totals = await brotr.totals()
        assert (totals.relays, totals.events) == (len(known), len(holders))
        await check_totals(brotr)
