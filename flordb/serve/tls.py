"""TLS for the PostgreSQL protocol: a certificate of the user's, or one made for the project."""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
from pathlib import Path

from flordb.serve.errors import ServeError
from flordb.settings import Settings
from flordb.store.project import Project

_VALID = datetime.timedelta(days=3650)


def context(settings: Settings) -> ssl.SSLContext | None:
    """The server's TLS as the settings say, None where they name no certificate.

    Raises ServeError for a certificate or key that cannot be used.
    """
    if not settings.serve_tls_certificate:
        return None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        made.load_cert_chain(settings.serve_tls_certificate, settings.serve_tls_key or None)
    except (OSError, ssl.SSLError) as error:
        raise ServeError(
            f"no TLS with certificate {settings.serve_tls_certificate!r} and key "
            f"{settings.serve_tls_key or settings.serve_tls_certificate!r}: {error}"
        ) from error
    return made


def self_signed(project: Project, host: str) -> tuple[Path, Path]:
    """The project's own certificate and key, made when they are first asked for.

    Raises ServeError where the package cryptography, which makes them, is missing.
    """
    project.prepare()
    certificate, key = project.store / "serve.crt", project.store / "serve.key"
    if certificate.exists() and key.exists():
        return certificate, key
    try:
        made, secret = _make(host)
    except ImportError as error:
        raise ServeError(
            "a certificate is made with the package cryptography: pip install 'flordb[tls]'"
        ) from error
    _write(key, secret)
    _write(certificate, made)
    return certificate, key


def _write(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def _make(host: str) -> tuple[bytes, bytes]:
    """A certificate for these names and its key, as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "flordb")])
    names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ]
    try:
        names.append(x509.IPAddress(ipaddress.ip_address(host)))
    except ValueError:
        names.append(x509.DNSName(host))
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + _VALID)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return certificate.public_bytes(serialization.Encoding.PEM), secret
