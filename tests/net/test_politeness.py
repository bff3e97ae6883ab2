"""Politeness: bounds that hold however much is wanted at once, and nobody who waits for ever."""

import asyncio
import time

import pytest

from bigbrotr import __version__
from bigbrotr.config.settings import PolitenessSettings
from bigbrotr.net.politeness import Politeness, politeness_of


def test_user_agent() -> None:
    assert Politeness().user_agent == f"bigbrotr/{__version__}"
    named = Politeness(PolitenessSettings(contact="ops@example.com"))
    assert named.user_agent == f"bigbrotr/{__version__} (+ops@example.com)"


@pytest.mark.parametrize(
    ("place", "is_refused"),
    [
        ("relay.example.com", True),
        ("a.b.relay.example.com", True),
        ("example.com", False),
        ("notrelay.example.com", False),
        ("192.0.2.77", True),
        ("192.0.3.1", False),
        ("::ffff:c000:24d", True),  # 192.0.2.77 in IPv6
        ("2001:db8:1::5", True),
        ("2001:db8:2::5", False),
        ("198.51.100.1", True),
        ("198.51.100.2", False),
        ("xn--mnchen-3ya.example", True),
    ],
)
def test_who_has_opted_out(place: str, is_refused: bool) -> None:
    entries = ("Relay.example.com.", "192.0.2.0/24", "2001:db8:1::/48", "198.51.100.1")
    politeness = Politeness(PolitenessSettings(opt_out=(*entries, "münchen.example")))
    assert politeness.refuses(place) is is_refused


async def test_one_address_has_few_seats() -> None:
    politeness = Politeness(PolitenessSettings(per_address=2, per_subnet=3))
    first, places = await politeness.take_slot(["192.0.2.1"], 0)
    assert places == ["192.0.2.1"]
    second, _ = await politeness.take_slot(["192.0.2.1"], 0)
    assert [slot.is_contested for slot in (first, second)] == [False, False]
    assert (await politeness.take_slot(["192.0.2.1"], 0))[1] == []
    assert [slot.is_contested for slot in (first, second)] == [True, True]
    # A third of its neighbours, and no fourth.
    neighbour, places = await politeness.take_slot(["192.0.2.9"], 0)
    assert places == ["192.0.2.9"]
    assert (await politeness.take_slot(["192.0.2.10"], 0))[1] == []
    assert (await politeness.take_slot(["192.0.3.1"], 0))[1] == ["192.0.3.1"]
    # Whoever has another address goes there.
    assert (await politeness.take_slot(["192.0.2.1", "2001:db8::1"], 0))[1] == ["2001:db8::1"]
    neighbour.leave()
    neighbour.leave()
    first.leave()
    assert (await politeness.take_slot(["192.0.2.1"], 0))[1] == ["192.0.2.1"]


async def test_who_waits_gets_the_next_seat() -> None:
    politeness = Politeness(PolitenessSettings(per_address=1))
    slot, _ = await politeness.take_slot(["192.0.2.1"], 0)
    waiting = asyncio.create_task(politeness.take_slot(["192.0.2.1"], 30.0))
    await asyncio.sleep(0)
    assert not waiting.done()
    slot.leave()
    async with asyncio.timeout(5):
        _, places = await waiting
    assert places == ["192.0.2.1"]
    assert politeness.crowded.times == 1


async def test_who_waited_in_vain_is_told() -> None:
    politeness = Politeness(PolitenessSettings(per_address=1))
    await politeness.take_slot(["192.0.2.1"], 0)
    assert politeness.crowded == (0, 0.0)
    assert (await politeness.take_slot(["192.0.2.1"], 0.05))[1] == []
    assert politeness.crowded.times == 1
    assert politeness.crowded.seconds >= 0.04  # timers may fire a moment early


async def test_spellings_of_an_address_are_one_place() -> None:
    politeness = Politeness(PolitenessSettings(per_address=1))
    slot, _ = await politeness.take_slot(["::ffff:c000:201", "192.0.3.1"], 0)
    assert (await politeness.take_slot(["192.0.2.1"], 0))[1] == []
    slot.keep_only("::ffff:192.0.2.1")
    assert (await politeness.take_slot(["192.0.2.1"], 0))[1] == []
    assert (await politeness.take_slot(["192.0.3.1"], 0))[1] == ["192.0.3.1"]


async def test_hosts_behind_a_proxy_count_by_name() -> None:
    politeness = Politeness(PolitenessSettings(per_address=1))
    await politeness.take_slot(["relay.example"], 0)
    assert (await politeness.take_slot(["relay.example"], 0))[1] == []
    assert (await politeness.take_slot(["other.example"], 0))[1] == ["other.example"]


async def test_processes_share_the_bounds() -> None:
    settings = PolitenessSettings(per_address=4, starts_per_s=100.0)
    parts = [Politeness(settings, 2) for _ in range(2)]
    seated = [
        len((await politeness.take_slot(["192.0.2.1"], 0))[1])
        for politeness in parts
        for _ in range(4)
    ]
    assert sum(seated) == 4
    assert len((await Politeness(settings, 16).take_slot(["192.0.2.1"], 0))[1]) == 1


async def test_starts_come_at_a_rate() -> None:
    politeness = Politeness(PolitenessSettings(starts_per_s=100.0))
    began = time.monotonic()
    await asyncio.gather(*(politeness.start() for _ in range(50)))
    assert time.monotonic() - began >= 0.35  # ten may come at once
    assert 35 <= politeness.paced.times <= 40
    assert politeness.paced.seconds > 0.35 * 35 / 2


def test_who_asked_us_to_slow_down_is_left_alone() -> None:
    politeness = Politeness()
    politeness.cool_down("relay.example", 443, 60.0)
    assert politeness.is_cooling_down("relay.example", 443)
    assert not politeness.is_cooling_down("relay.example", 80)
    politeness.cool_down("relay.example", 443, 0.0)
    assert not politeness.is_cooling_down("relay.example", 443)


def test_memory_is_bounded() -> None:
    politeness = Politeness()
    for number in range(25_000):
        politeness.cool_down(f"host{number}.example", 443, 600.0)
    assert len(politeness._resting) <= 10_000


def test_a_process_has_one_of_each() -> None:
    assert politeness_of(PolitenessSettings()) is politeness_of(PolitenessSettings())
    assert politeness_of(PolitenessSettings()) is not politeness_of(
        PolitenessSettings(per_address=1)
    )
