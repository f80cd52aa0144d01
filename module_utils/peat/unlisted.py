"""Databases that look like a project's and are not in the list, with the inventory's lines that adopt them.

Plain data in, plain data out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from .account_state import State
from .adoption import inventory_lines
from .foreign import PROTECTED, Reach
from .lab import ADMIN
from .sql import printable


def findings(
    state: State,
    databases: Mapping[str, frozenset[str]],
    projects: Iterable[str],
    people: Collection[str],
    prefix: str = "",
) -> list[str]:
    """Return what to tell of such databases, and of projects that the dialog's account reaches.

    `databases` has the tables of each. Empty ones count if somebody has rights on them, for that is
    how PEAT's dialog makes them, or if they have the `prefix` of its databases.
    """
    found = []
    if prefix and (open_ := sorted(name for name in projects if name.lower().startswith(prefix.lower()))):
        found.append(
            f"{ADMIN} can do anything with {', '.join(open_)}, because the name begins with {prefix!r}; if that is not"
            " meant, change the prefix in peat_admin, or remove the entry while no databases are made"
        )
    who: dict[str, dict[str, set[str]]] = {}
    reach = Reach(state, databases)
    for account, granted in state.rights.items() if databases else ():
        if account.user in PROTECTED or account.user == ADMIN:
            continue
        for scope, names in granted.items():
            for name in reach.covered(scope.database) if scope.kind == "database" else ():
                level = "write" if "INSERT" in names else "read"
                who.setdefault(name, {"write": set(), "read": set()})[level].add(account.user)
    for name, tables in sorted(databases.items()):
        granted_to = who.get(name, {"write": set(), "read": set()})
        if "object_state" not in tables and (tables or not (name in who or (prefix and name.startswith(prefix)))):
            continue
        keep_history = not tables or "transaction" in tables
        clients = "relstorage4" if "commit_row_lock" in tables or not keep_history else "peat2"
        lines = inventory_lines(name, clients, keep_history, granted_to["write"], granted_to["read"], people)
        what = "has the tables of a project" if tables else "is empty"
        found.append(
            f"the database {printable(name)} {what} and is not in the list; to adopt it, write into the inventory:\n"
            + "\n".join(lines)
        )
    return found
