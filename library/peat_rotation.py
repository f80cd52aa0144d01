#!/usr/bin/python
"""Give people of a server new passwords, or end the overlap of new and old ones."""

from __future__ import annotations

DOCUMENTATION = r"""
module: peat_rotation
short_description: New passwords for accounts that exist
description:
  - Sets the password of all accounts of a person in one statement, as a hash.
  - With O(overlap), the old password remains valid beside the new one until the state V(finished). Which people have
    two is remembered in the database C(peat_server).
  - Only accounts that M(peat_access) made are changed.
options:
  login_unix_socket:
    description: The server's socket, over which the system's root is let in.
    type: path
    default: /run/mysqld/mysqld.sock
  people:
    description: Whose passwords.
    type: list
    elements: str
    required: true
  passwords:
    description:
      - The password by person that is the new one, or in the state V(finished) the one that remains.
      - In check mode it may be null, for one that is not generated yet; then a change is predicted.
    type: dict
    required: true
  given:
    description: People whose password the inventory gives. It is refused to rotate one that the server has already.
    type: list
    elements: str
    default: []
  state:
    description: Whether a new password is set, or an old one discarded.
    type: str
    choices: [rotated, finished]
    default: rotated
  overlap:
    description: Whether the old password remains valid and sessions go on. Otherwise both end at once.
    type: bool
    default: true
requirements:
  - PyMySQL
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
author: PEAT Server
"""

EXAMPLES = r"""
- name: Set a new password of two people, the old one remains valid
  peat_rotation:
    people: [farrell, guest]
    passwords: "{{ peat_people | peat_passwords(peat_secrets_dir) }}"
"""

RETURN = r"""
steps:
  description: What was done, or in check mode would be, in order.
  type: list
  elements: str
  returned: always
sessions_ended:
  description: Number of sessions that were ended.
  type: int
  returned: always
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.peat import account_reader, account_state, rotation, sql

_NO_SUCH_THREAD = 1094


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "login_unix_socket": {"type": "path", "default": "/run/mysqld/mysqld.sock"},
            "people": {"type": "list", "elements": "str", "required": True},
            "passwords": {"type": "dict", "required": True, "no_log": True},
            "given": {"type": "list", "elements": "str", "default": []},
            "state": {"type": "str", "choices": ["rotated", "finished"], "default": "rotated"},
            "overlap": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    try:
        run(module)
    except (account_state.AccountsError, rotation.RotationError, sql.SqlError) as error:
        module.fail_json(msg=str(error))


def run(module: AnsibleModule) -> None:
    """Read, plan, apply; raise the typed errors."""
    params = module.params
    connection = sql.connect(params["login_unix_socket"])
    try:
        state = account_reader.read(lambda text: _query(connection, text))
    except _errors() as error:
        raise account_state.AccountsError(f"the server's accounts cannot be read ({error}): run site.yml") from error
    wanted = {person: params["passwords"].get(person) for person in params["people"]}
    if params["state"] == "finished":
        plan = rotation.finish(state, wanted)
    else:
        plan = rotation.rotate(state, wanted, params["given"], params["overlap"])
    ended = 0
    if not module.check_mode:
        missing = [person for person, password in wanted.items() if password is None]
        if missing and plan.steps:
            raise rotation.RotationError(f"no password for {', '.join(missing)}: let peat_passwords generate it first")
        ended = apply(connection, plan)
    module.exit_json(
        changed=bool(plan.steps or plan.last_steps),
        diff={"before": plan.before, "after": plan.after},
        steps=[step.about for step in (*plan.steps, *plan.last_steps)],
        sessions_ended=ended,
    )


def apply(connection, plan: rotation.Plan) -> int:
    """Run the steps; return how many sessions were ended."""
    _run(connection, plan.steps)
    ended = 0
    if plan.ending:
        for number, user in _query(connection, "SELECT ID, USER FROM information_schema.PROCESSLIST"):
            if user in plan.ending:
                ended += _end(connection, number)
    _run(connection, plan.last_steps)
    return ended


def _run(connection, steps) -> None:
    for step in steps:
        try:
            _query(connection, step.sql)
        except _errors() as error:
            raise rotation.RotationError(
                f"could not {step.about}: the server says {error.args[1]} ({error.args[0]}); what came before it is"
                " done, correct the cause and run again"
            ) from error


def _end(connection, number: int) -> int:
    try:
        _query(connection, f"KILL CONNECTION {number:d}")
    except _errors() as error:
        if error.args[0] != _NO_SUCH_THREAD:
            raise rotation.RotationError(f"could not end session {number}: {error}; end it and run again") from error
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
