"""The accounts of one server as they are, and what an address can do with them.

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
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from .addresses import AddressError, Anywhere, contains, network_of, parse, specificity
from .sql import grant_escaped, literal, printable

REGISTRY = "peat_server"  # the database that remembers which accounts are managed
PUBLIC = "PUBLIC"

# The least with which each generation of clients commits, undoes and stores blobs; packing also
# truncates these tables, for which the server asks for DROP.
READER = frozenset(("SELECT",))
WRITER = {
    "peat2": frozenset(("SELECT", "INSERT", "UPDATE", "DELETE", "CREATE TEMPORARY TABLES")),
    "relstorage4": frozenset(("SELECT", "INSERT", "UPDATE", "DELETE", "CREATE TEMPORARY TABLES", "EXECUTE")),
}
PACKER = frozenset(("DROP",))
PACK_TABLES = {True: ("pack_object", "pack_state", "pack_state_tid"), False: ("pack_object",)}  # by keep_history


class AccountsError(Exception):
    """The accounts cannot be made what the list says; the text says why and what to do."""


class Account(NamedTuple):
    """One row of the server's list of users. `host` is ``''`` for a role of MariaDB."""

    user: str
    host: str

    def __str__(self) -> str:
        return printable(f"'{self.user}'@'{self.host}'")

    @property
    def sql(self) -> str:
        """The account as an SQL statement names it."""
        if self.user == PUBLIC and not self.host:
            return PUBLIC
        return f"{literal(self.user)}@{literal(self.host)}"


class Scope(NamedTuple):
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
            return printable(f"{self.database}.*")
        if self.kind in ("role", "proxy"):
            return f"{self.kind} {Account(self.name, self.detail)}"
        if self.kind in ("table", "column"):
            return printable(".".join(part for part in (self.database, self.name, self.detail) if part))
        return printable(f"{self.kind.lower()} {self.database}.{self.name}")


GLOBAL = Scope("global")
ROOT = Account("root", "localhost")


def whole_database(name: str) -> Scope:
    """Return the scope of exactly one database, whatever wildcards its name contains."""
    return Scope("database", grant_escaped(name))


@dataclass(frozen=True)
class Login:
    """How one account is let in.

    `tls` is ``''``, what the server calls the demand (ANY, X509, SPECIFIED), or `only_certificate`. `spare` means that
    a second password or plugin also opens the account. `role` means that nobody logs in.
    `connections` is how many sessions the account may have at once, 0 for any number. `throttled` means that it has
    any other limit: per hour, of one statement's time, or on failed logins.
    """

    plugin: str
    auth: str | None = field(repr=False)  # None: a password that is not generated yet
    tls: str = ""
    locked: bool = False
    expires: bool = False
    expired: bool = False
    spare: bool = False
    role: bool = False
    connections: int = 0
    throttled: bool = False


def only_certificate(subject: str, issuer: str) -> str:
    """Return the demand for one person's certificate, as REQUIRE takes it."""
    return f"SUBJECT {literal(subject)} AND ISSUER {literal(issuer)}"


Rights = dict[Account, dict[Scope, frozenset[str]]]


@dataclass(frozen=True)
class State:
    """The accounts of one server. `flavour` is mariadb or mysql.

    `registry` has the tables that exist of the registry, `registered`, `unsettled` and `overlapping`
    their rows: the last are the users whose old password also counts until their rotation is
    finished, and since when.
    `test_database` is None where there is none, else the names of what is in it. `own` is the account
    with which all this is read and changed. `everything` has the privileges that ALL PRIVILEGES on
    a database is. `definers` are accounts with whose rights views, routines, triggers or events run,
    where that was read. `verified` has (user, digest) of passwords compared before (`auth.digest`).
    """

    flavour: str
    accounts: dict[Account, Login] = field(default_factory=dict)
    rights: Rights = field(default_factory=dict)
    registry: frozenset[str] = frozenset()
    registered: frozenset[Account] = frozenset()
    unsettled: frozenset[str] = frozenset()
    overlapping: Mapping[str, str] = field(default_factory=dict)
    test_database: tuple[str, ...] | None = None
    own: Account = ROOT
    everything: frozenset[str] = frozenset()
    definers: frozenset[Account] = frozenset()
    verified: frozenset[tuple[str, str]] = frozenset()

    @functools.cached_property
    def by_user(self) -> dict[str, list[Account]]:
        """Every account that exists or has rights, by user name."""
        found: dict[str, list[Account]] = {}
        for account in {**self.accounts, **self.rights}:
            found.setdefault(account.user, []).append(account)
        return found


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
        for name in {user, ""}
        for account in state.by_user.get(name, ())
        if account in state.accounts and not state.accounts[account].role and matches(account.host, client)
    ]
    return max(found, key=lambda account: (narrowness(account), account.user != ""), default=None)


def effective(state: State, user: str, client: str) -> frozenset[tuple[Scope, str]]:
    """Return every (scope, privilege) a user has at an address, by the narrowest row of each scope."""
    rows: dict[Scope, Account] = {}
    for account in state.by_user.get(user, ()):
        if not matches(account.host, client):
            continue
        for scope in state.rights.get(account, ()):
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
    return _like(pattern).fullmatch(text) is not None


@functools.lru_cache(maxsize=10_000)
def _like(pattern: str) -> re.Pattern[str]:
    regex = ""
    for escaped, letter in re.findall(r"(\\)?(.)", pattern, re.DOTALL):
        wild = {"_": ".", "%": ".*"}.get(letter)
        regex += wild if wild and not escaped else re.escape(letter)
    return re.compile(regex, re.DOTALL | re.IGNORECASE)
