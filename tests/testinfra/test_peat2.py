"""The real PEAT 2.3 client (RelStorage 1.5.1, Python 2.7) at work, from its own host.

What a person sees in PEAT. Its warning reads "Could not connect to <project>:<server>." and then "Error
message returned:" with

- a wrong password: (1045, "Access denied for user 'farrell'@'<address>' (using password: YES)")
- a project that is not for this person: (1044, "Access denied for user 'guest'@'<network>' to database 'my_sandbox'")
- a project that does not exist: the same 1044, so that nobody learns what others have
- an address outside every declared network: (2002, "Can't connect to MySQL server on '<server>' (115)") at once,
  whoever it is and whatever the password

A reader opens and browses as always. Saving fails with (1044, "Access denied ... to database ..."), which PEAT 2.3
shows only in the terminal it was started from; the window just goes on showing the unsaved change.
"""

from __future__ import annotations

import time

import pytest


@pytest.fixture(scope="module")
def records(run_client) -> dict:
    """500 records added by farrell over several commits; the options that name them."""
    options = {"prefix": "mut", "records": 500}
    answer = run_client("peat2", "peat2", "add", "farrell", "hewlsample", commits=7, **options)
    assert answer["ok"], answer
    assert answer["records"] >= 500
    return options


def test_a_second_session_reads_what_the_first_saved(run_client, records):
    answer = run_client("peat2", "peat2", "read", "nielsen", "hewlsample", prefix="mut")
    assert answer["ok"], answer
    assert len(answer["names"]) == 500
    assert answer["wrong"] == []


def test_a_person_undoes_a_mistake(run_client, records):
    answer = run_client("peat2", "peat2", "undo", "nielsen", "hewlsample", prefix="mut", first=7)
    assert answer["ok"], answer
    assert answer["before"] == answer["after"] == "residue 7 éβ-sheet"
    assert answer["spoilt"] == "spoilt"
    assert answer["log"] == [["nielsen", "undo mistake"], ["nielsen", "mistake"]]
    assert run_client("peat2", "peat2", "read", "farrell", "hewlsample", prefix="mut")["wrong"] == []


def test_a_writer_packs(run_client, lab, records, sql):
    """Except on MySQL, where RelStorage 1.5 cannot (its statement holds the reserved word `empty`); nothing is lost."""
    history = "SELECT COUNT(*) FROM hewlsample.object_state"
    run_client("peat2", "peat2", "undo", "farrell", "hewlsample", prefix="mut", first=8)
    before = int(sql(history)[0][0])
    answer = run_client("peat2", "peat2", "pack", "farrell", "hewlsample")
    if lab.server["flavour"] == "mysql":
        assert (answer["step"], answer["error"]["number"]) == ("pack", 1064)
        assert int(sql(history)[0][0]) == before
    else:
        assert answer["ok"], answer
        assert answer["log_before"] > 0
        assert answer["log_after"] == 0
        assert int(sql(history)[0][0]) < before
    read = run_client("peat2", "peat2", "read", "farrell", "hewlsample", prefix="mut")
    assert len(read["names"]) == 500
    assert read["wrong"] == []


def test_ipv6_is_served_like_ipv4(run_client, lab, records):
    answer = run_client("peat2", "peat2", "read", "farrell", "hewlsample", prefix="mut", server=lab.server["address6"])
    assert answer["ok"], answer
    assert len(answer["names"]) == 500


def test_a_reader_reads(run_client, records):
    answer = run_client("peat2", "peat2", "read", "guest", "hewlsample", prefix="mut")
    assert answer["ok"], answer
    assert len(answer["names"]) == 500
    assert answer["wrong"] == []


def test_a_reader_cannot_save(run_client, records):
    answer = run_client("peat2", "peat2", "add", "guest", "hewlsample", prefix="guest")
    assert not answer["ok"]
    assert answer["step"] == "commit"
    assert answer["error"]["number"] == 1044
    assert answer["error"]["seen"].startswith("OperationalError: (1044, \"Access denied for user 'guest'@")
    assert run_client("peat2", "peat2", "read", "guest", "hewlsample", prefix="guest")["names"] == []


def test_a_wrong_password_is_refused(run_client, lab):
    answer = run_client("peat2", "peat2", "open", "farrell", "hewlsample", password="not the password")
    assert not answer["ok"]
    assert answer["error"]["number"] == 1045
    assert answer["error"]["seen"] == (
        f'Could not connect to hewlsample:{lab.server["address"]}.\nError message returned: (1045, "Access denied for '
        f"user 'farrell'@'{lab.hosts['peat2']['address']}' (using password: YES)\")"
    )


@pytest.mark.parametrize("project", ["my_sandbox", "no_such_project", "mysql", "peat_server"])
def test_a_declared_address_but_not_for_this_project_is_refused(run_client, project):
    answer = run_client("peat2", "peat2", "open", "guest", project)
    assert not answer["ok"]
    assert answer["step"] == "open"
    assert answer["error"]["number"] == 1044
    assert f"to database '{project}'" in answer["error"]["seen"]


def test_an_underscore_in_a_project_name_opens_no_similar_name(run_client):
    """farrell writes my_sandbox; my1sandbox, which a pattern my_sandbox matches, is nielsen's."""
    assert run_client("peat2", "peat2", "add", "farrell", "my_sandbox", prefix="own")["ok"]
    answer = run_client("peat2", "peat2", "open", "farrell", "my1sandbox")
    assert answer["error"]["number"] == 1044


def test_an_undeclared_address_is_refused_by_the_firewall(run_client, lab, undeclared_address):
    """At once, not after PEAT's time-out of three seconds, whatever the password."""
    started = time.monotonic()
    answer = run_client("peat2", "peat2", "open", "farrell", "hewlsample")
    assert time.monotonic() - started < 3
    assert not answer["ok"]
    assert answer["error"]["seen"] == (
        f"Could not connect to hewlsample:{lab.server['address']}.\nError message returned: (2002, \"Can't connect to "
        f"MySQL server on '{lab.server['address']}' (115)\")"
    )


def test_a_person_from_another_address_is_refused_by_the_server(run_client):
    """visitor is declared for the host `modern` only; the firewall lets the campus through."""
    answer = run_client("peat2", "peat2", "open", "visitor", "modernhp")
    assert not answer["ok"]
    assert answer["error"]["number"] == 1045
