"""Databases that real clients of RelStorage 1.4 wrote, moved in, migrated, interrupted and brought back.

Every test begins with a fixture of tests/fixtures and asks real clients, RelStorage 1.4.2 and 1.5.1 through
PEAT 2.3, what they see.
"""

from __future__ import annotations

import gzip
import json
import pathlib
import random
import re
import shlex
import subprocess
import time

import onhost
import pytest
from conftest import INTERPRETERS, REPOSITORY, background, connect, inventory_options, run_ansible, wait_until

FIXTURES = REPOSITORY / "tests/fixtures"
PRESERVING, FREE = "relstorage-1.4-history-preserving", "relstorage-1.4-history-free"
SERVERS = ("server", "server13", "mysql9")
KEPT_BACKUP = "/root/preserving.sql.gz"
#: Python of the client on RelStorage 1.4.2; the program is the same.
OLD = "/opt/relstorage14/bin/python"


def expected() -> dict:
    """What PEAT reads from the fixture, as it answers."""
    return json.loads((FIXTURES / f"{PRESERVING}.json").read_text())


# What the tests work with


class Server:
    """One database server: its modules without a controller, and its databases."""

    def __init__(self, values: dict):
        self.host = connect(values)
        self.address = values["address"]
        key = pathlib.Path(values["key"]).expanduser()
        self.ssh = ["ssh", "-i", str(key), *shlex.split(values["ssh_args"]), f"{values['user']}@{values['address']}"]
        self.client = "mariadb" if self.host.exists("mariadb") else "mysql"

    def sql(self, statement: str, database: str = "") -> list[list[str]]:
        done = self.host.run("%s --batch --skip-column-names --execute=%s %s", self.client, statement, database)
        assert done.rc == 0, f"{statement}: {done.stderr}"
        return [line.split("\t") for line in done.stdout.splitlines()]

    def put(self, fixture: str, path: str) -> None:
        data = (FIXTURES / f"{fixture}.sql.gz").read_bytes()
        subprocess.run([*self.ssh, f"cat > {path}"], input=data, check=True)

    def old(self, *names: str, fixture: str = PRESERVING) -> None:
        """Give databases the tables and data of a fixture, whatever they were."""
        for name in names:
            self.sql(f"DROP DATABASE IF EXISTS `{name}`; CREATE DATABASE `{name}`")
            path = KEPT_BACKUP if fixture == PRESERVING else "/root/free.sql.gz"
            done = self.host.run(f"zcat {path} | mariadb {name}")
            assert done.rc == 0, done.stderr

    def migrate(self, database: str, state: str = "migrated", **options) -> dict:
        """Run the module to its end; its result."""
        arguments = {"database": database, "state": state, "backup": KEPT_BACKUP, "lock_wait": 10, **options}
        arguments = {name: value for name, value in arguments.items() if value is not None}
        done = self.host.run(onhost.command("relstorage_migrate", **arguments))
        found = onhost.result(done.stdout)
        assert found, done.stdout + done.stderr
        return found

    def migrated(self, database: str, state: str = "migrated", **options) -> dict:
        found = self.migrate(database, state, **options)
        assert not found.get("failed"), found
        return found

    def content(self, database: str) -> str:
        """Everything in a database: definitions and rows, without what counts up by itself."""
        dump = self.host.check_output(
            f"mariadb-dump --skip-comments --hex-blob --routines --order-by-primary {database}"
        )
        return re.sub(r" AUTO_INCREMENT=\d+", "", dump)

    def release(self, database: str) -> tuple[str, str]:
        status = self.migrate(database, "info")["status"]
        return status["release"], status["stage"]


@pytest.fixture(scope="module")
def servers(lab) -> dict[str, Server]:
    found = {name: Server(lab.hosts[name]) for name in SERVERS}
    for server in found.values():
        server.put(PRESERVING, KEPT_BACKUP)
        server.put(FREE, "/root/free.sql.gz")
    return found


@pytest.fixture(scope="module")
def debian12(servers) -> Server:
    onhost.install(servers["server"].ssh)
    return servers["server"]


@pytest.fixture(scope="module")
def view(run_client, peat2, lab, debian12):
    """view(database, ...) -> what clients of 1.4.2 and 1.5.1 load; both must see the same."""
    run_client.install("peat2", "states")
    password = shlex.quote(lab.password("guest"))

    def look(*databases: str) -> dict:
        line = f"/usr/local/lib/peat-tests/states.py --server {debian12.address} --username guest {' '.join(databases)}"
        done = peat2.run(
            f"export PEAT_PASSWORD={password}; {OLD} {line} > /tmp/old & {INTERPRETERS['peat2']} {line} > /tmp/new;"
            " wait; cat /tmp/old /tmp/new"
        )
        old, new = (json.loads(text) for text in done.stdout.splitlines())
        assert old == new, "RelStorage 1.4.2 and 1.5.1 see different things"
        return old

    return look


@pytest.fixture(scope="module")
def peat(run_client, lab, servers):
    """peat(command, person, project, old=False, server="server", **options) -> PEAT's answer."""

    def run(command: str, person: str, project: str, old: bool = False, server: str = "server", **options) -> dict:
        line, password = run_client.command(
            "peat2", "peat2", command, person, project, server=servers[server].address, **options
        )
        line = line.replace(INTERPRETERS["peat2"], OLD) if old else line
        done = run_client.hosts["peat2"].run(f"PEAT_PASSWORD={shlex.quote(password)} {line}")
        assert done.rc == 0 and done.stdout, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def playbook(name: str, *options: str) -> tuple[list[tuple[str, str]], str]:
    """Run a playbook of the repository; return (host, task) of every change, and its output."""
    code, report, text = run_ansible("ansible-playbook", *options, f"playbooks/{name}.yml")
    assert code == 0 and report, text
    changes = [
        (host, task["task"]["name"])
        for play in report["plays"]
        for task in play["tasks"]
        for host, result in task["hosts"].items()
        if result.get("changed")
    ]
    return changes, text


# Moving in


@pytest.fixture(scope="module")
def moved_in(servers) -> list[tuple[str, str]]:
    """oldlab is loaded from the dump on every server; the changes of that run."""
    options = ("-e", "import_project=oldlab", "-e", f"import_dump={KEPT_BACKUP}")
    changes, _ = playbook("import", *options)
    return changes


@pytest.mark.parametrize("server", SERVERS)
def test_a_dump_becomes_a_project_that_peat_reads(moved_in, peat, server):
    answer = peat("dump", "guest", "oldlab", server=server)
    assert answer["ok"], answer
    assert {key: answer[key] for key in ("records", "log")} == expected()


def test_loading_the_same_dump_again_changes_nothing(moved_in):
    changes, _ = playbook("import", "-e", "import_project=oldlab", "-e", f"import_dump={KEPT_BACKUP}")
    assert changes == []


@pytest.mark.parametrize("server", SERVERS)
def test_peat_goes_on_working_in_it(moved_in, peat, server):
    assert peat("add", "farrell", "oldlab", server=server, prefix="new", records=20)["ok"]
    undone = peat("undo", "farrell", "oldlab", server=server, prefix="new")
    assert undone["ok"] and undone["after"] == undone["before"] != undone["spoilt"], undone
    packed = peat("pack", "farrell", "oldlab", server=server)
    if server == "mysql9":
        # RelStorage before 3 says `empty` without quotes, a reserved word of MySQL 8 and later.
        assert packed["error"]["number"] == 1064, packed
    else:
        assert packed["ok"] and packed["log_after"] < packed["log_before"], packed
    answer = peat("read", "guest", "oldlab", server=server, prefix="new")
    assert len(answer["names"]) == 20 and answer["wrong"] == []
    assert set(expected()["records"]) <= set(peat("read", "guest", "oldlab", server=server)["names"])


def test_a_project_in_use_is_not_overwritten(moved_in, servers):
    onhost.install(servers["server13"].ssh)
    before = servers["server13"].content("oldlab")
    arguments = {"project": "oldlab", "dump": "/root/other.sql.gz", "state": "loaded"}
    servers["server13"].host.check_output(f"zcat {KEPT_BACKUP} > /root/other.sql.gz")
    done = onhost.result(servers["server13"].host.run(onhost.command("relstorage_import", **arguments)).stdout)
    assert "has objects already" in done["msg"]
    assert servers["server13"].content("oldlab") == before


OLD_DUMP = r"""-- MySQL dump 10.9
/*!40101 SET NAMES latin1 */;
/*!40111 SET @OLD_SQL_NOTES=@@SQL_NOTES, SQL_MODE='NO_AUTO_CREATE_USER' */;
USE `someone`;
{tables}
DELIMITER ;;
CREATE DEFINER=`boss`@`gone` PROCEDURE `p`() BEGIN DROP DATABASE mysql; END ;;
DELIMITER ;
CREATE TABLE `mail` (`id` int) TYPE=MyISAM;
INSERT INTO `mail` VALUES (1);
GRANT ALL ON *.* TO 'evil'@'%';
-- Dump completed on 2009-11-01 12:00:00
"""


def as_mysql_5_0_wrote_it(text: str) -> bytes:
    """The fixture as mysqldump of 5.0 has it: TYPE, latin1, MyISAM for all, escaped bytes, no CHECK."""
    text = "".join(re.findall(r"(?:CREATE TABLE|INSERT INTO) .*?;\n", text, re.DOTALL))
    text = re.sub(
        r"\) ENGINE=\w+((?: AUTO_INCREMENT=\d+)?) DEFAULT .*;", r") TYPE=MyISAM\1 DEFAULT CHARSET=latin1;", text
    )
    text = re.sub(r",\n  CONSTRAINT .*", "", text).replace(" COLLATE ascii_general_ci", "")
    escapes = {0: b"\\0", 10: b"\\n", 13: b"\\r", 92: b"\\\\", 39: b"\\'", 34: b'\\"', 26: b"\\Z"}
    head, tail = OLD_DUMP.encode().split(b"{tables}")

    def escaped(found: re.Match) -> bytes:
        raw = bytes.fromhex(found.group(1).decode())
        return b"'" + b"".join(escapes.get(byte, bytes([byte])) for byte in raw) + b"'"

    return head + re.sub(rb"0x([0-9A-F]+)", escaped, text.encode()) + tail


def test_a_dump_of_mysql_5_0_is_loaded_as_the_bytes_it_holds(debian12, view, moved_in, sql):
    debian12.old("broken1")
    before = view("broken1")["broken1"]
    text = as_mysql_5_0_wrote_it(gzip.decompress((FIXTURES / f"{PRESERVING}.sql.gz").read_bytes()).decode())
    subprocess.run([*debian12.ssh, "cat > /root/ancient.sql"], input=text, check=True)
    sql("DROP DATABASE broken1")
    common = {"project": "broken1", "dump": "/root/ancient.sql"}

    def step(state: str) -> dict:
        return onhost.result(debian12.host.run(onhost.command("relstorage_import", **common, state=state)).stdout)

    # Killed while it loads, it begins anew.
    line = onhost.command("relstorage_import", **common, state="loaded")
    for _ in range(3):
        # `; true`: a shell that is left, so that the SSH session does not end by the signal, which is an error to it.
        debian12.host.run(f"timeout --signal=KILL {random.uniform(0.3, 2):.2f} {line}; true")
    debian12.host.run(line)
    loaded = step("loaded")
    assert loaded["database"] == "broken1~import" and not loaded["changed"], loaded
    # Nobody sees anything until it is verified.
    assert "Unknown database" in view("broken1")["broken1"]["error"] or "denied" in view("broken1")["broken1"]["error"]
    assert "migrate it first" in step("opened")["msg"]
    debian12.migrated(loaded["database"], backup=common["dump"])
    assert step("opened")["changed"]
    assert view("broken1")["broken1"] == before
    assert debian12.release("broken1") == ("1.5", "complete")
    assert sql("SELECT COUNT(*) FROM mysql.user WHERE user = 'evil'") == [["0"]]
    assert not step("loaded")["changed"] and not step("opened")["changed"]


# Migrating


def test_progress_is_shown_while_the_playbook_runs(debian12):
    debian12.old("broken1")
    run = subprocess.Popen(
        ["ansible-playbook", *inventory_options(), "--limit=server", "-e", "migrate_project=broken1",
         "-e", "migrate_batch_rows=60", "-e", "migrate_batch_pause=0.2", "playbooks/migrate.yml"],
        cwd=REPOSITORY, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    seen = [(time.monotonic(), line) for line in run.stdout]
    ended = time.monotonic()
    assert run.wait() == 0, "".join(line for _, line in seen)
    shown = [(at, line) for at, line in seen if re.search(r"fill state_size: \d+%, .* rows/s, .* left", line)]
    assert len(shown) >= 2, "".join(line for _, line in seen)
    assert ended - shown[0][0] > 2, "the first line came only when everything was done"


def test_migrating_again_changes_nothing_and_check_mode_is_exact(debian12, view):
    debian12.old("broken1")
    before, seen = debian12.content("broken1"), view("broken1")
    planned = debian12.migrate("broken1", _ansible_check_mode=True, _ansible_diff=True)
    assert debian12.content("broken1") == before
    done = debian12.migrated("broken1", _ansible_diff=True)
    assert (planned["changed"], planned["plan"], planned["diff"]) == (True, done["plan"], done["diff"])
    assert done["figures"]["rows"] == 1666 and done["figures"]["wrong_sizes"] == 0
    after = debian12.content("broken1")
    again = debian12.migrated("broken1")
    assert (again["changed"], again["plan"]) == (False, [])
    assert debian12.content("broken1") == after
    assert view("broken1") == seen


def test_sizes_are_right_and_unusual_rows_survive(debian12):
    debian12.old("broken1")
    debian12.sql(
        "INSERT INTO object_state VALUES (5000, 291944468744298666, 0, NULL, NULL),"
        " (5001, 291944468744298666, 0, NULL, ''),"
        " (5002, 291944468744298666, 0, REPEAT('a', 32), REPEAT('x', 5000000))",
        "broken1",
    )
    done = debian12.migrated("broken1")
    assert done["figures"]["rows"] == 1669
    sizes = debian12.sql("SELECT zoid, state_size FROM object_state WHERE zoid >= 5000", "broken1")
    assert sizes == [["5000", "0"], ["5001", "0"], ["5002", "5000000"]]
    # Ids of new objects continue above the highest.
    assert int(debian12.sql("SELECT MAX(zoid) FROM new_oid", "broken1")[0][0]) * 16 >= 5002


def test_history_free_tables(debian12):
    debian12.old("freelab", fixture=FREE)
    before = debian12.sql("SELECT zoid, tid, SHA2(state, 256) FROM object_state ORDER BY zoid", "freelab")
    debian12.sql(
        "DROP TABLE object_refs_added; CREATE TABLE object_refs_added (tid BIGINT NOT NULL PRIMARY KEY)", "freelab"
    )
    assert debian12.release("freelab") == ("1.4.0", "complete")
    assert debian12.migrated("freelab", backup="/root/free.sql.gz")["figures"]["wrong_sizes"] == 0
    assert debian12.release("freelab") == ("1.5", "complete")
    assert debian12.sql("SELECT zoid, tid, SHA2(state, 256) FROM object_state ORDER BY zoid", "freelab") == before
    assert debian12.sql("SELECT COUNT(*) FROM object_state WHERE state_size <> LENGTH(state)", "freelab") == [["0"]]


def test_other_databases_are_not_touched(debian12):
    debian12.sql("DROP DATABASE IF EXISTS nothing; CREATE DATABASE nothing")
    debian12.sql("DROP DATABASE IF EXISTS foreign1; CREATE DATABASE foreign1; CREATE TABLE foreign1.pages (id INT)")
    debian12.old("freelab", fixture=FREE)
    debian12.migrated("freelab", backup="/root/free.sql.gz")
    debian12.migrated("freelab", "relstorage4", backup="/root/free.sql.gz")
    for name, words in {"nothing": "", "foreign1": "not RelStorage's", "freelab": "newer than RelStorage 1.5"}.items():
        before = debian12.content(name)
        answer = debian12.migrate(name, backup=None)
        assert not answer.get("changed")
        assert words in answer.get("msg", ""), answer
        assert debian12.content(name) == before
    assert "no database" in debian12.migrate("missing")["msg"]


def test_a_backup_that_lacks_the_newest_commit_is_refused(debian12):
    debian12.old("broken1")
    debian12.sql("INSERT INTO transaction VALUES (291944468761194999, 0, 0, 'x', 'later', NULL)", "broken1")
    before = debian12.content("broken1")
    assert "lacks the newest transaction" in debian12.migrate("broken1")["msg"]
    assert debian12.content("broken1") == before
    made = debian12.migrated("broken1", backup=None, backup_dir="/var/backups/migration-test")["backup"]
    assert made.startswith("/var/backups/migration-test/broken1-")
    assert "291944468761194999" in debian12.host.check_output(f"zcat {made}")


# While others are connected


def test_clients_are_named_and_nothing_is_done(debian12, run_client, peat2, lab):
    debian12.old("broken1")
    loop = old_loop(run_client, debian12, "broken1", seconds=60)
    loop.wait_for(1)
    before = debian12.sql("SHOW CREATE TABLE object_state", "broken1")
    message = debian12.migrate("broken1", backup=None)["msg"]
    assert "of farrell from " + lab.hosts["peat2"]["address"] in message, message
    assert debian12.sql("SHOW CREATE TABLE object_state", "broken1") == before
    loop.stop()


def old_loop(run_client, server: Server, project: str, **options):
    """Save again and again with PEAT on RelStorage 1.4.2."""
    command = run_client.command

    def with_old(*arguments, **more):
        line, password = command(*arguments, **more)
        return line.replace(INTERPRETERS["peat2"], OLD), password

    run_client.command = with_old
    try:
        return run_client.loop("peat2", "peat2", "farrell", project, server=server.address, **options)
    finally:
        del run_client.command


def test_a_client_of_1_4_that_saves_meanwhile_leaves_no_wrong_size(debian12, run_client, peat):
    """One is at work when it begins, another comes while sizes are filled."""
    debian12.old("broken1")
    first = old_loop(run_client, debian12, "broken1", seconds=40, prefix="first")
    first.wait_for(3)
    start(
        debian12, "broken1", "fill state_size",
        backup=None, backup_dir="/var/backups/migration-test", clients="disconnect", batch_rows=60, batch_pause=0.4,
    )  # fmt: skip
    second = old_loop(run_client, debian12, "broken1", seconds=40, prefix="second")
    using = "SELECT 1 FROM information_schema.processlist WHERE user = 'farrell' AND info LIKE '%GET_LOCK%'"
    wait_until(lambda: debian12.sql(using), "the second to wait for the commit lock")
    done = ended(debian12)
    assert done.get("changed"), done
    assert any("farrell" in session for session in done["figures"]["disconnected"])
    saved = [*first.saved(), *second.saved()]
    assert first.end(90)["error"] and second.end(90)["error"]
    assert second.saved() == []
    assert debian12.release("broken1") == ("1.5", "complete")
    assert debian12.migrate("broken1", "info", verify_sizes=True)["status"]["wrong_sizes"] == 0
    names = set(peat("read", "guest", "broken1")["names"])
    assert set(saved) | set(expected()["records"]) <= names


def test_what_an_old_client_saved_between_two_runs_gets_its_size(debian12, peat):
    """The column is there and partly filled, and a client of 1.4.2 adds rows without a size."""
    debian12.old("broken1")
    kill_during(debian12, "broken1", "fill state_size")
    assert debian12.release("broken1") == ("1.4", "partly filled")
    assert peat("add", "farrell", "broken1", old=True, prefix="between", records=5)["ok"]
    debian12.migrated("broken1", backup=None)
    assert peat("read", "guest", "broken1", prefix="between")["wrong"] == []
    assert debian12.migrate("broken1", "info", verify_sizes=True)["status"]["wrong_sizes"] == 0


def start(server: Server, database: str, phase: str, **options) -> None:
    """Start the module in the background and wait until it says it is in a phase, with a first portion done."""
    status, output = "/run/migration-status", "/run/migration-output"
    arguments = {"database": database, "state": "migrated", "backup": KEPT_BACKUP, "status_file": status, **options}
    line = onhost.command("relstorage_migrate", **arguments)
    server.host.check_output(f"rm -f {status} && {background('migration-test', output)} {line}")

    def shown() -> bool:
        text = server.host.run("cat %s", status).stdout
        return phase in text and "rows/s" in text

    wait_until(shown, f"the module in {phase}")


def ended(server: Server, seconds: float = 60) -> dict:
    """Wait for the end of what `start` started; its result."""
    wait_until(lambda: server.host.run("systemctl is-active migration-test").rc != 0, "the module to end", seconds)
    return onhost.result(server.host.check_output("cat /run/migration-output"))


def kill_during(server: Server, database: str, phase: str) -> None:
    """Start the module and kill it with SIGKILL as soon as it says it is in a phase."""
    start(server, database, phase, batch_rows=60, batch_pause=0.3)
    server.host.check_output("systemctl kill --signal=KILL migration-test")
    ended(server)
    # Its connection, and with it the lock, is gone when the server notices.
    wait_until(lambda: server.sql(f"SELECT IS_FREE_LOCK('{database}.commit')") == [["1"]], "the lock to be free")


def test_who_holds_the_table_is_named_and_the_rest_is_done_later(debian12):
    """Somebody looks at the table by its full name, inside a transaction that does not end."""
    debian12.old("broken1")
    sleeper = "START TRANSACTION; SELECT COUNT(*) FROM broken1.object_state; SELECT SLEEP(60)"
    debian12.host.check_output(
        f"systemd-run --quiet --collect --unit=migration-reader mariadb --execute={shlex.quote(sleeper)}"
    )
    find = "SELECT id FROM information_schema.processlist WHERE state = 'User sleep'"
    ((reader,),) = wait_until(lambda: debian12.sql(find), "the reader")
    message = debian12.migrate("broken1", lock_wait=2)["msg"]
    debian12.sql(f"KILL {reader}")
    assert f"the table is in use by connection {reader} of root from localhost, SELECT SLEEP(60)" in message, message
    debian12.migrated("broken1")


# Interrupting


def reference(server: Server) -> str:
    """What a migration that nobody interrupts ends with."""
    server.old("broken1")
    server.migrated("broken1")
    return server.content("broken1")


def stage(result: dict) -> str:
    """Where the run before was interrupted."""
    return f"{result['status']['release']} {result['status']['stage']}"


#: What the module runs for on the small fixture with these, from its start to its end, in seconds.
SLOWLY = {"batch_rows": 40, "batch_pause": 0.01}


def test_the_module_is_killed_at_random_points(debian12, view):
    """18 times: old and new clients see the same right after, and a second run ends like an uninterrupted one."""
    wanted = reference(debian12)
    seen = view("broken1")["broken1"]
    dice, points, stages = random.Random(), 18, []
    debian12.old("broken1")
    started = time.monotonic()
    debian12.migrated("broken1", **SLOWLY)
    whole = time.monotonic() - started
    for done in range(points // 3):
        names = ["broken1", "broken2", "broken3"]
        debian12.old(*names)
        script = "".join(
            f"timeout --signal=KILL {dice.uniform(0.2, 2 * whole):.2f} "
            + onhost.command("relstorage_migrate", database=name, state="migrated", backup=KEPT_BACKUP, **SLOWLY)
            + " > /dev/null 2>&1 &\n"
            for name in names
        )
        debian12.host.run("set +m\n" + script + "wait")
        found = view(*names)
        assert found == dict.fromkeys(names, seen), f"after kill {done}"
        for name in names:
            stages.append(stage(debian12.migrated(name, lock_wait=30)))
            assert debian12.content(name) == wanted.replace("broken1", name)
        assert view(*names) == found
    print("interrupted at", stages)


def test_the_server_is_killed_at_random_points(debian12, view):
    """12 times: three migrations run while the server is killed; the same is asked as above."""
    wanted = reference(debian12)
    seen = view("broken1")["broken1"]
    dice, names, stages = random.Random(), ["broken1", "broken2", "broken3"], []
    for done in range(4):
        debian12.old(*names)
        script = "".join(
            f"(sleep {dice.uniform(0, 1.5):.2f}; "
            + onhost.command("relstorage_migrate", database=name, state="migrated", backup=KEPT_BACKUP, **SLOWLY)
            + ") > /dev/null 2>&1 &\n"
            for name in names
        )
        kill = f"sleep {dice.uniform(1, 5):.2f}; systemctl kill --signal=KILL mariadb\n"
        debian12.host.run(f"set +m\n{script}{kill}wait")
        debian12.host.check_output("systemctl reset-failed mariadb; systemctl start mariadb")
        wait_until(lambda: debian12.host.run("mariadb --execute='SELECT 1'").rc == 0, "the server to answer")
        found = view(*names)
        assert found == dict.fromkeys(names, seen), f"after kill {done}"
        for name in names:
            stages.append(stage(debian12.migrated(name)))
            assert debian12.content(name) == wanted.replace("broken1", name)
        assert view(*names) == found
    print("interrupted at", stages)


# Back and on


def test_back_to_1_4_only_without_blobs(debian12, peat, view):
    debian12.old("broken1")
    seen = view("broken1")
    debian12.migrated("broken1")
    refused = peat("add", "farrell", "broken1", old=True, prefix="old")
    assert not refused["ok"] and refused["error"]["number"] == 1364, refused
    debian12.sql("INSERT INTO blob_chunk SELECT zoid, tid, 0, 'x' FROM object_state LIMIT 1", "broken1")
    assert "holds blobs" in debian12.migrate("broken1", "downgraded")["msg"]
    debian12.sql("DELETE FROM blob_chunk", "broken1")
    assert debian12.migrated("broken1", "downgraded")["changed"]
    assert debian12.release("broken1") == ("1.4", "complete")
    assert view("broken1") == seen
    assert peat("add", "farrell", "broken1", old=True, prefix="old")["ok"]


def test_repair_after_a_client_of_relstorage_4_changed_the_tables(debian12, peat, view, run_client, lab):
    debian12.old("broken1")
    digest = debian12.migrated("broken1")["figures"]["digest"]
    seen = view("broken1")
    address = lab.hosts["modern"]["address"]
    debian12.sql(
        f"CREATE OR REPLACE USER 'wide'@'{address}' IDENTIFIED BY 'a long password';"
        f"GRANT ALL ON broken1.* TO 'wide'@'{address}'"
    )
    run_client("modern", "relstorage4", "open", "wide", "broken1", password="a long password", create_schema=True,
               server=debian12.address)  # fmt: skip
    release, _ = debian12.release("broken1")
    assert release == "3/4"
    # PEAT waits for the lock of a row of new_oid that it holds itself, 50 s unless it is told otherwise.
    debian12.sql("SET GLOBAL innodb_lock_wait_timeout = 2")
    broken = peat("add", "farrell", "broken1", prefix="no")
    debian12.sql("SET GLOBAL innodb_lock_wait_timeout = 50")
    assert not broken["ok"]
    # RelStorage 4 itself tidies up rows of new_oid and of current_object without a state.
    changed = debian12.content("broken1")
    repaired = debian12.migrated("broken1", "repaired", backup=None)
    debian12.sql(f"DROP USER 'wide'@'{address}'")
    assert debian12.release("broken1") == ("1.5", "complete")
    assert view("broken1") == seen
    assert repaired["figures"]["digest"] == digest
    assert stored(changed) - stored(debian12.content("broken1")) <= {"(0)"}, (
        "more than the row of the commit lock is gone"
    )
    assert peat("add", "farrell", "broken1", prefix="yes")["ok"]


def stored(content: str) -> set[str]:
    """The rows of a dump, one to a line."""
    return {line.rstrip(",;") for line in content.splitlines() if line.startswith("(")}


def test_pickles_of_python_2_are_found_before_relstorage_4_is_made(debian12):
    debian12.old("broken1")
    debian12.migrated("broken1")
    before = debian12.content("broken1")
    message = debian12.migrate("broken1", "relstorage4")["msg"]
    assert "non-ASCII bytes" in message and "can open" in message
    assert debian12.content("broken1") == before


def test_a_history_free_dump_becomes_a_project_of_relstorage_4(servers, run_client):
    """All the way: 1.4.2, 1.5, 4, accounts, and a current client on every server."""
    playbook("import", "-e", "import_project=oldfree", "-e", "import_dump=/root/free.sql.gz")
    for server in servers.values():
        answer = run_client(
            "modern", "relstorage4", "add", "farrell", "oldfree", server=server.address, history_free=True
        )
        assert answer["ok"], answer
        assert server.sql("SELECT COUNT(*) > 101 FROM object_state", "oldfree") == [["1"]]
