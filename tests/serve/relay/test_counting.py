"""Counts (NIP-45): exact as far as they say so, and registers as the NIP computes them."""

from hashlib import sha256
from typing import Any

import pytest

from bigbrotr.core.brotr import Brotr
from bigbrotr.serve.relay.counting import Registers, offset_of
from tests.kit.events import NOW, pubkey, verified
from tests.serve.relay.client import client_of, relay_of, store

KEY = "0123456789abcdef" * 4
ID = "f" * 32 + "7" + "0" * 31


@pytest.mark.parametrize(
    ("text", "offset"),
    [
        (ID, 7 + 8),
        (KEY, 0 + 8),
        (f"30023:{ID}:an article", 7 + 8),
        ("nostr", int(sha256(b"nostr").hexdigest()[32], 16) + 8),
        (ID.upper(), int(sha256(ID.upper().encode()).hexdigest()[32], 16) + 8),
        (f"x:{ID}:", int(sha256(f"x:{ID}:".encode()).hexdigest()[32], 16) + 8),
        ("", int(sha256(b"").hexdigest()[32], 16) + 8),
    ],
)
def test_where_a_key_is_looked_at(text: str, offset: int) -> None:
    assert offset_of(text) == offset


def slowly(keys: list[bytes], offset: int) -> bytes:
    """The registers as NIP-45 says, bit by bit."""
    registers = [0] * 256
    for key in keys:
        bits = "".join(f"{byte:08b}" for byte in key[offset + 1 :])
        rank = len(bits) - len(bits.lstrip("0")) + 1
        registers[key[offset]] = max(registers[key[offset]], rank)
    return bytes(registers)


@pytest.mark.parametrize("offset", [8, 15, 23])
def test_registers(offset: int) -> None:
    keys = [sha256(b"%d" % n).digest() for n in range(2000)] + [bytes(32), b"\xff" * 32]
    registers = Registers(offset)
    for key in [*keys, *keys]:
        registers.add(key)
    assert bytes(registers.data) == slowly(keys, offset)


async def test_counts(brotr: Brotr, dsn: str) -> None:
    target = verified()
    likes = [
        verified(kind=7, tags=[["e", target.id.hex()]], key=n % 5, created_at=NOW + n)
        for n in range(40)
    ]
    await store(brotr, [target, *likes])
    mine = {"authors": [pubkey(1)], "kinds": [7]}
    questions: list[tuple[list[Any], int]] = [
        ([{}], 41),
        ([{"kinds": [7], "limit": 3}], 40),
        ([{"kinds": [1]}, {"kinds": [7]}], 41),
        ([{"kinds": [7]}, mine, {"since": NOW + 30}], 40),
        ([{"kinds": []}], 0),
        ([{"kinds": [4]}, {"kinds": [1]}], 1),
    ]
    async with relay_of(dsn) as place, client_of(place.url) as client:
        for filters, number in questions:
            assert await client.ask("COUNT", "n", *filters) == ["COUNT", "n", {"count": number}]
        about = {"#e": [target.id.hex()], "kinds": [7]}
        kind, name, found = await client.ask("COUNT", "n", about)
        assert (kind, name, found["count"]) == ("COUNT", "n", 40)
        keys = [bytes.fromhex(pubkey(key)) for key in range(5)]
        assert found["hll"] == slowly(keys, offset_of(target.id.hex())).hex()
        assert "approximate" not in found
        # The first tag of the filter decides, as it was sent.
        first = {"#t": ["x"], "#e": [target.id.hex()]}
        assert (await client.ask("COUNT", "n", first))[2]["hll"] == bytes(256).hex()


async def test_beyond_a_number_it_is_about_so_many(brotr: Brotr, dsn: str) -> None:
    await store(brotr, [verified(created_at=NOW + n) for n in range(60)])
    async with (
        relay_of(dsn, bounds={"count_exactly": 59}) as place,
        client_of(place.url) as client,
    ):
        found = (await client.ask("COUNT", "n", {}))[2]
        assert found["approximate"] is True
        assert found["count"] >= 60
        found = (await client.ask("COUNT", "n", {"since": NOW + 1}))[2]
        assert found == {"count": 59}
        both = (await client.ask("COUNT", "n", {"kinds": [1]}, {"since": NOW + 1}))[2]
        assert both["approximate"] is True
