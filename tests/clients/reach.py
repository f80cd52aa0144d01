"""What accounts can do from which address of this host, tried on the server.

usage: reach.py answer       answers each line of the standard input with a line
       reach.py hold JSON    one login: asks again and again until the server ends the session

To answer is given {"server", "port", "logins": [{"user", "password", "from", "tls"}], "projects": []} and perhaps
"more": {name: statement}, which is tried besides. The answer is a list: for each login the number of the error that
refused it, or what it can do by project. `hold` gets the same with one "login"; it prints "connected", then the number
of the error that ended it. Its JSON may come from the standard input: `-`.
"""

import json
import sys
import time

import pymysql

# The error numbers with which a server refuses for want of a right: on a table, on a database, to a routine.
DENIED = (1142, 1044, 1370)
ATTEMPTS = {
    "read": "SELECT COUNT(*) FROM {}.object_state",
    "insert": "INSERT INTO {}.object_state VALUES (1)",
    "update": "UPDATE {}.object_state SET zoid = 2",
    "delete": "DELETE FROM {}.object_state",
    "temporary": "CREATE TEMPORARY TABLE {}.temp_store (zoid INT)",
    "pack": "TRUNCATE {}.pack_object",
    "call": "CALL {}.nothing()",
    "empty": "TRUNCATE {}.object_state",
    "drop": "DROP TABLE {}.object_state",
    "create": "CREATE TABLE {}.more (zoid INT)",
    "alter": "ALTER TABLE {}.object_state ADD more INT",
}


def connect(server, port, login):
    """Log in from one of this host's addresses; `tls` false asks for a connection in clear."""
    return pymysql.connect(
        host=server,
        port=port,
        user=login["user"],
        password=login["password"],
        bind_address=login["from"],
        ssl_disabled=not login.get("tls", True),
    )


def can(cursor, project, attempts):
    """Return the names of the attempts that the server does not refuse for want of a right."""
    done = []
    for name, statement in attempts.items():
        try:
            cursor.execute(statement.format(f"`{project}`"))
        except pymysql.MySQLError as error:
            if error.args[0] in DENIED:
                continue
        done.append(name)
    return done


def probe(server, port, logins, projects, more=()):
    """Return what each login can do."""
    results = []
    for login in logins:
        try:
            connection = connect(server[":" in login["from"]], port, login)
        except pymysql.MySQLError as error:
            results.append(error.args[0])
            continue
        with connection, connection.cursor() as cursor:
            results.append({project: can(cursor, project, {**ATTEMPTS, **dict(more)}) for project in projects})
    return results


def hold(server, port, login):
    """Keep a session until it is ended; ask often, so that the end is seen at once."""
    connection = connect(server[":" in login["from"]], port, login)
    print("connected", flush=True)
    with connection.cursor() as cursor:
        try:
            while True:
                cursor.execute("SELECT 1")
                time.sleep(0.1)
        except pymysql.MySQLError as error:
            print(error.args[0], flush=True)


def main(command, words):
    if command == "answer":
        for line in sys.stdin:
            print(json.dumps(probe(**json.loads(line))), flush=True)
        return
    hold(**json.loads(sys.stdin.read() if words[0] == "-" else words[0]))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
