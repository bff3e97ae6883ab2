"""Amounts of Lightning invoices: those of the specification, and what is wrong."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigbrotr.models.bolt11 import read_invoice
from tests.kit.invoices import invoice

# Of the examples in BOLT 11.
COFFEE = (
    "lnbc2500u1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsy"
    "qcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdq5xysxxatsyp3k7enxv4jsxqzpu9qrsgquk0rl77nj30yxdy8j9vdx85fkpmdla20"
    "87ne0xh8nhedh8w27kyke0lp53ut353s06fv3qfegext0eh0ymjpf39tuven09sam30g4vgpfna3rh"
)
DONATION = (
    "lnbc1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5r"
    "qwzqfqqqsyqcyq5rqwzqfqypqdpl2pkx2ctnv5sxxmmwwd5kgetjypeh2ursdae8g6twvus8g6rfwvs8qun0dfjkxaq9qrsgq"
    "357wnc5r2ueh7ck6q93dj32dlqnls087fxdwk8qakdyafkq3yap9us6v52vjjsrvywa6rt52cm9r9zqt8r2t7mlcwspyetp5h"
    "2tztugp9lfyql"
)


@pytest.mark.parametrize(
    ("text", "msat"), [(COFFEE, 250_000_000), (COFFEE.upper(), 250_000_000), (DONATION, None)]
)
def test_examples_of_the_specification(text: str, msat: int | None) -> None:
    assert read_invoice(text) == ("bc", msat, None)


@pytest.mark.parametrize(
    ("amount", "msat"),
    [
        ("1", 100_000_000_000),
        ("20m", 2_000_000_000),
        ("1u", 100_000),
        ("21n", 2_100),
        ("10p", 1),
        ("9678785340p", 967_878_534),
        ("", None),
    ],
)
def test_amounts(amount: str, msat: int | None) -> None:
    assert read_invoice(invoice(amount)).msat == msat


@pytest.mark.parametrize("amount", ["1p", "25p", "21000001", "9" * 20, "9" * 40, "1k", "u"])
def test_wrong_amounts(amount: str) -> None:
    with pytest.raises(ValueError, match=r"invoice|amount"):
        read_invoice(invoice(amount))


def test_the_hash_of_a_description() -> None:
    digest = hashlib.sha256(b"what is asked").digest()
    assert read_invoice(invoice("1u", digest)) == ("bc", 100_000, digest)
    assert read_invoice(invoice("1u", digest, network="bcrt")).network == "bcrt"


@given(
    place=st.integers(0, len(COFFEE) - 1),
    letter=st.sampled_from("qpzry9x8gf2tvdw0s3jn54khce6mua7l"),
)
def test_a_wrong_letter_is_found(place: int, letter: str) -> None:
    changed = COFFEE[:place] + letter + COFFEE[place + 1 :]
    if changed == COFFEE:
        assert read_invoice(changed).msat
    else:
        with pytest.raises(ValueError, match=r"invoice|letter"):
            read_invoice(changed)


@given(text=st.text(max_size=400))
def test_anything_else_is_refused(text: str) -> None:
    for each in (text, f"lnbc1{text}", f"lnbc1u1{text}"):
        with pytest.raises(ValueError, match=r"\w"):
            read_invoice(each)


@pytest.mark.parametrize(
    "text", ["", "ln", "lnbc2500u1", COFFEE[:-1], COFFEE[:-1] + "H", "1" * 9000]
)
def test_what_is_no_invoice(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read_invoice(text)
