"""Limits by address: how many requests a second, and how many connections."""

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
REMEMBERED = 20_000  # addresses; 200 bytes each
NOBODY = "unknown"  # a peer without an address


class Buckets:
    """A token bucket for each address: `per_s` tokens a second (0: any number), `burst` at most."""

    def __init__(
        self, per_s: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.per_s = per_s
        self.burst = burst
        self._clock = clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and when

    def take(self, address: str) -> float:
        """Takes a token; 0.0 if there was one, else the seconds until there is."""
        if not self.per_s:
            return 0.0
        now = self._clock()
        tokens, then = self._levels.pop(address, (float(self.burst), now))
        tokens = min(float(self.burst), tokens + (now - then) * self.per_s)
        wait_s = 0.0 if tokens >= 1 else (1 - tokens) / self.per_s
        self._levels[address] = (tokens if wait_s else tokens - 1, now)
        # The one that has been silent for longest: its bucket is as good as full.
        if len(self._levels) > REMEMBERED:
            self._levels.popitem(last=False)
        return wait_s

    async def wait(self, address: str) -> None:
        """Takes a token as soon as there is one."""
        while wait_s := self.take(address):  # others may be sooner  # noqa: ASYNC110
            await asyncio.sleep(wait_s)


class Connections:
    """Counts the open connections, all and by address."""

    def __init__(self, most: int, most_per_address: int) -> None:
        self.most = most
        self.most_per_address = most_per_address
        self.open = 0
        self.by_address: Counter[str] = Counter()

    def enter(self, address: str, *, is_trusted: bool) -> bool:
        """Counts one more; whether it may stay. A trusted proxy brings many people."""
        self.open += 1
        self.by_address[address] += 1
        if self.open > self.most:
            return False
        return is_trusted or self.by_address[address] <= self.most_per_address

    def leave(self, address: str) -> None:
        """Counts one less."""
        self.open -= 1
        self.by_address[address] -= 1
        if self.by_address[address] <= 0:
            del self.by_address[address]


class Proxies:
    """Knows which peers are proxies of ours, and whom they speak for."""

    def __init__(self, trusted: Sequence[str]) -> None:
        self._networks = [ip_network(each, strict=False) for each in trusted]
        self.is_trusted = lru_cache(REMEMBERED)(self._is_trusted)

    def _is_trusted(self, text: str) -> bool:
        address = parse(text)
        return address is not None and any(
            address.version == network.version and address in network for network in self._networks
        )

    def client(self, peer: str, forwarded: Sequence[str]) -> str:
        """The address that asks: of `X-Forwarded-For`, the last that no proxy of ours has.

        What stands before it, or comes from somebody else than a proxy of ours, anybody could have
        written.
        """
        if not self._networks or not self.is_trusted(peer):
            return group(peer)
        for text in reversed(",".join(forwarded).split(",")):
            if (address := parse(text.strip())) is None:
                break
            peer = str(address)
            if not self.is_trusted(peer):
                break
        return group(peer)


def parse(text: str) -> Address | None:
    """An address, with or without a port; None: it is none. IPv4 in IPv6 is IPv4."""
    bare = text.partition("%")[0]
    if bare.startswith("["):
        bare = bare[1:].partition("]")[0]
    elif bare.count(":") == 1:
        bare = bare.partition(":")[0]
    try:
        address = ip_address(bare)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


@lru_cache(REMEMBERED)
def group(text: str) -> str:
    """Who is one to us: an IPv4 address, or a /64 of IPv6, which is a household's."""
    address = parse(text)
    if address is None:
        return NOBODY
    if isinstance(address, IPv4Address):
        return str(address)
    return str(ip_network((int(address) >> 64 << 64, 64)))
