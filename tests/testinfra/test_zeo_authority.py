"""ZEO servers that show, and ask for, certificates of the lab's own authority."""

from __future__ import annotations

import pathlib

import pytest
from conftest import put, run_ansible, zeo_names

FOLDER = "/etc/ssl/peat-tests/issued"
CONFIGURE = "zeo : Configure | storages, users, unit and running server"


def beside_sheet(lab, name: str) -> pathlib.Path:
    return pathlib.Path(lab.hosts[name]["sheets"])


@pytest.fixture(scope="module")
def issued(site, lab, hosts):
    """The first run with certificates, and what its check mode said it would change."""
    predicted, run = site({"zeo_tls": True}, check=True), site({"zeo_tls": True})
    assert predicted.ok and run.ok, predicted.failure + run.failure
    for name in zeo_names():
        put(hosts["modern"], (beside_sheet(lab, name) / "ca.crt").read_bytes(), f"{FOLDER}/{name}/ca.pem")
        own = b"".join((beside_sheet(lab, name) / f"farrell.client.{kind}").read_bytes() for kind in ("crt", "key"))
        put(hosts["modern"], own, f"{FOLDER}/{name}/farrell.pem")
    return predicted, run


@pytest.fixture
def session(run_client, lab, issued):
    """session(server, command, **options): a client with what lies beside farrell's sheet."""

    def run(name: str, command: str, **options) -> dict:
        server = lab.hosts[name]
        options = {"server": server["address"], "port": server["port"], **options}
        files = {"ca": f"{FOLDER}/{name}/ca.pem", "certificate": f"{FOLDER}/{name}/farrell.pem"}
        person = ("modern", "relstorage4", command, "farrell", "hewlsample")
        return run_client(*person, password="none", backend="zeo", **{**files, **options})

    return run


def test_who_has_the_certificate_beside_the_sheet_gets_in_and_nobody_else(session, lab, hosts, unused):
    for name in zeo_names():
        for address in ("address", "address6"):
            assert session(name, "add", server=lab.hosts[name][address], prefix=unused + address)["ok"]
        for change in ({"certificate": ""}, {"ca": "", "certificate": ""}):
            assert session(name, "open", **change)["error"]["type"] == "ClientDisconnected"
        hosts[name].check_output("zeoctl pack")
        sheet = (beside_sheet(lab, name) / "farrell.txt").read_text()
        assert "farrell.client.crt" in sheet and "Password" not in sheet


def test_check_mode_knew_and_a_second_run_changes_nothing(issued, site):
    predicted, run = issued
    assert {(name, CONFIGURE) for name in zeo_names()} <= set(run.changed)
    assert sorted(predicted.changed) == sorted(run.changed)
    again = site({"zeo_tls": True})
    assert again.ok, again.failure
    assert again.changed == []


def test_the_report_has_the_storages_and_the_certificates(issued, tmp_path):
    page = tmp_path / "report.html"
    options = [f"--extra-vars=peat_report_file={page}", "--extra-vars={zeo_tls: true}"]
    code, _report, output = run_ansible("ansible-playbook", *options, "playbooks/report.yml")
    assert code == 0, output
    text = page.read_text()
    for name in zeo_names():
        assert f'<th scope="row">{name}.zeo</th>' in text
    for part in ("ZEO 6.2", "hewlsample", "in 2 storages", "Nothing is pending"):
        assert text.count(part) >= len(zeo_names())
    assert "does not run" not in text


def test_another_certificate_restarts_the_server(issued, session, site):
    options = {"zeo_tls": True, "tls_names": ["zeo.example.org"]}
    predicted, run = site(options, check=True), site(options)
    assert predicted.ok and run.ok, predicted.failure + run.failure
    assert sorted(predicted.changed) == sorted(run.changed)
    assert all(result["restarted"] for task, _host, result in run.results() if task == CONFIGURE)
    for name in zeo_names():
        assert session(name, "open")["ok"]
