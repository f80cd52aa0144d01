"""What the list says of TLS: who may, who must, who comes through the forwarder; and what accounts demand then."""

from __future__ import annotations

import importlib.util
import pathlib

import pytest
from peat import accounts, hosting, lab
from peat.account_reader import _mariadb_account, _mysql_account
from peat.account_state import Account, AccountsError, State

_FILE = pathlib.Path(__file__).parents[2] / "filter_plugins/peat.py"
_SPEC = importlib.util.spec_from_file_location("peat_filters", _FILE)
filters = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(filters)

ANN = {"subject": "/CN=ann/serialNumber=1f", "issuer": "/CN=PEAT Server CA"}
DEMAND = "SUBJECT '/CN=ann/serialNumber=1f' AND ISSUER '/CN=PEAT Server CA'"
AT_THE_FORWARDER = Account("ann", "127.80.69.65")


def lists(tls=None, policy="offered", clients="relstorage4", **project):
    person = {"name": "ann", "from": ["192.0.2.0/24", "2001:db8:1::/48"], **({"tls": tls} if tls else {})}
    return {
        "networks": [],
        "people": [person, {"name": "bob", "from": ["198.51.100.7"], "tls": "offered"}],
        "projects": [{"name": "hewl", "clients": clients, "write": ["ann", "bob"], **project}],
        "allow_anywhere": False,
        "tls": policy,
    }


def merged(*arguments, **options):
    return hosting.merge(lists(*arguments, **options), {})


def planned(tls, old=None, certificates=None):
    passwords = {"ann": "ann's password", "bob": "bob's password"}
    want = accounts.wanted(hosting.load(merged(tls)), passwords, certificates=certificates)
    return accounts.plan(old or State("mariadb"), want, new_salt=lambda: "abcdefghijklmnopqrst")


@pytest.mark.parametrize(
    ("policy", "own", "result"),
    [
        ("offered", None, "offered"),
        ("off", None, "offered"),
        ("required", None, "required"),
        ("certificate", None, "certificate"),
        ("required", "offered", "offered"),
        ("required", "optional", "offered"),
        ("offered", "certificate", "certificate"),
        ("certificate", "forwarder", "forwarder"),
    ],
)
def test_a_person_without_own_wish_follows_the_server(policy, own, result):
    assert hosting.load(merged(own, policy=policy)).people["ann"].tls == result


@pytest.mark.parametrize("tls", ["required", "certificate", "forwarder"])
def test_a_server_without_certificate_cannot_demand_tls(tls):
    assert hosting.problems(merged(tls, policy="off")) == [
        f"peat_people (ann): has tls: {tls} on a server with peat_tls: 'off': remove one of the two"
    ]


def test_an_unknown_policy():
    assert "peat_tls: is 'sometimes': write one of off, offered" in hosting.problems(merged(policy="sometimes"))[0]


@pytest.mark.parametrize(
    ("tls", "policy", "possible"),
    [
        ("offered", "required", True),
        ("forwarder", "required", True),
        ("required", "offered", False),
        ("certificate", "offered", False),
        (None, "required", False),
        (None, "off", True),
    ],
)
def test_peat_cannot_ask_for_tls_but_come_through_the_forwarder(tls, policy, possible):
    problems = hosting.problems(merged(tls, policy=policy, clients="peat2"))
    assert (problems == []) is possible
    assert possible or "tls: forwarder or tls: offered" in problems[0]


def test_behind_the_forwarder_addresses_are_one():
    read = {"read": [{"person": "ann", "from": ["192.0.2.9"]}]}
    assert "keep one level" in hosting.problems(merged("forwarder", **read))[0]
    assert hosting.problems(merged("forwarder", state="frozen", **read)) == []
    assert hosting.problems(merged("offered", **read)) == []


def test_who_comes_through_the_forwarder_has_one_account_there_and_none_elsewhere():
    new = planned("forwarder").new
    assert [account for account in new.accounts if account.user == "ann"] == [AT_THE_FORWARDER]
    assert new.rights[AT_THE_FORWARDER]
    assert new.accounts[AT_THE_FORWARDER].tls == ""


def test_sessions_in_clear_end_when_the_forwarder_is_wanted():
    old = planned("offered").new
    plan = planned("forwarder", old)
    sessions = [(1, "ann", "192.0.2.7:4711"), (2, "bob", "198.51.100.7:4711"), (3, "ann", "127.80.69.65:4711")]
    assert list(accounts.sessions_to_end(plan, sessions)) == [1]


def test_each_port_is_open_for_its_own_people():
    both = filters.peat_openings(merged("forwarder"), 8080, forwarder_port=8081)
    assert both == [
        {"port": 8080, "sources": ["198.51.100.7/32"]},
        {"port": 8081, "sources": ["192.0.2.0/24", "2001:db8:1::/48"]},
    ]
    assert [opening["port"] for opening in filters.peat_openings(merged("required"), 8080, forwarder_port=8081)] == [
        8080
    ]


def test_who_needs_what():
    assert (filters.peat_certified(merged("certificate")), filters.peat_forwarded(merged("certificate"))) == (
        ["ann"],
        [],
    )
    assert (filters.peat_certified(merged("forwarder")), filters.peat_forwarded(merged("forwarder"))) == ([], ["ann"])
    assert filters.peat_certified(merged("certificate", state="absent")) == []


def test_an_account_demands_the_persons_own_certificate():
    plan = planned("certificate", certificates={"ann": ANN})
    [made] = [step for step in plan.steps if step.sql.startswith("CREATE USER 'ann'@'192.0.2.0/255.255.255.0'")]
    assert f" REQUIRE {DEMAND} " in made.sql
    assert made.about.endswith("only with the person's certificate")
    again = planned("certificate", plan.new, {"ann": ANN})
    assert again.steps == ()


def test_no_account_without_the_certificate_it_demands():
    with pytest.raises(AccountsError, match="no certificate is known"):
        planned("certificate")


@pytest.mark.parametrize(
    ("before", "after", "ends"),
    [
        ("offered", "required", True),
        ("required", "certificate", True),
        ("certificate", "required", False),
        ("certificate", "offered", False),
    ],
)
def test_sessions_end_when_more_is_demanded(before, after, ends):
    plan = planned(after, planned(before, certificates={"ann": ANN}).new, {"ann": ANN})
    assert list(accounts.sessions_to_end(plan, [(1, "ann", "192.0.2.7:4711")])) == ([1] if ends else [])


def test_sessions_end_when_another_certificate_is_demanded():
    other = {**ANN, "subject": "/CN=ann/serialNumber=2e"}
    plan = planned("certificate", planned("certificate", certificates={"ann": ANN}).new, {"ann": other})
    assert any("the person's certificate required" in step.about for step in plan.steps)
    assert list(accounts.sessions_to_end(plan, [(1, "ann", "192.0.2.7:4711")])) == [1]


def test_what_the_servers_keep_of_a_demand_is_read_back():
    priv = {"plugin": "mysql_native_password", "ssl_type": 3, "ssl_cipher": "", "password_last_changed": 1}
    priv |= {"x509_issuer": ANN["issuer"], "x509_subject": ANN["subject"]}
    assert _mariadb_account(["ann", "%", priv])[1].tls == DEMAND
    # More than this project demands: another demand.
    assert _mariadb_account(["ann", "%", {**priv, "ssl_cipher": "AES"}])[1].tls == "SPECIFIED"
    row = ["ann", "%", "caching_sha2_password", "$A$", "SPECIFIED", "N", "N", 0, None, 0, 0, 0, 0, None]
    assert _mysql_account([*row, ANN["subject"], ANN["issuer"], ""])[1].tls == DEMAND
    assert _mysql_account([*row[:4], "ANY", *row[5:], "", "", ""])[1].tls == "ANY"
    assert _mysql_account([*row, "", "", "AES"])[1].tls == "SPECIFIED"


def test_everything_that_is_a_policy_for_people_is_a_wish_of_theirs():
    assert set(lab.POLICIES) - {"off"} <= set(lab.TLS)
