#!/usr/bin/python
"""Read what a MariaDB, MySQL or ZEO server holds of a lab, for the report."""

from __future__ import annotations

DOCUMENTATION = r"""
module: peat_status
short_description: Versions, sizes, objects and last commits of a server, beside what a lab's list says
description:
  - Reads and changes nothing.
  - Returns everything that M(peat_report) shows of one server; no password is in it.
options:
  backend:
    description: V(zeo) reads the files of the host's ZEO server, V(relstorage) asks its database server.
    type: str
    choices: [relstorage, zeo]
    default: relstorage
  name:
    description: What the report calls the server.
    type: str
    required: true
  address:
    description: The name or address of the server as clients reach it.
    type: str
    required: true
  port:
    description: The port of the server.
    type: int
    required: true
  login_unix_socket:
    description: The server's socket, over which the system's root is let in.
    type: path
    default: /run/mysqld/mysqld.sock
  networks:
    description: The list C(peat_networks).
    type: list
    elements: dict
    default: []
  people:
    description: The list C(peat_people).
    type: list
    elements: dict
    default: []
  projects:
    description: The list C(peat_projects).
    type: list
    elements: dict
    default: []
  allow_anywhere:
    description: Whether the address C(%) may be used.
    type: bool
    default: false
  findings:
    description: What is on the server and not in the list, as sentences.
    type: list
    elements: str
    default: []
  pending:
    description: What the next run would do, as sentences.
    type: list
    elements: str
    default: []
  certificates:
    description: When certificates expire, as M(tls_certificates) returns it in C(expiry).
    type: list
    elements: dict
    default: []
  tls:
    description: How everybody has to encrypt, where that is not each person's own rule, V(certificate) or V(none).
    type: str
    default: ""
requirements:
  - PyMySQL, for V(relstorage)
attributes:
  check_mode:
    support: full
author: PEAT Server
"""

EXAMPLES = r"""
- name: Read what is on the server
  peat_status:
    name: "{{ inventory_hostname }}"
    address: peat.example.org
    port: 8080
    networks: "{{ peat_networks }}"
    people: "{{ peat_people }}"
    projects: "{{ peat_projects }}"
  register: status
"""

RETURN = r"""
server:
  description: What the report shows of this server.
  type: dict
  returned: success
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.peat import lab, report, sql, status, zeo, zeo_status

# Nothing this module says has a password in it; its arguments may, and would be repeated and logged.
_INVOCATION = {"module_args": "left out, for they may have passwords"}


def main() -> None:
    """Run the module."""
    texts = {"type": "list", "elements": "str", "default": []}
    module = AnsibleModule(
        argument_spec={
            # Raw, because `lab.load` checks all of it; hidden, because a person's entry may have a password.
            **{name: {"type": "raw", "default": [], "no_log": True} for name in ("networks", "people", "projects")},
            "allow_anywhere": {"type": "bool", "default": False},
            "name": {"type": "str", "required": True},
            "address": {"type": "str", "required": True},
            "port": {"type": "int", "required": True},
            "login_unix_socket": {"type": "path", "default": "/run/mysqld/mysqld.sock"},
            "findings": texts,
            "pending": texts,
            "backend": {"type": "str", "choices": [lab.RELSTORAGE, lab.ZEO], "default": lab.RELSTORAGE},
            "tls": {"type": "str", "default": ""},
            "certificates": {"type": "list", "elements": "dict", "default": []},
        },
        supports_check_mode=True,
    )
    # The call is logged by now, without these. Nothing this module says is from them but names, which are not secret.
    module.no_log_values.clear()
    params = module.params
    try:
        described = lab.load(params["networks"], params["people"], params["projects"], params["allow_anywhere"])
        if params["backend"] == lab.ZEO:
            found = read_zeo(module)
        else:
            # A migration may hold a table for long; a report does not wait for it.
            connection = sql.connect(params["login_unix_socket"], lock_wait=5)
            found = read(connection, list(described.projects))
    except (lab.LabError, sql.SqlError, OSError) as error:
        module.fail_json(msg=str(error), invocation=_INVOCATION)
    server = report.server(
        {key: params[key] for key in ("name", "address", "port", "findings", "pending", "certificates", "tls")},
        described,
        params["networks"],
        {**found, "system": status.system()},
    )
    module.exit_json(changed=False, server=server, invocation=_INVOCATION)


def read(connection, projects: list) -> dict:
    """Return what status.read finds; raise SqlError where the server does not answer."""
    import pymysql

    def query(text: str, arguments=None) -> list:
        with connection.cursor() as cursor:
            cursor.execute(text, arguments)
            return list(cursor.fetchall())

    try:
        return status.read(query, projects)
    except pymysql.err.MySQLError as error:
        raise sql.SqlError(
            f"the projects' databases cannot be read ({error}); if somebody holds a table, as a migration does, try"
            " again later"
        ) from error


def read_zeo(module: AnsibleModule) -> dict:
    """Return what zeo_status.read finds of the storages that are served."""
    if os.path.isdir("/run/systemd/system"):
        asked = ["systemctl", "is-active", "--quiet", "zeo"]
    else:
        asked = ["service", "zeo", "status"]
    running = module.run_command(asked)[0] == 0
    config = ""
    if os.path.exists(zeo.CONFIG):
        with open(zeo.CONFIG, encoding="utf-8") as file:
            config = file.read()
    return zeo_status.read(zeo.storages_of(config), running)


if __name__ == "__main__":
    main()
