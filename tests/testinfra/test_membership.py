"""Who leaves the list leaves the server: running sessions, the next connection, the firewall.

Projects end only when that is said twice; what the list merely no longer names keeps its data.
"""

from __future__ import annotations

import pytest


def without(entries: list, name: str) -> list:
    return [entry for entry in entries if entry != name and not (isinstance(entry, dict) and entry["name"] == name)]


@pytest.fixture(scope="module")
def traveller(site, lab) -> dict:
    """The lists with one person more: traveller reads modernhp from the stranger's address."""
    lists = lab.lists()
    address = lab.hosts["stranger"]["address"]
    lists["peat_people"].append({"name": "traveller", "from": [address]})
    next(p for p in lists["peat_projects"] if p["name"] == "modernhp")["read"].append("traveller")
    run = site(lists)
    assert run.ok, run.failure
    return lists


@pytest.fixture(scope="module")
def before(traveller, run_client) -> dict:
    """What worked before: answers, and a loop of nielsen's that is still saving."""
    found = {
        "records": run_client("modern", "relstorage4", "add", "farrell", "modernhp", prefix="kept", records=3),
        "traveller": run_client("stranger", "relstorage4", "open", "traveller", "modernhp"),
        "own": run_client("peat2", "peat2", "add", "farrell", "my_sandbox", prefix="kept", records=3),
        "hers": run_client("peat2", "peat2", "add", "nielsen", "my1sandbox", prefix="gone", records=3),
        "loop": run_client.loop(
            "modern", "relstorage4", "nielsen", "modernhf", seconds=120, prefix="loop", history_free=True
        ),
        "frozen": run_client.loop("modern", "relstorage4", "farrell", "modernhp", seconds=120, prefix="loop"),
        "nielsen's password": run_client.lab.password("nielsen"),
        "traveller's password": run_client.lab.password("traveller"),
    }
    for name in ("loop", "frozen"):
        found[name].wait_for(5)
    return found


@pytest.fixture(scope="module")
def left(site, before, traveller, lab):
    """One run without nielsen, traveller and my_sandbox, with modernhp frozen and my1sandbox absent and confirmed."""
    lists = lab.lists()
    lists["peat_people"] = without(lists["peat_people"], "nielsen")
    projects = without(lists["peat_projects"], "my_sandbox")
    for project in projects:
        for level in ("write", "read"):
            project[level] = without(project.get(level) or [], "nielsen")
        project["state"] = {"modernhp": "frozen", "my1sandbox": "absent"}.get(project["name"], "present")
    lists["peat_projects"] = projects
    run = site(lists | {"peat_confirm_absent": ["my1sandbox"]})
    assert run.ok, run.failure
    return run


def test_everybody_worked_before(before):
    for name in ("records", "traveller", "own", "hers"):
        assert before[name]["ok"], before[name]


def test_a_removed_person_is_refused_by_the_server(left, before, run_client):
    """The address is still let through by the firewall: others of the list use it."""
    answer = run_client("peat2", "peat2", "open", "nielsen", "hewlsample", password=before["nielsen's password"])
    assert answer["error"]["number"] == 1045
    assert "Could not connect to hewlsample" in answer["error"]["seen"]


def test_a_removed_persons_session_has_ended(left, before, sql):
    answer = before["loop"].end()
    assert answer["error"]
    assert sql("SELECT user FROM information_schema.processlist WHERE user = 'nielsen'") == []


def test_an_address_nobody_uses_any_more_is_closed_by_the_firewall(left, before, run_client):
    answer = run_client(
        "stranger", "relstorage4", "open", "traveller", "modernhp", password=before["traveller's password"]
    )
    assert answer["error"]["number"] == 2003
    assert "Connection refused" in answer["error"]["text"]


def test_no_account_of_removed_people_is_left(left, sql):
    assert sql("SELECT user, host FROM mysql.user WHERE user IN ('nielsen', 'traveller')") == []
    assert sql("SELECT user, db FROM mysql.db WHERE user IN ('nielsen', 'traveller')") == []


def test_a_frozen_project_is_read_by_its_writers(left, before, run_client):
    answer = run_client("modern", "relstorage4", "read", "farrell", "modernhp", prefix="kept")
    assert answer["numbers"] == [1, 2, 3]


def test_nobody_writes_a_frozen_project(left, before, run_client):
    answer = run_client("modern", "relstorage4", "add", "farrell", "modernhp", prefix="frozen")
    assert answer["error"]["number"] == 1044
    assert before["frozen"].end()["error"], "a session from before still writes"


def test_an_absent_project_is_gone_and_backed_up(left, sql, server, run_client):
    assert sql("SHOW DATABASES LIKE 'my1sandbox'") == []
    assert run_client("peat2", "peat2", "open", "farrell", "my1sandbox")["error"]["number"] == 1044
    backups = server.check_output("find /var/backups/peat-server -name 'my1sandbox*' -size +0 -perm 600").split()
    assert backups, "no backup before the removal"
    # Records are pickles: names are readable in them once the dump is unpacked.
    assert int(server.check_output("zcat --force %s | grep --text --count INSERT", backups[-1])) > 0


def test_a_project_the_list_no_longer_names_keeps_its_data(left, run_client, sql):
    """And nobody reaches it."""
    assert sql("SHOW DATABASES LIKE 'my\\_sandbox'") == [["my_sandbox"]]
    assert int(sql("SELECT COUNT(*) FROM my_sandbox.object_state")[0][0]) > 3
    assert run_client("peat2", "peat2", "open", "farrell", "my_sandbox")["error"]["number"] == 1044
    assert "my_sandbox" in left.text


@pytest.fixture(scope="module")
def returned(left, site):
    """Everybody and everything is in the list again. Used by the module's last tests only."""
    run = site()
    assert run.ok, run.failure
    site.to_restore = False


def test_what_was_left_unnamed_returns_with_its_data(returned, run_client):
    answer = run_client("peat2", "peat2", "read", "farrell", "my_sandbox", prefix="kept")
    assert len(answer["names"]) == 3
    assert answer["wrong"] == []


def test_what_was_removed_returns_empty(returned, run_client):
    assert run_client("peat2", "peat2", "open", "nielsen", "my1sandbox") == {"ok": True, "records": 0}


def test_a_thawed_project_is_written_again(returned, run_client, unused):
    assert run_client("modern", "relstorage4", "add", "farrell", "modernhp", prefix=unused)["ok"]
