"""Running site.yml again: no change where nothing changed, in check mode exactly what will be done, another port."""

from __future__ import annotations

from pathlib import Path

import pytest

NEW_PORT = 8081


@pytest.fixture(scope="module")
def move(site, lab) -> dict:
    """Another port, another option, a project and a person more: foretold, done, and done again."""
    lists = lab.lists()
    lists["peat_people"].append({"name": "newcomer", "from": ["campus"]})
    lists["peat_projects"].append({"name": "newproject", "clients": "peat2", "write": ["newcomer"], "read": ["guest"]})
    variables = lists | {"mysql_port": NEW_PORT, "mysql_settings": {"lock_wait_timeout": 1234}}
    return {
        "foretold": site(variables, check=True),
        "done": site(variables),
        "again": site(variables),
    }


def test_check_mode_foretells_exactly_what_is_done(move):
    for run in move.values():
        assert run.ok, run.failure
    assert move["foretold"].changed == move["done"].changed != []
    assert move["foretold"].diffs == move["done"].diffs


def test_a_moved_server_is_left_alone_by_the_next_run(move):
    assert move["again"].changed == []


def test_no_secret_is_shown(move, lab):
    """Neither in a diff nor in a result, of people old and new."""
    for person in ("farrell", "guest", "newcomer"):
        for run in move.values():
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
    sheets = [path.read_text() for path in Path(lab.server["sheets"]).iterdir()]
    assert len(sheets) == len(lab.server["people"]) + 1
    assert [str(NEW_PORT) in sheet and str(lab.server["port"]) not in sheet for sheet in sheets] == [True] * len(sheets)


def test_the_option_is_set(move, sql):
    assert sql("SELECT @@global.lock_wait_timeout, @@global.port") == [["1234", str(NEW_PORT)]]
