"""What certificates say, good, bad and tampered with."""

import random
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from bigbrotr.net.certificate import certificate_of, first_of, observing_context, read
from tests.kit.certificates import Authority, of_version


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Authority]:
    """Signs certificates that we trust."""
    made = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(made.path))
    observing_context.cache_clear()
    yield made
    observing_context.cache_clear()


@pytest.mark.parametrize("der", [b"", b"\x30", b"\x30\x03abc", b"x" * 1000])
def test_what_is_no_certificate(der: bytes) -> None:
    assert read(der) is None


def test_certificates_that_were_tampered_with(authority: Authority) -> None:
    """Whatever a server shows, reading it raises nothing."""
    authority.context("127.0.0.1", "relay.example")
    (path,) = authority.folder.glob("server*.pem")
    pem = path.read_text()
    der = ssl.PEM_cert_to_DER_cert(pem[pem.index("-----BEGIN CERTIFICATE") :])
    assert read(der) is not None
    for version in (0, 1, 3, 9, 127):
        read(of_version(der, version))
    chance = random.Random(1)
    for at in range(len(der)):
        read(der[:at] + bytes([chance.randrange(256)]) + der[at + 1 :])
        read(der[:at] + der[at + 1 :])


@pytest.mark.parametrize("is_newest", [False, True])
def test_messages_that_are_cut(is_newest: bool) -> None:
    body = (b"\x00" if is_newest else b"") + b"\x00\x00\x06\x00\x00\x03abc"
    message = b"\x0b" + len(body).to_bytes(3, "big") + body
    assert first_of(message) == b"abc"
    for end in range(len(message)):
        assert first_of(message[:end]) is None


def test_a_connection_that_has_shown_nothing() -> None:
    context = observing_context()
    connection = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="a.example")
    assert certificate_of(connection) is None
