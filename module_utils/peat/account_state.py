"""The accounts of one server as they are: read once, and asked what an address can do.

How the tested servers (MariaDB 10.11.18 and 11.8.6, MySQL 9.7.4) decide, measured address by
address:

* A login uses ONE account, the one with the most specific host; only its password, TLS rule and
  lock count.
* Rights on a database or table are looked up by user NAME and client address among the rows of
  all accounts of that name. One row counts, a narrower one hides a wider one.
* Which row is narrower is certain for IPv6 patterns and for ``%``. It is not among IPv4 hosts: on
  MariaDB the row of ``192.0.2.0/255.255.255.0`` beats the row of ``192.0.2.7``, and for rights on
  tables the order of two such hosts depends on the order of the GRANTs. The functions below answer
  as if the longer mask won; `accounts.wanted` makes no hosts for which that matters.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from .addresses import AddressError, Anywhere, contains, network_of, parse, specificity
from .sql import grant_escaped, literal

REGISTRY = "peat_server"  # the database that remembers which accounts are managed
PUBLIC = "PUBLIC"


class AccountsError(Exception):
    """The accounts cannot be made what the list says; the text says why and what to do."""


@dataclass(frozen=True, order=True)
class Account:
    """One row of the server's list of users. `host` is ``''`` for a role of MariaDB."""

    user: str
    host: str

    def __str__(self) -> str:
        return f"'{self.user}'@'{self.host}'"

    @property
    def sql(self) -> str:
        """The account as an SQL statement names it."""
        if self.user == PUBLIC and not self.host:
            return PUBLIC
        return f"{literal(self.user)}@{literal(self.host)}"


@dataclass(frozen=True, order=True)
class Scope:
    """What a right is about. `database` is a pattern, as the server keeps it, for kind ``database``.

    `kind` is global, database, table, column, role, proxy, or what routines are (PROCEDURE, ...).
    `name` is a table, a routine, or a role's or proxied account's name; `detail` is a column, or
    the host of that account.
    """

    kind: str
    database: str = ""
    name: str = ""
    detail: str = ""

    def __str__(self) -> str:
        if self.kind == "global":
            return "*.*"
        if self.kind == "database":
            return f"{self.database}.*"
        if self.kind in ("role", "proxy"):
            return f"{self.kind} {Account(self.name, self.detail)}"
        if self.kind in ("table", "column"):
            return ".".join(part for part in (self.database, self.name, self.detail) if part)
        return f"{self.kind.lower()} {self.database}.{self.name}"


GLOBAL = Scope("global")


def whole_database(name: str) -> Scope:
    """Return the scope of exactly one database, whatever wildcards its name contains."""
    return Scope("database", grant_escaped(name))


@dataclass(frozen=True)
class Login:
    """How one account is let in.

    `tls` is ``''`` or what the server calls the demand (ANY, X509, SPECIFIED). `spare` means that
    a second password or plugin also opens the account. `role` means that nobody logs in.
    """

    plugin: str
    auth: str | None = field(repr=False)  # None: a password that is not generated yet
    tls: str = ""
    locked: bool = False
    expires: bool = False
    expired: bool = False
    spare: bool = False
    role: bool = False


Rights = dict[Account, dict[Scope, frozenset[str]]]


@dataclass(frozen=True)
class State:
    """The accounts of one server. `flavour` is mariadb or mysql.

    `registry` has the tables that exist of the registry, `registered` and `unsettled` their rows.
    `test_database` is None where there is none, else the names of what is in it.
    """

    flavour: str
    accounts: dict[Account, Login] = field(default_factory=dict)
    rights: Rights = field(default_factory=dict)
    registry: frozenset[str] = frozenset()
    registered: frozenset[Account] = frozenset()
    unsettled: frozenset[str] = frozenset()
    test_database: tuple[str, ...] | None = None


# How a server decides


_network_of = functools.cache(network_of)


@functools.cache
def matches(host: str, client: str) -> bool:
    """Whether an account host lets in a client with this address (or ``localhost``)."""
    network = _network_of(host)
    if isinstance(network, Anywhere):
        return True
    try:
        if network is not None:
            return contains(network, parse(client))
    except AddressError:
        pass
    return like(host, client)


def login_account(state: State, user: str, client: str) -> Account | None:
    """Return the account that a user at an address logs in to, None if the server has none."""
    found = [
        account
        for account, login in state.accounts.items()
        if account.user in (user, "") and not login.role and matches(account.host, client)
    ]
    return max(found, key=lambda account: (narrowness(account), account.user != ""), default=None)


def effective(state: State, user: str, client: str) -> frozenset[tuple[Scope, str]]:
    """Return every (scope, privilege) a user has at an address, by the narrowest row of each scope."""
    rows: dict[Scope, Account] = {}
    for account, granted in state.rights.items():
        if account.user != user or not matches(account.host, client):
            continue
        for scope in granted:
            if scope not in rows or narrowness(account) > narrowness(rows[scope]):
                rows[scope] = account
    return frozenset(
        (scope, privilege) for scope, account in rows.items() for privilege in state.rights[account][scope]
    )


def narrowness(account: Account) -> int:
    """Order accounts that match one address: the larger number is chosen."""
    network = _network_of(account.host)
    if network is not None:
        return specificity(network)
    return min((account.host.find(letter) for letter in "%_" if letter in account.host), default=128)


def like(pattern: str, text: str) -> bool:
    r"""Whether SQL's LIKE matches: ``_`` one letter, ``%`` any number, backslash takes that away."""
    regex = ""
    for escaped, letter in re.findall(r"(\\)?(.)", pattern, re.DOTALL):
        wild = {"_": ".", "%": ".*"}.get(letter)
        regex += wild if wild and not escaped else re.escape(letter)
    return re.fullmatch(regex, text, re.DOTALL | re.IGNORECASE) is not None


# What the server has


def read(query: Callable[[str], list[tuple]]) -> State:
    """Return the state of a server with a constant number of queries.

    `query` runs one and returns its rows. Raise AccountsError if the server gives GRANT another
    meaning than the tested ones do.
    """
    tables = {(schema.lower(), name) for schema, name in query(_TABLES)}
    flavour = "mariadb" if ("mysql", "global_priv") in tables else "mysql"
    if flavour == "mysql" and query("SELECT @@partial_revokes") != [(0,)]:
        raise AccountsError(
            "the server has partial_revokes ON, wanted OFF: with it, a grant on one database whose name has"
            " _ or % never matches; remove partial_revokes from the server's options"
        )
    registry = frozenset(name for schema, name in tables if schema == REGISTRY)
    accounts = dict(_ACCOUNTS_OF[flavour](row) for row in query(_ACCOUNTS[flavour]))
    names = {str(account): account for account in accounts}
    return State(
        flavour,
        accounts,
        _rights(names, query, flavour),
        registry,
        frozenset(Account(*row) for row in query(_REGISTERED)) if "managed_account" in registry else frozenset(),
        frozenset(user for (user,) in query(_UNSETTLED)) if "unsettled_user" in registry else frozenset(),
        tuple(sorted(name for schema, name in tables if schema == "test" and name)) if ("test", "") in tables else None,
    )


# What there is to know about databases other than the projects': one row (name, '') per database.
_TABLES = (
    "SELECT SCHEMA_NAME, '' FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = 'test'"
    " UNION ALL SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES"
    f" WHERE TABLE_SCHEMA IN ('test', '{REGISTRY}') OR (TABLE_SCHEMA = 'mysql' AND TABLE_NAME = 'global_priv')"
    " UNION ALL SELECT ROUTINE_SCHEMA, ROUTINE_NAME FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = 'test'"
    " UNION ALL SELECT EVENT_SCHEMA, EVENT_NAME FROM information_schema.EVENTS WHERE EVENT_SCHEMA = 'test'"
)
_REGISTERED = f"SELECT user, host FROM {REGISTRY}.managed_account"
_UNSETTLED = f"SELECT user FROM {REGISTRY}.unsettled_user"
_ACCOUNTS = {
    "mariadb": "SELECT User, Host, Priv FROM mysql.global_priv",
    "mysql": "SELECT User, Host, plugin, authentication_string, ssl_type, account_locked, password_expired,"
    " password_lifetime, User_attributes FROM mysql.user",
}
_MARIADB_TLS = {0: "", 1: "ANY", 2: "X509", 3: "SPECIFIED"}


def _mariadb_account(row: tuple) -> tuple[Account, Login]:
    user, host, text = row
    data = json.loads(_text(text))
    return Account(_text(user), _text(host)), Login(
        data.get("plugin", ""),
        data.get("authentication_string", ""),
        _MARIADB_TLS.get(data.get("ssl_type", 0), "SPECIFIED"),
        bool(data.get("account_locked", False)),
        data.get("password_lifetime", -1) != 0,
        data.get("password_last_changed", 1) == 0,
        bool(data.get("auth_or", False)),
        bool(data.get("is_role", False)),
    )


def _mysql_account(row: tuple) -> tuple[Account, Login]:
    user, host, plugin, stored, tls, locked, expired, lifetime, attributes = row
    # CREATE ROLE makes an account that is locked and expired and has no password.
    role = locked == "Y" and expired == "Y" and not stored
    return Account(_text(user), _text(host)), Login(
        plugin or "",
        _text(stored),
        _text(tls),
        locked == "Y",
        lifetime != 0,
        expired == "Y",
        "additional_password" in json.loads(_text(attributes) or "{}"),
        role,
    )


_ACCOUNTS_OF = {"mariadb": _mariadb_account, "mysql": _mysql_account}


def _text(value: object) -> str:
    """Return a column as text: PyMySQL gives bytes for columns with a binary collation."""
    if value is None:
        return ""
    return value.decode(errors="replace") if isinstance(value, (bytes, bytearray)) else str(value)


_PRIVILEGES = {
    "global": "SELECT GRANTEE, '', '', '', PRIVILEGE_TYPE, IS_GRANTABLE FROM information_schema.USER_PRIVILEGES",
    "database": "SELECT GRANTEE, TABLE_SCHEMA, '', '', PRIVILEGE_TYPE, IS_GRANTABLE"
    " FROM information_schema.SCHEMA_PRIVILEGES",
    "table": "SELECT GRANTEE, TABLE_SCHEMA, TABLE_NAME, '', PRIVILEGE_TYPE, IS_GRANTABLE"
    " FROM information_schema.TABLE_PRIVILEGES",
    # IS_GRANTABLE of a column repeats the table's.
    "column": "SELECT GRANTEE, TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, PRIVILEGE_TYPE, 'NO'"
    " FROM information_schema.COLUMN_PRIVILEGES",
}
_ROUTINES = "SELECT User, Host, Routine_type, Db, Routine_name, Proc_priv FROM mysql.procs_priv"
_PROXIES = "SELECT User, Host, Proxied_user, Proxied_host FROM mysql.proxies_priv"
_ROLES = {
    "mariadb": "SELECT User, Host, Role, '' FROM mysql.roles_mapping",
    "mysql": "SELECT TO_USER, TO_HOST, FROM_USER, FROM_HOST FROM mysql.role_edges",
}


def _rights(names: Mapping[str, Account], query: Callable[[str], list[tuple]], flavour: str) -> Rights:
    rights: dict[Account, dict[Scope, set[str]]] = {}

    def add(account: Account, scope: Scope, privileges: Iterable[str]) -> None:
        found = set(privileges) - {"USAGE"}
        if found:
            rights.setdefault(account, {}).setdefault(scope, set()).update(found)

    for kind, sql in _PRIVILEGES.items():
        for grantee, database, name, column, privilege, grantable in query(sql):
            account = names.get(grantee) or Account(*grantee[1:-1].rsplit("'@'", 1))
            options = ["GRANT OPTION"] if grantable == "YES" else []
            add(account, Scope(kind, database, name, column), [privilege, *options])
    for user, host, kind, database, name, privileges in query(_ROUTINES):
        listed = _text(privileges).upper().split(",")
        scope = Scope(_text(kind), _text(database), _text(name))
        add(
            Account(_text(user), _text(host)),
            scope,
            ("GRANT OPTION" if word == "GRANT" else word for word in listed if word),
        )
    for kind, sql in (("proxy", _PROXIES), ("role", _ROLES[flavour])):
        for user, host, name, detail in query(sql):
            add(Account(_text(user), _text(host)), Scope(kind, "", _text(name), _text(detail)), [kind.upper()])
    return {
        account: {scope: frozenset(privileges) for scope, privileges in granted.items()}
        for account, granted in rights.items()
    }
