#!/opt/relstorage4/bin/python
"""A program of today that keeps objects in a project: RelStorage 4.3, or with --backend=zeo ZEO 6 (Python 3).

Opens a project of RelStorage without creating or changing its schema (unless --create-schema, RelStorage's
own default, is given) and does one thing with it. Prints one JSON object as its last line:

    {"ok": true, ...}                     see each command
    {"ok": false, "step": S, "error": E}  E: {type, number, text}; number: the server's error number,
                                          or null

and ends with 0 whenever it printed that. The password is read from the environment variable
PEAT_PASSWORD.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import signal
import ssl
import tempfile
import time
from collections.abc import Iterator

import transaction
import ZODB
from BTrees.OOBTree import OOBTree
from persistent import Persistent
from relstorage.adapters.mysql import MySQLAdapter
from relstorage.options import Options
from relstorage.storage import RelStorage
from ZEO.ClientStorage import ClientStorage
from ZODB.blob import Blob
from ZODB.POSException import ConflictError
from ZODB.serialize import referencesf
from ZODB.utils import u64


class Entry(Persistent):
    """What `add` stores."""

    def __init__(self, number: int):
        self.text = text_of(number)


class Counter(Persistent):
    """A number several processes count up; every increment reads it first, so they conflict."""

    value = 0


class Failed(Exception):
    """A step (open, commit, undo, blob, pack, read) ended with `error`."""

    def __init__(self, step: str, error: BaseException):
        super().__init__(step)
        self.answer = {"ok": False, "step": step, "error": describe(error)}


def describe(error: BaseException) -> dict:
    """Type and text of an error, and the server's error number wherever in its causes it is."""
    number, cause = None, error
    while cause is not None and number is None:
        if cause.args and isinstance(cause.args[0], int):
            number = cause.args[0]
        cause = cause.__cause__ or cause.__context__
    return {"type": type(error).__name__, "number": number, "text": str(error)}


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise Failed(name, error) from error


def relstorage(options: argparse.Namespace, blobs: str) -> RelStorage:
    settings = Options(
        keep_history=options.keep_history,
        create_schema=options.create_schema,
        driver=options.driver,
        blob_dir=blobs,
        shared_blob_dir=False,
    )
    adapter = MySQLAdapter(
        options=settings,
        host=options.server,
        port=options.port,
        user=options.username,
        passwd=os.environ["PEAT_PASSWORD"],
        db=options.project,
        connect_timeout=3,
        **options.connect,
    )
    return RelStorage(adapter, options=settings)


def zeo(options: argparse.Namespace, blobs: str) -> ClientStorage:
    security = {}
    if options.ca:
        context = ssl.create_default_context(cafile=options.ca)
        if options.certificate:
            context.load_cert_chain(options.certificate)
        security = {"ssl": context, "ssl_server_hostname": options.server}
    return ClientStorage(
        (options.server, options.port),
        storage=options.project,
        blob_dir=blobs,
        wait_timeout=5,
        read_only=options.read_only,
        **security,
    )


@contextlib.contextmanager
def project(options: argparse.Namespace) -> Iterator[ZODB.DB]:
    """Open the project with an empty blob cache of its own, as a client on another machine has."""
    with tempfile.TemporaryDirectory() as blobs:
        with step("open"):
            database = ZODB.DB((zeo if options.backend == "zeo" else relstorage)(options, blobs))
        try:
            yield database
        finally:
            with contextlib.suppress(Exception):
                # After a lost connection both raise; what matters has been reported.
                transaction.abort()
                database.close()


def text_of(number: int) -> str:
    return f"entry {number} éβ {hashlib.sha256(str(number).encode()).hexdigest()}"


def folder(root, name: str) -> OOBTree:
    if name not in root:
        root[name] = OOBTree()
    return root[name]


def do_open(database: ZODB.DB, options: argparse.Namespace) -> dict:
    """keys: the names in the project's root."""
    with step("read"), database.transaction() as connection:
        return {"keys": sorted(connection.root())}


def do_add(database: ZODB.DB, options: argparse.Namespace) -> dict:
    """Add --records entries under --prefix in --commits commits; records: how many there are now."""
    connection = database.open()
    batch = max(1, options.records // options.commits)
    with step("commit"):
        entries = folder(connection.root(), options.prefix)
        for done in range(1, options.records + 1):
            number = options.first + done - 1
            entries[number] = Entry(number)
            if done % batch == 0 or done == options.records:
                transaction.get().note(f"{options.prefix} {done}")
                transaction.commit()
    return {"records": len(entries)}


def do_read(database: ZODB.DB, options: argparse.Namespace) -> dict:
    """numbers: of all entries under --prefix; wrong: those that are not what was stored."""
    with step("read"), database.transaction() as connection:
        entries = connection.root().get(options.prefix, {})
        wrong = [number for number in entries if entries[number].text != text_of(number)]
        return {"numbers": list(entries), "wrong": wrong}


def do_undo(database: ZODB.DB, options: argparse.Namespace) -> dict:
    """Change an entry, commit, undo; before, changed, after: its text, the last after reopening."""
    connection = database.open()
    with step("read"):
        entry = connection.root()[options.prefix][options.first]
        before = entry.text
    with step("commit"):
        entry.text = "spoilt"
        transaction.get().note("mistake")
        transaction.commit()
        changed = entry.text
    with step("undo"):
        mistake = next(e for e in database.undoLog(0, 20) if e["description"] == "mistake")
        database.undo(mistake["id"])
        transaction.commit()
    connection.close()
    connection = database.open()
    return {
        "before": before,
        "changed": changed,
        "after": connection.root()[options.prefix][options.first].text,
    }


def content_of(options: argparse.Namespace) -> bytes:
    """What the blob of --prefix holds."""
    return hashlib.shake_256(options.prefix.encode()).digest(options.size)


def do_blob(database: ZODB.DB, options: argparse.Namespace) -> dict:
    """Store a blob of --size bytes; fetched: whether a client with an empty cache gets the same."""
    with step("blob"):
        connection = database.open()
        blob = Blob()
        with blob.open("w") as stream:
            stream.write(content_of(options))
        connection.root()[f"{options.prefix} blob"] = blob
        transaction.commit()
        connection.close()
        with project(options) as other:
            return do_fetch(other, options)


def do_fetch(database: ZODB.DB, options: argparse.Namespace) -> dict:
    """Read the blob that `blob` stored; fetched: whether it is the same."""
    with (
        step("blob"),
        database.transaction() as connection,
        connection.root()[f"{options.prefix} blob"].open("r") as stream,
    ):
        fetched = stream.read()
    return {"size": len(fetched), "fetched": fetched == content_of(options)}


def do_discard(database: ZODB.DB, options: argparse.Namespace) -> dict:
    """Commit an object, then a state that no longer refers to it: garbage for a pack."""
    connection = database.open()
    with step("commit"):
        connection.root()["garbage"] = Counter()
        transaction.commit()
        del connection.root()["garbage"]
        transaction.commit()
    return {}


def do_pack(database: ZODB.DB, options: argparse.Namespace) -> dict:
    """Pack away all garbage and history."""
    with step("pack"):
        database.storage.pack(time.time(), referencesf)
    return {}


def do_new_oid(database: ZODB.DB, options: argparse.Namespace) -> dict:
    """oid: the object id the next new object of this session would get."""
    with step("commit"):
        return {"oid": u64(database.storage.new_oid())}


def count(options: argparse.Namespace, worker: int, start, results) -> None:
    """One process: count both counters up --increments times, each time with a new object."""
    retries = 0
    try:
        with project(options) as database:
            connection = database.open()
            connection.root()
            start.wait(60)
            for number in range(options.increments):
                while True:
                    try:
                        transaction.begin()
                        shared = connection.root()[f"{options.prefix} counters"]
                        # Opposite order in every other process, so that their locks cross as well.
                        for name in ("left", "right")[:: 1 if worker % 2 else -1]:
                            shared[name].value += 1
                        shared["new"][f"{worker}-{number}"] = Counter()
                        transaction.commit()
                        break
                    except ConflictError:
                        retries += 1
                        transaction.abort()
        results.put({"retries": retries})
    except Exception as error:
        results.put(error.answer if isinstance(error, Failed) else {"error": describe(error)})


def do_conflicts(database: ZODB.DB, options: argparse.Namespace) -> dict:
    """--processes processes count the same two counters; every increment must be in the sum.

    expected: increments made; left, right: the counters; new: objects added meanwhile; retries: the
    conflicts that were retried; errors: of processes that ended otherwise.
    """
    connection = database.open()
    with step("commit"):
        shared = connection.root()[f"{options.prefix} counters"] = OOBTree()
        shared["left"], shared["right"], shared["new"] = Counter(), Counter(), OOBTree()
        transaction.commit()
    connection.close()
    # spawn: a forked process would share this one's connection to the server.
    spawn = multiprocessing.get_context("spawn")
    start, results = spawn.Barrier(options.processes), spawn.Queue()
    workers = [
        spawn.Process(target=count, args=(options, number, start, results)) for number in range(options.processes)
    ]
    for worker in workers:
        worker.start()
    outcomes = [results.get(timeout=300) for _ in workers]
    for worker in workers:
        worker.join(30)
    with step("read"), database.transaction() as connection:
        shared = connection.root()[f"{options.prefix} counters"]
        return {
            "expected": options.processes * options.increments,
            "left": shared["left"].value,
            "right": shared["right"].value,
            "new": len(shared["new"]),
            "retries": sum(outcome.get("retries", 0) for outcome in outcomes),
            "errors": [outcome["error"] for outcome in outcomes if "error" in outcome],
        }


def do_commit_loop(database: ZODB.DB, options: argparse.Namespace) -> dict:
    """Add one entry and commit, again and again, for --seconds or until a commit fails.

    Prints {"saved": number} as soon as a commit has returned. In the end saved: how many; error: what
    ended the loop, or null. With --patient an error ends nothing: it prints {"failed": error}, begins anew as a
    program that stays open does, and goes on.
    """
    deadline, saved, error = time.monotonic() + options.seconds, 0, None
    connection = database.open()
    number = options.first
    while time.monotonic() < deadline:
        try:
            entries = folder(connection.root(), options.prefix)
            entries[number] = Entry(number)
            transaction.commit()
        except Exception as failure:
            if options.patient:
                answer({"failed": describe(failure)})
                transaction.abort()
                time.sleep(0.2)
                continue
            error = describe(failure)
            break
        answer({"saved": number})
        if options.patient:
            time.sleep(0.05)
        saved += 1
        number += 1
    return {"saved": saved, "error": error}


def do_hold(database: ZODB.DB, options: argparse.Namespace) -> dict:
    """Vote for a transaction, print {"saved": 0}, and stop without finishing it, as a laptop that falls asleep does."""
    storage, unfinished = database.storage, transaction.Transaction()
    with step("commit"):
        storage.tpc_begin(unfinished)
        storage.tpc_vote(unfinished)
    answer({"saved": 0})
    os.kill(os.getpid(), signal.SIGSTOP)
    return {}


def answer(result: dict) -> None:
    print(json.dumps(result, sort_keys=True), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--server", required=True)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--project", required=True)
    parser.add_argument("--username", required=True)
    parser.add_argument("--backend", choices=("relstorage", "zeo"), default="relstorage")
    parser.add_argument("--ca", help="ZEO with TLS: the authority that signed the server's certificate")
    parser.add_argument("--certificate", help="ZEO with TLS: this client's certificate and key")
    parser.add_argument("--read-only", action="store_true", help="ZEO: ask to read only")
    parser.add_argument("--driver", choices=("PyMySQL", "MySQLdb"), default="PyMySQL")
    parser.add_argument("--connect", type=json.loads, default={}, help="further arguments of the driver, as JSON")
    parser.add_argument("--history-free", dest="keep_history", action="store_false")
    parser.add_argument("--create-schema", action="store_true")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, function in sorted(globals().items()):
        if name.startswith("do_"):
            command = commands.add_parser(name[3:].replace("_", "-"), help=function.__doc__)
            command.set_defaults(function=function)
            command.add_argument("--prefix", default="entries")
            command.add_argument("--first", type=int, default=1)
            command.add_argument("--records", type=int, default=1)
            command.add_argument("--commits", type=int, default=1)
            command.add_argument("--size", type=int, default=3_000_000)
            command.add_argument("--processes", type=int, default=4)
            command.add_argument("--increments", type=int, default=25)
            command.add_argument("--seconds", type=float, default=60)
            command.add_argument("--patient", action="store_true")
    options = parser.parse_args()
    try:
        with project(options) as database:
            result = options.function(database, options)
        answer(result | {"ok": True})
    except Failed as failure:
        answer(failure.answer)


if __name__ == "__main__":
    main()
