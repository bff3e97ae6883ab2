"""Claims: signatures with what they are of and by, right ones and forgeries of every kind."""

import hashlib
import random
from collections.abc import Callable

import coincurve

P = 2**256 - 2**32 - 977
N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
LAMBDA = 0x5363AD4CC05C30E0A5261C028812645A122E22EA20816678DF02967C1B23BD72
_TAG = hashlib.sha256(b"BIP0340/challenge").digest() * 2
SPECIAL = [1, 2, 3, N - 1, N - 2, LAMBDA, N - LAMBDA, LAMBDA * LAMBDA % N, (N + 1) // 2]


def number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def bytes32(value: int) -> bytes:
    return value.to_bytes(32, "big")


def point(scalar: int) -> tuple[int, int]:
    """x and y of so many times the generator."""
    whole = coincurve.PrivateKey(bytes32(scalar)).public_key.format(compressed=False)
    return number(whole[1:33]), number(whole[33:])


def challenge(r: bytes, key: bytes, message: bytes) -> int:
    return number(hashlib.sha256(_TAG + r + key + message).digest()) % N


def claim(secret: int, nonce: int, message: bytes, *, is_odd: bool = False) -> bytes:
    """A claim with this nonce; `is_odd`: made so that R has an odd y, which is wrong."""
    x, y = point(secret)
    secret = N - secret if y & 1 else secret
    r, y = point(nonce)
    nonce = N - nonce if bool(y & 1) != is_odd else nonce
    s = nonce + challenge(bytes32(r), bytes32(x), message) * secret
    return bytes32(r) + bytes32(s % N) + message + bytes32(x)


def right(chance: random.Random, secret: int) -> bytes:
    """A right claim; now and then with numbers at which the group law has its exceptions."""
    message = chance.randbytes(32)
    if chance.random() < 0.05:
        author = chance.choice([*SPECIAL, secret])
        return claim(author, chance.choice([*SPECIAL, author]), message)
    return claim(secret, chance.randrange(1, N), message)


def verdict(claims: bytes) -> bool:
    """What libsecp256k1 says of one claim, without anything of ours."""
    try:
        key = coincurve.PublicKeyXOnly(claims[96:])
    except ValueError:
        return False
    return key.verify(claims[:64], claims[64:96])


def _with(claim_: bytes, at: int, part: bytes) -> bytes:
    return claim_[:at] + part + claim_[at + len(part) :]


def flip(chance: random.Random, claim_: bytes, _: bytes) -> bytes:
    at = chance.randrange(1024)
    return _with(claim_, at // 8, bytes([claim_[at // 8] ^ 1 << at % 8]))


def swap(chance: random.Random, claim_: bytes, other: bytes) -> bytes:
    at = chance.choice((0, 32, 64, 96))
    return _with(claim_, at, other[at : at + 32])


def edge_of_r(chance: random.Random, claim_: bytes, _: bytes) -> bytes:
    values = (0, 1, 5, P - 1, P, P + 1, 2**256 - 1, chance.randrange(2**256), N, N - 1)
    return _with(claim_, 0, bytes32(chance.choice(values)))


def edge_of_s(chance: random.Random, claim_: bytes, _: bytes) -> bytes:
    s = number(claim_[32:64])
    values = (0, 1, N - 1, N, N + 1, 2**256 - 1, (N - s) % 2**256, s ^ 1 << 255, (s + N) % 2**256)
    return _with(claim_, 32, bytes32(chance.choice(values)))


def edge_of_key(chance: random.Random, claim_: bytes, _: bytes) -> bytes:
    values = (
        0,
        1,
        5,
        P - 1,
        P,
        P + 1,
        2**256 - 1,
        chance.randrange(2**256),
        (P - number(claim_[96:])) % 2**256,
    )
    return _with(claim_, 96, bytes32(chance.choice(values)))


def negate(chance: random.Random, claim_: bytes, _: bytes) -> bytes:
    """Signed as it should be, but for the sign of R."""
    return claim(chance.randrange(1, N), chance.randrange(1, N), claim_[64:96], is_odd=True)


def to_infinity(chance: random.Random, claim_: bytes, _: bytes) -> bytes:
    """s G = e P: R would have to be the point at infinity, which has no x."""
    secret = chance.randrange(1, N)
    x, y = point(secret)
    secret = N - secret if y & 1 else secret
    r = bytes32(chance.choice((0, 1, number(claim_[:32]))))
    s = challenge(r, bytes32(x), claim_[64:96]) * secret % N
    return r + bytes32(s) + claim_[64:96] + bytes32(x)


FORGERIES: list[Callable[[random.Random, bytes, bytes], bytes]] = [
    *(flip, swap, edge_of_r, edge_of_s, edge_of_key, negate, to_infinity)
]
