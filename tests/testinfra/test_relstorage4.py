"""RelStorage 4.3 (Python 3) with both of its usual drivers, history-preserving and history-free.

What a program gets: a wrong password or an address that is not this person's, 1045; a project that is not for this
person, 1044; an address outside every declared network, 2003 "Connection refused" (PyMySQL) or 2002 (mysqlclient), at
once; a reader's commit, 1044 (a reader opens with `create_schema=False`).
"""

from __future__ import annotations

import pytest

DRIVERS = ["PyMySQL", "MySQLdb"]
PROJECTS = {"modernhp": {}, "modernhf": {"history_free": True}}


@pytest.fixture(params=DRIVERS)
def driver(request) -> str:
    return request.param


@pytest.fixture(params=list(PROJECTS))
def project(request) -> str:
    return request.param


@pytest.fixture
def use(run_client, driver, project):
    """use(command, person, host=..., **options): a program's answer with this driver on this project."""

    def run(command: str, person: str = "farrell", host: str = "modern", **options) -> dict:
        return run_client(host, "relstorage4", command, person, project, driver=driver, **PROJECTS[project], **options)

    return run


def test_commits_are_read_by_somebody_else(use, unused):
    assert use("add", prefix=unused, records=100, commits=5)["records"] == 100
    answer = use("read", "guest", prefix=unused)
    assert answer["numbers"] == list(range(1, 101))
    assert answer["wrong"] == []


@pytest.mark.parametrize("driver", DRIVERS, indirect=True)
@pytest.mark.parametrize("project", ["modernhp"], indirect=True)
def test_undo(use, unused):
    assert use("add", prefix=unused)["ok"]
    answer = use("undo", prefix=unused)
    assert answer["ok"], answer
    assert answer["changed"] == "spoilt"
    assert answer["after"] == answer["before"] != "spoilt"


def test_a_blob_of_three_megabytes(use, unused):
    answer = use("blob", prefix=unused, size=3_000_000)
    assert answer == {"ok": True, "size": 3_000_000, "fetched": True}


def test_pack_removes_garbage_and_nothing_else(use, unused, sql, project):
    states = f"SELECT COUNT(*) FROM {project}.object_state"
    assert use("add", prefix=unused, records=20)["ok"]
    assert use("pack")["ok"]
    packed = sql(states)
    assert use("discard")["ok"]
    assert int(sql(states)[0][0]) > int(packed[0][0])
    answer = use("pack")
    assert answer["ok"], answer
    assert sql(states) == packed
    read = use("read", prefix=unused)
    assert len(read["numbers"]) == 20
    assert read["wrong"] == []


def test_concurrent_commits_lose_nothing(use, unused):
    """Four processes count two shared counters; every conflict is seen and retried."""
    answer = use("conflicts", prefix=unused, processes=4, increments=25)
    assert answer["ok"], answer
    assert answer["errors"] == []
    assert answer["left"] == answer["right"] == answer["expected"] == 100
    assert answer["new"] == 100
    assert answer["retries"] > 0, "the processes never met: this run proves nothing"


def test_a_reader_cannot_commit(use, unused):
    assert use("add", prefix=unused)["ok"]
    for command in ("add", "blob"):
        answer = use(command, "guest", prefix=unused, first=2)
        assert not answer["ok"]
        assert answer["error"]["number"] == 1044, answer
    assert use("read", "guest", prefix=unused)["numbers"] == [1]


def test_a_reader_cannot_pack(use, unused):
    assert use("add", prefix=unused)["ok"]
    answer = use("pack", "guest")
    assert not answer["ok"]
    assert answer["error"]["number"] == 1044


@pytest.mark.parametrize("project", ["modernhp"], indirect=True)
def test_a_wrong_password_is_refused(use):
    answer = use("open", password="not the password")
    assert (answer["step"], answer["error"]["number"]) == ("open", 1045)


def test_a_person_reaches_only_the_declared_projects(run_client, driver):
    answer = run_client("modern", "relstorage4", "open", "guest", "my_sandbox", driver=driver)
    assert (answer["step"], answer["error"]["number"]) == ("open", 1044)


@pytest.mark.parametrize("project", ["modernhp"], indirect=True)
def test_a_person_declared_for_one_address_reaches_the_server_from_there(use, unused):
    assert use("add", prefix=unused)["ok"]
    assert use("read", "visitor", prefix=unused)["numbers"] == [1]


@pytest.mark.parametrize("address", ["address", "address6"])
@pytest.mark.parametrize("project", ["modernhp"], indirect=True)
def test_an_undeclared_address_is_refused_by_the_firewall(use, lab, driver, address):
    answer = use("open", host="stranger", server=lab.server[address])
    assert (answer["step"], answer["error"]["number"]) == ("open", {"PyMySQL": 2003, "MySQLdb": 2002}[driver])
    assert {"PyMySQL": "Connection refused", "MySQLdb": "(115)"}[driver] in answer["error"]["text"]
    assert use("open", host="modern", server=lab.server[address])["ok"]
