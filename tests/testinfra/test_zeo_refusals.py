"""What a ZEO server cannot be is refused with the reason and the remedy, before anything is changed."""

from __future__ import annotations

import pytest
from conftest import put, wait_until

INTRUDER_PORT = 8099


@pytest.fixture(scope="module")
def refused(site):
    """refused(variables) -> the messages of a run that failed and changed nothing."""

    def run(variables: dict) -> str:
        done = site(variables, "--limit=server")
        assert not done.ok
        assert done.changed == []
        return done.failure

    return run


@pytest.fixture
def intruder(server):
    """Some other program at a port."""
    server.check_output(
        f"setsid python3 -m http.server {INTRUDER_PORT} >/dev/null 2>&1 </dev/null & echo $! >/run/other"
    )
    wait_until(lambda: server.check_output(f"ss -Hltn sport = :{INTRUDER_PORT}"), "the other program to listen")
    yield
    server.check_output("kill $(cat /run/other)")


@pytest.fixture
def unmounted(server):
    """A file system that is declared and not there."""
    server.check_output("mkdir -p /srv/lab; echo 'LABEL=lab /srv/lab ext4 noauto 0 2 # test' >>/etc/fstab")
    yield "/srv/lab"
    server.check_output("sed -i '/# test$/d' /etc/fstab; rmdir /srv/lab")


def test_generation_and_port(refused, lab, intruder):
    """At once, each with what to do."""
    lists = lab.lists()
    for project in lists["peat_projects"]:
        project["clients"] = "peat2"
    said = refused({**lists, "zeo_port": INTRUDER_PORT})
    assert "ZEO 4.3.1, which needs Python 2.7" in said and "name an interpreter" in said
    assert f"port {INTRUDER_PORT} is in use by another program" in said and "http.server" in said


def test_a_zeo_server_that_nobody_looks_after(refused, server):
    """Started by hand, or left over: systemd would try in vain to start its own at that port."""
    command = f"/opt/zeo/bin/runzeo -a 127.0.0.1:{INTRUDER_PORT} -f /run/orphan.fs"
    server.check_output(f"cd /run; setsid {command} >/dev/null 2>&1 </dev/null & echo $! >/run/other")
    try:
        wait_until(lambda: server.check_output(f"ss -Hltn sport = :{INTRUDER_PORT}"), "the server to listen")
        said = refused({"zeo_port": INTRUDER_PORT})
        assert "by a ZEO server, process" in said and "that systemd did not start: end it with `kill" in said
    finally:
        server.check_output("kill $(cat /run/other); rm -f /run/orphan.fs*")


def test_what_zeos_own_programs_refuse_takes_no_place(refused, server):
    """Whatever passed everything before: here they refuse all there is."""
    program, look = "/opt/zeo/bin/zeoctl", "cat /etc/zeo/zeo.conf /run/zeo/zeo.pid; ls /etc/zeo"
    server.check_output(f"mv {program} {program}.kept")
    put(server, b"#!/bin/sh\necho no such option >&2; exit 2\n", program)
    before = server.check_output(f"chmod 755 {program}; {look}")
    try:
        said = refused({"zeo_transaction_timeout": 33})
    finally:
        server.check_output(f"mv {program}.kept {program}")
    assert "ZEO refuses the new configuration; the server was left as it was" in said and "no such option" in said
    assert server.check_output(look) == before


def test_an_interpreter_that_is_another(refused, lab):
    lists = lab.lists()
    for project in lists["peat_projects"]:
        project["clients"] = "peat2"
    said = refused({**lists, "zeo_python": "/usr/bin/python3"})
    assert "zeo_python: /usr/bin/python3 is to be Python 2.7, but it is Python 3.11" in said


def test_two_projects_in_one_folder_and_certificates_that_nobody_can_read(refused, server):
    """At once, with what a server of the lab's own authority need not have yet."""
    server.check_output("install -m 600 /dev/null /run/lab.key")
    folders = {"hewlsample": "/srv/one", "my_sandbox": "/srv/one"}
    given = {"zeo_tls_certificate": "/run/lab.crt", "zeo_tls_key": "/run/lab.key", "zeo_tls_ca": "/run"}
    said = refused({"zeo_project_dirs": folders, **given})
    assert "'hewlsample' and 'my_sandbox' have one folder, /srv/one" in said
    assert "/run/lab.crt is missing: it is one of zeo_tls_certificate" in said
    assert "the user zeo cannot read /run/lab.key" in said
    assert "/run is a folder" in said


def test_a_folder_on_a_file_system_that_is_not_mounted(refused, unmounted):
    said = refused({"zeo_project_dirs": {"hewlsample": f"{unmounted}/hewlsample"}})
    assert "the file system /srv/lab of /etc/fstab, which is not mounted" in said


def test_a_backend_that_is_none(refused, lab):
    lists = lab.lists()
    lists["peat_projects"][0]["backend"] = "sqlite"
    said = refused(lists)
    assert "hewlsample" in said and "backend is 'sqlite': write one of relstorage, zeo" in said


def test_times_numbers_and_projects_that_are_none(refused):
    packs = [{"name": "hewlsample", "time": "noon"}, {"name": "no_such_project", "days": 1}]
    packs.append({"name": "my_sandbox", "days": -1})
    said = refused({"zeo_backup_time": "24:15", "zeo_pack_projects": packs, "zeo_backup_keep": 0, "zeo_pack_days": -1})
    for wrong in ("24:15", "noon", "no_such_project", "zeo_backup_keep", "zeo_pack_days", "my_sandbox"):
        assert wrong in said.partition("Correct ")[2]


def test_more_separation_than_zeo_has(refused, lab):
    lists = lab.lists()
    lists["peat_projects"][0]["write"] = ["farrell", {"person": "visitor", "from": ["modern-host"]}]
    lists["peat_projects"][1]["write"] = ["nielsen"]
    lists["peat_networks"].append({"name": "elsewhere", "addresses": ["192.0.2.0/24"]})
    lists["peat_people"][1]["from"] = ["elsewhere"]
    said = refused(lists)
    assert "would also be open to" in said and "zeo_shared_access: true" in said
