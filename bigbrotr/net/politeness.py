"""Politeness towards those who did not ask for our visit: how many conversations with one address,
how fast new ones begin, who wants none, and who has asked us to slow down."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from ipaddress import IPv6Address, ip_address, ip_network
from typing import NamedTuple, TypeVar

from bigbrotr import __version__
from bigbrotr.config.settings import PolitenessSettings, opted_out
from bigbrotr.models.relay import embedded_ipv4

K = TypeVar("K", str, tuple[str, int])

BURST_S = 1.0  # worth of starts that may come at once
CONTESTED_S = 300.0  # after somebody had to wait for a place, those who stay for long make room
REMEMBERED = 10_000  # hosts that asked us to slow down, and addresses that were waited for


class Waits(NamedTuple):
    """How often somebody had to wait, and for how long in all."""

    times: int = 0
    seconds: float = 0.0

    def and_one(self, seconds: float) -> "Waits":
        """With another one."""
        return Waits(self.times + 1, self.seconds + seconds)


class Slot:
    """A conversation's place among those with the same address; taken until `leave`."""

    def __init__(self, politeness: "Politeness", places: Iterable[str] = ()) -> None:
        self._politeness = politeness
        self._places = list(places)

    def keep_only(self, place: str) -> None:
        """Gives back the other places: the conversation is with this one."""
        key = self._politeness.key(place)
        others = [each for each in self._places if self._politeness.key(each) != key]
        self._places = [each for each in self._places if self._politeness.key(each) == key]
        self._politeness.free(others)

    def leave(self) -> None:
        """Gives back what is left; again and again makes no difference."""
        places, self._places = self._places, []
        self._politeness.free(places)

    @property
    def is_contested(self) -> bool:
        """Whether others wait, or did lately, for a place where this one is."""
        return any(self._politeness.is_contested(place) for place in self._places)


class Politeness:
    """What one process allows itself. Of `parts` processes that share the bounds each takes its
    part, at least one conversation.

    A place is an IP address, or a host behind a proxy, where addresses are not known.
    """

    def __init__(self, settings: PolitenessSettings | None = None, parts: int = 1) -> None:
        settings = settings or PolitenessSettings()
        contact = f" (+{settings.contact})" if settings.contact else ""
        self.user_agent = f"bigbrotr/{__version__}{contact}"
        self.paced = Waits()  # for the turn of a new connection
        self.crowded = Waits()  # for room at an address, in vain as well
        self._per_address = max(1, settings.per_address // parts)
        self._per_subnet = max(1, settings.per_subnet // parts)
        self._pause_s = parts / settings.starts_per_s
        self._burst_s = min(BURST_S, 10 * self._pause_s)
        entries = [opted_out(text) for text in settings.opt_out]
        self._hosts = tuple(entry for entry in entries if isinstance(entry, str))
        self._networks = [entry for entry in entries if not isinstance(entry, str)]
        self._taken: Counter[str] = Counter()
        self._waiting: set[asyncio.Future[None]] = set()
        self._waited_for: dict[str, float] = {}  # until when that counts, in monotonic seconds
        self._resting: dict[tuple[str, int], float] = {}  # until when, in monotonic seconds
        self._next_start = 0.0

    # Who wants none

    def refuses(self, host: str) -> bool:
        """Whether a host, or an address, has opted out."""
        try:
            address = ip_address(host)
        except ValueError:
            return any(f".{host}".endswith(f".{each}") for each in self._hosts)
        carried = embedded_ipv4(address) if isinstance(address, IPv6Address) else ()
        return any(each in network for each in (address, *carried) for network in self._networks)

    # Who has asked us to slow down

    def cool_down(self, host: str, port: int, seconds: float) -> None:
        """Dials nothing at this host and port for so long, whatever the path."""
        self._resting[host, port] = time.monotonic() + seconds
        _forget(self._resting)

    def is_cooling_down(self, host: str, port: int) -> bool:
        """Whether the host is to be left alone now."""
        return self._resting.get((host, port), 0.0) > time.monotonic()

    # How many, and how fast

    async def start(self) -> None:
        """Waits for the next new connection's turn."""
        now = time.monotonic()
        turn = max(self._next_start, now - self._burst_s)
        self._next_start = turn + self._pause_s
        if turn > now:
            self.paced = self.paced.and_one(turn - now)
            await asyncio.sleep(turn - now)

    async def take_slot(self, places: Iterable[str], wait_s: float) -> tuple[Slot, list[str]]:
        """A slot at those of the places that have room, waiting for one up to `wait_s`.

        Returns it with the places, none when there was no room.
        """
        wanted = list(places)
        taken = self._take(wanted)
        if not taken:
            asked = time.monotonic()
            try:
                taken = await self._wait_for_room(wanted, asked + wait_s)
            finally:
                self.crowded = self.crowded.and_one(time.monotonic() - asked)
        return Slot(self, taken), taken

    def _take(self, wanted: list[str]) -> list[str]:
        """Takes those of the places that have room."""
        taken = []
        for place in wanted:
            keys = list(self._keys(place))
            if all(self._taken[key] < most for key, most in keys):
                self._taken.update(key for key, _ in keys)
                taken.append(place)
        return taken

    async def _wait_for_room(self, wanted: list[str], deadline: float) -> list[str]:
        """Takes those that come to have room, until `deadline` (monotonic); none when none does."""
        while True:
            for place in wanted:
                for key, most in self._keys(place):
                    if self._taken[key] >= most:
                        self._waited_for[key] = time.monotonic() + CONTESTED_S
            _forget(self._waited_for)
            if not await self._is_freed(deadline - time.monotonic()):
                return []
            if taken := self._take(wanted):
                return taken

    async def _is_freed(self, wait_s: float) -> bool:
        if wait_s <= 0:
            return False
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            async with asyncio.timeout(wait_s):
                await waiter
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(waiter)
        return True

    def free(self, places: Iterable[str]) -> None:
        """Gives back places that were taken."""
        is_any = False
        for place in places:
            for key, _ in self._keys(place):
                is_any = True
                self._taken[key] -= 1
                if not self._taken[key]:
                    del self._taken[key]
        if is_any:
            for waiter in self._waiting:
                if not waiter.done():
                    waiter.set_result(None)

    def is_contested(self, place: str) -> bool:
        """Whether somebody waits, or did lately, for what this place takes."""
        now = time.monotonic()
        return any(self._waited_for.get(key, 0.0) > now for key, _ in self._keys(place))

    def key(self, place: str) -> str:
        """The same for each spelling of a place."""
        return next(self._keys(place))[0]

    def _keys(self, place: str) -> Iterator[tuple[str, int]]:
        """What a place takes one of, and how many there are."""
        try:
            address = ip_address(place)
        except ValueError:
            yield place, self._per_address
            return
        if isinstance(address, IPv6Address) and (carried := embedded_ipv4(address)):
            address = carried[-1]
        yield str(address), self._per_address
        width = 24 if address.version == 4 else 48
        yield str(ip_network((address, width), strict=False)), self._per_subnet


def _forget(times: dict[K, float]) -> None:
    """Drops what has passed when there is too much; all of it, if need be."""
    if len(times) <= REMEMBERED:
        return
    now = time.monotonic()
    for key in [key for key, until in times.items() if until <= now]:
        del times[key]
    if len(times) > REMEMBERED:
        times.clear()


@cache
def politeness_of(settings: PolitenessSettings, parts: int = 1) -> Politeness:
    """This process's politeness: the same for all that it dials."""
    return Politeness(settings, parts)
