"""ZEO servers that show, and ask for, certificates of the lab's own authority.

They get them in the same run in which test_zeo_site.py, whose tests are here as well, moves the server.
"""

from __future__ import annotations

import json
import pathlib
import re

import pytest
from conftest import at_once, put, run_ansible, zeo_names
from test_zeo_site import (  # noqa: F401, with `more` and `papers` of this module
    NEW_PORT,
    broken,
    clients,
    move,
    moved,
    test_a_storage_that_cannot_be_opened_leaves_the_server_as_it_was,
    test_no_password_is_shown,
    test_only_the_server_writes_and_only_to_its_data,
    test_people_come_in_as_the_new_list_says,
    test_the_next_run_changes_nothing,
    test_the_restart_says_why,
    test_the_server_and_its_firewall_moved,
)

FOLDER = "/etc/ssl/peat-tests/issued"
CONFIGURE = "zeo : Configure | storages, users, unit and running server"


@pytest.fixture(scope="module")
def more() -> dict:
    return {"zeo_tls": True}


def beside_sheet(lab, name: str) -> pathlib.Path:
    return pathlib.Path(lab.hosts[name]["sheets"])


def files_of(name: str) -> dict:
    """Where the client has what lies beside farrell's sheet of a server."""
    return {"ca": f"{FOLDER}/{name}/ca.pem", "certificate": f"{FOLDER}/{name}/farrell.pem"}


@pytest.fixture(scope="module")
def issued(move, lab, hosts) -> None:  # noqa: F811
    """The client has what lies beside farrell's sheets."""
    assert move["done"].ok, move["done"].failure
    for name in zeo_names():
        put(hosts["modern"], (beside_sheet(lab, name) / "ca.crt").read_bytes(), files_of(name)["ca"])
        own = b"".join((beside_sheet(lab, name) / f"farrell.client.{kind}").read_bytes() for kind in ("crt", "key"))
        put(hosts["modern"], own, files_of(name)["certificate"])


@pytest.fixture
def papers(issued, zeo_name) -> dict:
    return files_of(zeo_name)


@pytest.fixture
def session(run_client, lab, issued):
    """session(server, command, **options): a client with what lies beside farrell's sheet."""

    def run(name: str, command: str, **options) -> dict:
        options = {"server": lab.hosts[name]["address"], "port": NEW_PORT, **files_of(name), **options}
        return run_client(
            "modern", "relstorage4", command, "farrell", "hewlsample", password="none", backend="zeo", **options
        )

    return run


def test_who_has_the_certificate_beside_the_sheet_gets_in_and_nobody_else(session, lab, hosts, unused):
    names = zeo_names()
    # One after another at each server: both make an entry in the same place.
    for address in ("address", "address6"):
        welcome = at_once(
            lambda name, address: session(name, "add", server=lab.hosts[name][address], prefix=f"{unused}{address}"),
            *((name, address) for name in names),
        )
        assert [answer["ok"] for answer in welcome] == [True] * len(names), welcome
    others = at_once(
        lambda name, change: session(name, "open", **change),
        *((name, change) for name in names for change in ({"certificate": ""}, {"ca": "", "certificate": ""})),
    )
    assert [answer["error"]["type"] for answer in others] == ["ClientDisconnected"] * 2 * len(names)
    for name in names:
        hosts[name].check_output("zeoctl pack")
        sheet = (beside_sheet(lab, name) / "farrell.txt").read_text()
        assert "farrell.client.crt" in sheet and "Password" not in sheet


def test_check_mode_foretells_what_is_done(move):  # noqa: F811
    foretold, done = move["foretold"], move["done"]
    for run in move.values():
        assert run.ok, run.failure
    assert {(name, CONFIGURE) for name in zeo_names()} <= set(done.changed)
    assert sorted(foretold.changed) == sorted(done.changed)

    def known(run) -> list:
        """The diffs, without what nobody knows before the certificates are there."""
        text = repr([diff for diff in run.diffs if not diff[1].startswith("tls :")])
        return re.sub("content of these files: [a-z0-9 ]+", "content of these files", text)

    assert known(foretold) == known(done)


def test_the_report_has_the_storages_and_the_certificates(issued, moved, tmp_path):  # noqa: F811
    page, variables = tmp_path / "report.html", tmp_path / "variables.json"
    variables.write_text(json.dumps(moved))
    options = [f"--extra-vars=peat_report_file={page}", f"--extra-vars=@{variables}"]
    code, _report, output = run_ansible("ansible-playbook", *options, "playbooks/report.yml")
    assert code == 0, output
    text = page.read_text()
    for name in zeo_names():
        assert f'<th scope="row">{name}.zeo</th>' in text
    for part in ("ZEO 6.2", "hewlsample", "in 3 storages", "Nothing is pending"):
        assert text.count(part) >= len(zeo_names())
    assert "does not run" not in text


def test_another_certificate_restarts_the_server(issued, moved, session, site):  # noqa: F811
    options = {**moved, "tls_names": ["zeo.example.org"]}
    predicted, run = site(options, "--limit=server", check=True), site(options, "--limit=server")
    assert predicted.ok and run.ok, predicted.failure + run.failure
    assert sorted(predicted.changed) == sorted(run.changed)
    assert [result["restarted"] for task, _host, result in run.results() if task == CONFIGURE] == [True]
    assert session("server", "open")["ok"]
