"""What the list says of accounts and rights, and the steps that make a server so.

Where a person's level on a project differs inside an IPv4 network, the network is cut into parts
that do not overlap, because servers do not order such hosts reliably (`account_state`).

Everything here is plain data in, plain data out; the caller runs the steps.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from . import auth
from .account_state import (
    PUBLIC,
    REGISTRY,
    Account,
    AccountsError,
    Login,
    Rights,
    Scope,
    State,
    effective,
    like,
    login_account,
    matches,
    narrowness,
    whole_database,
)
from .addresses import Network, account_host, contains
from .lab import READ, WRITE, Access, Lab
from .sql import grant_escaped, literal, quote_name

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
_TEST_PATTERNS = ("test", r"test\_%", "test_%")


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
    takes, alters, gives = [], [], []
    for account in sorted({*gone, *changed}, key=lambda account: (narrowness(account), account)):
        takes += _take(old, new, account)
        alters += _alter(old, new, account)
    for account in sorted(changed, key=lambda account: (-narrowness(account), account)):
        gives += _give(old, new, account)
    adopted = new.registered - old.registered
    forgotten = old.registered - new.registered
    existing = {account.user for account in old.accounts}
    changing = frozenset(account.user for account in (*gone, *changed) if account.user in existing)
    cleaning = _clean_steps(old, new)
    unsettled = old.unsettled | changing
    steps: list[Step] = []
    last_steps: list[Step] = []
    if takes or alters or gives or cleaning or adopted or forgotten or unsettled:
        steps = [
            *_registry_steps(old),
            *_unsettled_steps(old, changing),
            *_register(adopted),
            *cleaning,
            *takes,
            *alters,
            *gives,
            *_forget(forgotten),
        ]
        if unsettled:
            last_steps = [Step(f"DELETE FROM {REGISTRY}.unsettled_user", "remember that their sessions are ended")]
    return Plan(
        tuple(steps),
        tuple(last_steps),
        _render(old, old, new),
        _render(new, old, new),
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
        if account in rights and account not in want.accounts and account.user in ("", PUBLIC):
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
    """Return the steps that end an account or take rights from it."""
    if account not in old.accounts:
        return []
    if account not in new.accounts:
        return [Step(f"DROP USER {account.sql}", f"drop {account}")]
    return _revoke(old, new, account)


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


def _alter(old: State, new: State, account: Account) -> list[Step]:
    """Return the steps that change how an account is let in, which may be more easily than before."""
    if account not in old.accounts or account not in new.accounts:
        return []
    was, is_, flavour = old.accounts[account], new.accounts[account], old.flavour
    steps, clauses, words = [], [], []
    same_password = (was.plugin, was.auth) == (is_.plugin, is_.auth)
    if flavour == "mysql" and was.spare:
        steps.append(
            Step(f"ALTER USER {account.sql} DISCARD OLD PASSWORD", f"discard the second password of {account}")
        )
    if not same_password or was.expired or (was.spare and flavour == "mariadb"):
        clauses.append(_identified(is_, flavour))
        words.append("the password")
    if was.tls != is_.tls:
        clauses.append(_require(is_))
        words.append("TLS required" if is_.tls else "TLS optional")
    if was.expires != is_.expires:
        clauses.append("PASSWORD EXPIRE NEVER")
        words.append("no expiry")
    if was.locked != is_.locked:
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
    return _in_registry(accounts, f"INSERT INTO {REGISTRY}.managed_account VALUES {{rows}}", "register")


def _forget(accounts: Iterable[Account]) -> list[Step]:
    return _in_registry(accounts, f"DELETE FROM {REGISTRY}.managed_account WHERE (user, host) IN ({{rows}})", "forget")


def _in_registry(accounts: Iterable[Account], statement: str, verb: str) -> list[Step]:
    """Return the one step that does something to the rows of all these accounts; none without any."""
    named = sorted(accounts)
    if not named:
        return []
    rows = ", ".join(f"({literal(account.user)}, {literal(account.host)})" for account in named)
    return [Step(statement.replace("{rows}", rows), f"{verb} {', '.join(map(str, named))}")]


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


def _render(state: State, old: State, new: State) -> str:
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
            points.append(f"its password and rights count for {account.user} at the addresses of its host")
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
            covered = [project for project in projects if like(scope.database, project)]
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
