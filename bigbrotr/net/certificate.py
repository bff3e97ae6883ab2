"""Certificates that servers show: what is in them, whether they are valid, and why not."""

import hashlib
import ssl
import warnings
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # slow to import, and only who looks at certificates needs it
    from cryptography import x509

MAX_NAMES = 100  # of one certificate; some list thousands
MAX_TEXT = 253  # characters of one
_CERTIFICATE = 11  # the type of TLS's message, in each version


class Observed(ssl.SSLObject):
    """A TLS connection that remembers the certificates that the server showed."""

    shown: bytes = b""  # the message, as TLS has it


def checking_context() -> ssl.SSLContext:
    """Checks certificates as any client does.

    Python 3.13 is stricter than the versions before, and than browsers: whether a relay is up must
    not hang on the version of our Python.
    """
    context = ssl.create_default_context()
    context.verify_flags &= ~(ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN)
    return context


@cache
def observing_context() -> ssl.SSLContext:
    """Checks certificates as any client does, and lets them be looked at even when they are bad.

    A failed handshake leaves no certificate behind, so the message that carries it is read as it
    passes: one handshake, good or bad. Where Python has no such hook, bad ones stay unseen.
    """
    context = checking_context()
    context.sslobject_class = Observed

    def watch(
        connection: ssl.SSLObject,
        direction: str,
        _version: object,
        _content: object,
        kind: object,
        data: bytes,
    ) -> None:
        is_shown = direction == "read" and getattr(kind, "value", kind) == _CERTIFICATE
        if is_shown and isinstance(connection, Observed):
            connection.shown = bytes(data)

    context._msg_callback = watch  # type: ignore[attr-defined]  # noqa: SLF001 -- not in typeshed
    return context


class Certificate(NamedTuple):
    """What a certificate says, in the words of its document in the database."""

    issuer: str
    subject: str
    names: list[str]  # that it is for
    not_before: int  # Unix seconds
    not_after: int
    fingerprint: str  # SHA-256 of the whole, in hex


def certificate_of(connection: ssl.SSLObject) -> Certificate | None:
    """The server's own certificate; None when it showed none that could be read."""
    der = connection.getpeercert(True) if connection.version() else None
    if der is None and isinstance(connection, Observed):
        der = first_of(connection.shown)
    return None if der is None else read(der)


def first_of(message: bytes) -> bytes | None:
    """The first certificate in TLS's message of them: of version 1.3 (RFC 8446, 4.4.2), where an
    empty context comes first, or of one before (RFC 5246, 7.4.2)."""
    for at in (4, 5):  # after the message's type and length
        length = int.from_bytes(message[at : at + 3], "big")
        if length and at + 3 + length == len(message) and message[4:at] in (b"", b"\0"):
            size = int.from_bytes(message[at + 3 : at + 6], "big")
            found = message[at + 6 : at + 6 + size]
            return found if size and len(found) == size else None
    return None


def read(der: bytes) -> Certificate | None:
    """What is in a certificate; None when it cannot be read."""
    from cryptography import x509

    try:
        with warnings.catch_warnings(action="ignore"):  # of serial numbers and the like
            found = x509.load_der_x509_certificate(der)
            return Certificate(
                _name(found.issuer),
                _name(found.subject),
                _names(found),
                int(found.not_valid_before_utc.timestamp()),
                int(found.not_valid_after_utc.timestamp()),
                hashlib.sha256(der).hexdigest(),
            )
    except Exception:  # of a stranger's bytes: a version 9, say, is no ValueError
        return None


def _name(name: "x509.Name") -> str:
    """An organisation and a common name, what there is of them."""
    from cryptography.x509.oid import NameOID

    parts = []
    for oid in (NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME):
        parts += [str(each.value)[:MAX_TEXT] for each in name.get_attributes_for_oid(oid)[:1]]
    return ", ".join(parts)


def _names(certificate: "x509.Certificate") -> list[str]:
    from cryptography import x509

    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension):
        return []
    names = [
        *found.get_values_for_type(x509.DNSName),
        *map(str, found.get_values_for_type(x509.IPAddress)),
    ]
    return sorted({name[:MAX_TEXT] for name in names})[:MAX_NAMES]
