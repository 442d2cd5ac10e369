"""Certificates of an authority of our own, for development and for networks without another one.

The authority is made once per home folder; who has its key can be any service, so it stays where it was made. Elsewhere
a cluster's own issuer writes the same three files, and exchanges them.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from infra.credentials import private_folder, write_private
from infra.settings import Settings

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

AUTHORITY_DAYS = 3_650
BACK_SECONDS = 300
"""A certificate counts from so long ago: clocks differ."""


@dataclass(frozen=True, kw_only=True)
class Issued:
    """Paths of PEM files."""

    certificate: Path
    key: Path
    ca: Path


def folder_of(settings: Settings) -> Path:
    """Where they are kept, mode 0700."""
    return settings.home.resolve() / "credentials" / "tls"


def issue(settings: Settings, name: str, *, hosts: tuple[str, ...], days: int) -> Issued:
    """A certificate for `hosts` (names and addresses), which both a server and a client may show; its key is new.

    ValueError for no host, a name that is no file's, and days that are none.
    """
    if not hosts or not name.replace("-", "").replace(".", "").isalnum() or name == "ca" or days < 1:
        raise ValueError(
            f"a certificate {name!r} for hosts {list(hosts)} and {days} days; give a name of letters, digits, dots and "
            "dashes (not ca), a host and a day at least"
        )
    folder = private_folder(folder_of(settings))
    authority, authority_key = _authority(folder)
    key = _new_key()
    made = _certificate(name, key, hosts=hosts, days=days, authority=authority, authority_key=authority_key)
    issued = Issued(certificate=folder / f"{name}.pem", key=folder / f"{name}.key", ca=folder / "ca.pem")
    write_private(issued.key, _key_pem(key))  # first: a server that looks between the two keeps what it has
    write_private(issued.certificate, _pem(made))
    return issued


def _authority(folder: Path) -> tuple[x509.Certificate, EllipticCurvePrivateKey]:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if not (folder / "ca.key").exists():
        key = _new_key()
        write_private(folder / "ca.pem", _pem(_certificate("usermodel development", key, days=AUTHORITY_DAYS)))
        write_private(folder / "ca.key", _key_pem(key))
    found = load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
    assert isinstance(found, ec.EllipticCurvePrivateKey)
    return x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes()), found


def _certificate(
    name: str,
    key: EllipticCurvePrivateKey,
    *,
    days: int,
    hosts: tuple[str, ...] = (),
    authority: x509.Certificate | None = None,
    authority_key: EllipticCurvePrivateKey | None = None,
) -> x509.Certificate:
    """authority None: one of its own, that signs others and is no server."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    subject, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), datetime.now(UTC)
    signer = authority_key or key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if authority is None else authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(seconds=BACK_SECONDS))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=0 if authority is None else None), True)
        .add_extension(_usage(signs=authority is None), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False)
    )
    if authority is not None:
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(both), False)
        builder = builder.add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), False)
    return builder.sign(signer, hashes.SHA256())


def _usage(*, signs: bool) -> x509.KeyUsage:
    from cryptography import x509

    rest = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    off = dict.fromkeys((*rest, "encipher_only", "decipher_only"), False)
    return x509.KeyUsage(digital_signature=not signs, key_cert_sign=signs, crl_sign=signs, **off)


def _host(host: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _new_key() -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _key_pem(key: EllipticCurvePrivateKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _pem(certificate: x509.Certificate) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM).decode()
