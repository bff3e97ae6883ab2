"""Relay addresses: one table of examples, then everything that hypothesis can think of."""

import copy
import dataclasses
import hashlib
import pickle
from base64 import b32decode, b32encode
from ipaddress import IPv6Address, ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bigbrotr.models.relay import MAX_URL, Network, Relay, is_special


def onion(key: bytes, version: bytes = b"\x03") -> str:
    checksum = hashlib.sha3_256(b".onion checksum" + key + version).digest()[:2]
    return b32encode(key + checksum + version).decode().lower()


ONION = onion(bytes(range(32)))
UNKNOWN_VERSION = onion(bytes(32), b"\x04")
TOR_PROJECT = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid"  # published, not ours
B32 = "a" * 51 + "q"
LOKI = "y" * 51 + "o"

SAME = [  # raw, normalised
    ("wss://relay.example.com", "wss://relay.example.com"),
    ("ws://relay.example.com", "ws://relay.example.com"),
    (" \t\nWSS://Relay.Example.COM/ \r\n", "wss://relay.example.com"),
    ("\ufeffwss://relay.example.com/\u200b", "wss://relay.example.com"),
    ("wss://relay.example.com.", "wss://relay.example.com"),
    ("wss://relay.example.com:443/", "wss://relay.example.com"),
    ("wss://relay.example.com:/", "wss://relay.example.com"),
    ("wss://relay.example.com:00443", "wss://relay.example.com"),
    ("wss://relay.example.com:80", "wss://relay.example.com:80"),
    ("ws://relay.example.com:80", "ws://relay.example.com"),
    ("ws://relay.example.com:443", "ws://relay.example.com:443"),
    ("wss://user:secret@relay.example.com/x", "wss://relay.example.com/x"),
    ("wss://relay.example.com?key=wss://x#y", "wss://relay.example.com/?key=wss://x"),
    ("wss://relay.example.com/#?", "wss://relay.example.com"),
    ("wss://relay.example.com/?#", "wss://relay.example.com"),
    ("wss://relay.example.com/a/?b=%7e%c3%A4ä?", "wss://relay.example.com/a/?b=~%C3%A4%C3%A4?"),
    ("wss://relay.example.com/Inbox//Deep///", "wss://relay.example.com/Inbox/Deep/"),
    ("wss://relay.example.com/relay/", "wss://relay.example.com/relay/"),
    ("wss://relay.example.com/a/b/..", "wss://relay.example.com/a/"),
    ("wss://relay.example.com/a/.", "wss://relay.example.com/a/"),
    ("wss://relay.example.com/a/./b/../c", "wss://relay.example.com/a/c"),
    ("wss://relay.example.com/../..", "wss://relay.example.com"),
    ("wss://relay.example.com/a/%2e%2E/b", "wss://relay.example.com/b"),
    ("wss://relay.example.com/%7euser/%c3%a4%2f", "wss://relay.example.com/~user/%C3%A4%2F"),
    ("wss://relay.example.com/ä", "wss://relay.example.com/%C3%A4"),
    ("wss://relay.example.com/🎉", "wss://relay.example.com/%F0%9F%8E%89"),
    (
        "wss://filter.example.com/npub1?broadcast=true",
        "wss://filter.example.com/npub1?broadcast=true",
    ),
    ("wss://Exämple.com", "wss://xn--exmple-cua.com"),
    ("wss://XN--Exmple-CUA.com", "wss://xn--exmple-cua.com"),
    ("wss://faß.de", "wss://xn--fa-hia.de"),
    ("wss://例え。テスト", "wss://xn--r8jz45g.xn--zckzah"),
    ("wss://xn--ls8h.la", "wss://xn--ls8h.la"),
    ("wss://my_relay._x.example.com", "wss://my_relay._x.example.com"),
    ("wss://r3---sn-abc.example.com", "wss://r3---sn-abc.example.com"),
    ("wss://8.8.8.8:7777", "wss://8.8.8.8:7777"),
    ("wss://\uff18.8.8.8", "wss://8.8.8.8"),
    ("wss://[2606:4700:0:0::1111]:443/", "wss://[2606:4700::1111]"),
    ("wss://[2606:4700::ABCD]:8080", "wss://[2606:4700::abcd]:8080"),
    ("wss://[::ffff:8.8.8.8]", "wss://[::ffff:808:808]"),
]


@pytest.mark.parametrize(("raw", "url"), SAME)
def test_normalises(raw: str, url: str) -> None:
    assert Relay(raw).url == url
    assert Relay(url).url == url
    assert Relay(raw).network is Network.CLEARNET


REFUSED = [
    "",
    "   ",
    "relay.example.com",
    "//relay.example.com",
    "wss:relay.example.com",
    "wss:/relay.example.com",
    "https://relay.example.com",
    "http://relay.example.com",
    "wsss://relay.example.com",
    "\u017fss://relay.example.com",
    "wss://",
    "wss:///relay.example.com",
    "wss://.",
    "wss://?",
    "wss://:443",
    "wss://user@",
    "wss://wss://relay.example.com",
    "wss://https://relay.example.com",
    "wss://https//relay.example.com",
    "wss://wss",
    "wss://relay.example.com,wss://other.example.com",
    "wss://relay.example.com/,wss://other.example.com",
    "wss://relay.example.com wss://other.example.com",
    "wss://relay.example.com/a b",
    "wss://relay.example.com/%20",
    "wss://relay.example.com/%0a",
    "wss://relay.example.com/%5Cx",
    "wss://relay.example.com/%E2%80%8Bx",
    "wss://relay.example.com/?a b",
    "wss://relay.example.com/?%0a",
    "wss://relay.example.com/?%",
    "wss://relay.example.com/?<x>",
    "wss://relay.example.com%20",
    "wss://relay.example.com/%",
    "wss://relay.example.com/%zz",
    'wss://relay.example.com/"]',
    "wss://relay.example.com/<x>",
    "wss://relay.example.com\\x",
    "wss://relay.example.com/\\x",
    "wss://relay.exa\tmple.com",
    "wss://relay.exa\x00mple.com",
    "wss://relay.exa\u200bmple.com",
    "wss://relay.example.com/\u202ex",
    "wss://relay.example.com/\ud800",
    "wss://relay..example.com",
    "wss://.example.com",
    "wss://-relay.example.com",
    "wss://relay-.example.com",
    "wss://relay.example.com🎉",
    "wss://🎉.com",
    "wss://relay\uff0fexample.com",
    "wss://relay!.example.com",
    "wss://[relay.example.com]",
    "wss://xn--abc-.com",
    "wss://xn--a.com",
    "wss://xn--99999999.com",
    "wss://relay.example.com:0",
    "wss://relay.example.com:65536",
    "wss://relay.example.com:-1",
    "wss://relay.example.com:+1",
    "wss://relay.example.com:1_0",
    "wss://relay.example.com:٣",
    "wss://relay.example.com:99999999999999999999",
    "wss://relay.example.com:443:443",
    "wss://relay.example.123",
    "wss://relay.example.c",
    "wss://relay.example.com1",
    "wss://0x7f.1",
    "wss://0x7f000001",
    "wss://0177.0.0.1",
    "wss://127.1",
    "wss://2130706433",
    "wss://256.1.1.1",
    "wss://1.2.3.4.5",
    "wss://2606:4700::1111",
    "wss://[2606:4700::1111",
    "wss://[2606:4700::1111]x",
    "wss://[fe80::1%eth0]",
    "wss://[fe80::1%25eth0]",
    "wss://[]",
    "wss://[::1]]",
    "wss://onion",
    "wss://i2p",
    "wss://.loki",
    f"ws://{ONION[:-1]}.onion",
    f"ws://{'a' * 56}.onion",
    f"ws://{'b' + ONION[1:]}.onion",
    f"ws://{UNKNOWN_VERSION}.onion",
    "ws://expyuzz4wqqyqhjn.onion",
    "ws://relay.onion",
    f"ws://{B32[:-1]}.b32.i2p",
    f"ws://{B32[:-1]}b.b32.i2p",
    f"ws://x.{B32}.b32.i2p",
    "ws://b32.i2p",
    f"ws://{LOKI[:-1]}y2.loki",
    f"ws://{LOKI[:-1]}b.loki",
    f"wss://{'a' * 64}.example.com",
    f"wss://{'a.' * 130}com",
    f"wss://relay.example.com/{'a' * MAX_URL}",
    f"wss://relay.example.com/{'ä' * 100}",
    f"wss://relay.example.com/{'a' * 29_000}",
    "wss://" + "ä" * 1000 + ".com",
]


@pytest.mark.parametrize("raw", REFUSED)
def test_refuses_with_a_reason(raw: str) -> None:
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        Relay(raw)


@pytest.mark.parametrize(
    ("raw", "network"),
    [
        (f"ws://{ONION}.onion", Network.TOR),
        (f"wss://{TOR_PROJECT.upper()}.ONION:8080/x", Network.TOR),
        (f"ws://sub.{ONION}.onion", Network.TOR),
        (f"wss://{ONION}.onion.to", Network.CLEARNET),
        (f"ws://{B32}.b32.i2p", Network.I2P),
        (f"ws://{'a' * 56}.b32.i2p", Network.I2P),
        ("ws://relay.nostr.i2p", Network.I2P),
        (f"ws://{LOKI}.loki", Network.LOKI),
        (f"ws://www.{LOKI}.loki", Network.LOKI),
        ("ws://relay.loki", Network.LOKI),
        ("ws://localhost:7777", Network.LOCAL),
        ("ws://LOCALHOST.", Network.LOCAL),
        ("ws://umbrel", Network.LOCAL),
        ("ws://umbrel.local:4848", Network.LOCAL),
        ("ws://a.localhost", Network.LOCAL),
        ("ws://relay.internal", Network.LOCAL),
        ("ws://relay.lan", Network.LOCAL),
        ("ws://relay.home.arpa", Network.LOCAL),
        ("ws://10.0.0.1", Network.LOCAL),
        ("ws://127.0.0.1:8080", Network.LOCAL),
        ("ws://[::1]", Network.LOCAL),
        ("ws://[fd00::1]", Network.LOCAL),
        ("ws://[::ffff:10.0.0.1]", Network.LOCAL),
        ("ws://mylan", Network.LOCAL),
        ("ws://relay.mylan", Network.CLEARNET),
        ("ws://lan.example.com", Network.CLEARNET),
    ],
)
def test_knows_the_network(raw: str, network: Network) -> None:
    assert Relay(raw).network is network
    assert Relay(Relay(raw).url).network is network


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "100.100.100.200",
        "127.0.0.1",
        "168.63.129.16",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::8.8.8.8",
        "fe80::1",
        "fe80::1%eth0",
        "2606:4700::1%1",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "fec0::1",
        "2001:db8::1",
        "3fff::1",
        "2001:2::1",
        "2001:10::1",
        "100::1",
        "64:ff9b:1::1",
        "4000::1",
        "5f00::1",
        "::ffff:127.0.0.1",
        "::ffff:0:127.0.0.1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::",
        "64:ff9b::10.0.0.1",
        "2001:0:7f00:1::f7f7:f7f7",
        "2001:0:808:808::80ff:fffe",
    ],
)
def test_special_addresses(address: str) -> None:
    assert is_special(address)
    assert is_special(ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "8.8.8.8",
        "100.63.255.255",
        "100.128.0.1",
        "172.15.0.1",
        "172.32.0.1",
        "192.0.1.1",
        "198.20.0.1",
        "223.255.255.255",
        "2606:4700::1111",
        "2a00::1",
        "2001:4860:4860::8888",
        "2001:200::1",
        "::ffff:8.8.8.8",
        "2002:808:808::",
        "64:ff9b::8.8.8.8",
        "2001:0:808:808::f7f7:f7f7",
    ],
)
def test_public_addresses(address: str) -> None:
    assert not is_special(address)


@given(st.integers(min_value=0, max_value=2**32 - 1))
def test_a_mapped_address_is_as_special_as_the_one_inside(number: int) -> None:
    inside = ip_address(number)
    assert is_special(IPv6Address(0xFFFF << 32 | number)) == is_special(inside)
    assert is_special(IPv6Address(0x2002 << 112 | number << 80)) == is_special(inside)
    assert is_special(IPv6Address(0x64FF9B << 96 | number)) == is_special(inside)


@given(st.ip_addresses(v=6))
def test_is_special_agrees_with_the_standard_library_on_private_ones(ip: IPv6Address) -> None:
    if ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified:
        assert is_special(ip)


def test_parts() -> None:
    relay = Relay("WSS://[2606:4700::1]:8443/Inbox/", discovered_at=1_700_000_000)
    assert (relay.scheme, relay.host, relay.port, relay.path) == (
        "wss",
        "2606:4700::1",
        8443,
        "/Inbox/",
    )
    assert Relay("wss://relay.example.com?x").path == "/?x"
    assert relay.discovered_at == 1_700_000_000
    plain = Relay("ws://relay.example.com/")
    assert (plain.port, plain.path, plain.discovered_at) == (80, "", None)
    assert Relay("wss://relay.example.com").port == 443
    assert str(plain) == "ws://relay.example.com"
    assert repr(plain) == (
        "Relay(discovered_at=None, url='ws://relay.example.com',"
        " network=<Network.CLEARNET: 'clearnet'>)"
    )


def test_equality_is_the_url_alone() -> None:
    one = Relay("wss://relay.example.com", 1)
    two = Relay("WSS://relay.example.com:443/", 2)
    assert one == two
    assert len({one, two}) == 1
    assert one != Relay("ws://relay.example.com")
    different: object = "wss://relay.example.com"
    assert one != different


def test_immutable_and_portable() -> None:
    relay = Relay("wss://relay.example.com/x", 5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        relay.url = "wss://other.example.com"  # type: ignore[misc]
    for twin in (pickle.loads(pickle.dumps(relay)), copy.deepcopy(relay)):
        assert twin == relay
        assert (twin.discovered_at, twin.port, twin.path) == (5, 443, "/x")


@pytest.mark.parametrize("wrong", [-1, 2**63, True, 1.5, "1"])
def test_discovered_at_is_a_unix_time(wrong: int) -> None:
    with pytest.raises(ValueError, match="discovered_at"):
        Relay("wss://relay.example.com", wrong)


# --- generated ------------------------------------------------------------------------------------

SYNTAX = [
    "wss://",
    "ws://",
    "WSS://",
    ":",
    "/",
    "//",
    ".",
    "..",
    ",",
    "@",
    "?",
    "#",
    "[",
    "]",
    "::",
]
ESCAPES = ["%", "%20", "%2e", "%2F", "%c3", "\\", "\t", " ", "\u200b", "\u200d", "\ufeff", "\ud800"]
NUMBERS = ["443", "80", "0", "1", "65536", "127.0.0.1", "0x7f", "[::1]", "[::ffff:8.8.8.8]"]
NAMES = ["relay", "Relay", "example.com", ".com", "localhost", "wss", "npub1", "-", "_", ".local"]
HIDDEN = [ONION, B32, LOKI, ".onion", ".i2p", ".b32.i2p", ".loki"]
FOREIGN = ["ä", "ß", "\u0130", "Σ", "ς", "。", "\uff0f", "💩", "xn--", "xn--exmple-cua"]
PIECES = st.sampled_from([*SYNTAX, *ESCAPES, *NUMBERS, *NAMES, *HIDDEN, *FOREIGN])
MANGLED = st.lists(PIECES | st.text(max_size=3), max_size=10).map("".join)
HOSTS = st.one_of(
    st.from_regex(
        r"([a-zA-Z0-9_äßé例-]{1,10}\.){0,4}(com|NET|xn--p1ai|onion|local)\.?", fullmatch=True
    ),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda ip: f"[{ip.exploded}]"),
)
PLAUSIBLE = st.builds(
    "{}://{}{}{}".format,
    st.sampled_from(["ws", "wss", "WsS"]),
    HOSTS,
    st.sampled_from(["", ":", ":443", ":80", ":08080"]),
    st.from_regex(r"(/([a-zA-Z~.@:é]|%[0-9a-fA-F]{2}){0,6}){0,5}", fullmatch=True),
)


@given(MANGLED | MANGLED.map("wss://".__add__) | PLAUSIBLE | st.text())
@example("wss://" + "\u0130" * 253)
def test_normalising_twice_changes_nothing_and_nothing_but_value_error(raw: str) -> None:
    try:
        relay = Relay(raw)
    except ValueError:
        return
    again = Relay(relay.url)
    assert again == relay
    assert (again.network, again.scheme, again.host, again.port, again.path) == (
        relay.network,
        relay.scheme,
        relay.host,
        relay.port,
        relay.path,
    )
    assert relay.url.isascii()
    assert relay.url.isprintable()
    assert len(relay.url) <= MAX_URL
    assert " " not in relay.url
    assert relay.url != f"{relay.scheme}://{relay.host}/"
    assert relay.url.endswith(relay.path)


@given(PLAUSIBLE)
def test_case_of_the_host_does_not_matter_and_a_slash_at_the_end_does(raw: str) -> None:
    try:
        relay = Relay(raw)
    except ValueError:
        return
    scheme, _, rest = relay.url.partition("://")
    host, slash, path = rest.partition("/")
    assert Relay(f"{scheme.upper()}://{host.upper()}{slash}{path}") == relay
    if not relay.path.endswith(":/"):  # or it would look like two addresses
        is_there = relay.path == "" or relay.path.endswith("/")
        assert (Relay(f"{relay.url}/") == relay) is is_there


@pytest.mark.parametrize(
    ("raw", "url"),
    [
        ("wss://relay.example.com/a/?x=1&y", "wss://relay.example.com/a/"),
        ("wss://relay.example.com?x", "wss://relay.example.com"),
        ("wss://relay.example.com#x?y", "wss://relay.example.com"),
        ("wss://relay.example.com/a?<junk>", "wss://relay.example.com/a"),
    ],
)
def test_strangers_name_no_queries(raw: str, url: str) -> None:
    assert Relay.discovered(raw).url == url


@given(st.binary(min_size=32, max_size=32))
def test_onion_names_prove_themselves(key: bytes) -> None:
    name = onion(key)
    assert Relay(f"ws://{name}.onion").network is Network.TOR
    checksum = b32decode(name.upper())[32:34]
    forged = b32encode(key + bytes(byte ^ 0xFF for byte in checksum) + b"\x03").decode()
    with pytest.raises(ValueError, match="checksum"):
        Relay(f"ws://{forged}.onion")
