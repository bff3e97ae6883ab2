"""What is stored of checks: who is due, what a verdict changes, uptime against a dumb count, and
the outbox."""

import asyncio
import json
import random
import time
from collections.abc import Sequence
from typing import Any

import pytest

from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.monitoring import CheckResult, DueCheck, Monitoring, Post, Rtts
from bigbrotr.models.metadata import Metadata, MetadataType, RelayMetadata
from bigbrotr.models.relay import Network, Relay
from tests.kit.archive import A, B
from tests.kit.events import NOW

RELAYS = [Relay(f"wss://r{n}.example.com") for n in range(5)]
EVERY_S = 3600.0
DAY = 86_400


async def claim(
    brotr: Brotr, limit: int = 100, owner: str = "me", lease_s: float = 60
) -> list[DueCheck]:
    found = await brotr.claim_checks(Network.CLEARNET, limit=limit, owner=owner, lease_s=lease_s)
    return sorted(found, key=lambda due: due.relay_id)


async def record(brotr: Brotr, due: DueCheck, verdict: str, outcome: str = "", **more: Any) -> int:
    return await brotr.record_checks(
        [CheckResult(due, verdict, outcome or verdict, **more)], EVERY_S
    )


async def again(brotr: Brotr) -> DueCheck:
    """The only relay, due once more."""
    await brotr.pool.execute("UPDATE bigbrotr.checks SET due_at = 0")
    (due,) = await claim(brotr)
    return due


async def state(brotr: Brotr) -> dict[str, Any]:
    row = await brotr.pool.fetchrow("SELECT * FROM bigbrotr.checks")
    assert row is not None
    return dict(row)


async def series(brotr: Brotr) -> list[tuple[Any, ...]]:
    rows = await brotr.pool.fetch(
        "SELECT checked_at, outcome FROM bigbrotr.rtts ORDER BY checked_at"
    )
    return [tuple(row) for row in rows]


# Claims


async def test_new_relays_are_due_at_once_and_only_once(brotr: Brotr) -> None:
    assert await claim(brotr) == []
    await brotr.insert_relays(RELAYS)
    first = await claim(brotr, limit=2)
    rest = await claim(brotr, owner="another")
    assert {due.relay for due in first + rest} == set(RELAYS)
    assert len(first) == 2
    assert {due.state for due in first} == {"unknown"}
    assert await claim(brotr) == []
    assert await brotr.release_monitoring("another") == 3
    assert [due.relay for due in await claim(brotr)] == [due.relay for due in rest]


async def test_a_lease_that_has_passed_on(brotr: Brotr) -> None:
    await brotr.insert_relays(RELAYS[:1])
    (late,) = await claim(brotr, lease_s=0)
    (holder,) = await claim(brotr)
    document = Metadata({"name": "late"})
    snapshot = RelayMetadata(RELAYS[0], document, MetadataType.NIP11, NOW)
    assert await record(brotr, late, "down", "refused", snapshots=[snapshot]) == 0
    assert await record(brotr, holder, "up") == 1
    assert (await state(brotr))["state"] == "up"
    assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.relay_metadata") == 0


async def test_recording_twice_changes_nothing(brotr: Brotr) -> None:
    await brotr.insert_relays(RELAYS[:1])
    (due,) = await claim(brotr)
    assert await record(brotr, due, "down", "refused") == 1
    before = await state(brotr)
    assert await record(brotr, due, "down", "refused") == 0
    assert await state(brotr) == before
    assert len(await series(brotr)) == 1


async def test_a_deleted_relay_takes_everything_along(brotr: Brotr) -> None:
    await brotr.insert_relays(RELAYS[:1])
    (due,) = await claim(brotr)
    await record(brotr, due, "up")
    await brotr.pool.execute("DELETE FROM bigbrotr.relays")
    for table in ("checks", "rtts"):
        assert await brotr.pool.fetchval(f"SELECT count(*) FROM bigbrotr.{table}") == 0


# In numbers


async def test_what_is_known_in_numbers(brotr: Brotr) -> None:
    assert await brotr.monitoring(0) == Monitoring(0, 0, 0, 0, 0, 0, 0, None, None, 0)
    await brotr.insert_relays(RELAYS)
    dues = await claim(brotr)
    rtts = [
        Rtts(tcp_ms=10.0, tls_ms=20.0, upgrade_ms=5.0, read_ms=7.0, write_ms=9.0),
        Rtts(tcp_ms=10.0, tls_ms=20.0, upgrade_ms=105.0, read_ms=7.0),
        Rtts(tcp_ms=10.0, upgrade_ms=1.0),  # without TLS; it wants to know who asks
        Rtts(),
    ]
    for due, verdict, each in zip(dues, ("up", "up", "up", "down"), rtts, strict=False):
        await record(brotr, due, verdict, rtts=each)
    await record(brotr, dues[4], "suspect", "timeout")
    await brotr.post_events([Post("wss://target.example", 0, "", "{}")])
    now = int(time.time())
    # What was measured before does not count, nor does what has become old.
    await brotr.pool.execute(
        "INSERT INTO bigbrotr.rtts (relay_id, holds_s, checked_at, write_ms)"
        " SELECT relay_id, 60, checked_at - 50, 1 FROM bigbrotr.rtts"
    )
    found = await brotr.monitoring(now - 60)
    assert found[:7] == (5, 3, 1, 4, 3, 2, 1)
    assert found.open_ms == 35.0
    assert found.newest_at is not None
    assert found.newest_at >= now - 60
    assert found.undelivered == 1
    later = await brotr.monitoring(now + 60)
    assert later == Monitoring(5, 3, 1, 0, 0, 0, 0, None, found.newest_at, 1)


# Verdicts


async def test_a_relay_that_is_up(brotr: Brotr) -> None:
    await brotr.insert_relays(RELAYS[:1])
    (due,) = await claim(brotr)
    rtts = Rtts(1.5, 10.25, 20.5, 5.25, 7.125, None, 300)
    now = int(time.time())
    await record(brotr, due, "up", failed={"nip11": "too-large"}, rtts=rtts)
    row = await state(brotr)
    assert (row["state"], row["outcome"], row["failures"], row["owner"]) == ("up", "up", 0, None)
    assert 0.9 * EVERY_S <= row["due_at"] - row["checked_at"] <= 1.1 * EVERY_S
    assert row["failed"] == '{"nip11": "too-large"}'
    found = await brotr.pool.fetchrow("SELECT * FROM bigbrotr.relay_rtts")
    assert found is not None
    assert found["is_up"]
    assert (found["open_ms"], found["read_ms"], found["write_ms"]) == (36.0, 7.125, None)
    assert found["ttl_s"] == 300
    latest = await brotr.pool.fetchrow("SELECT * FROM bigbrotr.relay_metadata_latest")
    assert latest is not None
    assert latest["type"] == "nip66_rtt"
    assert now <= latest["snapshot_at"] <= now + 5
    assert (
        latest["data"]
        == (
            '{"dns_ms": 1.50, "tcp_ms": 10.25, "tls_ms": 20.50, "open_ms": 36.00, "read_ms": 7.12,'
            ' "upgrade_ms": 5.25}'
        )
        or '"open_ms": 36.00' in latest["data"]
    )


async def test_due_times_spread(brotr: Brotr) -> None:
    await brotr.insert_relays([Relay(f"wss://r{n}.example.com") for n in range(200)])
    results = [CheckResult(due, "up", "up") for due in await claim(brotr, limit=200)]
    await brotr.record_checks(results, EVERY_S)
    dues = [row[0] for row in await brotr.pool.fetch("SELECT due_at FROM bigbrotr.checks")]
    assert max(dues) - min(dues) > 0.15 * EVERY_S
    assert len(set(dues)) > 100


async def test_the_dead_are_visited_less_and_less(brotr: Brotr) -> None:
    await brotr.insert_relays(RELAYS[:1])
    waits = []
    for failures in range(1, 15):
        await record(brotr, await again(brotr), "down", "refused")
        row = await state(brotr)
        assert (row["state"], row["failures"]) == ("down", failures)
        waits.append(row["due_at"] - row["checked_at"])
    assert waits[0] < 100
    assert waits[-1] > 3 * DAY
    await record(brotr, await again(brotr), "up")
    row = await state(brotr)
    assert (row["state"], row["failures"]) == ("up", 0)
    assert row["due_at"] - row["checked_at"] < 0.3 * EVERY_S  # sooner after a change


async def test_nothing_is_recorded_of_a_failure_that_nothing_confirms(brotr: Brotr) -> None:
    await brotr.insert_relays(RELAYS[:1])
    await record(brotr, await again(brotr), "up")
    await record(brotr, await again(brotr), "suspect", "timeout")
    row = await state(brotr)
    assert (row["state"], row["suspect_outcome"], row["outcome"]) == ("up", "timeout", "up")
    assert 60 <= row["due_at"] - row["suspect_at"] <= 120
    due = await again(brotr)
    assert due.suspect_at is not None
    await record(brotr, due, "void", "offline")
    assert (await state(brotr))["suspect_at"] == due.suspect_at
    await record(brotr, await again(brotr), "up")
    assert (await state(brotr))["suspect_at"] is None
    assert {outcome for _, outcome in await series(brotr)} == {None}


async def test_a_confirmed_failure_counts_from_the_first(brotr: Brotr) -> None:
    await brotr.insert_relays(RELAYS[:1])
    await record(brotr, await again(brotr), "up")
    await brotr.pool.execute("UPDATE bigbrotr.rtts SET checked_at = checked_at - 500")
    await record(brotr, await again(brotr), "suspect", "timeout")
    await brotr.pool.execute("UPDATE bigbrotr.checks SET suspect_at = suspect_at - 100")
    due = await again(brotr)
    await record(brotr, due, "down", "slow")
    row = await state(brotr)
    assert (row["state"], row["since"], row["suspect_at"]) == ("down", due.suspect_at, None)
    assert [outcome for _, outcome in await series(brotr)] == [None, "timeout", "slow"]
    assert (await series(brotr))[1][0] == due.suspect_at


async def test_void_changes_nothing_but_when_it_is_due(brotr: Brotr) -> None:
    await brotr.insert_relays(RELAYS[:1])
    await record(brotr, await again(brotr), "up")
    before = await state(brotr)
    await record(brotr, await again(brotr), "void", "offline")
    after = await state(brotr)
    changed = {name for name in before if before[name] != after[name]}
    assert changed <= {"due_at", "epoch"}
    assert 55 <= after["due_at"] - time.time() <= 121
    assert len(await series(brotr)) == 1


async def test_others_that_are_up(brotr: Brotr) -> None:
    await brotr.insert_relays(RELAYS)
    dues = await claim(brotr)
    verdicts = ["up", "up", "up", "down", "suspect"]
    await brotr.record_checks(
        [CheckResult(due, verdict, verdict) for due, verdict in zip(dues, verdicts, strict=True)],
        EVERY_S,
    )
    found = await brotr.some_relays_up(Network.CLEARNET, [dues[0].relay_id], 10)
    assert set(found) == {dues[1].relay, dues[2].relay}
    assert len(await brotr.some_relays_up(Network.CLEARNET, [], 1)) == 1
    assert await brotr.some_relays_up(Network.TOR, [], 10) == []


# Documents


async def test_unchanged_documents_cost_one_small_row(brotr: Brotr) -> None:
    await brotr.insert_relays(RELAYS[:1])
    document = Metadata({"name": "x" * 5000})
    for at in range(100):
        snapshot = RelayMetadata(RELAYS[0], document, MetadataType.NIP11, NOW + at)
        raws = [(document.id, b'{ "name": "%s" }' % (b"x" * 5000))]
        assert await record(brotr, await again(brotr), "up", snapshots=[snapshot], raws=raws) == 1
        latest = await brotr.pool.fetchval(
            "SELECT snapshot_at FROM bigbrotr.relay_metadata_latest WHERE type = 'nip11'"
        )
        assert latest == NOW + at
    assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.relay_metadata") == 100
    assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.metadata") == 1
    assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.metadata_raw") == 1
    raw = await brotr.pool.fetchval("SELECT raw FROM bigbrotr.metadata_raw")
    assert raw == b'{ "name": "%s" }' % (b"x" * 5000)
    size = await brotr.pool.fetchval("SELECT pg_relation_size('bigbrotr.snapshots')")
    assert size <= 100 * 120 + 8192


async def test_old_measurements_go_but_the_newest_stay(brotr: Brotr) -> None:
    await brotr.insert_relays(RELAYS[:2])
    for number, relay in enumerate(RELAYS[:2]):
        for at in range(10):
            document = Metadata({"name": f"{number} {at}"})
            await brotr.insert_relay_metadata(
                [RelayMetadata(relay, document, MetadataType.NIP11, NOW + at + 100 * number)]
            )
    await brotr.pool.execute(
        "INSERT INTO bigbrotr.rtts (relay_id, checked_at, holds_s)"
        " SELECT r.id, $1 + n, 60 FROM bigbrotr.relays r, generate_series(0, 9) AS n",
        NOW,
    )
    # Of the first relay the newest stays; of the second, what is not old.
    gone = await brotr.delete_old_measurements(NOW + 105)
    assert gone == (9 + 5) + 20 + (9 + 5)
    rows = await brotr.pool.fetch(
        "SELECT relay_url, data FROM bigbrotr.relay_metadata_latest ORDER BY 1"
    )
    assert [row["data"] for row in rows] == ['{"name": "0 9"}', '{"name": "1 9"}']
    assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.relay_metadata") == 6
    assert await brotr.delete_old_measurements(NOW + 105) == 0


async def test_few_large_documents_of_a_relay_are_kept(brotr: Brotr) -> None:
    """Some say something else each time that they are asked."""
    await brotr.insert_relays(RELAYS[:3])
    large = "".join(chr(random.randrange(0x4E00, 0x9FFF)) for _ in range(3000))
    for relay, words in (
        (RELAYS[0], [f"{n} {large}" for n in range(105)]),
        (RELAYS[1], [f"{n} short" for n in range(105)]),
        (RELAYS[2], [f"the same {large}"] * 105),
    ):
        documents = [
            RelayMetadata(relay, Metadata({"name": each}), MetadataType.NIP11, NOW + n)
            for n, each in enumerate(words)
        ]
        await brotr.insert_relay_metadata(documents)
    assert await brotr.delete_old_measurements(NOW) == 5 + 5  # with their documents
    rows = await brotr.pool.fetch(
        "SELECT count(*), min(snapshot_at) FROM bigbrotr.relay_metadata GROUP BY relay_url"
        " ORDER BY relay_url"
    )
    assert [tuple(row) for row in rows] == [(100, NOW + 5), (105, NOW), (105, NOW)]
    assert await brotr.delete_old_measurements(NOW) == 0


async def test_a_series_is_compact(brotr: Brotr) -> None:
    await brotr.insert_relays(RELAYS[:1])
    await brotr.pool.execute(
        "INSERT INTO bigbrotr.rtts SELECT r.id, 7800, $1 + 3600 * n, NULL, 1, 2, 3, 4, 5, NULL, 300"
        " FROM bigbrotr.relays r, generate_series(1, 10000) AS n",
        NOW,
    )
    size = await brotr.pool.fetchval("SELECT pg_total_relation_size('bigbrotr.rtts')")
    print(f"{size / 10_000:.0f} bytes a check, indexes included")
    assert size / 10_000 < 130


# Uptime


Row = tuple[int, int, bool]  # when, how long it holds, whether it is up


def count_uptime(rows: Sequence[Row], days: int, now: int, step: int) -> dict[str, Any]:
    """Every `step` seconds of the time, looked at one by one."""
    counts = {"up": 0, "down": 0, "unknown": 0}
    for moment in range(now - days * DAY, now, step):
        past = [row for row in rows if row[0] <= moment]
        if not past:
            counts["unknown"] += step
            continue
        at, holds_s, is_up = max(past)
        known = moment < at + holds_s
        counts[("up" if is_up else "down") if known else "unknown"] += step
    incidents: list[list[int | None]] = []
    is_down = False
    for at, _, is_up in sorted(row for row in rows if row[0] < now):
        if is_up and is_down:
            incidents[-1][1] = at
        elif not is_up and not is_down:
            incidents.append([at, None])
        is_down = not is_up
    began = now - days * DAY
    counts["incidents"] = [each for each in incidents if each[1] is None or each[1] > began]  # type: ignore[assignment]
    counts["checks"] = sum(began <= row[0] < now for row in rows)
    return counts


async def put(brotr: Brotr, rows: Sequence[Row]) -> None:
    await brotr.pool.execute("DELETE FROM bigbrotr.rtts")
    await brotr.pool.executemany(
        "INSERT INTO bigbrotr.rtts (relay_id, checked_at, holds_s, outcome)"
        " SELECT id, $1, $2, CASE WHEN NOT $3 THEN 'refused' END FROM bigbrotr.relays",
        rows,
    )


async def uptime(brotr: Brotr, days: int, now: int) -> dict[str, Any]:
    row = await brotr.pool.fetchrow(
        "SELECT * FROM bigbrotr.relay_uptime($1, $2, $3)", RELAYS[0].url, days, now
    )
    assert row is not None
    return dict(row)


@pytest.mark.parametrize(
    ("days", "step", "tries"), [(1, 300, 12), (7, 1800, 8), (30, 7200, 6), (90, 21600, 4)]
)
async def test_uptime_is_what_a_dumb_count_finds(
    days: int, step: int, tries: int, brotr: Brotr
) -> None:
    await brotr.insert_relays(RELAYS[:1])
    chance = random.Random(days)
    for _ in range(tries):
        span = int(days * DAY * 1.5) // step
        times = chance.sample(range(span + 20), chance.randint(0, 40))
        rows = [
            (
                NOW - (span - at) * step,
                chance.choice([1, 3, 10, 1000]) * step,
                chance.random() < 0.6,
            )
            for at in times
        ]
        await put(brotr, rows)
        found, wanted = await uptime(brotr, days, NOW), count_uptime(rows, days, NOW, step)
        assert (found["up_s"], found["down_s"], found["unknown_s"]) == (
            wanted["up"],
            wanted["down"],
            wanted["unknown"],
        )
        assert found["checks"] == wanted["checks"]
        known = wanted["up"] + wanted["down"]
        assert found["uptime"] == (wanted["up"] / known if known else None)
        incidents = json.loads(found["incidents"])
        assert [[each["since"], each["until"]] for each in incidents] == wanted["incidents"]
        assert {each["reason"] for each in incidents} <= {"refused"}


async def test_uptime_of_nobody(brotr: Brotr) -> None:
    found = await uptime(brotr, 7, NOW)
    assert found == {
        "uptime": None,
        "up_s": 0,
        "down_s": 0,
        "unknown_s": 7 * DAY,
        "checks": 0,
        "incidents": "[]",
    }
    await brotr.pool.fetchrow("SELECT * FROM bigbrotr.relay_uptime('wss://nobody.example', 7)")


# The outbox


async def entries(brotr: Brotr, **more: Any) -> list[Any]:
    options: dict[str, Any] = {"targets": 10, "limit": 100, "owner": "me", "lease_s": 60.0}
    return sorted(await brotr.claim_outbox(**(options | more)))


async def deliveries(brotr: Brotr) -> dict[tuple[str, ...], int]:
    rows = await brotr.pool.fetch("SELECT target, outcome, reason, times FROM bigbrotr.deliveries")
    return {tuple(row)[:3]: row["times"] for row in rows}


async def test_a_newer_event_takes_the_place_of_an_older_one(brotr: Brotr) -> None:
    await brotr.post_events([Post("wss://a", 30166, "x", "1"), Post("wss://a", 30166, "y", "1")])
    await brotr.post_events([Post("wss://a", 30166, "x", "2"), Post("wss://b", 30166, "x", "2")])
    found = await entries(brotr)
    assert sorted((entry.target, entry.event) for entry in found) == [
        ("wss://a", "1"),
        ("wss://a", "2"),
        ("wss://b", "2"),
    ]
    assert await entries(brotr) == []
    assert await brotr.release_monitoring("me") == 3
    assert len(await entries(brotr, targets=1)) == 2
    assert len(await entries(brotr, limit=1)) == 1


async def test_what_becomes_of_outbox_entries(brotr: Brotr) -> None:
    await brotr.post_events([Post("wss://a", 30166, str(n), "e") for n in range(5)])
    found = await entries(brotr)
    outcomes = [
        ("accepted", "", ""),
        ("accepted", "duplicate", "duplicate: have it"),
        ("refused", "blocked", "blocked: no"),
        ("failed", "timeout", "x\x00y"),
        ("accepted", "", ""),
    ]
    settled = [(entry, *outcome) for entry, outcome in zip(found, outcomes, strict=True)]
    assert await brotr.settle_outbox(settled, 3) == 4
    assert await deliveries(brotr) == {
        ("wss://a", "accepted", ""): 2,
        ("wss://a", "accepted", "duplicate"): 1,
        ("wss://a", "refused", "blocked"): 1,
        ("wss://a", "failed", "timeout"): 1,
    }
    row = await brotr.pool.fetchrow("SELECT attempts, due_at, owner FROM bigbrotr.outbox")
    assert row is not None
    assert (row["attempts"], row["owner"]) == (0, None)  # the target takes events, and this later
    assert row["due_at"] >= time.time() + 30


async def test_what_fails_beside_what_is_taken_is_no_attempt(brotr: Brotr) -> None:
    """A relay that takes two events and wants a pause then has all of them in the end."""
    posts = [Post("wss://a", 30166, str(n), "e") for n in range(6)]
    await brotr.post_events([*posts, Post("wss://b", 0, "", "e"), Post("wss://c", 0, "", "e")])
    for left in (4, 2, 0):
        await brotr.pool.execute("UPDATE bigbrotr.outbox SET due_at = 0")
        found = await entries(brotr)
        settled = []
        for place, entry in enumerate(sorted(found, key=lambda each: each.target)):
            taken = entry.target == "wss://a" and place < 2
            outcome = "accepted" if taken else "failed"
            settled.append((entry, outcome, "" if taken else "rate-limited", ""))
        await brotr.settle_outbox(settled, 3)
        rows = await brotr.pool.fetch(
            "SELECT target, attempts FROM bigbrotr.outbox WHERE target = 'wss://a'"
        )
        assert [row["attempts"] for row in rows] == [0] * left
    # Those of others count.
    assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.outbox") == 0


async def test_a_relay_s_words_have_a_bound(brotr: Brotr) -> None:
    for start in (0, 30):
        await brotr.post_events([Post("wss://a", 30166, str(start + n), "e") for n in range(30)])
        settled = [
            (entry, "refused", f"prefix-{n}" if start + n else "blocked", "why")
            for n, entry in enumerate(await entries(brotr), start)
        ]
        assert await brotr.settle_outbox(settled, 3) == 30
    found = await deliveries(brotr)
    assert len(found) == 21
    assert sum(found.values()) == 60
    assert found["wss://a", "refused", "other"] == 40
    # What is counted by its name goes on to be.
    await brotr.post_events([Post("wss://a", 30166, str(n), "e") for n in range(2)])
    one, two = await entries(brotr)
    long = "x" * 100_000
    await brotr.settle_outbox([(one, "refused", "blocked", ""), (two, "failed", long, long)], 3)
    found = await deliveries(brotr)
    assert found["wss://a", "refused", "blocked"] == 2
    assert found["wss://a", "failed", "x" * 100] == 1
    assert await brotr.pool.fetchval("SELECT max(length(detail)) FROM bigbrotr.deliveries") == 500


async def test_the_functions_themselves_cut_words(brotr: Brotr) -> None:
    """Whoever calls them."""
    await brotr.insert_relays(RELAYS[:1])
    (due,) = await brotr.claim_checks(Network.CLEARNET, limit=1, owner="me", lease_s=60.0)
    nothing = ", ".join(["ARRAY[NULL]::real[]"] * 6)
    long = "repeat('x', 100000)"
    await brotr.pool.execute(
        f"SELECT bigbrotr.record_checks(ARRAY[$1::bigint], ARRAY[$2::bigint], '{{down}}',"
        f" ARRAY[{long}],"
        f" ARRAY[{long}], ARRAY['{{}}'::jsonb], {nothing}, ARRAY[NULL]::integer[],"
        " ARRAY[NULL]::bytea[], 60, 1000)",
        due.relay_id,
        due.epoch,
    )
    await brotr.insert_candidates(RELAYS[1:2], "test")
    await brotr.pool.execute(
        f"SELECT bigbrotr.resolve_candidates(ARRAY[$1], '{{failed}}', ARRAY[{long}], ARRAY[{long}],"
        " '{0}', '{NULL}', 1000)",
        RELAYS[1].url,
    )
    for table in ("checks", "candidates"):
        row = await brotr.pool.fetchrow(f"SELECT outcome, detail FROM bigbrotr.{table}")
        assert row is not None
        assert (len(row["outcome"]), len(row["detail"])) == (100, 500)
    assert await brotr.pool.fetchval("SELECT length(outcome) FROM bigbrotr.rtts") == 100


async def test_outbox_entries_are_given_up_at_last(brotr: Brotr) -> None:
    await brotr.post_events([Post("wss://a", 0, "", "e")])
    for gone in (0, 0, 1):
        await brotr.pool.execute("UPDATE bigbrotr.outbox SET due_at = 0")
        (entry,) = await entries(brotr)
        assert await brotr.settle_outbox([(entry, "failed", "refused", "")], 3) == gone
    assert await entries(brotr) == []


async def test_what_was_replaced_on_the_way_is_sent_as_well(brotr: Brotr) -> None:
    await brotr.post_events([Post("wss://a", 0, "", "old")])
    (entry,) = await entries(brotr)
    await brotr.post_events([Post("wss://a", 0, "", "new")])
    assert await entries(brotr) == []  # not while the old one is under way
    assert await brotr.settle_outbox([(entry, "accepted", "", "")], 3) == 0
    (newer,) = await entries(brotr)
    assert newer.event == "new"
    assert await brotr.settle_outbox([(newer, "accepted", "", "")], 3) == 1


async def test_events_are_posted_together_with_a_verdict(brotr: Brotr) -> None:
    await brotr.insert_relays(RELAYS[:1])
    due = await again(brotr)
    assert due.published_at is None
    posts = [Post("wss://a", 30166, RELAYS[0].url, "e")]
    await record(brotr, due, "up", digest=b"1", posts=posts)
    due = await again(brotr)
    assert due.published_digest == b"1"
    assert due.published_at is not None
    await record(brotr, due, "up")
    assert (await again(brotr)).published_digest == b"1"
    assert len(await entries(brotr)) == 1


# Snapshots of documents


async def latest(brotr: Brotr) -> dict[tuple[str, str], tuple[int, Any]]:
    rows = await brotr.pool.fetch("SELECT * FROM bigbrotr.relay_metadata_latest")
    return {
        (row["relay_url"], row["type"]): (row["snapshot_at"], json.loads(row["data"]))
        for row in rows
    }


async def test_snapshots_and_the_newest(brotr: Brotr) -> None:
    one, two = Metadata({"name": "one"}), Metadata({"name": "two"})
    batch = [
        RelayMetadata(A, one, MetadataType.NIP11, NOW),
        RelayMetadata(A, two, MetadataType.NIP11, NOW + 10),
        RelayMetadata(A, one, MetadataType.NIP66_RTT, NOW + 20),
        RelayMetadata(B, one, MetadataType.NIP11, NOW),
        RelayMetadata(B, one, MetadataType.NIP11, NOW),
    ]
    assert await brotr.insert_relay_metadata(batch) == 4
    assert await brotr.insert_relay_metadata(batch) == 0
    assert await brotr.insert_relay_metadata([]) == 0
    assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.metadata") == 2
    newest = {
        (A.url, "nip11"): (NOW + 10, {"name": "two"}),
        (A.url, "nip66_rtt"): (NOW + 20, {"name": "one"}),
        (B.url, "nip11"): (NOW, {"name": "one"}),
    }
    assert await latest(brotr) == newest
    # What comes late changes the series, not the newest.
    late = RelayMetadata(A, one, MetadataType.NIP11, NOW + 5)
    assert await brotr.insert_relay_metadata([late]) == 1
    assert await latest(brotr) == newest
    await brotr.pool.execute("DELETE FROM bigbrotr.snapshots WHERE snapshot_at = $1", NOW + 10)
    await brotr.pool.execute("DELETE FROM bigbrotr.snapshots WHERE type = 'nip66_rtt'")
    await brotr.refresh_metadata_latest()
    del newest[A.url, "nip66_rtt"]
    newest[A.url, "nip11"] = (NOW + 5, {"name": "one"})
    assert await latest(brotr) == newest
    assert await brotr.delete_orphan_metadata() == 1
    assert await brotr.delete_orphan_metadata() == 0


HOSTILE: list[dict[str, Any]] = [
    {},
    {"": "", "a\0": "\0", "\ud800": "\udfff", "a": "\ufffd"},
    {"supported_nips": [10**300, -(10**308), 1e308, 5e-324, 1.0, -0.0, 0.1, 2**64, "x", None]},
    {"numbers": [10**4000, 1 << 5000, 1e16, 123456789.123456789, 1e-7]},
    {"long": "x" * 200_000, "k" * 3000: 1},
    {"deep": json.loads("[" * 60 + "]" * 60)},
    {"keys": {str(n): n for n in range(2000)}},
    {"text": '\\u0000 " \\ / \b\f\n\r\t \x01 \x7f \u2028 \U0001d54f é e\u0301'},
    {"sorted": {"b": 1, "a": 2, "aa": 3, "é": 4, "Z": 5, "\U0001d54f": 6, "\uffff": 7}},
]


@pytest.mark.parametrize("document", HOSTILE)
async def test_hostile_documents_survive_with_the_same_id(
    brotr: Brotr, document: dict[str, Any]
) -> None:
    metadata = Metadata(document)
    assert (
        await brotr.insert_relay_metadata([RelayMetadata(A, metadata, MetadataType.NIP11, NOW)])
        == 1
    )
    row = await brotr.pool.fetchrow("SELECT id, data FROM bigbrotr.metadata")
    assert row is not None
    assert row["id"] == metadata.id == Metadata.from_json(row["data"]).id


async def test_documents_and_their_maintenance_at_once(crowd: Brotr) -> None:
    documents = [Metadata({"n": n}) for n in range(4)]

    async def measure(number: int) -> None:
        relay = Relay(f"wss://r{number % 3}.example.com")
        for n in range(15):
            at = NOW + 100 * number + n
            snapshot = RelayMetadata(relay, documents[n % 4], MetadataType.NIP11, at)
            assert await crowd.insert_relay_metadata([snapshot]) == 1
            if n % 5 == 4:
                await crowd.pool.execute("DELETE FROM bigbrotr.relays WHERE url = $1", relay.url)

    async def maintenance() -> None:
        for _ in range(40):
            await crowd.delete_orphan_metadata()

    await asyncio.gather(*map(measure, range(6)), maintenance(), maintenance())
    await crowd.delete_orphan_metadata()
    before = await latest(crowd)
    await crowd.refresh_metadata_latest()
    assert await latest(crowd) == before
