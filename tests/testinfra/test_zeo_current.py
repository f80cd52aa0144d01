"""ZEO 6 clients at servers of their generation, without TLS; test_zeo_tls.py does the same with it."""

from __future__ import annotations

from conftest import at_once, zeo_releases

ZEO_HOSTS = zeo_releases


def test_a_second_session_reads_what_the_first_saved(program, unused):
    assert program("add", prefix=unused, records=100, commits=10)["ok"]
    read = program("read", prefix=unused)
    assert len(read["numbers"]) == 100
    assert read["wrong"] == []


def test_blobs_undo_and_pack(program, unused):
    assert program("blob", prefix=unused)["fetched"]
    assert program("add", prefix=unused, records=5)["ok"]
    undone = program("undo", prefix=unused, first=3)
    assert undone["before"] == undone["after"] != undone["changed"]
    assert program("pack")["ok"]
    assert program("read", prefix=unused)["wrong"] == []


def test_processes_that_change_the_same_objects(program, unused):
    answer = program("conflicts", prefix=unused, processes=3, increments=10)
    assert answer["left"] == answer["right"] == answer["new"] == answer["expected"]
    assert answer["errors"] == []


def test_ipv6(program, lab, zeo_name, unused):
    assert program("add", server=lab.hosts[zeo_name]["address6"], prefix=unused)["ok"]


def test_an_unknown_project_and_an_undeclared_address_are_refused(program, lab, zeo_name):
    def opened(project: str, host: str, address: str) -> dict:
        return program("open", project=project, host=host, server=lab.hosts[zeo_name][address])

    # From inside, so that what is refused is the project and the address.
    known, unknown, *undeclared = at_once(
        opened,
        ("hewlsample", "modern", "address"),
        ("no_such_project", "modern", "address"),
        ("hewlsample", "stranger", "address"),
        ("hewlsample", "stranger", "address6"),
    )
    assert known["ok"], known
    assert not unknown["ok"]
    assert [answer["error"]["type"] for answer in undeclared] == ["ClientDisconnected"] * 2
