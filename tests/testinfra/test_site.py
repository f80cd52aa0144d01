"""Running site.yml again: no change where nothing changed, in check mode exactly what will be done, another port."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import background

NEW_PORT = 8081

#: Run on the stranger: prints a port each time a connection to it was made.
KNOCK = """
import socket, sys, time
server, ports, end = sys.argv[1], [int(port) for port in sys.argv[2:]], time.monotonic() + 300
while time.monotonic() < end:
    for port in ports:
        try:
            socket.create_connection((server, port), 0.5).close()
            print(port, flush=True)
        except OSError:
            pass
    time.sleep(0.02)
"""


@pytest.fixture(scope="module")
def knocking(stranger, lab):
    """Tries both ports from outside the list, many times a second, while site.yml moves the server."""
    unit, log = "peat-test-knock", "/run/peat-test-knock.log"

    @contextlib.contextmanager
    def knock() -> Iterator[list[str]]:
        stranger.check_output(
            f"{background(unit, log)} python3 -c %s %s %s %s",
            KNOCK,
            lab.server["address"],
            str(lab.server["port"]),
            str(NEW_PORT),
        )
        connections: list[str] = []
        try:
            yield connections
        finally:
            assert stranger.check_output("systemctl is-active %s", unit) == "active"
            stranger.check_output("systemctl stop %s", unit)
            connections += stranger.check_output("cat %s", log).split()

    return knock


@pytest.fixture(scope="module")
def move(site, lab, knocking) -> dict:
    """Another port, another option, a project and a person more: foretold, done, and done again."""
    lists = lab.lists()
    lists["peat_people"].append({"name": "newcomer", "from": ["campus"]})
    lists["peat_projects"].append({"name": "newproject", "clients": "peat2", "write": ["newcomer"], "read": ["guest"]})
    variables = lists | {"mysql_port": NEW_PORT, "mysql_settings": {"lock_wait_timeout": 1234}}
    foretold = site(variables, check=True)
    with knocking() as connections:
        done = site(variables)
    runs = {"foretold": foretold, "done": done, "again": site(variables)}
    return {"runs": runs, "connections": connections, "variables": variables}


def test_check_mode_foretells_exactly_what_is_done(move):
    runs = move["runs"]
    for run in runs.values():
        assert run.ok, run.failure
    assert runs["foretold"].changed == runs["done"].changed != []
    assert runs["foretold"].diffs == runs["done"].diffs


def test_a_moved_server_is_left_alone_by_the_next_run(move):
    assert move["runs"]["again"].changed == []


@pytest.mark.parametrize("part", ["peat", "firewall"])
def test_a_part_can_be_run_alone(move, site, part):
    """It does not need to be told what others were."""
    run = site(move["variables"], f"--tags={part}", check=True)
    assert run.ok, run.failure
    assert run.changed == []


def test_no_port_was_open_to_strangers_meanwhile(move):
    """Neither the old one, with the server still on it, nor the new one."""
    assert move["connections"] == []


def test_no_secret_is_shown(move, lab):
    """Neither in a diff nor in a result, of people old and new."""
    for person in ("farrell", "guest", "newcomer"):
        for run in move["runs"].values():
            assert lab.password(person) not in run.text


def test_clients_work_at_the_new_port(move, run_client):
    assert run_client("peat2", "peat2", "add", "farrell", "hewlsample", prefix="moved", port=NEW_PORT)["ok"]
    assert run_client("peat2", "peat2", "add", "newcomer", "newproject", port=NEW_PORT)["ok"]
    assert run_client("modern", "relstorage4", "add", "farrell", "modernhp", prefix="moved", port=NEW_PORT)["ok"]
    assert run_client("modern", "relstorage4", "read", "guest", "modernhp", prefix="moved", port=NEW_PORT)["ok"]


def test_nothing_listens_at_the_old_port(move, server, lab):
    assert server.check_output("ss -Hltn sport = :%s", str(lab.server["port"])) == ""


@pytest.mark.parametrize("address", ["address", "address6"])
def test_the_firewall_moved_along(move, run_client, lab, address):
    answer = run_client(
        "stranger", "relstorage4", "open", "farrell", "modernhp", port=NEW_PORT, server=lab.server[address]
    )
    assert answer["error"]["number"] == 2003
    assert "Connection refused" in answer["error"]["text"]


def test_the_sheets_name_the_new_port(move, lab):
    files = Path(lab.server["sheets"]).iterdir()
    sheets = [path.read_text() for path in files if path.suffix in (".txt", ".html")]
    assert len(sheets) == 2 * (len(lab.server["people"]) + 1)
    assert [str(NEW_PORT) in sheet and str(lab.server["port"]) not in sheet for sheet in sheets] == [True] * len(sheets)


def test_the_option_is_set(move, sql):
    assert sql("SELECT @@global.lock_wait_timeout, @@global.port") == [["1234", str(NEW_PORT)]]
