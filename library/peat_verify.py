#!/usr/bin/python
"""Hold what a database or ZEO server is against what a lab's list says, on the server itself."""

from __future__ import annotations

DOCUMENTATION = r"""
module: peat_verify
short_description: Prove on a server that it is what the list says
description:
  - Reads and changes nothing. What other modules found in check mode becomes rows as well.
options:
  backend:
    description: V(zeo) looks at the host's ZEO server, V(relstorage) at its database server.
    type: str
    choices: [relstorage, zeo]
    default: relstorage
  name:
    description: What the rows call the server.
    type: str
    required: true
  port:
    description: The port of the server.
    type: int
    required: true
  login_unix_socket:
    description: The database server's socket, over which the system's root is let in.
    type: path
    default: /run/mysqld/mysqld.sock
  projects:
    description: Names of the projects that the server is to serve.
    type: list
    elements: str
    default: []
  differences:
    description: Checks that other modules made, in words what is not as declared; nothing where all is.
    type: dict
    default: {}
  listeners:
    description: Ports on which something may listen for other hosts.
    type: list
    elements: int
    default: []
  guarded:
    description: Whether the firewall refuses every port that is not opened.
    type: bool
    default: false
  jails:
    description: What fail2ban has to watch.
    type: list
    elements: str
    default: []
  certificates:
    description: When certificates expire, as M(tls_certificates) returns it in C(expiry).
    type: list
    elements: dict
    default: []
  certificate_problems:
    description: In words, which certificates are missing or about to expire.
    type: list
    elements: str
    default: []
  backup_dir:
    description: Directory of the backups of ZEO projects; empty if none are made.
    type: str
    default: ""
  backup_hours:
    description: How old the last backup may be.
    type: int
    default: 48
requirements:
  - PyMySQL, for V(relstorage)
attributes:
  check_mode:
    support: full
author: PEAT Server
"""

EXAMPLES = r"""
- name: What is true on the server
  peat_verify:
    name: "{{ inventory_hostname }}"
    port: 8080
    projects: [hewlsample]
    listeners: [22, 8080]
"""

RETURN = r"""
rows:
  description: What was found, mappings C({server, check, found, ok}).
  type: list
  elements: dict
  returned: success
"""

import contextlib
import os
import socket
import struct
import time

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.peat import lab, migration, schema, sql, status, verification, zeo

#: How the first transaction of a Data.fs begins: its tid, after four bytes that say what the file is.
_FIRST_TRANSACTION = (4, ">Q")


def main() -> None:
    """Run the module."""
    texts = {"type": "list", "elements": "str", "default": []}
    module = AnsibleModule(
        argument_spec={
            "backend": {"type": "str", "choices": [lab.RELSTORAGE, lab.ZEO], "default": lab.RELSTORAGE},
            "name": {"type": "str", "required": True},
            "port": {"type": "int", "required": True},
            "login_unix_socket": {"type": "path", "default": "/run/mysqld/mysqld.sock"},
            "projects": texts,
            "differences": {"type": "dict", "default": {}},
            "listeners": {"type": "list", "elements": "int", "default": []},
            "guarded": {"type": "bool", "default": False},
            "jails": texts,
            "certificates": {"type": "list", "elements": "dict", "default": []},
            "certificate_problems": texts,
            "backup_dir": {"type": "str", "default": ""},
            "backup_hours": {"type": "int", "default": 48},
        },
        supports_check_mode=True,
    )
    params = module.params
    rows = [
        verification.held(check, verification.few([text.splitlines()[0] for text in found]), "as declared")
        for check, found in params["differences"].items()
    ]
    rows.append(verification.certificates(params["certificates"], params["certificate_problems"]))
    try:
        rows += zeo_rows(module) if params["backend"] == lab.ZEO else database_rows(params)
        rows.append(verification.listeners(sockets(), processes(), params["listeners"], params["guarded"]))
        rows.append(verification.watched(params["jails"], jails(module)))
    except (sql.SqlError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, rows=[{"server": params["name"], **found} for found in rows if found])


# A database server


def database_rows(params: dict) -> list:
    """Return what is true of the databases of the projects, and of what the server offers."""
    # A migration may hold a table for long; this does not wait for it.
    connection = sql.connect(params["login_unix_socket"], lock_wait=5)
    import pymysql

    def query(text: str, arguments=None) -> list:
        with connection.cursor() as cursor:
            cursor.execute(text, arguments)
            return list(cursor.fetchall())

    try:
        ((versions,),) = query("SELECT @@tls_version")
        return [verification.protocols(versions), *project_rows(query, params["projects"])]
    except pymysql.MySQLError as error:
        raise sql.SqlError(f"the projects' databases cannot be read ({error})") from error


def project_rows(query, projects: list) -> list:
    """Return the rows of the commit locks and the next object ids."""
    if not projects:
        return []
    ((version, comment),) = query("SELECT @@version, @@version_comment")
    if "mariadb" not in f"{version} {comment}".lower():
        # Else its figures may be a day old.
        query("SET SESSION information_schema_stats_expiry = 0")
    numbers: dict = {}
    for name, table, number in query(
        "SELECT TABLE_SCHEMA, TABLE_NAME, AUTO_INCREMENT FROM information_schema.TABLES WHERE TABLE_SCHEMA IN %s",
        (projects,),
    ):
        numbers.setdefault(name, {})[table] = number
    locks, behind = {}, {}
    for name, tables in numbers.items():
        where = sql.quote_name(name)
        if schema.LOCK_TABLE in tables:
            locks[name] = [tid for (tid,) in query(f"SELECT tid FROM {where}.{schema.LOCK_TABLE} LIMIT 3")]
        if {"object_state", "new_oid"} <= tables.keys():
            # Both are the last of an index, however large the tables are.
            ((highest, stored),) = query(
                f"SELECT (SELECT MAX(zoid) FROM {where}.object_state), (SELECT MAX(zoid) FROM {where}.new_oid)"
            )
            next_row = max(int(tables["new_oid"] or 1), int(stored or 0) + 1)
            facts = migration.Facts(name, True, None, highest_oid=highest, next_oid_row=next_row)
            late = migration.oid_row_wanted(facts) is not None
            first = (next_row - 1) * migration.OIDS_PER_ROW + 1
            behind[name] = (first, int(highest)) if late else None
    missing = sorted(set(projects) - numbers.keys())
    return [
        verification.held(
            "projects", [f"{name} has no database" for name in missing], f"all {len(projects)} are there"
        ),
        verification.commit_locks(locks),
        verification.next_ids(behind),
    ]


# A ZEO server


def zeo_rows(module: AnsibleModule) -> list:
    """Return what is true of the server and of the backups of its storages."""
    config = ""
    if os.path.exists(zeo.CONFIG):
        with open(zeo.CONFIG, encoding="utf-8") as file:
            config = file.read()
    storages = zeo.storages_of(config)
    missing = sorted(set(module.params["projects"]) - storages.keys())
    rows = [
        verification.held(
            "projects",
            [f"{name} is not served" for name in missing],
            f"all {len(module.params['projects'])} are served",
        )
    ]
    if not storages:
        return rows
    code, said, error = module.run_command(["zeoctl", "status"])
    rows.append(verification.service(code, said or error, answers(module.params["port"])))
    if module.params["backup_dir"]:
        times = {name: backup_times(module.params["backup_dir"], name, path) for name, path in storages.items()}
        rows.append(verification.backups(times, module.params["backup_hours"], time.time()))
    return rows


def answers(port: int) -> bool:
    """Whether something takes connections at a port of this host."""
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except OSError:
        return False
    return True


def backup_times(folder: str, name: str, path: str) -> dict:
    """Return when the last backup of a project ended, and since when its storage has data."""
    ended = []
    own = os.path.join(folder, name)
    for period in os.listdir(own) if os.path.isdir(own) else ():
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            ended.append(os.stat(os.path.join(own, period, "ended")).st_mtime)
    since = None
    with contextlib.suppress(FileNotFoundError, struct.error), open(path, "rb") as file:
        offset, layout = _FIRST_TRANSACTION
        file.seek(offset)
        (tid,) = struct.unpack(layout, file.read(8))
        since = status.time_of(tid).timestamp()
    return {"ended": max(ended, default=None), "since": since}


# What listens, and what watches


def jails(module: AnsibleModule) -> str:
    """Return what fail2ban says of itself, nothing where it does not run."""
    program = module.get_bin_path("fail2ban-client")
    return module.run_command([program, "status"])[1] if program else ""


def sockets() -> list:
    """Return address, port and number of every TCP socket of this host that listens."""
    found = []
    for name in ("tcp", "tcp6"):
        text = ""
        # Without IPv6 there is no such file.
        with contextlib.suppress(FileNotFoundError), open(f"/proc/net/{name}", encoding="ascii") as file:
            text = file.read()
        found.append(text)
    return verification.listening(*found)


def processes() -> dict:
    """Return the name of the process that holds each socket, by the socket's number."""
    found = {}
    for process in os.listdir("/proc"):
        if not process.isdigit():
            continue
        # A process may end while it is looked at.
        with contextlib.suppress(OSError):
            with open(f"/proc/{process}/comm", encoding="utf-8", errors="replace") as file:
                name = file.read().strip()
            for descriptor in os.listdir(f"/proc/{process}/fd"):
                with contextlib.suppress(OSError):
                    target = os.readlink(f"/proc/{process}/fd/{descriptor}")
                    if target.startswith("socket:["):
                        found[target[8:-1]] = name
    return found


if __name__ == "__main__":
    main()
