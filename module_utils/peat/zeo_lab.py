"""What a lab's list means for a ZEO server, which knows who comes in and not who may do what."""

from __future__ import annotations

from .addresses import display
from .lab import OFFERED, ZEO, Lab, of_backend

CURRENT = "current"


def users(lab: Lab) -> list[str]:
    """Return who has access to any ZEO project, in listed order."""
    return list(dict.fromkeys(entry.person for entry in of_backend(lab, ZEO).matrix))


def problems(lab: Lab, tls: bool, shared_access: bool, port: int, other_port: int | None) -> list[str]:
    """Return what of the list a ZEO server cannot keep, each with the alternatives.

    `tls` is whether the server asks for certificates, `other_port` the port of the same host's database
    server, None if it has none.
    """
    lab = of_backend(lab, ZEO)
    found = []
    if port == other_port:
        found.append(f"zeo_port and mysql_port are both {port}: give each server of a host its own")
    if not shared_access:
        found += _shared(lab, tls)
    if not tls:
        found += [
            f"{name!r} has tls: {lab.people[name].tls} and is in a ZEO project, but this ZEO server has no TLS: "
            "set zeo_tls: true, or make it tls: offered"
            for name in users(lab)
            if lab.people[name].tls != OFFERED
        ]
    return found


def _shared(lab: Lab, tls: bool) -> list[str]:
    """Return one problem for each project that more would reach than its list says.

    A server has one port and one list of users for all its storages: who gets in at all gets at each of them.
    Where nobody has to say who they are, in ZEO 6 without TLS, only addresses count.
    """
    anonymous = not tls and any(project.clients == CURRENT for project in lab.projects.values())
    reach: dict[str, set] = {name: set() for name, project in lab.projects.items() if project.state != "absent"}
    names = {}
    for entry in lab.matrix:
        key = entry.network if anonymous else (entry.person, entry.network)
        where = f"everybody at {display(entry.network)}" if anonymous else f"{entry.person} at {display(entry.network)}"
        names[key] = where
        reach[entry.project].add(key)
    found = []
    for project, own in reach.items():
        more = [name for key, name in names.items() if key not in own]
        if more:
            listed = ", ".join(more[:5]) + (f" and {len(more) - 5} more" if len(more) > 5 else "")
            found.append(
                f"the ZEO project {project!r} would also be open to {listed}: whoever reaches a ZEO server reaches all "
                "its storages. Give all ZEO projects of this host the same people and addresses, give this project "
                "a host of its own or backend: relstorage, or accept it with zeo_shared_access: true"
            )
    return found
