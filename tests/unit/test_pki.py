import datetime
import json
import pathlib
import stat
import subprocess

import pytest
from cryptography import x509
from peat import pki
from run_module import run_module

NOW = datetime.datetime(2026, 11, 23, 12, tzinfo=datetime.timezone.utc)
ADDRESSES = ("peat.example.org", "192.0.2.1", "2001:db8::1")
SERVER = pki.Request(pki.SERVER, "server", ADDRESSES)
CLIENT = pki.Request(pki.CLIENT, "pipeline")


@pytest.fixture(scope="module")
def authority():
    return pki.new_authority("PEAT Server CA", pki.new_key(), NOW, 3970)


def later(days):
    return NOW + datetime.timedelta(days=days)


def extension(certificate, kind):
    return certificate.extensions.get_extension_for_class(kind).value


def test_an_authority_can_sign_certificates_and_nothing_else(authority):
    assert extension(authority.certificate, x509.BasicConstraints) == x509.BasicConstraints(ca=True, path_length=0)
    usage = extension(authority.certificate, x509.KeyUsage)
    assert usage.key_cert_sign and not usage.digital_signature


def test_a_server_gets_every_name_and_address_and_the_use_of_a_server(authority):
    certificate = pki.issue(SERVER, authority, NOW, 397).certificate
    assert pki.alternative_names(certificate) == sorted(ADDRESSES)
    assert list(extension(certificate, x509.ExtendedKeyUsage)) == [x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]
    assert extension(certificate, x509.KeyUsage).digital_signature
    assert not extension(certificate, x509.BasicConstraints).ca
    assert pki.signed_by(certificate, authority.certificate)
    assert pki.days_left(certificate, NOW) == 397


def test_a_certificate_ends_no_later_than_its_authority(authority):
    certificate = pki.issue(SERVER, authority, later(3800), 397).certificate
    assert certificate.not_valid_after_utc == authority.certificate.not_valid_after_utc


def test_a_lost_certificate_is_replaced_by_one_with_another_subject(authority):
    first, second = (pki.issue(CLIENT, authority, NOW, 397).certificate for _ in range(2))
    assert pki.subject_text(first.subject).startswith("/CN=pipeline/serialNumber=")
    assert first.subject != second.subject


@pytest.mark.parametrize("name", ["PEAT Server CA", "Universität X", "a 'b' \\", "\U0001f9ec lab"])
def test_accounts_name_subjects_as_openssl_does(tmp_path, name):
    """The servers compare with what X509_NAME_oneline makes of a name, which openssl shows as `compat`."""
    authority = pki.new_authority(name, pki.new_key(), NOW, 100)
    (tmp_path / "crt").write_bytes(pki.certificate_text(authority.certificate))
    command = ["openssl", "x509", "-in", str(tmp_path / "crt"), "-noout", "-issuer", "-nameopt", "compat"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert shown.strip() == f"issuer={pki.subject_text(authority.certificate.subject)}"


def test_a_renewal_keeps_the_subject_and_changes_the_key(authority):
    first = pki.issue(CLIENT, authority, NOW, 397)
    second = pki.issue(CLIENT, authority, later(380), 397, first.certificate)
    assert first.certificate.subject == second.certificate.subject
    assert not pki.belong_together(second.certificate, first.key)


def reasons(authority):
    stranger = pki.new_authority("PEAT Server CA", pki.new_key(), NOW, 3970)
    good = pki.issue(SERVER, authority, NOW, 397)
    fewer = pki.Request(pki.SERVER, "server", ADDRESSES[:2])
    return {
        "there is none": None,
        "not for the key": pki.Pair(good.certificate, pki.new_key()),
        "another authority": pki.issue(SERVER, stranger, NOW, 397),
        "not for a server": pki.issue(pki.Request(pki.CLIENT, "server", ADDRESSES), authority, NOW, 397),
        "instead of 192.0.2.1, 2001:db8::1, peat.example.org": pki.issue(fewer, authority, NOW, 397),
        "it has 29 days left": pki.issue(SERVER, authority, later(-368), 397),
    }


def test_why_a_certificate_is_made_anew(authority):
    for expected, pair in reasons(authority).items():
        assert expected in pki.why_anew(pair, SERVER, authority.certificate, NOW, 30)


def test_a_good_certificate_stays_until_its_last_days(authority):
    good = pki.issue(SERVER, authority, NOW, 397)
    assert pki.why_anew(good, SERVER, authority.certificate, later(397 - 30), 30) is None
    assert pki.why_anew(good, SERVER, authority.certificate, later(397 - 29), 30)
    other_order = pki.Request(pki.SERVER, "server", (*reversed(ADDRESSES), "PEAT.example.org", "2001:db8:0::1"))
    assert pki.why_anew(good, other_order, authority.certificate, NOW, 30) is None


def test_the_authority_is_renewed_while_everything_it_issued_is_good(authority):
    assert pki.why_authority_anew(authority.certificate, later(3970 - 2 * 397), 397) is None
    assert pki.why_authority_anew(authority.certificate, later(3970 - 2 * 397 + 1), 397)
    renewed = pki.new_authority("PEAT Server CA", authority.key, later(3500), 3970)
    issued = pki.issue(SERVER, authority, later(3000), 397).certificate
    assert pki.signed_by(issued, renewed.certificate)


@pytest.mark.parametrize("text", ["two words", "a;b", "-x", "", "a..b", "192.0.2.0/24"])
def test_names_that_are_none(text):
    with pytest.raises(pki.PkiError, match="tls_names"):
        pki.general_names([text])


def test_a_given_certificate_is_checked(authority):
    def problems(pair, request=SERVER, now=NOW, between=(), authorities=(authority.certificate,)):
        return pki.check_given(pair, request, now, between, authorities)

    good = pki.issue(SERVER, authority, NOW, 397)
    assert problems(good) == []
    wildcard = pki.Request(pki.SERVER, "server", ("peat.example.org",))
    builder = pki._builder(
        good.certificate.subject, good.certificate.subject, good.key.public_key(), NOW, later(1)
    ).add_extension(x509.SubjectAlternativeName([x509.DNSName("*.example.org")]), critical=False)
    own = pki.Pair(builder.sign(good.key, pki.hashes.SHA256()), good.key)
    assert problems(own, wildcard, authorities=[own.certificate]) == []
    assert "not for 192.0.2.1, 2001:db8::1:" in problems(own)[0]
    assert problems(good, now=later(398)) == ["tls_certificate expired on 2027-12-25"]
    assert "not for the key" in problems(pki.Pair(good.certificate, pki.new_key()))[0]


def test_a_given_certificate_is_one_that_clients_believe(authority):
    stranger = pki.new_authority("PEAT Server CA", pki.new_key(), NOW, 3970)
    below = pki.new_authority("Below", pki.new_key(), NOW, 100)
    cross = pki._builder(
        below.certificate.subject, authority.certificate.subject, below.key.public_key(), NOW, later(50)
    ).sign(authority.key, pki.hashes.SHA256())
    good = pki.issue(SERVER, below, NOW, 99)

    def refused(*, between=(), authorities=(), now=NOW):
        found = pki.check_given(good, SERVER, now, between, [pair.certificate for pair in authorities])
        return ["is not from an authority in tls_authority" in text for text in found] == [True]

    assert not refused(authorities=[stranger, below])
    assert not refused(authorities=[authority], between=[stranger.certificate, cross])
    assert refused(authorities=[stranger])
    # Without what is between, and once that has expired.
    assert refused(authorities=[authority])
    assert refused(authorities=[authority], between=[cross], now=later(60))
    # Two that are of each other lead nowhere, and to an end.
    assert refused(authorities=[stranger], between=[below.certificate, cross])


def test_what_expires_within_two_weeks_is_named():
    entries = [
        {"name": name, "path": f"tls/{name}.crt", "not_after": "2026-12-07", "days_left": days}
        for name, days in (("a", 14), ("b", 13), ("c", -1))
    ]
    assert pki.expiring(entries) == [
        "the certificate of b (tls/b.crt) expires on 2026-12-07",
        "the certificate of c (tls/c.crt) expires on 2026-12-07",
    ]


# The module


@pytest.fixture
def call(tmp_path):
    def run(*, check=False, **arguments):
        defaults = {
            "directory": str(tmp_path / "tls"),
            "host": "server",
            "addresses": list(ADDRESSES),
            "clients": ["pipeline"],
            "clients_directory": str(tmp_path / "sheets"),
        }
        return run_module("tls_certificates", check=check, **{**defaults, **arguments})

    return run


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_first_run_and_second_run(call, tmp_path):
    predicted = call(check=True)
    assert contents(tmp_path) == {}
    assert (predicted["changed"], predicted["fingerprint"]) == (True, "new")
    assert {entry["src"] for entry in predicted["files"]} == {"/dev/null"}
    first = call()
    assert first["diff"] == predicted["diff"]
    made = contents(tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in made} == {
        *("tls/ca.crt", "tls/ca.key", "tls/ca.passphrase"),
        *("tls/server/ca.crt", "tls/server/server.crt", "tls/server/server.key"),
        *("sheets/ca.crt", "sheets/pipeline.client.crt", "sheets/pipeline.client.key"),
    }
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o600}
    assert b"BEGIN ENCRYPTED PRIVATE KEY" in (tmp_path / "tls/ca.key").read_bytes()
    assert first["people"]["pipeline"]["issuer"] == "/CN=PEAT Server CA"
    second = call()
    assert (second["changed"], second["fingerprint"], second["people"]) == (
        False,
        first["fingerprint"],
        first["people"],
    )
    assert contents(tmp_path) == made
    assert [entry["days_left"] for entry in second["expiry"]] == [3969, 396, 396]


def test_no_secret_leaves_the_files(call, tmp_path):
    result = str(call())
    passphrase = (tmp_path / "tls/ca.passphrase").read_text().strip()
    assert passphrase not in result and "PRIVATE KEY" not in result


def test_other_addresses_make_a_new_certificate_and_keep_the_others(call, tmp_path):
    call()
    before = contents(tmp_path)
    other = {"addresses": [*ADDRESSES, "2001:db8::2"]}
    predicted = call(check=True, **other)
    assert contents(tmp_path) == before
    # What comes of a file that is to be replaced is not known yet.
    assert [entry["src"] for entry in predicted["files"]] == [
        str(tmp_path / "tls/server/ca.crt"),
        "/dev/null",
        "/dev/null",
    ]
    result = call(**other)
    assert predicted["diff"] == result["diff"] and "2001:db8::2" in result["diff"]["after"]
    changed = {path.name for path, text in contents(tmp_path).items() if before[path] != text}
    assert changed == {"server.crt", "server.key"}


def test_renewal_by_the_days_that_are_left(call, tmp_path):
    first = call(days=30)
    assert call(days=30, renew_days=29)["changed"] is False
    second = call(days=30, renew_days=31)
    assert second["fingerprint"] != first["fingerprint"]
    assert second["people"] == first["people"]


def test_a_person_without_need_of_a_certificate_has_none(call, tmp_path):
    call()
    result = call(clients=[])
    assert result["changed"] and "pipeline.client" in result["diff"]["before"]
    assert not list((tmp_path / "sheets").glob("pipeline*"))
    assert call(clients=[])["changed"] is False


def test_another_service_leaves_peoples_certificates_alone(call, tmp_path):
    call()
    before = contents(tmp_path)
    assert call(clients=[], clients_directory=None)["changed"] is False
    call(host="server-zeo", clients=[], clients_directory=None)
    assert contents(tmp_path).items() >= before.items()
    assert "need a clients_directory" in call(clients_directory=None)["msg"]


def test_two_weeks_before_the_end_it_is_said(call):
    call(days=15)
    assert call(state="read")["expiring"] == []
    call(days=14, renew_days=16)
    found = call(state="read")["expiring"]
    assert len(found) == 2 and "the certificate of server" in found[0] and "the certificate of pipeline" in found[1]


def test_reading_fails_over_nothing_and_changes_nothing(call, tmp_path):
    found = call(state="read")
    assert (found["expiry"], found["fingerprint"], contents(tmp_path)) == ([], "new", {})
    assert "(" + str(tmp_path / "tls/ca.crt") + ") is missing" in found["missing"][0]
    issued = call(days=10, renew_days=1)
    assert call(state="read")["fingerprint"] == issued["fingerprint"]
    before = contents(tmp_path)
    found = call(state="read", clients=["pipeline", "newcomer"], addresses=["192.0.2.99"])
    assert {entry["name"]: entry["days_left"] for entry in found["expiry"]}["pipeline"] == 9
    assert "newcomer" not in json.dumps(found["expiry"]) and found["changed"] is False
    assert len(found["missing"]) == 1 and "the certificate of newcomer" in found["missing"][0]
    assert contents(tmp_path) == before


def test_files_that_others_can_read_are_closed(call, tmp_path):
    call()
    key = tmp_path / "tls/ca.key"
    key.chmod(0o644)
    assert call(check=True)["changed"] and stat.S_IMODE(key.stat().st_mode) == 0o644
    assert call()["changed"] and stat.S_IMODE(key.stat().st_mode) == 0o600


def test_the_passphrase_may_come_from_a_vault(call, tmp_path):
    call(passphrase="from the vault, and long")
    assert not (tmp_path / "tls/ca.passphrase").exists()
    assert call(passphrase="from the vault, and long")["changed"] is False
    (tmp_path / "sheets/pipeline.client.crt").unlink()
    wrong = call(passphrase="another")
    assert "no private key that the passphrase (tls_passphrase) opens" in wrong["msg"]
    assert call(passphrase="from the vault, and long")["changed"]


def test_an_authority_without_its_certificate_gets_one_for_its_key(call, tmp_path):
    first = call()
    (tmp_path / "tls/ca.crt").unlink()
    second = call()
    assert second["changed"] and second["fingerprint"] == first["fingerprint"]


def test_a_given_certificate_is_used_and_people_get_ours(call, tmp_path, authority):
    pair = pki.issue(SERVER, authority, datetime.datetime.now(datetime.timezone.utc), 397)
    given = {"certificate": "given.crt", "key": "given.key", "authority": "given-ca.crt"}
    given = {name: str(tmp_path / file) for name, file in given.items()}
    pathlib.Path(given["certificate"]).write_bytes(pki.certificate_text(pair.certificate))
    pathlib.Path(given["key"]).write_bytes(pki.key_text(pair.key))
    pathlib.Path(given["authority"]).write_bytes(pki.certificate_text(authority.certificate))
    result = call(**given)
    assert result["fingerprint"] == pki.fingerprint(pair.certificate)
    assert call(**given)["changed"] is False
    # People verify the server by the authority that was given; the server verifies people by ours as well.
    assert (tmp_path / "sheets/ca.crt").read_bytes() == pki.certificate_text(authority.certificate)
    assert (tmp_path / "tls/server/ca.crt").read_bytes().count(b"BEGIN CERTIFICATE") == 2
    assert "not for 192.0.2.99" in call(**given, addresses=["192.0.2.99"])["msg"]
    assert "tls_authority" in call(**{**given, "authority": str(tmp_path / "tls/ca.crt")})["msg"]
    assert "tls_key: nothing cannot be read" in call(**{**given, "key": None})["msg"]
