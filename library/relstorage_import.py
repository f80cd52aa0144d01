#!/usr/bin/python
"""Load the dump of an old server's RelStorage database, and give it to a project when it is ready."""

from __future__ import annotations

DOCUMENTATION = r"""
module: relstorage_import
short_description: An SQL dump of any RelStorage release becomes a project's database
description:
  - With O(state=loaded), reads the dump as data - no statement of it is executed - into a database beside the
    project's that nobody has rights on. RV(database) is its name; bring its tables up to date with
    C(relstorage_migrate).
  - An empty database of the project is removed meanwhile, so that nobody can begin to use it.
  - With O(state=opened), that database becomes the project's, in one step.
  - Can be interrupted anywhere and run again. A dump that was loaded completely is not loaded again.
options:
  login_unix_socket:
    description: Socket of the local server, where the system's root is the server's root.
    type: path
    default: /run/mysqld/mysqld.sock
  project:
    description: Name of the project and of its database.
    type: str
    required: true
  dump:
    description: The dump, a file on the server's host, plain or packed with gzip, bzip2 or xz.
    type: path
    required: true
  source:
    description: Which database of a dump of several.
    type: str
  keep_history:
    description: What the list says of the project. The dump must agree.
    type: bool
    default: true
  state:
    description: Which of the two steps.
    type: str
    choices: [loaded, opened]
    required: true
  status_file:
    description: File in which to say while running how far it is.
    type: path
attributes:
  check_mode:
    support: full
    details: Tells whether something would be loaded, without reading the dump to its end.
  diff_mode:
    support: none
requirements:
  - PyMySQL
author:
  - PEAT Server contributors
"""

EXAMPLES = r"""
- name: Load the old server's dump
  relstorage_import:
    project: hewlsample
    dump: /root/hewlsample.sql.gz
    state: loaded
"""

RETURN = r"""
database:
  description: The database to migrate; the project's own name once it is opened.
  returned: success
  type: str
rows:
  description: Rows loaded, by table.
  returned: when loaded
  type: dict
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.peat import loader, schema
from ansible.module_utils.peat.loader import Loader, LoadError
from ansible.module_utils.peat.migration import MigrationError, Progress
from ansible.module_utils.peat.migrator import Reporter, read_database, server_errors
from ansible.module_utils.peat.sql import SqlError, connect, quote_name


def registered(cursor, project):
    """Return (fingerprint, opened) of what was loaded for a project, or None."""
    cursor.execute("SELECT 1 FROM information_schema.tables WHERE table_schema = %s AND table_name = 'loaded_dump'",
                   (loader.REGISTRY,))  # fmt: skip
    if not cursor.fetchall():
        return None
    cursor.execute(f"SELECT fingerprint, opened FROM {loader.REGISTER} WHERE database_name = %s", (project,))
    return cursor.fetchone()


def register(cursor, project, fingerprint, opened):
    """Remember what was loaded for a project."""
    cursor.execute(f"CREATE DATABASE IF NOT EXISTS {loader.REGISTRY}")
    cursor.execute(
        f"CREATE TABLE IF NOT EXISTS {loader.REGISTER} (database_name VARCHAR(64) PRIMARY KEY,"
        " fingerprint CHAR(64) NOT NULL, opened BOOLEAN NOT NULL) ENGINE=InnoDB"
    )
    cursor.execute(f"REPLACE INTO {loader.REGISTER} VALUES (%s, %s, %s)", (project, fingerprint, opened))


def refuse_filled(cursor, project, found):
    """Raise LoadError unless a project's database is empty: without tables, or without objects in ours."""
    if found is None or found.empty:
        return
    if not schema.looks_like_relstorage(found.tables):
        raise LoadError(
            f"database {project} exists and is {schema.identify(found).text}: give the project another name"
        )
    cursor.execute(f"SELECT EXISTS(SELECT 1 FROM {quote_name(project)}.object_state)")
    if cursor.fetchone()[0]:
        raise LoadError(
            f"project {project} has objects already. Nothing was changed: load the dump into a new project, or remove"
            " this one first (state: absent)"
        )


def load(module, connection, cursor, staging, fingerprint):
    """Make the project's data ready beside the project; return the module's result."""
    parameters = module.params
    project = parameters["project"]
    before = registered(cursor, project)
    if before == (fingerprint, 1):
        return {"changed": False, "database": project}
    if before == (fingerprint, 0) and read_database(cursor, staging) is not None:
        return {"changed": False, "database": staging}
    found = read_database(cursor, project)
    refuse_filled(cursor, project, found)
    if module.check_mode:
        return {"changed": True, "database": staging}
    if found is not None:
        cursor.execute(f"DROP DATABASE {quote_name(project)}")
    cursor.execute(f"DROP DATABASE IF EXISTS {quote_name(staging)}")
    cursor.execute("SELECT VERSION()")
    mariadb = "mariadb" in cursor.fetchone()[0].lower()
    report, progress = Reporter(parameters["status_file"]), Progress("load", 0, time.monotonic())

    def show(rows):
        progress.phase = f"load, {rows:,} rows"
        report(progress)

    loading = Loader(connection, staging, mariadb, show)
    rows = loading.load(parameters["dump"], parameters["source"])
    if loading.keep_history != parameters["keep_history"]:
        raise LoadError(
            f"the dump is {schema.mode(loading.keep_history)}, the list says project {project} is"
            f" {schema.mode(parameters['keep_history'])}: correct keep_history of the project"
        )
    register(cursor, project, fingerprint, False)
    return {"changed": True, "database": staging, "rows": rows}


def open_project(module, cursor, staging, fingerprint):
    """Give the project what was made ready for it; return the module's result."""
    project = module.params["project"]
    before = registered(cursor, project)
    found = read_database(cursor, staging)
    if before == (fingerprint, 1):
        return {"changed": False, "database": project}
    if module.check_mode:
        return {"changed": True, "database": project}
    if before != (fingerprint, 0):
        raise LoadError(f"the dump for project {project} is not loaded: run with state=loaded first")
    if found is not None and found.tables:
        if schema.identify(found).generation is None:
            raise LoadError(f"database {staging} is {schema.identify(found).text}: migrate it first")
        refuse_filled(cursor, project, read_database(cursor, project))
        cursor.execute(f"DROP DATABASE IF EXISTS {quote_name(project)}")
        charset = f"CHARACTER SET {schema.CHARSET} COLLATE {schema.COLLATION}"
        cursor.execute(f"CREATE DATABASE {quote_name(project)} {charset}")
        moves = (
            f"{quote_name(staging)}.{quote_name(t)} TO {quote_name(project)}.{quote_name(t)}" for t in found.tables
        )
        cursor.execute(f"RENAME TABLE {', '.join(moves)}")
    register(cursor, project, fingerprint, True)
    cursor.execute(f"DROP DATABASE IF EXISTS {quote_name(staging)}")
    return {"changed": True, "database": project}


def run(module):
    """Do one of the two steps; return the module's result."""
    project, dump = module.params["project"], module.params["dump"]
    if len(project) > loader.LONGEST_NAME:
        raise LoadError(f"the name {project} is too long to load a dump: at most {loader.LONGEST_NAME} letters")
    staging = project + loader.SUFFIX
    connection = connect(module.params["login_unix_socket"])
    cursor = connection.cursor()
    with loader.load_errors(dump):
        fingerprint = loader.fingerprint(dump)
        if module.params["state"] == "loaded":
            return load(module, connection, cursor, staging, fingerprint)
        return open_project(module, cursor, staging, fingerprint)


def main():
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "login_unix_socket": {"type": "path", "default": "/run/mysqld/mysqld.sock"},
            "project": {"type": "str", "required": True},
            "dump": {"type": "path", "required": True},
            "source": {"type": "str"},
            "keep_history": {"type": "bool", "default": True},
            "state": {"type": "str", "choices": ["loaded", "opened"], "required": True},
            "status_file": {"type": "path"},
        },
        supports_check_mode=True,
    )
    try:
        connect(module.params["login_unix_socket"]).close()
        with server_errors(module.params["project"]):
            result = run(module)
    except (LoadError, MigrationError, SqlError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
