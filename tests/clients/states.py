#!/opt/peat2/bin/python
"""What RelStorage 1 (Python 2.7) itself loads from databases: every object, and the undo log.

    states.py --server ADDRESS --username NAME [--history-free] DATABASE ...

Prints one JSON object: {database: {"objects": count, "digest": SHA-1 of all object ids, transaction ids and
states, "log": entries of the undo log} or {"error": text}}. Creates nothing. The password is read from
PEAT_PASSWORD. Run it with the interpreter of the release that is to look.
"""

import argparse
import hashlib
import json
import os
import sys

from relstorage.adapters.mysql import MySQLAdapter
from relstorage.options import Options
from relstorage.storage import RelStorage
from ZODB.POSException import POSKeyError
from ZODB.utils import p64


def look(options, database, objects):
    settings = Options(keep_history=not options.history_free)
    adapter = MySQLAdapter(
        options=settings,
        host=options.server,
        port=options.port,
        user=options.username,
        passwd=os.environ["PEAT_PASSWORD"],
        db=database,
    )
    storage = RelStorage(adapter, create=False, options=settings)
    # What 1.5 would log about an object that is not there, it reads from the column that 1.4 does not have.
    storage._log_keyerror = lambda *arguments: None
    digest, count = hashlib.sha1(), 0
    for oid in range(objects):
        try:
            state, tid = storage.load(p64(oid), "")
        except POSKeyError:
            continue
        count += 1
        digest.update(p64(oid) + tid + state)
    log = [] if options.history_free else storage.undoLog(0, 1000)
    storage.close()
    return {"objects": count, "digest": digest.hexdigest(), "log": len(log)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", required=True)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--username", required=True)
    parser.add_argument("--history-free", action="store_true")
    parser.add_argument("--objects", type=int, default=1700)
    parser.add_argument("databases", nargs="+")
    options = parser.parse_args()
    answer = {}
    for database in options.databases:
        try:
            answer[database] = look(options, database, options.objects)
        except Exception as error:
            answer[database] = {"error": "%s: %s" % (type(error).__name__, error)}
    sys.stdout.write(json.dumps(answer, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
