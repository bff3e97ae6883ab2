"""Manners: bounds that hold however much is wanted at once, and nobody who waits for ever."""

import asyncio
import time

import pytest

from bigbrotr import __version__
from bigbrotr.config import MannersSettings
from bigbrotr.nostr.manners import Manners, manners_of


def test_user_agent() -> None:
    assert Manners().user_agent == f"bigbrotr/{__version__}"
    named = Manners(MannersSettings(contact="ops@example.com"))
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
    manners = Manners(MannersSettings(opt_out=(*entries, "münchen.example")))
    assert manners.refuses(place) is is_refused


async def test_one_address_has_few_seats() -> None:
    manners = Manners(MannersSettings(per_address=2, per_subnet=3))
    first, places = await manners.sit(["192.0.2.1"], 0)
    assert places == ["192.0.2.1"]
    second, _ = await manners.sit(["192.0.2.1"], 0)
    assert [seat.is_contested for seat in (first, second)] == [False, False]
    assert (await manners.sit(["192.0.2.1"], 0))[1] == []
    assert [seat.is_contested for seat in (first, second)] == [True, True]
    # A third of its neighbours, and no fourth.
    neighbour, places = await manners.sit(["192.0.2.9"], 0)
    assert places == ["192.0.2.9"]
    assert (await manners.sit(["192.0.2.10"], 0))[1] == []
    assert (await manners.sit(["192.0.3.1"], 0))[1] == ["192.0.3.1"]
    # Whoever has another address goes there.
    assert (await manners.sit(["192.0.2.1", "2001:db8::1"], 0))[1] == ["2001:db8::1"]
    neighbour.leave()
    neighbour.leave()
    first.leave()
    assert (await manners.sit(["192.0.2.1"], 0))[1] == ["192.0.2.1"]


async def test_who_waits_gets_the_next_seat() -> None:
    manners = Manners(MannersSettings(per_address=1))
    seat, _ = await manners.sit(["192.0.2.1"], 0)
    waiting = asyncio.create_task(manners.sit(["192.0.2.1"], 30.0))
    await asyncio.sleep(0)
    assert not waiting.done()
    seat.leave()
    async with asyncio.timeout(5):
        _, places = await waiting
    assert places == ["192.0.2.1"]
    assert manners.crowded.times == 1


async def test_who_waited_in_vain_is_told() -> None:
    manners = Manners(MannersSettings(per_address=1))
    await manners.sit(["192.0.2.1"], 0)
    assert manners.crowded == (0, 0.0)
    assert (await manners.sit(["192.0.2.1"], 0.05))[1] == []
    assert manners.crowded.times == 1
    assert manners.crowded.seconds >= 0.04  # timers may fire a moment early


async def test_spellings_of_an_address_are_one_place() -> None:
    manners = Manners(MannersSettings(per_address=1))
    seat, _ = await manners.sit(["::ffff:c000:201", "192.0.3.1"], 0)
    assert (await manners.sit(["192.0.2.1"], 0))[1] == []
    seat.keep_only("::ffff:192.0.2.1")
    assert (await manners.sit(["192.0.2.1"], 0))[1] == []
    assert (await manners.sit(["192.0.3.1"], 0))[1] == ["192.0.3.1"]


async def test_hosts_behind_a_proxy_count_by_name() -> None:
    manners = Manners(MannersSettings(per_address=1))
    await manners.sit(["relay.example"], 0)
    assert (await manners.sit(["relay.example"], 0))[1] == []
    assert (await manners.sit(["other.example"], 0))[1] == ["other.example"]


async def test_processes_share_the_bounds() -> None:
    settings = MannersSettings(per_address=4, starts_per_s=100.0)
    parts = [Manners(settings, 2) for _ in range(2)]
    seated = [len((await manners.sit(["192.0.2.1"], 0))[1]) for manners in parts for _ in range(4)]
    assert sum(seated) == 4
    assert len((await Manners(settings, 16).sit(["192.0.2.1"], 0))[1]) == 1


async def test_starts_come_at_a_rate() -> None:
    manners = Manners(MannersSettings(starts_per_s=100.0))
    began = time.monotonic()
    await asyncio.gather(*(manners.start() for _ in range(50)))
    assert time.monotonic() - began >= 0.35  # ten may come at once
    assert 35 <= manners.paced.times <= 40
    assert manners.paced.seconds > 0.35 * 35 / 2


def test_who_asked_us_to_slow_down_is_left_alone() -> None:
    manners = Manners()
    manners.let_rest("relay.example", 443, 60.0)
    assert manners.is_resting("relay.example", 443)
    assert not manners.is_resting("relay.example", 80)
    manners.let_rest("relay.example", 443, 0.0)
    assert not manners.is_resting("relay.example", 443)


def test_memory_is_bounded() -> None:
    manners = Manners()
    for number in range(25_000):
        manners.let_rest(f"host{number}.example", 443, 600.0)
    assert len(manners._resting) <= 10_000


def test_a_process_has_one_of_each() -> None:
    assert manners_of(MannersSettings()) is manners_of(MannersSettings())
    assert manners_of(MannersSettings()) is not manners_of(MannersSettings(per_address=1))
