#!/opt/peat2/bin/python
# -*- coding: utf-8 -*-
"""A session of the real PEAT 2.3 client without its window (Python 2.7).

Opens a project exactly as PEAT's dialog "Connect to DB" does, with the dialog's fields as options,
and does one thing with it. Prints one JSON object as its last line:

    {"ok": true, ...}                     see each command
    {"ok": false, "step": S, "error": E}  S: the step PEAT was at; E: {type, number, text, seen},
                                          number: the server's error number or null,
                                          seen: what PEAT shows the person

and ends with 0 whenever it printed that. Everything PEAT itself prints goes to standard error.
The password is read from the environment variable PEAT_PASSWORD. PEAT works with byte strings: all
text is UTF-8.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
import time

# The answer alone belongs on standard output; PEAT prints there as it likes.
answer_stream, sys.stdout = sys.stdout, sys.stderr

import matplotlib  # noqa: E402

# PEAT draws on a screen; this machine has none.
matplotlib.use("Agg")

from PEATDB.Base import PDatabase  # noqa: E402
from ZODB.utils import u64  # noqa: E402

FIELDS = ("activity", "stab", "notes", "DNASeq")


class Failed(Exception):
    """PEAT could not do a step.

    step: open, add, commit, undo, pack or read. seen: the text PEAT's window shows, or None where
    PEAT 2.3 only writes a traceback to the terminal it was started from.
    """

    def __init__(self, step, error, seen=None):
        Exception.__init__(self, step)
        arguments = getattr(error, "args", ())
        number = arguments[0] if arguments and isinstance(arguments[0], (int, long)) else None  # noqa: F821
        self.answer = {
            "ok": False,
            "step": step,
            "error": {
                "type": type(error).__name__,
                "number": number,
                "text": str(error),
                "seen": seen or "%s: %s" % (type(error).__name__, error),
            },
        }


class step(object):
    """Name the step an exception belongs to."""

    def __init__(self, name):
        self.name = name

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, Exception) and not isinstance(error, Failed):
            raise Failed(self.name, error)


def fields_of(number):
    """The fields of record `number`: the same at every client and in every session."""
    dice = random.Random(number)
    return {
        "activity": "%.3f" % dice.uniform(1, 40),
        "stab": "%.3f" % dice.uniform(-5, 5),
        "notes": "residue %d \xc3\xa9\xce\xb2-sheet" % number,
        "DNASeq": "".join(dice.choice("ACGT") for _ in range(300)),
    }


def name_of(prefix, number):
    return "%s%05d" % (prefix, number)


def open_project(options):
    """As PEATApp.connectDialog: same arguments, same warning."""
    with step("open"):
        database = PDatabase(
            server=options.server,
            port=options.port,
            username=options.username,
            password=os.environ["PEAT_PASSWORD"],
            project=options.project,
            backend=options.backend,
        )
    if database.connection is None:
        raise Failed(
            "open",
            database.errormessage,
            "Could not connect to %s:%s.\nError message returned: %s"
            % (options.project, options.server, database.errormessage),
        )
    return database


def commit(database, options, note):
    with step("commit"):
        if not database.commit(user=options.username, note=note):
            raise ValueError("PEAT reports a conflict")


def add_record(database, prefix, number):
    with step("add"):
        name = name_of(prefix, number)
        database.add(name)
        for field, value in fields_of(number).items():
            database.data[name][field] = value
    return name


def log_of(database):
    """[[user, note]], newest first, as PEAT's window "Undo log" lists it."""
    return [[entry["user_name"].strip("/ "), entry["description"]] for entry in database.undoLog()]


def do_open(database, options):
    """records: how many the project has."""
    return {"records": database.length()}


def do_add(database, options):
    """Add records --first to --first + --records - 1 in --commits commits; records: how many now."""
    for field in FIELDS:
        database.addField(field, "text")
    batch = max(1, options.records // options.commits)
    for done in range(1, options.records + 1):
        add_record(database, options.prefix, options.first + done - 1)
        if done % batch == 0 or done == options.records:
            commit(database, options, "%s %d" % (options.prefix, done))
    return {"records": database.length()}


def do_read(database, options):
    """names: every record of the project (of --prefix, if given).

    wrong: those this program added whose fields are not what it stored.
    """
    with step("read"):
        names = [name for name in database.getRecs() if name.startswith(options.prefix)]
        wrong = []
        for name in names:
            digits = name[len(options.prefix) :]
            if options.prefix and digits.isdigit():
                record, expected = database.get(name), fields_of(int(digits))
                if any(record[field] != expected[field] for field in FIELDS):
                    wrong.append(name)
    return {"records": database.length(), "names": names, "wrong": wrong}


def do_dump(database, options):
    """records: {name: {field: text}} with the columns people added, log: [[user, note]], newest first."""
    with step("read"):
        records = {}
        for name in database.getRecs():
            record = database.get(name)
            records[name] = dict((field, record[field]) for field in database.getFields() if field in record)
    return {"records": records, "log": log_of(database)}


def do_undo(database, options):
    """Spoil a record, save, undo that save from the log; before, spoilt, after: its notes."""
    name = name_of(options.prefix, options.first)
    record = database.get(name)
    before = record["notes"]
    record["notes"] = "spoilt"
    commit(database, options, "mistake")
    spoilt = database.get(name)["notes"]
    failed = []
    with step("undo"):
        mistake = [entry for entry in database.undoLog() if entry["description"] == "mistake"][0]
        database.undo(
            id=mistake["id"],
            user=options.username,
            note="undo mistake",
            callback=lambda: failed.append(name),
        )
        if failed:
            raise ValueError("PEAT could not undo the transaction")
    return {
        "before": before,
        "spoilt": spoilt,
        "after": database.get(name)["notes"],
        "log": log_of(database)[:2],
    }


def do_pack(database, options):
    """Pack away all history; log_before, log_after: entries of the undo log."""
    before = len(database.undoLog())
    with step("pack"):
        database.pack(days=0)
    return {"log_before": before, "log_after": len(database.undoLog()), "records": database.length()}


def do_attach(database, options):
    """Attach a file of --size bytes to a new record, as PEAT's "Add file" does; digest: of its content."""
    content = os.urandom(options.size)
    path = os.path.join(os.environ["HOME"], "measured \xc3\xa9.txt")
    with open(path, "wb") as stream:
        stream.write(content)
    with step("add"):
        database.addBlob(name_of(options.prefix, options.first), "file", path)
    commit(database, options, "attach")
    return {"digest": hashlib.sha256(content).hexdigest()}


def do_attachment(database, options):
    """digest: of the file that do_attach stored, as this session gets it."""
    with step("read"):
        record = database.get(name_of(options.prefix, options.first))
        with record["file"].getFile() as stream:
            return {"digest": hashlib.sha256(stream.read()).hexdigest()}


def do_new_oid(database, options):
    """oid: the object id the next new object of this session would get."""
    with step("add"):
        return {"oid": u64(database.storage.new_oid())}


def do_commit_loop(database, options):
    """Add one record and save, again and again, at most one in --every seconds, for --seconds or until a save fails.

    Prints {"saved": name} as soon as PEAT regards a save as done. With --patient 1, what failed is given up, and tried
    again in the same session, as a person would. In the end saved: how many; error: what ended the loop, or null.
    """
    deadline, saved, error = time.time() + options.seconds, 0, None
    number = options.first
    while time.time() < deadline:
        try:
            name = add_record(database, options.prefix, number)
            commit(database, options, name)
        except Failed as failure:
            if options.patient:
                answer({"failed": failure.answer["error"]["seen"]})
                database.abort()
                time.sleep(0.2)
                continue
            error = failure.answer["error"]
            break
        answer({"saved": name})
        time.sleep(options.every)
        saved += 1
        number += 1
    return {"saved": saved, "error": error}


def answer(result):
    answer_stream.write(json.dumps(result, sort_keys=True) + "\n")
    answer_stream.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", required=True)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--project", required=True)
    parser.add_argument("--username", required=True)
    parser.add_argument("--backend", choices=PDatabase.backends, default="mysql")
    commands = parser.add_subparsers(dest="command")
    for name, function in sorted(globals().items()):
        if name.startswith("do_"):
            command = commands.add_parser(name[3:].replace("_", "-"), help=function.__doc__)
            command.set_defaults(function=function)
            command.add_argument("--prefix", default="")
            command.add_argument("--first", type=int, default=1)
            command.add_argument("--records", type=int, default=1)
            command.add_argument("--commits", type=int, default=1)
            command.add_argument("--size", type=int, default=3000000)
            command.add_argument("--seconds", type=float, default=60)
            command.add_argument("--every", type=float, default=0)
            command.add_argument("--patient", type=int, default=0)
    options = parser.parse_args()
    # PEAT keeps copies of attached files in the home folder; a session elsewhere has none.
    os.environ["HOME"] = tempfile.mkdtemp()
    try:
        database = open_project(options)
        result = options.function(database, options)
        if not result.get("error"):
            database.close()
        answer(dict(result, ok=True))
    except Failed as failure:
        answer(failure.answer)
    answer_stream.flush()
    shutil.rmtree(os.environ["HOME"], ignore_errors=True)
    # A failed connection leaves PEAT with objects whose own clean-up raises; nothing is left to do.
    os._exit(0)


if __name__ == "__main__":
    main()
