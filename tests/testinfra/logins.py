"""What people can do from many addresses, found out by logging in from each of them.

For tests that give a server lists of their own through the module peat_access, without site.yml: the projects'
databases, addresses of a client host, the module, and the logins.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping

import onhost
from conftest import CLIENTS, INTERPRETERS, Lab, put
from peat import lab as description

#: The tables that tests/clients/reach.py tries.
TABLES = ("object_state", "pack_object", "pack_state", "pack_state_tid")
REFUSED = (1045, 1130, 1698)
READS = {"read"}
WRITES = {"read", "insert", "update", "delete", "temporary", "pack"}

#: Runs tests/clients/reach.py on the host modern, where `log_in` puts it.
REACH = (INTERPRETERS["relstorage4"], "/usr/local/lib/peat-tests/reach.py")

#: Name of a project -> its clients and whether it keeps history.
Projects = Mapping[str, "tuple[str, bool]"]


def nets(lab: Lab) -> dict[str, str]:
    """The scenario's networks: the first three numbers in IPv4, the first four groups in IPv6."""
    return {"net4": lab.server["address"].rpartition(".")[0], "net6": lab.server["address6"].partition("::")[0]}


@contextlib.contextmanager
def more_addresses(host, addresses: Iterable[str]) -> Iterator[None]:
    """Give a host more addresses for a while."""

    def change(verb: str) -> None:
        lines = [
            f"address {verb} {text}/128 dev eth0 nodad" if ":" in text else f"address {verb} {text}/32 dev eth0"
            for text in addresses
        ]
        host.check_output("printf %s | ip -batch -", "\n".join(lines) + "\n")

    change("replace")
    yield
    change("delete")


@contextlib.contextmanager
def databases(sql, projects: Projects) -> Iterator[None]:
    """Make the projects' databases for a while, with the tables that rights are about."""
    for name in projects:
        sql(f"DROP DATABASE IF EXISTS `{name}`; CREATE DATABASE `{name}`")
        for table in TABLES:
            sql(f"CREATE TABLE `{name}`.{table} (zoid INT) ENGINE=MEMORY")
        sql(f"CREATE PROCEDURE `{name}`.nothing() SQL SECURITY INVOKER SELECT 1")
    yield
    for name in projects:
        sql(f"DROP DATABASE `{name}`")


@contextlib.contextmanager
def peat_access(lab: Lab) -> Iterator[Callable[..., dict]]:
    """Give peat_access(arguments, check=False) -> the module's result on the server."""
    with onhost.module(onhost.ssh(lab.server), "peat_access") as ask:

        def run(arguments: dict, check: bool = False) -> dict:
            found = ask(arguments, check)
            assert not found.get("failed"), found["msg"]
            return found

        yield run


def server(lab: Lab) -> dict:
    """Where reach.py finds the server."""
    return {"server": [lab.server["address"], lab.server["address6"]], "port": lab.server["port"]}


@contextlib.contextmanager
def log_in(lab: Lab, modern) -> Iterator[Callable[[list[dict], Projects], list]]:
    """Give log_in(logins, projects) -> for each login the error's number, or what it can do by project.

    A login has `user`, `password`, `from` (an address of the host modern) and `tls`. `more` are attempts by name.
    """
    put(modern, (CLIENTS / "reach.py").read_bytes(), REACH[1])
    to = server(lab)
    with onhost.talk([*onhost.ssh(lab.hosts["modern"]), *REACH, "answer"]) as ask:

        def run(logins: list[dict], projects: Projects, more: Mapping[str, str] | None = None) -> list:
            return [
                answer if isinstance(answer, int) else {name: set(able) for name, able in answer.items()}
                for answer in ask({**to, "logins": logins, "projects": list(projects), "more": more or {}})
            ]

        yield run


def offers_tls(sql) -> bool:
    """Whether the server has a certificate; Debian 12's has one only if somebody gives it one."""
    return sql("SHOW GLOBAL STATUS LIKE 'Ssl_server_not_after'")[0][1:] not in ([], [""])


def matrix(arguments: dict) -> tuple[description.Access, ...]:
    """The access matrix of the lists in the module's arguments."""
    names = ("networks", "people", "projects", "allow_anywhere")
    return description.load(**{name: arguments[name] for name in names}).matrix


def said(rows: Iterable[description.Access], projects: Projects, person: str, address: str) -> dict[str, set] | None:
    """What the list says of one person at one address, in the words of reach.py; None without any access."""
    able = {}
    for name, (clients, _) in projects.items():
        own = [row for row in rows if (row.person, row.project) == (person, name)]
        writes = WRITES | ({"call"} if clients == "relstorage4" else set())
        able[name] = {None: set(), "read": READS, "write": writes}[description.level_at(own, address)]
    return able if any(able.values()) else None
