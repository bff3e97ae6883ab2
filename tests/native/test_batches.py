"""Batches are judged as libsecp256k1 judges each of their claims."""

import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.bench import forgeries
from tests.kit.c import library
from tests.kit.claims import FORGERIES, N, claim, flip, right, verdict

native = pytest.importorskip("bigbrotr_native", reason="native/ is not compiled")

ROOT = Path(__file__).parents[2]
CHANCE = random.Random(7)
AUTHORS = [CHANCE.randrange(1, N) for _ in range(40)]
CLAIMS = [right(CHANCE, AUTHORS[n % len(AUTHORS)]) for n in range(120)]

# BIP-340's test vectors with messages of 32 bytes: public key, message, r and s, result.
_PI = "243F6A8885A308D313198A2E03707344A4093822299F31D0082EFA98EC4E6C89"
_KEY = "DFF1D77F2A671C5F36183726DB2341BE58FEAE1DA2DECED843240F7B502BA659"
_R = "6CFF5C3BA86C69EA4B7376F31A9BCB4F74C1976089B2D9963DA2E5543E177769"
_S = "69E89B4C5564D00349106B8497785DD7D1D713A8AE82B32FA79D5F7FC407D39B"
VECTORS = [
    (
        "F9308A019258C31049344F85F89D5229B531C845836F99B08601F113BCE036F9",
        f"{0:064X}",
        "E907831F80848D1069A5371B402410364BDF1C5F8307B0084C55F1CE2DCA8215",
        "25F66A4A85EA8B71E482A74F382D2CE5EBEEE8FDB2172F477DF4900D310536C0",
        True,
    ),
    (
        _KEY,
        _PI,
        "6896BD60EEAE296DB48A229FF71DFE071BDE413E6D43F917DC8DCF8C78DE3341",
        "8906D11AC976ABCCB20B091292BFF4EA897EFCB639EA871CFA95F6DE339E4B0A",
        True,
    ),
    (
        "DD308AFEC5777E13121FA72B9CC1B7CC0139715309B086C960E18FD969774EB8",
        "7E2D58D8B3BCDF1ABADEC7829054F90DDA9805AAB56C77333024B9D0A508B75C",
        "5831AAEED7B44BB74E5EAB94BA9D4294C49BCF2A60728D8B4C200F50DD313C1B",
        "AB745879A5AD954A72C45A91C3A51D3C7ADEA98D82F8481E0E1E03674A6F3FB7",
        True,
    ),
    (
        "25D1DFF95105F5253C4022F628A996AD3A0D95FBF21D468A1B33F8C160D8F517",
        "FF" * 32,
        "7EB0509757E246F19449885651611CB965ECC1A187DD51B64FDA1EDC9637D5EC",
        "97582B9CB13DB3933705B32BA982AF5AF25FD78881EBB32771FC5922EFC66EA3",
        True,
    ),
    (
        "D69C3509BB99E412E68B0FE8544E72837DFA30746D8BE2AA65975F29D22DC7B9",
        "4DF3C3F68FCC83B27E9D42C90431A72499F17875C81A599B566C9889B9696703",
        "00000000000000000000003B78CE563F89A0ED9414F5AA28AD0D96D6795F9C63",
        "76AFB1548AF603B3EB45C9F8207DEE1060CB71C04E80F593060B07D28308D7F4",
        True,
    ),
    ("EEFDEA4CDB677750A420FEE807EACF21EB9898AE79B9768766E4FAA04A2D4A34", _PI, _R, _S, False),
    (
        _KEY,
        _PI,
        "FFF97BD5755EEEA420453A14355235D382F6472F8568A18B2F057A1460297556",
        "3CC27944640AC607CD107AE10923D9EF7A73C643E166BE5EBEAFA34B1AC553E2",
        False,
    ),
    (
        _KEY,
        _PI,
        "1FA62E331EDBC21C394792D2AB1100A7B432B013DF3F6FF4F99FCB33E0E1515F",
        "28890B3EDB6E7189B630448B515CE4F8622A954CFE545735AAEA5134FCCDB2BD",
        False,
    ),
    (_KEY, _PI, _R, "961764B3AA9B2FFCB6EF947B6887A226E8D7C93E00C5ED0C1834FF0D0C2E6DA6", False),
    (
        _KEY,
        _PI,
        f"{0:064X}",
        "123DDA8328AF9C23A94C1FEECFD123BA4FB73476F0D594DCB65C6425BD186051",
        False,
    ),
    (
        _KEY,
        _PI,
        f"{1:064X}",
        "7615FBAF5AE28864013C099742DEADB4DBA87F11AC6754F93780D5A1837CF197",
        False,
    ),
    (_KEY, _PI, "4A298DACAE57395A15D0795DDBFD1DCB564DA82B0F269BC70A74F8220429BA1D", _S, False),
    (_KEY, _PI, "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEFFFFFC2F", _S, False),
    (_KEY, _PI, _R, "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141", False),
    ("FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEFFFFFC30", _PI, _R, _S, False),
]


@pytest.mark.parametrize(("key", "message", "r", "s", "is_right"), VECTORS)
def test_vectors_of_bip_340(key: str, message: str, r: str, s: str, is_right: bool) -> None:
    vector = bytes.fromhex(r + s + message + key)
    assert verdict(vector) is is_right
    assert native.are_right(vector) is is_right
    assert native.are_right(b"".join([*CLAIMS[:9], vector, *CLAIMS[9:40]])) is is_right


@pytest.mark.parametrize("place", [0, 1, 60, 118, 119])
def test_one_wrong_claim_is_noticed_wherever_it_is(place: int) -> None:
    assert native.are_right(b"".join(CLAIMS))
    forged = list(CLAIMS)
    forged[place] = flip(CHANCE, forged[place], b"")
    assert not native.are_right(b"".join(forged))


def test_the_same_claim_often() -> None:
    for count in (2, 3, 50, 300):
        assert native.are_right(CLAIMS[0] * count)
        assert not native.are_right(CLAIMS[0] * (count - 1) + flip(CHANCE, CLAIMS[0], b""))


def test_forgeries() -> None:
    found = forgeries.run(native.are_right, 15_000)
    assert found.wrong == []
    assert found.right > 20
    names = {name.partition(",")[0] for name in found.forged}
    assert len(names) == len(FORGERIES) + 1


@pytest.mark.parametrize("without", ["-DNARROW", "-DPLAIN"])
def test_forgeries_where_the_processor_has_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: str
) -> None:
    poorer = library(tmp_path, ROOT / "native" / "c" / "batch.c", without)
    function = poorer.bigbrotr_native_are_right
    function.argtypes = native._are_right.argtypes
    monkeypatch.setattr(native, "_are_right", function)
    assert forgeries.run(native.are_right, 4_000, seed=2).wrong == []


@pytest.mark.parametrize("answer", [True, False])
def test_forgeries_would_be_found(answer: bool) -> None:
    assert forgeries.run(lambda _: answer, 2_000).wrong


def test_errors_that_add_up_to_nothing_are_seen() -> None:
    """What a sum without random factors would not see."""
    for count in (2, 3, 40):
        batch = CLAIMS[:count]
        forgeries.cancel(CHANCE, batch, [True] * count)
        assert not native.are_right(b"".join(batch))


def test_a_signature_with_the_nonce_of_another() -> None:
    """Two claims have the same R, which in buckets meets itself."""
    batch = [claim(secret, 5, bytes([n]) * 32) for n, secret in enumerate(AUTHORS)]
    assert native.are_right(b"".join(batch))
    batch[3] = claim(AUTHORS[3], 5, bytes(32), is_odd=True)
    assert not native.are_right(b"".join(batch))


def test_what_is_no_batch() -> None:
    assert native.are_right(b"")
    with pytest.raises(ValueError, match="128 bytes"):
        native.are_right(CLAIMS[0][:-1])


def test_more_keys_than_are_remembered() -> None:
    chance = random.Random(3)
    batches = [
        b"".join(right(chance, chance.randrange(1, N)) for _ in range(700)) for _ in range(7)
    ]
    for _ in range(2):
        assert all(map(native.are_right, batches))


def test_threads_at_once() -> None:
    batches = [b"".join(CHANCE.choices(CLAIMS, k=60)) for _ in range(40)]
    batches[::4] = [flip(CHANCE, each[:128], b"") + each[128:] for each in batches[::4]]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(native.are_right, batches))
    assert found == [bool(n % 4) for n in range(40)]


def test_coefficients_hang_on_all_and_on_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []

    def are_right(_: bytes, __: int, coefficients: bytes) -> int:
        seen.append(coefficients)
        return 1

    monkeypatch.setattr(native, "_are_right", are_right)
    batch = b"".join(CLAIMS[:5])
    monkeypatch.setattr(os, "urandom", bytes)
    for each in (batch, batch, batch[:-1] + bytes([batch[-1] ^ 1])):
        assert native.are_right(each)
    monkeypatch.setattr(os, "urandom", lambda size: bytes([1]) * size)
    assert native.are_right(batch)
    assert [len(each) for each in seen] == [80] * 4
    assert seen[0] == seen[1]
    parts = [{each[at : at + 16] for each in seen} for at in range(0, 80, 16)]
    assert [len(each) for each in parts] == [3] * 5
    assert len(set().union(*parts)) == 15
