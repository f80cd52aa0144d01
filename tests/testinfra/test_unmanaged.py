"""What is on a server and not in the list: reported, locked or dropped; databases from PEAT's own dialog; limits.

The module is given lists of its own; afterwards site.yml makes the server the scenario's again.
"""

from __future__ import annotations

import json
import shlex
import stat
import subprocess
from pathlib import Path

import logins
import onhost
import pytest
import yaml
from conftest import CLIENTS, INTERPRETERS, put

pytestmark = pytest.mark.any_list

PROJECTS = {"un_managed": ("relstorage4", True), "unXmanaged": ("relstorage4", True)}
SECRETS = {"ann": "the password of ann", "bob": "the password of bob", "peatadmin": "the administrator's"}
FOREIGN = "the password of others"
LIMITED, TOO_MANY, LOCKED = 1226, 1040, (3118, 4151)

#: Rows that an account deleted by hand leaves behind.
ORPHAN = "INSERT INTO mysql.db (Host, Db, User, Select_priv) VALUES ('%', 'un\\\\_managed', 'ghost', 'Y')"
STATEMENTS = (
    # Nobody the list knows, with rights on a project and more; one that has been locked before.
    "CREATE USER 'zoe'@'%' IDENTIFIED BY '{password}'",
    "GRANT SELECT, CREATE ON `un_managed`.* TO 'zoe'@'%'",
    "GRANT INSERT ON `un_managed`.object_state TO 'zoe'@'%'",
    "CREATE USER 'max'@'localhost' IDENTIFIED BY '{password}' ACCOUNT LOCK",
    # A person of the list, from everywhere: this row counts for her wherever no narrower one hides it.
    "CREATE USER 'ann'@'%' IDENTIFIED BY '{password}'",
    "GRANT ALL PRIVILEGES ON `unXmanaged`.* TO 'ann'@'%'",
    "GRANT ALL PRIVILEGES ON elsewhere.* TO 'ann'@'%'",
    # Rights through a role; rights to run a routine.
    "CREATE ROLE clerks",
    "GRANT UPDATE ON unXmanaged.* TO clerks",
    "CREATE USER 'rob'@'10.1.2.3' IDENTIFIED BY '{password}'",
    "GRANT clerks TO 'rob'@'10.1.2.3'",
    "GRANT EXECUTE ON PROCEDURE unXmanaged.nothing TO 'rob'@'10.1.2.3'",
    # With whose rights a view of the project runs.
    "CREATE USER 'definer'@'localhost' IDENTIFIED BY '{password}'",
    "GRANT SELECT ON `un\\_managed`.* TO 'definer'@'localhost'",
    "CREATE DEFINER='definer'@'localhost' VIEW un_managed.current_object_state"
    " AS SELECT * FROM un_managed.object_state",
    # Never touched: services, known by their names or by their rights, and what the administrator protects.
    "CREATE USER 'exporter'@'localhost' IDENTIFIED BY '{password}'",
    "GRANT SELECT, PROCESS ON *.* TO 'exporter'@'localhost'",
    "CREATE USER 'copy'@'10.1.2.3' IDENTIFIED BY '{password}'",
    "GRANT REPLICATION SLAVE ON *.* TO 'copy'@'10.1.2.3'",
    "CREATE USER 'nightly'@'%' IDENTIFIED BY '{password}'",
    "GRANT ALL PRIVILEGES ON *.* TO 'nightly'@'%'",
    ORPHAN,
    "FLUSH PRIVILEGES",
)
UNTOUCHED = ("root", "exporter", "copy", "nightly")


@pytest.fixture(scope="module")
def address(lab):
    return lab.hosts["modern"]["address"]


@pytest.fixture(scope="module")
def access(lab, sql, site):
    """access(unmanaged=..., check=False, **arguments) -> the module's result on the server."""
    site.to_restore = True
    with logins.databases(sql, PROJECTS), logins.peat_access(lab) as run:
        yield lambda check=False, **arguments: run(arguments, check)


@pytest.fixture(scope="module")
def log_in(lab, modern):
    with logins.log_in(lab, modern) as run:
        yield lambda user, password, source: run([{"user": user, "password": password, "from": source}], PROJECTS)[0]


@pytest.fixture(scope="module")
def lists(address):
    """Ann writes one project and reads the other; bob reads."""
    return {
        "people": [{"name": "ann", "from": [address]}, {"name": "bob", "from": [address]}],
        "projects": [
            {"name": "un_managed", "clients": "relstorage4", "write": ["ann"], "read": ["bob"]},
            {"name": "unXmanaged", "clients": "relstorage4", "read": ["bob"]},
        ],
        "passwords": SECRETS,
        "protected_accounts": ["nightly"],
    }


def client(lab, host, program, *words, password=""):
    """Run a program of tests/clients; what its last line says."""
    path = f"/usr/local/lib/peat-tests/{program}.py"
    put(host, (CLIENTS / f"{program}.py").read_bytes(), path)
    done = host.run(f"PEAT_PASSWORD={shlex.quote(password)} {INTERPRETERS['peat2']} {path} {shlex.join(words)}")
    assert done.rc == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def zoo(access, lists, sql):
    """Everything that is not in the list; afterwards only the list is left."""
    access(**lists)
    sql("CREATE DATABASE elsewhere")
    for statement in STATEMENTS:
        sql(statement.format(password=FOREIGN))
    yield
    users = "'zoe'@'%', 'max'@'localhost', 'ann'@'%', 'rob'@'10.1.2.3', 'definer'@'localhost', 'exporter'@'localhost'"
    sql(f"DROP USER IF EXISTS {users}, 'copy'@'10.1.2.3', 'nightly'@'%'")
    sql("DROP ROLE IF EXISTS clerks")
    sql("DELETE FROM mysql.db WHERE User = 'ghost'")
    sql("FLUSH PRIVILEGES")
    sql("DROP VIEW un_managed.current_object_state")
    sql("DROP DATABASE elsewhere")


def shown(sql, *names):
    """Every row of the grant tables and the way in, for accounts of these names."""
    listed = ", ".join(f"'{name}'" for name in names)
    accounts = sql(f"SELECT User, Host FROM mysql.user WHERE User IN ({listed}) AND Host <> '' ORDER BY User, Host")
    grants = [sql(f"SHOW GRANTS FOR '{user}'@'{host}'") for user, host in accounts]
    # MariaDB puts who makes a role into it.
    grants = [[row for row in rows if "clerks" not in row[0] or "root" not in row[0]] for rows in grants]
    locked = [sql(f"SHOW CREATE USER '{user}'@'{host}'") for user, host in accounts]
    return accounts, grants, locked


def settled(access, lists, mode):
    """What a run does; the dry run before it says the same, and the run after it nothing."""
    predicted = access(check=True, unmanaged=mode, **lists)
    done = access(unmanaged=mode, **lists)
    assert (predicted["steps"], predicted["diff"]) == (done["steps"], done["diff"])
    again = access(unmanaged=mode, **lists)
    assert (again["changed"], again["steps"], again["diff"]) == (False, [], {"before": "", "after": ""})
    assert again["findings"] == done["findings"] == predicted["findings"]
    return done


def about(result, name):
    return [finding for finding in result["findings"] if finding.startswith(name)]


# From the inventory's variables to the server


@pytest.fixture(scope="module")
def converged(site, sql, lab):
    """site.yml with every variable about accounts, on a server with two that the list does not know."""
    with_limit = [
        {**person, **({"connections": 9} if person["name"] == "farrell" else {})} for person in lab.server["people"]
    ]
    for user in ("zara", "watcher"):
        sql(f"CREATE USER '{user}'@'%' IDENTIFIED BY '{FOREIGN}'")
        sql(f"GRANT SELECT ON hewlsample.* TO '{user}'@'%'")
    run = site(
        {
            "peat_unmanaged": "lock",
            "peat_protected_accounts": ["watcher"],
            "peat_admin": {"from": [lab.hosts["peat2"]["address"]], "prefix": "made"},
            "peat_person_connections": 7,
            "peat_people": with_limit,
        }
    )
    yield run
    sql("DROP USER IF EXISTS 'zara'@'%', 'watcher'@'%'")
    sql("DROP DATABASE IF EXISTS madetoo")
    # Nothing generates it again with the same text.
    Path(lab.server["secrets"], "peatadmin").unlink(missing_ok=True)


def test_a_foreign_account_is_locked(converged, sql):
    assert converged.ok, converged.failure
    assert "ACCOUNT LOCK" in sql("SHOW CREATE USER 'zara'@'%'")[0][0]


def test_a_protected_account_is_left_alone(converged, sql):
    assert "ACCOUNT LOCK" not in sql("SHOW CREATE USER 'watcher'@'%'")[0][0]
    assert not [text for text in converged.output_of("Accounts |")[0]["findings"] if "watcher" in text]


def test_the_dialogs_password_is_generated_for_its_owner_only(converged, lab, peat2):
    path = Path(lab.server["secrets"], "peatadmin")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert lab.password("peatadmin") not in converged.text
    server = [lab.server["address"], str(lab.server["port"])]
    told = client(
        lab, peat2, "create_database", *server, "madetoo", "peatadmin", "farrell", password=lab.password("peatadmin")
    )
    assert [title for title, _ in told] == ["Project created"]


def test_the_grant_table_has_each_persons_limit(converged, sql, lab):
    names = [person["name"] for person in lab.server["people"]]
    rows = sql("SELECT DISTINCT User, max_user_connections FROM mysql.user")
    assert {name: int(limit) for name, limit in rows if name in names} == dict.fromkeys(names, 7) | {"farrell": 9}


# What becomes of what is not in the list


def test_reported(access, lists, sql, zoo):
    names = ("zoe", "max", "ann", "rob", "definer", *UNTOUCHED)
    before = shown(sql, *names)
    result = settled(access, lists, "report")
    assert not result["changed"]
    assert shown(sql, *names) == before
    (zoe,) = about(result, "'zoe'@'%'")
    assert "SELECT, CREATE on `un_managed`, where _ and % stand for any letters" in zoe
    assert "unXmanaged" in zoe
    assert "more than any client needs" in zoe
    assert "INSERT on un_managed.object_state" in zoe
    assert "it may come from every address" in zoe
    assert zoe.endswith("Add the person to peat_people, or: DROP USER 'zoe'@'%'")
    assert "is not in the list and is locked" in about(result, "'max'")[0]
    assert "its password and rights count for ann" in about(result, "'ann'@'%'")[0]
    assert "UPDATE on unXmanaged through the role clerks" in about(result, "'rob'")[0]
    assert "EXECUTE on procedure unXmanaged.nothing, which no client needs" in about(result, "'rob'")[0]
    assert "the role clerks was left alone: it has UPDATE on unXmanaged" in result["findings"]
    assert "does not exist, but rights of it do" in about(result, "'ghost'")[0]
    assert "looks like the account of a replication, backup or monitoring service" in about(result, "'copy'")[0]
    assert "looks like the account of a replication, backup or monitoring service" in about(result, "'exporter'")[0]
    assert about(result, "'nightly'") == []
    assert len(result["warnings"]) == len(result["findings"])


def test_locked(access, lists, sql, zoo, lab, modern, log_in, address):
    untouched = shown(sql, *UNTOUCHED)
    rights = shown(sql, "zoe", "rob", "definer")[1]
    assert log_in("zoe", FOREIGN, address)["un_managed"] == {"read"} | {"insert", "create"}
    data = {**logins.server(lab), "login": {"user": "zoe", "password": FOREIGN, "from": address}}
    line = [*logins.REACH, "hold", json.dumps(data)]
    session = subprocess.Popen(
        [*onhost.ssh(lab.hosts["modern"]), shlex.join(line)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert session.stdout.readline() == "connected\n"
    result = settled(access, lists, "lock")
    assert session.wait(30) == 0  # ended by the server
    assert result["sessions_ended"] == 1
    for user in ("zoe", "rob", "definer"):
        assert f"'{user}'" in result["diff"]["before"]
    assert log_in("zoe", FOREIGN, address) in LOCKED
    assert shown(sql, "zoe", "rob", "definer")[1] == rights
    assert shown(sql, *UNTOUCHED) == untouched
    assert about(result, "'zoe'") and "is not in the list and is locked" in about(result, "'zoe'")[0]
    # What counted for a person of the list is gone, what did not is not.
    assert log_in("ann", SECRETS["ann"], address)["unXmanaged"] == set()
    assert log_in("ann", SECRETS["ann"], address)["un_managed"] == logins.WRITES | {"call"}
    assert any("elsewhere" in row[0] for row in sql("SHOW GRANTS FOR 'ann'@'%'"))
    # It can be undone, and the module does not lock what is not foreign any more.
    sql("ALTER USER 'zoe'@'%' ACCOUNT UNLOCK")
    assert log_in("zoe", FOREIGN, address)["un_managed"] == {"read"} | {"insert", "create"}
    assert not access(unmanaged="lock", **{**lists, "protected_accounts": ["nightly", "zoe"]})["changed"]


def test_dropped(access, lists, sql, zoo, log_in, address):
    untouched = shown(sql, *UNTOUCHED)
    result = settled(access, lists, "drop")
    assert sql("SELECT User, Host FROM mysql.user WHERE User IN ('zoe', 'max', 'rob', 'clerks')") == []
    assert sql("SELECT User FROM mysql.db WHERE User IN ('zoe', 'ghost', 'rob', 'clerks')") == []
    assert sql("SELECT Host FROM mysql.user WHERE User = 'ann'") == [[address]]
    assert shown(sql, *UNTOUCHED) == untouched
    # The project's view works on, and nobody logs in to the account it runs with.
    assert "views or routines run with its rights" in about(result, "'definer'")[0]
    assert sql("SELECT COUNT(*) FROM un_managed.current_object_state")
    assert "ACCOUNT LOCK" in sql("SHOW CREATE USER 'definer'@'localhost'")[0][0]
    assert log_in("ann", SECRETS["ann"], address)["un_managed"] == logins.WRITES | {"call"}


# Limits

#: Opens connections as the first login until the server refuses one, then one as the second; prints how many, the
#: error, and what became of the second.
EXHAUST = """
import json, sys, pymysql
server, port, first, second = json.loads(sys.argv[1])
def connect(login):
    return pymysql.connect(host=server, port=port, user=login[0], password=login[1])
held, error = [], None
while error is None and len(held) < 500:
    try:
        held.append(connect(first))
    except pymysql.MySQLError as refused:
        error = refused.args[0]
try:
    connect(second)
    answer = "in"
except pymysql.MySQLError as refused:
    answer = refused.args[0]
print(json.dumps([len(held), error, answer]))
"""


def test_one_client_cannot_exhaust_the_server(access, lists, sql, lab, modern):
    def exhaust():
        who = [["ann", SECRETS["ann"]], ["bob", SECRETS["bob"]]]
        data = json.dumps([lab.server["address"], lab.server["port"], *who])
        done = modern.run("%s -c %s %s", INTERPRETERS["relstorage4"], EXHAUST, data)
        assert done.rc == 0, done.stderr
        return json.loads(done.stdout)

    ((allowed,),) = sql("SELECT @@GLOBAL.max_connections")
    limited = {**lists, "person_connections": 5}
    try:
        sql("SET GLOBAL max_connections = 15")
        access(**{**lists, "person_connections": 0})
        assert exhaust()[1:] == [TOO_MANY, TOO_MANY]
        result = settled(access, limited, "report")
        assert "at most 5 connections" in result["diff"]["after"]
        assert exhaust() == [5, LIMITED, "in"]
        ann, bob = lists["people"]
        access(**{**limited, "people": [{**ann, "connections": 8}, bob]})
        assert exhaust() == [8, LIMITED, "in"]
    finally:
        sql(f"SET GLOBAL max_connections = {allowed}")


def test_other_limits_of_an_account_end(access, lists, sql, lab, address):
    """The list does not know them, and they would keep a person out of what it says."""
    access(**lists)
    limits = [f"MAX_{kind}_PER_HOUR 987" for kind in ("QUERIES", "UPDATES", "CONNECTIONS")]
    limits.append({"mariadb": "MAX_STATEMENT_TIME 987", "mysql": "FAILED_LOGIN_ATTEMPTS 987"}[lab.server["flavour"]])

    def there():
        ((text, *_),) = sql(f"SHOW CREATE USER 'ann'@'{address}'")
        return [limit for limit in limits if limit in text]

    sql(f"ALTER USER 'ann'@'{address}' WITH {' '.join(limits)}")
    assert there() == limits
    result = settled(access, lists, "report")
    assert "other limits" in result["diff"]["before"] and "other limits" not in result["diff"]["after"]
    assert there() == []


# PEAT's own dialog


def test_a_project_made_in_peats_dialog(access, lists, lab, sql, peat2, log_in, address):
    # A network with both clients in it: the dialog's host, and the person's.
    here = [lab.hosts["peat2"]["address"]]
    with_dialog = {**lists, "admin": {"from": here, "prefix": "made"}}

    def dialog(project, access_list):
        server = [lab.server["address"], str(lab.server["port"])]
        fields = [*server, project, "peatadmin", access_list]
        return client(lab, peat2, "create_database", *fields, password=SECRETS["peatadmin"])

    try:
        settled(access, with_dialog, "report")
        (told,) = dialog("madeone", "ann")
        assert told[0] == "Project created", told
        # Ann reaches it where the list lets her in, and nowhere else.
        assert "ACCOUNT LOCK" in sql("SHOW CREATE USER 'ann'@'%'")[0][0]
        databases = sql("SELECT Db FROM mysql.db WHERE User = 'ann' AND Host = '%'")
        assert databases == [["madeone"]]
        # A run leaves it, and says how the list would say it; with these lines it is a project.
        result = settled(access, with_dialog, "report")
        (finding,) = (finding for finding in result["findings"] if "madeone" in finding)
        assert "is empty and is not in the list" in finding
        lines = yaml.safe_load(finding.partition("\n")[2])
        assert lines == {"peat_projects": [{"name": "madeone", "clients": "peat2", "write": ["ann"]}]}
        for table in logins.TABLES:
            sql(f"CREATE TABLE madeone.{table} (zoid INT)")
        adopted = {**with_dialog, "projects": [*lists["projects"], *lines["peat_projects"]]}
        result = settled(access, adopted, "report")
        (finding,) = (finding for finding in result["findings"] if "madeone" in finding)
        assert "peatadmin can do anything with madeone" in finding
        assert sql("SELECT Db FROM mysql.db WHERE User = 'ann' AND Host = '%'") == []
        assert sql(
            f"SELECT Create_priv FROM mysql.db WHERE User = 'ann' AND Host = '{address}' AND Db = 'madeone'"
        ) == [["N"]]
        # Beyond its prefix the dialog can do nothing.
        told = dialog("other", "ann")
        assert [title for title, _ in told] == ["Error", "Error"]
        assert dialog("un_managed", "bob")[-1][0] == "Error"
        assert sql("SHOW DATABASES LIKE 'other'") == []
        # Without the entry, neither it nor the people's locked accounts stay.
        settled(access, lists, "report")
        assert (
            sql("SELECT User FROM mysql.user WHERE User = 'peatadmin' OR (User IN ('ann', 'bob') AND Host = '%')") == []
        )
    finally:
        sql("DROP DATABASE IF EXISTS madeone")
