#!/usr/bin/env python3
"""The module peat_access against loops of community.mysql.mysql_db and mysql_user, on the same server.

    .venv/bin/python benchmarks/accounts.py -i INVENTORY [--sizes 10 100 1000] [--loops 10 100] [--repeats 5] HOST

HOST is a server of the inventory with MariaDB or MySQL and python3-pymysql, without accounts that somebody needs:
everything of the registry of peat_access is dropped. Each project has five people (four write, one reads), each with
two addresses of their own, so a thousand projects have ten thousand accounts. The databases, with the tables that
rights are about, are made beforehand for both sides.

Both sides run as a playbook over ssh. For each size of --loops, in turns: from no accounts, then with nothing left to
do; that both made the same grants is checked. Larger sizes of the loops are extrapolated from the two largest measured
ones. For every size of --sizes also, inside the module: seconds and peak memory, one person added, and the time of one
read of the grant tables. Inside the module the fastest of --repeats runs counts, because what else a machine does only
makes runs longer.
"""

from __future__ import annotations

import argparse
import hashlib
import ipaddress
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/testinfra"))

import onhost  # noqa: E402

REPEATS = 3
FIRST_ADDRESS = ipaddress.IPv4Address("198.18.0.0")  # set aside for measurements
TABLES = ("pack_object", "pack_state", "pack_state_tid")
WRITER = "SELECT,INSERT,UPDATE,DELETE,CREATE TEMPORARY TABLES"
SOCKET = "/run/mysqld/mysqld.sock"

#: Prints the seconds of one read of the grant tables: as the module reads them, and as bare rows.
READ = f"""
import sys, time
sys.path.insert(0, {onhost.FOLDER!r})
import pymysql
from ansible.module_utils.peat import account_reader
connection = pymysql.connect(unix_socket={SOCKET!r}, user="root")
def query(text):
    with connection.cursor() as cursor:
        cursor.execute(text)
        return list(cursor.fetchall())
started = time.monotonic()
account_reader.read(query)
middle = time.monotonic()
for table in ("user", "db", "tables_priv"):
    query("SELECT * FROM mysql." + table)
print(middle - started, time.monotonic() - middle)
"""


class Server:
    """The server both sides work on."""

    def __init__(self, inventories: list[str], name: str):
        self.inventories, self.name = inventories, name
        self.ssh = onhost.ssh(self.variables())
        onhost.install(self.ssh)
        self.client = self.run("command -v mariadb || command -v mysql").strip()
        self.flavour = pathlib.Path(self.client).name

    def variables(self) -> dict:
        """What onhost.ssh needs to know of the host, as Ansible sees it."""
        wanted = {
            "address": "ansible_host",
            "user": "ansible_user | default('root')",
            "key": "ansible_ssh_private_key_file | default('~/.cache/peat-server/id_ed25519')",
            "ssh_args": "ansible_ssh_common_args | default('')",
        }
        message = ", ".join(f"{name!r}: {value}" for name, value in wanted.items())
        argv = [self.program("ansible"), *self.options(), self.name, "--module-name=debug"]
        done = subprocess.run(
            [*argv, f"--args=msg={{{{ {{{message}}} }}}}"],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json", "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1"},
            text=True,
            capture_output=True,
        )
        report = json.loads(done.stdout[done.stdout.index("{\n") :])
        return report["plays"][0]["tasks"][0]["hosts"][self.name]["msg"]

    @staticmethod
    def program(name: str) -> str:
        return str(pathlib.Path(sys.executable).with_name(name))

    def options(self) -> list[str]:
        return [f"--inventory={inventory}" for inventory in self.inventories]

    def run(self, command: str, text: str | None = None) -> str:
        done = subprocess.run([*self.ssh, command], input=text, text=True, capture_output=True)
        if done.returncode:
            sys.exit(f"{command}: {done.stdout}{done.stderr}")
        return done.stdout

    def sql(self, statements: str) -> str:
        return self.run(f"{self.client} --batch --skip-column-names", statements)

    def playbook(self, tasks: list[dict], variables: dict) -> tuple[float, dict]:
        """Run tasks on the server as a playbook; return its seconds and the last task's counts."""
        with tempfile.TemporaryDirectory() as folder:
            play = {"hosts": self.name, "gather_facts": False, "tasks": tasks}
            book, given = pathlib.Path(folder, "play.yml"), pathlib.Path(folder, "variables.json")
            book.write_text(json.dumps([play]))
            given.write_text(json.dumps(variables))
            started = time.monotonic()
            done = subprocess.run(
                [self.program("ansible-playbook"), *self.options(), f"--extra-vars=@{given}", str(book)],
                cwd=ROOT,
                env={
                    **os.environ,
                    "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                    "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
                    "ANSIBLE_LIBRARY": str(ROOT / "library"),
                    "ANSIBLE_MODULE_UTILS": str(ROOT / "module_utils"),
                },
                text=True,
                capture_output=True,
            )
            seconds = time.monotonic() - started
        report = json.loads(done.stdout[done.stdout.index("{\n") :])
        if done.returncode:
            task = report["plays"][0]["tasks"][-1]["hosts"][self.name]
            failed = next((item for item in task.get("results", []) if item.get("failed")), task)
            raise Refused(failed.get("msg", str(failed))[:600])
        return seconds, report["stats"][self.name]


class Refused(Exception):
    """A playbook failed; the text says why."""


# The same lab for both sides


def project(number: int) -> str:
    return f"bench_{number:04d}"


def password(person: str) -> str:
    return hashlib.sha256(person.encode()).hexdigest()[:24]


def lab(size: int, more: int = 0) -> dict:
    """The module's arguments for some projects, and for `more` further readers of the first of them."""
    projects = []
    for number in range(size):
        *writers, reader = (f"p{number:04d}_{letter}" for letter in "abcde")
        projects.append({"name": project(number), "clients": "peat2", "write": writers, "read": [reader]})
    names = [name for entry in projects for name in (*entry["write"], *entry["read"])]
    added = [f"more_{count}" for count in range(more)]
    projects[0]["read"] += added
    people = []
    for number, name in enumerate((*names, *added)):
        first = FIRST_ADDRESS + 2 * number
        people.append({"name": name, "from": [str(first), str(first + 1)]})
    passwords = {name: password(name) for name in (*names, *added)}
    return {"networks": [], "people": people, "projects": projects, "passwords": passwords}


def addresses(arguments: dict) -> dict[str, list[str]]:
    return {person["name"]: person["from"] for person in arguments["people"]}


def ours(server: Server, arguments: dict) -> tuple[float, dict]:
    return server.playbook([{"peat_access": "{{ arguments }}"}], {"arguments": arguments})


def loops(server: Server, arguments: dict) -> tuple[float, dict]:
    """The same state by two loops, as the collection's documentation shows them."""
    sources = addresses(arguments)
    accounts = []
    for entry in arguments["projects"]:
        for level, names in (("write", entry["write"]), ("read", entry["read"])):
            database = entry["name"].replace("_", "\\_")
            rights = {f"{database}.*": WRITER if level == "write" else "SELECT"}
            if level == "write":
                rights.update({f"{entry['name']}.{table}": "DROP" for table in TABLES})
            accounts += [
                {"name": name, "host": host, "password": password(name), "rights": rights}
                for name in names
                for host in sources[name]
            ]
    user = {
        "name": "{{ item.name }}", "host": "{{ item.host }}", "password": "{{ item.password }}",
        "priv": "{{ item.rights }}", "column_case_sensitive": True, "login_unix_socket": SOCKET,
    }  # fmt: skip
    if server.flavour == "mysql":
        # Without these the module makes accounts of a plugin that MySQL 9 no longer has.
        del user["password"]
        user |= {"plugin": "caching_sha2_password", "plugin_auth_string": "{{ item.password }}", "salt": "s" * 20}
    tasks = [
        {
            "community.mysql.mysql_db": {"name": "{{ item }}", "login_unix_socket": SOCKET},
            "loop": [entry["name"] for entry in arguments["projects"]],
        },
        {"community.mysql.mysql_user": user, "loop": accounts},
    ]
    return server.playbook(tasks, {})


# The server before and after


def prepare(server: Server, size: int) -> None:
    """Make the databases and the tables that rights are about."""
    statements = []
    for number in range(size):
        statements.append(f"CREATE DATABASE {project(number)};")
        statements += [f"CREATE TABLE {project(number)}.{table} (zoid INT) ENGINE=MEMORY;" for table in TABLES]
    server.sql("\n".join(statements))


def empty(server: Server) -> None:
    """Drop every account that either side made."""
    onhost.run(server.ssh, "peat_access", passwords={})
    left = server.sql("SELECT CONCAT(QUOTE(user), '@', QUOTE(host)) FROM mysql.user WHERE user REGEXP '^p[0-9]{4}_'")
    names = left.split()
    for start in range(0, len(names), 500):
        server.sql(f"DROP USER {', '.join(names[start : start + 500])}")


def clean(server: Server, size: int) -> None:
    empty(server)
    server.sql("".join(f"DROP DATABASE IF EXISTS {project(number)};\n" for number in range(size)))


def grants(server: Server) -> str:
    """A digest of who may do what; passwords and the order of rows apart."""
    queries = (
        "SELECT GRANTEE, TABLE_SCHEMA, '', PRIVILEGE_TYPE, IS_GRANTABLE FROM information_schema.SCHEMA_PRIVILEGES",
        "SELECT GRANTEE, TABLE_SCHEMA, TABLE_NAME, PRIVILEGE_TYPE, IS_GRANTABLE"
        " FROM information_schema.TABLE_PRIVILEGES",
    )
    rows = [line for query in queries for line in server.sql(query).splitlines() if line.startswith("'p")]
    return f"{len(rows)} rows, {hashlib.sha256(chr(10).join(sorted(rows)).encode()).hexdigest()[:16]}"


# What is measured


def paired(server: Server, sizes: list[int]) -> dict[int, dict[str, float]]:
    """Both sides in turns, as playbooks: from no accounts, and with nothing left to do."""
    found = {}
    for size in sizes:
        arguments, seconds, state = lab(size), {}, {}
        clean(server, size)
        prepare(server, size)
        for name, side in (("loops", loops), ("ours", ours)):
            empty(server)
            seconds[f"{name}, from empty"], _ = side(server, arguments)
            state[name] = grants(server)
            repeats = REPEATS if name == "ours" else 1
            runs = [side(server, arguments) for _ in range(repeats)]
            seconds[f"{name}, no-op"] = statistics.median(run[0] for run in runs)
            if any(run[1]["changed"] for run in runs):
                sys.exit(f"{name}: a second run at {size} projects changes something")
        if state["loops"] != state["ours"]:
            sys.exit(f"the two sides differ at {size} projects: {state}")
        clean(server, size)
        found[size] = seconds
        print(f"{size} projects, {10 * size} accounts, as playbooks ({state['ours']} alike):")
        for what in ("from empty", "no-op"):
            one, two = seconds[f"loops, {what}"], seconds[f"ours, {what}"]
            print(f"    {what}: loops {one:.1f} s, peat_access {two:.2f} s, {one / two:.0f} times faster", flush=True)
    return found


def inside(server: Server, size: int, compared: dict[int, dict[str, float]], repeats: int) -> None:
    """One size on our side alone, inside the module and as a playbook, against what the loops would take."""

    def module(arguments: dict) -> dict:
        answer = onhost.run(server.ssh, "peat_access", **arguments)
        if answer.get("failed"):
            sys.exit(answer["msg"])
        return answer

    arguments, added = lab(size), lab(size, more=1)
    clean(server, size)
    prepare(server, size)
    first = module(arguments)
    again = [module(arguments) for _ in range(repeats)]
    one_more = module(added)
    reads = [list(map(float, server.run("python3 -", READ).split())) for _ in range(repeats)]
    if any(answer["changed"] for answer in again):
        sys.exit("a second run changes something")
    no_op = min(answer["seconds"] for answer in again)
    peak = max(answer["peak_kilobytes"] for answer in (first, one_more, *again)) / 1024
    read, bare = (min(column) for column in zip(*reads))
    print(f"{size} projects, {10 * size} accounts, inside the module:")
    print(f"    from empty {first['seconds']:.2f} s, no-op {no_op:.2f} s, peak memory {peak:.0f} MiB")
    processor = min(answer["cpu_seconds"] for answer in again)
    print(f"    the module's own processor time: {first['cpu_seconds']:.2f} s and {processor:.2f} s")
    print(f"    one read of the grant tables {read:.2f} s (as bare rows {bare:.2f} s)")
    print(
        f"    one person added {one_more['seconds']:.2f} s, {one_more['seconds'] - no_op:+.2f} s beyond the no-op,"
        f" {len(one_more['steps'])} steps"
    )
    if compared and size not in compared:
        module(arguments)
        playbook = statistics.median(ours(server, arguments)[0] for _ in range(REPEATS))
        empty(server)
        fresh, _ = ours(server, arguments)
        few, many = sorted(compared)[-2:]
        for what, seconds in (("from empty", fresh), ("no-op", playbook)):
            small, large = (compared[one][f"loops, {what}"] for one in (few, many))
            expected = large + (large - small) / (many - few) * (size - many)
            print(
                f"    as a playbook, {what}: peat_access {seconds:.1f} s; loops {expected:.0f} s, extrapolated from"
                f" {few} and {many} projects, {expected / seconds:.0f} times as long"
            )
    sys.stdout.flush()
    clean(server, size)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=textwrap.dedent(__doc__), formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("-i", "--inventory", action="append", required=True)
    parser.add_argument("--sizes", type=int, nargs="*", default=[10, 100, 1000])
    parser.add_argument("--loops", type=int, nargs="*", default=[10, 100])
    parser.add_argument("host")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if len(options.loops) == 1:
        parser.error("--loops: two sizes or more, or none")
    server = Server(options.inventory, options.host)
    print(server.sql("SELECT VERSION()").strip(), flush=True)
    try:
        compared = paired(server, options.loops)
    except Refused as error:
        sys.exit(str(error))
    for size in options.sizes:
        inside(server, size, compared, options.repeats)


if __name__ == "__main__":
    main()
