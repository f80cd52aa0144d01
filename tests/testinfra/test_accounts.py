"""Accounts and grants on the real server: at every address exactly what the list says, and nothing beside it.

These tests give the server lists of their own, through the module alone; afterwards site.yml makes it the
scenario's again. The host `modern` gets more addresses, all in the scenario's network `campus`, which the firewall
lets in.
"""

from __future__ import annotations

import itertools
import json
import random
import shlex
import subprocess

import logins
import onhost
import pytest
from conftest import background, run_ansible, wait_until
from logins import READS, REFUSED, WRITES
from peat.passwords import generate

PROJECTS = {"acc_ount": ("peat2", True), "accXount": ("relstorage4", True), "accfree": ("relstorage4", False)}
PASSWORDS = {"ann": "ann's own password", "bob": 'bob "has" \\ another', "cat": "the password of cat"}
PEOPLE = 2000  # of which fifty are made with one statement


@pytest.fixture(scope="module")
def nets(lab):
    """The campus as the scenario declares it: the first three numbers in IPv4, the first four groups in IPv6."""
    return lab.server["address"].rpartition(".")[0], lab.server["address6"].partition("::")[0]


@pytest.fixture(scope="module")
def addresses(modern, nets):
    """Addresses of the host modern inside the campus, of which the networks in these tests hold different ones."""
    net4, net6 = nets
    more = [
        *(f"{net4}.{number}" for number in (90, 91, 100, 126)),
        *(f"{net6}:ca:{tail}" for tail in (":90", ":91", ":1:7", "5::7")),
    ]
    with logins.more_addresses(modern, more):
        yield more


@pytest.fixture(scope="module")
def databases(sql, site):
    """The projects' databases with the tables that rights are about; then the scenario's list again."""
    site.to_restore = True
    with logins.databases(sql, PROJECTS):
        yield


def given(projects, people=None, **more):
    """The arguments of a list."""
    people = people or [{"name": name, "from": ["192.0.2.1"]} for name in PASSWORDS]
    return {"people": people, "projects": projects, "passwords": PASSWORDS, "allow_anywhere": True, **more}


@pytest.fixture(scope="module")
def access(databases, lab):
    """access(projects, people=..., passwords=..., check=False) -> the module's result."""
    with onhost.module(onhost.ssh(lab.server), "peat_access") as run:

        def ask(projects, people=None, check=False, fails=False, **more):
            result = run(given(projects, people, **more), check)
            assert result.get("failed", False) is fails, result
            return result

        yield ask


@pytest.fixture(scope="module")
def reach(lab, modern):
    """reach([(user, address), ...]) -> for each an error's number, or what it can do by project."""
    with logins.log_in(lab, modern) as log_in:

        def run(pairs, passwords=PASSWORDS, tls=True):
            words = ({"user": user, "password": passwords[user], "from": source} for user, source in pairs)
            return log_in([{**login, "tls": tls} for login in words], PROJECTS)

        yield run


@pytest.fixture
def hold(reach, lab, modern):
    """hold(user, address) -> a function that returns the error that ended this session, None while it lives."""
    units = []

    def run(user, source):
        unit = f"peat-hold-{len(units)}"
        login = {"user": user, "password": PASSWORDS[user], "from": source}
        log = f"/run/{unit}.log"
        command = [*logins.REACH, "hold", json.dumps({**logins.server(lab), "login": login})]
        modern.check_output(f"{background(unit, log)} {shlex.join(command)}")
        units.append(unit)

        def lines():
            return modern.run(f"cat {log}").stdout.split()

        wait_until(lambda: lines()[:1] == ["connected"], f"a session of {user} from {source}")
        return lambda: int(lines()[1]) if len(lines()) > 1 else None

    yield run
    for unit in units:
        modern.run(f"systemctl stop {unit}")


def project(name, write=(), read=(), **more):
    clients, keep_history = PROJECTS[name]
    lists = {"write": list(write), "read": list(read)}
    return {"name": name, "clients": clients, "keep_history": keep_history, **lists, **more}


def by(person, *sources):
    return {"person": person, "from": list(sources)}


def hold_against_the_list(reach, projects, addresses):
    rows = logins.matrix(given(projects, networks=[]))
    pairs = list(itertools.product(PASSWORDS, addresses))
    wrong = []
    for (user, source), got in zip(pairs, reach(pairs), strict=True):
        said = logins.said(rows, PROJECTS, user, source)
        if said is None and got not in REFUSED:
            wrong.append((user, source, "was let in", got))
        if said is not None and got != said:
            wrong.append((user, source, "can", got, "and should", said))
    assert not wrong


# At every address what the list says


def test_overlapping_networks(access, reach, addresses, nets):
    net4, net6 = nets
    campus = [f"{net4}.64/26", f"{net6}:ca::/80"]
    one = [f"{net4}.90", f"{net6}:ca::90"]
    projects = [
        project("acc_ount", write=[by("ann", *campus)], read=[by("ann", *one)]),
        project("accXount", read=[by("ann", *campus), by("bob", *one)], write=[by("ann", *one), by("bob", *campus)]),
        project("accfree", write=[by("bob", "%")], read=[by("bob", *campus), by("cat", *one)]),
    ]
    assert access(projects)["changed"]
    hold_against_the_list(reach, projects, addresses)
    assert not access(projects)["changed"]


def test_any_lists_one_after_the_other(access, reach, addresses, nets, sql):
    """Each list starts from the accounts of the one before it; after the second the server reads its grants anew."""
    net4, net6 = nets
    networks = [
        *(f"{net4}.{tail}" for tail in ("0/24", "64/26", "96/27", "90", "91", "100")),
        "%",
        *(f"{net6}:{tail}" for tail in (":/64", "ca::/80", "ca:5::/96", "ca::90", "ca:5::7")),
    ]
    choose = random.Random(1)
    for number in range(3):
        projects = []
        for name in PROJECTS:
            levels = {
                (person, network): choose.choice(("write", "read", None))
                for person in PASSWORDS
                for network in networks
            }
            entries = {"write": [], "read": []}
            for level, items in entries.items():
                for person in PASSWORDS:
                    sources = [network for network in networks if levels[person, network] == level]
                    items += [by(person, *sources)] if sources else []
            projects.append(project(name, **entries, state=choose.choice(("present", "present", "frozen"))))
        predicted = access(projects, check=True)
        done = access(projects)
        assert (predicted["steps"], predicted["diff"]) == (done["steps"], done["diff"])
        if number == 1:
            sql("FLUSH PRIVILEGES")
        hold_against_the_list(reach, projects, addresses)
        again = access(projects)
        assert (again["changed"], again["steps"]) == (False, [])


def test_tls_is_required_of_whom_the_list_says(access, reach, addresses, sql):
    people = [
        {"name": name, "from": [addresses[0]], "tls": "required" if name == "bob" else "optional"} for name in PASSWORDS
    ]
    projects = [project("accXount", write=["ann", "bob"])]
    access(projects, people=people)
    pairs = [("ann", addresses[0]), ("bob", addresses[0])]
    in_clear = reach(pairs, tls=False)
    assert in_clear[0]["accXount"] == WRITES | {"call"}
    assert in_clear[1] in REFUSED
    if logins.offers_tls(sql):
        assert reach(pairs)[1]["accXount"] == WRITES | {"call"}


# Passwords


def test_a_password_changes_only_where_it_differs(access, reach, addresses, sql):
    projects = [project("accXount", read=[by(name, addresses[0]) for name in PASSWORDS])]
    access(projects)
    other = {**PASSWORDS, "ann": "a password of today"}
    changed = access(projects, passwords=other)
    assert [step for step in changed["steps"] if "password" in step] == [f"set the password of 'ann'@'{addresses[0]}'"]
    pair = [("ann", addresses[0])]
    assert reach(pair, passwords=PASSWORDS)[0] in REFUSED
    assert reach(pair, passwords=other)[0]["accXount"] == READS
    assert not access(projects, passwords=other)["changed"]
    # Somebody sets it by hand.
    sql(f"ALTER USER 'ann'@'{addresses[0]}' IDENTIFIED BY 'set by hand'")
    assert access(projects, passwords=other)["changed"]
    assert reach(pair, passwords=other)[0]["accXount"] == READS


def test_no_password_reaches_a_log(access, sql, addresses):
    projects = [project("accXount", read=[by(name, addresses[0]) for name in PASSWORDS])]
    access([])
    sql("SET GLOBAL log_output = 'TABLE'")
    sql("TRUNCATE mysql.general_log")
    sql("SET GLOBAL general_log = ON")
    try:
        result = access(projects)
    finally:
        sql("SET GLOBAL general_log = OFF")
    logged = "\n".join(
        itertools.chain.from_iterable(sql("SELECT CONVERT(argument USING utf8mb4) FROM mysql.general_log"))
    )
    sql("SET GLOBAL log_output = DEFAULT")
    assert "CREATE USER" in logged
    # cat's has no character that batch output would write differently
    assert PASSWORDS["cat"] not in logged
    assert PASSWORDS["cat"] not in json.dumps({key: result[key] for key in ("steps", "diff", "findings")})


def test_a_dry_run_before_passwords_exist_predicts_the_run(access, addresses):
    access([])
    projects = [project("accXount", read=[by(name, addresses[0]) for name in PASSWORDS])]
    predicted = access(projects, check=True, passwords=dict.fromkeys(PASSWORDS))
    refused = access(projects, passwords=dict.fromkeys(PASSWORDS), fails=True)
    assert "no password for ann, bob, cat" in refused["msg"]
    done = access(projects, passwords={name: generate() for name in PASSWORDS})
    assert (predicted["steps"], predicted["diff"]) == (done["steps"], done["diff"])


# What is not in the list


def test_what_is_not_in_the_list(access, sql, reach, addresses):
    """A foreign account is reported and left alone; what installations leave open goes; extra rights go."""
    projects = [project("acc_ount", read=[by("ann", addresses[0])])]
    access(projects)
    ann = f"'ann'@'{addresses[0]}'"
    sql("CREATE USER 'zoe'@'%' IDENTIFIED BY 'the password of zoe'")
    sql("GRANT SELECT ON `acc_ount`.* TO 'zoe'@'%'")
    sql("CREATE USER ''@'localhost'")
    sql("CREATE DATABASE test")
    sql("CREATE ROLE clerk")
    sql("CREATE DATABASE other")
    sql("CREATE TABLE other.t (a INT, b INT)")
    for right in (
        "INSERT, GRANT OPTION ON *.*",
        "SELECT ON other.*",
        "DELETE ON other.t",
        "UPDATE (a, b) ON other.t",
        "DROP, CREATE ON `acc\\_ount`.*",
        "EXECUTE ON PROCEDURE acc_ount.nothing",
    ):
        sql(f"GRANT {right} TO {ann}".replace(", GRANT OPTION ON *.*", " ON *.*"))
    sql(f"GRANT SELECT ON other.* TO {ann} WITH GRANT OPTION")
    sql(f"GRANT clerk TO {ann}")
    grants = sql("SHOW GRANTS FOR 'zoe'@'%'")
    try:
        predicted = access(projects, check=True)
        done = access(projects)
        assert (predicted["steps"], predicted["diff"]) == (done["steps"], done["diff"])
        (finding,) = (finding for finding in done["findings"] if finding.startswith("'zoe'"))
        assert "`acc_ount`, where _ and % stand for any letters, so also on acc_ount" in finding
        assert "it may come from every address" in finding
        assert any("zoe" in str(warning) for warning in done["warnings"])
        assert sql("SHOW GRANTS FOR 'zoe'@'%'") == grants
        assert sql("SELECT user FROM mysql.user WHERE user = ''") == []
        assert sql("SHOW DATABASES LIKE 'test'") == []
        assert reach([("ann", addresses[0])]) == [{name: READS if name == "acc_ount" else set() for name in PROJECTS}]
        shown = sql(f"SHOW GRANTS FOR {ann}")
        assert len(shown) == 2, shown  # USAGE, and SELECT on the project
        again = access(projects)
        assert not again["changed"]
        assert again["findings"] == done["findings"]
    finally:
        sql("DROP USER 'zoe'@'%'")
        sql("DROP ROLE clerk")
        sql("DROP DATABASE other")


def test_a_test_database_in_use_stays(access, sql, addresses):
    sql("CREATE DATABASE test")
    sql("CREATE TABLE test.results (a INT)")
    try:
        result = access([project("acc_ount", read=[by("ann", addresses[0])])])
        assert sql("SHOW TABLES FROM test") == [["results"]]
        assert any("the database test is not empty" in finding for finding in result["findings"])
    finally:
        sql("DROP DATABASE test")


def test_an_account_made_by_hand_is_taken_over(access, sql, reach, addresses):
    access([])
    host = addresses[0]
    sql(f"CREATE USER 'ann'@'{host}' IDENTIFIED BY 'from the wiki page' REQUIRE X509 PASSWORD EXPIRE ACCOUNT LOCK")
    sql(f"GRANT ALL PRIVILEGES ON `acc_ount`.* TO 'ann'@'{host}'")
    projects = [project("acc_ount", write=[by("ann", host)])]
    assert access(projects)["changed"]
    assert reach([("ann", host)])[0]["acc_ount"] == WRITES
    assert not access(projects)["changed"]
    access([])
    assert sql("SELECT host FROM mysql.user WHERE user = 'ann'") == []


def test_who_is_adopted_keeps_the_password(access, sql, reach, addresses, nets, lab):
    """As playbooks/adopt.yml reads them. MySQL has hosts of its own, and another salt in each account of a person."""
    access([])
    old = dict.fromkeys(PASSWORDS, "the password of old")
    campus = f"{nets[0]}.64/26"
    by_hand, said = (campus, campus) if lab.server["flavour"] == "mysql" else (f"{nets[0]}.%", f"{nets[0]}.0/24")
    hosts = [("ann", addresses[0]), ("ann", addresses[1]), ("bob", f"{nets[0]}.64/255.255.255.192"), ("cat", by_hand)]
    for user, host in hosts:
        sql(f"CREATE USER '{user}'@'{host}' IDENTIFIED BY '{old[user]}'")
        sql(f"GRANT {'SELECT' if user == 'cat' else 'ALL PRIVILEGES'} ON hewlsample.* TO '{user}'@'{host}'")
    sql("CREATE ROLE clerk")
    sql("GRANT SELECT ON hewlsample.* TO clerk")
    try:
        words = ["mysql", "--module-name=peat_adoption", "--args", json.dumps({"server": "old", "passwords": True})]
        code, report, text = run_ansible("ansible", *words)
        assert code == 0 and report, text
        (found,) = report["plays"][0]["tasks"][0]["hosts"].values()
        people = {person["name"]: person["from"] for person in found["people"]}
        assert people == {"ann": addresses[:2], "bob": [campus], "cat": [said]}
        (hewlsample,) = [entry for entry in found["projects"] if entry["name"] == "hewlsample"]
        assert hewlsample == {"name": "hewlsample", "clients": "peat2", "write": ["ann", "bob"], "read": ["cat"]}
        assert "clerk" not in str(found["people"] + found["remarks"])
        lists = {"people": found["people"], "networks": found["networks"], "passwords": {}}
        assert access(found["projects"], **lists)["changed"]
        assert any(f"DROP USER 'cat'@'{by_hand}'" in remark for remark in found["remarks"])
        sql(f"DROP USER 'cat'@'{by_hand}'")
        pairs = [("ann", addresses[0]), ("ann", addresses[1]), ("bob", addresses[0]), ("cat", addresses[2])]
        assert [result for result in reach(pairs, passwords=old) if result in REFUSED] == []
        assert not access(found["projects"], **lists)["changed"]
    finally:
        sql(f"DROP USER IF EXISTS 'cat'@'{by_hand}'")
        sql("DROP ROLE clerk")


# Sessions


def test_sessions_of_whom_the_list_gives_less_end(access, hold, reach, addresses, nets):
    first, second = addresses[0], addresses[1]
    campus = f"{nets[0]}.64/26"
    access([project("acc_ount", write=[by("ann", campus), by("bob", first), by("cat", first)])])
    sessions = {
        "lowered": hold("ann", first),
        "same": hold("ann", second),
        "removed": hold("bob", first),
        "untouched": hold("cat", first),
    }
    result = access([project("acc_ount", write=[by("ann", campus), by("cat", first)], read=[by("ann", first)])])
    assert result["sessions_ended"] == 2
    wait_until(lambda: sessions["lowered"]() and sessions["removed"](), "two sessions to end")
    assert (sessions["same"](), sessions["untouched"]()) == (None, None)
    assert reach([("bob", first)])[0] in REFUSED


def test_a_run_killed_half_way_is_finished_by_the_next(access, lab, server, sql, addresses, hold):
    """Whatever exists in between has its password, and nothing beyond the list."""
    access([project("acc_ount", write=[by("ann", addresses[0])])])
    session = hold("ann", addresses[0])
    people = [{"name": f"person{number}", "from": [addresses[1]]} for number in range(PEOPLE)]
    people += [{"name": name, "from": ["192.0.2.1"]} for name in PASSWORDS]
    passwords = {person["name"]: f"password of {person['name']}" for person in people}
    passwords.update(PASSWORDS)
    projects = [
        project("acc_ount", write=[f"person{number}" for number in range(PEOPLE)], read=[by("ann", addresses[0])])
    ]
    # The host itself ends the module at its 20th account, so that no timing decides.
    client = "mariadb" if server.exists("mariadb") else "mysql"
    query = "SELECT COUNT(*) FROM mysql.user WHERE user LIKE 'person%'"
    count = f'{client} --batch --skip-column-names --execute="{query}"'
    watch = f"while [ $({count}) -lt 20 ]; do :; done; pkill --signal KILL --full 'start.py [p]eat_access'"
    assert server.run("systemd-run --quiet --collect --unit=peat-kill sh -c %s", watch).rc == 0
    words = [*onhost.ssh(lab.server), f"python3 {onhost.FOLDER}/start.py peat_access -"]
    text = json.dumps(given(projects, people, passwords=passwords))
    assert subprocess.run(words, input=text, text=True, capture_output=True).stdout == ""
    assert 20 <= int(sql(query)[0][0]) < PEOPLE
    assert sql("SELECT user FROM mysql.user WHERE user LIKE 'person%' AND authentication_string = ''") == []
    assert session() is None  # its rights have shrunk, and the killed run did not come to end it
    done = access(projects, people=people, passwords=passwords)
    assert done["changed"]
    wait_until(session, "ann's session to end")
    again = access(projects, people=people, passwords=passwords)
    assert not again["changed"]
    assert sql(query) == [[str(PEOPLE)]]


# Errors


def test_a_server_that_is_not_there_is_named(access):
    result = access([], login_unix_socket="/run/mysqld/nowhere.sock", fails=True)
    assert "/run/mysqld/nowhere.sock" in result["msg"]
