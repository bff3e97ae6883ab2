"""Which relays an event names: every place where they stand, and whatever else stands there."""

import json
import time
from collections.abc import Sequence

import nostr_sdk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigbrotr.models.mentions import MAX_MENTIONS, MAX_TEXTS, decode_bech32, mentioned
from bigbrotr.models.relay import MAX_URL, Relay

A, B = "wss://a.example.com", "wss://b.example.com/path"
KEY = "3bf0c63fcb93463407af97a5e5ee64fa883d107ef9e558472c4eb9aaaefa459d"
URLS = [nostr_sdk.RelayUrl.parse(url) for url in (A, B)]
PUBKEY = nostr_sdk.PublicKey.parse(KEY)
NPROFILE = nostr_sdk.Nip19Profile(PUBKEY, URLS).to_bech32()
NEVENT = nostr_sdk.Nip19Event(
    nostr_sdk.EventId.parse("ab" * 32), PUBKEY, nostr_sdk.Kind(1), URLS
).to_bech32()


def bech32(prefix: str, data: bytes) -> str:
    """Any bytes in bech32, by the reference's slow way."""
    letters = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
    bits = "".join(f"{byte:08b}" for byte in data)
    bits += "0" * (-len(bits) % 5)
    values = [int(bits[at : at + 5], 2) for at in range(0, len(bits), 5)]
    checked = [ord(c) >> 5 for c in prefix] + [0] + [ord(c) & 31 for c in prefix] + values + [0] * 6
    state = 1
    for value in checked:
        top, state = state >> 25, (state & 0x1FFFFFF) << 5 ^ value
        for bit in range(5):
            if top >> bit & 1:
                state ^= (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)[bit]
    sums = [(state ^ 1) >> 5 * (5 - place) & 31 for place in range(6)]
    return prefix + "1" + "".join(letters[value] for value in values + sums)


NRELAY = bech32("nrelay", bytes([0, len(A)]) + A.encode())
NADDR = bech32("naddr", b"\x00\x01d\x01" + bytes([len(B)]) + B.encode() + b"\x03\x04\0\0\x75\x34")

NAMED: list[tuple[int, Sequence[Sequence[str]], str, list[str]]] = [
    (10002, [["r", A], ["r", B, "read"]], "", [A, B]),
    (10050, [["relay", A]], "", [A]),
    (10006, [["relay", A]], "", [A]),
    (10007, [["relay", A], ["relay", B]], "", [A, B]),
    (10009, [["group", "abc", A, "name"], ["r", B]], "", [A, B]),
    (10012, [["relay", A], ["a", f"30002:{KEY}:x", B]], "", [A, B]),
    (10102, [["relay", A]], "", [A]),
    (30002, [["d", "mine"], ["relay", A], ["relay", B]], "", [A, B]),
    (30166, [["d", A], ["rtt-open", "100"], ["n", "clearnet"]], "{}", [A]),
    (3, [["p", KEY, A, "bob"], ["p", KEY, "", "x"]], "", [A]),
    (3, [], json.dumps({A: {"read": True}, B: {}, "x": 1, "https://c.example": {}}), [A, B]),
    (3, [], "not JSON", []),
    (3, [], json.dumps([A]), []),
    (2, [], A, [A]),
    (2, [], f"  {A}/\n", [A]),
    (2, [], "some words", []),
    (1, [["r", A]], "", [A]),
    (1, [["r", "https://example.com/x"]], "", []),
    (1, [["e", KEY, A, "root"], ["e", KEY], ["e", KEY, "", "reply"]], "", [A]),
    (7, [["p", KEY, A], ["a", f"30023:{KEY}:x", B]], "+", [A, B]),
    (1, [["q", KEY, A]], "", [A]),
    (1111, [["E", KEY, A], ["P", KEY, B]], "", [A, B]),
    (9734, [["relays", A, B], ["amount", "21"]], "", [A, B]),
    (1, [["e", KEY, "WSS://A.Example.com:443/"], ["p", KEY, A]], "", [A]),
    (1, [], f"see nostr:{NPROFILE}, it is good", [A, B]),
    (1, [], f"あ{NEVENT}", [A, B]),
    (30023, [], NRELAY, [A]),
    (1, [], f"({NADDR})", [B]),
    (1, [], NPROFILE[:-1] + ("q" if NPROFILE[-1] != "q" else "p"), []),  # the checksum is wrong
    (1, [], f"a URL in plain words, {A}, is often cut or glued: not taken", []),
    (1, [], NRELAY.upper(), []),
    (1, [["r", A, *["wss://"] * 5, "ws://", "wss://bad host", "wss://" + "x" * 600]], "", [A]),
    (1, [["r", "wss://a.example.com\0"], ["r", "\ud800wss://x"], ["r", "wss://\ud800"]], "", [A]),
    (1, [["r", f"{A}/\ufffd"]], bech32("nrelay", b"\x00\x15wss://a.example.com/\xff"), []),
]


@pytest.mark.parametrize(("kind", "tags", "content", "urls"), NAMED)
def test_where_relays_are_named(
    kind: int, tags: Sequence[Sequence[str]], content: str, urls: list[str]
) -> None:
    assert mentioned(kind, tags, content) == urls


def test_bounds() -> None:
    many = [["r", f"wss://r{n}.example.com"] for n in range(5 * MAX_TEXTS)]
    found = mentioned(10002, many, "")
    assert found == [url for _, url in many[:MAX_MENTIONS]]
    junk = [["r", f"wss://{n}"] for n in range(MAX_TEXTS)]
    assert mentioned(10002, [*junk, ["r", A]], "") == []
    started = time.perf_counter()
    mentioned(1, [], " ".join(bech32("nprofile", bytes([n])) for n in range(256)) * 20)
    mentioned(3, [["p", KEY, A]] * 20_000, "[" * 500_000)
    mentioned(1, [], ("nprofile1" + "q" * 5000) * 200)
    assert time.perf_counter() - started < 5


@given(st.sampled_from(["nprofile", "nevent", "naddr", "nrelay"]), st.binary(max_size=300))
def test_bech32_there_and_back(prefix: str, data: bytes) -> None:
    assert decode_bech32(bech32(prefix, data)) == data
    records = (b"\x01" if prefix != "nrelay" else b"\x00") + bytes([len(A)]) + A.encode()
    assert A in mentioned(1, [], bech32(prefix, records + data))


def test_bech32_as_others_write_it() -> None:
    npub = PUBKEY.to_bech32()
    assert decode_bech32(npub).hex() == KEY
    for text in ("", "1", "npub1", npub[:-1], npub + "q", "npub1" + "b" * 20, "é1qqqqqqqqqq"):
        assert decode_bech32(text) == b""


PIECES = st.sampled_from(
    [
        *(A, B, "wss://", "ws://[::1]:7", "WSS://X.io", "wss://é.com", "wss://a.example.com:99999"),
        *(NPROFILE, NEVENT, NRELAY, NADDR, "nprofile1"),
        *("://", "\0", "\ud800", "{", '"', "1", " ", "\\", "x" * 600),
    ]
)
TEXTS = st.lists(PIECES | st.text(max_size=8), max_size=6).map("".join)
TAGS = st.lists(st.lists(TEXTS, min_size=1, max_size=5), max_size=8)
CONTENTS = TEXTS | st.dictionaries(TEXTS, st.none(), max_size=4).map(json.dumps)


@pytest.mark.slow
@settings(max_examples=500)
@given(st.sampled_from([0, 1, 2, 3, 10002, 30166, 65535]), TAGS, CONTENTS)
def test_anything_yields_relay_urls_or_nothing(
    kind: int, tags: list[list[str]], content: str
) -> None:
    found = mentioned(kind, tags, content)
    assert len(found) <= MAX_MENTIONS
    assert len(set(found)) == len(found)
    for url in found:
        assert Relay(url).url == url
        assert len(url) <= MAX_URL
    # The dumb way finds no more in the tags, but for what stands within other text.
    for tag in tags:
        for value in tag:
            try:
                relay = Relay(value)
            except ValueError:
                continue
            # Relay forgives invisible characters in front; here only blanks are.
            if (
                len(value) <= MAX_URL
                and "\ufffd" not in value
                and value.lstrip()[:2].lower() == "ws"
            ):
                assert relay.url in found


@given(st.text(alphabet="nprofileventadrly1qz:/ws023acdefghjk", max_size=300))
def test_texts_that_look_like_entities(content: str) -> None:
    for url in mentioned(1, [], content):
        assert Relay(url).url == url
