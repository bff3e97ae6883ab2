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
)
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit

import msgspec
from msgspec import Meta, Struct, field

from bigbrotr.models.filter import MOMENT, Filter, public_key
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
    """A URL in parts, None if it is none: Python's own reasons repeat parts of it, and so perhaps
    of a password."""
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
            description='"embedded", or postgresql://user@host:port/name (15 or newer), or '
            '"$DATABASE_URL": what that variable says, embedded when it is not set'
        ),
    ] = EMBEDDED
    host: Annotated[str | None, Meta(description="instead of the URL, in parts")] = None
    port: Annotated[int, Meta(ge=1, le=65535)] = 5432
    database: Annotated[str, Meta(min_length=1)] = "bigbrotr"
    user: Annotated[str, Meta(min_length=1)] = "bigbrotr"

    def __post_init__(self) -> None:
        if self.url == "$DATABASE_URL":
            # Only where the file says so: many programs read this variable, and some set it.
            found = os.environ.get("DATABASE_URL", "").strip() or EMBEDDED
            msgspec.structs.force_setattr(self, "url", found)
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
        return f"{host}:{port}{unquote(parts.path) or '/'}"


class Limits(Section, frozen=True):
    """How many connections the pool keeps."""

    min_size: Annotated[int, Meta(ge=1, le=100, description="connections kept open")] = 1
    max_size: Annotated[int, Meta(ge=1, le=200, description="connections at most")] = 8
    max_queries: Annotated[int, Meta(ge=100, description="then a connection is renewed")] = 50_000
    max_inactive_connection_lifetime: Annotated[float, Meta(ge=0, description="seconds")] = 300.0

    def __post_init__(self) -> None:
        if self.min_size > self.max_size:
            raise ValueError("min_size is larger than max_size")


class Timeouts(Section, frozen=True):
    """How long the pool waits, in seconds."""

    acquisition: Annotated[float, Meta(ge=0.1, description="seconds for a free connection")] = 30.0
    command: Annotated[float, Meta(ge=1, description="seconds for any other statement")] = 300.0
    health_check: Annotated[float, Meta(ge=0.1, description="seconds for SELECT 1")] = 3.0


class Retry(Section, frozen=True):
    """How often and how soon connecting is tried again."""

    max_attempts: Annotated[int, Meta(ge=1, le=10, description="tries to connect")] = 3
    initial_delay: Annotated[float, Meta(ge=0, description="seconds before the second try")] = 0.5
    max_delay: Annotated[float, Meta(ge=0, description="seconds between tries at most")] = 10.0
    exponential_backoff: Annotated[bool, Meta(description="double the delay each time")] = True


class ServerSettings(Section, frozen=True):
    """What each session tells the server."""

    application_name: str = "bigbrotr"
    timezone: str = "UTC"


class PoolSettings(Section, frozen=True):
    """The pool of database connections."""

    limits: Limits = field(default_factory=Limits)
    timeouts: Timeouts = field(default_factory=Timeouts)
    retry: Retry = field(default_factory=Retry)
    server_settings: ServerSettings = field(default_factory=ServerSettings)
    pgbouncer: Annotated[
        bool, Meta(description="behind PgBouncer in transaction mode: keep no session state")
    ] = False
    max_batch_size: Annotated[int, Meta(ge=1, le=100_000, description="rows a call")] = 5_000


class Link(Section, frozen=True):
    """How one network is reached; shared by every service."""

    enabled: bool = True
    width: Annotated[int, Meta(ge=1, le=1000, description="conversations at once")] = 50
    timeout_s: Annotated[float, Meta(gt=0, le=600, description="to connect, and per reply")] = 10.0
    quick_s: Annotated[
        float,
        Meta(gt=0, le=600, description="a candidate that takes longer lets others pass meanwhile"),
    ] = 4.0
    proxy: Annotated[
        str | None,
        Meta(
            description="socks5h://host:port resolves names; socks5://host:port is for clearnet: "
            "names are resolved, and judged, here"
        ),
    ] = None

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
        str | None, Meta(description="where complaints go: a part of the User-Agent")
    ] = None
    per_address: Annotated[
        int, Meta(ge=1, le=1000, description="conversations at once with one IP address")
    ] = 4
    per_subnet: Annotated[
        int, Meta(ge=1, le=10_000, description="conversations at once with one /24, or /48 of IPv6")
    ] = 16
    starts_per_s: Annotated[float, Meta(gt=0, le=1000, description="new connections a second")] = (
        20.0
    )
    opt_out: Annotated[
        tuple[str, ...],
        Meta(description="never dialled: hosts with their subdomains, addresses, networks (CIDR)"),
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

    enabled: bool = True
    interval_s: Annotated[float, Meta(ge=0.1, description="from one cycle to the next")] = 60.0
    max_consecutive_failures: Annotated[int, Meta(ge=0, description="0: no limit")] = (
        MAX_CONSECUTIVE_FAILURES
    )


class SeederSettings(ServiceSection, frozen=True):
    """Where the first candidates come from."""

    interval_s: Annotated[float, Meta(ge=0.1, description="the file is read again")] = 3600.0
    file: Annotated[
        str | None, Meta(description="one relay URL a line; none: the shipped list")
    ] = None


class SourceSettings(Section, frozen=True):
    """One list of relays on the web."""

    url: Annotated[str, Meta(description="http:// or https://, without a password")]
    path: Annotated[
        str, Meta(description="JSONPath of the URLs in the answer; `~` selects keys: $.relays.~")
    ] = "$[*]"
    enabled: bool = True
    interval_s: Annotated[float, Meta(ge=60, le=YEAR_S, description="until it is asked again")] = (
        86_400.0
    )
    timeout_s: Annotated[float, Meta(gt=0, le=600, description="for the whole answer")] = 30.0
    max_bytes: Annotated[
        int, Meta(ge=1024, le=64 << 20, description="a longer answer is refused, unpacked or not")
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
        from jsonpath import JSONPathError, compile  # noqa: A004 -- slow to import, rarely needed

        try:
            compile(self.path)
        except JSONPathError as error:
            raise ValueError(f"path: {str(error).splitlines()[0]}") from None


class MonitorsSettings(Section, frozen=True):
    """Monitors whose announcements of relays (NIP-66) are asked for; without any, none are."""

    enabled: bool = True
    pubkeys: Annotated[
        tuple[str, ...], Meta(description="64 hex digits or npub; nobody else is believed")
    ] = ()
    relays: Annotated[tuple[str, ...], Meta(description="URLs of relays to ask")] = ()
    interval_s: Annotated[
        float, Meta(ge=60, le=YEAR_S, description="until they are asked again")
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
            description="addresses of one host with a path or port of their own that don't fail",
        ),
    ] = 16
    tombstone_s: Annotated[
        float,
        Meta(ge=0, le=100 * YEAR_S, description="until a URL that was given up may come again"),
    ] = TOMBSTONE_S
    sources: Annotated[
        dict[str, SourceSettings],
        Meta(description="[finder.sources.NAME] is a list of relays on the web"),
    ] = {}
    monitors: MonitorsSettings = MonitorsSettings()


class ValidatorSettings(ServiceSection, frozen=True):
    """Which candidates become relays."""

    interval_s: Annotated[float, Meta(ge=0.1, description="from one cycle to the next")] = 10.0
    max_attempts: Annotated[
        int, Meta(ge=1, le=1000, description="failures in a row before a candidate rests for good")
    ] = 20
    retire_after_s: Annotated[
        float,
        Meta(ge=1, le=YEAR_S, description="a relay that only fails for so long: a candidate again"),
    ] = 14 * 86_400.0


# How long a relay may take to answer; a network's own bound is the default.
Limit: TypeAlias = Annotated[
    Annotated[float, Meta(gt=0, le=600)] | None,
    Meta(description="seconds; none: as the network has it"),
]


class Nip11Settings(Section, frozen=True):
    """What a relay says of itself (NIP-11)."""

    enabled: bool = True
    timeout_s: Limit = None
    max_bytes: Annotated[
        int, Meta(ge=1024, le=4 << 20, description="a longer document is refused")
    ] = 65_536


class ReadSettings(Section, frozen=True):
    """How long a relay takes to answer a question."""

    enabled: bool = True
    timeout_s: Limit = None


class WriteSettings(Section, frozen=True):
    """How long a relay takes to accept an event: an ephemeral one, by PRIVATE_KEY or, without one,
    a new key."""

    enabled: Annotated[bool, Meta(description="writes something to every relay")] = False
    timeout_s: Limit = None
    max_pow_bits: Annotated[
        int, Meta(ge=0, le=24, description="work that is done where a relay asks for it (NIP-13)")
    ] = 16


class ClaimsSettings(Section, frozen=True):
    """Whether relays do what they say: a few cheap questions."""

    enabled: bool = True
    timeout_s: Annotated[float, Meta(gt=0, le=600, description="for each question")] = 3.0


class DnsSettings(Section, frozen=True):
    """What the domain name system holds about a relay's host."""

    enabled: bool = True
    timeout_s: Annotated[float, Meta(gt=0, le=600, description="for all records")] = 5.0
    nameservers: Annotated[
        tuple[str, ...], Meta(description="address or address:port; none: the system's")
    ] = ()

    def __post_init__(self) -> None:
        for text in self.nameservers:
            try:
                name_server(text)
            except ValueError as error:
                raise ValueError(f"nameservers: {text!r}: {error}") from None


class GeoSettings(Section, frozen=True):
    """Databases in MaxMind's format (MMDB); without one, the check is not made."""

    city_db: Annotated[str | None, Meta(description="file of places, of countries or cities")] = (
        None
    )
    asn_db: Annotated[str | None, Meta(description="file of networks and their operators")] = None


class ProfileSettings(Section, frozen=True):
    """How the monitor introduces itself (kind 0); what is not said is left out."""

    name: str = "bigbrotr"
    about: str = "measures relays"
    picture: str | None = None
    website: str | None = None
    nip05: str | None = None


class PublishSettings(Section, frozen=True):
    """What is measured as events of NIP-66, signed with PRIVATE_KEY."""

    enabled: bool = False
    relays: Annotated[tuple[str, ...], Meta(description="URLs of relays that get all of it")] = ()
    to_monitored: Annotated[
        bool, Meta(description="each relay gets what is said of it, besides")
    ] = False
    refresh_s: Annotated[
        float,
        Meta(ge=60, le=YEAR_S, description="until a relay that did not change is told again"),
    ] = 3600.0
    geohash: Annotated[str | None, Meta(description="where the monitor is")] = None
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
            raise ValueError(f"geohash: {self.geohash!r} is none")
        if self.enabled and not urls and not self.to_monitored:
            raise ValueError("enabled with nowhere to publish: relays, or to_monitored")


class MonitorSettings(ServiceSection, frozen=True):
    """What is measured of relays, and how often."""

    interval_s: Annotated[float, Meta(ge=0.1, description="from one cycle to the next")] = 10.0
    check_every_s: Annotated[
        float, Meta(ge=1, le=YEAR_S, description="until a relay that is up is checked again")
    ] = 3600.0
    retention_days: Annotated[
        int, Meta(ge=1, le=36_500, description="older measurements go, but for the newest")
    ] = 90
    tls: Annotated[bool, Meta(description="note certificates")] = True
    http: Annotated[bool, Meta(description="note what servers say they are")] = True
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
    max_attempts: Annotated[int, Meta(ge=1, le=1000, description="to deliver an event")] = 5


class MaintenanceSettings(ServiceSection, frozen=True):
    """How often the database is looked after: partitions, statistics, what needs a look."""

    interval_s: Annotated[
        float, Meta(ge=0.1, description="from one look whether it is time to the next")
    ] = 900.0
    every_s: Annotated[
        float, Meta(ge=60, le=YEAR_S, description="from one look after the database to the next")
    ] = 43_200.0


def name_server(text: str) -> tuple[str, int]:
    """Address and port of "address", "address:port" or "[address]:port"; ValueError otherwise."""
    host, colon, port = text.rpartition(":")
    if not colon or (":" in host and not text.startswith("[")):
        host, port = text, "53"
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError("the port is none")
    return str(ip_address(host.strip("[]"))), int(port)


Seconds = Annotated[int, Meta(ge=0, le=2**53, extra={MOMENT: True})]
PageLimit = Annotated[int, Meta(ge=2, le=5000)]  # one alone says nothing of what follows


class RelaySettings(Section, frozen=True):
    """What differs for one relay; what is not said is as for all of them."""

    enabled: Annotated[bool, Meta(description="false: it is not asked for events")] = True
    since: Seconds | None = None
    filter: Annotated[Filter | None, Meta(description="instead of the other one, as a whole")] = (
        None
    )
    page_limit: PageLimit | None = None
    live: bool | None = None
    reconcile: bool | None = None


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
    workers: Annotated[int, Meta(ge=0, le=256, description="processes; 0: one a core")] = 0
    slice_s: Annotated[
        float, Meta(ge=1, le=600, description="how long a worker is busy before it reports")
    ] = 30.0
    since: Annotated[
        Seconds, Meta(description="a date (of UTC) or Unix seconds; older events are not wanted")
    ] = 0
    revisit_s: Annotated[
        float, Meta(ge=1, le=YEAR_S, description="until a relay that is complete is asked again")
    ] = 120.0
    live: Annotated[bool, Meta(description="stay subscribed to relays that are complete")] = True
    live_relays: Annotated[
        int, Meta(ge=0, le=10_000, description="subscribed to at once; the others are revisited")
    ] = 200
    settle_s: Annotated[
        int,
        Meta(ge=0, le=YEAR_S, description="the newest seconds, in which events still arrive late"),
    ] = 900
    reconcile: Annotated[
        bool, Meta(description="compare ids (NIP-77) with relays that really can, instead of pages")
    ] = True
    audit_s: Annotated[
        int,
        Meta(ge=7200, le=YEAR_S, description="until what is proven is looked at again, by ids"),
    ] = 86_400
    lookback_s: Annotated[
        int,
        Meta(
            ge=0,
            le=YEAR_S,
            description="... or this much of it, where only pages can tell; 0: none",
        ),
    ] = 2 * 86_400
    rewalk_s: Annotated[
        int, Meta(ge=0, le=10 * YEAR_S, description="... and all of it, page by page; 0: never")
    ] = 90 * 86_400
    page_limit: Annotated[PageLimit, Meta(description="events asked for at once")] = 500
    max_event_bytes: Annotated[
        int, Meta(ge=1024, le=64 << 20, description="larger messages are skipped")
    ] = 1 << 20
    max_page_bytes: Annotated[
        int, Meta(ge=1 << 16, le=256 << 20, description="a page is cut off here")
    ] = 4 << 20
    auth: Annotated[
        Literal["throwaway", "configured", "never"],
        Meta(description="the key shown to relays that insist on one: PRIVATE_KEY if configured"),
    ] = "throwaway"
    filter: Annotated[Filter, Meta(description="which events are wanted; none: all")] = Filter()
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
        str | None, Meta(description="who holds leases; none: the host's name. One a supervisor")
    ] = None
    shutdown_timeout_s: Annotated[float, Meta(ge=0.1, le=600)] = 20.0
    restart_delay_s: Annotated[float, Meta(ge=0, description="after a first crash")] = 1.0
    max_restart_delay_s: Annotated[float, Meta(ge=0, description="it doubles up to this")] = 60.0
    max_crashes: Annotated[int, Meta(ge=1, description="within crash_window_s: failed")] = 8
    crash_window_s: Annotated[float, Meta(gt=0)] = 600.0


class LogSettings(Section, frozen=True):
    """What is logged, and how."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    json: Annotated[bool, Meta(description="one JSON object a line")] = False


class WebSettings(Section, frozen=True):
    """What is served over HTTP."""

    listen: Annotated[
        str,
        Meta(description='"127.0.0.1:9464" serves /healthz, /readyz, /metrics; "": nothing'),
    ] = ""

    hosts: Annotated[
        tuple[str, ...],
        Meta(
            description="names by which it may be asked, besides addresses, localhost, this "
            "machine's name and that of `listen`: a container's, say"
        ),
    ] = ()

    def __post_init__(self) -> None:
        if self.listen:
            self.address()
        for name in self.hosts:
            if not re.fullmatch(r"[\w.-]{1,253}", name):
                raise ValueError(f"hosts: {name!r} is no name of a host (without a port)")

    def address(self) -> tuple[str, int]:
        """Host and port to listen on."""
        host, colon, port = self.listen.rpartition(":")
        is_port = port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535
        if not colon or not is_port or not re.fullmatch(r"[\w.%-]*|\[?[0-9a-fA-F:.]+\]?", host):
            raise ValueError('listen is "address:port"')
        return host.strip("[]") or "127.0.0.1", int(port)


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
    maintenance: MaintenanceSettings = field(default_factory=MaintenanceSettings)
    supervisor: SupervisorSettings = field(default_factory=SupervisorSettings)
    log: LogSettings = field(default_factory=LogSettings)
    web: WebSettings = field(default_factory=WebSettings)
