#!/usr/bin/python
"""Make the accounts and grants of a MariaDB or MySQL server what a lab's list says."""

from __future__ import annotations

DOCUMENTATION = r"""
module: peat_access
short_description: Accounts and grants of all projects of a server
description:
  - Reconciles every account and grant of the server with the lists of networks, people and projects, in one call.
  - Each person gets an account for each of their addresses, and on each project the least rights with which the
    project's generation of clients reads, or commits, undoes and packs.
  - Remembers in the database C(peat_server) which accounts are its own. An account that the list wants and that was
    made by hand is taken over. What becomes of any other, O(unmanaged) says.
  - Sessions that could do more than a new one of the same user from the same address are ended.
  - Drops anonymous accounts, the rights on databases named C(test) that they leave behind, and an empty database
    C(test).
  - A password is compared with the stored hash and set, as a hash, only if it differs.
options:
  login_unix_socket:
    description: The server's socket, over which the system's root is let in.
    type: path
    default: /run/mysqld/mysqld.sock
  networks:
    description: The list C(peat_networks).
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: What other entries call the network.
        type: str
        required: true
      addresses:
        description: Addresses and networks.
        type: list
        elements: str
        required: true
  people:
    description: The list C(peat_people).
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The user name of the accounts.
        type: str
        required: true
      from:
        description: Names of networks, and addresses.
        type: list
        elements: str
        required: true
      password:
        description: Not used here, see O(passwords).
        type: str
      password_hash:
        description: What the server stores of a password that the accounts keep, if O(passwords) gives none.
        type: str
      tls:
        description:
          - Whether the accounts demand TLS, or the certificate in O(certificates). With V(forwarder) there is one
            account, at the address from which the server's own forwarder connects. V(optional) is V(offered).
        type: str
        choices: [offered, required, certificate, forwarder, optional]
        default: offered
      connections:
        description: How many connections each account may have at once, 0 for any number. See O(person_connections).
        type: int
  projects:
    description: The list C(peat_projects).
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The database.
        type: str
        required: true
      clients:
        description: The generation of clients it serves.
        type: str
        choices: [peat2, relstorage4]
        required: true
      keep_history:
        description: Whether it keeps history, and so has the tables with which history is packed.
        type: bool
        default: true
      write:
        description: People who write, names or mappings with C(person) and C(from).
        type: list
        elements: raw
        default: []
      read:
        description: People who read, names or mappings with C(person) and C(from).
        type: list
        elements: raw
        default: []
      state:
        description: With V(frozen), who writes only reads. With V(absent), nobody has access.
        type: str
        choices: [present, frozen, absent]
        default: present
  allow_anywhere:
    description: Whether C(%) is an address.
    type: bool
    default: false
  passwords:
    description:
      - Each person's password.
      - In check mode it may be null, for a password that is not generated yet; then a change is predicted.
    type: dict
    required: true
  certificates:
    description: Mappings C({subject, issuer}) by name, of people with C(tls=certificate).
    type: dict
    default: {}
  admin:
    description:
      - The mapping C(peat_admin), which has C(from), C(prefix) and perhaps C(password), for the account C(peatadmin) of
        PEAT's dialog "Create DB on Server". Without it there is none. Its password is in O(passwords).
      - It has all rights with the right to grant them on databases whose names begin with the prefix, and the right to
        flush privileges. Each person gets a locked account for every address, which holds what the dialog grants.
    type: dict
  administrators:
    description:
      - The list C(peat_administrators), mappings with C(name). Their passwords are in O(passwords).
      - Each has one account, for O(administrators_from). It may make accounts and give on what it has itself, which is
        what a writer of each project has, and may read the server's own tables.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The user name of the account.
        type: str
        required: true
      password:
        description: Not used here, see O(passwords).
        type: str
  administrators_from:
    description: The address of this host from which phpMyAdmin connects.
    type: str
    default: 127.0.0.1
  person_connections:
    description:
      - How many connections an account may have at once where the person's entry does not say it. 0 is any number.
    type: int
    default: 24
  protected_accounts:
    description: Names of further accounts to leave alone without a report, such as a monitoring tool's.
    type: list
    elements: str
    default: []
  unmanaged:
    description:
      - What becomes of accounts and rights that are neither the list's nor this module's own.
      - V(report) leaves them alone and warns, with the remedy.
      - V(lock) locks the accounts, ends their sessions and leaves their rights, so that
        C(ALTER USER ... ACCOUNT UNLOCK) brings one back. Only rights on projects that count for people of the list are
        revoked, which are those of accounts that have a listed person's name, and of C(PUBLIC).
      - V(drop) drops accounts, roles and rights. An account with whose rights a view, routine, trigger or event runs is
        locked instead, for dropping it would break them; a role that an account which stays is in stays too.
      - Never touched are the server's own accounts, those of O(protected_accounts), the one that this module uses, and
        accounts that by their name or by having only rights of replication, backup or monitoring look like a service's.
        The last are reported.
      - An account that has a listed person's name is no service's, and its rights count for that person. With V(lock)
        and V(drop) people have exactly the list's rights, with V(report) more where a finding says so.
    type: str
    choices: [report, lock, drop]
    default: report
requirements:
  - PyMySQL
attributes:
  check_mode:
    support: full
    details: Where no server answers, the changes to a new server are predicted.
  diff_mode:
    support: full
author: PEAT Server
"""

EXAMPLES = r"""
- name: Make accounts and grants match the list
  peat_access:
    login_unix_socket: /run/mysqld/mysqld.sock
    networks: "{{ peat_networks }}"
    people: "{{ peat_people }}"
    projects: "{{ peat_projects }}"
    passwords: "{{ peat_people | peat_passwords(peat_secrets_dir) }}"
"""

RETURN = r"""
steps:
  description: What was done, or in check mode would be, in order.
  type: list
  elements: str
  returned: always
findings:
  description:
    - What is on the server and not in the list, and was left. Each is also a warning.
    - For a database that looks like a project's, also the lines of an inventory that adopt it.
  type: list
  elements: str
  returned: always
foreign:
  description: Those of the findings that are about accounts and rights, not about databases.
  type: list
  elements: str
  returned: always
sessions_ended:
  description: Number of sessions that were ended because their rights had shrunk.
  type: int
  returned: always
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.peat import account_reader, account_state, accounts, foreign, lab, sql, unlisted

_NO_SUCH_THREAD = 1094

# Nothing this module says has a password in it. Ansible would repeat the arguments, and to hide thousands of passwords
# there look for each of them in every text: minutes for a large lab.
_INVOCATION = {"module_args": "left out, for they have the passwords"}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            # Raw, because `lab.load` checks all of it anyway: Ansible's own check of nested options takes longer
            # than everything else a run that changes nothing does for a thousand projects.
            **{
                name: {"type": "raw", "default": [], "no_log": True}
                for name in ("networks", "people", "projects", "administrators")
            },
            "administrators_from": {"type": "str", "default": "127.0.0.1"},
            "admin": {"type": "raw", "no_log": True},
            "allow_anywhere": {"type": "bool", "default": False},
            "login_unix_socket": {"type": "path", "default": "/run/mysqld/mysqld.sock"},
            "passwords": {"type": "dict", "required": True, "no_log": True},
            "certificates": {"type": "dict", "default": {}},
            "person_connections": {"type": "int", "default": 24},
            "protected_accounts": {"type": "list", "elements": "str", "default": []},
            "unmanaged": {"choices": list(foreign.MODES), "default": foreign.REPORT},
        },
        supports_check_mode=True,
    )
    # By now the server's journal has the call, with the arguments above hidden; see _INVOCATION.
    module.no_log_values.clear()
    try:
        result = run(module)
    except (account_state.AccountsError, lab.LabError, sql.SqlError) as error:
        module.fail_json(msg=str(error), invocation=_INVOCATION)
    module.exit_json(**result, invocation=_INVOCATION)


def run(module: AnsibleModule) -> dict:
    """Read, plan, apply; return the result or raise the typed errors."""
    params = module.params
    connection = None
    try:
        connection = sql.connect(params["login_unix_socket"])
    except sql.NoServer:
        if not module.check_mode:
            raise
    state = read(connection, params["unmanaged"] == foreign.DROP) if connection else account_state.State("mariadb")
    described = lab.load(
        params["networks"],
        params["people"],
        params["projects"],
        params["allow_anywhere"],
        state.flavour if connection else None,
        admin=params["admin"],
        administrators=params["administrators"],
    )
    plan = accounts.plan(
        state,
        accounts.wanted(
            described,
            params["passwords"],
            params["person_connections"],
            params["certificates"],
            params["administrators_from"],
        ),
        params["protected_accounts"],
        unmanaged=params["unmanaged"],
    )
    ended = 0 if module.check_mode else apply(connection, plan)
    findings = [*plan.findings, *look_for_databases(connection, plan, described)]
    for finding in findings:
        module.warn(finding)
    return {
        "changed": bool(plan.steps),
        "diff": {"before": plan.before, "after": plan.after},
        "steps": [step.about for step in (*plan.steps, *plan.last_steps)],
        "findings": findings,
        "foreign": list(plan.findings),
        "sessions_ended": ended,
    }


def read(connection, definers: bool = False) -> account_state.State:
    """Return the server's state."""
    try:
        return account_reader.read(lambda text: _query(connection, text), definers)
    except _errors() as error:
        raise account_state.AccountsError(
            f"the server's accounts cannot be read ({error}): the system's root must have all rights as root@localhost,"
            f" and the database {account_state.REGISTRY} must be this module's own"
        ) from error


def look_for_databases(connection, plan: accounts.Plan, described: lab.Lab) -> list[str]:
    """Return what to tell of databases that the list does not know."""
    if not connection:
        return []
    projects, people = described.projects.keys(), described.people.keys()
    databases = account_reader.unlisted_databases(lambda text: _query(connection, text), projects)
    prefix = described.admin.prefix if described.admin else ""
    return unlisted.findings(plan.new, databases, projects, people, prefix)


def apply(connection, plan: accounts.Plan) -> int:
    """Run the steps; return how many sessions were ended."""
    if plan.missing:
        raise account_state.AccountsError(
            f"no password for {', '.join(plan.missing)}: give one in passwords, or let peat_passwords generate it first"
        )
    _run(connection, plan.steps)
    ended = 0
    if plan.last_steps:
        sessions = _query(connection, "SELECT ID, USER, HOST FROM information_schema.PROCESSLIST")
        for number in accounts.sessions_to_end(plan, sessions):
            ended += _end(connection, number)
    _run(connection, plan.last_steps)
    return ended


def _run(connection, steps) -> None:
    for step in steps:
        try:
            _query(connection, step.sql)
        except _errors() as error:
            raise account_state.AccountsError(
                f"could not {step.about}: the server says {error.args[1]} ({error.args[0]}); what came before it is"
                " done, correct the cause and run again"
            ) from error


def _end(connection, number: int) -> int:
    try:
        _query(connection, f"KILL CONNECTION {number:d}")
    except _errors() as error:
        if error.args[0] != _NO_SUCH_THREAD:
            raise account_state.AccountsError(
                f"could not end session {number}: {error}; end it and run again"
            ) from error
        return 0
    return 1


def _query(connection, text: str) -> list:
    with connection.cursor() as cursor:
        cursor.execute(text)
        return list(cursor.fetchall())


def _errors():
    import pymysql

    return pymysql.err.MySQLError


if __name__ == "__main__":
    main()
