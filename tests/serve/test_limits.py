"""Limits by address, and whose address it is."""

import pytest

from bigbrotr.serve import limits
from bigbrotr.serve.limits import Buckets, Connections, Proxies, group


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_is_emptied_and_fills_again() -> None:
    clock = Clock()
    buckets = Buckets(2.0, 3, clock)
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.take("b") == 0
    clock.now += 0.25
    assert buckets.take("a") == 0.25  # to ask in vain costs nothing
    clock.now += 0.25
    assert buckets.take("a") == 0
    clock.now += 1000
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
    free = Buckets(0, 1, clock)
    assert {free.take("a") for _ in range(100)} == {0}


def test_memory_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REMEMBERED", 10)
    buckets = Buckets(0.001, 1, Clock())
    for number in range(100):
        assert buckets.take(str(number)) == 0
    assert buckets.take("99") > 0
    assert buckets.take("0") == 0  # forgotten
    assert len(buckets._levels) == 10


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("198.51.100.7", [], "198.51.100.7"),
        ("198.51.100.7", ["192.0.2.1"], "198.51.100.7"),  # none of our proxies
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.1"], "192.0.2.1"),
        ("10.0.0.1", ["6.6.6.6, 192.0.2.1"], "192.0.2.1"),  # what stands before, anybody writes
        ("10.0.0.1", ["6.6.6.6", "192.0.2.1, 10.0.0.2"], "192.0.2.1"),
        ("10.0.0.1", ["192.0.2.1:1234"], "192.0.2.1"),
        ("10.0.0.1", ["nonsense"], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.1, nonsense"], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.2"], "10.0.0.2"),
        ("::ffff:10.0.0.1", ["2001:db8:1:2:3::4"], "2001:db8:1:2::/64"),
        ("fd00::1", ["[2001:db8:1:2:3::4]:80"], "2001:db8:1:2::/64"),
        ("fe80::1%eth0", [], "fe80::/64"),
        ("", [], "unknown"),
    ],
)
def test_who_asks(peer: str, forwarded: list[str], client: str) -> None:
    assert Proxies(["10.0.0.0/8", "fd00::/8"]).client(peer, forwarded) == client


def test_a_household_is_one() -> None:
    assert group("2001:db8:1:2:3::4") == group("2001:db8:1:2:ffff::1")
    assert group("2001:db8:1:3::1") != group("2001:db8:1:2::1")
    assert group("::ffff:192.0.2.1") == "192.0.2.1"


def test_connections_are_counted() -> None:
    connections = Connections(3, 2)
    assert [connections.enter("a", is_trusted=False) for _ in range(3)] == [True, True, False]
    connections.leave("a")
    assert connections.enter("b", is_trusted=False)
    assert not connections.enter("c", is_trusted=False)  # too many of all
    for name in "abca":
        connections.leave(name)
    assert connections.open == 0
    assert not connections.by_address
    assert all(connections.enter("proxy", is_trusted=True) for _ in range(3))
