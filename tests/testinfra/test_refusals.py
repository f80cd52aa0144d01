"""Mistakes an administrator makes, through site.yml on a live server.

Each is refused before the first change, by a message that names the entry and says what to do. One run has them all:
the inventory names the live server once for every mistake, each with its own list.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from conftest import Run


def named(entries: list[dict], name: str) -> dict:
    return next(entry for entry in entries if entry["name"] == name)


@dataclass(frozen=True)
class Mistake:
    """`change` spoils the three lists (networks, people, projects); `variables` are set besides."""

    change: Callable[[list, list, list], object] | None
    #: Texts the refusal must hold: the entry, and the remedy.
    entry: str
    remedy: str
    variables: dict = field(default_factory=dict)
    host: str = "server"


def network(address: str) -> Callable:
    return lambda networks, people, projects: networks[0]["addresses"].append(address)


def project(name: str, **values) -> Callable:
    """Add a project that would be right but for `values`."""
    new = {"name": name, "clients": "peat2", "write": ["farrell"]} | values
    return lambda networks, people, projects: projects.append({k: v for k, v in new.items() if v is not None})


def person(name: str, **values) -> Callable:
    return lambda networks, people, projects: people.append({"name": name, "from": ["campus"]} | values)


def option(name: str, value: str, remedy: str) -> Mistake:
    return Mistake(None, f"mysql_settings: {name}", remedy, {"mysql_settings": {name: value}})


def edit(name: str, **values) -> Callable:
    return lambda networks, people, projects: named(projects, name).update(values)


MISTAKES = {
    # Addresses
    "not-an-address": Mistake(network("10.89.1"), "peat_networks, entry 1 (campus)", "write one like 192.0.2.7"),
    "prefix-too-long": Mistake(network("192.0.2.0/33"), "192.0.2.0/33", "write one like 192.0.2.7"),
    "host-bits-set": Mistake(network("192.0.2.9/24"), "192.0.2.9/24", "write 192.0.2.0/24 for the whole network"),
    "mask-with-host-bits": Mistake(
        network("192.0.2.9/255.255.255.0"), "192.0.2.9/255.255.255.0", "write 192.0.2.0/24 for the whole network"
    ),
    "wildcard-address": Mistake(network("192.0.2.%"), "192.0.2.%", "write 192.0.2.0/24"),
    "host-name": Mistake(network("lab.example.org"), "lab.example.org", "write the IP address"),
    "ipv6-prefix-no-account-has": Mistake(
        network("2001:db8:1:10::/60"), "2001:db8:1:10::/60 cannot be the host of an account", "2001:db8:1::/48"
    ),
    "everywhere": Mistake(network("%"), "(campus)", "peat_allow_anywhere: true"),
    "all-of-ipv4": Mistake(network("0.0.0.0/0"), "0.0.0.0/0", "peat_allow_anywhere: true"),
    "link-local": Mistake(network("fe80::1"), "fe80::1", "link-local"),
    "multicast": Mistake(network("224.0.0.1"), "224.0.0.1", "write the client's own"),
    "ipv4-in-ipv6": Mistake(network("::ffff:192.0.2.7"), "::ffff:192.0.2.7", "write 192.0.2.7"),
    # Names that meet nothing, or each other
    "unknown-person": Mistake(project("new", write=["farell"]), "(new)", "did you mean 'farrell'?"),
    "unknown-network": Mistake(person("ada", **{"from": ["campos"]}), "(ada)", "did you mean 'campus'?"),
    "project-twice": Mistake(project("hewlsample"), "(hewlsample)", "rename or remove one of the two"),
    "project-twice-but-for-case": Mistake(project("HewlSample"), "(HewlSample)", "rename or remove one of the two"),
    "person-twice": Mistake(person("guest"), "(guest)", "rename or remove one of the two"),
    "network-twice": Mistake(
        lambda networks, people, projects: networks.append({"name": "campus", "addresses": ["192.0.2.7"]}),
        "(campus)",
        "rename or remove one of the two",
    ),
    # Names a server cannot or must not have
    "system-database": Mistake(project("mysql"), "(mysql)", "choose another name"),
    "our-own-database": Mistake(project("peat_server"), "(peat_server)", "choose another name"),
    "database-name-too-long": Mistake(project("p" * 65), "65 characters", "shorten it"),
    "database-name-of-other-characters": Mistake(project("hewl/sample"), "hewl/sample", "letters"),
    "user-name-too-long": Mistake(person("u" * 81), "81 characters", "shorten it"),
    "system-user": Mistake(person("root"), "(root)", "choose another name"),
    # Entries that say two things, nothing, or what nobody knows
    "writer-and-reader": Mistake(edit("hewlsample", read=["farrell"]), "(hewlsample)", "remove one of the two"),
    "no-clients": Mistake(project("new", clients=None), "(new)", "write one of peat2, relstorage4"),
    "unknown-clients": Mistake(project("new", clients="relstorage3"), "(new)", "write one of peat2, relstorage4"),
    "unknown-state": Mistake(project("new", state="archived"), "(new)", "write one of present, frozen, absent"),
    "unknown-key": Mistake(project("new", writers=["farrell"]), "(new)", "'writers'"),
    "text-for-true": Mistake(project("new", keep_history="yes"), "(new)", "write true or false, unquoted"),
    "no-address": Mistake(person("ada", **{"from": []}), "(ada)", "add at least one address"),
    "password-too-short": Mistake(person("ada", password="secret"), "(ada)", "lengthen it"),
    "tls-for-peat2": Mistake(
        lambda networks, people, projects: named(people, "farrell").update(tls="required"), "farrell", "PEAT 2.3"
    ),
    "not-a-list": Mistake(None, "peat_projects", "make it a list", {"peat_projects": {"hewlsample": "peat2"}}),
    # What would lose or spoil data
    "absent-without-confirmation": Mistake(edit("my1sandbox", state="absent"), "my1sandbox", "peat_confirm_absent"),
    "other-generation": Mistake(edit("hewlsample", clients="relstorage4"), "hewlsample", "migrate the database first"),
    "other-history-mode": Mistake(edit("modernhf", keep_history=True), "modernhf", "correct keep_history"),
    # The server
    "port-in-use": Mistake(None, "8099", "mysql_port", {"mysql_port": 8099}),
    "port-out-of-range": Mistake(None, "70000", "mysql_port", {"mysql_port": 70000}),
    "option-of-the-other-flavour": {
        "mariadb": option("innodb_redo_log_capacity", "1G", "use innodb_log_file_size"),
        "mysql": option("innodb_log_file_size", "1G", "use innodb_redo_log_capacity"),
    },
    "option-the-server-would-not-start-with": {
        "mariadb": option("default_authentication_plugin", "caching_sha2_password", "only MySQL"),
        "mysql": option("mysql_native_password", "ON", "mysql_settings"),
    },
    "option-nobody-knows": option("inodb_buffer_pool_size", "1G", "unknown variable"),
    "value-the-server-refuses": option("innodb_flush_method", "sometimes", "setting value 'sometimes'"),
    "other-flavour-than-installed": {
        "mariadb": Mistake(None, "mariadb is installed", "set mysql_flavour to mariadb", {"mysql_flavour": "mysql"}),
        "mysql": Mistake(None, "mysql is installed", "set mysql_flavour to mysql", {"mysql_flavour": "mariadb"}),
    },
    "unsupported-release": Mistake(None, "runs Debian 11", "supported are Debian", host="peat2"),
}


def mistake_of(name: str, flavour: str) -> Mistake:
    mistake = MISTAKES[name]
    return mistake if isinstance(mistake, Mistake) else mistake[flavour]


@pytest.fixture(scope="module")
def port_in_use(server):
    """Somebody else's program listens on the server's port 8099."""
    server.check_output(
        "systemd-run --quiet --unit=peat-test-listener python3 -c %s",
        "import socket, time; s = socket.create_server(('', 8099)); time.sleep(3600)",
    )
    yield
    server.check_output("systemctl stop peat-test-listener")


@pytest.fixture(scope="module")
def state(server) -> Callable[[], str]:
    """What of the server a run could change, as text."""
    accounts = "global_priv" if server.exists("mariadb") else "user"
    client = "mariadb" if server.exists("mariadb") else "mysql"
    commands = [
        "nft list tables; nft --stateless list table inet peat",
        "find /etc/mysql /etc/systemd/system -type f -exec md5sum {} + | sort",
        "systemctl show --property=MainPID mariadb mysql",
        f"{client} --execute='SELECT * FROM mysql.{accounts}; SELECT * FROM mysql.db; SHOW DATABASES'",
        "dpkg-query --show | md5sum",
    ]
    return lambda: server.check_output("; ".join(commands))


@pytest.fixture(scope="module")
def refusals(site, lab, port_in_use, state, tmp_path_factory) -> tuple[Run, str, str]:
    """site.yml with every mistake, each at a name of its own for the server; its state before and after."""
    names = {}
    for name in MISTAKES:
        mistake, lists = mistake_of(name, lab.server["flavour"]), lab.lists()
        if mistake.change:
            mistake.change(lists["peat_networks"], lists["peat_people"], lists["peat_projects"])
        files = {f"peat_{name}_dir": lab.server[name] for name in ("secrets", "sheets")}
        address = {"ansible_host": lab.hosts[mistake.host]["address"]}
        names[name] = address | files | lists | mistake.variables
    inventory = tmp_path_factory.mktemp("mistakes") / "hosts.yml"
    inventory.write_text(json.dumps({"mysql": {"children": {"mistakes": {"hosts": names}}}}))
    before = state()
    run = site(None, f"--inventory={inventory}", "--limit=mistakes", "--forks=8")
    assert run.report, run.text
    return run, before, state()


def test_the_server_is_as_it_was(refusals):
    _, before, after = refusals
    assert after == before


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_refused_before_anything_changes(refusals, lab, name):
    (run, *_), mistake = refusals, mistake_of(name, lab.server["flavour"])
    numbers = run.report["stats"][name]
    assert (numbers["failures"], numbers["changed"], numbers["unreachable"]) == (1, 0, 0)
    message = run.failure_of(name)
    assert mistake.entry in message
    assert mistake.remedy in message


def test_all_mistakes_of_a_list_are_named_at_once(site, lab):
    lists = lab.lists()
    lists["peat_networks"][0]["addresses"].append("192.0.2.9/24")
    lists["peat_people"].append({"name": "root", "from": ["campus"]})
    lists["peat_people"].append({"name": "ada", "from": ["campus"], "password": "ada-42"})
    lists["peat_projects"].append({"name": "mysql", "clients": "peat3"})
    run = site(lists)
    assert not run.ok
    for entry in ("192.0.2.9/24", "(root)", "(ada)", "(mysql)", "'peat3'"):
        assert entry in run.failure
    assert "ada-42" not in run.text, "a message shows a password"
