"""NIP-66: what a monitor announces of a relay (kind 30166) and of itself (10166), both ways."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from bigbrotr.models.relay import Network, Relay

DISCOVERY = 30166
ANNOUNCEMENT = 10166
NETWORKS = frozenset({Network.CLEARNET, Network.TOR, Network.I2P, Network.LOKI})
RTTS = ("open", "read", "write")
REQUIREMENTS = ("auth", "writes", "pow", "payment")
MAX_CONTENT = 32_768  # bytes; a longer document is left out, since relays refuse large events
MAX_TAG = 200  # characters of a value that a relay has chosen

# Namespaces of labels (NIP-32), as monitors use them.
COUNTRY, CITY, ZONE = "ISO-3166-1", "nip66.label.city", "IANA-tz"
ASN, OPERATOR, LANGUAGE = "IANA-asn", "IANA-asnOrg", "ISO-639-1"
IPV4, IPV6 = "dns.ipv4", "dns.ipv6"

BASE32 = "0123456789bcdefghjkmnpqrstuvwxyz"
PRECISION = 9  # characters of a geohash: five metres, more than any database knows

Tags = list[list[str]]


@dataclass(frozen=True, slots=True)
class Nip66:
    """What one event of kind 30166 says; what is not said is empty or None."""

    relay: Relay
    rtts: Mapping[str, int] = field(default_factory=dict)  # of RTTS, in milliseconds
    network: Network | None = None
    types: tuple[str, ...] = ()  # PascalCase
    nips: tuple[int, ...] = ()
    requirements: Mapping[str, bool] = field(default_factory=dict)  # of REQUIREMENTS
    topics: tuple[str, ...] = ()
    kinds: Mapping[int, bool] = field(default_factory=dict)  # accepted or not
    geohash: str | None = None
    labels: tuple[tuple[str, str], ...] = ()  # (namespace, value)
    software: str | None = None
    is_tls_valid: bool | None = None
    content: str = ""  # the NIP-11 document as JSON

    def tags(self) -> Tags:
        """The tags of the event: one value each, each once, a negation in the value.

        As other monitors do, a geohash is repeated in all lengths, since relays find whole values
        alone, and a certificate is told among the requirements as well.
        """
        tags = [["d", address(self.relay)]]
        if self.network in NETWORKS:
            tags.append(["n", str(self.network)])
        tags += [[f"rtt-{name}", str(self.rtts[name])] for name in RTTS if name in self.rtts]
        tags += [["T", each] for each in self.types]
        tags += [["N", str(nip)] for nip in self.nips]
        tags += [
            ["R", signed(name, self.requirements[name])]
            for name in REQUIREMENTS
            if name in self.requirements
        ]
        if self.is_tls_valid is not None:
            tags.append(["R", signed("ssl", self.is_tls_valid)])
        tags += [["t", topic] for topic in self.topics]
        tags += [["k", signed(str(kind), self.kinds[kind])] for kind in self.kinds]
        if self.geohash is not None:
            tags += [["g", self.geohash[:size]] for size in range(len(self.geohash), 0, -1)]
        tags += [["L", space] for space in dict.fromkeys(space for space, _ in self.labels)]
        tags += [["l", value, space] for space, value in self.labels]
        if self.software is not None:
            tags.append(["s", self.software])
        if self.is_tls_valid is not None:
            tags.append(["ssl", signed("valid", self.is_tls_valid)])
        return [list(tag) for tag in dict.fromkeys(map(tuple, tags))]

    @classmethod
    def parse(cls, tags: Iterable[Sequence[str]], content: str = "") -> Self:
        """What an event of anybody says; values that make no sense are left out.

        ValueError when it names no relay by a URL.
        """
        known = _by_name(tags)
        if "d" not in known:
            raise ValueError("no d tag")
        rtts = {name: _count(known.get(f"rtt-{name}", [[""]])[0][0]) for name in RTTS}
        requirements = dict(map(unsigned, _values(known, "R")))
        networks = [each for each in _values(known, "n") if each in set(NETWORKS)]
        nips = {_count(each) for each in _values(known, "N")}
        kinds = [(_count(name), yes) for name, yes in map(unsigned, _values(known, "k"))]
        secure = dict(map(unsigned, _values(known, "ssl")))
        return cls(
            relay=Relay(known["d"][0][0]),
            rtts={name: rtt for name, rtt in rtts.items() if rtt is not None},
            network=Network(networks[0]) if networks else None,
            types=tuple(_values(known, "T")),
            nips=tuple(sorted(nip for nip in nips if nip is not None)),
            requirements={
                name: requirements[name] for name in REQUIREMENTS if name in requirements
            },
            topics=tuple(_values(known, "t")),
            kinds={kind: yes for kind, yes in kinds if kind is not None},
            geohash=max(_values(known, "g"), key=len, default=None),
            labels=tuple((tag[1], tag[0]) for tag in known.get("l", ()) if len(tag) > 1),
            software=next(iter(_values(known, "s")), None),
            is_tls_valid=secure.get("valid", requirements.get("ssl")),
            content=content,
        )


@dataclass(frozen=True, slots=True)
class Announcement:
    """What one event of kind 10166 says."""

    frequency_s: int
    timeouts_ms: Mapping[str, int] = field(default_factory=dict)  # by check; "": for all
    checks: tuple[str, ...] = ()  # open, read, write, auth, nip11, dns, geo, ws, ssl, ...
    geohash: str | None = None

    def tags(self) -> Tags:
        """The tags of the event."""
        tags = [["frequency", str(self.frequency_s)]]
        for check, timeout in self.timeouts_ms.items():
            tags.append(["timeout", check, str(timeout)] if check else ["timeout", str(timeout)])
        tags += [["c", check] for check in self.checks]
        if self.geohash is not None:
            tags.append(["g", self.geohash])
        return tags

    @classmethod
    def parse(cls, tags: Iterable[Sequence[str]]) -> Self:
        """What anybody's announcement says, with time-outs in either order.

        ValueError when it names no frequency.
        """
        known = _by_name(tags)
        frequency = _count(next(iter(_values(known, "frequency")), ""))
        if frequency is None:
            raise ValueError("no frequency")
        timeouts: dict[str, int] = {}
        for first, *rest in known.get("timeout", ()):
            other = rest[0] if rest else ""
            for check, number in ((first, _count(other)), (other, _count(first))):
                if number is not None:
                    timeouts.setdefault(check, number)
                    break
        return cls(
            frequency,
            timeouts,
            tuple(_values(known, "c")),
            next(iter(_values(known, "g")), None),
        )


def address(relay: Relay) -> str:
    """A relay's URL as RFC 3986, 6.2.3 has it: an empty path is a slash."""
    return relay.url if relay.path else f"{relay.url}/"


def signed(name: str, is_true: bool) -> str:
    """A value, negated where it is false."""
    return name if is_true else f"!{name}"


def unsigned(value: str) -> tuple[str, bool]:
    """A value without its negation, and whether it is true."""
    return (value[1:], False) if value.startswith("!") else (value, True)


def relay_list_tags(urls: Iterable[str]) -> Tags:
    """The tags of a relay list (NIP-65) whose owner only writes there."""
    return [["r", url, "write"] for url in urls]


def geohash(latitude: float, longitude: float, precision: int = PRECISION) -> str:
    """The geohash (NIP-52) of a place in degrees."""
    ranges = [[-180.0, 180.0], [-90.0, 90.0]]
    bits = 0
    for turn in range(5 * precision):
        low, high = ranges[turn % 2]
        middle = (low + high) / 2
        is_above = (latitude if turn % 2 else longitude) >= middle
        ranges[turn % 2] = [middle, high] if is_above else [low, middle]
        bits = bits << 1 | is_above
    return "".join(BASE32[bits >> 5 * place & 31] for place in reversed(range(precision)))


def _by_name(tags: Iterable[Sequence[str]]) -> dict[str, list[list[str]]]:
    """The values of tags that have one, by their names."""
    known: dict[str, list[list[str]]] = {}
    for name, *values in (tag for tag in tags if tag):
        if values:
            known.setdefault(name, []).append(values)
    return known


def _values(known: Mapping[str, list[list[str]]], name: str) -> list[str]:
    """The first values of the tags of a name, each once, in order."""
    return list(dict.fromkeys(values[0] for values in known.get(name, ()) if values[0]))


def _count(text: str) -> int | None:
    """A whole number in decimal digits."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 15 else None
