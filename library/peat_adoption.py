#!/usr/bin/python
"""Say what a server has as a lab's inventory."""

from __future__ import annotations

DOCUMENTATION = r"""
module: peat_adoption
short_description: Describe a live server as an inventory
description:
  - Reads the accounts, rights and databases of a server and returns the lists of networks, people and projects that
    describe it, and what those cannot say. Nothing on the server is changed.
options:
  login_unix_socket:
    description: The server's socket, over which the system's root is let in.
    type: path
    default: /run/mysqld/mysqld.sock
  server:
    description: What the inventory calls the server.
    type: str
    required: true
  allow_anywhere:
    description: Whether people may come from every address. Otherwise accounts of the host C(%) are left out.
    type: bool
    default: false
  protected_accounts:
    description: Names of accounts that others look after.
    type: list
    elements: str
    default: []
  passwords:
    description: Whether the stored passwords are returned, too. Then the task needs C(no_log).
    type: bool
    default: false
requirements:
  - PyMySQL
attributes:
  check_mode:
    support: full
author: PEAT Server
"""

EXAMPLES = r"""
- name: What the server has
  peat_adoption:
    server: "{{ inventory_hostname }}"
"""

RETURN = r"""
networks:
  description: The list C(peat_networks).
  type: list
  elements: dict
  returned: always
people:
  description: The list C(peat_people), with O(passwords) also C(password_hash) of each.
  type: list
  elements: dict
  returned: always
projects:
  description: The list C(peat_projects).
  type: list
  elements: dict
  returned: always
port:
  description: The port at which the server answers.
  type: int
  returned: always
remarks:
  description: What the lists do not say, or not as it is on the server.
  type: list
  elements: str
  returned: always
lists_text:
  description: The lists as a file of an inventory.
  type: str
  returned: always
passwords_text:
  description: The stored passwords as a file of an inventory.
  type: str
  returned: with O(passwords)
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.peat import account_reader, account_state, adoption, lab, schema, schema_reader, sql


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "login_unix_socket": {"type": "path", "default": "/run/mysqld/mysqld.sock"},
            "server": {"type": "str", "required": True},
            "allow_anywhere": {"type": "bool", "default": False},
            "protected_accounts": {"type": "list", "elements": "str", "default": []},
            "passwords": {"type": "bool", "default": False, "no_log": False},
        },
        supports_check_mode=True,
    )
    try:
        run(module)
    except (account_state.AccountsError, lab.LabError, sql.SqlError) as error:
        module.fail_json(msg=str(error))


def run(module: AnsibleModule) -> None:
    """Read and say; raise the typed errors."""
    params = module.params
    cursor = sql.connect(params["login_unix_socket"]).cursor()
    state = account_reader.read(lambda text: query(cursor, text))
    _nothing, names = schema_reader.read(cursor, [])
    found, _others = schema_reader.read(cursor, [schema.Wanted(name, "peat2") for name in names])
    adopted = adoption.adopt(
        state,
        {name: schema.identify(database) for name, database in found.databases.items()},
        [name for (name,) in query(cursor, "SELECT SCHEMA_NAME FROM information_schema.SCHEMATA")],
        params["allow_anywhere"],
        params["protected_accounts"],
    )
    ((port,),) = query(cursor, "SELECT @@port")
    people, result = adopted.people, {}
    if params["passwords"]:
        people = [{**person, "password_hash": adopted.hashes[person["name"]]} for person in people]
        result["passwords_text"] = adoption.passwords_text(adopted)
    module.exit_json(
        changed=False,
        networks=adopted.networks,
        people=people,
        projects=adopted.projects,
        port=port,
        remarks=adopted.remarks,
        lists_text=adoption.lists_text(adopted, params["server"], port, params["allow_anywhere"]),
        **result,
    )


def query(cursor, text: str) -> list:
    """Return the rows of one query."""
    cursor.execute(text)
    return list(cursor.fetchall())


if __name__ == "__main__":
    main()
