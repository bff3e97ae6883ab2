"""Declares every setting once, with its default, range, unit and meaning."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import (
    Annotated,
    Literal,
    NamedTuple,
    TypeAlias,
    get_type_hints,
)
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit

import msgspec
from msgspec import Meta, Struct, field

from bigbrotr.models.filter import MOMENT, Filter, public_key
from bigbrotr.models.policy import Reason, Rule, View, erasing, hides
from bigbrotr.models.relay import Network, Relay

EMBEDDED = "embedded"
YEAR_S = 366 * 86_400
MAX_CONSECUTIVE_FAILURES = 5  # cycles of a service, by default
TOMBSTONE_S = 180 * 86_400.0  # how long what was given up is remembered, by default
PROXY_SCHEMES = ("socks5h", "socks5")


class Profile(StrEnum):
    """What an archive keeps of an event: all of it, or the essential fields."""

    FULL = "full"
    LITE = "lite"


class Section(Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the configuration file: unknown keys are refused."""


def _split(url: str) -> SplitResult | None:
    """Splits a URL; None if it is not one: Python's own reasons could repeat a password."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 -- the property checks
    except ValueError:
        return None
    return parts


class Database(Section, frozen=True):
    """Where the data lives. The password comes from the environment alone: DB_PASSWORD."""

    url: Annotated[
        str,
        Meta(
            description='"embedded": a PostgreSQL of our own; postgresql://user@host/name: yours '
            '(15 or newer); "$DATABASE_URL": what that variable says, embedded when it is unset'
        ),
    ] = EMBEDDED
    host: Annotated[
        str | None,
        Meta(description="name, address or socket directory of the server; instead of url"),
    ] = None
    port: Annotated[int, Meta(ge=1, le=65535, description="with host")] = 5432
    database: Annotated[str, Meta(min_length=1, description="with host")] = "bigbrotr"
    user: Annotated[str, Meta(min_length=1, description="with host")] = "bigbrotr"
    summarize_wal: Annotated[
        bool,
        Meta(
            description="the embedded PostgreSQL notes which blocks change, for incremental backups"
        ),
    ] = False
    wal_archive: Annotated[
        str,
        Meta(
            description="a folder into which the embedded PostgreSQL copies what it writes ahead "
            '(WAL), for restores up to the last change; "": none'
        ),
    ] = ""

    def __post_init__(self) -> None:
        if self.url == "$DATABASE_URL":
            # Only where the file says so: many programs read this variable, and some set it.
            found = os.environ.get("DATABASE_URL", "").strip() or EMBEDDED
            msgspec.structs.force_setattr(self, "url", found)
        if self.wal_archive and not re.fullmatch(r"/[^\n\r]*", self.wal_archive):
            raise ValueError("wal_archive is the whole path of a folder, from / on")
        if self.host is not None:
            if self.url != EMBEDDED:
                raise ValueError("give either url or host, not both")
            if not re.fullmatch(r"/.*|[\w.:%-]+", self.host):
                raise ValueError("host is a name, an address, or the directory of a socket")
            return
        if self.url == EMBEDDED:
            return
        parts = _split(self.url)
        if parts is None or parts.scheme not in ("postgresql", "postgres"):
            raise ValueError('url is "embedded" or postgresql://user@host:port/name')
        if parts.password is not None or {"password", "sslpassword"} & parse_qs(parts.query).keys():
            raise ValueError("url must not hold a password: it comes from DB_PASSWORD")

    @property
    def is_embedded(self) -> bool:
        """Whether bigbrotr runs the server itself."""
        return self.url == EMBEDDED and self.host is None

    @property
    def dsn(self) -> str:
        """The address of a server that is not embedded, without a password."""
        if self.host is None:
            return self.url
        user, database = quote(self.user, safe=""), quote(self.database, safe="")
        if self.host.startswith("/"):  # the directory of a socket
            host = quote(self.host, safe="")
            return f"postgresql://{user}@/{database}?host={host}&port={self.port}"
        host = f"[{self.host}]" if ":" in self.host else quote(self.host, safe="")
        return f"postgresql://{user}@{host}:{self.port}/{database}"

    @property
    def place(self) -> str:
        """The server and database in a few words, for messages."""
        if self.is_embedded:
            return "the embedded PostgreSQL"
        parts = urlsplit(self.dsn)
        query = parse_qs(parts.query)
        host = unquote(parts.hostname or query.get("host", ["localhost"])[0])
        port = parts.port or query.get("port", ["5432"])[0]
        shown = f"[{host}]" if ":" in host else host
        return f"{shown}:{port}{unquote(parts.path) or '/'}"


class Limits(Section, frozen=True):
    """How many connections the pool keeps."""

    min_size: Annotated[int, Meta(ge=1, le=100, description="connections that stay open")] = 1
    max_size: Annotated[int, Meta(ge=1, le=200, description="most connections at once")] = 8
    max_queries: Annotated[
        int, Meta(ge=100, description="statements after which a connection is renewed")
    ] = 50_000
    max_inactive_connection_lifetime: Annotated[
        float, Meta(ge=0, description="seconds after which an idle connection is closed")
    ] = 300.0

    def __post_init__(self) -> None:
        if self.min_size > self.max_size:
            raise ValueError("min_size is larger than max_size")


class Timeouts(Section, frozen=True):
    """How long the pool waits, in seconds."""

    acquisition: Annotated[
        float, Meta(ge=0.1, description="longest wait for a free connection, in seconds")
    ] = 30.0
    command: Annotated[float, Meta(ge=1, description="longest run of a statement, in seconds")] = (
        300.0
    )
    health_check: Annotated[
        float, Meta(ge=0.1, description="longest wait for SELECT 1, in seconds")
    ] = 3.0


class Retry(Section, frozen=True):
    """How often and how soon connecting is tried again."""

    max_attempts: Annotated[int, Meta(ge=1, le=10, description="tries to connect")] = 3
    initial_delay: Annotated[float, Meta(ge=0, description="seconds before the second try")] = 0.5
    max_delay: Annotated[
        float, Meta(ge=0, description="longest wait between tries, in seconds")
    ] = 10.0
    exponential_backoff: Annotated[bool, Meta(description="doubles the wait after each try")] = True


class ServerSettings(Section, frozen=True):
    """What each session tells the server."""

    application_name: Annotated[str, Meta(description="as in pg_stat_activity")] = "bigbrotr"
    timezone: Annotated[str, Meta(description="of the sessions")] = "UTC"


class PoolSettings(Section, frozen=True):
    """The pool of database connections."""

    limits: Limits = field(default_factory=Limits)
    timeouts: Timeouts = field(default_factory=Timeouts)
    retry: Retry = field(default_factory=Retry)
    server_settings: ServerSettings = field(default_factory=ServerSettings)
    pgbouncer: Annotated[
        bool, Meta(description="set behind PgBouncer in transaction mode: no session state is kept")
    ] = False
    max_batch_size: Annotated[
        int, Meta(ge=1, le=100_000, description="most rows in one call of a stored function")
    ] = 5_000


class Link(Section, frozen=True):
    """How one network is reached; shared by every service."""

    enabled: Annotated[bool, Meta(description="relays of this network are contacted")] = True
    width: Annotated[int, Meta(ge=1, le=1000, description="most conversations at once")] = 50
    timeout_s: Annotated[
        float, Meta(gt=0, le=600, description="longest wait to connect, and for each reply")
    ] = 10.0
    quick_s: Annotated[
        float,
        Meta(
            gt=0,
            le=600,
            description="a candidate that takes longer waits aside while others are tried",
        ),
    ] = 4.0
    proxy: Annotated[
        str | None,
        Meta(
            description="socks5h://host:port resolves names itself; with socks5://host:port "
            "(clearnet only) they are resolved and checked here"
        ),
    ] = None

    compression: Annotated[
        bool,
        Meta(
            description="relays are asked to compress what they send (permessage-deflate): worth "
            "it where the line is the limit, for more of our CPU and theirs"
        ),
    ] = False

    def __post_init__(self) -> None:
        if self.proxy is not None:
            parts = _split(self.proxy)
            if (
                parts is None
                or parts.scheme not in PROXY_SCHEMES
                or not parts.hostname
                or parts.port is None
            ):
                raise ValueError("proxy is socks5h://host:port")
            if parts.password is not None:
                raise ValueError("proxy must not hold a password")


class Networks(Section, frozen=True):
    """The networks on which relays live."""

    clearnet: Link = field(default_factory=Link)
    tor: Link = Link(
        enabled=False, width=10, timeout_s=30.0, quick_s=15.0, proxy="socks5h://127.0.0.1:9050"
    )
    i2p: Link = Link(
        enabled=False, width=5, timeout_s=45.0, quick_s=20.0, proxy="socks5h://127.0.0.1:4447"
    )
    loki: Link = Link(enabled=False, width=5, timeout_s=30.0, quick_s=15.0)
    local: Link = Link(enabled=False, width=20, timeout_s=5.0, quick_s=2.0)

    def __post_init__(self) -> None:
        for network in (Network.TOR, Network.I2P, Network.LOKI):
            link = self.link(network)
            if link.enabled and link.proxy is None:
                raise ValueError(f"{network}: enabled without a proxy to reach it")

    def link(self, network: Network) -> Link:
        """How `network` is reached."""
        return getattr(self, network)  # type: ignore[no-any-return]

    def enabled(self) -> Iterator[tuple[Network, Link]]:
        """The networks that may be used."""
        for network in Network:
            if (link := self.link(network)).enabled:
                yield network, link


OptedOut: TypeAlias = str | IPv4Network | IPv6Network


class PolitenessSettings(Section, frozen=True):
    """What we spare those who did not ask for our visit; addresses of `networks.local` apart."""

    contact: Annotated[
        str | None, Meta(description="an address for complaints, sent in the User-Agent")
    ] = None
    per_address: Annotated[
        int, Meta(ge=1, le=1000, description="most conversations at once with one IP address")
    ] = 4
    per_subnet: Annotated[
        int,
        Meta(
            ge=1, le=10_000, description="most conversations at once with one /24, or /48 of IPv6"
        ),
    ] = 16
    starts_per_s: Annotated[
        float, Meta(gt=0, le=1000, description="most new connections a second")
    ] = 20.0
    opt_out: Annotated[
        tuple[str, ...],
        Meta(
            description="never contacted: hosts with their subdomains, addresses, networks (CIDR)"
        ),
    ] = ()

    def __post_init__(self) -> None:
        if self.contact is not None and not re.fullmatch(r"[!-\'*-~ ]{1,200}", self.contact):
            raise ValueError("contact is printable ASCII without parentheses")
        for text in self.opt_out:
            opted_out(text)


def opted_out(text: str) -> OptedOut:
    """An entry of `opt_out`: a network, or a host in the spelling of relay URLs.

    Raises:
        ValueError: it is neither.
    """
    with suppress(ValueError):
        return ip_network(text, strict=False)
    try:
        relay = Relay(f"ws://{text}")
    except ValueError as error:
        raise ValueError(f'opt_out: "{text}": {error}') from None
    if relay.url != f"ws://{relay.host}":
        raise ValueError(f'opt_out: "{text}" is neither a host nor a network')
    with suppress(ValueError):
        return ip_network(relay.host)
    return relay.host


class ServiceSection(Section, frozen=True):
    """What every service has."""

    enabled: Annotated[bool, Meta(description="the service runs")] = True
    interval_s: Annotated[float, Meta(ge=0.1, description="from one cycle to the next")] = 60.0
    max_consecutive_failures: Annotated[
        int, Meta(ge=0, description="failed cycles in a row that count as a crash; 0: never")
    ] = MAX_CONSECUTIVE_FAILURES


class SeederSettings(ServiceSection, frozen=True):
    """Where the first candidates come from."""

    interval_s: Annotated[
        float, Meta(ge=0.1, description="from one reading of the file to the next")
    ] = 3600.0
    file: Annotated[
        str | None, Meta(description="a file with one relay URL a line; default: the shipped list")
    ] = None


EACH_ELEMENT = "$[*]"  # as the lists that profiles name have it


class SourceSettings(Section, frozen=True):
    """One list of relays on the web."""

    url: Annotated[str, Meta(description="http:// or https://, without a password")]
    path: Annotated[
        str,
        Meta(description="JSONPath of the URLs in the answer; `~` takes keys, as in $.relays.~"),
    ] = EACH_ELEMENT
    enabled: Annotated[bool, Meta(description="this list is fetched")] = True
    interval_s: Annotated[
        float, Meta(ge=60, le=YEAR_S, description="from one fetch to the next")
    ] = 86_400.0
    timeout_s: Annotated[
        float, Meta(gt=0, le=600, description="longest wait for the whole answer")
    ] = 30.0
    max_bytes: Annotated[
        int,
        Meta(ge=1024, le=64 << 20, description="a longer answer is refused, packed or unpacked"),
    ] = 4 << 20

    def __post_init__(self) -> None:
        parts = _split(self.url)
        if (
            parts is None
            or parts.scheme not in ("http", "https")
            or not parts.hostname
            or "@" in parts.netloc
        ):
            raise ValueError("url is http://… or https://…, without a password")
        if self.path == EACH_ELEMENT:
            return
        from jsonpath import JSONPathError, compile  # noqa: A004 -- slow to import, rarely needed

        try:
            compile(self.path)
        except JSONPathError as error:
            raise ValueError(f"path: {str(error).splitlines()[0]}") from None


class MonitorsSettings(Section, frozen=True):
    """Monitors whose announcements of relays (NIP-66) are fetched."""

    enabled: Annotated[bool, Meta(description="announcements are fetched")] = True
    pubkeys: Annotated[
        tuple[str, ...],
        Meta(description="whose announcements: 64 hex digits or npub; others are ignored"),
    ] = ()
    relays: Annotated[tuple[str, ...], Meta(description="URLs of the relays that are asked")] = ()
    interval_s: Annotated[
        float, Meta(ge=60, le=YEAR_S, description="from one fetch to the next")
    ] = 3600.0

    def __post_init__(self) -> None:
        keys, urls = [], []
        for pubkey in self.pubkeys:
            try:
                keys.append(public_key(pubkey))
            except ValueError as error:
                raise ValueError(f"pubkeys: {error}") from None
        for raw in self.relays:
            try:
                urls.append(Relay(raw).url)
            except ValueError as error:
                raise ValueError(f"relays: {raw!r}: {error}") from None
        msgspec.structs.force_setattr(self, "pubkeys", tuple(dict.fromkeys(keys)))
        msgspec.structs.force_setattr(self, "relays", tuple(dict.fromkeys(urls)))


class FinderSettings(ServiceSection, frozen=True):
    """How relays are discovered: what archived events name, lists on the web, monitors."""

    interval_s: Annotated[float, Meta(ge=0.1, description="from one cycle to the next")] = 10.0
    max_per_host: Annotated[
        int,
        Meta(
            ge=0,
            le=100_000,
            description="most candidates and relays on one host beside its plain address",
        ),
    ] = 16
    tombstone_s: Annotated[
        float,
        Meta(
            ge=0,
            le=100 * YEAR_S,
            description="how long a candidate that was given up is remembered and refused",
        ),
    ] = TOMBSTONE_S
    sources: Annotated[
        dict[str, SourceSettings],
        Meta(description="[finder.sources.NAME]: lists of relays on the web"),
    ] = {}
    monitors: MonitorsSettings = MonitorsSettings()


class ValidatorSettings(ServiceSection, frozen=True):
    """Which candidates become relays."""

    interval_s: Annotated[float, Meta(ge=0.1, description="from one cycle to the next")] = 10.0
    max_attempts: Annotated[
        int,
        Meta(ge=1, le=1000, description="failures in a row after which a candidate is given up"),
    ] = 20
    retire_after_s: Annotated[
        float,
        Meta(
            ge=1,
            le=YEAR_S,
            description="a relay that only failed for so long becomes a candidate again",
        ),
    ] = 14 * 86_400.0


# How long a relay may take to answer; a network's own bound is the default.
Limit: TypeAlias = Annotated[
    Annotated[float, Meta(gt=0, le=600)] | None,
    Meta(description="longest wait; default: the network's timeout_s"),
]


class Nip11Settings(Section, frozen=True):
    """What a relay says of itself (NIP-11)."""

    enabled: Annotated[bool, Meta(description="the document is fetched")] = True
    timeout_s: Limit = None
    max_bytes: Annotated[
        int, Meta(ge=1024, le=4 << 20, description="a longer document is refused")
    ] = 65_536


class ReadSettings(Section, frozen=True):
    """How long a relay takes to answer a question."""

    enabled: Annotated[bool, Meta(description="the time to read is measured")] = True
    timeout_s: Limit = None


class WriteSettings(Section, frozen=True):
    """How long a relay takes to accept an event: an ephemeral one, by PRIVATE_KEY or, without one,
    a new key."""

    enabled: Annotated[bool, Meta(description="an ephemeral event is written to each relay")] = (
        False
    )
    timeout_s: Limit = None
    max_pow_bits: Annotated[
        int,
        Meta(ge=0, le=24, description="most proof of work done where a relay asks for it (NIP-13)"),
    ] = 16


class ClaimsSettings(Section, frozen=True):
    """Whether relays do what they say: a few cheap questions."""

    enabled: Annotated[bool, Meta(description="claims are tested")] = True
    timeout_s: Annotated[float, Meta(gt=0, le=600, description="longest wait for each answer")] = (
        3.0
    )


class DnsSettings(Section, frozen=True):
    """What the domain name system holds about a relay's host."""

    enabled: Annotated[bool, Meta(description="DNS records are looked up")] = True
    timeout_s: Annotated[float, Meta(gt=0, le=600, description="longest wait for all records")] = (
        5.0
    )
    nameservers: Annotated[
        tuple[str, ...],
        Meta(description="address or address:port of servers to ask; default: the system's"),
    ] = ()

    def __post_init__(self) -> None:
        for text in self.nameservers:
            try:
                name_server(text)
            except ValueError as error:
                raise ValueError(f"nameservers: {text!r}: {error}") from None


class GeoSettings(Section, frozen=True):
    """Databases in MaxMind's format (MMDB); without one, the check is not made."""

    city_db: Annotated[str | None, Meta(description="MMDB file of countries or cities")] = None
    asn_db: Annotated[str | None, Meta(description="MMDB file of networks (ASN) and operators")] = (
        None
    )


class ProfileSettings(Section, frozen=True):
    """How the monitor introduces itself (kind 0)."""

    name: Annotated[str, Meta(description="of the monitor")] = "bigbrotr"
    about: Annotated[str, Meta(description="what it does")] = "measures relays"
    picture: Annotated[str | None, Meta(description="URL of an image")] = None
    website: Annotated[str | None, Meta(description="URL")] = None
    nip05: Annotated[str | None, Meta(description="name@domain (NIP-05)")] = None


class PublishSettings(Section, frozen=True):
    """Announcements of relays (NIP-66), signed with PRIVATE_KEY."""

    enabled: Annotated[bool, Meta(description="relays that are up are announced")] = False
    relays: Annotated[
        tuple[str, ...], Meta(description="URLs of relays that get every announcement")
    ] = ()
    to_monitored: Annotated[bool, Meta(description="each relay also gets its own announcement")] = (
        False
    )
    refresh_s: Annotated[
        float,
        Meta(
            ge=60, le=YEAR_S, description="from one announcement of an unchanged relay to the next"
        ),
    ] = 3600.0
    history: Annotated[
        tuple[Literal[1066, 1166], ...],
        Meta(
            description="kinds of events in which each change of state is told as well, to stay: "
            "1066 (deltas, as nostr-watch has them), 1166 (the whole); NIP-66 has neither"
        ),
    ] = ()
    geohash: Annotated[str | None, Meta(description="where the monitor is: 1 to 12 characters")] = (
        None
    )
    profile: ProfileSettings = ProfileSettings()

    def __post_init__(self) -> None:
        urls = []
        for raw in self.relays:
            try:
                urls.append(Relay(raw).url)
            except ValueError as error:
                raise ValueError(f"relays: {raw!r}: {error}") from None
        msgspec.structs.force_setattr(self, "relays", tuple(dict.fromkeys(urls)))
        if self.geohash is not None and not re.fullmatch("[0-9b-hjkmnp-z]{1,12}", self.geohash):
            raise ValueError(
                f"geohash: {self.geohash!r}: expected 1 to 12 of 0-9 and b-z without i, l, o"
            )
        if self.enabled and not urls and not self.to_monitored:
            raise ValueError("enabled with nowhere to publish: relays, or to_monitored")


class MonitorSettings(ServiceSection, frozen=True):
    """What is measured of relays, and how often."""

    interval_s: Annotated[float, Meta(ge=0.1, description="from one cycle to the next")] = 10.0
    check_every_s: Annotated[
        float, Meta(ge=1, le=YEAR_S, description="from one check of a relay that is up to the next")
    ] = 3600.0
    retention_days: Annotated[
        int,
        Meta(
            ge=1,
            le=36_500,
            description="older measurements are deleted, except the newest of each kind",
        ),
    ] = 90
    tls: Annotated[bool, Meta(description="certificates are recorded")] = True
    http: Annotated[bool, Meta(description="the server's own headers are recorded")] = True
    nip11: Nip11Settings = Nip11Settings()
    read: ReadSettings = ReadSettings()
    write: WriteSettings = WriteSettings()
    claims: ClaimsSettings = ClaimsSettings()
    dns: DnsSettings = DnsSettings()
    geo: GeoSettings = GeoSettings()
    publish: PublishSettings = PublishSettings()


class PublisherSettings(ServiceSection, frozen=True):
    """How the events of our own in the outbox are delivered."""

    interval_s: Annotated[float, Meta(ge=0.1, description="from one cycle to the next")] = 5.0
    max_attempts: Annotated[int, Meta(ge=1, le=1000, description="tries to deliver an event")] = 5


class MaintenanceSettings(ServiceSection, frozen=True):
    """How often the database is looked after: partitions, statistics, what needs a look."""

    # It waits for those who read for hours, a backup say: that is no reason to give up.
    max_consecutive_failures: Annotated[
        int, Meta(ge=0, description="failed cycles in a row that count as a crash; 0: never")
    ] = 0
    interval_s: Annotated[
        float, Meta(ge=0.1, description="from one look whether it is time to the next")
    ] = 900.0
    every_s: Annotated[
        float, Meta(ge=60, le=YEAR_S, description="from one look after the database to the next")
    ] = 43_200.0
    keep_arrivals_s: Annotated[
        float,
        Meta(
            ge=60, le=YEAR_S, description="the log of new events, for those who follow it, is kept"
        ),
    ] = 3_600.0


class StatisticsSettings(ServiceSection, frozen=True):
    """How often the figures by day are counted anew, where something has changed."""

    # As maintenance, it waits for those who hold the database up.
    max_consecutive_failures: Annotated[
        int, Meta(ge=0, description="failed cycles in a row that count as a crash; 0: never")
    ] = 0
    interval_s: Annotated[float, Meta(ge=0.1, description="from one cycle to the next")] = 60.0
    every_s: Annotated[
        float, Meta(ge=0, le=YEAR_S, description="a day is not counted again within that time")
    ] = 900.0


class SearchSettings(ServiceSection, frozen=True):
    """Search in the texts of events (NIP-50), by an index of their words."""

    enabled: Annotated[
        bool, Meta(description="there is an index; false: what there is of it is deleted")
    ] = False
    interval_s: Annotated[
        float, Meta(ge=0.1, description="from one look for new events to the next")
    ] = 1.0
    # As maintenance, it waits for those who hold the database up.
    max_consecutive_failures: Annotated[
        int, Meta(ge=0, description="failed cycles in a row that count as a crash; 0: never")
    ] = 0
    kinds: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=65_535)], ...],
        Meta(min_length=1, description="kinds of events that can be searched for"),
    ] = (0, 1, 1111, 30023)


class PolicySettings(ServiceSection, frozen=True):
    """Which archived events are shown: "serve": in every view; "archive": not in the current one;
    "hide": in none; "erase": in none, and their content is erased for good."""

    # As maintenance, it waits for those who hold the database up.
    max_consecutive_failures: Annotated[
        int, Meta(ge=0, description="failed cycles in a row that count as a crash; 0: never")
    ] = 0
    interval_s: Annotated[
        float, Meta(ge=0.05, description="from one look for new events to the next")
    ] = 0.25
    superseded: Annotated[
        Rule, Meta(description="of a replaceable or addressable event a newer version is archived")
    ] = Rule.ARCHIVE
    deleted: Annotated[Rule, Meta(description="the author has asked for its deletion (NIP-09)")] = (
        Rule.HIDE
    )
    expired: Annotated[Rule, Meta(description="its time is over (NIP-40)")] = Rule.HIDE
    vanished: Annotated[
        Rule,
        Meta(description="the author has asked to vanish (NIP-62), from all relays or from us"),
    ] = Rule.HIDE
    protected: Annotated[Rule, Meta(description="only its author may publish it (NIP-70)")] = (
        Rule.HIDE
    )
    ephemeral: Annotated[Rule, Meta(description="of a kind that is not to be kept")] = Rule.HIDE
    admins: Annotated[
        tuple[str, ...],
        Meta(
            description="npubs (or hex) of those who may take down over HTTP (NIP-86), where the "
            "archive is served; none: nobody"
        ),
    ] = ()

    def __post_init__(self) -> None:
        try:
            admins = tuple(dict.fromkeys(map(public_key, self.admins)))
        except ValueError as error:
            raise ValueError(f"admins: {error}") from None
        msgspec.structs.force_setattr(self, "admins", admins)

    @property
    def rules(self) -> dict[Reason, Rule]:
        """The rule of each reason; what was taken down or erased is always hidden."""
        own = {
            reason: getattr(self, name)
            for reason in Reason
            if (name := str(reason.name).lower()) in self.__struct_fields__
        }
        return own | {Reason.TAKEN_DOWN: Rule.HIDE}

    def hides(self, view: View) -> int:
        """The bits of the reasons for which a view hides events."""
        return hides(self.rules, view)

    @property
    def erases(self) -> int:
        """The bits of the reasons for which content is erased."""
        return erasing(self.rules)


def name_server(text: str) -> tuple[str, int]:
    """Address and port of "address", "address:port" or "[address]:port"; ValueError otherwise."""
    host, colon, port = text.rpartition(":")
    if not colon or (":" in host and not text.startswith("[")):
        host, port = text, "53"
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError("the port is a number from 1 to 65535")
    return str(ip_address(host.strip("[]"))), int(port)


Seconds = Annotated[int, Meta(ge=0, le=2**53, extra={MOMENT: True})]
PageLimit = Annotated[int, Meta(ge=2, le=5000)]  # one alone says nothing of what follows


class RelaySettings(Section, frozen=True):
    """What differs for one relay; what is not said is as for all of them."""

    enabled: Annotated[bool, Meta(description="false: it is not asked for events")] = True
    since: Annotated[Seconds | None, Meta(description="instead of that for all")] = None
    filter: Annotated[
        Filter | None, Meta(description="instead of the whole filter for all relays")
    ] = None
    page_limit: Annotated[PageLimit | None, Meta(description="instead of that for all")] = None
    live: Annotated[bool | None, Meta(description="instead of that for all")] = None
    reconcile: Annotated[bool | None, Meta(description="instead of that for all")] = None


class SyncPolicy(NamedTuple):
    """What is wanted of one relay, and how it is asked."""

    since: int
    filter: Filter
    page_limit: int
    live: bool
    reconcile: bool

    def until(self, settled: int) -> int:
        """The end (exclusive) of what is wanted when the seconds before `settled` are over."""
        return min(self.filter.newest + 1, settled)

    @property
    def by_ids(self) -> bool:
        """Whether to compare ids. Tags cannot be asked of an archive that does not keep them, nor
        beyond their index's cut."""
        return self.reconcile and not self.filter.tags


class SynchronizerSettings(ServiceSection, frozen=True):
    """Which events are copied, how often and how many at once."""

    interval_s: Annotated[float, Meta(ge=0.1, description="between looks for due relays")] = 1.0
    workers: Annotated[int, Meta(ge=0, le=256, description="worker processes; 0: one a core")] = 0
    slice_s: Annotated[
        float, Meta(ge=1, le=600, description="how long a worker copies before it reports")
    ] = 30.0
    since: Annotated[
        Seconds,
        Meta(description="older events are not copied; a date (of UTC) or Unix seconds"),
    ] = 0
    revisit_s: Annotated[
        float, Meta(ge=1, le=YEAR_S, description="from one visit of a complete relay to the next")
    ] = 120.0
    live: Annotated[bool, Meta(description="stay subscribed to relays that are complete")] = True
    live_relays: Annotated[
        int,
        Meta(
            ge=0,
            le=10_000,
            description="most relays subscribed to at once; the others are revisited",
        ),
    ] = 200
    settle_s: Annotated[
        int,
        Meta(
            ge=0,
            le=YEAR_S,
            description="events may arrive so late: younger seconds are not proven",
        ),
    ] = 900
    reconcile: Annotated[
        bool, Meta(description="compare ids (NIP-77) where a relay can, instead of reading pages")
    ] = True
    audit_s: Annotated[
        int,
        Meta(ge=7200, le=YEAR_S, description="until what is proven is compared again by ids"),
    ] = 86_400
    lookback_s: Annotated[
        int,
        Meta(
            ge=0,
            le=YEAR_S,
            description="where only pages can tell, this much of the past is read again; 0: none",
        ),
    ] = 2 * 86_400
    rewalk_s: Annotated[
        int,
        Meta(
            ge=0,
            le=10 * YEAR_S,
            description="until all of the past is read again page by page; 0: never",
        ),
    ] = 90 * 86_400
    page_limit: Annotated[PageLimit, Meta(description="events asked for at once")] = 500
    max_event_bytes: Annotated[
        int, Meta(ge=1024, le=64 << 20, description="larger messages are skipped")
    ] = 1 << 20
    max_page_bytes: Annotated[
        int, Meta(ge=1 << 16, le=256 << 20, description="a page is cut off at this size")
    ] = 4 << 20
    auth: Annotated[
        Literal["throwaway", "configured", "never"],
        Meta(description="for relays that require a key (NIP-42): a new one, PRIVATE_KEY, or none"),
    ] = "throwaway"
    filter: Annotated[Filter, Meta(description="which events are copied; default: all")] = Filter()
    relays: Annotated[
        dict[str, RelaySettings],
        Meta(description='[synchronizer.relays."wss://…"] says what differs for one relay'),
    ] = {}

    def __post_init__(self) -> None:
        if 0 < self.lookback_s <= self.audit_s:
            raise ValueError("lookback_s is no longer than audit_s: it would never find anything")
        relays: dict[str, RelaySettings] = {}
        for raw, settings in self.relays.items():
            try:
                url = Relay(raw).url
            except ValueError as error:
                raise ValueError(f'relays."{raw}": {error}') from None
            if url in relays:
                raise ValueError(f'relays."{raw}": {url} is there twice')
            relays[url] = settings
        msgspec.structs.force_setattr(self, "relays", relays)
        for url in ("", *relays):
            policy = self.policy(url)
            if policy.filter.newest < policy.since:
                place = f'relays."{url}".' if url else ""
                raise ValueError(f"{place}filter.until is before since")

    def policy(self, url: str) -> SyncPolicy:
        """What is wanted of the relay at a normalised URL, and how it is asked."""
        own = self.relays.get(url) or RelaySettings()
        return SyncPolicy(
            since=self.since if own.since is None else own.since,
            filter=self.filter if own.filter is None else own.filter,
            page_limit=self.page_limit if own.page_limit is None else own.page_limit,
            live=self.live if own.live is None else own.live,
            reconcile=self.reconcile if own.reconcile is None else own.reconcile,
        )

    @property
    def processes(self) -> int:
        """How many workers there are."""
        return self.workers or os.cpu_count() or 1

    @property
    def refused(self) -> list[str]:
        """The URLs of relays that are not asked for events."""
        return [url for url, settings in self.relays.items() if not settings.enabled]

    @property
    def is_live_anywhere(self) -> bool:
        """Whether any relay may be stayed subscribed to."""
        return self.live or any(settings.live for settings in self.relays.values())


class SupervisorSettings(Section, frozen=True):
    """How services are started, watched and stopped."""

    name: Annotated[
        str | None,
        Meta(description="holds the leases, unique for each supervisor; default: the host's name"),
    ] = None
    shutdown_timeout_s: Annotated[
        float, Meta(ge=0.1, le=600, description="longest wait for services to stop")
    ] = 20.0
    restart_delay_s: Annotated[
        float, Meta(ge=0, description="from a first crash to the restart; it doubles each time")
    ] = 1.0
    max_restart_delay_s: Annotated[
        float, Meta(ge=0, description="longest wait before a restart")
    ] = 60.0
    max_crashes: Annotated[
        int,
        Meta(ge=1, description="crashes within crash_window_s after which a service has failed"),
    ] = 8
    crash_window_s: Annotated[float, Meta(gt=0, description="see max_crashes")] = 600.0


class LogSettings(Section, frozen=True):
    """What is logged, and how."""

    level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"],
        Meta(description="lines below it are left out"),
    ] = "INFO"
    json: Annotated[bool, Meta(description="one JSON object a line")] = False


class WebSettings(Section, frozen=True):
    """What is served over HTTP."""

    listen: Annotated[
        str,
        Meta(description='address:port for /healthz, /readyz, /metrics; "": nothing is served'),
    ] = ""

    hosts: Annotated[
        tuple[str, ...],
        Meta(
            description="further host names by which it may be asked, besides addresses, localhost "
            "and this machine's name"
        ),
    ] = ()

    def __post_init__(self) -> None:
        if self.listen:
            self.address()
        for name in self.hosts:
            if not re.fullmatch(r"[\w.-]{1,253}", name):
                raise ValueError(f"hosts: {name!r} is not a host name (without a port)")

    def address(self) -> tuple[str, int]:
        """Host and port to listen on."""
        return listen_address(self.listen)


class ServeLimits(Section, frozen=True):
    """What one reader may cost the others; each process has its own."""

    requests_per_s: Annotated[
        float,
        Meta(
            ge=0,
            le=1_000_000,
            description="requests of one address (IPv6: of a /64) a second in the long run, of all "
            "processes together; 0: any number",
        ),
    ] = 20.0
    burst: Annotated[
        int, Meta(ge=1, le=1_000_000, description="requests that an address may make at once")
    ] = 200
    connections: Annotated[int, Meta(ge=1, le=100_000, description="most open connections")] = 1000
    connections_per_address: Annotated[
        int, Meta(ge=1, le=100_000, description="most open connections of one address")
    ] = 100
    change_streams: Annotated[
        int, Meta(ge=1, le=100_000, description="most readers who follow the changes of state")
    ] = 200
    statement_timeout_s: Annotated[
        float, Meta(ge=0.1, le=600, description="a question that takes longer is broken off")
    ] = 5.0
    database_connections: Annotated[
        int, Meta(ge=1, le=100, description="most connections to the database of each process")
    ] = 4


class ServeRelayLimits(Section, frozen=True):
    """What one client of the relay may cost the others; each process has its own."""

    max_message_bytes: Annotated[
        int, Meta(ge=4096, le=1 << 24, description="largest message of a client")
    ] = 131_072
    max_subscriptions: Annotated[
        int, Meta(ge=1, le=10_000, description="most subscriptions of a connection")
    ] = 100
    max_filters: Annotated[int, Meta(ge=1, le=1000, description="most filters of a request")] = 20
    max_values: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="most ids, authors, kinds and tags in all filters of a connection",
        ),
    ] = 20_000
    default_limit: Annotated[
        int, Meta(ge=1, le=100_000, description="events for a filter without a limit")
    ] = 500
    max_limit: Annotated[
        int, Meta(ge=1, le=100_000, description="most events for a filter, whatever its limit")
    ] = 5000
    answer_s: Annotated[
        float, Meta(ge=1, le=3600, description="longest work of the database for one request")
    ] = 30.0
    count_exactly: Annotated[
        int,
        Meta(ge=1, le=10_000_000, description="a COUNT beyond is an estimate, and says so"),
    ] = 100_000
    max_reconciliations: Annotated[
        int, Meta(ge=1, le=1000, description="most reconciliations (NIP-77) of a connection")
    ] = 16
    max_reconciled: Annotated[
        int,
        Meta(
            ge=100,
            le=100_000_000,
            description="most events of a reconciliation; a client with a larger one is told so, "
            "and asks for less time",
        ),
    ] = 5_000_000
    reconciliation_mb: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="memory for the ids of all reconciliations, which share them",
        ),
    ] = 256
    frame_bytes: Annotated[
        int,
        Meta(
            ge=4096,
            le=1_000_000,
            description="largest answer of a reconciliation, in bytes; as hex it has twice as many",
        ),
    ] = 61_440
    messages_per_s: Annotated[
        float,
        Meta(
            ge=0,
            le=1_000_000,
            description="messages of one address a second in the long run, which then wait; 0: any "
            "number",
        ),
    ] = 50.0
    burst: Annotated[
        int, Meta(ge=1, le=1_000_000, description="messages that an address may send at once")
    ] = 1000
    work_per_s: Annotated[
        float,
        Meta(
            ge=0,
            le=1000,
            description="seconds of the database's time that an address may use a second in the "
            "long run; 0: any number",
        ),
    ] = 1.0
    work_burst_s: Annotated[
        float, Meta(ge=0.1, le=3600, description="seconds of it that it may use at once")
    ] = 30.0
    unsent_kb: Annotated[
        int,
        Meta(ge=64, le=1_000_000, description="a connection that leaves more unread is cut"),
    ] = 4096


class ServeRelaySettings(Section, frozen=True):
    """The archive as a relay, at the address of `[serve]`."""

    # At the address of the API, which shows the same: on loopback, unless somebody opens it.
    enabled: Annotated[bool, Meta(description="Nostr clients may read the archive at /")] = True
    archive: Annotated[
        bool, Meta(description="and at /archive, old versions of replaceable events included")
    ] = False
    auth: Annotated[bool, Meta(description="only clients that authenticate (NIP-42) may read")] = (
        False
    )
    readers: Annotated[
        tuple[str, ...],
        Meta(description="with auth: who may read, as npub or 64 hex digits; none: whoever signs"),
    ] = ()
    name: Annotated[str, Meta(max_length=200, description="in its document (NIP-11)")] = "bigbrotr"
    description: Annotated[str, Meta(max_length=10_000, description="in its document")] = (
        "An archive of what other relays hold. It takes no events."
    )
    contact: Annotated[str | None, Meta(description="in its document: mailto:… or https://…")] = (
        None
    )
    pubkey: Annotated[
        str | None, Meta(description="in its document: its operator's, as npub or 64 hex digits")
    ] = None
    own_pubkey: Annotated[
        str | None, Meta(description="in its document, as `self`: the relay's own")
    ] = None
    icon: Annotated[str | None, Meta(description="in its document: a URL")] = None
    hints: Annotated[
        bool,
        Meta(
            description="EOSE says whether there is more (NIP-67); false: for clients that take no "
            "such EOSE, as nostr-fetch up to 0.17"
        ),
    ] = True
    limits: ServeRelayLimits = ServeRelayLimits()

    def __post_init__(self) -> None:
        for name in ("pubkey", "own_pubkey"):
            if (text := getattr(self, name)) is not None:
                msgspec.structs.force_setattr(self, name, _public_key(name, text))
        keys = tuple(_public_key("readers", each) for each in self.readers)
        msgspec.structs.force_setattr(self, "readers", keys)


def _public_key(name: str, text: str) -> str:
    try:
        return public_key(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


class ServeSettings(Section, frozen=True):
    """What people and programs may read of the archive over HTTP."""

    listen: Annotated[
        str,
        Meta(
            description='address:port of what `bigbrotr run` starts beside the services; "": '
            "nothing is served"
        ),
    ] = ""
    public_url: Annotated[
        str | None,
        Meta(
            description="https://… under which all the world may read it; without one it is "
            "private: it has no other names than addresses, and pages of other sites may not read "
            "it"
        ),
    ] = None
    processes: Annotated[
        int, Meta(ge=0, le=256, description="processes that share the port; 0: one a core")
    ] = 1
    trusted_proxies: Annotated[
        tuple[str, ...],
        Meta(
            description="addresses and networks (CIDR) whose X-Forwarded-For says who asks; of "
            "anybody else it is ignored"
        ),
    ] = ()
    pages: Annotated[
        bool, Meta(description="pages for people, at /; without them / leads to the API")
    ] = True
    limits: ServeLimits = ServeLimits()
    relay: ServeRelaySettings = ServeRelaySettings()

    def __post_init__(self) -> None:
        if self.listen:
            self.address()
        if self.public_url is not None:
            parts = _split(self.public_url)
            if (
                parts is None
                or parts.scheme not in ("http", "https")
                or not parts.hostname
                or "@" in parts.netloc
                or parts.query
                or parts.fragment
                or parts.path not in ("", "/")
            ):
                raise ValueError("public_url is https://host, without a path or a password")
        for text in self.trusted_proxies:
            try:
                ip_network(text, strict=False)
            except ValueError:
                raise ValueError(
                    f"trusted_proxies: {text!r} is neither an address nor a network"
                ) from None

    def address(self) -> tuple[str, int]:
        """Host and port to listen on."""
        return listen_address(self.listen)

    @property
    def width(self) -> int:
        """How many processes there are."""
        return self.processes or os.cpu_count() or 1


def listen_address(listen: str) -> tuple[str, int]:
    """Host and port of "address:port"; without an address it is this machine alone.

    Raises:
        ValueError: it is none.
    """
    host, colon, port = listen.rpartition(":")
    is_port = port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535
    if not colon or not is_port or not re.fullmatch(r"[\w.%-]*|\[?[0-9a-fA-F:.]+\]?", host):
        raise ValueError('listen is "address:port"')
    return host.strip("[]") or "127.0.0.1", int(port)


class WitnessesSettings(ServiceSection, frozen=True):
    """Other monitors (NIP-66): what they say of relays is kept, and compared with ours."""

    # As maintenance, it waits for those who hold the database up.
    max_consecutive_failures: Annotated[
        int, Meta(ge=0, description="failed cycles in a row that count as a crash; 0: never")
    ] = 0
    interval_s: Annotated[
        float, Meta(ge=0.1, description="from one look for new words to the next")
    ] = 30.0
    most: Annotated[
        int, Meta(ge=1, le=10_000, description="monitors whose words are kept at the same time")
    ] = 200
    pubkeys: Annotated[
        tuple[str, ...],
        Meta(
            max_length=1000,
            description="monitors that always have room: 64 hex digits or npub",
        ),
    ] = ()
    only_these: Annotated[bool, Meta(description="no other monitor than those of pubkeys")] = False
    compare_every_s: Annotated[
        float, Meta(ge=1, le=YEAR_S, description="from one comparison of all to the next")
    ] = 900.0

    def __post_init__(self) -> None:
        keys = []
        for pubkey in self.pubkeys:
            try:
                keys.append(public_key(pubkey))
            except ValueError as error:
                raise ValueError(f"pubkeys: {error}") from None
        msgspec.structs.force_setattr(self, "pubkeys", tuple(dict.fromkeys(keys)))
        if self.only_these and not keys:
            raise ValueError("only_these: name the monitors in pubkeys")
        if len(keys) > self.most:
            raise ValueError(f"pubkeys: {len(keys)} are more than most = {self.most} has room for")

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The public keys in bytes."""
        return tuple(map(bytes.fromhex, self.pubkeys))


class RankProfileSettings(Section, frozen=True):
    """How the key of the ranks introduces itself (kind 0)."""

    name: Annotated[str, Meta(description="of the algorithm")] = "bigbrotr PageRank"
    about: Annotated[str, Meta(description="what it does")] = (
        "PageRank (damping 0.85) over the lists of follows that an archive of relays has, on a "
        "logarithmic scale from 0 to 100; posts, replies, reactions, zaps and reports that it has"
    )
    picture: Annotated[str | None, Meta(description="URL of an image")] = None
    website: Annotated[str | None, Meta(description="URL, where the algorithm is described")] = None


class RankPublishSettings(Section, frozen=True):
    """Assertions of ranks (NIP-85), signed with RANKS_PRIVATE_KEY."""

    enabled: Annotated[bool, Meta(description="ranks are published")] = False
    relays: Annotated[tuple[str, ...], Meta(description="URLs of relays that get all of them")] = ()
    to_listed: Annotated[
        bool,
        Meta(
            description="so do relays of this archive at which users' lists (kind 10040) look for "
            "what our key says"
        ),
    ] = True
    pubkeys: Annotated[
        int, Meta(ge=1, le=1_000_000, description="public keys of the highest ranks that are told")
    ] = 1000
    subjects: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description="events and addresses that are told, those with most answers, quotes, "
            "reposts, reactions and zaps",
        ),
    ] = 1000
    tolerance: Annotated[
        float, Meta(ge=0, le=1, description="share by which a value may move before it is told")
    ] = 0.02
    every_s: Annotated[
        float, Meta(ge=1, le=YEAR_S, description="from one look for changes to the next")
    ] = 3600.0
    most: Annotated[
        int, Meta(ge=1, le=100_000, description="events that one look puts into the outbox at most")
    ] = 1000
    profile: RankProfileSettings = RankProfileSettings()

    def __post_init__(self) -> None:
        urls = []
        for raw in self.relays:
            try:
                urls.append(Relay(raw).url)
            except ValueError as error:
                raise ValueError(f"relays: {raw!r}: {error}") from None
        msgspec.structs.force_setattr(self, "relays", tuple(dict.fromkeys(urls)))
        if self.enabled and not urls and not self.to_listed:
            raise ValueError("enabled with nowhere to publish: relays, or to_listed")


class RanksSettings(ServiceSection, frozen=True):
    """What is counted of public keys, events and addresses, and ranks by who follows whom (NIP-85);
    needs the extra rank."""

    enabled: Annotated[bool, Meta(description="events are counted, and public keys ranked")] = False
    # As maintenance, it waits for those who hold the database up.
    max_consecutive_failures: Annotated[
        int, Meta(ge=0, description="failed cycles in a row that count as a crash; 0: never")
    ] = 0
    interval_s: Annotated[
        float, Meta(ge=0.1, description="from one look for new events to the next")
    ] = 30.0
    rank_every_s: Annotated[
        float,
        Meta(ge=1, le=YEAR_S, description="from one run over the whole follow graph to the next"),
    ] = 21_600.0
    publish: RankPublishSettings = RankPublishSettings()


class AlertTarget(Section, frozen=True):
    """Who is told what has changed at which relays."""

    form: Annotated[
        Literal["json", "slack", "ntfy", "nostr"],
        Meta(
            description="a webhook by what it takes, or private messages (NIP-17) that PRIVATE_KEY "
            "signs"
        ),
    ]
    watch: Annotated[
        tuple[str, ...], Meta(min_length=1, max_length=1000, description="URLs of the relays")
    ]
    url_from: Annotated[
        str,
        Meta(
            description="the environment variable that holds the URL of the webhook; NAME_FILE may "
            "name a file instead"
        ),
    ] = ""
    npub: Annotated[str, Meta(description="with nostr: who gets the messages")] = ""
    relays: Annotated[
        tuple[str, ...],
        Meta(max_length=20, description="with nostr: URLs of the relays where messages are read"),
    ] = ()
    changes: Annotated[
        tuple[Literal["down", "up", "certificate"], ...],
        Meta(min_length=1, description="what is told; certificate: it is about to expire"),
    ] = ("down", "up", "certificate")

    def __post_init__(self) -> None:
        for name in ("watch", "relays"):
            urls = []
            for raw in getattr(self, name):
                try:
                    urls.append(Relay(raw).url)
                except ValueError as error:
                    raise ValueError(f"{name}: {raw!r}: {error}") from None
            msgspec.structs.force_setattr(self, name, tuple(dict.fromkeys(urls)))
        if self.form == "nostr":
            if not self.relays or not self.npub:
                raise ValueError("form nostr needs npub and relays")
            if self.url_from:
                raise ValueError("url_from is of webhooks: form nostr needs npub and relays")
            try:
                msgspec.structs.force_setattr(self, "npub", public_key(self.npub))
            except ValueError as error:
                raise ValueError(f"npub: {error}") from None
        else:
            if self.npub or self.relays:
                raise ValueError('npub and relays are of form = "nostr"')
            if not re.fullmatch("[A-Z][A-Z0-9_]{0,99}", self.url_from):
                raise ValueError(
                    "url_from is the NAME of the environment variable that holds the URL of the "
                    "webhook, which is a secret: capitals, digits and _"
                )


class AlertsSettings(ServiceSection, frozen=True):
    """Who is told when chosen relays go down, come back, or have a certificate about to expire."""

    enabled: Annotated[bool, Meta(description="[alerts.to.NAME] are told")] = False
    interval_s: Annotated[float, Meta(ge=0.1, description="from one look to the next")] = 10.0
    # As maintenance, it waits for those who hold the database up.
    max_consecutive_failures: Annotated[
        int, Meta(ge=0, description="failed cycles in a row that count as a crash; 0: never")
    ] = 0
    checks: Annotated[
        int, Meta(ge=1, le=100, description="checks in a row that find a state before it is told")
    ] = 2
    after_s: Annotated[
        float, Meta(ge=0, le=YEAR_S, description="how long a state lasts before it is told")
    ] = 120.0
    certificate_s: Annotated[
        float, Meta(ge=0, le=YEAR_S, description="how long before its end a certificate is told")
    ] = 14 * 86_400.0
    timeout_s: Annotated[
        float, Meta(gt=0, le=600, description="longest wait for the whole answer of a webhook")
    ] = 20.0
    max_attempts: Annotated[
        int, Meta(ge=1, le=1000, description="tries to tell something; each waits twice as long")
    ] = 12
    to: Annotated[dict[str, AlertTarget], Meta(description="[alerts.to.NAME]: who is told")] = {}


class RescueSettings(ServiceSection, frozen=True):
    """Archived events that are sent to other relays again: those of chosen authors by itself, and
    what `bigbrotr rescue` has left in the queue."""

    enabled: Annotated[
        bool, Meta(description="events are sent; `bigbrotr rescue` sends them anyway")
    ] = False
    interval_s: Annotated[float, Meta(ge=0.1, description="from one look to the next")] = 5.0
    # As maintenance, it waits for those who hold the database up.
    max_consecutive_failures: Annotated[
        int, Meta(ge=0, description="failed cycles in a row that count as a crash; 0: never")
    ] = 0
    authors: Annotated[
        tuple[str, ...],
        Meta(max_length=10_000, description="whose events are to be safe: npub or 64 hex digits"),
    ] = ()
    to: Annotated[
        tuple[str, ...],
        Meta(
            max_length=100,
            description="URLs of the relays that get them; none: those to which "
            "their author writes (kind 10002)",
        ),
    ] = ()
    below: Annotated[
        int,
        Meta(
            ge=1,
            le=1000,
            description="events that fewer relays hold are sent; those that are "
            "failing or retired do not count",
        ),
    ] = 2
    every_s: Annotated[
        float, Meta(ge=1, le=YEAR_S, description="from one search for such events to the next")
    ] = 3600.0
    most_relays: Annotated[
        int, Meta(ge=1, le=100, description="of one author's list that get an event")
    ] = 5
    per_minute: Annotated[
        int, Meta(ge=1, le=6000, description="events that one relay is sent in a minute")
    ] = 60
    verify_s: Annotated[
        float,
        Meta(
            ge=0,
            le=86_400,
            description="until a relay that said OK and did not hold an event "
            "then is asked for it again",
        ),
    ] = 60.0
    max_attempts: Annotated[
        int, Meta(ge=1, le=1000, description="tries to send something; each waits twice as long")
    ] = 10
    known_at: Annotated[
        tuple[str, ...],
        Meta(
            max_length=1000,
            description="URLs of relays that want to be paid or restrict who "
            "writes, and take what we send",
        ),
    ] = ()
    auth: Annotated[
        Literal["throwaway", "configured", "never"],
        Meta(description="for relays that require a key (NIP-42): a new one, PRIVATE_KEY, or none"),
    ] = "throwaway"

    def __post_init__(self) -> None:
        for name in ("to", "known_at"):
            urls = []
            for raw in getattr(self, name):
                try:
                    urls.append(Relay(raw).url)
                except ValueError as error:
                    raise ValueError(f"{name}: {raw!r}: {error}") from None
            msgspec.structs.force_setattr(self, name, tuple(dict.fromkeys(urls)))
        try:
            keys = tuple(dict.fromkeys(map(public_key, self.authors)))
        except ValueError as error:
            raise ValueError(f"authors: {error}") from None
        msgspec.structs.force_setattr(self, "authors", keys)


class CompletenessSettings(ServiceSection, frozen=True):
    """Which share of what archived events refer to is archived itself, measured on a sample; and
    the search for what is missing of it."""

    interval_s: Annotated[
        float, Meta(ge=0.1, description="from one look for new events to the next")
    ] = 5.0
    # As maintenance, it waits for those who hold the database up.
    max_consecutive_failures: Annotated[
        int, Meta(ge=0, description="failed cycles in a row that count as a crash; 0: never")
    ] = 0
    share: Annotated[
        float,
        Meta(
            gt=0,
            le=1,
            description="share of the archived events whose references are followed; "
            "which ones their ids say, so that other archives have the same",
        ),
    ] = 0.05
    fetch: Annotated[bool, Meta(description="relays are asked for what is missing")] = True
    most_missing: Annotated[
        int, Meta(ge=0, le=10_000_000, description="missing events that wait at most")
    ] = 100_000
    fetch_every_s: Annotated[
        float, Meta(ge=0.1, le=YEAR_S, description="from one search for missing events to the next")
    ] = 60.0
    fetch_at_once: Annotated[
        int, Meta(ge=1, le=5000, description="missing events that relays are asked for then")
    ] = 200
    max_attempts: Annotated[
        int, Meta(ge=1, le=100, description="tries to find an event, each at other relays")
    ] = 4


class Config(Section, frozen=True):
    """All settings: the tables of a configuration file."""

    database: Database = field(default_factory=Database)
    pool: PoolSettings = field(default_factory=PoolSettings)
    networks: Networks = field(default_factory=Networks)
    politeness: PolitenessSettings = field(default_factory=PolitenessSettings)
    seeder: SeederSettings = field(default_factory=SeederSettings)
    finder: FinderSettings = field(default_factory=FinderSettings)
    validator: ValidatorSettings = field(default_factory=ValidatorSettings)
    monitor: MonitorSettings = field(default_factory=MonitorSettings)
    publisher: PublisherSettings = field(default_factory=PublisherSettings)
    synchronizer: SynchronizerSettings = field(default_factory=SynchronizerSettings)
    policy: PolicySettings = field(default_factory=PolicySettings)
    statistics: StatisticsSettings = field(default_factory=StatisticsSettings)
    search: SearchSettings = field(default_factory=SearchSettings)
    completeness: CompletenessSettings = field(default_factory=CompletenessSettings)
    witnesses: WitnessesSettings = field(default_factory=WitnessesSettings)
    ranks: RanksSettings = field(default_factory=RanksSettings)
    alerts: AlertsSettings = field(default_factory=AlertsSettings)
    rescue: RescueSettings = field(default_factory=RescueSettings)
    maintenance: MaintenanceSettings = field(default_factory=MaintenanceSettings)
    supervisor: SupervisorSettings = field(default_factory=SupervisorSettings)
    log: LogSettings = field(default_factory=LogSettings)
    web: WebSettings = field(default_factory=WebSettings)
    serve: ServeSettings = field(default_factory=ServeSettings)


def service_names() -> list[str]:
    """The services, in the order in which one cycle of each makes sense."""
    hints = get_type_hints(Config)
    return [name for name, kind in hints.items() if issubclass(kind, ServiceSection)]
