"""What a server has, as the inventory would say it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml
from peat import adoption, auth
from peat.account_state import Account, Login, Scope, State
from peat.schema import Identity


def test_the_lines_that_adopt_a_database_are_an_inventory():
    lines = adoption.inventory_lines(
        "hewl_sample", write=["nielsen", "farrell"], read=["guest", "farrell"], known=["guest"]
    )
    assert yaml.safe_load("\n".join(lines)) == {
        "peat_people": [{"name": "farrell", "from": ["ADDRESS"]}, {"name": "nielsen", "from": ["ADDRESS"]}],
        "peat_projects": [
            {"name": "hewl_sample", "clients": "peat2", "write": ["farrell", "nielsen"], "read": ["guest"]}
        ],
    }


def test_lines_say_no_more_than_they_must():
    assert adoption.inventory_lines("hewl", known=[]) == ["peat_projects:", "  - {name: hewl, clients: peat2}"]


@pytest.mark.parametrize(
    "value",
    ["campus", "no", "192.0.2.0/24", "192.0.2.0/255.255.255.0", "2001:db8::/32", "12e3", "a: b", "%", '"', "\\", "1.5"],
)
def test_text_stays_text_in_yaml(value):
    assert yaml.safe_load(f"[{adoption.yaml_text(value)}]") == [value]


# A whole server

PEAT2 = Identity("peat2", True, "peat2, history-preserving", "")
MODERN = Identity("relstorage4", False, "relstorage4, history-free", "")
OLD = Identity(None, True, "RelStorage 1.4's (object_state has no state_size)", "migrate it")
IDENTITIES = {"hewl": PEAT2, "a_b": PEAT2, "axb": PEAT2, "screening": MODERN, "archive": OLD}
DATABASES = [*IDENTITIES, "accounting", "mysql"]
HASH = auth.native_hash("a password of old")
ALL = frozenset(("SELECT", "INSERT", "UPDATE", "DELETE", "DROP", "CREATE", "ALTER"))
READS = frozenset(("SELECT",))


def state(*rows, flavour="mariadb"):
    """A server with accounts: (user, host, {pattern or scope: privileges}, changes of the login)."""
    accounts, rights = {}, {}
    for user, host, granted, *changes in rows:
        login = Login(auth.PLUGINS[flavour], HASH if flavour == "mariadb" else auth.sha2_hash("old", 20 * "s"))
        accounts[Account(user, host)] = replace(login, **(changes[0] if changes else {}))
        rights[Account(user, host)] = {
            Scope("database", scope) if isinstance(scope, str) else scope: privileges
            for scope, privileges in granted.items()
        }
    return State(flavour, accounts, rights)


def adopt(*rows, flavour="mariadb", **options):
    return adoption.adopt(state(*rows, flavour=flavour), IDENTITIES, DATABASES, **options)


def entries(listed):
    return {entry["name"]: {key: value for key, value in entry.items() if key != "name"} for entry in listed}


def test_accounts_of_one_name_are_one_person():
    made = adopt(
        ("ann", "192.0.2.7", {"hewl": ALL}),
        ("ann", "192.0.2.64/255.255.255.192", {"hewl": ALL}),
        ("ann", "2001:db8:1:%", {"hewl": ALL}),
    )
    assert made.people == [{"name": "ann", "from": ["192.0.2.7", "192.0.2.64/26", "2001:db8:1::/48"]}]
    assert entries(made.projects)["hewl"] == {"clients": "peat2", "write": ["ann"]}
    assert made.hashes == {"ann": HASH}


def test_levels_and_addresses_are_those_of_the_rights():
    made = adopt(
        ("ann", "192.0.2.7", {"hewl": ALL, "screening": ALL}),
        ("ann", "198.51.100.7", {"hewl": READS}),
        ("bob", "192.0.2.9", {"hewl": READS, "screening": READS | {"INSERT"}}),
    )
    assert entries(made.projects) == {
        "hewl": {
            "clients": "peat2",
            "write": [{"person": "ann", "from": ["192.0.2.7"]}],
            "read": [{"person": "ann", "from": ["198.51.100.7"]}, "bob"],
        },
        "screening": {
            "clients": "relstorage4",
            "keep_history": False,
            "write": [{"person": "ann", "from": ["192.0.2.7"]}],
            "read": ["bob"],
        },
        "a_b": {"clients": "peat2"},
        "axb": {"clients": "peat2"},
    }


def test_hosts_that_several_share_become_a_network():
    rows = [(user, host, {"hewl": ALL}) for user in ("ann", "bob", "cat") for host in ("192.0.2.7", "192.0.2.8")]
    made = adopt(*rows, ("dan", "192.0.2.7", {"hewl": ALL}), ("eve", "192.0.2.7", {"hewl": ALL}))
    assert made.networks == [{"name": "ann-and-2-more", "addresses": ["192.0.2.7", "192.0.2.8"]}]
    assert [person["from"] for person in made.people] == [["ann-and-2-more"]] * 3 + [["192.0.2.7"]] * 2


def test_everywhere_is_only_said_if_that_is_permitted():
    row = ("ann", "%", {"hewl": ALL})
    made = adopt(row)
    assert made.people == []
    (remark,) = [text for text in made.remarks if "'ann'@'%'" in text]
    assert "(writes hewl): list ann with addresses, or set peat_allow_anywhere" in remark
    assert adopt(row, allow_anywhere=True).people == [{"name": "ann", "from": ["%"]}]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (("ann", "%", {"hewl": ALL}), True),
        (("root", "%", {Scope("global"): ALL}), True),
        (("backup", "192.0.2.9", {"hewl": READS}), True),
        (("ann", "192.0.2.7", {"hewl": ALL}), False),
        (("bookkeeper", "localhost", {"accounting": ALL}), False),
        (("staff", "", {"hewl": READS}, {"role": True}), False),
    ],
)
def test_that_the_firewall_shuts_out_who_is_not_in_the_lists_is_told(row, told):
    told_so = any("who uses such an account from elsewhere is shut out" in text for text in adopt(row).remarks)
    assert told_so is told


LEFT_OUT = [
    (("ann", "192.0.2.0/24", {"hewl": ALL}), "a host that no list names"),
    (("ann", "client.example.org", {"hewl": ALL}), "a host that no list names"),
    (("ann", "2001:0db8::0001", {"hewl": ALL}), "a host that no list names"),
    (("ann", "192.0.2.7", {Scope("global"): ALL, "hewl": ALL}), "rights on the whole server"),
    (("ann", "192.0.2.7", {Scope("role", "", "staff", "%"): {"ROLE"}, "hewl": ALL}), "role 'staff'@'%'"),
    (("ann", "192.0.2.7", {"hewl": ALL, "accounting": ALL}), "no project (accounting)"),
    (("ann", "192.0.2.7", {"hewl": ALL, "archive": ALL}), "no project (archive)"),
    (("ann", "192.0.2.7", {"hewl": ALL, Scope("table", "mysql", "user"): READS}), "no project (mysql)"),
    (("ann", "192.0.2.7", {"hewl": ALL}, {"plugin": "ed25519"}), "by ed25519"),
    (("ann", "192.0.2.7", {"hewl": ALL}, {"auth": ""}), "without a usable password"),
    (("ann", "192.0.2.7", {"hewl": ALL}, {"locked": True}), "is locked"),
    (("ann", "192.0.2.7", {"hewl": ALL}, {"expired": True}), "expired password"),
    (("ann", "192.0.2.7", {"hewl": ALL}, {"tls": "X509"}), "needs a certificate"),
    (("ann", "192.0.2.7", {"hewl": ALL}, {"tls": "ANY"}), "PEAT 2.3 cannot ask for, on hewl"),
    (("o'brien", "192.0.2.7", {"hewl": ALL}), "cannot be a person"),
    (("ann", "192.0.2.7", {}), "reaches no project"),
]


@pytest.mark.parametrize(("row", "reason"), LEFT_OUT, ids=[reason for _row, reason in LEFT_OUT])
def test_what_no_list_can_say_is_left_out_and_told(row, reason):
    made = adopt(row)
    assert made.people == []
    (remark,) = [text for text in made.remarks if text.startswith(f"'{row[0]}'@'{row[1]}'")]
    assert reason in remark


@pytest.mark.parametrize("user", ["root", "debian-sys-maint", "nightly", "backup", ""])
def test_accounts_of_the_server_are_nobodys_business(user):
    rows = [(user, "192.0.2.7", {"hewl": ALL}), ("ann", "localhost", {"hewl": ALL})]
    made = adopt(*rows, protected=["nightly", "backup"])
    assert made.people == []
    assert [text for text in made.remarks if "@" in text] == []


@pytest.mark.parametrize(
    ("user", "granted"),
    [
        ("backup", {"hewl": READS | {"LOCK TABLES", "SHOW VIEW", "TRIGGER"}}),
        ("exporter", {Scope("global"): frozenset(("PROCESS",)), "hewl": READS}),
        ("watcher", {Scope("global"): frozenset(("PROCESS", "REPLICATION CLIENT"))}),
    ],
)
@pytest.mark.parametrize("host", ["192.0.2.9", "%"])
def test_a_service_does_not_become_a_person(user, granted, host):
    # As a person, the next run would take from it whatever a person does not need.
    made = adopt((user, host, granted), allow_anywhere=True)
    assert (made.people, made.hashes) == ([], {})
    (remark,) = [text for text in made.remarks if "@" in text]
    assert remark.startswith(f"'{user}'@'{host}' was left out: it looks like the account of a")


def test_a_person_may_need_tls_where_clients_can_ask_for_it():
    made = adopt(("ann", "192.0.2.7", {"screening": ALL}, {"tls": "ANY"}), ("ann", "192.0.2.8", {"screening": ALL}))
    assert made.people == [{"name": "ann", "from": ["192.0.2.7"], "tls": "required"}]
    assert [text for text in made.remarks if "'ann'@'192.0.2.8'" in text and "needs TLS where" in text]


def test_a_careless_underscore_means_the_one_database_of_that_name():
    made = adopt(("ann", "192.0.2.7", {"a_b": ALL}), ("bob", "192.0.2.8", {r"a\_b": ALL}))
    assert entries(made.projects)["a_b"]["write"] == ["ann", "bob"]
    assert "write" not in entries(made.projects)["axb"]
    (remark,) = [text for text in made.remarks if "`a_b`" in text]
    assert remark.startswith("'ann'@'192.0.2.7'") and "axb, too" in remark


def test_a_pattern_that_names_no_database_means_all_it_matches():
    made = adopt(("ann", "192.0.2.7", {"a%b": ALL}))
    assert entries(made.projects)["a_b"]["write"] == entries(made.projects)["axb"]["write"] == ["ann"]
    assert [text for text in made.remarks if "later ones are not covered" in text]


@pytest.mark.parametrize(
    ("flavour", "host", "said"),
    [
        ("mariadb", "192.0.2.%", "192.0.2.0/24"),
        ("mariadb", "10.%", "10.0.0.0/8"),
        ("mysql", "192.0.2.0/24", "192.0.2.0/24"),
    ],
)
def test_hosts_that_match_are_said_in_another_way(flavour, host, said):
    made = adopt(("ann", host, {"hewl": ALL}), flavour=flavour)
    assert made.people == [{"name": "ann", "from": [said]}]
    assert [text for text in made.remarks if f"DROP USER 'ann'@'{host}'" in text]


def test_of_different_passwords_most_accounts_have_the_kept_one():
    other = {"auth": auth.native_hash("another one")}
    rows = [("ann", f"192.0.2.{n}", {"hewl": ALL}, other if n == 7 else {}) for n in (7, 8, 9)]
    made = adopt(*rows)
    assert made.hashes == {"ann": HASH}
    assert "the other password of 'ann'@'192.0.2.7' will become the one that ann has elsewhere" in made.remarks


def test_databases_that_are_no_projects_are_told_with_the_way_out():
    made = adoption.adopt(state(), {**IDENTITIES, "test_x": PEAT2, "Hewl": PEAT2}, [])
    old = "RelStorage 1.4's (object_state has no state_size)"
    assert f"the database archive is {old}: migrate it, then add it" in made.remarks
    assert [text for text in made.remarks if text.startswith("the database test_x servers may open")]
    assert [text for text in made.remarks if text.startswith("the database hewl has a name that differs only in case")]


# The files


def test_the_file_says_the_lists_and_the_hashes_are_apart():
    made = adopt(("ann", "192.0.2.7", {"hewl": ALL}), ("bob", "%", {"hewl": ALL}))
    text = adoption.lists_text(made, "old", 3306)
    said = yaml.safe_load(text)
    assert said["mysql_port"] == 3306
    assert said["peat_people"] == [{**made.people[0], "password_hash": "{{ peat_adopted_passwords['ann'] }}"}]
    assert (said["peat_networks"], said["peat_projects"]) == (made.networks, made.projects)
    assert HASH not in text
    assert "# - 'bob'@'%'" in text
    assert yaml.safe_load(adoption.passwords_text(made)) == {"peat_adopted_passwords": made.hashes}


def test_long_lists_stay_readable():
    rows = [(f"person{n}", "192.0.2.7", {"hewl": ALL}) for n in range(50)]
    text = adoption.lists_text(adopt(*rows), "old", 3306)
    assert max(map(len, text.splitlines())) <= 120
    assert len(entries(yaml.safe_load(text)["peat_projects"])["hewl"]["write"]) == 50


def test_a_server_with_nothing_gives_empty_lists():
    text = adoption.lists_text(adoption.adopt(State("mysql"), {}, []), "old", 8080)
    assert yaml.safe_load(text) == {"mysql_port": 8080, "peat_networks": [], "peat_people": [], "peat_projects": []}


def test_only_an_unedited_file_is_written_again():
    text = adoption.lists_text(adopt(), "old", 3306)
    assert adoption.refusals(None, None, [], "p") == []
    assert adoption.refusals(text, "peat_adopted_passwords: {}\n", ["peat_people"], "p") == []
    assert "was edited" in adoption.refusals(text + "\n", None, [], "p")[0]
    assert "has peat_people already" in adoption.refusals(None, None, ["peat_people"], "p")[0]
    assert "adopt before" in adoption.refusals(text, None, ["peat_people", "peat_hosted_x"], "p")[0]
    assert "is encrypted" in adoption.refusals(text, "$ANSIBLE_VAULT;1.1;AES256\n", [], "p")[0]
