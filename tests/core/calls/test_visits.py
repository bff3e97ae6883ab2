"""Visits: who is due, what is missing there, and when to come back."""

import asyncio
import time
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.visits import Visit, Wanted
from bigbrotr.models.coverage import Gap, How, Proof, Span
from bigbrotr.models.metadata import Metadata, MetadataType, RelayMetadata
from bigbrotr.models.relay import Network, Relay
from bigbrotr.reads import relays
from tests.kit.archive import CLEARNET, A, B, C, claim, claim_a, claim_one, spans_of
from tests.kit.events import NOW


async def test_what_is_stale(brotr: Brotr) -> None:
    visit = await claim_a(brotr)
    for since, end, at in ((0, 500, 1000), (500, 900, 9000)):
        proof = Proof(Span(since, end), How.PAGING)
        await brotr.store_page(visit, [], proofs=[proof], now=at)
    query = "SELECT bigbrotr.stale_spans($1, 0, 1000, $5, $2, $3, $4, 10000)"

    async def stale(
        audit_s: int, lookback_s: int, rewalk_s: int, by_ids: bool = True
    ) -> list[tuple[int, int]]:
        return await spans_of(brotr, query, visit.relay_id, audit_s, lookback_s, rewalk_s, by_ids)

    assert await stale(500, 0, 0) == []
    assert await stale(500, 9400, 0) == [(600, 900)]
    assert await stale(500, 9600, 0) == [(400, 900)]
    assert await stale(2000, 9600, 0) == [(400, 500)]
    assert await stale(500, 0, 2000) == [(0, 500)]
    assert await stale(500, 9400, 2000) == [(0, 500), (600, 900)]
    await brotr.note_reconciliation(visit, "works", "", due_at=0, most_items=None)
    assert await stale(500, 0, 0) == [(0, 900)]
    assert await stale(500, 0, 0, by_ids=False) == []
    assert await stale(2000, 0, 0) == [(0, 500)]
    # What was tried in vain has to wait.
    gaps = [Gap(Span(100, 200), "cut", "")]
    await brotr.store_page(visit, [], gaps=gaps, now=9990)
    assert await stale(2000, 0, 0) == [(0, 100), (200, 500)]


async def test_what_a_relay_says_of_its_limits(brotr: Brotr) -> None:
    await brotr.insert_relays([A, B])
    said = {
        "limitation": {
            "max_limit": 300,
            "max_message_length": 65536,
            "max_filters": "ten",
            "max_subscriptions": -1,
            "auth_required": True,
            "min_pow_difficulty": 0,
            "max_content_length": 1.5,
            "max_event_tags": 10**30,
        }
    }
    for relay, document in ((A, said), (B, {"limitation": ["max_limit", 3]})):
        snapshot = RelayMetadata(relay, Metadata(document), MetadataType.NIP11, NOW)
        await brotr.insert_relay_metadata([snapshot])
    limits = {visit.url: visit.limits for visit in await claim(brotr)}
    assert limits == {A.url: {"max_limit": 300, "max_message_length": 65536}, B.url: {}}
    assert (await claim_one(brotr, C)).limits == {}


def stretches(seconds: set[int]) -> list[set[int]]:
    """The seconds in stretches without a hole."""
    found: list[set[int]] = []
    for second in sorted(seconds):
        if found and second - 1 in found[-1]:
            found[-1].add(second)
        else:
            found.append({second})
    return found


SPANS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 12)).map(lambda s: (s[0], s[0] + s[1])), max_size=4
)


STEPS = st.lists(
    st.tuples(SPANS, SPANS, st.sampled_from(list(How)), st.booleans()), min_size=1, max_size=5
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(STEPS, st.integers(0, 20), st.integers(0, 60))
async def test_what_is_missing_agrees_with_counting_seconds(
    brotr: Brotr,
    steps: list[tuple[list[tuple[int, int]], list[tuple[int, int]], How, bool]],
    since: int,
    until: int,
) -> None:
    await brotr.pool.execute("DELETE FROM bigbrotr.relays")
    visit = await claim_a(brotr)
    proven: set[int] = set()
    waiting: list[tuple[set[int], int]] = []  # seconds of a gap, attempts
    for proofs, gaps, how, overdue in steps:
        await brotr.store_page(
            visit,
            [],
            proofs=[Proof(Span(*span), how) for span in proofs],
            gaps=[Gap(Span(*span), "cut", "") for span in gaps],
            now=NOW,
        )
        for span in proofs:
            proven.update(range(*span))
        now_proven = {second for span in proofs for second in range(*span)}
        # Progress on a gap: what is left of it is counted anew.
        waiting = [
            (piece, 0 if gap & now_proven else n)
            for gap, n in waiting
            for piece in stretches(gap - now_proven)
        ]
        for seconds in stretches({second for span in gaps for second in range(*span)}):
            near = seconds | {min(seconds) - 1, max(seconds) + 1}
            # What adjoins was met within the same visit: the same attempt, and the same gap.
            tries = max([1, *(n + bool(gap & seconds) for gap, n in waiting if gap & near)])
            pieces = [(piece, n) for gap, n in waiting for piece in stretches(gap - seconds)]
            waiting = [(piece, n) for piece, n in pieces if not piece & near]
            whole = seconds.union(*(piece for piece, _ in pieces if piece & near))
            waiting.append((whole, tries))
        at = NOW + 10**6 if overdue else NOW
        missing = await brotr.pool.fetchval(
            "SELECT bigbrotr.missing_spans($1, $2, $3, $4)", visit.relay_id, since, until, at
        )
        seconds = {s for span in missing for s in range(span.lower, span.upper)}
        attempts = {second: n for gap, n in waiting for second in gap}
        assert seconds == set(range(since, until)) - proven - (set() if overdue else set(attempts))
        rows = await brotr.pool.fetch("SELECT span, attempts FROM bigbrotr.gaps")
        there = Counter(s for row in rows for s in range(row["span"].lower, row["span"].upper))
        assert set(there) == set(attempts)
        assert set(there.values()) <= {1}  # gaps don't overlap
        for row in rows:
            for second in range(row["span"].lower, row["span"].upper):
                assert attempts[second] == row["attempts"]


KEYS = ["", "a", "b"]


async def claim_for(
    brotr: Brotr, key: str, *, since: int = 0, until: int = 60, at: int = 0
) -> Visit:
    """A visit that wants what `key` stands for, of the only relay; gaps are overdue."""
    await brotr.pool.execute("UPDATE bigbrotr.visits SET due_at = 0")
    await brotr.pool.execute("UPDATE bigbrotr.gaps SET due_at = $1", at)
    (visit,) = await brotr.claim_visits(
        CLEARNET, limit=1, owner="me", lease_s=60, since=since, until=until, filter=key
    )
    return visit


@pytest.mark.slow
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.sampled_from(KEYS), SPANS, SPANS, st.booleans()), max_size=6))
async def test_what_is_missing_for_a_filter_agrees_with_counting_seconds(
    brotr: Brotr, steps: list[tuple[str, list[tuple[int, int]], list[tuple[int, int]], bool]]
) -> None:
    await brotr.pool.execute("DELETE FROM bigbrotr.relays")
    await brotr.insert_relays([A])
    proven: dict[str, set[int]] = {key: set() for key in KEYS}
    waiting: dict[str, set[int]] = {key: set() for key in KEYS}
    for key, proofs, gaps, is_overdue in steps:
        visit = await claim_for(brotr, key)
        await brotr.store_page(
            visit,
            [],
            proofs=[Proof(Span(*span), How.PAGING) for span in proofs],
            gaps=[Gap(Span(*span), "cut", "") for span in gaps],
            now=NOW,
        )
        seconds = {second for span in proofs for second in range(*span)}
        proven[key] |= seconds
        for other in KEYS:
            if key in ("", other):  # all events: whatever the filter
                waiting[other] -= seconds
        waiting[key] |= {second for span in gaps for second in range(*span)}
        for other in KEYS:
            at = 0 if is_overdue else 2**40
            missing = (await claim_for(brotr, other, at=at)).missing
            rest = set(range(60)) - proven[""] - proven[other]
            rest -= set() if is_overdue else waiting[other]
            assert {s for span in missing for s in range(*span)} == rest
            (row,) = await relays.progress(brotr.pool)
            counted = await brotr.pool.fetchval(
                "SELECT range_agg(span) FROM bigbrotr.gaps WHERE filter = $1", other
            )
            held = {s for span in counted or () for s in range(span.lower, span.upper)}
            assert held == waiting[other]
            assert row.filter == other
            assert (await brotr.totals()).gaps == row.gaps


async def test_gaps_in_what_is_no_longer_wanted_set_no_visit(brotr: Brotr) -> None:
    """Else a relay would be due at once for ever: nobody asks for them."""
    await brotr.insert_relays([A])
    later = int(time.time()) + 10**6
    visit = await claim_for(brotr, "a")
    await brotr.store_page(visit, [], gaps=[Gap(Span(1, 5), "cut", "")], now=NOW)
    for key, since, is_due in [("a", 0, True), ("b", 0, False), ("", 0, False), ("a", 5, False)]:
        visit = await claim_for(brotr, key, since=since)
        await brotr.pool.execute("UPDATE bigbrotr.gaps SET due_at = $1", later - 1000)
        await brotr.finish_visit(visit, "done", next_at=later, outcome="complete")
        due_at = await brotr.next_visit_at(CLEARNET)
        assert due_at == (later - 1000 if is_due else later), (key, since)


async def test_relays_apart(brotr: Brotr) -> None:
    await brotr.insert_relays([A, B, C])
    apart = {B.url: Wanted(5, 9, "b"), "wss://unknown.example.com": Wanted(1, 2, "x")}
    visits = await brotr.claim_visits(
        CLEARNET,
        limit=9,
        owner="me",
        lease_s=60,
        since=1,
        until=100,
        filter="a",
        apart=apart,
        refused=[C.url],
    )
    found = {visit.url: (visit.missing, visit.wanted) for visit in visits}
    assert found == {A.url: ([(1, 100)], (1, 100)), B.url: ([(5, 9)], (5, 9))}
    rows = await brotr.pool.fetch(
        "SELECT url, filter, since, until FROM bigbrotr.visits v"
        " JOIN bigbrotr.relays r ON r.id = v.relay_id"
    )
    assert {tuple(row) for row in rows} == {
        (A.url, "a", 1, 100),
        (B.url, "b", 5, 9),
        (C.url, "", 0, 0),
    }
    for visit in visits:
        await brotr.store_page(visit, [], proofs=[Proof(Span(5, 7), How.PAGING)], now=NOW)
    (b,) = [visit for visit in visits if visit.url == B.url]
    renewed = await brotr.renew_visit(b, lease_s=60, until=12)
    assert (renewed.missing, renewed.wanted) == ([(7, 12)], (5, 12))
    # A refused one is not due.
    await brotr.pool.execute("UPDATE bigbrotr.visits SET due_at = 2^40 WHERE owner IS NOT NULL")
    assert await brotr.next_visit_at(CLEARNET) != 2**40
    assert await brotr.next_visit_at(CLEARNET, [C.url]) == 2**40
    assert await brotr.next_visit_at(CLEARNET, [A.url, B.url, C.url]) is None


async def test_nothing_is_missing_of_an_empty_span(brotr: Brotr) -> None:
    await brotr.insert_relays([A])
    visit = await claim_for(brotr, "", since=50, until=10)
    assert visit.missing == []
    assert await brotr.finish_visit(visit, "done", next_at=7, outcome="complete")


async def test_a_visit_is_claimed_once_and_ends(brotr: Brotr) -> None:
    visit = await claim_a(brotr)
    assert (visit.url, visit.epoch, visit.pairs) == (A.url, 1, 0)
    assert await claim(brotr) == []
    assert await brotr.finish_visit(visit, "unfinished", next_at=0, outcome="busy")
    (visit,) = await claim(brotr)
    now = int(time.time())
    assert await brotr.finish_visit(visit, "done", next_at=now + 500, outcome="complete")
    assert await brotr.next_visit_at(CLEARNET) == now + 500
    assert await claim(brotr) == []
    assert await brotr.next_visit_at([Network.TOR]) is None
    assert not await brotr.finish_visit(visit._replace(epoch=1), "done", next_at=0, outcome="late")


async def test_a_gap_that_is_due_first_sets_the_next_visit(brotr: Brotr) -> None:
    visit = await claim_a(brotr)
    now = int(time.time())
    await brotr.store_page(visit, [], gaps=[Gap(Span(1, 2), "dense", "")], now=now)
    await brotr.finish_visit(visit, "done", next_at=now + 10_000, outcome="dense")
    due = await brotr.next_visit_at(CLEARNET)
    assert due is not None
    assert now + 45 <= due <= now + 75


async def test_failures_wait_longer_and_longer(brotr: Brotr) -> None:
    await brotr.insert_relays([A])
    for failures in range(1, 30):
        await brotr.pool.execute("UPDATE bigbrotr.visits SET due_at = 0")
        (visit,) = await claim(brotr)
        before = int(time.time())
        await brotr.finish_visit(visit, "failed", next_at=0, outcome="refused")
        after = int(time.time())
        due = await brotr.next_visit_at(CLEARNET)
        assert due is not None
        full = min(604_800, 60 * 2 ** (failures - 1))
        assert before + full * 0.75 - 1 <= due <= after + full * 1.25 + 1
    assert await brotr.pool.fetchval("SELECT failures FROM bigbrotr.visits") == 29
    await brotr.pool.execute("UPDATE bigbrotr.visits SET due_at = 0")
    (visit,) = await claim(brotr)
    await brotr.finish_visit(visit, "done", next_at=0, outcome="complete")
    assert await brotr.pool.fetchval("SELECT failures FROM bigbrotr.visits") == 0


async def test_a_new_relay_is_due_at_once_whatever_its_discovery(brotr: Brotr) -> None:
    assert await brotr.insert_relays([Relay(A.url, 2**40), Relay(B.url, 0), C]) == 3
    assert await brotr.insert_relays([A, B, C]) == 0
    assert {visit.url for visit in await claim(brotr)} == {A.url, B.url, C.url}


async def test_claimers_never_share(brotr: Brotr) -> None:
    relays = [Relay(f"wss://r{n}.example.com") for n in range(100)]
    await brotr.insert_relays(relays[:50])
    await brotr.insert_candidates(relays[50:], "seed")

    async def claimer(number: int) -> list[str]:
        found: list[str] = []
        while True:
            visits = await claim(brotr, limit=3, owner=str(number))
            candidates = await brotr.claim_candidates(
                Network.CLEARNET, limit=3, max_attempts=5, owner=str(number), lease_s=60
            )
            if not visits and not candidates:
                return found
            found += [visit.url for visit in visits]
            found += [relay.url for relay in candidates]

    claimed = await asyncio.gather(*(claimer(number) for number in range(8)))
    counted = Counter(url for each in claimed for url in each)
    assert counted == Counter(relay.url for relay in relays)


async def test_leases_are_given_back(brotr: Brotr) -> None:
    await brotr.insert_relays([A, B])
    await brotr.insert_candidates([C], "seed")
    await claim(brotr, limit=1, owner="crashed")
    await claim(brotr, limit=1, owner="alive")
    await brotr.claim_candidates(
        Network.CLEARNET, limit=9, max_attempts=5, owner="crashed", lease_s=60
    )
    assert await brotr.release_leases("crashed") == 2
    assert await brotr.release_leases("crashed") == 0
    assert len(await claim(brotr)) == 1


async def test_one_answer_ends_the_failures(brotr: Brotr) -> None:
    await brotr.insert_relays([A])
    for verdict in ("failed", "done"):
        await brotr.pool.execute("UPDATE bigbrotr.visits SET due_at = 0")
        (visit,) = await claim(brotr)
        await brotr.finish_visit(visit, verdict, next_at=0, outcome="x")
        since = await brotr.pool.fetchval("SELECT failing_since FROM bigbrotr.visits")
        assert (since is None) == (verdict == "done")
