"""The description of a lab, validated, and the access matrix that everything else derives from.

An inventory lists networks, people and projects. `load` checks the three lists as a whole, reports
every problem at once (naming the entry and the remedy) and returns who reaches which project from
which address at which level. Accounts, firewall and connection sheets read that and nothing else.
"""

from __future__ import annotations

import datetime
import difflib
import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from . import auth
from .addresses import (
    ANYWHERE,
    AddressError,
    Network,
    account_host,
    contains,
    display,
    parse,
    specificity,
)
from .sql import grant_escaped

#: What keeps the objects of a project, and the generations of clients that each can serve.
RELSTORAGE = "relstorage"
ZEO = "zeo"
CLIENTS = {RELSTORAGE: ("peat2", "relstorage4"), ZEO: ("peat2", "current")}
BACKENDS = tuple(CLIENTS)
STATES = ("present", "frozen", "absent")
OFFERED = "offered"
REQUIRED = "required"
CERTIFICATE = "certificate"
FORWARDER = "forwarder"
OPTIONAL = "optional"  # another word for OFFERED
TLS = (OFFERED, REQUIRED, CERTIFICATE, FORWARDER, OPTIONAL)
#: A server's policy: what holds for people who have none of their own.
POLICIES = ("off", OFFERED, REQUIRED, CERTIFICATE)
#: From where the server sees those who come through the forwarder, and nobody else.
FORWARDED = ipaddress.IPv4Network("127.80.69.65/32")
READ = "read"
WRITE = "write"

DATABASE_NAME_LENGTH = 64
USER_NAME_LENGTHS = {"mariadb": 80}
USER_NAME_LENGTH = 32  # MySQL's, and what every tested server accepts
PASSWORD_LENGTH = 12
ADMIN = "peatadmin"  # who PEAT's dialog "Create DB on Server" logs in as
CONNECTIONS = 100_000  # as many as a server can be told to accept

RESERVED_DATABASES = frozenset(
    (
        "information_schema",
        "mysql",
        "ndbinfo",
        "peat_server",
        "performance_schema",
        "phpmyadmin",
        "sys",
        "test",
    )
)
RESERVED_USERS = frozenset(
    (
        "current_role",
        "current_user",
        "debian-sys-maint",
        "event_scheduler",
        "mariadb.sys",
        "mysql",
        "mysql.infoschema",
        "mysql.session",
        "mysql.sys",
        "none",
        "peat_server",
        "public",
        "root",
    )
)

_NETWORK_KEYS = ("name", "addresses")
_PERSON_KEYS = ("name", "from", "password", "password_hash", "tls", "connections")
PROJECT_KEYS = ("name", "backend", "clients", "keep_history", "write", "read", "state")
_ADMIN_KEYS = ("from", "prefix", "password")
_ADMINISTRATOR_KEYS = ("name", "password")
_ITEM_KEYS = ("person", "from")

# A person's name is also the name of a file (password, connection sheet).
_PERSON_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_NETWORK_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_DATABASE_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_$-]*[A-Za-z0-9_])?")
# The beginning of a GRANT's pattern; without wildcards in it nobody can grant more than databases that begin so.
# The pattern must fit where a database name does, which has at most 64 characters.
_PREFIX = re.compile(r"[A-Za-z][A-Za-z0-9]{2,59}")
# ZConfig turns the name of a section into lower case and takes `$` for a variable.
_STORAGE_NAME = re.compile(r"[a-z0-9_-]*")
_PASSWORD = re.compile(r"[!-~]([ -~]*[!-~])?")


class LabError(ValueError):
    """The description cannot be used. `problems` has every reason, each naming its entry."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        count = len(self.problems)
        title = "1 problem" if count == 1 else f"{count} problems"
        listed = "".join(f"\n- {problem}" for problem in self.problems)
        super().__init__(f"the description of the lab has {title}:{listed}")


@dataclass(frozen=True)
class Person:
    """Somebody with accounts. `password` is None where it is generated; `tls` is one of TLS but OPTIONAL.

    `password_hash` is of a password that is kept though nobody here knows it, until one is given.
    `connections` is how many the person may have at once from one network, 0 for any number, None
    for the lab's default.
    """

    name: str
    password: str | None = field(repr=False)
    tls: str
    password_hash: str | None = field(default=None, repr=False)
    connections: int | None = None


@dataclass(frozen=True)
class Project:
    """A database. `backend` is one of BACKENDS, `clients` one of its CLIENTS, `state` one of STATES."""

    name: str
    clients: str
    keep_history: bool
    state: str
    backend: str = RELSTORAGE


@dataclass(frozen=True)
class Access:
    """One row of the matrix: at `network` the person has `level` (READ or WRITE) on the project.

    At an address the row with the most specific network that contains it holds (`level_at`).
    (project, person, network) is unique.
    """

    project: str
    person: str
    network: Network
    level: str


@dataclass(frozen=True)
class Admin:
    """The account with which PEAT makes databases: from where, and how their names begin."""

    networks: tuple[Network, ...]
    prefix: str


@dataclass(frozen=True)
class Lab:
    """A valid description: people and projects by name, and the access matrix in listed order.

    `admin` makes databases with PEAT's dialog, `administrators` log in to phpMyAdmin.
    """

    people: dict[str, Person]
    projects: dict[str, Project]
    matrix: tuple[Access, ...]
    admin: Admin | None = None
    administrators: tuple[str, ...] = ()


def argument_spec() -> dict[str, dict[str, Any]]:
    """Return the module options that describe a lab, for Ansible's argument_spec."""
    name = {"type": "str", "required": True}
    return {
        "networks": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "name": name,
                "addresses": {"type": "list", "elements": "str", "required": True},
            },
        },
        "people": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "name": name,
                "from": {"type": "list", "elements": "str", "required": True},
                "password": {"type": "str", "no_log": True},
                "password_hash": {"type": "str", "no_log": True},
                "tls": {"type": "str", "choices": list(TLS), "default": OFFERED},
                "connections": {"type": "int"},
            },
        },
        "projects": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "name": name,
                "backend": {"type": "str", "choices": list(BACKENDS), "default": RELSTORAGE},
                "clients": {
                    "type": "str",
                    "choices": list(dict.fromkeys(name for names in CLIENTS.values() for name in names)),
                    "required": True,
                },
                "keep_history": {"type": "bool", "default": True},
                "write": {"type": "list", "elements": "raw", "default": []},
                "read": {"type": "list", "elements": "raw", "default": []},
                "state": {"type": "str", "choices": list(STATES), "default": "present"},
            },
        },
        "allow_anywhere": {"type": "bool", "default": False},
    }


def load(
    networks: Any,
    people: Any,
    projects: Any,
    allow_anywhere: bool = False,
    flavour: str | None = None,
    origins: Mapping[str, Mapping[int, str]] | None = None,
    admin: Any = None,
    administrators: Any = (),
) -> Lab:
    """Return the lab the three lists describe; raise LabError with every problem they have.

    The lists may come straight from YAML, so nothing is assumed about types. `flavour` is
    ``mariadb``, ``mysql`` or None (unknown: the shorter limits hold). `origins` says of entries that
    do not come from the list itself how messages call their place: {variable: {number: place}}.
    `admin` is ``peat_admin``, `administrators` is ``peat_administrators``, empty for none.
    """
    return _Loader(allow_anywhere, flavour, origins or {}).load(networks, people, projects, admin, administrators)


def level_at(entries: Iterable[Access], address: str) -> str | None:
    """Return the level at one client address, None for no access.

    `entries` are the rows of one person and one project.
    """
    client = parse(address)
    containing = [entry for entry in entries if contains(entry.network, client)]
    if not containing:
        return None
    return max(containing, key=lambda entry: specificity(entry.network)).level


def as_the_server_sees(lab: Lab) -> list[Access]:
    """Return the matrix with the address of the forwarder for those who come through it, each row once."""
    rows = {
        replace(entry, network=FORWARDED) if lab.people[entry.person].tls == FORWARDER else entry: None
        for entry in lab.matrix
    }
    return list(rows)


def of_backend(lab: Lab, backend: str) -> Lab:
    """Return the lab with the projects of one backend only, and everybody in it."""
    projects = {name: project for name, project in lab.projects.items() if project.backend == backend}
    matrix = tuple(entry for entry in lab.matrix if entry.project in projects)
    if backend != RELSTORAGE:
        return Lab(lab.people, projects, matrix)
    return Lab(lab.people, projects, matrix, lab.admin, lab.administrators)


def openings(lab: Lab, forwarded: bool = False) -> list[str]:
    """Return every network from which anybody has any access, as the fewest CIDR texts.

    With `forwarded`, from which anybody has access through the forwarder; without, directly. IPv4
    first; an access from anywhere gives ``%``.
    """
    # Only a database server has a forwarder.
    networks = {
        entry.network
        for entry in lab.matrix
        if (lab.people[entry.person].tls == FORWARDER and lab.projects[entry.project].backend == RELSTORAGE)
        == forwarded
    }
    if lab.admin and not forwarded:
        networks.update(lab.admin.networks)
    if ANYWHERE in networks:
        return ["%"]
    collapsed: list[str] = []
    for family in (ipaddress.IPv4Network, ipaddress.IPv6Network):
        members = [network for network in networks if isinstance(network, family)]
        collapsed += [str(network) for network in ipaddress.collapse_addresses(members)]
    return collapsed


def addresses(networks: Any, items: Any, variable: str) -> list[str]:
    """Return the addresses that a list of network names and addresses stands for.

    `variable` is how messages call the list. Raise LabError with all its problems.
    """
    loader = _Loader(False, None, {})
    loader.load(networks, [], [])
    found = loader._sources(items, variable)
    if loader.problems:
        raise LabError(loader.problems)
    return [str(network) for network in found]


def phpmyadmin_problems(administrators: Any, admin_networks: Any, tls: Any) -> list[str]:
    """Return why phpMyAdmin cannot be had with these variables, whatever is in them."""
    found = []
    if not administrators:
        found.append(
            "peat_phpmyadmin: nobody could log in: add somebody to peat_administrators, or set peat_phpmyadmin: false"
        )
    if not admin_networks:
        found.append(
            "peat_phpmyadmin: nobody could reach it: write the administrators' networks into peat_admin_networks,"
            " or set peat_phpmyadmin: false"
        )
    if tls == "off":
        found.append(
            "peat_phpmyadmin: it is served with the server's certificate, and with peat_tls: 'off' there is none:"
            " choose another peat_tls, or set peat_phpmyadmin: false"
        )
    return found


class _Loader:
    """One validation. Methods add to `problems` and return what could be made sense of."""

    def __init__(self, allow_anywhere: bool, flavour: str | None, origins: Mapping[str, Mapping[int, str]]) -> None:
        self.allow_anywhere = allow_anywhere
        self.origins = origins
        self.user_name_length = USER_NAME_LENGTHS.get(flavour or "", USER_NAME_LENGTH)
        self.problems: list[str] = []
        self.networks: dict[str, tuple[Network, ...]] = {}
        self.people: dict[str, Person] = {}
        self.sources: dict[str, tuple[Network, ...]] = {}  # by person
        self.projects: dict[str, Project] = {}
        self.matrix: list[Access] = []
        self._parsed: dict[str, Network | str] = {}  # a network, or what is wrong with the text
        self._folded: dict[tuple[str, str], str] = {}  # (variable, lower-case name): name
        self._guesses = 0

    def load(self, networks: Any, people: Any, projects: Any, admin: Any = None, administrators: Any = ()) -> Lab:
        if not isinstance(self.allow_anywhere, bool):
            self.problems.append(
                f"peat_allow_anywhere: {_show(self.allow_anywhere)} is not a boolean: "
                "write true or false without quotes, after -e as JSON: -e '{\"peat_allow_anywhere\": true}'"
            )
            self.allow_anywhere = False
        for entry, where in self._entries(networks, "peat_networks", _NETWORK_KEYS):
            self._network(entry, where)
        for entry, where in self._entries(people, "peat_people", _PERSON_KEYS):
            self._person(entry, where)
        for entry, where in self._entries(projects, "peat_projects", PROJECT_KEYS):
            self._project(entry, where)
        database_maker = self._admin(admin) if admin else None
        names = [
            self._administrator(entry, where)
            for entry, where in self._entries(administrators or [], "peat_administrators", _ADMINISTRATOR_KEYS)
        ]
        if self.problems:
            raise LabError(self.problems)
        return Lab(self.people, self.projects, tuple(self.matrix), database_maker, tuple(names))

    # The three kinds of entry

    def _network(self, entry: dict, where: str) -> None:
        name = self._name(entry, "peat_networks", where)
        addresses = self._list(entry, "addresses", where, required=True)
        found = self._addresses(addresses, where)
        if name is None:
            return
        if not _NETWORK_NAME.fullmatch(name) or _is_address(name):
            self._add(
                where,
                "the name of a network has letters, digits and _ . - and is no address: rename it",
            )
        self.networks[name] = found

    def _person(self, entry: dict, where: str) -> None:
        name = self._name(entry, "peat_people", where)
        self._password(entry.get("password"), name, where)
        self._password_hash(entry.get("password_hash"), where)
        tls = self._choice(entry, "tls", TLS, where, default=OFFERED)
        tls = OFFERED if tls == OPTIONAL else tls
        sources = self._sources(self._list(entry, "from", where, required=True), where)
        if name is None:
            return
        self._user_name(name, where)
        connections = entry.get("connections")
        # What Ansible reads from YAML is a number of a type of its own.
        number = isinstance(connections, int) and not isinstance(connections, bool)
        if connections is not None and not (number and 0 <= connections <= CONNECTIONS):
            self._add(where, f"connections is {_show(connections)}: write a number up to {CONNECTIONS}, 0 for no limit")
        self.people[name] = Person(name, entry.get("password"), tls, entry.get("password_hash"), connections)
        self.sources[name] = sources

    def _project(self, entry: dict, where: str) -> None:
        name = self._name(entry, "peat_projects", where)
        backend = self._choice(entry, "backend", BACKENDS, where, default=RELSTORAGE)
        clients = self._choice(entry, "clients", CLIENTS.get(backend, ()), where) if backend else ""
        state = self._choice(entry, "state", STATES, where, default="present")
        keep_history = entry.get("keep_history")
        if keep_history is None:
            keep_history = True
        elif not isinstance(keep_history, bool):
            self._add(where, f"keep_history is {_show(keep_history)}: write true or false, unquoted")
        if keep_history is False and backend == ZEO:
            self._add(
                where,
                "keep_history: false with backend: zeo: its FileStorage always keeps history until it is packed, "
                "remove keep_history",
            )
        elif keep_history is False and clients == "peat2":
            self._add(
                where,
                "keep_history: false with clients: peat2: PEAT opens only databases that keep "
                "history, remove keep_history or choose clients: relstorage4",
            )
        if backend == ZEO and clients == "peat2" and state == "frozen":
            self._add(
                where,
                "state: frozen with backend: zeo and clients: peat2: PEAT 2.3 always opens a ZEO storage to write and "
                "could not open it at all, choose clients: current, backend: relstorage, or take people out of write",
            )
        if name is not None:
            self._database_name(name, where)
            if backend == ZEO and not _STORAGE_NAME.fullmatch(name):
                self._add(
                    where,
                    "ZEO reads the names of storages as lower case, and a $ in them as a variable: use small "
                    "letters, digits, _ and - only",
                )
        project = Project(name or "", clients, keep_history, state, backend)
        rows = self._accesses(entry, project, where)
        if name is None:
            return
        self.projects[name] = project
        if state != "absent":
            self.matrix += rows

    def _accesses(self, entry: dict, project: Project, where: str) -> list[Access]:
        """Return the rows of one project, as its state makes them."""
        levels: dict[tuple[str, Network], str] = {}
        rows = []
        for level in (WRITE, READ):
            for item in self._list(entry, level, where):
                person, sources = self._item(item, level, where)
                if person is None:
                    continue
                if project.backend == ZEO and project.state == "present" and level == READ:
                    self._add(
                        where,
                        f"read lists {person!r}, but whoever reaches a ZEO storage can write to it: move the person to "
                        "write, make the project state: frozen for everybody, or choose backend: relstorage",
                    )
                self._tls_possible(person, project, where)
                for network in sources:
                    before = levels.setdefault((person, network), level)
                    if before != level:
                        self._add(
                            where,
                            f"{person!r} is in write and in read from {display(network)}: remove one of the two",
                        )
                    elif len(levels) == len(rows):
                        self._add(
                            where,
                            f"{level} lists {person!r} twice from {display(network)}: remove one of the two",
                        )
                    else:
                        effective = READ if project.state == "frozen" else level
                        rows.append(Access(project.name, person, network, effective))
        for person in dict.fromkeys(row.person for row in rows if self.people[row.person].tls == FORWARDER):
            if len({row.level for row in rows if row.person == person}) > 1:
                self._add(
                    where,
                    f"{person!r} has tls: forwarder, behind which the server sees one address, but writes from some"
                    " addresses and only reads from others: keep one level, or give the person another tls",
                )
        return rows

    def _item(self, item: Any, level: str, where: str) -> tuple[str | None, tuple[Network, ...]]:
        """Return the person a write or read item names, and the networks it is about."""
        sources: tuple[Network, ...] | None = None
        person = item
        if isinstance(item, dict):
            person = item.get("person")
            where_item = f"{where}, {level} of {person!r}" if isinstance(person, str) else f"{where}, {level}"
            self._unknown_keys(item, _ITEM_KEYS, where_item)
            if "from" in item:
                sources = self._sources(self._list(item, "from", where_item, required=True), where_item)
        if not isinstance(person, str) or not person:
            self._add(
                where,
                f"{level} has an item that is {_show(item)}: write a person's name or "
                "{person: NAME, from: [ADDRESS]}",
            )
            return None, ()
        if person not in self.people:
            self._add(
                where,
                f"{level} names the unknown person {person!r}"
                f"{self._guess(person, self.people)}: correct it or add the person to peat_people",
            )
            return None, ()
        return person, self.sources[person] if sources is None else sources

    def _admin(self, entry: Any) -> Admin | None:
        """Return the account with which PEAT makes databases."""
        where = "peat_admin"
        if not isinstance(entry, dict):
            self._add(where, f"is {_kind(entry)}: write {{from: [ADDRESS], prefix: TEXT}}")
            return None
        self._unknown_keys(entry, _ADMIN_KEYS, where)
        sources = self._sources(self._list(entry, "from", where, required=True), where)
        self._password(entry.get("password"), ADMIN, where)
        if ADMIN in self.people:
            self._add(where, f"{ADMIN} is in peat_people as well: rename that person")
        prefix = entry.get("prefix")
        if not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix):
            self._add(
                where, f"prefix is {_show(prefix)}: write three to 60 letters and digits, beginning with a letter"
            )
            return None
        if taken := sorted(name for name in RESERVED_DATABASES if name.startswith(prefix.lower())):
            self._add(where, f"prefix is {prefix!r}, and the server's own {taken[0]} begins so: choose another")
        return Admin(sources, prefix)

    def _administrator(self, entry: dict, where: str) -> str:
        """Return the name of an account for phpMyAdmin."""
        name = self._name(entry, "peat_administrators", where)
        self._password(entry.get("password"), name, where)
        if name is None:
            return ""
        self._user_name(name, where)
        person = self._folded.get(("peat_people", name.lower()))
        if person is not None:
            self._add(where, f"has the name of {person}: who works on projects as well needs another name for that")
        elif name.lower() == ADMIN:
            self._add(where, f"{ADMIN} is the account of peat_admin: choose another name")
        return name

    # Rules about single values

    def _name(self, entry: dict, variable: str, where: str) -> str | None:
        """Return the entry's name if it is text that no earlier entry has, whatever its case."""
        name = entry.get("name")
        if name is None or name == "":
            self._add(where, "has no name: add one")
            return None
        if not isinstance(name, str):
            self._add(where, f"the name is {_show(name)}, not text to YAML: put it in quotes")
            return None
        earlier = self._folded.setdefault((variable, name.lower()), where)
        if earlier != where:
            self._add(
                where,
                f"has the name of {earlier} (upper and lower case count as the same): rename or remove one of the two",
            )
            return None
        return name

    def _user_name(self, name: str, where: str) -> None:
        if not _PERSON_NAME.fullmatch(name):
            self._add(
                where,
                "a person's name is a database user and a file name: use letters, digits and "
                "_ . - only, and begin with a letter, a digit or _",
            )
        elif name.lower() in RESERVED_USERS:
            self._add(where, "is an account name of the server itself: choose another name")
        if len(name) > self.user_name_length:
            self._add(
                where,
                f"the name has {len(name)} characters, the server takes {self.user_name_length}: shorten it",
            )

    def _database_name(self, name: str, where: str) -> None:
        folded = name.lower()
        if not _DATABASE_NAME.fullmatch(name):
            self._add(
                where,
                "a project's name is a database name: use letters, digits and _ $ - only, and "
                "begin and end with a letter, a digit or _",
            )
        elif name.isdigit():
            self._add(where, "a database name cannot be digits only: add a letter")
        elif folded in RESERVED_DATABASES:
            self._add(where, "is a database of the server itself: choose another name")
        elif folded.startswith("test_"):
            self._add(
                where,
                "servers may open every database named test_... to all accounts: choose another name",
            )
        if len(grant_escaped(name)) > DATABASE_NAME_LENGTH:
            self._add(
                where,
                f"the name has {len(grant_escaped(name))} characters, of which each _ is two in the server's tables of"
                f" rights, and a database name has at most {DATABASE_NAME_LENGTH}: shorten it",
            )

    def _password(self, password: Any, name: str | None, where: str) -> None:
        """Check a given password; no message may repeat it."""
        if password is None:
            return
        remedy = "or leave it out and one is generated"
        if not isinstance(password, str):
            self._add(where, f"the password is not text to YAML: put it in quotes {remedy}")
        elif not password:
            self._add(where, f"the password is empty: write one {remedy}")
        elif len(password) < PASSWORD_LENGTH:
            self._add(
                where,
                f"the password has fewer than {PASSWORD_LENGTH} characters: lengthen it {remedy}",
            )
        elif not _PASSWORD.fullmatch(password):
            self._add(
                where,
                "the password has characters that clients send differently (outside ASCII, line "
                f"ends, or blanks around it): change it {remedy}",
            )
        elif password == name:
            self._add(where, f"the password is the person's name: change it {remedy}")

    def _password_hash(self, text: Any, where: str) -> None:
        if text is not None and (not isinstance(text, str) or not auth.written_plugin(text)):
            self._add(
                where,
                "the password_hash is none that playbooks/adopt.yml writes ('*' and 40 digits of MariaDB, '0x2441...'"
                " of MySQL): correct it, or leave it out and a password is generated",
            )

    def _tls_possible(self, person: str, project: Project, where: str) -> None:
        tls = self.people[person].tls
        if tls in (REQUIRED, CERTIFICATE) and project.clients == "peat2" and project.state != "absent":
            self._add(
                where,
                f"{person!r} has tls: {tls}, but PEAT 2.3 cannot ask for TLS and could not connect: give the person"
                " tls: forwarder or tls: offered, or take the person out of this project",
            )

    def _sources(self, items: list, where: str) -> tuple[Network, ...]:
        """Return the networks that names and addresses stand for, each once, in listed order."""
        found: dict[Network, None] = {}
        for item in items:
            if isinstance(item, str) and item in self.networks:
                found.update(dict.fromkeys(self.networks[item]))
                continue
            network = self._address(item)
            if not isinstance(network, str):
                found[network] = None
            elif isinstance(item, str) and _NETWORK_NAME.fullmatch(item) and "." not in item:
                self._add(
                    where,
                    f"names the unknown network {item!r}{self._guess(item, self.networks)}: "
                    "correct it, add it to peat_networks or write an IP address",
                )
            else:
                self._add(where, network)
        return tuple(found)

    def _addresses(self, items: list, where: str) -> tuple[Network, ...]:
        """Return the networks that a list of addresses stands for, each once."""
        found: dict[Network, None] = {}
        for item in items:
            network = self._address(item)
            if isinstance(network, str):
                self._add(where, network)
            else:
                found[network] = None
        return tuple(found)

    def _address(self, item: Any) -> Network | str:
        """Return the network an address stands for, or what is wrong with it."""
        if not isinstance(item, str):
            return f"an address is {_show(item)}, not text to YAML: put it in quotes"
        if item not in self._parsed:
            try:
                network = parse(item)
                account_host(network)
                self._parsed[item] = network
            except AddressError as error:
                self._parsed[item] = str(error)
        if self._parsed[item] is ANYWHERE and not self.allow_anywhere:
            return (
                "'%' opens the server to every address: list the addresses, or set "
                "peat_allow_anywhere: true if that is meant"
            )
        return self._parsed[item]

    # The shape of things

    def _entries(self, value: Any, variable: str, keys: tuple[str, ...]) -> Iterable[tuple[dict, str]]:
        """Yield the entries of one list that are mappings, each with how messages call it."""
        if not isinstance(value, list):
            self.problems.append(f"{variable}: is {_kind(value)}: make it a list of entries ('- name: ...')")
            return
        for number, entry in enumerate(value, 1):
            where = self.origins.get(variable, {}).get(number) or f"{variable}, entry {number}"
            if not isinstance(entry, dict):
                self._add(where, f"is {_kind(entry)}: write '- name: ...' with {', '.join(keys)}")
                continue
            if isinstance(entry.get("name"), str) and entry["name"]:
                where += f" ({entry['name']})"
            self._unknown_keys(entry, keys, where)
            yield entry, where

    def _list(self, entry: dict, key: str, where: str, required: bool = False) -> list:
        """Return a list; a problem if it is something else, or empty and required."""
        value = entry.get(key)
        if value is None or value == "":
            value = []
        if not isinstance(value, list):
            self._add(where, f"{key} is {_kind(value)}: write a list, {key}: [{_example(value)}]")
            return []
        if required and not value:
            self._add(where, f"{key} is missing or empty: add at least one address")
        return value

    def _choice(
        self,
        entry: dict,
        key: str,
        choices: tuple[str, ...],
        where: str,
        default: str | None = None,
    ) -> str:
        value = entry.get(key)
        if value is None:
            if default is None:
                self._add(where, f"{key} is missing: write one of {', '.join(choices)}")
            return default or ""
        if not isinstance(value, str) or value not in choices:
            self._add(where, f"{key} is {_show(value)}: write one of {', '.join(choices)}")
            return ""
        return value

    def _unknown_keys(self, entry: dict, keys: tuple[str, ...], where: str) -> None:
        for key in entry:
            if key not in keys:
                self._add(
                    where,
                    f"has the unknown key {key!r}{self._guess(str(key), keys)}: the keys are {', '.join(keys)}",
                )

    def _guess(self, word: str, known: Iterable[str]) -> str:
        """Return ' (did you mean ...?)' where a known word is close."""
        self._guesses += 1
        if self._guesses > 20:  # comparing with thousands of names is slow; a few guesses help
            return ""
        close = difflib.get_close_matches(word, list(known), n=1)
        return f" (did you mean {close[0]!r}?)" if close else ""

    def _add(self, where: str, problem: str) -> None:
        self.problems.append(f"{where}: {problem}")


def _is_address(text: str) -> bool:
    try:
        parse(text)
    except AddressError:
        return False
    return True


def _show(value: Any) -> str:
    """Return a plain value as it is, and only the kind of one that may hold a password."""
    return repr(value) if isinstance(value, (str, int, float)) else _kind(value)


def _kind(value: Any) -> str:
    """Return what a YAML value is, without repeating it."""
    if value is None:
        return "empty"
    for type_, name in (
        (dict, "a mapping"),
        (list, "a list"),
        (bool, "a boolean"),
        ((int, float), "a number"),
        (datetime.date, "a date"),
        (str, "text"),
    ):
        if isinstance(value, type_):
            return name
    return f"a {type(value).__name__}"


def _example(value: Any) -> str:
    return str(value) if isinstance(value, (str, int, float)) else "..."
