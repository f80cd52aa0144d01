#!/usr/bin/python
"""What a conversion between backends takes on the database's host: checks, an account for its time, the last step."""

from __future__ import annotations

DOCUMENTATION = r"""
module: relstorage_convert
short_description: Account and tables for a conversion between backends
description:
  - One step of C(playbooks/convert.yml); C(zodb_convert) copies.
  - A database that gets data is filled under another name that no list can have, so nobody else has rights on it.
    Once all of it is there, its tables become the project's in one statement.
  - The account for the time of the conversion is bound to one address and one database.
options:
  login_unix_socket:
    description: Socket of the local server, where the system's root is the server's root.
    type: path
    default: /run/mysqld/mysqld.sock
  database:
    description: The database the data is in, or the project's that gets it.
    type: str
    required: true
  gets_data:
    description: Which of the two.
    type: bool
    required: true
  clients:
    description: Which clients the project is for.
    type: str
    choices: [peat2, relstorage4]
    required: true
  keep_history:
    description: Whether the project keeps history, for a database that gets data.
    type: bool
    default: true
  address:
    description: From where the account connects. For the state C(begun).
    type: str
  password:
    description: Its password. For the state C(begun).
    type: str
  state:
    description:
      - C(checked) refuses what cannot be. C(begun) makes account and tables, C(opened) gives the project its data,
        C(ended) removes whatever C(begun) made that is still there.
    type: str
    choices: [checked, begun, opened, ended]
    required: true
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
requirements:
  - PyMySQL
author:
  - PEAT Server contributors
"""

EXAMPLES = r"""
- relstorage_convert:
    database: hewlsample
    gets_data: true
    clients: peat2
    state: checked
"""

RETURN = r"""
user:
  description: Name of the account.
  returned: success
  type: str
database:
  description: The database to read, or to fill.
  returned: success
  type: str
keep_history:
  description: Whether it keeps history.
  returned: success
  type: bool
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.peat import schema
from ansible.module_utils.peat.migration import MigrationError
from ansible.module_utils.peat.migrator import read_database, read_sessions, server_errors
from ansible.module_utils.peat.sql import SqlError, connect, grant_pattern, literal, quote_name

USER = "peat-convert"
SUFFIX, EMPTY = "~convert", "~empty"


class ConvertError(Exception):
    """The database is not as it must be; says what was found and what to do."""


def has_objects(cursor, database):
    """Whether anything is stored in a database of RelStorage."""
    cursor.execute(f"SELECT EXISTS(SELECT 1 FROM {quote_name(database)}.object_state)")
    return bool(cursor.fetchone()[0])


def check(cursor, params):
    """Refuse a database that cannot be read, or filled; return whether it keeps history."""
    name = params["database"]
    if len(name) > 64 - len(SUFFIX):
        raise ConvertError(f"the name {name} is too long for a conversion: at most {64 - len(SUFFIX)} letters")
    found = read_database(cursor, name)
    if found is None or found.empty:
        raise ConvertError(
            f"there is no database {name} with tables on this server: name another, or run site.yml first"
        )
    identity = schema.identify(found)
    if identity.generation != params["clients"]:
        raise ConvertError(
            f"database {name} is {identity.text}, the project is for {params['clients']}: {identity.remedy}"
        )
    filled = has_objects(cursor, name)
    if params["gets_data"] and filled:
        raise ConvertError(
            f"database {name} is not empty: it has objects. Nothing was changed: only an empty project can get"
            " another's data"
        )
    if params["gets_data"] and identity.keep_history != params["keep_history"]:
        raise ConvertError(f"database {name} is {identity.text}: correct keep_history of the project")
    if not params["gets_data"]:
        if not filled:
            raise ConvertError(f"database {name} has no objects")
        sessions = [str(session) for session in read_sessions(cursor, name) if session.user != USER]
        if sessions:
            raise ConvertError(f"database {name} is in use: stop these clients first: {'; '.join(sessions)}")
    return identity.keep_history


def end(cursor, params):
    """Remove account and unfinished tables; return whether there were any."""
    cursor.execute("SELECT user, host FROM mysql.user WHERE user = %s", (USER,))
    accounts = cursor.fetchall()
    for user, host in accounts:
        cursor.execute(f"DROP USER {literal(user)}@{literal(host)}")
    names = [params["database"] + SUFFIX, params["database"] + EMPTY] if params["gets_data"] else []
    left = {name: found for name in names if (found := read_database(cursor, name)) is not None}
    for name, found in left.items():
        if name.endswith(EMPTY) and not found.empty and has_objects(cursor, name):
            raise ConvertError(
                f"database {name}, left by a run that was killed, has objects: look at them, then drop it"
            )
        cursor.execute(f"DROP DATABASE {quote_name(name)}")
    return bool(accounts or left)


def begin(cursor, params):
    """Make account and tables."""
    end(cursor, params)
    account = f"{literal(USER)}@{literal(params['address'])}"
    cursor.execute(f"CREATE USER {account} IDENTIFIED BY {literal(params['password'])}")
    if not params["gets_data"]:
        cursor.execute(f"GRANT SELECT, LOCK TABLES ON {grant_pattern(params['database'])}.* TO {account}")
        return
    staging = params["database"] + SUFFIX
    cursor.execute("SELECT VERSION()")
    mariadb = "mariadb" in cursor.fetchone()[0].lower()
    charset = f"CHARACTER SET {schema.CHARSET} COLLATE {schema.COLLATION}"
    cursor.execute(f"CREATE DATABASE {quote_name(staging)} {charset}")
    cursor.execute(f"USE {quote_name(staging)}")
    for table in schema.tables(params["clients"], params["keep_history"]):
        cursor.execute(table.sql(mariadb))
    if params["clients"] == "relstorage4":
        cursor.execute(schema.LOCK_ROW)
    if params["keep_history"]:
        cursor.execute(schema.FIRST_TRANSACTION)
    cursor.execute(f"GRANT ALL ON {grant_pattern(staging)}.* TO {account}")


def open_project(cursor, params):
    """Put the filled tables into the place of the empty ones."""
    name, staging, aside = params["database"], params["database"] + SUFFIX, params["database"] + EMPTY
    names = [table.name for table in schema.tables(params["clients"], params["keep_history"])]

    def move(*routes):
        """Move all tables, in one statement that is done as a whole or not at all."""
        moves = (
            f"{quote_name(source)}.{quote_name(t)} TO {quote_name(target)}.{quote_name(t)}"
            for source, target in routes
            for t in names
        )
        cursor.execute(f"RENAME TABLE {', '.join(moves)}")

    cursor.execute(f"CREATE DATABASE IF NOT EXISTS {quote_name(aside)}")
    move((name, aside), (staging, name))
    # Where nobody can store anything any more.
    if has_objects(cursor, aside):
        move((name, staging), (aside, name))
        cursor.execute(f"DROP DATABASE {quote_name(aside)}")
        raise ConvertError(f"somebody stored objects in {name} meanwhile. They are there, and nothing of the copy is")
    cursor.execute(f"DROP DATABASE {quote_name(aside)}")


def run(module):
    """Do one of the steps; return the module's result."""
    params = module.params
    state, gets_data = params["state"], params["gets_data"]
    cursor = connect(params["login_unix_socket"]).cursor()
    result = {
        "changed": state != "checked",
        "user": USER,
        "database": params["database"] + SUFFIX * gets_data,
        "keep_history": params["keep_history"],
    }
    if state in ("checked", "begun"):
        result["keep_history"] = check(cursor, params)
    if module.check_mode:
        return result
    if state == "begun":
        begin(cursor, params)
    elif state == "opened":
        open_project(cursor, params)
    elif state == "ended":
        result["changed"] = end(cursor, params)
    return result


def main():
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "login_unix_socket": {"type": "path", "default": "/run/mysqld/mysqld.sock"},
            "database": {"type": "str", "required": True},
            "gets_data": {"type": "bool", "required": True},
            "clients": {"type": "str", "choices": ["peat2", "relstorage4"], "required": True},
            "keep_history": {"type": "bool", "default": True},
            "address": {"type": "str"},
            "password": {"type": "str", "no_log": True},
            "state": {"type": "str", "choices": ["checked", "begun", "opened", "ended"], "required": True},
        },
        required_if=[("state", "begun", ("address", "password"))],
        supports_check_mode=True,
    )
    try:
        with server_errors(module.params["database"]):
            result = run(module)
    except (ConvertError, MigrationError, SqlError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
