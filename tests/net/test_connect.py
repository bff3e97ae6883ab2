"""What failures of a connection mean, by the words that OpenSSL has for them."""

import ssl

import pytest

from bigbrotr.net.connect import Failure, Unreached, failure_of

NAMELESS = "[SSL] legacy sigalg disallowed or unsupported (_ssl.c:992)"


@pytest.mark.parametrize(
    ("reason", "words", "expected"),
    [
        ("UNSUPPORTED_PROTOCOL", "[SSL: UNSUPPORTED_PROTOCOL] …", Failure.TLS_OLD),
        ("DH_KEY_TOO_SMALL", "[SSL: DH_KEY_TOO_SMALL] …", Failure.TLS_OLD),
        (None, NAMELESS, Failure.TLS_OLD),  # newer than the list of Python's own names
        ("SSLV3_ALERT_HANDSHAKE_FAILURE", "[SSL: SSLV3_ALERT_HANDSHAKE_FAILURE] …", Failure.TLS),
        (None, "[SSL] something else (_ssl.c:1)", Failure.TLS),
        (None, "no words of OpenSSL's at all", Failure.TLS),
    ],
)
def test_tls_that_is_no_longer_spoken(reason: str | None, words: str, expected: Failure) -> None:
    error = ssl.SSLError(1, words)
    error.reason = reason  # type: ignore[assignment]
    found = failure_of(error)
    assert isinstance(found, Unreached)
    assert found.failure is expected
    assert found.detail
