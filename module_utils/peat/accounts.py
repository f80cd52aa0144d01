"""Database accounts and their rights: what the list says, what the server has, the steps between.

How the tested servers (MariaDB 10.11.18 and 11.8.6, MySQL 9.7.4) decide, measured address by
address:

* A login uses ONE account, the one with the most specific host; only its password, TLS rule and
  lock count.
* Rights on a database or table are looked up by user NAME and client address among the rows of
  all accounts of that name. One row counts, a narrower one hides a wider one.
* Which row is narrower is certain for IPv6 patterns and for ``%``. It is not among IPv4 hosts: on
  MariaDB the row of ``192.0.2.0/255.255.255.0`` beats the row of ``192.0.2.7``, and for rights on
  tables the order of two such hosts depends on the order of the GRANTs. So where a person's level on
  a project differs inside an IPv4 network, the network is cut into parts that do not overlap.

Everything here is plain data in, plain data out; the caller runs the queries and the steps.
"""

from __future__ import annotations

import functools
import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from . import auth
from .addresses import AddressError, Anywhere, Network, account_host, contains, network_of, parse, specificity
from .lab import READ, WRITE, Access, Lab
from .sql import grant_escaped, literal, quote_name

REGISTRY = "peat_server"
PROTECTED = frozenset(
    ("root", "mysql", "mysql.sys", "mysql.session", "mysql.infoschema", "mariadb.sys", "debian-sys-maint")
)
LOCAL_HOSTS = frozenset(("localhost", "127.0.0.1", "::1"))

# The least with which each generation of clients commits, undoes and stores blobs; packing also
# truncates these tables, for which the server asks for DROP.
READER = frozenset(("SELECT",))
WRITER = {
    "peat2": frozenset(("SELECT", "INSERT", "UPDATE", "DELETE", "CREATE TEMPORARY TABLES")),
    "relstorage4": frozenset(("SELECT", "INSERT", "UPDATE", "DELETE", "CREATE TEMPORARY TABLES", "EXECUTE")),
}
PACKER = frozenset(("DROP",))
PACK_TABLES = {True: ("pack_object", "pack_state", "pack_state_tid"), False: ("pack_object",)}  # by keep_history

_ORDER = ("SELECT", "INSERT", "UPDATE", "DELETE", "CREATE TEMPORARY TABLES", "EXECUTE")
_UNKNOWN_PASSWORD = "<a password that is not generated yet>"  # no SQL: a statement with it cannot run
_SYSTEM_SESSIONS = frozenset(("system user", "event_scheduler", "unauthenticated user"))
_PUBLIC = "PUBLIC"
_TEST_PATTERNS = ("test", r"test\_%", "test_%")


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
        if self.user == _PUBLIC and not self.host:
            return _PUBLIC
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


@dataclass(frozen=True)
class Need:
    """How the list wants one account: `password` is None where none is generated yet."""

    password: str | None = field(repr=False)
    tls: bool


@dataclass(frozen=True)
class Wanted:
    """What the list says: accounts, their rights, and the projects' database names."""

    accounts: dict[Account, Need]
    rights: Rights
    projects: tuple[str, ...]


@dataclass(frozen=True)
class Step:
    """One statement and, without secrets, what it does."""

    sql: str = field(repr=False)
    about: str


@dataclass(frozen=True)
class Plan:
    """Steps in order, and what they change as text.

    Between `steps` and `last_steps` the sessions of `sessions_to_end` are to be ended. `missing`
    names people without a password, with whom the steps cannot run.
    """

    steps: tuple[Step, ...]
    last_steps: tuple[Step, ...]
    before: str
    after: str
    findings: tuple[str, ...]
    missing: tuple[str, ...]
    old: State = field(repr=False)
    new: State = field(repr=False)
    changing: frozenset[str] = frozenset()


# What the list says


def wanted(lab: Lab, passwords: Mapping[str, str | None]) -> Wanted:
    """Return the accounts and rights that make every address what the matrix says of it.

    Raise AccountsError for a person whose name is an account of the server itself.
    """
    accounts: dict[Account, Need] = {}
    rights: Rights = {}
    entries: dict[tuple[str, str], list[Access]] = {}
    for access in lab.matrix:
        entries.setdefault((access.person, access.project), []).append(access)
    for (name, project_name), rows in entries.items():
        if name in PROTECTED or not name:
            raise AccountsError(f"the person {name!r} has the name of an account of the server: rename the person")
        person, project = lab.people[name], lab.projects[project_name]
        need = Need(passwords.get(name), person.tls == "required")
        for row in rows:
            for network in _parts(row, rows):
                account = Account(name, account_host(network))
                accounts[account] = need
                granted = rights.setdefault(account, {})
                granted[whole_database(project_name)] = READER if row.level == READ else WRITER[project.clients]
                on_tables = PACKER if row.level == WRITE else READER
                if row.level == WRITE or _inside_a_writer(row, rows):
                    for table in PACK_TABLES[project.keep_history]:
                        granted[Scope("table", project_name, table)] = on_tables
    return Wanted(accounts, rights, tuple(lab.projects))


def _parts(row: Access, rows: Iterable[Access]) -> list[Network]:
    """Return the row's network without the IPv4 networks inside it that have another level."""
    if not isinstance(row.network, ipaddress.IPv4Network):
        return [row.network]
    parts = [row.network]
    for other in rows:
        if other.level != row.level and contains(row.network, other.network):
            parts = [rest for part in parts for rest in _without(part, other.network)]
    return sorted(parts)


def _without(network: ipaddress.IPv4Network, hole: ipaddress.IPv4Network) -> list[ipaddress.IPv4Network]:
    if network.subnet_of(hole):
        return []
    return list(network.address_exclude(hole)) if hole.subnet_of(network) else [network]


def _inside_a_writer(row: Access, rows: Iterable[Access]) -> bool:
    """Whether a wider row has more rights on tables, which rows of the narrower one must hide.

    A reader's own row on those tables repeats what it has on the database: it only hides. Parts of
    IPv4 networks do not overlap, there only ``%`` is wider.
    """
    return any(
        other.level == WRITE
        and other.network != row.network
        and contains(other.network, row.network)
        and not isinstance(other.network, ipaddress.IPv4Network)
        for other in rows
    )


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
    return _like(host, client)


def login_account(state: State, user: str, client: str) -> Account | None:
    """Return the account that a user at an address logs in to, None if the server has none."""
    found = [
        account
        for account, login in state.accounts.items()
        if account.user in (user, "") and not login.role and matches(account.host, client)
    ]
    return max(found, key=lambda account: (_narrowness(account), account.user != ""), default=None)


def effective(state: State, user: str, client: str) -> frozenset[tuple[Scope, str]]:
    """Return every (scope, privilege) a user has at an address, by the narrowest row of each scope."""
    rows: dict[Scope, Account] = {}
    for account, granted in state.rights.items():
        if account.user != user or not matches(account.host, client):
            continue
        for scope in granted:
            if scope not in rows or _narrowness(account) > _narrowness(rows[scope]):
                rows[scope] = account
    return frozenset(
        (scope, privilege) for scope, account in rows.items() for privilege in state.rights[account][scope]
    )


def _narrowness(account: Account) -> int:
    network = _network_of(account.host)
    if network is not None:
        return specificity(network)
    return min((account.host.find(letter) for letter in "%_" if letter in account.host), default=128)


def _like(pattern: str, text: str) -> bool:
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
    return Account(_text(user), _text(host)), Login(
        plugin or "",
        _text(stored),
        _text(tls),
        locked == "Y",
        lifetime != 0,
        expired == "Y",
        "additional_password" in json.loads(_text(attributes) or "{}"),
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


# The way from one to the other


def plan(
    old: State,
    want: Wanted,
    protected: Iterable[str] = (),
    new_salt: Callable[[], str] = auth.new_salt,
) -> Plan:
    """Return the steps that make the server what is wanted.

    Accounts of the names in `protected` (more than PROTECTED), and accounts that neither the list
    nor the registry knows, are left alone. Rights are taken before rights are given; wide rows are
    taken first and narrow ones given first, so that no address ever has a level it has neither in
    the old nor in the new list.
    """
    untouchable = PROTECTED | frozenset(protected)
    if {account.user for account in want.accounts} & untouchable:
        name = next(account.user for account in want.accounts if account.user in untouchable)
        raise AccountsError(f"the person {name!r} has the name of a protected account: rename the person")
    new = _target(old, want, untouchable, new_salt)
    gone = [account for account in old.accounts if account not in new.accounts]
    changed = [account for account in new.accounts if _differs(old, new, account)]
    takes, gives = [], []
    for account in sorted({*gone, *changed}, key=lambda account: (_narrowness(account), account)):
        takes += _take(old, new, account)
    for account in sorted(changed, key=lambda account: (-_narrowness(account), account)):
        gives += _give(old, new, account)
    adopted = new.registered - old.registered
    forgotten = old.registered - new.registered
    existing = {account.user for account in old.accounts}
    changing = frozenset(account.user for account in (*gone, *changed) if account.user in existing)
    cleaning = _clean_steps(old, new)
    unsettled = old.unsettled | changing
    steps: list[Step] = []
    last_steps: list[Step] = []
    if takes or gives or cleaning or adopted or forgotten or unsettled:
        steps = [
            *_registry_steps(old),
            *_unsettled_steps(old, changing),
            *_register(adopted),
            *cleaning,
            *takes,
            *gives,
            *_forget(forgotten),
        ]
        if unsettled:
            last_steps = [Step(f"DELETE FROM {REGISTRY}.unsettled_user", "remember that their sessions are ended")]
    return Plan(
        tuple(steps),
        tuple(last_steps),
        _render(old, old, new, want),
        _render(new, old, new, want),
        tuple(_findings(new, want, untouchable)),
        tuple(sorted({account.user for account in changed if new.accounts[account].auth is None})),
        old,
        new,
        changing,
    )


def _target(old: State, want: Wanted, untouchable: frozenset[str], new_salt: Callable[[], str]) -> State:
    """Return the state after the plan."""
    accounts, rights = dict(old.accounts), dict(old.rights)
    for account in old.accounts:
        dropped = account in old.registered and account.user not in untouchable
        anonymous = not account.user and not old.accounts[account].role
        if account not in want.accounts and (dropped or anonymous):
            del accounts[account]
            rights.pop(account, None)
    for account, granted in old.rights.items():
        # What a server installed long ago gives everybody on databases named test...
        if account in rights and account not in want.accounts and account.user in ("", _PUBLIC):
            kept = {scope: names for scope, names in granted.items() if not _is_test(scope)}
            rights[account] = kept
            if not kept:
                del rights[account]
    accounts.update(_logins(old, want, new_salt))
    rights.update(want.rights)
    return replace(
        old,
        accounts=accounts,
        rights=rights,
        registry=frozenset(_REGISTRY_TABLES),
        registered=frozenset(want.accounts),
        unsettled=frozenset(),
        test_database=old.test_database or None,
    )


def _is_test(scope: Scope) -> bool:
    return scope.kind == "database" and scope.database in _TEST_PATTERNS


def _logins(old: State, want: Wanted, new_salt: Callable[[], str]) -> dict[Account, Login]:
    """Return how each wanted account is let in; a hash that is right is kept.

    New accounts of a person share one hash, so that one computation tells whether all are right.
    """
    plugin = auth.PLUGINS[old.flavour]
    stored: dict[str, set[str]] = {}
    for account, login in old.accounts.items():
        if login.plugin == plugin and login.auth:
            stored.setdefault(account.user, set()).add(login.auth)
    right: dict[str, list[str | None]] = {}
    logins = {}
    for account, need in want.accounts.items():
        if account.user not in right:
            right[account.user] = _right_hashes(need.password, plugin, stored.get(account.user, set()), new_salt)
        has = old.accounts.get(account)
        keep = has is not None and has.plugin == plugin and has.auth in right[account.user]
        logins[account] = Login(plugin, has.auth if keep else right[account.user][0], "ANY" if need.tls else "")
    return logins


def _right_hashes(
    password: str | None, plugin: str, stored: Iterable[str], new_salt: Callable[[], str]
) -> list[str | None]:
    """Return the stored hashes that are this password's; a new one if there is none."""
    if password is None:
        return [None]
    right: list[str | None] = [text for text in sorted(stored) if auth.verifies(password, plugin, text)]
    return right or [auth.make(password, plugin, new_salt())]


def _differs(old: State, new: State, account: Account) -> bool:
    return old.accounts.get(account) != new.accounts[account] or old.rights.get(account, {}) != new.rights.get(
        account, {}
    )


def _take(old: State, new: State, account: Account) -> list[Step]:
    """Return the steps that end an account, or change how it is let in and take rights from it."""
    if account not in old.accounts:
        return []
    if account not in new.accounts:
        return [Step(f"DROP USER {account.sql}", f"drop {account}")]
    return [*_alter(old.accounts[account], new.accounts[account], account, old.flavour), *_revoke(old, new, account)]


def _give(old: State, new: State, account: Account) -> list[Step]:
    """Return the steps that make an account and give it rights."""
    steps = []
    if account not in old.accounts:
        login = new.accounts[account]
        clauses = [_identified(login, old.flavour), _require(login), "PASSWORD EXPIRE NEVER ACCOUNT UNLOCK"]
        tls = ", only with TLS" if login.tls else ""
        steps.append(Step(f"CREATE USER {account.sql} {' '.join(clauses)}", f"create {account}{tls}"))
        steps += _revoke(old, new, account)  # rows that an account deleted by hand left behind
    before, after = old.rights.get(account, {}), new.rights.get(account, {})
    for scope in sorted(after):
        gained = after[scope] - before.get(scope, frozenset())
        if gained:
            text = _listed(gained)
            steps.append(
                Step(f"GRANT {text} ON {_on(scope)} TO {account.sql}", f"grant {text} on {scope} to {account}")
            )
    return steps


def _alter(old: Login, new: Login, account: Account, flavour: str) -> list[Step]:
    steps, clauses, words = [], [], []
    same_password = (old.plugin, old.auth) == (new.plugin, new.auth)
    if flavour == "mysql" and old.spare:
        steps.append(
            Step(f"ALTER USER {account.sql} DISCARD OLD PASSWORD", f"discard the second password of {account}")
        )
    if not same_password or old.expired or (old.spare and flavour == "mariadb"):
        clauses.append(_identified(new, flavour))
        words.append("the password")
    if old.tls != new.tls:
        clauses.append(_require(new))
        words.append("TLS required" if new.tls else "TLS optional")
    if old.expires != new.expires:
        clauses.append("PASSWORD EXPIRE NEVER")
        words.append("no expiry")
    if old.locked != new.locked:
        clauses.append("ACCOUNT UNLOCK")
        words.append("unlocked")
    if clauses:
        about = f"set {', '.join(words)} of {account}"
        steps.append(Step(f"ALTER USER {account.sql} {' '.join(clauses)}", about))
    return steps


def _identified(login: Login, flavour: str) -> str:
    if login.auth is None:
        return _UNKNOWN_PASSWORD
    if flavour == "mariadb":
        return f"IDENTIFIED VIA {login.plugin} USING {literal(login.auth)}"
    return f"IDENTIFIED WITH {login.plugin} AS 0x{login.auth.encode().hex()}"


def _require(login: Login) -> str:
    return "REQUIRE SSL" if login.tls else "REQUIRE NONE"


def _revoke(old: State, new: State, account: Account) -> list[Step]:
    before, after = old.rights.get(account, {}), new.rights.get(account, {})
    steps = []
    for scope in sorted(before):
        lost = before[scope] - after.get(scope, frozenset())
        if not lost:
            continue
        text = _listed(lost)
        if scope.kind == "role":
            name = quote_name(scope.name) + (f"@{quote_name(scope.detail)}" if scope.detail else "")
            sql, about = f"REVOKE {name} FROM {account.sql}", f"revoke {scope} from {account}"
        elif scope.kind == "proxy":
            proxied = Account(scope.name, scope.detail)
            sql, about = f"REVOKE PROXY ON {proxied.sql} FROM {account.sql}", f"revoke {scope} from {account}"
        else:
            what = text
            if scope.kind == "column":
                what = ", ".join(f"{privilege} ({quote_name(scope.detail)})" for privilege in sorted(lost))
            sql, about = f"REVOKE {what} ON {_on(scope)} FROM {account.sql}", f"revoke {text} on {scope} from {account}"
        steps.append(Step(sql, about))
    return steps


def _on(scope: Scope) -> str:
    """Return what follows ON in GRANT and REVOKE."""
    if scope.kind == "global":
        return "*.*"
    if scope.kind == "database":
        return f"{quote_name(scope.database)}.*"
    target = f"{quote_name(scope.database)}.{quote_name(scope.name)}"
    return target if scope.kind in ("table", "column") else f"{scope.kind} {target}"


def _listed(privileges: Iterable[str]) -> str:
    """Return privileges in the order people write them."""
    return ", ".join(sorted(privileges, key=lambda name: (_ORDER.index(name) if name in _ORDER else 99, name)))


# The registry: which accounts are ours, and whose sessions may be older than their rights

_REGISTRY_TABLES = {
    "managed_account": "user VARCHAR(128) NOT NULL, host VARCHAR(255) NOT NULL, PRIMARY KEY (user, host)",
    "unsettled_user": "user VARCHAR(128) NOT NULL PRIMARY KEY",
}


def _registry_steps(old: State) -> list[Step]:
    missing = [name for name in _REGISTRY_TABLES if name not in old.registry]
    if not missing:
        return []
    options = "ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin"
    return [
        Step(f"CREATE DATABASE IF NOT EXISTS {REGISTRY}", f"create the database {REGISTRY}"),
        *(
            Step(
                f"CREATE TABLE IF NOT EXISTS {REGISTRY}.{name} ({_REGISTRY_TABLES[name]}) {options}",
                f"create {REGISTRY}.{name}",
            )
            for name in missing
        ),
    ]


def _unsettled_steps(old: State, changing: frozenset[str]) -> list[Step]:
    """Return the step after which an interrupted run cannot forget sessions with old rights."""
    users = sorted(changing - old.unsettled)
    if not users:
        return []
    values = ", ".join(f"({literal(user)})" for user in users)
    return [
        Step(
            f"INSERT INTO {REGISTRY}.unsettled_user VALUES {values}",
            f"remember who changes: {', '.join(map(repr, users))}",
        )
    ]


def _register(accounts: Iterable[Account]) -> list[Step]:
    """Return the step before the first CREATE USER: no account is ours without being known as ours."""
    rows = sorted(accounts)
    if not rows:
        return []
    values = ", ".join(f"({literal(account.user)}, {literal(account.host)})" for account in rows)
    return [
        Step(
            f"INSERT INTO {REGISTRY}.managed_account VALUES {values}",
            f"register {', '.join(map(str, rows))}",
        )
    ]


def _forget(accounts: Iterable[Account]) -> list[Step]:
    rows = sorted(accounts)
    if not rows:
        return []
    values = ", ".join(f"({literal(account.user)}, {literal(account.host)})" for account in rows)
    return [
        Step(
            f"DELETE FROM {REGISTRY}.managed_account WHERE (user, host) IN ({values})",
            f"forget {', '.join(map(str, rows))}",
        )
    ]


def _clean_steps(old: State, new: State) -> list[Step]:
    """Return the steps that remove what installations once left open: rows on test..., test itself."""
    steps = []
    for account in sorted(old.rights):
        if not account.user and account not in old.accounts and old.rights[account] != new.rights.get(account, {}):
            # No statement revokes from an account that does not exist.
            patterns = ", ".join(map(literal, _TEST_PATTERNS))
            where = f"User = '' AND Host = {literal(account.host)} AND Db IN ({patterns})"
            steps += [
                Step(f"DELETE FROM mysql.db WHERE {where}", f"remove the rights on test databases of {account}"),
                Step("FLUSH PRIVILEGES", "let the server read its grant tables again"),
            ]
    if old.test_database == ():
        steps.append(Step("DROP DATABASE test", "drop the empty database test"))
    return steps


# Sessions


def sessions_to_end(plan_: Plan, sessions: Iterable[tuple[int, str, str]]) -> list[int]:
    """Return which of the (id, user, client) sessions may do what a new one could not.

    `client` is PROCESSLIST's: an address with a port, or ``localhost``. All sessions of a user whom
    an interrupted run left unsettled end; nobody knows any more what they could do.
    """
    ended = []
    verdicts: dict[tuple[str, str], bool] = {}
    for number, user, peer in sessions:
        client = client_of(peer)
        if (user, client) not in verdicts:
            verdicts[user, client] = _outlived(plan_, user, client)
        if verdicts[user, client]:
            ended.append(number)
    return ended


def client_of(peer: str) -> str:
    """Return the address in a PROCESSLIST host: ``192.0.2.7:4711``, ``2001:db8::7:4711``."""
    address, colon, port = peer.rpartition(":")
    return address.strip("[]") if colon and port.isdigit() else peer


def _outlived(plan_: Plan, user: str, client: str) -> bool:
    old, new = plan_.old, plan_.new
    if user in _SYSTEM_SESSIONS or user in PROTECTED:
        return False
    if user in old.unsettled:
        return True
    before, after = login_account(old, user, client), login_account(new, user, client)
    if before is None or before.user not in plan_.changing:
        return False
    if after is None or after.user != before.user:
        return True
    was, is_ = old.accounts[before], new.accounts[after]
    if (was.plugin, was.auth) != (is_.plugin, is_.auth) or was.spare or (is_.tls and not was.tls):
        return True
    has = effective(new, before.user, client)
    had = effective(old, before.user, client)
    for account, granted in old.rights.items():
        # Among overlapping hosts made by hand the row that counted is not certain: any that shrank.
        if account.user == before.user and matches(account.host, client):
            for scope, privileges in granted.items():
                lost = privileges - new.rights.get(account, {}).get(scope, frozenset())
                had |= {(scope, privilege) for privilege in lost}
    return bool(had - has)


# Text for people


def _render(state: State, old: State, new: State, want: Wanted) -> str:
    """Return what the plan changes as it is in `state`: a line for each account and each right."""
    lines = []
    shown = {*old.accounts, *new.accounts, *old.rights, *new.rights, *old.registered, *new.registered}
    for account in sorted(shown):
        line = _account_line(state, new, account)
        if line != _account_line(old if state is new else new, new, account):
            lines.append(line)
        rights = state.rights.get(account, {})
        others = (old if state is new else new).rights.get(account, {})
        for scope in sorted(rights):
            if rights[scope] != others.get(scope):
                lines.append(f"{account}: {_listed(rights[scope])} on {scope}")
    if lines and state is new and old.registry != new.registry:
        lines.append(f"database {REGISTRY}: remembers which accounts are managed")
    if old.test_database == () and state is old:
        lines.append("database test: empty")
    lines += [f"sessions of '{user}' with older rights" for user in sorted(state.unsettled)]
    return "".join(f"{line}\n" for line in lines if line)


def _account_line(state: State, new: State, account: Account) -> str:
    if account not in state.accounts:
        return f"{account}: in the registry, does not exist" if account in state.registered else ""
    login = state.accounts[account]
    if login.role:
        return f"{account}: role"
    words = []
    if account in new.registered:
        target = new.accounts[account]
        same = (login.plugin, login.auth) == (target.plugin, target.auth) and not login.spare
        words.append("the password of the list" if same else "another password")
    words.append({"": "TLS optional", "ANY": "TLS required"}.get(login.tls, f"TLS required ({login.tls})"))
    if login.locked:
        words.append("locked")
    if account in new.registered and login.expires:
        words.append("expires")
    if login.expired:
        words.append("expired")
    words.append("managed" if account in state.registered else "made by hand")
    return f"{account}: {', '.join(words)}"


def _findings(state: State, want: Wanted, untouchable: frozenset[str]) -> list[str]:
    """Return what the plan leaves alone and an administrator should know of."""
    people = {account.user for account in want.accounts}
    findings = []
    for account in sorted({*state.accounts, *state.rights} - set(want.accounts)):
        login = state.accounts.get(account)
        if account.user in untouchable:
            if login and not login.locked and account.host not in LOCAL_HOSTS:
                findings.append(
                    f"{account} lets an account of the server in from other machines; if that is not meant:"
                    f" DROP USER {account.sql}"
                )
            continue
        reach = _reach(state.rights.get(account, {}), want.projects)
        if login and login.role:
            if reach:
                findings.append(f"the role {account.user} was left alone: it has {'; '.join(reach)}")
            continue
        points = list(reach)
        if account.user in people and login:
            points.append(f"it is the account of {account.user} at the addresses of its host")
        if account.host in ("%", ""):
            points.append("it may come from every address")
        what = "is not in the list" if login else "does not exist, but rights of it do"
        remedy = f"DROP USER {account.sql}" if login else f"delete its rows in mysql.db for {account}"
        findings.append(
            f"{account} {what} and was left alone"
            + "".join(f"; {point}" for point in points)
            + f". Add the person to peat_people, or: {remedy}"
        )
    if state.test_database:
        findings.append(
            f"the database test is not empty and was left alone: it holds {', '.join(state.test_database[:5])}"
        )
    return findings


def _reach(rights: Mapping[Scope, frozenset[str]], projects: Iterable[str]) -> list[str]:
    """Return, in words, what rights reach projects."""
    reach = []
    for scope in sorted(rights):
        names = _listed(rights[scope]) if len(rights[scope]) <= 6 else f"{len(rights[scope])} privileges"
        if scope.kind == "global":
            reach.append(f"{names} on every database")
        elif scope.kind == "database":
            covered = [project for project in projects if _like(scope.database, project)]
            if covered and scope.database in map(grant_escaped, covered) and len(covered) == 1:
                reach.append(f"{names} on {covered[0]}")
            elif covered:
                more = f" and {len(covered) - 3} more" if len(covered) > 3 else ""
                reach.append(
                    f"{names} on `{scope.database}`, where _ and % stand for any letters, so also on"
                    f" {', '.join(covered[:3])}{more}"
                )
        elif scope.database and scope.database in projects:
            reach.append(f"{names} on {scope}")
    return reach
