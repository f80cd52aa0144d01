"""The plan: what every address can do, in which order it gets there, and what is left alone."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from peat import auth, lab, passwords, unlisted
from peat.account_state import (
    GLOBAL,
    Account,
    AccountsError,
    Login,
    Scope,
    State,
    effective,
    login_account,
    matches,
    whole_database,
)
from peat.accounts import client_of, plan, sessions_to_end, wanted
from peat.addresses import network_of

PASSWORDS = {"ann": "ann's password", "bob": "password of bob", "cat": "password of cat"}
CAMPUS, DESK, OFFICE = "192.0.2.0/24", "192.0.2.7", "192.0.2.64/26"
CAMPUS6, DESK6 = "2001:db8:1::/48", "2001:db8:1::7"
WRITES = {"SELECT", "INSERT", "UPDATE", "DELETE", "CREATE TEMPORARY TABLES"}
SALT = "abcdefghijklmnopqrst"


def project(name="hewl", clients="peat2", **more):
    return {"name": name, "clients": clients, **more}


def by(person, *sources):
    return {"person": person, "from": list(sources)}


def described(*projects, tls=(), secrets=PASSWORDS, limit=0, limits=None, admin=None, administrators=()):
    people = [
        {"name": name, "from": [DESK], "tls": "required" if name in tls else "optional", **(limits or {}).get(name, {})}
        for name in PASSWORDS
    ]
    loaded = lab.load([], people, list(projects), allow_anywhere=True, admin=admin, administrators=administrators)
    return wanted(loaded, secrets, limit)


def planned(old, want, **more):
    return plan(old, want, new_salt=lambda: SALT, **more)


def server(want, flavour="mariadb", **changes):
    """A server that is as the list wants it, with some fields of its state changed."""
    return replace(planned(State(flavour), want).new, **changes)


def abouts(made):
    return [step.about for step in (*made.steps, *made.last_steps)]


def sql(made):
    return [step.sql for step in (*made.steps, *made.last_steps)]


def rights_at(want, user, client):
    return effective(planned(State("mariadb"), want).new, user, client)


def on(database, *privileges):
    return {(whole_database(database), privilege) for privilege in privileges}


# What the list says


@pytest.mark.parametrize(("clients", "keep_history"), [("peat2", True), ("relstorage4", True), ("relstorage4", False)])
def test_least_privileges(clients, keep_history):
    want = described(project("a_b", clients, keep_history=keep_history, write=["ann"], read=["bob"]))
    tables = ("pack_object", "pack_state", "pack_state_tid") if keep_history else ("pack_object",)
    more = {"EXECUTE"} if clients == "relstorage4" else set()
    assert want.rights[Account("ann", DESK)] == {
        Scope("database", r"a\_b"): WRITES | more,
        **{Scope("table", "a_b", table): {"DROP"} for table in tables},
    }
    assert want.rights[Account("bob", DESK)] == {Scope("database", r"a\_b"): {"SELECT"}}


def test_a_frozen_project_is_read_and_an_absent_one_is_not_reached():
    want = described(project(state="frozen", write=["ann"]), project("gone", state="absent", write=["bob"]))
    assert rights_at(want, "ann", DESK) == on("hewl", "SELECT")
    assert {account.user for account in want.accounts} == {"ann"}


def test_hosts_of_rows_with_different_levels_do_not_overlap():
    want = described(project(write=[by("ann", CAMPUS)], read=[by("ann", DESK)]))
    hosts = [account.host for account in want.accounts]
    assert DESK in hosts
    assert len(hosts) == 9  # the desk, and the campus without it: one network of each size
    networks = [network_of(host) for host in hosts]
    assert sum(network.num_addresses for network in networks) == 256
    assert not any(one.overlaps(two) for one in networks for two in networks if one is not two)


def test_hosts_of_one_level_stay_whole():
    want = described(project(write=[by("ann", CAMPUS, DESK)]), project("other", read=[by("ann", DESK)]))
    assert [account.host for account in want.accounts] == ["192.0.2.0/255.255.255.0", DESK]


@pytest.mark.parametrize(("wide", "narrow"), [(CAMPUS6, DESK6), ("%", DESK), ("%", CAMPUS6)])
def test_a_readers_row_hides_the_wider_right_to_pack(wide, narrow):
    want = described(project(write=[by("ann", wide)], read=[by("ann", narrow)]))
    client = narrow.replace("::/48", "::99")
    reached = rights_at(want, "ann", client)
    assert on("hewl", "SELECT") <= reached
    assert {privilege for _, privilege in reached} == {"SELECT"}
    assert {scope.name for scope, _ in reached} == {"", "pack_object", "pack_state", "pack_state_tid"}


def test_every_address_can_do_exactly_what_the_matrix_says():
    """The model of the server (which a scenario holds against a real one) over random lists."""
    choose = random.Random(1)
    networks = [
        CAMPUS,
        OFFICE,
        DESK,
        "192.0.2.70",
        "192.0.0.0/16",
        "%",
        CAMPUS6,
        DESK6,
        "2001:db8::/32",
        "2001:db8:1:2::/64",
    ]
    clients = [
        DESK,
        "192.0.2.8",
        "192.0.2.70",
        "192.0.2.71",
        "192.0.9.9",
        "203.0.113.1",
        DESK6,
        "2001:db8:1::8",
        "2001:db8:1:2::1",
        "2001:db8:2::1",
    ]
    for _ in range(60):
        lists = []
        for name in ("p_q", "pxq"):
            entries = {"write": [], "read": []}
            for person in PASSWORDS:
                levels = {network: choose.choice(("write", "read", None)) for network in networks}
                for level, items in entries.items():
                    sources = [network for network in networks if levels[network] == level]
                    items += [by(person, *sources)] if sources else []
            lists.append(project(name, **entries))
        people = [{"name": name, "from": [DESK]} for name in PASSWORDS]
        loaded = lab.load([], people, lists, allow_anywhere=True)
        state = planned(State("mariadb"), wanted(loaded, PASSWORDS)).new
        for person in PASSWORDS:
            for client in clients:
                reached = effective(state, person, client)
                for name in ("p_q", "pxq"):
                    rows = [row for row in loaded.matrix if (row.person, row.project) == (person, name)]
                    level = lab.level_at(rows, client)
                    whole = {privilege for scope, privilege in reached if scope == whole_database(name)}
                    tables = {
                        privilege for scope, privilege in reached if (scope.kind, scope.database) == ("table", name)
                    }
                    assert whole == {None: set(), "read": {"SELECT"}, "write": WRITES}[level]
                    assert tables in {None: [set()], "read": [set(), {"SELECT"}], "write": [{"DROP"}]}[level]
                    assert level is None or login_account(state, person, client) is not None


def test_a_person_may_not_have_the_name_of_a_protected_account():
    want = described(project(write=["ann"]))
    with pytest.raises(AccountsError, match="'ann' has the name of a protected account"):
        planned(State("mariadb"), want, protected=["ann"])


# How a server decides


@pytest.mark.parametrize(
    ("host", "client", "expected"),
    [
        ("%", "localhost", True),
        ("192.0.2.0/255.255.255.0", "192.0.2.9", True),
        ("192.0.2.0/255.255.255.0", "192.0.3.9", False),
        ("192.0.2.0/255.255.255.0", "localhost", False),
        ("2001:db8:1:%", "2001:db8:1::7", True),
        ("2001:db8:1:%", "2001:db8:11::7", False),
        ("192.0.2._", "192.0.2.7", True),
        ("192.0.2._", "192.0.2.70", False),
        ("localhost", "localhost", True),
    ],
)
def test_matches(host, client, expected):
    assert matches(host, client) is expected


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        ("192.0.2.7:40000", "192.0.2.7"),
        ("2001:db8::7:40000", "2001:db8::7"),
        ("[2001:db8::7]:40000", "2001:db8::7"),
        ("localhost", "localhost"),
    ],
)
def test_client_of(peer, client):
    assert client_of(peer) == client


# The way there

LISTS = project("a_b", write=["ann"], read=[by("bob", CAMPUS)])


@pytest.mark.parametrize(
    ("flavour", "identified"),
    [
        ("mariadb", "IDENTIFIED VIA mysql_native_password USING '*"),
        ("mysql", "IDENTIFIED WITH caching_sha2_password AS 0x" + f"$A$00A${SALT}".encode().hex()),
    ],
)
def test_a_new_account_never_exists_without_password_and_tls_rule(flavour, identified):
    lists = project("a_b", "relstorage4", write=["ann"], read=[by("bob", CAMPUS)])
    made = planned(State(flavour), described(lists, tls=["bob"]))
    creates = [text for text in sql(made) if text.startswith("CREATE USER")]
    assert [text.partition(" IDENTIFIED")[0] for text in creates] == [
        "CREATE USER 'ann'@'192.0.2.7'",
        "CREATE USER 'bob'@'192.0.2.0/255.255.255.0'",
    ]
    assert all(identified in text for text in creates)
    assert creates[0].endswith(" REQUIRE NONE PASSWORD EXPIRE NEVER ACCOUNT UNLOCK")
    assert creates[1].endswith(" REQUIRE SSL PASSWORD EXPIRE NEVER ACCOUNT UNLOCK")
    texts = sql(made)
    register = next(text for text in texts if text.startswith("INSERT INTO peat_server.managed_account"))
    assert texts.index(register) < texts.index(creates[0])


@pytest.mark.parametrize("flavour", ["mariadb", "mysql"])
def test_no_clear_password_anywhere(flavour):
    made = planned(State(flavour), described(LISTS))
    everything = repr(made) + "".join(sql(made)) + made.before + made.after + "".join(abouts(made))
    assert not [password for password in PASSWORDS.values() if password in everything]
    secrets = {login.auth for login in made.new.accounts.values()}
    shown = repr(made) + made.before + made.after + "".join(abouts(made))
    assert not [secret for secret in secrets if secret in shown]


@pytest.mark.parametrize("flavour", ["mariadb", "mysql"])
def test_a_server_as_wanted_needs_nothing(flavour):
    want = described(LISTS)
    made = planned(server(want, flavour), want)
    assert (made.steps, made.last_steps, made.before, made.after, made.findings) == ((), (), "", "", ())


def test_grants_name_one_database_only():
    texts = sql(planned(State("mariadb"), described(LISTS)))
    assert r"GRANT SELECT, INSERT, UPDATE, DELETE, CREATE TEMPORARY TABLES ON `a\_b`.* TO 'ann'@'192.0.2.7'" in texts
    assert "GRANT DROP ON `a_b`.`pack_state_tid` TO 'ann'@'192.0.2.7'" in texts


def test_what_a_dry_run_says_before_passwords_exist_is_what_happens():
    generated = {name: passwords.generate() for name in PASSWORDS}
    known = planned(State("mysql"), described(LISTS, secrets=generated))
    unknown = planned(State("mysql"), described(LISTS, secrets=dict.fromkeys(PASSWORDS)))
    assert abouts(unknown) == abouts(known)
    assert (unknown.before, unknown.after) == (known.before, known.after)
    assert unknown.missing == ("ann", "bob")
    assert known.missing == ()
    assert any("not generated" in text for text in sql(unknown))


def test_a_password_is_set_only_where_it_differs():
    want = described(LISTS)
    old = server(want)
    old.accounts[Account("ann", DESK)] = replace(
        old.accounts[Account("ann", DESK)], auth=auth.native_hash("another password")
    )
    made = planned(old, want)
    native = auth.native_hash(PASSWORDS["ann"])
    assert f"ALTER USER 'ann'@'192.0.2.7' IDENTIFIED VIA mysql_native_password USING '{native}'" in sql(made)
    assert [about for about in abouts(made) if "bob" in about] == []
    assert made.before == "'ann'@'192.0.2.7': another password, TLS optional, managed\n"
    assert made.after == "'ann'@'192.0.2.7': the password of the list, TLS optional, managed\n"


@pytest.mark.parametrize("flavour", ["mariadb", "mysql"])
def test_a_password_that_only_the_server_knows_is_kept_until_one_is_given(flavour):
    plugin = auth.PLUGINS[flavour]
    stored = auth.make("nobody here knows it", plugin, SALT)
    person = {"name": "ann", "from": [DESK], "password_hash": auth.written(stored, plugin)}
    only = lab.load([], [person], [{"name": "hewl", "clients": "peat2", "write": ["ann"]}])
    kept = wanted(only, {"ann": None})
    made = planned(State(flavour), kept)
    assert made.missing == ()
    assert made.new.accounts[Account("ann", DESK)].auth == stored
    assert planned(made.new, kept).steps == ()
    given = planned(made.new, wanted(only, {"ann": "one that is given"}))
    assert f"set the password of 'ann'@'{DESK}'" in abouts(given)


def test_a_hash_of_another_kind_of_server_is_refused_by_name():
    person = {"name": "ann", "from": [DESK], "password_hash": auth.native_hash("any")}
    only = lab.load([], [person], [{"name": "hewl", "clients": "peat2", "write": ["ann"]}])
    with pytest.raises(AccountsError, match="'ann' is not of caching_sha2_password"):
        planned(State("mysql"), wanted(only, {}))


def test_a_new_account_of_a_person_gets_the_hash_the_others_have():
    before = described(project(write=["ann"]))
    old = server(before, "mysql")
    made = plan(old, described(project(write=[by("ann", OFFICE)])), new_salt=lambda: "another")
    assert (
        made.new.accounts[Account("ann", "192.0.2.64/255.255.255.192")].auth == old.accounts[Account("ann", DESK)].auth
    )


@pytest.mark.parametrize(
    ("changes", "flavour", "clause"),
    [
        ({"tls": "ANY"}, "mariadb", "REQUIRE NONE"),
        ({"tls": "X509"}, "mysql", "REQUIRE NONE"),
        ({"locked": True}, "mariadb", "ACCOUNT UNLOCK"),
        ({"expires": True}, "mysql", "PASSWORD EXPIRE NEVER"),
        ({"expired": True}, "mariadb", "IDENTIFIED VIA mysql_native_password USING '"),
        ({"spare": True}, "mariadb", "IDENTIFIED VIA mysql_native_password USING '"),
        ({"spare": True}, "mysql", "DISCARD OLD PASSWORD"),
        ({"plugin": "unix_socket"}, "mariadb", "IDENTIFIED VIA mysql_native_password USING '"),
        (
            {"throttled": True},
            "mariadb",
            "WITH MAX_QUERIES_PER_HOUR 0 MAX_UPDATES_PER_HOUR 0 MAX_CONNECTIONS_PER_HOUR 0 MAX_STATEMENT_TIME 0",
        ),
        (
            {"throttled": True, "connections": 3, "locked": True},
            "mysql",
            "WITH MAX_USER_CONNECTIONS 0 MAX_QUERIES_PER_HOUR 0 MAX_UPDATES_PER_HOUR 0 MAX_CONNECTIONS_PER_HOUR 0"
            " FAILED_LOGIN_ATTEMPTS 0 PASSWORD_LOCK_TIME 0 ACCOUNT UNLOCK",
        ),
    ],
)
def test_how_an_account_is_let_in_is_put_right(changes, flavour, clause):
    want = described(project(write=["ann"]))
    old = server(want, flavour)
    ann = Account("ann", DESK)
    old.accounts[ann] = replace(old.accounts[ann], **changes)
    altered = [text for text in sql(planned(old, want)) if text.startswith("ALTER USER 'ann'@'192.0.2.7' ")]
    assert len(altered) == 1
    assert altered[0].startswith(f"ALTER USER 'ann'@'192.0.2.7' {clause}")


def test_tls_is_required_without_touching_the_password():
    want = described(project(clients="relstorage4", write=["ann"]))
    made = planned(server(want), described(project(clients="relstorage4", write=["ann"]), tls=["ann"]))
    assert "ALTER USER 'ann'@'192.0.2.7' REQUIRE SSL" in sql(made)


@pytest.mark.parametrize(
    ("scope", "privileges", "statement"),
    [
        (GLOBAL, {"FILE", "SELECT", "GRANT OPTION"}, "REVOKE SELECT, FILE, GRANT OPTION ON *.* FROM"),
        (Scope("database", "other"), {"INSERT"}, "REVOKE INSERT ON `other`.* FROM"),
        (Scope("database", "he%"), {"SELECT"}, "REVOKE SELECT ON `he%`.* FROM"),
        (whole_database("hewl"), {"SELECT", "DROP"}, "REVOKE DROP ON `hewl`.* FROM"),
        (Scope("table", "hewl", "object_state"), {"UPDATE"}, "REVOKE UPDATE ON `hewl`.`object_state` FROM"),
        (
            Scope("column", "hewl", "object_state", "state"),
            {"UPDATE", "INSERT"},
            "REVOKE INSERT (`state`), UPDATE (`state`) ON `hewl`.`object_state` FROM",
        ),
        (Scope("PROCEDURE", "hewl", "p"), {"EXECUTE"}, "REVOKE EXECUTE ON PROCEDURE `hewl`.`p` FROM"),
        (Scope("role", "", "boss", ""), {"ROLE"}, "REVOKE `boss` FROM"),
        (Scope("role", "", "boss", "%"), {"ROLE"}, "REVOKE `boss`@`%` FROM"),
        (Scope("proxy", "", "root", "localhost"), {"PROXY"}, "REVOKE PROXY ON 'root'@'localhost' FROM"),
    ],
)
def test_rights_beyond_the_list_are_revoked_at_every_level(scope, privileges, statement):
    want = described(project(read=["ann"]))
    old = server(want)
    ann = Account("ann", DESK)
    old.rights[ann] = {**old.rights[ann], scope: frozenset(privileges)}
    made = planned(old, want)
    revokes = [text for text in sql(made) if text.startswith("REVOKE")]
    assert revokes == [f"{statement} 'ann'@'192.0.2.7'"]
    assert planned(made.new, want).steps == ()


def test_a_removed_person_is_dropped_and_then_forgotten():
    old = server(described(LISTS))
    made = planned(old, described(project("a_b", read=[by("bob", CAMPUS)])))
    assert sql(made) == [
        "INSERT INTO peat_server.unsettled_user VALUES ('ann')",
        "DROP USER 'ann'@'192.0.2.7'",
        "DELETE FROM peat_server.managed_account WHERE (user, host) IN (('ann', '192.0.2.7'))",
        "DELETE FROM peat_server.unsettled_user",
    ]
    assert "'ann'@'192.0.2.7': DROP on a_b.pack_object\n" in made.before
    assert made.after == ""


def test_an_account_registered_but_never_created_is_made_or_forgotten():
    want = described(LISTS)
    ann = Account("ann", DESK)
    interrupted = server(want)
    del interrupted.accounts[ann], interrupted.rights[ann]
    assert any(text.startswith("CREATE USER 'ann'") for text in sql(planned(interrupted, want)))
    without = planned(interrupted, described(project("a_b", read=[by("bob", CAMPUS)])))
    assert sql(without) == ["DELETE FROM peat_server.managed_account WHERE (user, host) IN (('ann', '192.0.2.7'))"]


def test_an_account_made_by_hand_is_taken_over():
    want = described(project(read=["ann"]))
    old = server(want, registered=frozenset())
    made = planned(old, want)
    assert sql(made) == ["INSERT INTO peat_server.managed_account VALUES ('ann', '192.0.2.7')"]
    assert made.before == "'ann'@'192.0.2.7': the password of the list, TLS optional, made by hand\n"


def test_rights_that_a_deleted_account_left_are_revoked_when_it_is_made_again():
    want = described(project(read=["ann"]))
    ann = Account("ann", DESK)
    old = State("mariadb", rights={ann: {Scope("database", "other"): frozenset(["SELECT"])}})
    texts = sql(planned(old, want))
    create = next(text for text in texts if text.startswith("CREATE USER"))
    revoke = "REVOKE SELECT ON `other`.* FROM 'ann'@'192.0.2.7'"
    assert texts.index(create) < texts.index(revoke) < texts.index("GRANT SELECT ON `hewl`.* TO 'ann'@'192.0.2.7'")


@pytest.mark.parametrize(
    ("before", "after", "first", "then"),
    [
        # Wide rights are taken first: the desk's row, which hides them, goes later.
        (
            project(write=[by("ann", CAMPUS6)], read=[by("ann", DESK6)]),
            project(read=[by("ann", CAMPUS6)]),
            "REVOKE INSERT, UPDATE, DELETE, CREATE TEMPORARY TABLES ON `hewl`.* FROM 'ann'@'2001:db8:1:%'",
            "DROP USER 'ann'@'2001:db8:1::7'",
        ),
        # Narrow rights are given first: they hide the wide ones that follow.
        (
            project(read=[by("ann", CAMPUS6)]),
            project(write=[by("ann", CAMPUS6)], read=[by("ann", DESK6)]),
            "GRANT SELECT ON `hewl`.`pack_object` TO 'ann'@'2001:db8:1::7'",
            "GRANT DROP ON `hewl`.`pack_object` TO 'ann'@'2001:db8:1:%'",
        ),
        # Everything is taken before anything is given.
        (
            project(write=[by("ann", CAMPUS6)]),
            project(write=[by("bob", DESK6)]),
            "DROP USER 'ann'@'2001:db8:1:%'",
            "GRANT DROP ON `hewl`.`pack_object` TO 'bob'@'2001:db8:1::7'",
        ),
    ],
)
def test_no_address_ever_has_more_than_one_of_the_two_lists_says(before, after, first, then):
    texts = sql(planned(server(described(before)), described(after)))
    assert texts.index(first) < texts.index(then)


def test_a_row_made_by_hand_never_disappears_while_it_becomes_the_lists():
    """Without any right it would be gone, and a wider row would count."""
    want = described(project(write=[by("ann", CAMPUS6)], read=[by("ann", DESK6)]))
    old = server(want)
    desk = Account("ann", DESK6)
    old.rights[desk] = {**old.rights[desk], whole_database("hewl"): frozenset(["EVENT"])}
    texts = [text for text in sql(planned(old, want)) if "`hewl`.*" in text]
    assert texts == [
        "GRANT SELECT ON `hewl`.* TO 'ann'@'2001:db8:1::7'",
        "REVOKE EVENT ON `hewl`.* FROM 'ann'@'2001:db8:1::7'",
    ]


def test_accounts_that_gain_the_same_share_a_statement():
    want = described(project(read=[by("ann", DESK, "192.0.2.9"), by("bob", DESK)]))
    texts = sql(planned(State("mariadb"), want))
    assert "GRANT SELECT ON `hewl`.* TO 'ann'@'192.0.2.7', 'ann'@'192.0.2.9', 'bob'@'192.0.2.7'" in texts
    assert len([text for text in texts if text.startswith("CREATE USER")]) == 1


@pytest.mark.parametrize("others", [10, 100])
def test_what_an_added_person_costs_does_not_depend_on_the_projects_of_others(others):
    projects = [project(f"p{number}", write=["ann", "bob"]) for number in range(others)]
    old = server(described(*projects))
    projects[0]["read"] = ["cat"]
    made = planned(old, described(*projects))
    assert [step.about.split()[0] for step in made.steps] == ["register", "create", "grant"]
    assert not [text for text in sql(made) if "ann" in text or "bob" in text]


def test_a_generated_password_is_hashed_once(monkeypatch):
    generated = {name: passwords.generate() for name in PASSWORDS}
    want = described(LISTS, secrets=generated)
    old = server(want, "mysql")
    monkeypatch.setattr(auth, "verifies", lambda *_: pytest.fail("was hashed again"))
    made = planned(old, want)
    assert (made.steps, made.before, made.after) == ((), "", "")
    # Nothing that a guess could be tried against quickly is kept of a password that somebody chose.
    assert planned(State("mysql"), described(LISTS)).new.verified == frozenset()
    assert not [word for word in generated.values() if any(word in part for pair in old.verified for part in pair)]


def test_another_password_in_the_servers_table_is_noticed_although_one_was_compared():
    generated = {name: passwords.generate() for name in PASSWORDS}
    want = described(LISTS, secrets=generated)
    old = server(want, "mysql")
    ann = Account("ann", DESK)
    old.accounts[ann] = replace(old.accounts[ann], auth=auth.sha2_hash("set by hand", SALT))
    made = planned(old, want)
    assert any(text.startswith("ALTER USER 'ann'@'192.0.2.7' IDENTIFIED") for text in sql(made))


# What is not ours

FOREIGN = Account("zoe", "%")


def test_a_foreign_account_is_reported_and_left_alone():
    want = described(LISTS)
    old = server(want)
    old.accounts[FOREIGN] = Login("mysql_native_password", "*X")
    old.rights[FOREIGN] = {Scope("database", "a_b"): frozenset(["SELECT"]), GLOBAL: frozenset(["PROCESS"])}
    made = planned(old, want)
    assert made.steps == ()
    (finding,) = made.findings
    assert finding == (
        "'zoe'@'%' is not in the list and was left alone; SELECT on `a_b`, where _ and % stand for any letters,"
        " so also on a_b; PROCESS on every database; it may come from every address."
        " Add the person to peat_people, or: DROP USER 'zoe'@'%'"
    )


@pytest.mark.parametrize(
    ("account", "login", "scope", "words"),
    [
        (FOREIGN, Login("x", ""), Scope("database", "a%"), "`a%`, where _ and %"),
        (FOREIGN, Login("x", ""), Scope("database", r"a\_b"), "INSERT on a_b"),
        (FOREIGN, Login("x", ""), Scope("table", "a_b", "t"), "INSERT on a_b.t"),
        (FOREIGN, None, Scope("database", r"a\_b"), "does not exist, but rights of it do"),
        (Account("ann", "%"), Login("x", ""), Scope("database", "other"), "its password and rights count for ann at"),
        (Account("boss", ""), Login("", "", role=True), Scope("database", "a_b"), "the role boss was left alone"),
        (Account("root", "%"), Login("x", ""), GLOBAL, "from other machines"),
    ],
)
def test_what_is_found_is_said(account, login, scope, words):
    want = described(LISTS)
    old = server(want)
    if login:
        old.accounts[account] = login
    old.rights[account] = {scope: frozenset(["INSERT"])}
    made = planned(old, want)
    assert made.steps == ()
    (finding,) = made.findings
    assert words in finding


@pytest.mark.parametrize(
    "account", [Account("root", "localhost"), Account("mysql", "localhost"), Account("debian-sys-maint", "localhost")]
)
def test_the_servers_own_accounts_are_nobodys_business(account):
    want = described(LISTS)
    old = server(want)
    old.accounts[account] = Login("unix_socket", "")
    old.rights[account] = {GLOBAL: frozenset(["SUPER"])}
    old = replace(old, registered=old.registered | {account})
    made = planned(old, want)
    assert made.findings == ()
    assert not [text for text in sql(made) if "DROP USER" in text or "REVOKE" in text]


def test_further_names_can_be_protected():
    want = described(LISTS)
    old = server(want)
    old.accounts[Account("exporter", "localhost")] = Login("unix_socket", "")
    assert planned(old, want, protected=["exporter"]).findings == ()


def test_what_installations_leave_open_goes():
    want = described(LISTS)
    old = server(want, test_database=())
    anonymous, orphan, public = Account("", "localhost"), Account("", "%"), Account("PUBLIC", "")
    old.accounts[anonymous] = Login("mysql_native_password", "")
    old.accounts[public] = Login("", "", role=True)
    old.rights[orphan] = {Scope("database", "test"): frozenset(["INSERT"])}
    old.rights[public] = {Scope("database", r"test\_%"): frozenset(["INSERT"])}
    made = planned(old, want)
    texts = sql(made)
    assert "DROP USER ''@'localhost'" in texts
    assert "DROP DATABASE test" in texts
    assert r"REVOKE INSERT ON `test\_%`.* FROM PUBLIC" in texts
    (delete,) = (text for text in texts if text.startswith("DELETE FROM mysql.db"))
    assert texts[texts.index(delete) + 1] == "FLUSH PRIVILEGES"
    assert planned(made.new, want).steps == ()
    assert "database test: empty\n" in made.before


def test_a_test_database_in_use_is_reported():
    want = described(LISTS)
    made = planned(server(want, test_database=("results",)), want)
    assert made.steps == ()
    assert made.findings == ("the database test is not empty and was left alone: it holds results",)


# What becomes of what is not ours

VIEWER = Account("viewer", "localhost")
CLERKS = Account("clerks", "")


def with_foreign(want, rights, **logins):
    """A server as wanted, with foreign accounts, their ways in and their rights."""
    old = server(want)
    for account in rights:
        if account.user not in logins.get("without", ()):
            old.accounts[account] = Login("mysql_native_password", "*X", role=account.host == "")
        old.rights[account] = {scope: frozenset(names) for scope, names in rights[account].items()}
    return old


def names(made):
    return {account.user for account in made.new.accounts}


ON_PROJECT = {whole_database("a_b"): {"SELECT"}}


def test_lock_leaves_rights_and_ends_sessions():
    want = described(LISTS)
    old = with_foreign(want, {FOREIGN: ON_PROJECT})
    made = planned(old, want, unmanaged="lock")
    assert [text for text in sql(made) if "zoe" in text and "peat_server" not in text] == [
        "ALTER USER 'zoe'@'%' ACCOUNT LOCK"
    ]
    assert made.new.rights[FOREIGN] == old.rights[FOREIGN]
    assert sessions_to_end(made, [(7, "zoe", f"{DESK}:1"), (8, "ann", f"{DESK}:1")]) == [7]
    assert "is not in the list and is locked; SELECT on a_b" in made.findings[0]
    assert planned(made.new, want, unmanaged="lock").steps == ()


def test_lock_takes_what_counts_for_people_of_the_list():
    want = described(LISTS)
    wide = Account("ann", "%")
    rights = {**ON_PROJECT, Scope("database", "other"): {"SELECT"}}
    old = with_foreign(want, {wide: rights, Account("PUBLIC", ""): ON_PROJECT})
    made = planned(old, want, unmanaged="lock")
    assert r"REVOKE SELECT ON `a\_b`.* FROM 'ann'@'%'" in sql(made)
    assert r"REVOKE SELECT ON `a\_b`.* FROM PUBLIC" in sql(made)
    assert made.new.rights[wide] == {Scope("database", "other"): {"SELECT"}}


def test_drop_leaves_nothing_foreign():
    want = described(LISTS)
    ghost, member = Account("ghost", "%"), Account("rob", DESK)
    in_role = {Scope("role", "", "clerks", ""): {"ROLE"}}
    old = with_foreign(
        want, {FOREIGN: ON_PROJECT, ghost: ON_PROJECT, CLERKS: ON_PROJECT, member: in_role}, without=["ghost"]
    )
    old.rights[Account("root", "localhost")] = {
        scope: frozenset(words) for scope, words in in_role.items()
    }  # who made it is in it
    made = planned(old, want, unmanaged="drop")
    texts = sql(made)
    assert "DROP USER 'rob'@'192.0.2.7'" in texts
    assert "DROP USER 'zoe'@'%'" in texts
    assert "DROP ROLE `clerks`" in texts
    (delete,) = (text for text in texts if text.startswith("DELETE FROM mysql."))
    assert delete == r"DELETE FROM mysql.db WHERE User = 'ghost' AND Host = '%' AND Db = 'a\\_b'"
    assert names(made) == {"ann", "bob"}
    assert made.findings == ()
    assert planned(made.new, want, unmanaged="drop").steps == ()


def test_drop_keeps_what_others_need():
    want = described(LISTS)
    nightly = Account("nightly", "%")
    in_role = {Scope("role", "", "clerks", ""): {"ROLE"}}
    old = with_foreign(want, {VIEWER: ON_PROJECT, CLERKS: ON_PROJECT, nightly: in_role})
    old = replace(old, definers=frozenset([VIEWER]))
    made = planned(old, want, protected=["nightly"], unmanaged="drop")
    assert [text for text in sql(made) if "DROP" in text] == []
    assert made.new.accounts[VIEWER].locked
    assert any("was locked, not dropped: views or routines run with its rights" in found for found in made.findings)


@pytest.mark.parametrize(("flavour", "left_alone"), [("mysql", True), ("mariadb", False)])
def test_what_mysql_cannot_lock_is_left_alone(flavour, left_alone):
    want = described(LISTS)
    pattern = Account("ann", r"lab\_7.example.org")
    old = server(want, flavour)
    old.accounts[pattern] = Login("mysql_native_password", "*X")
    old.rights[pattern] = {scope: frozenset(names) for scope, names in ON_PROJECT.items()}
    made = planned(old, want, unmanaged="lock")
    assert (made.steps == ()) == left_alone
    assert any("locks no account with a backslash in its host" in found for found in made.findings) == left_alone
    assert pattern not in planned(old, want, unmanaged="drop").new.accounts


@pytest.mark.parametrize("mode", ["lock", "drop"])
@pytest.mark.parametrize(
    ("account", "rights"),
    [
        (Account("root", "%"), {GLOBAL: {"SUPER"}}),
        (Account("mariadb.sys", "localhost"), {GLOBAL: {"SELECT"}}),
        (Account("exporter", "localhost"), {GLOBAL: {"SELECT", "PROCESS"}}),
        (Account("anything", DESK), {GLOBAL: {"REPLICATION SLAVE"}}),
        (Account("anything", DESK), {GLOBAL: {"RELOAD", "PROCESS", "LOCK TABLES", "BINLOG MONITOR"}}),
        (Account("nightly", "%"), {GLOBAL: {"SELECT"}}),
        (Account("operator", "localhost"), {GLOBAL: {"SUPER"}}),
    ],
)
def test_accounts_of_the_server_and_its_services_are_never_touched(mode, account, rights):
    want = described(LISTS)
    old = replace(with_foreign(want, {account: rights}), own=Account("operator", "localhost"))
    made = planned(old, want, protected=["nightly"], unmanaged=mode)
    assert made.steps == ()


@pytest.mark.parametrize("mode", ["lock", "drop"])
@pytest.mark.parametrize("rights", [ON_PROJECT, {GLOBAL: {"REPLICATION CLIENT"}}])
def test_an_account_of_a_listed_persons_name_is_no_services(monkeypatch, mode, rights):
    """It would open what the list gives that person, with another password or from elsewhere."""
    monkeypatch.setitem(PASSWORDS, "backup", "password of backup")
    want = described(project("a_b", write=["ann"], read=["backup"]))
    wide = Account("backup", "%")
    old = with_foreign(want, {wide: rights})
    assert "its password and rights count for backup" in planned(old, want).findings[0]
    made = planned(old, want, unmanaged=mode)
    assert wide not in made.new.accounts or made.new.accounts[wide].locked
    assert effective(made.new, "backup", DESK) - {(GLOBAL, "REPLICATION CLIENT")} == on("a_b", "SELECT")
    assert login_account(made.new, "backup", DESK) == Account("backup", DESK)


@pytest.mark.parametrize(
    "rights", [{GLOBAL: {"SUPER"}}, {GLOBAL: {"PROCESS"}, **ON_PROJECT}, {GLOBAL: {"SELECT"}}, ON_PROJECT, {}]
)
def test_more_than_a_services_rights_are_a_persons(rights):
    want = described(LISTS)
    old = with_foreign(want, {FOREIGN: rights})
    assert "zoe" not in names(planned(old, want, unmanaged="drop"))


@pytest.mark.parametrize(
    ("rights", "words"),
    [
        ({whole_database("a_b"): {"SELECT", "ALTER"}}, "SELECT, ALTER on a_b, more than any client needs"),
        ({Scope("table", "a_b", "pack_object"): {"DROP"}}, "DROP on a_b.pack_object."),
        ({Scope("table", "a_b", "t"): {"TRIGGER"}}, "TRIGGER on a_b.t, which no client needs"),
        ({Scope("column", "a_b", "t", "c"): {"SELECT"}}, "SELECT on a_b.t.c, which no client needs"),
        ({Scope("PROCEDURE", "a_b", "p"): {"EXECUTE"}}, "EXECUTE on procedure a_b.p, which no client needs"),
        ({Scope("proxy", "", "ann", DESK): {"PROXY"}}, "it may act as 'ann'@'192.0.2.7'"),
        ({Scope("role", "", "clerks", ""): {"ROLE"}}, "SELECT on a_b through the role clerks"),
    ],
)
def test_what_foreign_rights_reach_is_said(rights, words):
    want = described(LISTS)
    made = planned(with_foreign(want, {Account("zoe", DESK): rights, CLERKS: ON_PROJECT}), want)
    assert any(found.startswith("'zoe'") and words in found for found in made.findings)


# Limits


def test_an_account_has_the_persons_limit_or_the_labs():
    want = described(LISTS, limit=24, limits={"bob": {"connections": 90}})
    made = planned(State("mariadb"), want)
    creates = {text.split("'")[1]: text for text in sql(made) if text.startswith("CREATE USER")}
    assert " REQUIRE NONE WITH MAX_USER_CONNECTIONS 24 PASSWORD EXPIRE NEVER" in creates["ann"]
    assert " WITH MAX_USER_CONNECTIONS 90 " in creates["bob"]
    changed = planned(made.new, described(LISTS, limit=6, limits={"bob": {"connections": 0}}))
    assert "ALTER USER 'ann'@'192.0.2.7' WITH MAX_USER_CONNECTIONS 6" in sql(changed)
    assert "ALTER USER 'bob'@'192.0.2.0/255.255.255.0' WITH MAX_USER_CONNECTIONS 0" in sql(changed)
    assert "'ann'@'192.0.2.7': the password of the list, TLS optional, at most 24 connections" in changed.before
    assert sessions_to_end(changed, [(7, "ann", f"{DESK}:1")]) == []


# PEAT's own dialog

ADMIN = {"from": [DESK], "prefix": "made"}
MADE = Scope("database", "madeone")


def test_the_dialogs_account_has_only_its_prefix():
    want = described(LISTS, secrets={**PASSWORDS, "peatadmin": "the administrator's"}, admin=ADMIN)
    old = State("mysql", everything=frozenset(["SELECT", "CREATE"]))
    made = planned(old, want)
    rights = made.new.rights[Account("peatadmin", DESK)]
    assert rights == {Scope("database", "made%"): {"SELECT", "CREATE", "GRANT OPTION"}, GLOBAL: {"RELOAD"}}
    newer = replace(old, rights={old.own: {GLOBAL: frozenset(["FLUSH_PRIVILEGES"])}})
    assert planned(newer, want).new.rights[Account("peatadmin", DESK)][GLOBAL] == {"FLUSH_PRIVILEGES"}
    (door,) = (text for text in sql(made) if text.startswith("CREATE USER") and "'cat'@'%'" in text)
    assert door.endswith("ACCOUNT LOCK")
    assert planned(made.new, want).steps == ()


def test_what_the_dialog_grants_stays_until_the_list_knows_the_database():
    want = described(LISTS, admin=ADMIN)
    old, door = server(want), Account("ann", "%")
    everything = frozenset(["SELECT", "INSERT"])
    old.rights[door] = {
        MADE: everything,
        Scope("database", "other"): everything,
        Scope("database", "made%"): everything,
    }
    made = planned(old, want)
    assert made.new.rights[door] == {MADE: everything, Scope("database", "made%"): everything}
    adopting = described(LISTS, project("madeone", read=["bob"]), admin=ADMIN)
    assert door not in planned(made.new, adopting).new.rights
    assert door not in planned(made.new, want, unmanaged="drop").new.rights
    assert door not in planned(made.new, described(LISTS)).new.accounts


@pytest.mark.parametrize(
    ("tables", "lines"),
    [
        ((), "{name: madeone, clients: peat2, write: [ann], read: [zoe]}"),
        (("object_state", "transaction"), "{name: madeone, clients: peat2, write: [ann], read: [zoe]}"),
        (
            ("object_state", "transaction", "commit_row_lock"),
            "{name: madeone, clients: relstorage4, write: [ann], read: [zoe]}",
        ),
        (
            ("object_state", "commit_row_lock"),
            "{name: madeone, clients: relstorage4, keep_history: false, write: [ann], read: [zoe]}",
        ),
    ],
)
def test_a_database_that_the_list_does_not_know_is_told_with_the_lines_that_adopt_it(tables, lines):
    state = server(described(LISTS))
    state.rights[Account("ann", "%")] = {MADE: frozenset(["SELECT", "INSERT"])}
    state.rights[FOREIGN] = {MADE: frozenset(["SELECT"])}
    (finding,) = unlisted.findings(state, {"madeone": frozenset(tables)}, ["a_b"], PASSWORDS)
    assert finding.endswith(
        f"write into the inventory:\npeat_people:\n  - {{name: zoe, from: [ADDRESS]}}\npeat_projects:\n  - {lines}"
    )


def test_databases_of_others_are_not_told():
    state = server(described(LISTS))
    state.rights[FOREIGN] = {Scope("database", "wiki"): frozenset(["SELECT"])}
    databases = {"wiki": frozenset(["page"]), "madenew": frozenset(), "empty": frozenset()}
    assert unlisted.findings(state, databases, ["a_b"], PASSWORDS) == []
    (finding,) = unlisted.findings(state, databases, ["a_b"], PASSWORDS, "made")
    assert finding.startswith("the database madenew is empty and is not in the list")


def test_projects_that_the_dialogs_account_reaches_are_told():
    (finding,) = unlisted.findings(server(described(LISTS)), {}, ["a_b", "madeone"], PASSWORDS, "made")
    assert finding.startswith("peatadmin can do anything with madeone")


# Administrators, who add users in phpMyAdmin

KEEPER = Account("keeper", "127.0.0.1")


def test_an_administrator_has_what_a_user_can_be_given_and_no_more():
    lists = [
        project("hewl", write=["ann"]),
        project("modern_hf", clients="relstorage4", keep_history=False),
        project("still", write=["ann"], state="frozen"),
        project("gone", state="absent"),
    ]
    want = described(
        *lists, secrets={**PASSWORDS, "keeper": "the keeper's password"}, administrators=[{"name": "keeper"}]
    )
    writer = {"SELECT", "INSERT", "UPDATE", "DELETE", "CREATE TEMPORARY TABLES"}
    made = planned(State("mariadb"), want)
    assert made.new.rights[KEEPER] == {
        GLOBAL: {"CREATE USER", "GRANT OPTION"},
        Scope("database", "mysql"): {"SELECT", "UPDATE"},
        Scope("database", "hewl"): writer,
        **{Scope("table", "hewl", name): {"DROP"} for name in ("pack_object", "pack_state", "pack_state_tid")},
        Scope("database", r"modern\_hf"): writer | {"EXECUTE"},
        Scope("table", "modern_hf", "pack_object"): {"DROP"},
        Scope("database", "still"): {"SELECT"},
    }
    assert [account for account in want.accounts if account.user == "keeper"] == [KEEPER]
    assert any(text.startswith("GRANT CREATE USER, GRANT OPTION ON *.* TO 'keeper'@'127.0.0.1'") for text in sql(made))
    assert planned(made.new, want).steps == ()
    assert planned(made.new, described(*lists)).new.accounts.keys().isdisjoint({KEEPER})
    assert planned(State("mysql"), want).new.rights[KEEPER][Scope("database", "mysql")] == {"SELECT"}


# Sessions


def ended(before, after, user, client, flavour="mariadb"):
    made = planned(server(before, flavour), after)
    return sessions_to_end(made, [(7, user, f"{client}:40000")]) == [7]


@pytest.mark.parametrize(
    ("before", "after", "user", "client", "expected"),
    [
        (project(write=["ann"]), project(read=["ann"]), "ann", DESK, True),
        (project(read=["ann"]), project(write=["ann"]), "ann", DESK, False),
        (project(write=["ann"]), project(write=["bob"]), "ann", DESK, True),
        (project(write=["ann"]), project(write=["ann"], read=["bob"]), "ann", DESK, False),
        # Only the desk loses: the campus is cut, its other sessions live on.
        (
            project(write=[by("ann", CAMPUS)]),
            project(write=[by("ann", CAMPUS)], read=[by("ann", DESK)]),
            "ann",
            DESK,
            True,
        ),
        (
            project(write=[by("ann", CAMPUS)]),
            project(write=[by("ann", CAMPUS)], read=[by("ann", DESK)]),
            "ann",
            "192.0.2.8",
            False,
        ),
        (
            project(write=[by("ann", CAMPUS6)]),
            project(write=[by("ann", CAMPUS6)], read=[by("ann", DESK6)]),
            "ann",
            DESK6,
            True,
        ),
        (
            project(write=[by("ann", CAMPUS6)]),
            project(write=[by("ann", CAMPUS6)], read=[by("ann", DESK6)]),
            "ann",
            "2001:db8:1::8",
            False,
        ),
        # The list takes the desk away, the campus still gives the same.
        (project(write=[by("ann", CAMPUS, DESK)]), project(write=[by("ann", CAMPUS)]), "ann", DESK, False),
        # Not a client of this server's list.
        (project(write=["ann"]), project(read=["ann"]), "root", "localhost", False),
    ],
)
def test_sessions_that_could_do_more_than_a_new_one_end(before, after, user, client, expected):
    assert ended(described(before), described(after), user, client) is expected


def test_sessions_end_when_tls_or_another_password_is_asked_for():
    lists = project(clients="relstorage4", write=["ann"])
    plain, tls = described(lists), described(lists, tls=["ann"])
    other = described(lists, secrets={**PASSWORDS, "ann": "a new password"})
    assert ended(plain, tls, "ann", DESK)
    assert not ended(tls, plain, "ann", DESK)
    assert ended(plain, other, "ann", DESK)


def test_an_interrupted_run_does_not_leave_sessions_behind():
    """Killed after the rights shrank, before the sessions ended: the next run ends them."""
    before, after = described(project(write=["ann"])), described(project(read=["ann"]))
    made = planned(server(before), after)
    assert made.steps[0].sql == "INSERT INTO peat_server.unsettled_user VALUES ('ann')"
    assert made.last_steps[-1].sql == "DELETE FROM peat_server.unsettled_user"
    resumed = planned(replace(made.new, unsettled=frozenset(["ann"])), after)
    assert resumed.before == "sessions of 'ann' with older rights\n"
    assert sessions_to_end(resumed, [(7, "ann", f"{DESK}:1"), (8, "bob", f"{DESK}:1")]) == [7]
    assert resumed.last_steps == made.last_steps


def test_anonymous_sessions_end_with_their_account():
    want = described(LISTS)
    old = server(want)
    old.accounts[Account("", "%")] = Login("mysql_native_password", "")
    made = planned(old, want)
    assert sessions_to_end(made, [(7, "anybody", f"{DESK}:1"), (8, "ann", f"{DESK}:1")]) == [7]
