"""The option files of MySQL and MariaDB: how they are found, read and written.

Both servers read ``/etc/my.cnf``, then ``/etc/mysql/my.cnf``, follow ``!include`` and
``!includedir`` where they stand, and let the last line about an option win.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass

# What `mariadbd --help` and `mysqld --help` name as the files they read, without the user's own.
STARTING_POINTS = ("/etc/my.cnf", "/etc/mysql/my.cnf")

_GROUP = re.compile(r"\[\s*([^\]]*?)\s*\]")
_INCLUDE = re.compile(r"!(include|includedir)\s+(\S.*)")
# The servers themselves stop at ten.
_MAX_DEPTH = 10


@dataclass(frozen=True)
class Setting:
    """One line of an option file that a server heeds; value None is an option without a value."""

    name: str
    spelled: str
    value: str | None
    path: str
    line: int

    def __str__(self) -> str:
        """Return the option as a message names it, with its place."""
        value = "" if self.value is None else f" = {self.value}"
        return f"{self.name}{value} ({self.path}:{self.line})"


def normal_name(name: str) -> str:
    """Return an option's name as the servers compare it: case and dashes do not matter."""
    return re.sub("^loose_", "", name.strip().lower().replace("-", "_"))


def server_groups(flavour: str, version: tuple[int, ...]) -> frozenset[str]:
    """Return the groups that a server of this version reads, as its ``--help`` lists them."""
    release = ".".join(str(number) for number in version[:2])
    names = ("mysqld",) if flavour == "mysql" else ("mysqld", "mariadb", "mariadbd")
    more = {"mysql_cluster"} if flavour == "mysql" else {"client-server", "galera"}
    return frozenset({"server", *names, *(f"{name}-{release}" for name in names), *more})


def read(
    groups: frozenset[str],
    load: Callable[[str], str | None],
    names_in: Callable[[str], list[str]],
    start: tuple[str, ...] = STARTING_POINTS,
) -> list[Setting]:
    """Return what a server reads, in its order.

    ``load`` returns a file's text or None, ``names_in`` the names of a folder's files.
    """

    def walk(path: str, depth: int) -> list[Setting]:
        found: list[Setting] = []
        group = ""
        for number, raw in enumerate((load(path) or "").splitlines(), start=1):
            line = raw.strip()
            if include := _INCLUDE.match(line):
                if depth < _MAX_DEPTH:
                    for target in targets(*include.groups()):
                        found += walk(target, depth + 1)
            elif heading := _GROUP.match(line):
                group = heading.group(1)
            elif line and line[0] not in "#;" and group in groups:
                name, equals, value = line.partition("=")
                # Without a value, only a comment can follow.
                name = name if equals else name.split("#")[0]
                found.append(
                    Setting(
                        normal_name(name),
                        name.strip(),
                        unquoted(value) if equals else None,
                        path,
                        number,
                    )
                )
        return found

    def targets(kind: str, path: str) -> list[str]:
        if kind == "include":
            return [path]
        names = sorted(name for name in names_in(path) if name.endswith(".cnf"))
        return [posixpath.join(path, name) for name in names]

    return [setting for path in start for setting in walk(path, 0)]


def read_one(text: str, path: str, groups: frozenset[str]) -> list[Setting]:
    """Return what one file says, without what it includes."""
    return read(groups, {path: text}.get, lambda _folder: [], (path,))


def quoted(value: str) -> str:
    """Return a value as an option file must spell it. Measured: both servers undo exactly this."""
    if value and re.fullmatch(r"[^\s#'\"\\](?:[^#'\"\\]*[^\s#'\"\\])?", value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' if value else ""


def unquoted(text: str) -> str:
    """Return the value that a server makes of what stands behind ``=``."""
    text = text.strip()
    text = text[1:end] if text[:1] in ("'", '"') and (end := _closing(text)) else text.split("#")[0].rstrip()
    escapes = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "s": " ", '"': '"', "'": "'", "\\": "\\"}
    return re.sub(r"\\(.)", lambda match: escapes.get(match.group(1), match.group(0)), text)


def _closing(text: str) -> int:
    """Return where the quote that opens a text is closed, 0 if it is not."""
    position = 1
    while position < len(text):
        if text[position] == "\\":
            position += 1
        elif text[position] == text[0]:
            return position
        position += 1
    return 0


def line_of(name: str, value: str | None) -> str:
    """Return one line of an option file."""
    return name if value is None else f"{name} = {quoted(value)}".rstrip()


def chain(settings: list[Setting]) -> str:
    """Return all that a server reads as one file without includes, for a trial of the whole."""
    return "\n".join(["[mysqld]", *(line_of(s.spelled, s.value) for s in settings)]) + "\n"
