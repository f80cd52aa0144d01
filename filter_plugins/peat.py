"""Filters that offer the lab's description to playbooks: its problems, and what follows from it.

All run on the controller, before any connection. Values of the inventory are passed as they are.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from ansible.errors import AnsibleFilterError

# Ansible offers module_utils to modules only; this is the same code, on the controller.
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "module_utils"))

from peat import lab as labs
from peat import passwords


def peat_problems(
    projects: Any, networks: Any, people: Any, allow_anywhere: Any = False, flavour: str | None = None
) -> list[str]:
    """Return everything that is wrong with the description, one text per problem."""
    try:
        labs.load(networks, people, projects, allow_anywhere, flavour)
    except labs.LabError as error:
        return error.problems
    return []


def peat_openings(
    projects: Any,
    port: int | str,
    networks: Any,
    people: Any,
    allow_anywhere: Any = False,
    moves_from: int | None = None,
) -> list[dict[str, Any]]:
    """Return what the firewall opens: the port, and the networks from which anybody has access.

    The port is in the result without sources too: then nobody may reach it. While a server moves
    from another port, that one is guarded like the new one.
    """
    sources = labs.openings(_load(networks, people, projects, allow_anywhere))
    return [{"port": number, "sources": sources} for number in (int(port), moves_from) if number]


def peat_client_count(projects: Any, networks: Any, people: Any, allow_anywhere: Any = False) -> int:
    """Return how many clients may be open at once, for the server's limits.

    One for each person and network they have access from, and at least one per person.
    """
    lab = _load(networks, people, projects, allow_anywhere)
    clients = {(access.person, access.network) for access in lab.matrix}
    idle = lab.people.keys() - {person for person, _network in clients}
    return len(clients) + len(idle)


def peat_needs_announcement(projects: Any) -> bool:
    """Tell whether some project's clients need MariaDB to announce a version they understand."""
    return any(project.get("clients") == "relstorage4" and project.get("state") != "absent" for project in projects)


def peat_passwords(people: Any, secrets_dir: str) -> dict[str, str | None]:
    """Return everybody's password by name; None where it has not been generated yet."""
    try:
        return passwords.resolve(people, secrets_dir)
    except passwords.PasswordError as error:
        raise AnsibleFilterError(str(error)) from error


def _load(networks: Any, people: Any, projects: Any, allow_anywhere: Any) -> labs.Lab:
    try:
        return labs.load(networks, people, projects, allow_anywhere)
    except labs.LabError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {
            function.__name__: function
            for function in (
                peat_client_count,
                peat_needs_announcement,
                peat_openings,
                peat_passwords,
                peat_problems,
            )
        }
