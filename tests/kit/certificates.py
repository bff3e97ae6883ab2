"""Certificates for servers on loopback, good and bad, and the authority that signs them."""

import ipaddress
import socket
import ssl
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Authority:
    """Signs certificates; `path` is what a client has to trust (SSL_CERT_FILE)."""

    folder: Path

    @cached_property
    def key(self) -> ec.EllipticCurvePrivateKey:
        return ec.generate_private_key(ec.SECP256R1())

    @property
    def name(self) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority for tests")])

    @cached_property
    def path(self) -> Path:
        certificate = self._sign(self.name, self.key, self.key, self.name, [], 1, is_authority=True)
        path = self.folder / "authority.pem"
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return path

    def context(
        self,
        *names: str,
        days: int = 90,
        is_self_signed: bool = False,
        is_old: bool = False,
        version: int | None = None,
    ) -> ssl.SSLContext:
        """What a server of these names and addresses shows.

        `days` is how long its certificate is valid yet; `is_old` speaks no TLS after 1.1; `version`
        is one that X.509 does not have, in a certificate whose signature is not good any more.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:60])])
        issuer = (key, subject) if is_self_signed else (self.key, self.name)
        certificate = self._sign(subject, key, *issuer, list(names), days)
        path = self.folder / f"server-{key.private_numbers().private_value:x}.pem"
        der = certificate.public_bytes(serialization.Encoding.DER)
        if version is not None:
            der = of_version(der, version)
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + ssl.DER_cert_to_PEM_cert(der).encode()
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        if is_old:
            context.set_ciphers("ALL:@SECLEVEL=0")
            with warnings.catch_warnings(action="ignore"):  # that it is old
                context.minimum_version = ssl.TLSVersion.TLSv1
                context.maximum_version = ssl.TLSVersion.TLSv1_1
        return context

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        issuer_key: ec.EllipticCurvePrivateKey,
        issuer: x509.Name,
        names: list[str],
        days: int,
        *,
        is_authority: bool = False,
    ) -> x509.Certificate:
        until = datetime.now(UTC) + days * DAY
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(until, datetime.now(UTC)) - DAY)
            .not_valid_after(until)
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        )
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_general_name(name) for name in names]),
                critical=False,
            )
        return builder.sign(issuer_key, hashes.SHA256())


def of_version(der: bytes, version: int) -> bytes:
    """A certificate that says to be of another version than the third."""
    third = b"\xa0\x03\x02\x01\x02"
    assert third in der
    return der.replace(third, third[:-1] + bytes([version]), 1)


@contextmanager
def handshakes(
    context: ssl.SSLContext, host: str = "127.0.0.1", port: int = 0
) -> Iterator[socket.socket]:
    """A server that makes handshakes and hangs up, in a thread: asyncio's sends no alerts."""
    with socket.create_server((host, port)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client, suppress(OSError):
                        client.settimeout(5.0)
                        context.wrap_socket(client, server_side=True).close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listener
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10.0)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
