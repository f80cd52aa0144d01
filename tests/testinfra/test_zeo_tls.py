"""ZEO 6 clients at servers that want a certificate of everybody."""

from __future__ import annotations

import datetime
import ipaddress
import json

import pytest
from conftest import CLIENTS, at_once, put, run_ansible, zeo_releases
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from test_zeo_current import (  # noqa: F401, with `security` of this module
    test_a_second_session_reads_what_the_first_saved,
    test_blobs_undo_and_pack,
    test_ipv6,
)
from verified import verify

FOLDER = "/etc/ssl/peat-tests"
ZEO_HOSTS = zeo_releases


class Authority:
    """A throwaway certificate authority."""

    def __init__(self, name: str):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        self.certificate = (
            self._builder(self.name, self.key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(self.key, hashes.SHA256())
        )

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(key)
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(hours=1))
        return builder.not_valid_after(now + datetime.timedelta(days=1)).add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key), critical=False
        )

    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, name: str, addresses: list[str], usage) -> tuple[bytes, bytes]:
        """Return a certificate and its key, as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        certificate = (
            self._builder(subject, key.public_key())
            .add_extension(x509.SubjectAlternativeName(names or [x509.DNSName(name)]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def limit() -> str:
    """Only the servers that are asked below."""
    return f"--limit={','.join(zeo_releases())}"


@pytest.fixture(scope="module")
def security(site, lab, hosts) -> dict:
    """The options with which a client connects to servers that were told to use TLS."""
    ours, other = Authority("Test lab"), Authority("Somebody else")
    for name in zeo_releases():
        addresses = [lab.hosts[name]["address"], lab.hosts[name]["address6"]]
        certificate, key = ours.issue(name, addresses, ExtendedKeyUsageOID.SERVER_AUTH)
        for file, content in (("ca", ours.pem()), ("certificate", certificate), ("key", key)):
            put(hosts[name], content, f"{FOLDER}/{file}.pem")
        hosts[name].check_output("chown root:zeo %s/key.pem && chmod 640 %s/key.pem", FOLDER, FOLDER)
    papers = {
        file: b"".join(authority.issue(file, [], ExtendedKeyUsageOID.CLIENT_AUTH))
        for authority, file in ((ours, "farrell"), (other, "intruder"))
    }
    for client in ("modern", "stranger"):
        for file, content in {**papers, "ca": ours.pem()}.items():
            put(hosts[client], content, f"{FOLDER}/{file}.pem")
    variables = {f"zeo_tls_{file}": f"{FOLDER}/{file}.pem" for file in ("ca", "certificate", "key")}
    run = site(variables, limit())
    assert run.ok, run.failure
    return {"ca": f"{FOLDER}/ca.pem", "certificate": f"{FOLDER}/farrell.pem"}


def test_without_a_certificate_of_the_authority_nobody_gets_in_and_with_one_from_nowhere_else(program, lab, zeo_name):
    changes = [{"certificate": ""}, {"certificate": f"{FOLDER}/intruder.pem"}, {"ca": "", "certificate": ""}]
    # An undeclared address, with all that a declared one has.
    changes += [{"host": "stranger", "server": lab.hosts[zeo_name][address]} for address in ("address", "address6")]
    welcome, *others = at_once(lambda change: program("open", **change), ({},), *((change,) for change in changes))
    assert welcome["ok"], welcome
    assert [answer["error"]["type"] for answer in others] == ["ClientDisconnected"] * len(changes)


def test_a_second_run_changes_nothing(site, security):
    run = site({f"zeo_tls_{file}": f"{FOLDER}/{file}.pem" for file in ("ca", "certificate", "key")}, limit())
    assert run.ok, run.failure
    assert run.changed == []


def test_the_server_packs_and_its_key_is_kept(hosts, zeo_name, security):
    """The maintenance program has a certificate of its own, which nobody else can read."""
    hosts[zeo_name].check_output("zeoctl pack")
    for file in ("/etc/zeo/maintenance.pem", f"{FOLDER}/key.pem"):
        assert hosts[zeo_name].file(file).mode & 0o007 == 0


@pytest.mark.parametrize(("version", "accepted"), [("1", False), ("1_1", False), ("1_2", True), ("1_3", True)])
def test_only_tls_1_2_and_newer(hosts, lab, zeo_name, security, version, accepted):
    path = "/usr/local/lib/peat-tests/tls_probe.py"
    put(hosts["modern"], (CLIENTS / "tls_probe.py").read_bytes(), path)

    def probe(*words: str) -> dict:
        return json.loads(hosts["modern"].check_output(" ".join(["python3", path, *words])))

    options = [f"--version=TLSv{version}"]
    # This client can do it: what is refused is refused by the server.
    assert probe("self", *options)["ok"]
    options += ["--at-once=true", *(f"--{name}={file}" for name, file in security.items())]
    for address in ("address", "address6"):
        server = lab.hosts[zeo_name]
        assert probe(server[address], str(server["port"]), *options)["ok"] is accepted


def test_that_a_given_certificate_ends_soon_is_in_the_check_and_in_the_report(security, lab, tmp_path):
    """It was made to be good for a day."""
    given = {f"zeo_tls_{file}": f"{FOLDER}/{file}.pem" for file in ("ca", "certificate", "key")}
    found, page = verify(given, limit()), tmp_path / "report.html"
    options = [f"--extra-vars={json.dumps({**given, 'peat_report_file': str(page)})}", limit()]
    code, _report, output = run_ansible("ansible-playbook", *options, "playbooks/report.yml")
    assert code == 0, output
    for name in zeo_releases():
        assert found.failed("certificates", f"the certificate of {name}.zeo ({FOLDER}/certificate.pem)", server=name)
        assert f'<th scope="row">{name}.zeo</th>' in page.read_text()
