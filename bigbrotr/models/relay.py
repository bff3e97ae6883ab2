"""What counts as a relay's address, how it is written, and which network it belongs to."""

import hashlib
import re
import unicodedata
from base64 import b32decode
from dataclasses import InitVar, dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple, Self
from urllib.parse import quote, unquote

import idna

MAX_RAW = 2048  # characters looked at; whatever is longer is no address
MAX_URL = 512  # bytes; PostgreSQL refuses index rows above 2,704
MAX_HOST = 253  # bytes, the longest name that DNS can carry
DEFAULT_PORTS = {"ws": 80, "wss": 443}


class Network(StrEnum):
    """How a relay is reached."""

    CLEARNET = "clearnet"
    TOR = "tor"
    I2P = "i2p"
    LOKI = "loki"
    LOCAL = "local"  # this machine or its neighbourhood; refused unless configured


@dataclass(frozen=True, slots=True)
class Relay:
    """The address of a relay; two spellings of one address are equal.

    `raw` is text from anywhere; ValueError says why it is no relay address. What is done to it:

    - Blanks and invisible characters around it go; inside, they and backslashes are refused.
    - Scheme and host become lower case; `ws` and `wss` stay apart, nothing else is accepted.
    - International names become punycode (UTS 46); labels may hold underscores.
    - User info, fragment, default port and trailing dots of the host go.
    - IPv4 is strict dotted decimal, IPv6 canonical in brackets without a zone.
    - The path keeps its case. Percent-encoding is normalised, duplicate slashes collapse, then
      dot segments are resolved (`..` stops at the root). A slash at the end stays, since what
      ends in one is another resource; only the root may be written without. What is refused raw
      is refused encoded (`%20`, `%00`, `%5C`).
    - The query stays, since it may be part of what a relay is; `discovered` drops it.
    - Two addresses glued together are refused, not guessed at.

    `host` has no brackets and no trailing dot; `port` is the effective port, also when it is
    the default and so not in `url`; `path` is empty or starts with a slash, and ends with the
    query. `discovered_at` is in Unix seconds, None when nobody knows yet; only `url` counts for
    equality.
    """

    raw: InitVar[str]
    discovered_at: int | None = field(default=None, compare=False)
    url: str = field(init=False)
    network: Network = field(init=False, compare=False)
    scheme: str = field(init=False, compare=False, repr=False)
    host: str = field(init=False, compare=False, repr=False)
    port: int = field(init=False, compare=False, repr=False)
    path: str = field(init=False, compare=False, repr=False)

    def __post_init__(self, raw: str) -> None:
        if self.discovered_at is not None:
            check_seconds("discovered_at", self.discovered_at)
        address = parse(raw)
        for name, value in zip(address._fields, address, strict=True):
            object.__setattr__(self, name, value)

    @classmethod
    def discovered(cls, raw: str) -> Self:
        """The relay at an address that strangers name: without a query, of which they could make
        up any number. ValueError as ever."""
        return cls(QUERY.split(raw, maxsplit=1)[0])

    def __str__(self) -> str:
        return self.url


class Address(NamedTuple):
    """A normalised relay address in parts."""

    url: str
    network: Network
    scheme: str
    host: str
    port: int
    path: str


def parse(raw: str) -> Address:
    """The parts of the relay address `raw`; ValueError with the reason if it is something else."""
    if len(raw) > MAX_RAW:
        raise ValueError(f"a relay URL of {len(raw)} characters is too long")
    text = raw.strip(INVISIBLE)
    refuse_invisible(text)
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in DEFAULT_PORTS:
        raise ValueError("a relay URL starts with ws:// or wss://")
    rest, _, raw_query = rest.partition("#")[0].partition("?")
    if "://" in rest:
        raise ValueError("more than one address in a relay URL")
    authority, _, raw_path = rest.partition("/")
    raw_host, raw_port = split_authority(authority.rpartition("@")[2])
    if raw_host.startswith("["):
        host, network = ipv6(raw_host[1:-1])
        shown = f"[{host}]"
    else:
        host, network = named(raw_host)
        shown = host
    port = parse_port(raw_port, DEFAULT_PORTS[scheme])
    if port != DEFAULT_PORTS[scheme]:
        shown = f"{shown}:{port}"
    path = normal_path(raw_path)
    if query := normal_query(raw_query):
        path = f"{path or '/'}?{query}"
    url = f"{scheme}://{shown}{path}"
    if len(url) > MAX_URL:  # ASCII by now: characters are bytes
        raise ValueError(f"a relay URL of {len(url)} bytes is too long (at most {MAX_URL})")
    return Address(url, network, scheme, host, port, path)


def check_seconds(name: str, value: object) -> None:
    """Refuse with ValueError what is no Unix time that fits a BIGINT."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError(f"{name} must be a whole number of Unix seconds, not {value!r}")


# --- characters -----------------------------------------------------------------------------------

# Around an address: ASCII blanks and controls, and what editors and chat programs leave behind.
INVISIBLE = (
    "".join(map(chr, range(0x21)))
    + "\x7f\x85\xa0\xad\u1680\u2028\u2029\u202f\u205f\u3000\ufeff"
    + "".join(map(chr, (*range(0x2000, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x206A))))
)
REFUSED_CATEGORIES = {"Cc", "Cf", "Cs", "Zs", "Zl", "Zp"}


def refuse_invisible(text: str) -> None:
    """Refuse blanks, control and format characters, lone surrogates and backslashes."""
    if "\\" in text or " " in text:
        raise ValueError("a blank or a backslash in a relay URL")
    if text.isascii() and text.isprintable():
        return
    for character in text:
        if unicodedata.category(character) in REFUSED_CATEGORIES:
            raise ValueError(f"the character U+{ord(character):04X} in a relay URL")


# --- authority ------------------------------------------------------------------------------------


def split_authority(authority: str) -> tuple[str, str]:
    """Host (in brackets if it came in brackets) and port (as text, without the colon)."""
    if authority.startswith("["):
        inside, bracket, after = authority.partition("]")
        if not bracket or (after and not after.startswith(":")):
            raise ValueError("broken brackets around an IPv6 address")
        return inside + bracket, after[1:]
    host, _, port = authority.partition(":")
    if ":" in port:
        raise ValueError("more than one colon: an IPv6 address goes in brackets")
    return host, port


def parse_port(text: str, default: int) -> int:
    """A port number 1 to 65535; empty means the default."""
    if not text:
        return default
    if not (text.isascii() and text.isdigit()):
        raise ValueError("the port is not a number")
    digits = text.lstrip("0")
    if not digits or len(digits) > 5 or int(digits) > 65535:
        raise ValueError("the port is not between 1 and 65535")
    return int(digits)


LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
LOOKS_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")  # a last label that browsers read as IPv4
TOP_LEVEL = re.compile(r"[a-z]{2,63}|xn--[a-z0-9-]{1,59}")
# Left over where schemes were glued: wss://https//relay.example.com
SCHEME_NAMES = {"ws", "wss", "http", "https"}
LOCAL_DOMAINS = ("localhost", "local", "localdomain", "internal", "lan", "home.arpa")


def named(raw_host: str) -> tuple[str, Network]:
    """A normalised host name or IPv4 literal, and its network."""
    host = ascii_host(raw_host).rstrip(".")
    if not host:
        raise ValueError("a relay URL without a host")
    if len(host) > MAX_HOST:
        raise ValueError(f"a host of {len(host)} bytes is too long (at most {MAX_HOST})")
    labels = host.split(".")
    if LOOKS_NUMERIC.fullmatch(labels[-1]):
        return ipv4(host)
    for label in labels:
        check_label(label)
    if host in SCHEME_NAMES:
        raise ValueError("a scheme where the host should be")
    hidden = HIDDEN.get(labels[-1])
    if hidden is not None:
        network, check = hidden
        check(labels[:-1])
        return host, network
    if len(labels) == 1 or f".{host}".endswith(tuple(f".{name}" for name in LOCAL_DOMAINS)):
        return host, Network.LOCAL
    if not TOP_LEVEL.fullmatch(labels[-1]):
        raise ValueError("no top-level domain looks like that")
    return host, Network.CLEARNET


def ascii_host(host: str) -> str:
    """The host in lower case, international labels as punycode (IDNA 2008 after UTS 46)."""
    if host.isascii():
        return host.lower()
    if len(host) > MAX_HOST:  # before the costly part; punycode never gets shorter than this
        raise ValueError(f"a host of {len(host)} characters is too long (at most {MAX_HOST})")
    try:
        mapped = idna.uts46_remap(host, std3_rules=False)
        return ".".join(
            label if label.isascii() else idna.alabel(label).decode() for label in mapped.split(".")
        )
    except UnicodeError as error:  # IDNAError is one
        raise ValueError(f"not a valid international host name: {error}") from None


def check_label(label: str) -> None:
    """Refuse what cannot be a label of a host name; punycode must be the canonical one."""
    if not LABEL.fullmatch(label):
        raise ValueError("a label of the host is empty, too long or holds a forbidden character")
    if not label.startswith("xn--"):
        return
    # Not idna.ulabel: emoji domains exist, although IDNA 2008 registers none of them. Whoever
    # means one writes punycode; a typed emoji at the end of an address is nearly always junk.
    try:
        decoded = label[4:].encode().decode("punycode")
        mapped = idna.uts46_remap(decoded, std3_rules=False)
        canonical = "xn--" + decoded.encode("punycode").decode()
    except ValueError:
        raise ValueError("a label of the host is broken punycode") from None
    if decoded.isascii() or mapped != decoded or "." in decoded or canonical != label:
        raise ValueError("a label of the host is not canonical punycode")


# --- hidden networks ------------------------------------------------------------------------------

BASE32 = re.compile(r"[a-z2-7]+")
Z_BASE32 = re.compile(r"[ybndrfg8ejkmcpqxot1uwisza345h769]{51}[yo]")  # 256 bits: one in the last


def check_onion(labels: list[str]) -> None:
    """Version 3 addresses, with or without labels in front; see Tor's rend-spec-v3, 6."""
    name = labels[-1] if labels else ""
    if len(name) == 16 and BASE32.fullmatch(name):
        raise ValueError("onion addresses of version 2 no longer exist")
    if len(name) != 56 or not BASE32.fullmatch(name):
        raise ValueError("an onion address has 56 characters of base32")
    decoded = b32decode(name.upper())
    key, checksum, version = decoded[:32], decoded[32:34], decoded[34:]
    if version != b"\x03":
        raise ValueError("an onion address of an unknown version")
    if hashlib.sha3_256(b".onion checksum" + key + version).digest()[:2] != checksum:
        raise ValueError("an onion address with a wrong checksum")


def check_i2p(labels: list[str]) -> None:
    """Names from an address book, or `.b32.i2p`: 52 characters, 56 and more when encrypted."""
    if not labels:
        raise ValueError("an i2p address without a name")
    if labels[-1] != "b32":
        return
    name = labels[0]
    if len(labels) != 2 or not BASE32.fullmatch(name):
        raise ValueError("a b32.i2p address is one label of base32")
    if not (len(name) >= 56 or (len(name) == 52 and name[-1] in "aq")):  # 256 bits: one in the last
        raise ValueError("a b32.i2p address has 52 characters, or at least 56")


def check_loki(labels: list[str]) -> None:
    """Registered names (at most 32 characters unless they hold a hyphen), or 52 of z-base-32."""
    name = labels[-1] if labels else ""
    if not name:
        raise ValueError("a loki address without a name")
    if len(name) > 32 and "-" not in name and not Z_BASE32.fullmatch(name):
        raise ValueError("a loki address has 52 characters of z-base-32")


HIDDEN = {
    "onion": (Network.TOR, check_onion),
    "i2p": (Network.I2P, check_i2p),
    "loki": (Network.LOKI, check_loki),
}


# --- IP addresses ---------------------------------------------------------------------------------

# IANA's special-purpose registries, as a table of our own: `is_global` changes with the release
# of Python. https://www.iana.org/assignments/iana-ipv4-special-registry
SPECIAL_IPV4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's metadata, on a public address
        "169.254.0.0/16",  # link-local, most clouds' metadata
        "172.16.0.0/12",
        "192.0.0.0/24",  # IETF, Oracle's metadata
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 anycast, withdrawn
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
GLOBAL_IPV6 = IPv6Network("2000::/3")  # nothing else is handed out
SPECIAL_IPV6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # IETF: benchmarks, ORCHID, anycast
        "2001:db8::/32",  # documentation
        "3fff::/20",  # documentation
    )
)
NAT64 = IPv6Network("64:ff9b::/96")


def is_special(ip: str | IPv4Address | IPv6Address) -> bool:
    """Whether an address lies outside the public internet, so that only `local` may dial it.

    Private, loopback, link-local, shared, multicast, reserved, documentation, cloud metadata.
    IPv6 that carries an IPv4 address (mapped, 6to4, NAT64, Teredo) is judged by that one.
    ValueError if `ip` is no address.
    """
    address = ip_address(ip) if isinstance(ip, str) else ip
    if isinstance(address, IPv4Address):
        return any(address in network for network in SPECIAL_IPV4)
    if address.scope_id is not None:
        return True
    carried = embedded_ipv4(address)
    if carried:
        return any(is_special(each) for each in carried)
    return address not in GLOBAL_IPV6 or any(address in network for network in SPECIAL_IPV6)


def embedded_ipv4(address: IPv6Address) -> tuple[IPv4Address, ...]:
    """The IPv4 addresses that packets to this IPv6 address end up at; Teredo has two."""
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    if address.teredo is not None:
        return address.teredo
    if address in NAT64:
        return (IPv4Address(int(address) & 0xFFFFFFFF),)
    return ()


def ipv4(host: str) -> tuple[str, Network]:
    """A strict dotted IPv4 literal; octal, hexadecimal and short forms are refused."""
    try:
        address = IPv4Address(host)
    except ValueError:
        raise ValueError("a host that ends in a number is no dotted IPv4 address") from None
    return str(address), Network.LOCAL if is_special(address) else Network.CLEARNET


def ipv6(text: str) -> tuple[str, Network]:
    """An IPv6 literal without brackets, compressed, in lower case."""
    if "%" in text:
        raise ValueError("a zone in an IPv6 address")
    try:
        address = IPv6Address(text)
    except ValueError:
        raise ValueError("not an IPv6 address in brackets") from None
    mapped = address.ipv4_mapped
    if mapped is None:
        host = str(address)
    else:  # Python 3.13 began to write these as ::ffff:1.2.3.4; one spelling for ever
        host = f"::ffff:{int(mapped) >> 16:x}:{int(mapped) & 0xFFFF:x}"
    return host, Network.LOCAL if is_special(address) else Network.CLEARNET


# --- path -----------------------------------------------------------------------------------------

UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
PATH = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*")
QUERY = re.compile("[?#]")  # begins with it, or a fragment does
ESCAPE = re.compile("%[0-9A-Fa-f]{2}")


def normal_path(raw: str) -> str:
    """The path (its first slash already taken off) as it belongs in the URL, maybe empty."""
    segments: list[str] = []
    is_folder = False  # ends in a slash
    for segment in normal_text(raw, "path").split("/"):
        is_folder = segment in ("", ".", "..")
        if segment == "..":
            del segments[-1:]
        elif not is_folder:
            segments.append(segment)
    return "".join(f"/{segment}" for segment in segments) + "/" * (is_folder and bool(segments))


def normal_query(raw: str) -> str:
    """The query (without its question mark) as it belongs in the URL, maybe empty."""
    return "?".join(normal_text(part, "query") for part in raw.split("?"))


def normal_text(raw: str, what: str) -> str:
    """A part of a URL with its percent-encoding normalised; ValueError for what it cannot hold."""
    quoted = raw if raw.isascii() else quote(raw, safe="".join(map(chr, range(128))))
    if not PATH.fullmatch(quoted):
        raise ValueError(f"a forbidden character or a broken percent-encoding in the {what}")
    if "%" in quoted:
        refuse_invisible(unquote(quoted))
        quoted = ESCAPE.sub(normal_escape, quoted)
    return quoted


def normal_escape(escape: re.Match[str]) -> str:
    """A percent-escape in upper case, or the character itself where no escape is needed."""
    byte = int(escape[0][1:], 16)
    return chr(byte) if byte in UNRESERVED else escape[0].upper()
