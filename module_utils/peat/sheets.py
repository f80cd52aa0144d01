"""Connection sheets: what each person enters to reach each project, as plain text.

The fields are those of the dialog of PEATDB 2.3 ("Remote Project"): username, password, server,
port, project and backend, where `mysql` is the backend that uses RelStorage.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .addresses import ANYWHERE, display
from .lab import READ, WRITE, Access, Lab, Project

MARKER = "PEAT Server connection sheet"
SUFFIX = ".txt"
MODE = 0o600

_NOT_GENERATED = "(generated when the playbook runs)"
_PASSWORD_LINE = re.compile(r"(?m)^(Password\s+)(.*)$")


class SheetError(Exception):
    """A sheet cannot be made; the text names the file or person and says what to do."""


@dataclass(frozen=True)
class Server:
    """Where clients connect: a host name or address they can use, and the port."""

    address: str
    port: int


@dataclass(frozen=True)
class Plan:
    """What to do in the directory, by file name. `write` has (text before or None, text after)."""

    write: dict[str, tuple[str | None, str]]
    remove: dict[str, str]

    def diffs(self, directory: str) -> list[dict[str, str]]:
        """Return the changes as Ansible shows them, without any password."""
        changes: list[tuple[str, str | None, str | None]] = [
            (name, before, after) for name, (before, after) in self.write.items()
        ]
        changes += [(name, before, None) for name, before in self.remove.items()]
        return [
            {
                "before_header": f"{directory}/{name}",
                "after_header": f"{directory}/{name}",
                "before": _masked(before, None),
                "after": _masked(after, before),
            }
            for name, before, after in sorted(changes)
        ]


def render_all(lab: Lab, server: Server, passwords: Mapping[str, str | None]) -> dict[str, str]:
    """Return the text of everybody's sheet by file name."""
    rows: dict[str, dict[str, list[Access]]] = {name: {} for name in lab.people}
    for access in lab.matrix:
        rows[access.person].setdefault(access.project, []).append(access)
    return {name + SUFFIX: _sheet(lab, name, server, passwords.get(name), projects) for name, projects in rows.items()}


def plan(existing: Mapping[str, str], wanted: Mapping[str, str]) -> Plan:
    """Return what makes a directory hold the wanted sheets; both are texts by file name.

    Only files that are sheets (by name and first line) are replaced or removed: SheetError if a
    file that is none has the name of a wanted one.
    """
    for name in wanted:
        if name in existing and not _is_sheet(name, existing[name]):
            raise SheetError(
                f"{name} is no connection sheet (its first line is not {MARKER!r}) and would be "
                "overwritten: move the file away"
            )
    return Plan(
        write={name: (existing.get(name), text) for name, text in wanted.items() if existing.get(name) != text},
        remove={name: text for name, text in existing.items() if name not in wanted and _is_sheet(name, text)},
    )


def _is_sheet(name: str, text: str) -> bool:
    return name.endswith(SUFFIX) and text.partition("\n")[0] == MARKER


def _masked(text: str | None, before: str | None) -> str:
    """Return a sheet for a diff: the password is not shown, only that it differs from before."""
    if text is None:
        return ""
    secret = _PASSWORD_LINE.search(text)
    former = _PASSWORD_LINE.search(before or "")
    changed = secret and former and secret[2] != former[2]
    return _PASSWORD_LINE.sub(r"\1(changed, not shown)" if changed else r"\1(not shown)", text)


def _sheet(
    lab: Lab,
    person: str,
    server: Server,
    password: str | None,
    projects: Mapping[str, list[Access]],
) -> str:
    lines = [
        MARKER,
        "Written by PEAT Server: change the lab's list, not this file.",
        "",
        f"Server     {server.address}",
        f"Port       {server.port}",
        f"User name  {person}",
        f"Password   {password or _NOT_GENERATED}",
        "",
        "Keep this file to yourself. The server answers only from the addresses named below.",
    ]
    if not projects:
        lines += ["", "No project is open to you at present."]
    for name, rows in projects.items():
        lines += ["", *_project(lab.projects[name], person, server, rows)]
    clients = {lab.projects[name].clients for name in projects}
    if "peat2" in clients:
        lines += [
            "",
            "PEAT 2.3 cannot ask for TLS: use it in a network you trust, or ask your administrator for a tunnel.",
        ]
    if lab.people[person].tls == "required" and "relstorage4" in clients:
        lines += [
            "",
            "Your account must use TLS: add ssl={'ca': FILE} to MySQLAdapter(...), with the "
            "certificate file from your administrator.",
        ]
    return "\n".join(lines) + "\n"


def _project(project: Project, person: str, server: Server, rows: list[Access]) -> list[str]:
    title = f"Project {project.name}"
    lines = [title, "-" * len(title)]
    levels = {
        level: ["anywhere" if row.network is ANYWHERE else display(row.network) for row in rows if row.level == level]
        for level in (WRITE, READ)
    }
    for level, sources in levels.items():
        if sources:
            lines.append(f"{level:<9}  from {', '.join(sources)}")
    if all(levels.values()):
        lines.append("           Where two of these contain your address, the narrower one counts.")
    if project.state == "frozen":
        lines.append("           The project is frozen: everybody reads, nobody writes.")
    lines.append("")
    lines += _PROGRAM[project.clients](project, person, server)
    if levels[READ]:
        lines += ["", *_READER[project.clients]]
    return lines


def _peat(project: Project, person: str, server: Server) -> list[str]:
    return [
        "In PEAT: menu Project, Remote Project, then fill in",
        f"  username   {person}",
        "  password   (the password above)",
        f"  server     {server.address}",
        f"  port       {server.port}",
        f"  project    {project.name}",
        "  backend    mysql   (this is RelStorage; zeo cannot connect)",
    ]


def _python(project: Project, person: str, server: Server) -> list[str]:
    return [
        "In Python 3 (backend RelStorage): pip install 'RelStorage>=4,<5' PyMySQL, then",
        "",
        "    import getpass",
        "    import ZODB",
        "    from relstorage.adapters.mysql import MySQLAdapter",
        "    from relstorage.options import Options",
        "    from relstorage.storage import RelStorage",
        "",
        f"    options = Options(driver='PyMySQL', create_schema=False, keep_history={project.keep_history})",
        "    adapter = MySQLAdapter(",
        f"        host={server.address!r}, port={server.port}, db={project.name!r},",
        f"        user={person!r}, passwd=getpass.getpass(), options=options)",
        "    db = ZODB.DB(RelStorage(adapter, options=options))",
    ]


_PROGRAM = {"peat2": _peat, "relstorage4": _python}
_READER = {
    "peat2": [
        "Where you only read, saving shows an error with '1044' and 'Access denied': nothing was",
        "stored. A project that nobody has written to yet cannot be opened by a reader.",
    ],
    "relstorage4": [
        "Where you only read, a commit fails with error 1044 'Access denied': nothing was stored.",
        "A project that nobody has written to yet cannot be opened by a reader.",
    ],
}
