#!/usr/bin/python
"""Give each project of a lab its RelStorage database, and take removed ones away."""

from __future__ import annotations

DOCUMENTATION = r"""
module: relstorage_schema
short_description: RelStorage databases of all projects of a server
description:
  - Creates missing databases and, in an empty database, all tables that the project's clients
    need, history-preserving or history-free. An existing table is never altered.
  - Refuses, before the first change, if an existing database is not what the list says; names
    what it is and what to do.
  - Keeps what clients cannot repair themselves - the single row of C(commit_row_lock), the
    procedures and the view of RelStorage 4, all with the rights of whoever calls them.
  - With O(state=absent), dumps and drops the databases of projects whose state is absent.
    Databases that are not in the list are never touched.
options:
  login_unix_socket:
    description: Socket of the local server, where the system's root is the server's root.
    type: path
    default: /run/mysqld/mysqld.sock
  projects:
    description: The list of projects of the inventory; people and addresses in it are ignored.
    type: list
    elements: dict
    default: []
    options:
      name:
        description: Name of the project and of its database.
        type: str
        required: true
      clients:
        description: Which clients the database is for.
        type: str
        choices: [peat2, relstorage4]
        required: true
      keep_history:
        description: Whether old revisions of objects are kept until a pack.
        type: bool
        default: true
      state:
        description: A frozen project has its database like a present one.
        type: str
        choices: [present, frozen, absent]
        default: present
      write:
        description: Ignored here.
        type: list
        elements: raw
        default: []
      read:
        description: Ignored here.
        type: list
        elements: raw
        default: []
  procedures:
    description:
      - What the filter C(relstorage_procedures) returns for this server's version and projects.
    type: dict
    default: {}
  state:
    description:
      - Whether to see to the projects that are there or to those that are absent.
      - C(validated) only tells, and fails with, everything that the other two would refuse. It needs
        no procedures and passes on a host that has no server yet.
    type: str
    choices: [present, absent, validated]
    default: present
  confirm_absent:
    description: Names of the projects whose database may be dropped.
    type: list
    elements: str
    default: []
  backup_dir:
    description: Folder for the dumps made before a database is dropped. Required for that.
    type: path
  flavour:
    description: Which server a check run expects on a host that has none yet.
    type: str
    choices: [mariadb, mysql]
    default: mariadb
author:
  - PEAT Server contributors
"""

EXAMPLES = r"""
- name: No database is another than the list says, and every removal is confirmed
  relstorage_schema:
    state: validated
    projects: "{{ peat_projects }}"
    confirm_absent: "{{ peat_confirm_absent }}"

- name: Every project has its database
  relstorage_schema:
    projects: "{{ peat_projects }}"
    procedures: "{{ mysql_server.announced_version | relstorage_procedures(peat_projects) }}"

- name: Databases of removed projects are dumped and dropped
  relstorage_schema:
    state: absent
    projects: "{{ peat_projects }}"
    confirm_absent: "{{ peat_confirm_absent }}"
    backup_dir: /var/backups/peat
"""

RETURN = r"""
projects:
  description: The projects that the call was about, in the order of the list.
  returned: success
  type: list
  elements: dict
  sample:
    - name: hewl
      generation: peat2
      keep_history: true
      created: true
      changed: true
      backup: null
unlisted:
  description: Names of databases that look like RelStorage's but are not in the list.
  returned: success
  type: list
  elements: str
findings:
  description: Databases that look like RelStorage's but are not in the list, as sentences.
  returned: success
  type: list
  elements: str
"""

import contextlib
import time
from datetime import datetime, timezone

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.peat import schema, schema_reader
from ansible.module_utils.peat.dump import DumpError, command, dump_path, write_dump
from ansible.module_utils.peat.lab import argument_spec
from ansible.module_utils.peat.sql import NoServer, SqlError, connect, quote_name


def execute(cursor, project, statement):
    """Run one statement; a refusal names the project and the statement."""
    import pymysql

    try:
        cursor.execute(statement)
    except pymysql.err.MySQLError as error:
        raise schema.SchemaError(
            [
                f"project {project}: the server refused `{statement.splitlines()[0]}`: {error}."
                " What was done before stays; correct the cause and run again"
            ]
        ) from error


def end_sessions(cursor, database, seconds=10):
    """End every other session that uses a database and wait until it is gone."""
    import pymysql

    deadline = time.monotonic() + seconds
    while True:
        cursor.execute("SELECT CONNECTION_ID()")
        (own,) = cursor.fetchone()
        cursor.execute("SHOW FULL PROCESSLIST")
        sessions = [row[0] for row in cursor.fetchall() if row[3] == database and row[0] != own]
        if not sessions:
            return
        if time.monotonic() > deadline:
            raise schema.SchemaError([f"project {database}: sessions {sessions} do not end: stop those clients first"])
        for session in sessions:
            # Unknown thread: it has gone by itself.
            with contextlib.suppress(pymysql.err.OperationalError):
                cursor.execute(f"KILL {session}")
        time.sleep(0.05)


def remove(cursor, change, server, socket, folder):
    """Dump one database, make sure the dump is complete, drop the database; return the dump."""
    name = change.name
    tables = sorted(server.databases[name].tables)
    path = dump_path(folder, name, datetime.now(timezone.utc))
    end_sessions(cursor, name)
    if tables:
        # What a client would write during the dump would be lost.
        locks = ", ".join(f"{quote_name(name)}.{quote_name(table)} READ" for table in tables)
        execute(cursor, name, f"LOCK TABLES {locks}")
    try:
        write_dump(command(server.mariadb, socket, name), path, tables)
    except DumpError as error:
        raise schema.SchemaError([f"project {name}: {error}. Its database was not dropped"]) from error
    end_sessions(cursor, name)
    execute(cursor, name, "UNLOCK TABLES")
    for statement in change.statements:
        execute(cursor, name, statement)
    return path


def text(lines):
    """Return lines as the text of one side of a diff."""
    return "".join(line + "\n" for line in lines)


def run(module):
    """Read, plan, apply; return the module's result."""
    parameters = module.params
    projects = schema.wanted(parameters["projects"])
    absent = parameters["state"] == "absent"
    validated = parameters["state"] == "validated"
    cursor = None
    try:
        cursor = connect(parameters["login_unix_socket"]).cursor()
    except NoServer as error:
        if not (module.check_mode or validated):
            raise
        if parameters["state"] == "present":
            module.warn(f"Planned as for an empty server: {error}")
        server, others = schema.Server(parameters["flavour"] == "mariadb", {}), []
    else:
        server, others = schema_reader.read(cursor, projects)

    if validated:
        problems = schema.refusals(projects, server, parameters["confirm_absent"])
        if problems:
            raise schema.SchemaError(problems)
        changes = []
    elif absent:
        changes = schema.plan_removal(projects, server, parameters["confirm_absent"])
    else:
        changes = schema.plan(projects, server, parameters["procedures"])
    backups = {}
    if not module.check_mode:
        for change in changes:
            if absent:
                backups[change.name] = remove(
                    cursor,
                    change,
                    server,
                    parameters["login_unix_socket"],
                    parameters["backup_dir"],
                )
            else:
                for statement in change.statements:
                    execute(cursor, change.name, statement)

    changed = {change.name: change for change in changes}
    findings = [
        f"database {name} looks like RelStorage's and is not in the list of projects; it was left alone"
        for name in others
    ]
    return {
        "changed": bool(changes),
        "projects": [
            {
                "name": project.name,
                "generation": project.generation,
                "keep_history": project.keep_history,
                "created": project.name in changed and changed[project.name].created,
                "changed": project.name in changed,
                "backup": backups.get(project.name),
            }
            for project in projects
            if not validated and (project.state == "absent") == absent
        ],
        "findings": findings if parameters["state"] == "present" else [],
        "unlisted": others,
        "diff": {
            "before": text(line for change in changes for line in change.before),
            "after": text(line for change in changes for line in change.after),
        },
    }


def main():
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "login_unix_socket": {"type": "path", "default": "/run/mysqld/mysqld.sock"},
            "projects": argument_spec()["projects"],
            "procedures": {"type": "dict", "default": {}},
            "state": {"type": "str", "choices": ["present", "absent", "validated"], "default": "present"},
            "confirm_absent": {"type": "list", "elements": "str", "default": []},
            "backup_dir": {"type": "path"},
            "flavour": {"type": "str", "choices": ["mariadb", "mysql"], "default": "mariadb"},
        },
        required_if=[("state", "absent", ["backup_dir"])],
        supports_check_mode=True,
    )
    try:
        result = run(module)
    except (schema.SchemaError, SqlError) as error:
        module.fail_json(msg=str(error))
    for finding in result["findings"]:
        module.warn(finding)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
