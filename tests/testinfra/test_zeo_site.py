"""site.yml on ZEO servers: check mode foretells, restarts say why, and what cannot start leaves what runs."""

from __future__ import annotations

import pytest

NEW_PORT = 8095
NEW_PASSWORD = "another password 7"
OWN_PYTHON = "/usr/local/bin/python-of-the-lab"


#: Why something else that the move changes takes a restart; zeo_tls is of test_zeo_authority.py.
WHY = {"zeo_python": "its programs are other ones", "zeo_tls": "it has other settings"}


def reasons(run, name: str) -> list[str]:
    """Why a run restarted ZEO on a host."""
    return [
        reason
        for task, host, result in run.results()
        if host == name and "running server" in task
        for reason in result["reasons"]
    ]


@pytest.fixture(scope="module")
def clients(lab) -> str:
    """The generation of the scenario's projects."""
    return lab.server["projects"][0]["clients"]


@pytest.fixture(scope="module")
def broken(site, lab, hosts, clients):
    """A project whose data nobody can open, declared on running servers."""
    for name, values in lab.hosts.items():
        if values["serves_zeo"]:
            hosts[name].check_output(
                "install -d -o zeo -g zeo /var/lib/zeo/broken && echo nonsense >/var/lib/zeo/broken/Data.fs"
            )
    lists = lab.lists()
    lists["peat_projects"].append(
        {"name": "broken", "backend": "zeo", "clients": clients, "write": ["farrell", "nielsen"]}
    )
    yield site(lists)
    for name, values in lab.hosts.items():
        if values["serves_zeo"]:
            hosts[name].check_output("rm -r /var/lib/zeo/broken")


@pytest.fixture(scope="module")
def more(clients, server) -> dict:
    """What else the move changes: for PEAT, the interpreter is one that the administrator names."""
    if clients != "peat2":
        return {}
    server.check_output("ln -sf /usr/bin/python2.7 %s", OWN_PYTHON)
    return {"zeo_python": OWN_PYTHON}


@pytest.fixture
def papers() -> dict:
    """What a client has to show after the move, besides a password."""
    return {}


@pytest.fixture(scope="module")
def moved(lab, clients, more) -> dict:
    """The variables of the move: another port, another password and a project more."""
    lists = lab.lists()
    next(person for person in lists["peat_people"] if person["name"] == "nielsen")["password"] = NEW_PASSWORD
    lists["peat_projects"].append(
        {"name": "newproject", "backend": "zeo", "clients": clients, "write": ["farrell", "nielsen"]}
    )
    return lists | {"zeo_port": NEW_PORT} | more


@pytest.fixture(scope="module")
def move(broken, site, moved) -> dict:
    """Foretold, done, and done again."""
    return {"foretold": site(moved, check=True), "done": site(moved), "again": site(moved)}


def test_a_storage_that_cannot_be_opened_leaves_the_server_as_it_was(broken, hosts, zeo_name):
    assert not broken.ok
    failure = broken.failure_of(zeo_name)
    assert "ZEO does not start" in failure and "/var/lib/zeo/broken" in failure
    assert "the server runs with them" in failure
    assert hosts[zeo_name].run("zeoctl status").rc == 0
    assert "broken" not in hosts[zeo_name].file("/etc/zeo/zeo.conf").content_string


def test_check_mode_foretells_exactly_what_is_done(move):
    for run in move.values():
        assert run.ok, run.failure
    assert move["foretold"].changed == move["done"].changed != []
    assert move["foretold"].diffs == move["done"].diffs


def test_the_next_run_changes_nothing(move):
    assert move["again"].changed == []


def test_the_restart_says_why(move, zeo_name, lab, clients, more):
    expected = ["storage newproject is new", f"port {lab.hosts[zeo_name]['port']} -> {NEW_PORT}"]
    # ZEO 6 knows no passwords.
    expected += ["user nielsen has another password"] if clients == "peat2" else []
    expected += [WHY[name] for name in more]
    assert reasons(move["done"], zeo_name) == expected
    assert reasons(move["again"], zeo_name) == []


def test_people_come_in_as_the_new_list_says(move, run_client, lab, zeo_name, clients, papers):
    host, program = ("peat2", "peat2") if clients == "peat2" else ("modern", "relstorage4")

    def comes_in(password: str) -> bool:
        options = {"server": lab.hosts[zeo_name]["address"], "port": NEW_PORT, "backend": "zeo", "password": password}
        return run_client(host, program, "open", "nielsen", "newproject", **options, **papers)["ok"]

    assert comes_in(NEW_PASSWORD)
    if clients == "peat2":
        assert not comes_in(lab.password("nielsen"))


def test_no_password_is_shown(move):
    for run in move.values():
        assert NEW_PASSWORD not in run.text


def test_the_server_and_its_firewall_moved(move, hosts, zeo_name, lab):
    host, port = hosts[zeo_name], lab.hosts[zeo_name]["port"]
    assert host.check_output("ss -Hltn sport = :%s", str(port)) == ""
    table = host.check_output("nft list table inet peat")
    assert f"dport {NEW_PORT}" in table and f"dport {port}" not in table


def test_only_the_server_writes_and_only_to_its_data(move, hosts, zeo_name):
    host = hosts[zeo_name]
    process = host.check_output("cat /run/zeo/zeo.pid")
    assert host.check_output("ps -o user= -p %s", process).strip() == "zeo"
    # What it runs and how belongs to root.
    owned = "find /opt/zeo/ /etc/zeo ! -user root ! -path /etc/zeo/users"
    assert host.check_output(owned) == ""
    for path in ("/var/lib/zeo/newproject", "/var/lib/zeo/newproject/blobs"):
        folder = host.file(path)
        assert (folder.user, folder.mode) == ("zeo", 0o700)
