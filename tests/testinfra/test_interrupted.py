"""peat_access ended by SIGKILL in the middle: nobody can ever do more than one of the two lists says.

A program on the server sits between the module and the server's socket. It counts the statements that change
something, looks at the grant tables before each of them, and kills the module at one of them: before the server
has it, while the server works on it, or after its answer.
"""

from __future__ import annotations

import functools
import itertools
import random

import logins
import onhost
import pytest
from conftest import put
from peat import auth

pytestmark = pytest.mark.any_list

#: How often the module is killed, each time in another part of the run.
POINTS = 20
WHEN = ("before", "meanwhile", "after")
PROJECTS = {"interrupt_1": ("relstorage4", True), "interrupt_2": ("relstorage4", True)}
OLD, NEW = "the password of before", "the password of now"
WATCH = "/usr/local/lib/peat-tests/watch.py"

WATCHER = '''
"""For each order, a line of the standard input, runs the module in a fork of its own behind a socket that counts, and
kills it at a statement if told to."""
import json, os, select, signal, socket, sys, time
sys.path.insert(0, "%s")
import start
import pymysql
from ansible.module_utils.peat import account_reader, account_state, accounts, foreign, lab, sql, unlisted

real = "/run/mysqld/mysqld.sock"
ours = "/run/peat-test-watch.sock"
own = pymysql.connect(unix_socket=real, user="root", autocommit=True)

def query(text):
    with own.cursor() as cursor:
        cursor.execute(text)
        return list(cursor.fetchall())

def look(order, statement):
    """What every login of the order could do now."""
    state = account_reader.read(query)
    can = []
    for user, address in order["logins"]:
        account = account_state.login_account(state, user, address)
        login = state.accounts.get(account)
        rights = sorted(f"{privilege} on {scope}" for scope, privilege in account_state.effective(state, user, address))
        can.append(login and [login.plugin, login.auth, bool(login.tls), login.spare, rights])
    rows = [[str(a), l.plugin, l.auth, bool(l.tls)] for a, l in state.accounts.items() if a.user in order["people"]]
    return {"statement": statement, "can": can, "accounts": rows}

def receive(connection, count):
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise EOFError
        data += more
    return data

def in_clear(greeting):
    """The server's first packet without the offer of TLS, through which nobody could count."""
    flags = greeting.index(b"\\0", 5) + 1 + 4 + 8 + 1 + 1
    return greeting[:flags] + bytes([greeting[flags] & ~8]) + greeting[flags + 1 :]

def watch(order):
    """One run of the module."""
    module, said = start.fork("peat_access", {**order["arguments"], "login_unix_socket": ours})

    def kill():
        os.kill(module, signal.SIGKILL)
        raise EOFError

    client, server = listener.accept()[0], socket.socket(socket.AF_UNIX)
    server.connect(real)
    seen, count, due = [], 0, None
    try:
        client.sendall(in_clear(server.recv(1 << 16)))
        while True:
            ready = select.select([client, server], [], [])[0]
            if server in ready:
                data = server.recv(1 << 16)
                if due == "after":
                    kill()
                if not data:
                    raise EOFError
                client.sendall(data)
            elif client in ready:
                head = receive(client, 4)
                body = receive(client, int.from_bytes(head[:3], "little"))
                text = body[1:].decode(errors="replace") if head[3] == 0 and body[:1] == b"\\x03" else ""
                verb = text.split(None, 1)[0].upper() if text.strip() else ""
                if verb not in ("", "SELECT", "SET", "SHOW"):
                    count += 1
                    if order["look"]:
                        seen.append(look(order, text[:60]))
                    due = order["when"] if count == order["at"] else None
                    if due == "before":
                        kill()
                server.sendall(head + body)
                if due == "meanwhile":
                    kill()
    except EOFError:
        client.close()
        server.close()
    with open(said) as file:
        output = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(module, 0)[1])
    left = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER = 'root' AND ID <> CONNECTION_ID()"
    while query(left)[0][0]:  # what the server was told last may still be at work
        time.sleep(0.02)
    seen.append(look(order, "the end"))
    return {"code": code, "count": count, "seen": seen, "output": output}

if os.path.exists(ours):
    os.unlink(ours)
listener = socket.socket(socket.AF_UNIX)
listener.bind(ours)
listener.listen()
for line in sys.stdin:
    print(json.dumps(watch(json.loads(line))), flush=True)
'''


# Two lists: who comes, goes, gets more or less, moves, has another password, or another TLS rule


def by(person, *sources):
    return {"person": person, "from": list(sources)}


@pytest.fixture(scope="module")
def lists(lab):
    """The module's arguments before and after, and the addresses that their networks tell apart."""
    nets = logins.nets(lab)
    campus, desk, office, away = (f"{nets['net4']}.{tail}" for tail in ("64/26", "90", "96/28", "120"))
    campus6, desk6 = (f"{nets['net6']}:ca:{tail}" for tail in (":/80", ":90"))

    def described(passwords, tls, first, second):
        names = sorted({"goes", "stays", *passwords, *(item["person"] for item in itertools.chain(*first, *second))})
        people = [
            {"name": name, "from": [campus, campus6], "tls": "required" if name in tls else "optional"}
            for name in names
        ]
        projects = [
            {"name": name, "clients": clients, "keep_history": keep_history, "write": write, "read": read}
            for (name, (clients, keep_history)), (write, read) in zip(PROJECTS.items(), (first, second), strict=True)
        ]
        return {
            "networks": [],
            "people": people,
            "projects": projects,
            "allow_anywhere": True,
            "passwords": {name: passwords.get(name, OLD) for name in names},
        }

    before = described(
        {"rekeyed_up": OLD, "rekeyed_down": OLD},
        {"opened", "always"},
        (
            [
                by("goes", campus, campus6), by("narrowed", campus, campus6), by("stays", campus), by("moves", desk),
                by("turned", campus, campus6), by("hidden", desk, desk6), by("rekeyed_down", campus),
                by("opened", campus), by("always", campus), by("leaves", campus6, "%"),
            ],
            [
                # in the middle of more, which nobody may have for the moment in which both go
                by("leaves", campus, desk6),
                by("turned", desk, desk6), by("hidden", campus6, office, "%"), by("raised", campus, campus6),
                by("rekeyed_up", campus), by("closed", campus), by("lowered", desk),
            ],
        ),
        (
            [by("lowered", campus, "%"), by("narrowed", campus), by("rekeyed_down", desk)],
            [by("stays", campus), by("raised", desk), by("hidden", campus)],
        ),
    )  # fmt: skip
    after = described(
        {"rekeyed_up": NEW, "rekeyed_down": NEW},
        {"closed", "always"},
        (
            [
                by("comes", campus, campus6), by("stays", campus), by("raised", campus, campus6), by("moves", office),
                by("turned", desk, desk6), by("rekeyed_up", campus, desk6), by("closed", campus), by("lowered", desk),
                by("hidden", campus6, "%"), by("arrives", campus6, "%"),
            ],
            [
                by("arrives", campus, desk6),  # likewise while both come
                by("narrowed", desk), by("turned", campus, campus6), by("hidden", desk, desk6),
                by("rekeyed_down", campus), by("opened", campus), by("always", desk),
            ],
        ),
        (
            [by("comes", desk), by("raised", campus), by("hidden", campus), by("rekeyed_up", desk)],
            [by("stays", campus), by("lowered", campus, campus6), by("narrowed", desk6)],
        ),
    )  # fmt: skip
    return before, after, [desk, office.replace("96/28", "97"), away, desk6, desk6.replace(":90", ":91")]


@pytest.fixture(scope="module")
def everybody(lists):
    """Every (person, address) of either list."""
    people = sorted({person["name"] for arguments in lists[:2] for person in arguments["people"]})
    return list(itertools.product(people, lists[2]))


@pytest.fixture(scope="module")
def apply(lab, sql, site):
    """apply(list) -> the module's result on the server; then the scenario's list again."""
    site.to_restore = True
    with logins.databases(sql, PROJECTS), logins.peat_access(lab) as run:
        yield run


@pytest.fixture(scope="module")
def watched(lab, server, apply, lists, everybody):
    """watched(at, when, look) -> what came of a run of the second list over the first, killed at a statement."""
    put(server, (WATCHER % onhost.FOLDER).encode(), WATCH)
    before, after, _ = lists
    people = sorted({person for person, _ in everybody})
    with onhost.talk([*onhost.ssh(lab.server), f"python3 {WATCH}"]) as watch:

        def run(at=0, when="", look=False):
            apply(before)
            return watch(
                {"arguments": after, "at": at, "when": when, "look": look, "logins": everybody, "people": people}
            )

        yield run


@pytest.fixture(scope="module")
def whole(watched):
    """A run to its end, with a look at the grant tables before each statement."""
    return watched(look=True)


# What is asked of every moment


#: The privileges that the attempts of tests/clients/reach.py need, on the project or on its tables.
NEEDED = {
    "read": "SELECT", "insert": "INSERT", "update": "UPDATE", "delete": "DELETE",
    "temporary": "CREATE TEMPORARY TABLES", "call": "EXECUTE",
}  # fmt: skip
PACKED = ("pack_object", "pack_state", "pack_state_tid")


def privileges(able):
    """The rights behind what the list says of an address, as `account_state` names them."""
    found = set()
    for project, names in (able or {}).items():
        database = project.replace("_", "\\_")
        found |= {f"{NEEDED[name]} on {database}.*" for name in names if name in NEEDED}
        if "pack" in names:
            found |= {f"DROP on {project}.{table}" for table in PACKED}
        if names:  # what hides the rights of a wider network on these tables
            found |= {f"SELECT on {project}.{table}" for table in PACKED}
    return found


@functools.cache
def opens(password, plugin, stored):
    return auth.verifies(password, plugin, stored)


def terms(lists, person):
    """(password, whether TLS is demanded, access matrix) of each list that knows the person."""
    for arguments in lists[:2]:
        for entry in arguments["people"]:
            if entry["name"] == person:
                matrix = logins.matrix(arguments)
                yield arguments["passwords"][person], entry["tls"] == "required", matrix


@pytest.fixture(scope="module")
def hold_moment(lists, everybody):
    """hold_moment(look) fails if anybody could then do what neither list says, by the grant tables."""
    said = {
        (person, address): [
            (password, tls, privileges(logins.said(matrix, PROJECTS, person, address)))
            for password, tls, matrix in terms(lists, person)
        ]
        for person, address in everybody
    }

    def hold(moment):
        for account, plugin, stored, tls in moment["accounts"]:
            person = account.split("'")[1]
            opening = [term for term in said[person, everybody[0][1]] if opens(term[0], plugin, stored)]
            assert opening, (moment["statement"], account, "has no password of its person")
            assert tls or not all(term[1] for term in opening), (moment["statement"], account, "does without TLS")
        for (person, address), can in zip(everybody, moment["can"], strict=True):
            if can is None:
                continue
            plugin, stored, tls, spare, rights = can
            assert not spare, (moment["statement"], person, address, "has two passwords")
            # The password, the TLS rule and the rights must be of one and the same list.
            fitting = [
                True
                for password, demanded, wanted in said[person, address]
                if opens(password, plugin, stored) and (tls or not demanded) and set(rights) <= wanted
            ]
            assert fitting, (moment["statement"], person, address, tls, rights, said[person, address])

    return hold


@pytest.fixture(scope="module")
def hold_logins(lab, modern, lists, everybody, sql):
    """hold_logins(exactly=None or a list) fails if a login can do what neither list says, or not what that one says."""
    certificate = logins.offers_tls(sql)
    with_tls = {entry["name"] for arguments in lists[:2] for entry in arguments["people"] if entry["tls"] == "required"}
    tries = [
        {"user": person, "from": address, "password": password, "tls": tls}
        for person, address in everybody
        for password in ((OLD, NEW) if "rekeyed" in person else (OLD,))
        for tls in ((False, True) if certificate and person in with_tls else (False,))
    ]

    def said(arguments, login):
        entry = next((entry for entry in arguments["people"] if entry["name"] == login["user"]), None)
        if entry is None or arguments["passwords"][login["user"]] != login["password"]:
            return None
        if entry["tls"] == "required" and not login["tls"]:
            return None
        return logins.said(logins.matrix(arguments), PROJECTS, login["user"], login["from"])

    wanted = [[said(arguments, login) for login in tries] for arguments in lists[:2]]

    def nowhere_more(found, able):
        return all(names <= (able or {}).get(project, set()) for project, names in found.items())

    def hold(log_in, exactly=False):
        for login, found, before, after in zip(tries, log_in(tries, PROJECTS), *wanted, strict=True):
            if isinstance(found, int):
                assert found in logins.REFUSED, (login, found)
                assert not exactly or after is None, (login, found, after)
            elif exactly:
                assert found == after, (login, found, after)
            else:
                assert nowhere_more(found, before) or nowhere_more(found, after), (login, found, before, after)

    with logins.more_addresses(modern, lists[2]), logins.log_in(lab, modern) as log_in:
        yield functools.partial(hold, log_in)


# The tests


def test_at_no_statement_can_anybody_do_more_than_a_list_says(whole, hold_moment):
    assert whole["code"] == 0, whole["output"]
    assert whole["count"] >= POINTS
    assert len(whole["seen"]) == whole["count"] + 1
    for moment in whole["seen"]:
        hold_moment(moment)


def test_a_killed_run_leaves_nothing_open_and_the_next_one_finishes_it(
    whole, watched, apply, lists, hold_moment, hold_logins, subtests
):
    dice = random.Random(1)
    size = whole["count"] / POINTS
    for number in range(POINTS):
        at = dice.randint(int(number * size) + 1, int((number + 1) * size))
        when = WHEN[number % len(WHEN)]
        with subtests.test(statement=at, when=when, of=whole["count"]):
            killed = watched(at, when)
            assert killed["code"] == -9, killed["output"]
            hold_moment(killed["seen"][-1])
            hold_logins()
            finished = apply(lists[1])
            assert finished["changed"] or at == whole["count"]
            hold_logins(exactly=True)
            assert not apply(lists[1])["changed"]
