"""The arithmetic below the batches, beside Python's numbers: `probe.c` opens it."""

import ctypes
import hashlib
import random
from pathlib import Path

import pytest

from tests.kit.c import library
from tests.kit.claims import LAMBDA, N, P, bytes32, number, point

EDGES = [0, 1, 2, P - 1, P - 2, P, P + 1, 2**256 - 1, 2**255, 2**52 - 1, 2**208, N, N - 1, N + 1]
EDGES += [LAMBDA, N - LAMBDA, 2**128 - 1, 2**128]


@pytest.fixture(
    scope="module",
    params=[(), ("-DNARROW",), ("-DPLAIN",)],
    ids=["here", "narrow", "plain"],
)
def probe(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> ctypes.CDLL:
    source = Path(__file__).with_name("probe.c")
    return library(tmp_path_factory.mktemp("probe"), source, *request.param)


def numbers(chance: random.Random) -> list[int]:
    return [chance.choice([*EDGES, *[chance.getrandbits(256)] * 30]) for _ in range(3)]


def test_field(probe: ctypes.CDLL) -> None:
    chance = random.Random(1)
    out = ctypes.create_string_buffer(193)
    for n in range(1_500):
        a, b, _ = numbers(chance) if n >= len(EDGES) ** 2 else (EDGES[n // 18], EDGES[n % 18], 0)
        grown = ctypes.c_uint64(chance.choice((1, 3, 5, 7)))
        assert probe.probe_field(out, bytes32(a), bytes32(b), grown) == (a < P)
        found = [number(out.raw[at : at + 32]) for at in range(0, 192, 32)]
        root = pow(a, (P + 1) // 4, P)
        assert found == [a * b % P, a * a % P, (a - b) % P, pow(a, P - 2, P), root, a % P]
        assert out.raw[192] == (a % P == 0)


def test_products_in_lanes(probe: ctypes.CDLL) -> None:
    """Of elements one of which is as large as it may come there; every lane has another number."""
    chance = random.Random(5)
    out = ctypes.create_string_buffer(512)
    for _ in range(500):
        ones, twos = ([numbers(chance)[0] for _ in range(8)] for _ in range(2))
        given = (b"".join(map(bytes32, each)) for each in (ones, twos))
        lanes = probe.probe_lanes(out, *given, ctypes.c_uint64(chance.choice((1, 3, 5))))
        found = [number(out.raw[at : at + 32]) for at in range(0, 64 * lanes, 32)]
        pairs = list(zip(ones, twos, strict=True))[:lanes]
        assert found == [a * b % P for a, b in pairs] + [b * b % P for _, b in pairs]


def test_as_many_lanes_as_are_asked_for(probe: ctypes.CDLL, request: pytest.FixtureRequest) -> None:
    out = ctypes.create_string_buffer(512)
    lanes = probe.probe_lanes(out, bytes(256), bytes(256), ctypes.c_uint64(1))
    most = {"here": 8, "narrow": 4, "plain": 0}[request.node.callspec.id]
    flags = set(Path("/proc/cpuinfo").read_text().split())
    kinds = {8: {"avx512f", "avx512ifma"}, 4: {"avx2"}, 0: set()}
    assert lanes == max(kind for kind, wants in kinds.items() if kind <= most and wants <= flags)


def test_roots_at_once(probe: ctypes.CDLL) -> None:
    chance = random.Random(2)
    out = ctypes.create_string_buffer(256)
    for n in range(200):
        values = [numbers(chance)[0] for _ in range(n % 8 + 1)]
        probe.probe_roots(out, b"".join(map(bytes32, values)), len(values))
        found = [number(out.raw[at : at + 32]) for at in range(0, 32 * len(values), 32)]
        assert found == [pow(value, (P + 1) // 4, P) for value in values]


def test_scalars(probe: ctypes.CDLL) -> None:
    chance = random.Random(3)
    out = ctypes.create_string_buffer(98)
    for n in range(2_000):
        a, b, c = numbers(chance)
        a = EDGES[n] if n < len(EDGES) else a
        assert probe.probe_scalar(out, bytes32(a), bytes32(b), bytes32(c)) == (a < N)
        assert number(out.raw[:32]) == (c + a % N * (b % N)) % N
        assert number(out.raw[32:64]) == -a % N
        first = number(out.raw[64:80]) * (-1 if out.raw[96] else 1)
        second = number(out.raw[80:96]) * (-1 if out.raw[97] else 1)
        assert (first + second * LAMBDA - a) % N == 0
        assert abs(first) < 0xA2A9 << 112
        assert abs(second) < 0x8A66 << 112


def test_points(probe: ctypes.CDLL) -> None:
    chance = random.Random(4)
    out = ctypes.create_string_buffer(64)
    for n in range(200):
        a, b, times = chance.randrange(1, N), chance.randrange(1, N), n % 3
        b = (b, b, 2 * a % N, -2 * a % N)[n % 4]  # equal, and opposites
        given = [b"".join(map(bytes32, point(each))) for each in (a, b)]
        is_finite = probe.probe_point(out, *given, times)
        expected = (2 * a + times * b) % N
        assert is_finite == (expected != 0)
        if expected:
            assert (number(out.raw[:32]), number(out.raw[32:])) == point(expected)


def test_sha256(probe: ctypes.CDLL) -> None:
    chance = random.Random(5)
    out = ctypes.create_string_buffer(64)
    for size in (*range(56), 64, 100, 160, 200):
        data = chance.randbytes(size)
        probe.probe_sha256(out, data, ctypes.c_size_t(size))
        assert out.raw == hashlib.sha256(data).digest() * 2  # by both ways
