"""The real PEAT 2.3 client at a ZEO server of its generation (ZEO 4.3 on Python 2.7).

What a person enters in PEAT's dialog: server, port, project, user, password, backend `zeo`. PEAT shows the same for
a wrong password, an unknown project and an address that the firewall refuses: "Could not connect to
<project>:<server>. Error message returned: Zeo error".
"""

from __future__ import annotations

import json
import shlex

import onhost
import pytest
import secrecy
from conftest import put, run_ansible, wait_until

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

#: A client that stops, as a laptop that is closed does, between the two steps of a save; says how that went on.
STOPS = b"""
import os, signal, sys
from transaction import Transaction
from ZEO.ClientStorage import ClientStorage
storage = ClientStorage(
    (sys.argv[1], int(sys.argv[2])), storage="hewlsample", username="farrell", password=sys.argv[3], wait_timeout=20
)
change = Transaction()
storage.tpc_begin(change)
storage.store(storage.new_oid(), b"\\0" * 8, storage.load(b"\\0" * 8, "")[0], "", change)
storage.tpc_vote(change)
sys.stdout.write("voted\\n")
sys.stdout.flush()
os.kill(os.getpid(), signal.SIGSTOP)
try:
    storage.tpc_finish(change)
    print("saved")
except Exception as error:
    print("given up: %r" % error)
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


def test_a_session_works_on_after_a_restart(server, peat, run_client, unused):
    options = {"backend": "zeo", "prefix": unused, "seconds": 120, "every": 0.1, "patient": 1}
    loop = run_client.loop("peat2", "peat2", "farrell", "hewlsample", **options)
    loop.wait_for(5)
    server.check_output("zeoctl restart")
    loop.wait_for(len(loop.saved()) + 10)
    loop.stop()
    read = peat("read", prefix=unused)
    assert set(loop.saved()) - set(read["names"]) == set()
    assert read["wrong"] == []


def test_a_client_that_stops_in_a_save_keeps_others_waiting_for_so_long_only(peat2, lab, run_client, unused):
    put(peat2, STOPS, "/usr/local/lib/peat-tests/stops.py")
    words = [lab.server["address"], str(lab.server["port"]), lab.password("farrell")]
    command = f"/opt/peat2/bin/python /usr/local/lib/peat-tests/stops.py {shlex.join(words)}"
    peat2.check_output(f"setsid {command} >/run/stops 2>/dev/null </dev/null & echo $! >/run/stops.pid")
    wait_until(lambda: peat2.check_output("cut -d' ' -f3 /proc/$(cat /run/stops.pid)/stat") == "T", "it to stop")
    try:
        assert peat2.check_output("cat /run/stops") == "voted"
        # The limit of this scenario is 10 s.
        other = run_client.loop("peat2", "peat2", "nielsen", "hewlsample", backend="zeo", prefix=unused, seconds=60)
        other.wait_for(1, 30)
        other.stop()
    finally:
        peat2.check_output("kill -CONT $(cat /run/stops.pid)")
    said = wait_until(lambda: peat2.check_output("sed 1d /run/stops"), "it to go on")
    assert said.startswith("given up: ")


@pytest.fixture
def emptied(server) -> str:
    """my_sandbox, as a new project is."""
    folder = "/var/lib/zeo/my_sandbox"
    server.check_output("zeoctl stop && rm -rf %s/Data.fs* %s/blobs/* && zeoctl start", folder, folder)
    return folder


def move_in(path: str) -> tuple[int, str]:
    """Have a FileStorage become my_sandbox; the code of the playbook and its output."""
    words = ("-e", "convert_project=my_sandbox", "-e", f"convert_from={path}", "playbooks/convert.yml")
    code, _report, text = run_ansible("ansible-playbook", *words)
    return code, text


def test_a_file_that_was_never_served_moves_in_with_its_attached_files(server, peat, emptied, unused):
    """In a lab that has no database server at all."""
    assert peat("add", prefix=unused, records=5)["ok"]
    attached = peat("attach", prefix=f"{unused}file")
    server.check_output("rm -rf /root/found && cp -a /var/lib/zeo/hewlsample /root/found")
    serving = server.check_output("cat /run/zeo/zeo.pid")
    # The project's folder is a disk of its own: nothing can take its place.
    server.check_output("cp -a %s /srv/disk && mount --bind /srv/disk %s", emptied, emptied)
    try:
        code, text = move_in("/root/found/Data.fs")
    finally:
        server.check_output("umount %s && rm -r /srv/disk", emptied)
    assert code != 0 and f"{emptied} is a mount point" in text
    assert server.check_output("cat /run/zeo/zeo.pid") == serving, "ZEO was stopped"

    code, text = move_in("/root/found/Data.fs")
    assert code == 0, text
    assert len(peat("read", project="my_sandbox", prefix=unused)["names"]) == 6
    assert peat("attachment", project="my_sandbox", prefix=f"{unused}file") == attached
    assert server.run("ls -d /var/lib/zeo/*.*").rc != 0
