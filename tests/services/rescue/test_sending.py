"""Sending: what each relay answers is kept, what it takes and how fast is obeyed, and nothing is
believed that was not seen."""

import asyncio
import json
import time
from typing import Any

import pytest
from msgspec import structs

from bigbrotr.config.settings import PolitenessSettings, Profile
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.logger import Logger
from bigbrotr.models.relay import Relay
from bigbrotr.models.rescue import Left
from bigbrotr.reads.rescues import list_rescues, list_targets
from bigbrotr.services.rescue.sending import Sender, has_ended, owner_of_this_process
from tests.kit.events import NOW, make_event, pubkey
from tests.kit.model import Vices
from tests.kit.policy import judge
from tests.kit.real import free_port, nostr_relay
from tests.kit.scripted import ScriptedRelay
from tests.services.rescue.town import (
    DEAD,
    archive,
    config,
    cycle,
    holders,
    make_due,
    queue,
    sender,
    states,
)

RECENT = int(time.time()) - 1000


async def test_it_is_noted_where_it_was_seen(brotr: Brotr) -> None:
    async with ScriptedRelay() as target:
        events = await archive(
            brotr,
            [make_event(NOW - n, content=f"{n}") for n in range(3)],
            DEAD,
            targets=[target.url],
        )
        target.events += ScriptedRelay([make_event(NOW, content="0")]).events  # it has one
        assert await queue(brotr, target.url, events) == 3
        assert await queue(brotr, target.url, events) == 0
        assert await sender(brotr).send() == 1
        assert await sender(brotr).send() == 0
        found = await states(brotr)
        assert found == {
            events[0].id: ("held", "there"),
            events[1].id: ("held", ""),
            events[2].id: ("held", ""),
        }
        assert len(target.seen.events) == 2
        for event in events:
            assert await holders(brotr, event.id) == {DEAD.url, target.url}


async def test_a_relay_that_is_none_of_ours_becomes_a_candidate(brotr: Brotr) -> None:
    async with ScriptedRelay() as target:
        events = await archive(brotr, [make_event()], DEAD)
        await queue(brotr, target.url, events)
        await sender(brotr).send()
        assert await states(brotr) == {events[0].id: ("held", "")}
        assert await holders(brotr, events[0].id) == {DEAD.url}
        source = await brotr.pool.fetchval(
            "SELECT source FROM bigbrotr.candidates WHERE url = $1", target.url
        )
        assert source == "rescue"


async def test_an_ok_is_no_proof(brotr: Brotr) -> None:
    """It said OK true, and does not hold it: sent twice at most, and never noted as held."""
    async with ScriptedRelay(vices=Vices(forgets=True)) as target:
        (event,) = await archive(brotr, [make_event()], DEAD, targets=[target.url])
        await queue(brotr, target.url, [event])
        seen = []
        for _ in range(6):
            await sender(brotr).send()
            seen.append((await states(brotr))[event.id][0])
            await make_due(brotr)
        assert seen == ["accepted", "waiting", "accepted", "unkept", "unkept", "unkept"]
        assert len(target.seen.events) == 2
        assert await holders(brotr, event.id) == {DEAD.url}


async def test_what_it_keeps_late_is_seen_late(brotr: Brotr) -> None:
    async with ScriptedRelay(vices=Vices(forgets=True)) as target:
        (event,) = await archive(brotr, [make_event()], DEAD, targets=[target.url])
        await queue(brotr, target.url, [event])
        await sender(brotr).send()
        await target.add(make_event())
        await make_due(brotr)
        await sender(brotr).send()
        assert await states(brotr) == {event.id: ("held", "")}
        assert len(target.seen.events) == 1


async def test_a_forged_copy_is_no_proof(brotr: Brotr) -> None:
    forged = {**make_event(), "content": "other words"}
    async with ScriptedRelay(vices=Vices(forgets=True)) as target:
        (event,) = await archive(brotr, [make_event()], DEAD, targets=[target.url])
        target.stray_frames = [json.dumps(forged).encode()]
        await queue(brotr, target.url, [event])
        await sender(brotr).send()
        assert (await states(brotr))[event.id][0] == "accepted"
        assert await holders(brotr, event.id) == {DEAD.url}


async def test_what_a_relay_says_is_kept(brotr: Brotr) -> None:
    words = "blocked: " + "no \0 notes\ud83d of yours " * 40
    async with ScriptedRelay(vices=Vices(says_no=words)) as target:
        (event,) = await archive(brotr, [make_event()], DEAD)
        await queue(brotr, target.url, [event])
        await sender(brotr).send()
        row = await brotr.pool.fetchrow("SELECT * FROM bigbrotr.rescues")
        assert row is not None
        assert (row["state"], row["reason"]) == ("refused", "blocked")
        assert row["detail"].startswith("blocked: no \ufffd notes")
        assert len(row["detail"]) == 300
        assert row["answered_at"] > 0
        # What was refused is not sent again, unless somebody insists.
        assert await queue(brotr, target.url, [event]) == 0
        insisted = [(target.url, event.created_at, event.id, event.pubkey, None)]
        assert await brotr.queue_rescues(insisted, is_again=True) == 1  # type: ignore[arg-type]


async def test_a_rate_limit_is_obeyed(brotr: Brotr) -> None:
    async with ScriptedRelay(vices=Vices(takes=2)) as target:
        events = await archive(brotr, [make_event(NOW - n, content=f"{n}") for n in range(5)], DEAD)
        await queue(brotr, target.url, events)
        await sender(brotr).send()
        assert len(target.events) == 2
        assert await sender(brotr).send() == 0  # it is left alone ...
        row = await brotr.pool.fetchrow("SELECT * FROM bigbrotr.rescue_targets")
        assert row is not None
        assert row["outcome"] == "rate-limited"
        assert row["due_at"] - row["tried_at"] >= 45  # ... for a minute or so
        assert row["attempts"] == 1
        connections = target.seen.connections
        for _ in range(3):
            await make_due(brotr)
            await sender(brotr).send()
        assert len(target.events) == 5
        assert len({each["id"] for each in target.events}) == 5
        assert target.seen.connections > connections
        assert {state for state, _ in (await states(brotr)).values()} == {"held"}


async def test_no_faster_than_the_settings_say(brotr: Brotr) -> None:
    async with ScriptedRelay() as target:
        events = await archive(brotr, [make_event(NOW - n, content=f"{n}") for n in range(5)], DEAD)
        await queue(brotr, target.url, events)
        await sender(brotr, per_minute=2).send()
        assert len(target.events) == 2
        row = await brotr.pool.fetchrow("SELECT * FROM bigbrotr.rescue_targets")
        assert row is not None
        assert row["due_at"] - row["tried_at"] == 60


async def test_who_never_answers_is_given_up(brotr: Brotr) -> None:
    gone = f"ws://127.0.0.1:{free_port()}"
    events = await archive(brotr, [make_event(content=f"{n}") for n in range(3)], DEAD)
    await queue(brotr, gone, events)
    waits = []
    for _ in range(4):
        await sender(brotr, max_attempts=4).send()
        waits.append(
            await brotr.pool.fetchval("SELECT due_at - tried_at FROM bigbrotr.rescue_targets")
        )
        await make_due(brotr)
    assert waits[0] < waits[1] < waits[2]
    assert set((await states(brotr)).values()) == {("failed", "refused")}
    assert await queue(brotr, gone, events) == 3  # somebody asks for it again


async def test_errors_are_tried_again(brotr: Brotr) -> None:
    async with ScriptedRelay(vices=Vices(says_no="error: disk full")) as target:
        (event,) = await archive(brotr, [make_event()], DEAD)
        await queue(brotr, target.url, [event])
        await sender(brotr).send()
        assert await states(brotr) == {event.id: ("waiting", "error")}
        target.vices = Vices()
        await make_due(brotr)
        await sender(brotr).send()
        assert await states(brotr) == {event.id: ("held", "")}


@pytest.mark.parametrize("auth", ["throwaway", "never"])
async def test_who_wants_to_know_us_is_told(brotr: Brotr, auth: str) -> None:
    async with ScriptedRelay(vices=Vices(needs_auth=True)) as target:
        (event,) = await archive(brotr, [make_event()], DEAD)
        await queue(brotr, target.url, [event])
        await sender(brotr, auth=auth).send()
        state, _ = (await states(brotr))[event.id]
        assert state == ("held" if auth == "throwaway" else "waiting")


LONG = make_event(RECENT, content="x" * 3000)
TAGGED = make_event(RECENT, tags=[["t", f"{n}"] for n in range(30)])
OLD = make_event(1_600_000_000, content="old")
NEW = make_event(RECENT + 900_000, content="from the future")


@pytest.mark.parametrize(
    ("limitation", "event", "why"),
    [
        ({"max_message_length": 3000}, LONG, Left.MESSAGE),
        ({"max_content_length": 2999}, LONG, Left.CONTENT),
        ({"max_event_tags": 29}, TAGGED, Left.TAGS),
        ({"created_at_lower_limit": 31_536_000}, OLD, Left.TOO_OLD),
        ({"created_at_lower_limit": 1_700_000_000}, OLD, Left.TOO_OLD),
        ({"created_at_upper_limit": 900}, NEW, Left.TOO_NEW),
        ({"min_pow_difficulty": 40}, LONG, Left.WORK),
        ({"payment_required": True}, LONG, Left.PAYMENT),
        ({"restricted_writes": True}, LONG, Left.RESTRICTED),
    ],
)
async def test_what_a_relay_says_it_does_not_take_is_not_sent(
    brotr: Brotr, limitation: dict[str, Any], event: dict[str, Any], why: Left
) -> None:
    async with ScriptedRelay(nip11={"limitation": limitation}) as target:
        (found,) = await archive(brotr, [event], DEAD)
        (fine,) = await archive(brotr, [make_event(RECENT, content="fine", key=3)], DEAD)
        await queue(brotr, target.url, [found, fine])
        await sender(brotr).send()
        has = await states(brotr)
        assert has[found.id] == ("left", why.value)
        assert found.id.hex() not in {each["id"] for each in target.seen.events}
        if why not in (Left.WORK, Left.PAYMENT, Left.RESTRICTED):
            assert has[fine.id] == ("held", "")


async def test_where_we_are_known_we_may_write(brotr: Brotr) -> None:
    document = {"limitation": {"payment_required": True, "restricted_writes": True}}
    async with ScriptedRelay(nip11=document) as target:
        (event,) = await archive(brotr, [make_event()], DEAD)
        await queue(brotr, target.url, [event])
        await sender(brotr, known_at=(target.url,)).send()
        assert await states(brotr) == {event.id: ("held", "")}


@pytest.mark.parametrize(
    "document",
    [b"nonsense", b"{}" * 10, {"limitation": [1]}, {"limitation": {"max_event_tags": "many"}}],
)
async def test_a_document_that_says_nothing_keeps_nobody(brotr: Brotr, document: Any) -> None:
    async with ScriptedRelay(nip11=document) as target:
        (event,) = await archive(brotr, [make_event()], DEAD)
        await queue(brotr, target.url, [event])
        await sender(brotr).send()
        assert await states(brotr) == {event.id: ("held", "")}


SECRET = make_event(RECENT, tags=[["-"]], content="mine to publish")
ENDED = make_event(RECENT, tags=[["expiration", "1700000000"]], content="over")
EXCLUDED: dict[str, dict[str, Any]] = {
    "protected": SECRET,
    "expired": ENDED,
    "ephemeral": make_event(RECENT, 20_001),
    "private": make_event(RECENT, 1059, [["p", pubkey(2)]], content="wrapped"),
    "embeds": make_event(RECENT, 6, [["e", SECRET["id"]]], content=json.dumps(SECRET)),
    "embeds a generic one": make_event(RECENT, 16, content=f"  {json.dumps(SECRET)}"),
    "embeds twice": make_event(
        RECENT, 16, content=json.dumps(make_event(1, 6, content=json.dumps(SECRET)))
    ),
    "embeds what is over": make_event(RECENT, 6, content=json.dumps(ENDED)),
    "embeds what none can read": make_event(RECENT, 6, content='{"tags": [["-"]], '),
    "embeds what is odd": make_event(RECENT, 6, content='{"tags": [["-", 7], 3, {}, []]}'),
}


@pytest.mark.parametrize("name", EXCLUDED)
async def test_what_is_not_to_be_published_by_us_is_not(brotr: Brotr, name: str) -> None:
    """Whatever the policy shows to readers, and whether it has judged yet."""
    async with ScriptedRelay() as target:
        (event,) = await archive(brotr, [EXCLUDED[name]], DEAD)
        await queue(brotr, target.url, [event])
        await sender(brotr).send()
        assert target.seen.events == []
        why = name.split()[0]
        assert await states(brotr) == {event.id: ("left", why)}


async def test_a_repost_of_what_may_be_sent_is_sent(brotr: Brotr) -> None:
    inner = make_event(content='a note that says "-"', key=4)
    reposts = [
        make_event(NOW, 6, content=json.dumps(inner)),
        make_event(NOW, 6, [["e", SECRET["id"]]]),
        make_event(NOW, 16, content="no JSON"),
        make_event(NOW, 1, content=json.dumps(SECRET)),  # quotes it in a text: that is no repost
    ]
    async with ScriptedRelay() as target:
        events = await archive(brotr, reposts, DEAD)
        await queue(brotr, target.url, events)
        await sender(brotr).send()
        assert len(target.events) == 4


async def test_what_is_deleted_meanwhile_is_not_sent(brotr: Brotr) -> None:
    """The requests come after the events were queued, and nobody else judges."""
    notes = [make_event(NOW - n, content=f"{n}") for n in range(4)]
    quote = make_event(NOW, 6, content=json.dumps(notes[0]), key=5)
    theirs = [make_event(NOW - 5, content="gone", key=1), make_event(NOW, content="here", key=1)]
    profile = [make_event(NOW - 2, 0, content="{}"), make_event(NOW, 0, content='{"name":"x"}')]
    async with ScriptedRelay() as target:
        events = await archive(brotr, [*notes, quote, *theirs, *profile], DEAD)
        await queue(brotr, target.url, events)
        asked = [
            make_event(NOW, 5, [["e", notes[0]["id"]]]),
            make_event(NOW - 1, 62, [["relay", "ALL_RELAYS"]], key=1),
        ]
        await archive(brotr, asked, DEAD)
        await judge(brotr)
        await brotr.take_down("event", events[1].id, why="spam", who="me")
        await sender(brotr).send()
        found = await states(brotr)
        assert [found[event.id] for event in events] == [
            ("left", "deleted"),
            ("left", "taken-down"),
            ("held", ""),
            ("held", ""),
            ("left", "embeds"),
            ("left", "vanished"),
            ("held", ""),
            ("left", "superseded"),
            ("held", ""),
        ]
        assert len(target.seen.events) == 4


async def test_who_has_vanished_from_a_relay_is_not_brought_back(brotr: Brotr) -> None:
    async with ScriptedRelay() as target, ScriptedRelay() as other:
        (before, after) = await archive(
            brotr,
            [make_event(NOW - 1, content="before"), make_event(NOW + 1, content="after")],
            DEAD,
        )
        await archive(brotr, [make_event(NOW, 62, [["relay", target.url]])], DEAD)
        await cycle(brotr, to=(target.url, other.url))
        assert {each["id"] for each in target.events if each["kind"] == 1} == {after.id.hex()}
        assert {before.id.hex(), after.id.hex()} <= {each["id"] for each in other.events}
        await queue(brotr, target.url, [before])
        await sender(brotr).send()
        assert before.id.hex() not in {each["id"] for each in target.events}


async def test_one_that_died_in_between_sends_nothing_twice(brotr: Brotr) -> None:
    """The relay has taken all, and nobody has noted it."""
    async with ScriptedRelay() as target:
        events = await archive(
            brotr,
            [make_event(NOW - n, content=f"{n}") for n in range(20)],
            DEAD,
            targets=[target.url],
        )
        await queue(brotr, target.url, events)
        ours = sender(brotr)
        task = asyncio.create_task(ours.send())
        died = asyncio.Event()

        again: list[str] = []  # that it was sent although it held them

        def die() -> None:
            newest = target.seen.events[-1]["id"]
            again.extend(each["id"] for each in target.events if each["id"] == newest)
            if len(target.seen.events) == 15:
                task.cancel()
                died.set()

        target.at_event = die
        await died.wait()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert set((await states(brotr)).values()) == {("waiting", "")}
        assert await sender(brotr).send() == 0  # its lease is not over
        await brotr.release_rescues(["me"])
        await sender(brotr).send()
        assert set((await states(brotr)).values()) <= {("held", ""), ("held", "there")}
        assert again == []
        assert {each["id"] for each in target.events} == {event.id.hex() for event in events}
        for event in events:
            assert target.url in await holders(brotr, event.id)


async def test_of_two_at_once_each_event_is_sent_by_one(brotr: Brotr) -> None:
    async with ScriptedRelay() as first, ScriptedRelay() as second:
        events = await archive(
            brotr, [make_event(NOW - n, content=f"{n}") for n in range(30)], DEAD
        )
        for relay in (first, second):
            await queue(brotr, relay.url, events)
        others = [
            Sender(brotr, config(), owner=f"worker {n}", log=Logger("rescue")) for n in range(4)
        ]
        await asyncio.gather(*(each.send() for each in others))
        for relay in (first, second):
            sent = [each["id"] for each in relay.seen.events]
            assert len(sent) == len(set(sent)) == 30


async def test_what_became_of_each_can_be_read(brotr: Brotr) -> None:
    async with ScriptedRelay() as good, ScriptedRelay(vices=Vices(says_no="blocked: no")) as bad:
        events = await archive(
            brotr, [make_event(NOW - n, content=f"{n}", key=n % 2) for n in range(7)], DEAD
        )
        for relay in (good, bad):
            await queue(brotr, relay.url, events)
        await sender(brotr).send()
        whole = await list_rescues(brotr.pool, None, 100)
        assert len(whole) == 14
        paged, after = [], None
        while page := await list_rescues(brotr.pool, after, 3):
            paged += page
            after = page[-1][0]
        assert paged == whole
        refused = await list_rescues(brotr.pool, None, 100, states=["refused"])
        assert {(row.relay, row.reason, row.detail) for _, row in refused} == {
            (bad.url, "blocked", "blocked: no")
        }
        mine = await list_rescues(brotr.pool, None, 100, author=pubkey(1), relay=good.url)
        assert {row.state for _, row in mine} == {"held"}
        assert len(mine) == 3
        targets = {each.relay: each for each in await list_targets(brotr.pool)}
        assert (targets[good.url].held, targets[bad.url].refused) == (7, 7)
        assert targets[good.url].next_at is None


async def test_relays_that_lie_silent_or_litter_cost_nobody_else(brotr: Brotr) -> None:
    vices = [
        Vices(silent=True),
        Vices(garbage=frozenset({"not-json", "wrong-shape", "binary"})),
        Vices(refuses_ids=True),
        Vices(http_only=True),
        Vices(drop_after_pages=0),
    ]
    (event,) = await archive(brotr, [make_event()], DEAD)
    relays = [ScriptedRelay(vices=each) for each in vices]
    async with relays[0], relays[1], relays[2], relays[3], relays[4], ScriptedRelay() as good:
        for relay in (*relays, good):
            await queue(brotr, relay.url, [event])
        await sender(brotr).send()
        rows = await brotr.pool.fetch(
            "SELECT t.url, r.state, t.outcome FROM bigbrotr.rescues r"
            " JOIN bigbrotr.rescue_targets t ON t.id = r.target_id"
        )
        found = {row["url"]: (row["state"], row["outcome"]) for row in rows}
        assert found[good.url] == found[relays[1].url] == ("held", "done")
        for relay in (relays[0], *relays[2:]):
            assert found[relay.url][0] == "waiting"
            assert found[relay.url][1] != "done"


async def test_a_relay_by_others(brotr: Brotr, tmp_path: Any) -> None:
    async with nostr_relay(tmp_path) as url:
        events = await archive(
            brotr,
            [make_event(RECENT - n, content=f"{n}") for n in range(20)],
            DEAD,
            targets=[url],
        )
        await queue(brotr, url, events)
        await sender(brotr).send()
        assert set((await states(brotr)).values()) == {("held", "")}
        assert await holders(brotr, events[7].id) == {DEAD.url, Relay(url).url}


async def test_who_wants_none_of_us_is_left_alone(brotr: Brotr) -> None:
    async with ScriptedRelay() as target:
        (event,) = await archive(brotr, [make_event()], DEAD)
        await queue(brotr, target.url, [event])
        spared = PolitenessSettings(opt_out=("127.0.0.1",))
        settings = structs.replace(config(), politeness=spared)
        await Sender(brotr, settings, owner="me", log=Logger("rescue")).send()
        assert target.seen.connections == 0
        assert target.seen.headers == []
        row = await brotr.pool.fetchrow("SELECT * FROM bigbrotr.rescue_targets")
        assert row is not None
        assert (row["outcome"], row["attempts"]) == ("opted-out", 1)


async def test_networks_that_are_off_are_left_out(brotr: Brotr) -> None:
    onion = "ws://2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion"
    (event,) = await archive(brotr, [make_event()], DEAD)
    await queue(brotr, onion, [event])
    await sender(brotr).send()
    assert await states(brotr) == {event.id: ("left", "network-off")}


@pytest.mark.parametrize("profile", [Profile.LITE])
async def test_an_archive_without_contents_sends_nothing(brotr: Brotr) -> None:
    async with ScriptedRelay() as target:
        (event,) = await archive(brotr, [make_event()], DEAD)
        await cycle(brotr, to=(target.url,))
        assert await states(brotr) == {}
        await queue(brotr, target.url, [event])
        await sender(brotr).send()
        assert await states(brotr) == {event.id: ("left", "not-kept")}


def test_a_process_is_told_from_one_that_has_ended() -> None:
    ours = owner_of_this_process()
    assert not has_ended(ours)
    assert has_ended(ours.rpartition(":")[0] + ":1")  # another of the same number
    for other in ("", "bigbrotr/rescue", "rescue@elsewhere:1:2", "rescue@x", "rescue@a:b:c"):
        assert not has_ended(other)


async def test_a_clock_that_was_ahead_puts_nothing_off(brotr: Brotr) -> None:
    """What was queued, or put off, while a clock was ahead is due when it is right again."""
    async with ScriptedRelay() as target:
        known, new = await archive(
            brotr, [make_event(NOW - n, content=f"{n}") for n in range(2)], DEAD
        )
        await queue(brotr, target.url, [known])
        ahead = int(time.time()) + 10 * 86_400
        (entry,) = await brotr.pool.fetch(
            "SELECT * FROM bigbrotr.claim_rescues(p_urls => NULL, p_targets => 1, p_limit => 1,"
            " p_owner => 'me', p_lease_s => 60, p_now => $1)",
            ahead,
        )
        await brotr.pool.execute(
            "SELECT bigbrotr.settle_rescues(p_target_id => $1, p_owner => 'me', p_ids => $2,"
            " p_states => '{waiting}', p_reasons => '{error}', p_details => '{\"\"}',"
            " p_waits => '{NULL}', p_answered => '{true}', p_is_failed => false,"
            " p_has_taken => false, p_pause_s => 0, p_outcome => 'done', p_detail => '',"
            " p_max_attempts => 9, p_now => $3)",
            entry["target_id"],
            [known.id],
            ahead,
        )
        async with ScriptedRelay() as other:
            await brotr.pool.execute(
                "SELECT bigbrotr.queue_rescues(p_urls => $1, p_created_ats => $2, p_ids => $3,"
                " p_pubkeys => $4, p_dropped_ats => '{NULL}', p_is_again => false, p_now => $5)",
                [other.url],
                [new.created_at],
                [new.id],
                [new.pubkey],
                ahead,
            )
            assert await sender(brotr).send() == 0
            await brotr.forget_the_future()
            assert await sender(brotr).send() == 2
            assert await states(brotr) == {known.id: ("held", ""), new.id: ("held", "")}
        assert await brotr.forget_the_future() == (0, 0)
