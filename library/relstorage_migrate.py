#!/usr/bin/python
"""Bring one RelStorage database from one release line's tables to another's."""

from __future__ import annotations

DOCUMENTATION = r"""
module: relstorage_migrate
short_description: Tables of a RelStorage database, from one release line to another
description:
  - Tells from its tables what a RelStorage database is - release line, history mode, unfinished migrations - and
    brings it to the tables of RelStorage 1.5, which PEAT 2.3 uses, back to 1.4, or on to RelStorage 3 and 4.
  - Can be interrupted anywhere, also by a crash of the server. Run it again; it does what is missing.
  - Holds RelStorage's commit locks, so nobody writes meanwhile; everybody can read.
  - Compares every row of object_state before and after by a digest, and every state_size with the length of its state.
options:
  login_unix_socket:
    description: Socket of the local server, where the system's root is the server's root.
    type: path
    default: /run/mysqld/mysqld.sock
  database:
    description: Name of the database.
    type: str
    required: true
  state:
    description:
      - V(info) only tells what the database is.
      - V(migrated) has the tables of RelStorage 1.5, coming from 1.1 to 1.4.
      - V(downgraded) has the tables of RelStorage 1.4 again; only if there is no blob.
      - V(repaired) has the tables of RelStorage 1.5 again after a client of RelStorage 3 or 4 changed them.
      - V(relstorage4) has the tables of RelStorage 3 and 4. C(relstorage_schema) adds procedures and view when the
        list says so. PEAT 2.3 can then no longer use the database.
    type: str
    choices: [info, migrated, downgraded, repaired, relstorage4]
    default: info
  backup:
    description: A complete dump that has the newest transaction. Without it one is made in O(backup_dir).
    type: path
  backup_dir:
    description: Folder for the dump. One that is there already and has the newest transaction is used.
    type: path
    default: /var/backups/peat-server
  clients:
    description:
      - Whether to refuse while others are connected to the database, or to end their connections. Who comes back reads.
    type: str
    choices: [refuse, disconnect]
    default: refuse
  batch_rows:
    description: Most rows of object_state in one transaction. One that lasts more than a second makes the next smaller.
    type: int
    default: 5000
  batch_pause:
    description: Seconds between two transactions, to leave the server time for others.
    type: float
    default: 0
  lock_wait:
    description: Seconds to wait for a lock that somebody holds, before saying who.
    type: int
    default: 30
  accept_python2_pickles:
    description: Go on to RelStorage 4 although Python 3 cannot open states that Python 2 wrote.
    type: bool
    default: false
  sample_states:
    description: How many states to read to tell whether Python 3 can open them.
    type: int
    default: 1000
  verify_sizes:
    description: With V(info), also compare every state_size with the length of its state. Reads everything.
    type: bool
    default: false
  status_file:
    description: File in which to say while running how far it is.
    type: path
attributes:
  check_mode:
    support: full
    details: The steps, the expected time and the space needed, and every refusal that can be foreseen.
  diff_mode:
    support: full
requirements:
  - PyMySQL
author:
  - PEAT Server contributors
"""

EXAMPLES = r"""
- name: What is this database?
  relstorage_migrate:
    database: hewlsample

- name: PEAT 2.3 with RelStorage 1.5 can use it
  relstorage_migrate:
    database: hewlsample
    state: migrated
    clients: disconnect
"""

RETURN = r"""
status:
  description: What the database was when the module began.
  returned: success
  type: dict
  sample:
    release: "1.4"
    stage: complete
    text: RelStorage 1.4's, history-preserving
    keep_history: true
    findings: []
    rows: 1666
    bytes: 425984
    newest_tid: 291944468746369996
    connections: []
plan:
  description: The steps, in words; empty if nothing has to be done.
  returned: success
  type: list
  elements: str
expected:
  description: Seconds by phase and bytes, from the database's own size.
  returned: success
  type: dict
python3:
  description: Of the sampled states, how many Python 3 can open and why it cannot open the others.
  returned: when state is info or relstorage4
  type: dict
backup:
  description: The dump that has everything as it was.
  returned: changed
  type: str
figures:
  description: What was verified, and how long each phase took.
  returned: changed
  type: dict
  sample:
    rows: 1666
    bytes: 240039
    digest: 68aa0c2f0c8f0b0e
    wrong_sizes: 0
    seconds: {dump: 0.1, fill: 0.1, rebuild: 0.1, verify: 0.1}
    longest_metadata_wait: 0.0
"""

import collections
from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.peat import migration, schema
from ansible.module_utils.peat.migration import MigrationError
from ansible.module_utils.peat.migrator import (
    Migrator,
    Reporter,
    check_named,
    free_bytes,
    read_facts,
    refusal,
    sample_states,
    server_errors,
)
from ansible.module_utils.peat.sql import SqlError, connect, quote_name


def describe(facts):
    """Return the status of a database as the module's result has it."""
    status = asdict(migration.recognise(facts))
    return {
        **status,
        "findings": list(status["findings"]),
        "rows": facts.rows,
        "bytes": facts.data_bytes,
        "newest_tid": facts.newest_tid,
        "highest_oid": facts.highest_oid,
        "connections": [str(session) for session in facts.sessions],
    }


def python3(cursor, name, count):
    """Return whether Python 3 can open a sample of a database's states."""
    states = sample_states(cursor, name, count)
    problems = collections.Counter(filter(None, map(migration.pickle_problem, states)))
    return {
        "sampled": len(states),
        "readable": len(states) - sum(problems.values()),
        "problems": dict(problems),
    }


def wrong_sizes(cursor, facts):
    """Return how many rows have a state_size that is not the length of their state."""
    columns = {c.name for c in facts.database.tables["object_state"].columns}
    if "state_size" not in columns:
        return None
    where = f"{quote_name(facts.name)}.object_state"
    cursor.execute(f"SELECT COUNT(*) FROM {where} WHERE NOT {migration.RIGHT_SIZE}")
    return cursor.fetchone()[0]


def refuse_pickles(facts, found):
    """Raise MigrationError if Python 3 could not open what Python 2 wrote."""
    if found["problems"]:
        raise MigrationError(
            f"database {facts.name}: of {found['sampled']} states read, clients of RelStorage 3 and 4 on Python 3 can"
            f" open {found['readable']}; the others have {', '.join(sorted(found['problems']))}. Nothing was changed:"
            " stay with PEAT's tables, or convert the states with zodbupdate on Python 2, or say"
            " accept_python2_pickles if all clients run on Python 2"
        )


def foresee(facts, steps, parameters, data_folder):
    """Raise MigrationError for whatever would stop the migration; return the estimate."""
    expected = migration.estimate(facts, steps, dump=not parameters["backup"])
    data_free, data_device = free_bytes(data_folder)
    dump_free, dump_device = free_bytes(parameters["backup_dir"])
    migration.refuse_space(expected, data_free, dump_free, data_device == dump_device)
    if facts.sessions and parameters["clients"] == "refuse":
        raise MigrationError(refusal(facts.name, facts.sessions))
    if parameters["backup"]:
        check_named(facts, parameters["backup"])
    return expected


def text(facts_name, database):
    """Return a database as one side of a diff."""
    return "".join(line + "\n" for line in schema.describe(facts_name, database))


def run(module):
    """Read, plan, apply; return the module's result."""
    parameters = module.params
    name, goal = parameters["database"], parameters["state"]
    cursor = connect(parameters["login_unix_socket"]).cursor()
    facts = read_facts(cursor, name)
    result = {"changed": False, "status": describe(facts), "plan": [], "expected": {}}
    is_relstorage = result["status"]["release"] is not None
    if is_relstorage and goal in ("info", "relstorage4"):
        result["python3"] = python3(cursor, name, parameters["sample_states"])
    if goal == "info":
        if is_relstorage and parameters["verify_sizes"]:
            result["status"]["wrong_sizes"] = wrong_sizes(cursor, facts)
        return result

    steps = migration.plan(facts, goal)
    if not steps.steps:
        return result
    if goal == "relstorage4" and not parameters["accept_python2_pickles"]:
        refuse_pickles(facts, result["python3"])
    cursor.execute("SELECT @@datadir")
    (data_folder,) = cursor.fetchone()
    expected = foresee(facts, steps, parameters, data_folder)
    result.update(
        changed=True,
        plan=[step.text for step in steps.steps],
        expected={**asdict(expected), "total_seconds": round(expected.total, 1)},
        diff={"before": text(name, facts.database), "after": text(name, steps.goal)},
    )
    if module.check_mode:
        return result

    migrator = Migrator(
        parameters["login_unix_socket"],
        name,
        batch_rows=parameters["batch_rows"],
        pause=parameters["batch_pause"],
        disconnect=parameters["clients"] == "disconnect",
        lock_wait=parameters["lock_wait"],
        report=Reporter(parameters["status_file"]),
    )
    try:
        migrator.lock(facts)
        ended = migrator.clear()
        # What was read before the locks may be old.
        facts = migrator.facts()
        steps = migration.plan(facts, goal)
        result["backup"] = migrator.backup(facts, parameters["backup"], parameters["backup_dir"])
        figures = migrator.run(steps, facts, migration.recognise(facts).keep_history)
    finally:
        migrator.close()
    result["figures"] = {
        **figures,
        "seconds": migrator.seconds,
        "longest_metadata_wait": migrator.longest_wait,
        "disconnected": ended,
    }
    return result


def main():
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "login_unix_socket": {"type": "path", "default": "/run/mysqld/mysqld.sock"},
            "database": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["info", *migration.GOALS], "default": "info"},
            "backup": {"type": "path"},
            "backup_dir": {"type": "path", "default": "/var/backups/peat-server"},
            "clients": {"type": "str", "choices": ["refuse", "disconnect"], "default": "refuse"},
            "batch_rows": {"type": "int", "default": 5000},
            "batch_pause": {"type": "float", "default": 0},
            "lock_wait": {"type": "int", "default": 30},
            "accept_python2_pickles": {"type": "bool", "default": False},
            "sample_states": {"type": "int", "default": 1000},
            "verify_sizes": {"type": "bool", "default": False},
            "status_file": {"type": "path"},
        },
        supports_check_mode=True,
    )
    name = module.params["database"]
    try:
        # Before PyMySQL is known to be there, only `connect` can say so.
        connect(module.params["login_unix_socket"]).close()
        with server_errors(name):
            result = run(module)
    except (MigrationError, SqlError) as error:
        module.fail_json(msg=str(error))
    for finding in result["status"]["findings"]:
        module.warn(f"database {name}: {finding}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
