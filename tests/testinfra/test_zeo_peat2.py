"""The real PEAT 2.3 client at a ZEO server of its generation (ZEO 4.3 on Python 2.7).

What a person enters in PEAT's dialog: server, port, project, user, password, backend `zeo`. PEAT shows the same for
a wrong password, an unknown project and an address that the firewall refuses: "Could not connect to
<project>:<server>. Error message returned: Zeo error".
"""

from __future__ import annotations

import json

import onhost
import pytest
import secrecy
from conftest import put

REFUSED = "Could not connect to {}:{}.\nError message returned: Zeo error"

#: A client that leaves out the step in which it would have to show that it knows a password.
ANONYMOUS = b"""
import json, sys, time
from ZEO import ServerStub
from ZEO.ClientStorage import ClientStorage
if sys.argv[4] == "anonymous":
    ServerStub.StorageServer.getAuthProtocol = lambda self: None
storage = ClientStorage(
    (sys.argv[1], int(sys.argv[2])), storage=sys.argv[3], username=sys.argv[5], password=sys.argv[6], wait=False
)
time.sleep(2)
print(json.dumps(len(storage) if storage.is_connected() else None))
"""


@pytest.fixture
def peat(run_client):
    """peat(command, person, project, **options) -> the answer of a session of its own."""

    def session(command: str, person: str = "farrell", project: str = "hewlsample", **options) -> dict:
        return run_client("peat2", "peat2", command, person, project, backend="zeo", **options)

    return session


def test_a_second_session_reads_what_the_first_saved(peat, unused):
    assert peat("add", prefix=unused, records=50, commits=5)["ok"]
    read = peat("read", "nielsen", prefix=unused)
    assert len(read["names"]) == 50
    assert read["wrong"] == []


def test_an_attached_file_comes_back(peat, unused):
    attached = peat("attach", prefix=unused)
    assert attached["ok"], attached
    assert peat("attachment", "nielsen", prefix=unused) == attached


def test_undo(peat, unused):
    assert peat("add", prefix=unused, records=5)["ok"]
    answer = peat("undo", "nielsen", prefix=unused, first=3)
    assert answer["before"] == answer["after"] == "residue 3 éβ-sheet"
    assert answer["spoilt"] == "spoilt"
    assert answer["log"] == [["nielsen", "undo mistake"], ["nielsen", "mistake"]]


def test_pack(peat, unused):
    assert peat("add", prefix=unused, records=10, commits=5)["ok"]
    attached = peat("attach", prefix=f"{unused}file")
    answer = peat("pack")
    assert answer["ok"], answer
    assert answer["log_before"] > answer["log_after"] == 0
    assert peat("read", prefix=unused)["wrong"] == []
    assert peat("attachment", prefix=f"{unused}file") == attached


def test_projects_are_apart(peat, unused):
    assert peat("add", project="my_sandbox", prefix=unused)["ok"]
    assert peat("read", prefix=unused)["names"] == []


def test_ipv6(peat, lab, unused):
    assert peat("add", server=lab.server["address6"], prefix=unused)["ok"]


@pytest.mark.parametrize(
    ("person", "project", "options"),
    [
        ("farrell", "hewlsample", {"password": "not the password"}),
        # In the list of people, but of no ZEO project.
        ("guest", "hewlsample", {}),
        ("farrell", "no_such_project", {}),
    ],
)
def test_refused(peat, lab, person, project, options):
    answer = peat("open", person, project, **options)
    assert not answer["ok"]
    assert answer["error"]["seen"] == REFUSED.format(project, lab.server["address"])


def test_a_client_that_does_not_log_in_is_refused(peat2, lab):
    put(peat2, ANONYMOUS, "/usr/local/lib/peat-tests/anonymous.py")

    def objects(how: str) -> int | None:
        words = [lab.server["address"], str(lab.server["port"]), "hewlsample", how, "farrell", lab.password("farrell")]
        command = "/opt/peat2/bin/python /usr/local/lib/peat-tests/anonymous.py %s %s %s %s %s %s"
        return json.loads(peat2.check_output(command, *words).splitlines()[-1])

    assert objects("honest") > 0
    assert objects("anonymous") is None


def test_an_undeclared_address_is_refused(peat, peat2, lab, undeclared_address):
    assert peat("open")["error"]["seen"] == REFUSED.format("hewlsample", lab.server["address"])


def test_passwords_are_for_the_server_alone(server):
    users = server.file("/etc/zeo/users")
    assert (users.user, users.mode) == ("zeo", 0o600)


def test_no_password_is_left_anywhere_else(lab, server):
    """People's, who logged in above, and the one of the server's own programs; see test_secrets.py."""
    secrets = secrecy.known(lab, server)
    assert {server.check_output("cat %s", secrecy.MAINTENANCE), lab.password("farrell")} <= secrets
    assert secrecy.places(onhost.ssh(lab.server), secrets, secrecy.ROOTS) == [secrecy.MAINTENANCE]
    assert server.file(secrecy.MAINTENANCE).mode & 0o077 == 0
