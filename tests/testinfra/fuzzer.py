"""Gives hostile lists to the module peat_access and compares what the server received with what was planned.

Runs on the server, beside the modules that onhost.py puts there: fuzzer.py ADDRESS, one of the server's own. Each line
of its input is {"cases": [[field, text], ...]}, and is answered with {"told": how often what was tried}, or with
{"wrong": what was not as it must be}. Once with "without" the module does not quote, "literal" or "quote_name", or
gives texts to a "shell".
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import pathlib
import re
import ssl
import sys
import time
import traceback
import types

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import peat_access
import pymysql
from ansible.module_utils.peat import account_reader, account_state, account_steps, accounts, auth, lab, rotation, sql
from ansible.module_utils.peat.addresses import parse

SOCKET, LOG = "/run/mysqld/mysqld.sock", "/run/mysqld/peat-test-fuzz.log"
WITNESS, PROJECTS = "peat_fuzz_witness", ("peat_fuzz_1", "peat_fuzz_2")
ADDRESS = sys.argv[1]
REFUSALS = (lab.LabError, account_state.AccountsError, sql.SqlError)

own = pymysql.connect(unix_socket=SOCKET, user="root", autocommit=True, charset="utf8mb4")


class Wrong(Exception):
    """Something is not as it must be."""


def query(text: str, values: tuple | None = None) -> list[tuple]:
    with own.cursor() as cursor:
        cursor.execute(text, values)
        return list(cursor.fetchall())


def look() -> account_state.State:
    return account_reader.read(query)


FLAVOUR = look().flavour
((PORT,),) = query("SELECT @@port")
#: People whose password is not the case keep this one: on MySQL it takes long to make a hash.
KEPT = {"mariadb": "*" + "0" * 40, "mysql": "0x" + auth.sha2_hash("x" * 12, "x" * 20).encode().hex()}[FLAVOUR]
ANY_SERVER = ssl.create_default_context()
ANY_SERVER.check_hostname, ANY_SERVER.verify_mode = False, ssl.CERT_NONE
#: How often what was tried.
told: collections.Counter = collections.Counter()


# What the module sends and plans, seen from inside

sent: list[str] = []
plans: list[accounts.Plan] = []
connections: list[pymysql.Connection] = []
#: Programs that were started, shells among them: (what Python calls that, with what).
started: list[tuple] = []
_STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn")
sys.addaudithook(lambda event, what, starts=_STARTS: started.append((event, what)) if event in starts else None)


def seen(function, keep):
    def wrapper(*arguments, **options):
        result = function(*arguments, **options)
        keep(arguments, result)
        return result

    return wrapper


really_send = peat_access._query


def send(connection, text):
    sent.append(text)
    return really_send(connection, text)


peat_access._query = send
sql.connect = seen(sql.connect, lambda _arguments, connection: connections.append(connection))
accounts.plan = seen(accounts.plan, lambda _arguments, plan: plans.append(plan))


# What the server received

#: The connections there are, until the server counts what each did once. MySQL's PROCESSLIST forgets them before that.
_CONNECTIONS = {
    "mariadb": "SELECT ID FROM information_schema.PROCESSLIST",
    "mysql": "SELECT PROCESSLIST_ID FROM performance_schema.threads WHERE PROCESSLIST_ID IS NOT NULL",
}[FLAVOUR]
_HEAD = re.compile(rb"(?:\d{6} +\d+:\d\d:\d\d\t|\d{4}-\d\d-\d\dT[\d:.]+Z\t|\t\t) *(\d+) ([A-Z][A-Za-z ]*)\t?")
# What the driver and sql.connect say first.
_PRELUDE = re.compile(
    rb"SET (?:NAMES utf8mb4(?: COLLATE \w+)?|AUTOCOMMIT = 1|SESSION sql_mode = '[A-Z_,]*', lock_wait_timeout = 60)\n"
)


def hold_log(start: int, threads: list[int]) -> list[bytes]:
    """Hold what the log says of the module's connections since then against what was sent, byte for byte.

    Return what it says of connections that are neither the module's nor this program's.
    """
    strangers: list[bytes] = []
    with open(LOG, "rb") as file:
        file.seek(start)
        log = file.read()
    position = count = 0
    while position < len(log):
        head = _HEAD.match(log, position)
        if not head:
            raise Wrong(f"after {count} statements the log goes on with {log[position : position + 200]!r}")
        position = head.end()
        if int(head[1]) not in threads or head[2] != b"Query":
            end = log.index(b"\n", position) + 1
            if int(head[1]) not in (*threads, own.thread_id()):
                strangers.append(log[head.start() : end])
            position = end
        elif count == 0 and (prelude := _PRELUDE.match(log, position)):
            position = prelude.end()
        else:
            text = sent[count].rstrip().encode() + b"\n" if count < len(sent) else b"nothing"
            if not log.startswith(text, position):
                raise Wrong(f"the server received {log[position : position + 300]!r} instead of {text!r}")
            position, count = position + len(text), count + 1
    if count != len(sent):
        raise Wrong(f"the server did not receive {sent[count:]}")
    return strangers


_TOKEN = re.compile(r"'(?:[^'\\]|\\.|'')*'|`(?:[^`]|``)*`|\w+|.", re.DOTALL)
_IDENTIFIED = (
    r"'@'(?: IDENTIFIED (?:VIA|WITH) \w+ (?:USING '|AS 0)(?: OR \w+ USING ')?(?: RETAIN CURRENT PASSWORD)?"
    r"| DISCARD OLD PASSWORD)?"
)
# What a statement may say of all its accounts, in any combination.
_CLAUSES = (
    r"(?: (?:REQUIRE (?:NONE|SSL|SUBJECT ' AND ISSUER ')|WITH MAX_USER_CONNECTIONS 0|PASSWORD EXPIRE NEVER"
    r"|ACCOUNT (?:UN)?LOCK))+$"
)
#: The forms of statements for lists with nothing hostile in them.
known: set[str] = set()


def form(statement: str) -> str:
    """Return a statement without its texts, names and numbers, and with one of each that it enumerates."""
    text = "".join(
        token[0] if token[0] in "'`" and len(token) > 1 else "0" if token[0].isdigit() else token
        for token in _TOKEN.findall(statement)
    )
    text = re.sub(r"\('(?:, ')*\)", "ROW", re.sub(_IDENTIFIED, "ONE", text))
    text = re.sub(r"(ONE|ROW|')(?:, \1)+", r"\1", text)
    text = re.sub(r"^(GRANT|REVOKE) [A-Z]+(?:[ ,]+[A-Z]+)* ON", r"\1 RIGHTS ON", text)
    return re.sub(_CLAUSES, " CLAUSES", text)


_COUNTED = {
    "create user": "create_user", "drop user": "drop_user", "alter user": "alter_user", "grant": "grant",
    "revoke": "revoke", "insert": "insert", "delete": "delete", "replace": "replace", "drop role": "drop_role",
    "create database": "create_db", "create table": "create_table", "flush": "flush", "kill": "kill",
}  # fmt: skip
_UNCOUNTED = {"Com_select", "Com_set_option", "Com_show_status", "Com_show_databases", "Com_admin_commands"}


def counters() -> dict[str, int]:
    """Return how many statements of each kind the server has had, by its own parser's count."""
    rows = query("SHOW GLOBAL STATUS LIKE 'Com\\_%'")
    return {name: int(value) for name, value in rows if name not in _UNCOUNTED}


def kinds() -> collections.Counter:
    """Return what the counters must have risen by."""
    found: collections.Counter = collections.Counter()
    for statement in sent:
        first, second, *_others = statement.lower().split()
        if first not in ("select", "set"):
            found["Com_" + (_COUNTED.get(first) or _COUNTED[f"{first} {second}"])] += 1
    return found


def others() -> tuple:
    """Return what no list is about: other databases, and a row of one."""
    databases = {name for (name,) in query("SHOW DATABASES")} - {account_state.REGISTRY}
    return databases, query(f"SELECT * FROM {WITNESS}.t")


def hold_counters(counted: dict[str, int], strangers: list[bytes]) -> None:
    """Hold how the counters rose since then against what was sent, as soon as they agree or after two seconds."""
    deadline = time.monotonic() + 2
    while True:
        risen = {name: value - counted.get(name, 0) for name, value in counters().items()}
        wrong = {name: (value, kinds()[name]) for name, value in risen.items() if value != kinds()[name]}
        if not wrong:
            return
        if time.monotonic() > deadline:
            raise Wrong(f"counted by the server, and sent: {wrong}; others sent {strangers}; sent were {sent}")
        time.sleep(0.01)


def end_connections() -> list[int]:
    """End the module's connections; return their numbers. MySQL counts what one that is just ending did twice."""
    threads = [connection.thread_id() for connection in connections]
    for connection in connections:
        if connection.open:
            connection.close()
    while {*threads} & {number for (number,) in query(_CONNECTIONS)}:
        time.sleep(0.001)
    return threads


def hold(act, learning: bool):
    """Let `act` send statements and hold them against what the server received; return its result or refusal."""
    for kept in (sent, plans, connections, started):
        kept.clear()
    before, counted, start = others(), counters(), os.path.getsize(LOG)
    try:
        result = act()
    except REFUSALS as error:
        result = error
    threads = end_connections()
    if started:
        raise Wrong(f"programs were started: {started}")
    hold_counters(counted, hold_log(start, threads))
    for statement in sent:
        if learning:
            known.add(form(statement))
        elif form(statement) not in known:
            raise Wrong(f"a statement has no known form, {form(statement)!r}: {statement!r}")
    if others() != before:
        raise Wrong(f"the databases were {before} and are {others()}")
    told["statements"] += len(sent)
    return result


def run(params: dict, learning: bool = False):
    """Give a list to the module; return what it was refused with, or the plan that the server now is as."""
    module = types.SimpleNamespace(params=params, check_mode=False, warn=lambda text: None)
    result = hold(lambda: peat_access.run(module), learning)
    changing = [text for text in sent if text.split()[0] not in ("SELECT", "SET", "KILL")]
    if isinstance(result, Exception):
        if changing:
            raise Wrong(f"refused ({result}), and yet sent {changing}")
        return result
    (plan,) = plans
    if changing != [step.sql for step in (*plan.steps, *plan.last_steps)]:
        raise Wrong(f"planned {plan.steps} and {plan.last_steps}, sent {changing}")
    state = look()
    planned = {account: granted for account, granted in plan.new.rights.items() if granted}
    for rights in (state.rights, planned):
        del rights[account_state.ROOT]  # who is in every role that it made, as long as that is there
    for what, is_, wanted in (
        ("accounts", state.accounts, plan.new.accounts),
        ("rights", state.rights, planned),
        ("registry", dict.fromkeys(state.registered), dict.fromkeys(plan.new.registered)),
    ):
        wrong = {key: (is_.get(key), wanted.get(key)) for key in is_.keys() | wanted if is_.get(key) != wanted.get(key)}
        if wrong or is_.keys() != wanted.keys():
            raise Wrong(f"{what}: is, and was planned: {wrong}, {is_.keys() ^ wanted.keys()}")
    return plan


def applied(params: dict, learning: bool) -> None:
    """Give a list to the module that it must take."""
    plan = run(params, learning)
    if isinstance(plan, Exception):
        raise Wrong(f"refused: {plan}")


# A list, as somebody may write it


def arguments(**lists) -> dict:
    return {
        "login_unix_socket": SOCKET, "networks": [], "people": [], "projects": [], "allow_anywhere": True,
        "passwords": {}, "certificates": {}, "admin": None, "person_connections": 24, "protected_accounts": [],
        "administrators": [], "administrators_from": "127.0.0.1", "unmanaged": "report", **lists,
    }  # fmt: skip


def described(cases: list[tuple[str, str]]) -> dict:
    """Return a list in which each case has its place."""
    found = arguments(projects=[{"name": name, "clients": "relstorage4", "write": []} for name in PROJECTS])
    for number, (field, text) in enumerate(cases):
        part, _dot, key = field.partition(".")
        person = {"name": f"p{number}", "from": [ADDRESS], "password_hash": KEPT}
        # Frozen, because it has no tables, on which whoever may write gets rights.
        project = {"name": f"d{number}", "clients": "relstorage4", "state": "frozen"}
        network = {"name": f"n{number}", "addresses": [ADDRESS]}
        item: object = person["name"]
        if field == "person.password":
            person["password"] = text
            del person["password_hash"]
        elif part == "person":
            person[text if key == "key" else key] = [text] if key == "from" else text
        elif field == "network.name":
            network["name"], person["from"] = text, [text]
        elif field == "network.address":
            network["addresses"], person["from"] = [text], [network["name"]]
        elif field == "project.read":
            item = text
        elif field == "project.from":
            item = {"person": person["name"], "from": [text]}
        elif part == "project":
            project[text if key == "key" else key] = text
        elif part == "admin" and not found["admin"]:
            found["admin"] = {"from": [ADDRESS], "prefix": "peatfuzz", key: [text] if key == "from" else text}
            found["passwords"][lab.ADMIN] = "x" * 12
        elif part == "administrator":
            found["administrators"].append({"name": text})
            found["passwords"].setdefault(text, "x" * 12)
        elif part == "certificate":
            person["tls"] = "certificate"
            found["certificates"][person["name"]] = {"subject": "/CN=x", "issuer": "/CN=y", key: text}
        elif part == "protected":
            found["protected_accounts"].append(text)
        if field == "person.name":
            item = person["name"]
        if "password" in person:
            found["passwords"][person["name"]] = person["password"]
        project["read"] = [item]
        found["people"].append(person)
        found["projects"][number % 2]["write"].append(person["name"])
        found["projects"] += [project] if part in ("project", "network", "person") else []
        found["networks"] += [network] if part == "network" else []
    return found


def problem(cases: list[tuple[str, str]]) -> Exception | None:
    """Return what a list with these cases is refused with."""
    found = described(cases)
    try:
        lists = (found[name] for name in ("networks", "people", "projects", "allow_anywhere"))
        made = lab.load(*lists, FLAVOUR, admin=found["admin"], administrators=found["administrators"])
        wanted = accounts.wanted(made, found["passwords"], 24, found["certificates"])
        untouchable = accounts.PROTECTED | {*found["protected_accounts"]}
        if {account.user for account in wanted.accounts} & untouchable:
            return account_state.AccountsError("protected")
    except REFUSALS as error:
        return error
    return None


def as_listed(cases: list[tuple[str, str]], learning: bool) -> None:
    """The cases in a list, which is refused as a whole if one of them must be; then without those."""
    refused = [problem([case]) is not None for case in cases]
    result = run(described(cases), learning)
    if any(refused) and not isinstance(result, Exception):
        raise Wrong(f"not refused: {[case for case, wrong in zip(cases, refused) if wrong]}")
    told["refused"] += sum(refused)
    valid: list[tuple[str, str]] = []
    for case, wrong in zip(cases, refused):
        if not wrong:
            conflict = problem([*valid, case])
            told["in conflict"] += bool(conflict)  # two of one name, for instance
            valid += [] if conflict else [case]
    wanted = described(valid)
    applied(wanted, learning)
    told["taken"] += len(valid)
    for person in wanted["people"]:
        if "password" in person:
            log_in(person["name"], person["password"])


def log_in(user: str, password: str) -> None:
    options = {"user": user, "password": password, "charset": "utf8mb4", "ssl": ANY_SERVER}
    with pymysql.connect(host=ADDRESS, port=PORT, **options) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT CURRENT_USER()")
        if cursor.fetchone() != (f"{user}@{ADDRESS}",):
            raise Wrong(f"{user!r} is somebody else")
    told["logins"] += 1


# The same texts past the validation


def names(texts: list[str], length: int, database: bool = False) -> list[str]:
    """Return what the server itself can take for names of these texts, each once."""
    found = {}
    taken = lab.RESERVED_DATABASES | lab.RESERVED_USERS | {lab.ADMIN, *PROJECTS}
    for text in texts:
        text = "".join(letter for letter in text if "\0" < letter < "\ud800" or "\ue000" <= letter <= "\uffff")
        while len(sql.grant_escaped(text) if database else text) > length:
            text = text[:-1]
        text = text.strip()  # servers do, at one end or at both
        if text and text.lower() not in taken:
            found.setdefault(text.casefold(), text)
    return list(found.values())


@contextlib.contextmanager
def instead_of_loading(made: lab.Lab):
    load, lab.load = lab.load, lambda *_arguments, **_options: made
    try:
        yield
    finally:
        lab.load = load


def past_validation(cases: list[tuple[str, str]], learning: bool) -> None:
    """The cases' texts as names of people and databases, as passwords and in certificates."""
    texts = [text for _field, text in cases]
    users, databases = names(texts, 32), names(texts, 64, database=True) or ["d"]
    people, certificates, passwords, matrix = {}, {}, {}, []
    for number, user in enumerate(users):
        tls = (lab.OFFERED, lab.REQUIRED, lab.CERTIFICATE)[number % 3]
        people[user] = lab.Person(user, None, tls, KEPT if FLAVOUR == "mysql" and number % 10 else None)
        text = texts[number].replace("\0", "").encode(errors="ignore").decode() or "x"
        printable = "".join(letter if " " <= letter <= "~" else "\\x00" for letter in text)
        certificates[user] = {"subject": printable, "issuer": printable[::-1]}
        passwords[user] = None if people[user].password_hash else text
        matrix.append(lab.Access(databases[number % len(databases)], user, parse(ADDRESS), lab.READ))
        matrix.append(lab.Access(PROJECTS[number % 2], user, parse(ADDRESS), lab.WRITE))
    projects = {name: lab.Project(name, "relstorage4", True, "present") for name in (*PROJECTS, *databases)}
    made = lab.Lab(people, projects, tuple(matrix))
    with instead_of_loading(made):
        applied(arguments(passwords=passwords, certificates=certificates), learning)
    told["past the validation"] += len(cases)
    rotate({user: f"{text}'" for user, text in passwords.items() if text}, learning)


def rotate(people: dict[str, str], learning: bool) -> None:
    """New passwords for some, beside the old ones and then alone."""
    people = dict(list(people.items())[:3])
    for steps_of in (rotation.rotate, rotation.finish):
        plan = steps_of(look(), people)

        def act(plan=plan):
            connection = sql.connect(SOCKET)
            for step in (*plan.steps, *plan.last_steps):
                peat_access._query(connection, step.sql)

        hold(act, learning)
    state = look()
    for account in state.registered:
        login = state.accounts[account]
        if account.user in people and (
            login.spare or not auth.verifies(people[account.user], login.plugin, login.auth)
        ):
            raise Wrong(f"{account} does not have the new password")
    told["rotated"] += len(people)


# The same texts on the server already


def made_by_hand(cases: list[tuple[str, str]], learning: bool) -> None:
    """Hostile accounts, rights and roles that somebody made; the driver quotes, not this repository. They go."""
    texts = [text for _field, text in cases[:6]]
    users, databases = names(texts, 30), names(texts, 64, database=True) or ["d"]
    hosts = [name.lower() for name in names(texts, 60) if name.isascii()] or ["h"]
    for number, user in enumerate(users):
        account = user, hosts[number % len(hosts)]
        database = databases[number % len(databases)].replace("`", "``").replace("%", "%%")
        with contextlib.suppress(pymysql.err.OperationalError):  # for hosts that this server does not take
            query("CREATE USER %s@%s", account)
            query(f"GRANT SELECT ON `{database}`.* TO %s@%s", account)
            told["made by hand"] += 1
    roles = [f"{user}-r" for user in users[:1]]
    for role in roles:
        query("CREATE ROLE %s", (role,))
    for mode in ("lock", "drop"):
        plan = run(arguments(unmanaged=mode), learning)
        if isinstance(plan, Exception):
            raise Wrong(f"refused: {plan}")
    if left := [account for account in look().accounts if account.user in {*users, *roles}]:
        raise Wrong(f"{left} stayed")


# Orders

HARMLESS = [
    ("person.name", "ann"), ("network.name", "lab"), ("network.address", "192.0.2.0/24"), ("person.from", "192.0.2.7"),
    ("person.password", "another password"), ("project.name", "dd"), ("project.from", "192.0.2.1"),
    ("project.from", "192.0.2.0/24"), ("project.from", "2001:db8:1::/48"), ("person.tls", "required"),
    ("person.tls", "forwarder"), ("certificate.subject", "/CN=x"), ("admin.prefix", "fuzz"), ("protected", "monitor"),
    ("administrator.name", "keeper"),
    ("project.from", "%"), ("person.tls", "optional"),
]  # fmt: skip


def everything(cases: list[tuple[str, str]], learning: bool = False) -> None:
    as_listed(cases, learning)
    past_validation(cases, learning)
    made_by_hand(cases, learning)


def learn() -> None:
    """Lists with nothing hostile in them, of many kinds, and from each of them to each other."""
    for some in (HARMLESS, HARMLESS[:1], HARMLESS[::-1], HARMLESS[::2], HARMLESS[:1], HARMLESS):
        everything([(field, f"{text}{number}" if text.isalpha() and field != "person.tls" else text)
                    for number, (field, text) in enumerate(some)], learning=True)  # fmt: skip


def answer(order: dict) -> dict:
    told.clear()
    try:
        with unquoted(order.get("without")):
            everything([(field, text) for field, text in order["cases"]])
    except (Wrong, *REFUSALS, pymysql.err.MySQLError) as error:
        wrong = f"{error}\n{traceback.format_exc(limit=-4)}"
        with contextlib.suppress(Wrong):  # what it left is not to be the next one's
            run(arguments(unmanaged="drop"))
        return {"wrong": wrong}
    return {"told": told}


def through_a_shell(text: str) -> str:
    os.system(f": {text}")
    return sql.literal(text)


@contextlib.contextmanager
def unquoted(fault: str | None):
    """Let the module write texts (literal) or names (quote_name) into statements as they are, or use a shell."""
    name, instead = {
        "literal": ("literal", lambda text: f"'{text}'"),
        "quote_name": ("quote_name", lambda text: f"`{text}`"),
        "shell": ("literal", through_a_shell),
    }.get(fault or "", ("", None))
    places = [module for module in (account_state, account_steps, account_reader, rotation) if hasattr(module, name)]
    for module in places:
        setattr(module, name, instead)
    try:
        yield
    finally:
        for module in places:
            setattr(module, name, getattr(sql, name))


def main() -> None:
    ((file, on),) = query("SELECT @@general_log_file, @@general_log")
    query("SET GLOBAL general_log = OFF")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(LOG)
    query("SET GLOBAL general_log_file = %s", (LOG,))
    if FLAVOUR == "mysql":
        query("SET GLOBAL log_raw = ON")  # otherwise it logs statements about passwords in its own words
    query("SET GLOBAL general_log = ON")
    try:
        for name in (WITNESS, *PROJECTS):
            query(f"CREATE DATABASE {name}")
        query(f"CREATE TABLE {WITNESS}.t (name VARCHAR(20) PRIMARY KEY)")
        query(f"INSERT INTO {WITNESS}.t VALUES ('still here')")
        for name in PROJECTS:
            for table in account_state.PACK_TABLES[True]:
                query(f"CREATE TABLE {name}.{table} (zoid INT) ENGINE=MEMORY")
        learn()
        for line in sys.stdin:
            print(json.dumps(answer(json.loads(line))), flush=True)
    finally:
        query("SET GLOBAL general_log = OFF")
        query("SET GLOBAL general_log_file = %s", (file,))
        query("SET GLOBAL general_log = %s", (on,))
        if FLAVOUR == "mysql":
            query("SET GLOBAL log_raw = OFF")
        for name in (WITNESS, *PROJECTS):
            query(f"DROP DATABASE IF EXISTS {name}")
        os.unlink(LOG)


if __name__ == "__main__":
    main()
