"""A lab's private certificate authority: which certificates are wanted, why one is made anew, and how.

Decisions are functions of plain data and of certificates; the module tls_certificates reads and
writes the files. Runs on the controller only, where `cryptography` is installed.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
import secrets
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SERVER = "server"
CLIENT = "client"

#: Days before its expiry at which a check fails.
FAIL_DAYS = 14
#: A certificate made for the files of this project is refused by a client whose clock is a little behind.
_CLOCK = datetime.timedelta(hours=1)
_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*")
_USAGE = {SERVER: ExtendedKeyUsageOID.SERVER_AUTH, CLIENT: ExtendedKeyUsageOID.CLIENT_AUTH}
_SHORT = {NameOID.COMMON_NAME: "CN", NameOID.SERIAL_NUMBER: "serialNumber"}
_PASSPHRASE = string.ascii_letters + string.digits
_BEGIN = "-----BEGIN CERTIFICATE-----"


class PkiError(Exception):
    """A certificate or key cannot be used; the text says which, why and what to do."""


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: object = field(repr=False)


@dataclass(frozen=True)
class Request:
    """A certificate that is wanted: for a server with its names and addresses, or for a person."""

    kind: str
    name: str
    addresses: tuple[str, ...] = ()


# Names


def general_names(addresses: Iterable[str]) -> list[x509.GeneralName]:
    """Return names and addresses as a certificate carries them, each once; raise PkiError for another text."""
    found: dict[str, x509.GeneralName] = {}
    for address in addresses:
        try:
            ip = ipaddress.ip_address(address)
            found[str(ip)] = x509.IPAddress(ip)
        except ValueError:
            if not _HOST_NAME.fullmatch(address):
                raise PkiError(f"{address!r} is no name or address of a server: correct tls_names") from None
            found[address.lower()] = x509.DNSName(address.lower())
    return list(found.values())


def texts(names: Iterable[x509.GeneralName]) -> list[str]:
    """Return the names and addresses of a certificate as texts, sorted."""
    return sorted(str(name.value) for name in names)


def subject_text(name: x509.Name) -> str:
    """Return a subject or issuer as MySQL and MariaDB compare it in REQUIRE SUBJECT ... ISSUER ...

    That is how X509_NAME_oneline of OpenSSL writes it: in ASCII, ``\\xC3\\xA4`` for an umlaut.
    """
    return "".join(f"/{_SHORT.get(part.oid, part.rfc4514_attribute_name)}={_oneline(part.value)}" for part in name)


def _oneline(value: str) -> str:
    return "".join(chr(byte) if 0x20 <= byte <= 0x7E else f"\\x{byte:02X}" for byte in value.encode())


def names(text: bytes, path: str) -> dict[str, str]:
    """Return subject and issuer of a PEM file's first certificate, as an account demands them."""
    certificate = certificates_of(text, path)[0]
    return {"subject": subject_text(certificate.subject), "issuer": subject_text(certificate.issuer)}


def alternative_names(certificate: x509.Certificate) -> list[str]:
    """Return the names and addresses that a certificate is for."""
    try:
        return texts(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return []


# What is there


def days_left(certificate: x509.Certificate, now: datetime.datetime) -> int:
    """Return for how many whole days a certificate is still good; negative once it has expired."""
    return (certificate.not_valid_after_utc - now).days


def expiring(expiry: Iterable[dict], days: int = FAIL_DAYS) -> list[str]:
    """Return, in words, which certificates have fewer than `days` left.

    `expiry` has entries {name, path, not_after, days_left}, as the module tls_certificates returns them.
    """
    return [
        f"the certificate of {entry['name']} ({entry['path']}) expires on {entry['not_after']}"
        for entry in expiry
        if entry["days_left"] < days
    ]


def expiry(certificate: x509.Certificate, name: str, path: str, now: datetime.datetime) -> dict:
    """Return when a certificate expires, as an entry for `expiring`."""
    return {
        "name": name,
        "path": path,
        "not_after": f"{certificate.not_valid_after_utc:%Y-%m-%d}",
        "days_left": days_left(certificate, now),
    }


def certificates_of(text: bytes, path: str) -> list[x509.Certificate]:
    """Return the certificates of a PEM file; raise PkiError if it holds none."""
    try:
        return x509.load_pem_x509_certificates(text)
    except ValueError:
        raise PkiError(f"{path} holds no certificate in PEM form (it would begin with {_BEGIN})") from None


def key_of(text: bytes, path: str, passphrase: str | None = None) -> object:
    """Return the private key of a PEM file; raise PkiError without any of its text."""
    try:
        return serialization.load_pem_private_key(text, passphrase.encode() if passphrase is not None else None)
    except (ValueError, TypeError):
        reason = "no private key in PEM form without a passphrase"
        if passphrase is not None:
            reason = "no private key that the passphrase (tls_passphrase) opens"
        raise PkiError(f"{path} holds {reason}") from None


def belong_together(certificate: x509.Certificate, key) -> bool:
    """Tell whether a certificate is for a private key."""
    return certificate.public_key() == key.public_key()


def signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Tell whether an authority made a certificate."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def why_anew(
    pair: Pair | None, request: Request, authority: x509.Certificate | None, now: datetime.datetime, renew_days: int
) -> str | None:
    """Return why a certificate of ours is made anew, None if it stays."""
    if pair is None or authority is None:
        return "there is none"
    certificate = pair.certificate
    if not belong_together(certificate, pair.key):
        return "it is not for the key beside it"
    if not signed_by(certificate, authority):
        return "it is from another authority"
    if _purpose(certificate) != _USAGE[request.kind]:
        return f"it is not for a {request.kind}"
    wanted = texts(general_names(request.addresses))
    if alternative_names(certificate) != wanted:
        return f"it is for {_listed(alternative_names(certificate))} instead of {_listed(wanted)}"
    left = days_left(certificate, now)
    if left < renew_days and certificate.not_valid_after_utc < authority.not_valid_after_utc:
        return f"it has {left} days left"
    return None


def check_given(
    pair: Pair,
    request: Request,
    now: datetime.datetime,
    between: Sequence[x509.Certificate],
    authorities: Sequence[x509.Certificate],
) -> list[str]:
    """Return what is wrong with a server's certificate that the administrator gave.

    `between` are the intermediate authorities it came with, `authorities` those by which clients verify it.
    """
    problems = []
    if not belong_together(pair.certificate, pair.key):
        problems.append("tls_certificate is not for the key in tls_key")
    if days_left(pair.certificate, now) < 0:
        problems.append(f"tls_certificate expired on {pair.certificate.not_valid_after_utc:%Y-%m-%d}")
    missing = [name for name in texts(general_names(request.addresses)) if not _covers(pair.certificate, name)]
    if missing:
        problems.append(
            f"tls_certificate is for {_listed(alternative_names(pair.certificate))}, not for {_listed(missing)}:"
            " clients that use these would refuse it"
        )
    if not verified(pair.certificate, between, authorities, now):
        problems.append(
            "tls_certificate is not from an authority in tls_authority, not even by way of the intermediate ones that"
            " follow it, or one of these has expired: clients would refuse it"
        )
    return problems


def verified(
    certificate: x509.Certificate,
    between: Sequence[x509.Certificate],
    authorities: Sequence[x509.Certificate],
    now: datetime.datetime,
) -> bool:
    """Tell whether clients that trust these authorities believe a certificate, as far as signatures and dates go."""
    while True:
        if any(signed_by(certificate, known) and days_left(known, now) >= 0 for known in authorities):
            return True
        # Each can be used once, whatever they say of each other.
        above = next((known for known in between if signed_by(certificate, known)), None)
        if above is None or days_left(above, now) < 0:
            return False
        certificate, between = above, [known for known in between if known != above]


def why_authority_anew(authority: x509.Certificate, now: datetime.datetime, days: int) -> str | None:
    """Return why the authority's certificate is made anew, with the same key and name, None if it stays.

    Two lifetimes of a certificate before its end: whoever has either of its certificates verifies
    everything that is issued until then.
    """
    left = days_left(authority, now)
    return f"it has {left} days left" if left < 2 * days else None


def _purpose(certificate: x509.Certificate) -> x509.ObjectIdentifier | None:
    try:
        usages = list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return None
    return usages[0] if len(usages) == 1 else None


def _covers(certificate: x509.Certificate, name: str) -> bool:
    """Tell whether a certificate is for a name, also by a wildcard for its first part."""
    parts = name.split(".", 1)
    known = [known.lower() for known in alternative_names(certificate)]
    return name in known or (len(parts) == 2 and f"*.{parts[1]}" in known)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "no name"


# What is made


def new_passphrase() -> str:
    """Return a passphrase for the authority's key."""
    return "".join(secrets.choice(_PASSPHRASE) for _ in range(40))


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a private key that every tested client and server takes."""
    return ec.generate_private_key(ec.SECP256R1())


def new_authority(name: str, key, now: datetime.datetime, days: int) -> Pair:
    """Return an authority that signs certificates of servers and people, and no other authority."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = _builder(subject, subject, key.public_key(), now, now + datetime.timedelta(days=days))
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        # Python 3.13 accepts no authority without it.
        .add_extension(_key_usage("key_cert_sign", "crl_sign"), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Pair(builder.sign(key, hashes.SHA256()), key)


def issue(
    request: Request, authority: Pair, now: datetime.datetime, days: int, before: x509.Certificate | None = None
) -> Pair:
    """Return a new certificate with a new key; it ends no later than the authority.

    A person's subject holds a number: accounts name the subject, so a certificate that was lost is
    worth nothing once its files are removed and another is made. A renewal keeps the subject
    of the certificate `before`, which stays good until it expires.
    """
    key = new_key()
    if request.kind == CLIENT and before is not None:
        subject = before.subject
    else:
        parts = [x509.NameAttribute(NameOID.COMMON_NAME, request.name[:64])]
        if request.kind == CLIENT:
            parts.append(x509.NameAttribute(NameOID.SERIAL_NUMBER, secrets.token_hex(8)))
        subject = x509.Name(parts)
    end = min(now + datetime.timedelta(days=days), authority.certificate.not_valid_after_utc)
    public = authority.certificate.public_key()
    builder = (
        _builder(subject, authority.certificate.subject, key.public_key(), now, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage([_USAGE[request.kind]]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
    )
    if request.addresses:
        names = general_names(request.addresses)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return Pair(builder.sign(authority.key, hashes.SHA256()), key)


def _builder(subject, issuer, public, now, end) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK)
        .not_valid_after(end)
    )


def _key_usage(*names: str) -> x509.KeyUsage:
    known = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign"
        " crl_sign encipher_only decipher_only"
    )
    return x509.KeyUsage(**{name: name in names for name in known.split()})


def certificate_text(certificate: x509.Certificate) -> bytes:
    """Return a certificate in PEM form."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_text(key, passphrase: str | None = None) -> bytes:
    """Return a private key in PEM form, encrypted if there is a passphrase."""
    how = serialization.NoEncryption()
    if passphrase is not None:
        how = serialization.BestAvailableEncryption(passphrase.encode())
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate, in hex."""
    return certificate.fingerprint(hashes.SHA256()).hex()
