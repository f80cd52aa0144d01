"""Filters that take from the installed RelStorage what belongs to its distribution."""

from __future__ import annotations

import re
from types import SimpleNamespace

from ansible.errors import AnsibleFilterError

# The release whose procedures the server's databases get; what requirements.txt installs. A
# client of another 3.x or 4.x release works with them as long as their checksums stay the same.
RELSTORAGE = "4.3.0"

# MariaDB's own number looks to RelStorage like a MySQL that has the syntax of 8.0.19, on which
# every commit fails; with this in front it uses the older one.
_MARIADB_ANNOUNCED = "5.5.5-"


class _Recorder:
    """A cursor on an empty database that answers the version question and keeps the rest."""

    description = ()

    def __init__(self, version: str):
        self.version = version
        self.statements = []

    def execute(self, statement: str, parameters: tuple = ()) -> None:
        self.statements.append(statement)

    def fetchone(self) -> tuple[str]:
        return (self.version,)

    def fetchall(self) -> list:
        return []

    def __iter__(self):
        return iter(())


def _create_statements(version: str, keep_history: bool) -> dict[str, str]:
    """Return RelStorage's CREATE PROCEDURE statements by name, for a server's version."""
    from relstorage.adapters.mysql.schema import MySQLSchemaInstaller
    from relstorage.adapters.scriptrunner import ScriptRunner

    installer = MySQLSchemaInstaller(
        connmanager=SimpleNamespace(driver=None), runner=ScriptRunner(), keep_history=keep_history
    )
    recorder = _Recorder(version)
    installer.create_procedures(recorder)
    found = {}
    for statement in recorder.statements:
        named = re.match(r"CREATE PROCEDURE (\w+)", statement)
        if named:
            found[named.group(1)] = _with_rights_of_caller(statement)
    return found


def _with_rights_of_caller(statement: str) -> str:
    """Return the statement with SQL SECURITY INVOKER.

    With the default, DEFINER, a procedure would commit for an account that may only read.
    """
    changed, times = re.subn(r"(?m)^(\s*)COMMENT '", r"\1SQL SECURITY INVOKER COMMENT '", statement)
    if times != 1:
        raise AnsibleFilterError(
            f"RelStorage {RELSTORAGE} writes its procedures in a way that is not known here:"
            f" {statement.splitlines()[0]} has {times} comments instead of one"
        )
    return changed


def relstorage_procedures(server_version: str, projects: list[dict]) -> dict[str, dict[str, str]]:
    """Return the procedures for the databases of a server's ``relstorage4`` projects.

    ``server_version`` is what the server announces, for instance ``5.5.5-10.11.18-MariaDB`` or
    ``9.7.4``: RelStorage writes its procedures for it. The result is ``{history_preserving: {name:
    statement}, history_free: {...}}``, or ``{}`` when no project needs any.

    Raises AnsibleFilterError when RelStorage is missing or another release in the Python that runs
    Ansible, or when a MariaDB announces a version on which RelStorage 4 cannot commit.
    """
    needing = [
        project["name"]
        for project in projects
        if project["clients"] == "relstorage4" and project.get("state") != "absent"
    ]
    if not needing:
        return {}
    _require_relstorage(needing[0])
    if "mariadb" in server_version.lower() and not server_version.startswith(_MARIADB_ANNOUNCED):
        raise AnsibleFilterError(
            f"project {needing[0]} has clients relstorage4, which cannot commit on a MariaDB that"
            f" announces {server_version!r}: let the server announce"
            f" '{_MARIADB_ANNOUNCED}<its version>-MariaDB' (option `version` of its configuration)"
        )
    return {
        "history_preserving": _create_statements(server_version, True),
        "history_free": _create_statements(server_version, False),
    }


def _require_relstorage(project: str) -> None:
    from importlib import metadata

    try:
        found = metadata.version("RelStorage")
    except metadata.PackageNotFoundError:
        found = None
    if found != RELSTORAGE:
        raise AnsibleFilterError(
            f"project {project} has clients relstorage4, whose procedures come from RelStorage"
            f" {RELSTORAGE} in the Python that runs Ansible, where"
            f" {'RelStorage is missing' if found is None else f'RelStorage is {found}'}:"
            f" pip install RelStorage=={RELSTORAGE}"
        )


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict:
        """Return {name: function}."""
        return {"relstorage_procedures": relstorage_procedures}
