"""The statements that take, change and give accounts and rights, each with what it does in words.

Plain data in, plain data out; `accounts.plan` puts them in order.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .account_state import PUBLIC, REGISTRY, Account, Login, Scope, State, narrowness
from .sql import literal, printable, quote_name

_ORDER = ("SELECT", "INSERT", "UPDATE", "DELETE", "CREATE TEMPORARY TABLES", "EXECUTE")
# What ends the limits that a Login calls `throttled`: of WITH, and after it.
_UNTHROTTLED = {
    "mariadb": ("MAX_STATEMENT_TIME 0", ""),
    "mysql": ("", "FAILED_LOGIN_ATTEMPTS 0 PASSWORD_LOCK_TIME 0"),
}
_UNKNOWN_PASSWORD = "<a password that is not generated yet>"  # no SQL: a statement with it cannot run


@dataclass(frozen=True)
class Step:
    """One statement and, without secrets, what it does."""

    sql: str = field(repr=False)
    about: str


def take(old: State, new: State, accounts: Iterable[Account]) -> list[Step]:
    """Return the steps that end accounts or take rights from them, wide hosts first."""
    steps = []
    for group in _by_narrowness(accounts, wide_first=True):
        steps += _drop(account for account in group if account in old.accounts and account not in new.accounts)
        steps += _revoke(
            old, new, [account for account in group if account in old.accounts and account in new.accounts]
        )
    return steps


def alter(old: State, new: State, accounts: Iterable[Account]) -> list[Step]:
    """Return the steps that change how accounts are let in, which may be more easily than before."""
    steps = []
    for group in _by_narrowness(accounts, wide_first=True):
        alike: dict[tuple[str, str], dict[Account, str]] = {}
        for account in group:
            if account not in old.accounts or account not in new.accounts:
                continue
            was, is_ = old.accounts[account], new.accounts[account]
            if was.spare and not is_.spare and old.flavour == "mysql":
                about = f"discard the second password of {account}"
                steps.append(Step(f"ALTER USER {account.sql} DISCARD OLD PASSWORD", about))
            identified, clauses, words = _changes(was, is_, old.flavour)
            if words:
                alike.setdefault((" ".join(clauses), ", ".join(words)), {})[account] = identified
        for (clauses, words), members in sorted(alike.items()):
            for some in _some(members):
                texts = ", ".join(f"{account.sql}{members[account]}" for account in some)
                about = f"set {words} of {_names(some)}"
                steps.append(Step(f"ALTER USER {texts} {clauses}".rstrip(), about))
    return steps


def give(old: State, new: State, accounts: Iterable[Account]) -> list[Step]:
    """Return the steps that make accounts and give them rights, narrow hosts first."""
    steps = []
    for group in _by_narrowness(accounts, wide_first=False):
        made = [account for account in group if account not in old.accounts]
        steps += _create(new, made)
        steps += _revoke(old, new, made)  # rows that an account deleted by hand left behind
        steps += _grant(old, new, group)
    return steps


def _drop(accounts: Iterable[Account]) -> list[Step]:
    named = sorted(accounts)
    roles = [account for account in named if not account.host]
    people = [account for account in named if account.host]
    return [
        *(
            Step(f"DROP ROLE {quote_name(account.user)}", printable(f"drop the role {account.user}"))
            for account in roles
        ),
        *(Step(f"DROP USER {_listed_sql(some)}", f"drop {_names(some)}") for some in _some(people)),
    ]


def _create(new: State, accounts: Iterable[Account]) -> list[Step]:
    """Return the steps that make accounts, none of which ever is without its password and its rules."""
    alike: dict[tuple[str, str], list[Account]] = {}
    for account in sorted(accounts):
        login = new.accounts[account]
        lock = "LOCK" if login.locked else "UNLOCK"
        clauses = [_require(login), _limit(login), f"PASSWORD EXPIRE NEVER ACCOUNT {lock}"]
        words = [
            {"": "", "ANY": ", only with TLS"}.get(login.tls, ", only with the person's certificate"),
            ", locked" if login.locked else "",
        ]
        alike.setdefault((" ".join(filter(None, clauses)), "".join(words)), []).append(account)
    steps = []
    for (clauses, words), members in alike.items():
        for some in _some(members):
            texts = ", ".join(f"{account.sql} {_identified(new.accounts[account], new.flavour)}" for account in some)
            steps.append(Step(f"CREATE USER {texts} {clauses}", f"create {_names(some)}{words}"))
    return steps


def _changes(was: Login, is_: Login, flavour: str) -> tuple[str, list[str], list[str]]:
    """Return what ALTER USER says to change one login into another: of the account, of all, and in words."""
    identified, clauses, words = "", [], []
    same_password = (was.plugin, was.auth) == (is_.plugin, is_.auth)
    if not same_password or was.expired != is_.expired or (flavour == "mariadb" and was.spare and not is_.spare):
        identified = f" {_identified(is_, flavour)}"
        words.append("the password")
    if was.tls != is_.tls:
        clauses.append(_require(is_))
        words.append({"": "TLS optional", "ANY": "TLS required"}.get(is_.tls, "the person's certificate required"))
    resources, locking = [], ""
    if was.connections != is_.connections:
        resources.append(f"MAX_USER_CONNECTIONS {is_.connections:d}")
        words.append(f"at most {is_.connections} connections" if is_.connections else "any number of connections")
    if was.throttled and not is_.throttled:
        more, locking = _UNTHROTTLED[flavour]
        resources += ["MAX_QUERIES_PER_HOUR 0 MAX_UPDATES_PER_HOUR 0 MAX_CONNECTIONS_PER_HOUR 0", more]
        words.append("no other limits")
    clauses += [f"WITH {' '.join(filter(None, resources))}"] * bool(resources) + [locking] * bool(locking)
    if was.expires != is_.expires:
        clauses.append("PASSWORD EXPIRE NEVER")
        words.append("no expiry")
    if was.locked != is_.locked:
        clauses.append("ACCOUNT LOCK" if is_.locked else "ACCOUNT UNLOCK")
        words.append("locked" if is_.locked else "unlocked")
    return identified, clauses, words


def _identified(login: Login, flavour: str) -> str:
    if login.auth is None:
        return _UNKNOWN_PASSWORD
    if flavour == "mariadb":
        return f"IDENTIFIED VIA {login.plugin} USING {literal(login.auth)}"
    return f"IDENTIFIED WITH {login.plugin} AS 0x{login.auth.encode().hex()}"


def _require(login: Login) -> str:
    demand = {"": "NONE", "ANY": "SSL"}.get(login.tls, login.tls)
    return f"REQUIRE {demand}"


def _limit(login: Login) -> str:
    return f"WITH MAX_USER_CONNECTIONS {login.connections:d}" if login.connections else ""


def _revoke(old: State, new: State, accounts: Iterable[Account]) -> list[Step]:
    """Return the steps that take rights; one for all accounts that lose the same."""
    losing: dict[tuple[Scope, str], list[Account]] = {}
    bridges: dict[tuple[Scope, str], list[Account]] = {}
    for account in sorted(accounts):
        before, after = old.rights.get(account, {}), new.rights.get(account, {})
        for scope in before:
            lost = before[scope] - after.get(scope, frozenset())
            if lost:
                losing.setdefault((scope, listed(lost)), []).append(account)
            if bridge := _bridge(before, after, scope):
                bridges.setdefault((scope, bridge), []).append(account)
    steps = _grants(bridges)
    for (scope, text), members in sorted(losing.items()):
        what = text
        if scope.kind == "role":
            what = quote_name(scope.name) + (f"@{quote_name(scope.detail)}" if scope.detail else "")
        elif scope.kind == "proxy":
            what = f"PROXY ON {Account(scope.name, scope.detail).sql}"
        elif scope.kind == "column":
            what = ", ".join(f"{privilege} ({quote_name(scope.detail)})" for privilege in text.split(", "))
        where = "" if scope.kind in ("role", "proxy") else f" ON {_on(scope)}"
        about = str(scope) if scope.kind in ("role", "proxy") else f"{text} on {scope}"
        for some in _some(members):
            steps.append(Step(f"REVOKE {what}{where} FROM {_listed_sql(some)}", f"revoke {about} from {_names(some)}"))
    return steps


def _bridge(before: Mapping[Scope, frozenset[str]], after: Mapping[Scope, frozenset[str]], scope: Scope) -> str:
    """Return a right to give before another is taken, where a row made by hand shares none with the list's.

    Without any right the row would be gone for a moment, and with it what it hides: a wider row.
    """
    wanted = after.get(scope)
    return "" if not wanted or wanted & before.get(scope, wanted) else listed(wanted).split(", ")[0]


def _grant(old: State, new: State, accounts: Iterable[Account]) -> list[Step]:
    """Return the steps that give rights; one for all accounts that gain the same."""
    gaining: dict[tuple[Scope, str], list[Account]] = {}
    for account in sorted(accounts):
        before, after = old.rights.get(account, {}), new.rights.get(account, {})
        for scope, privileges in after.items():
            gained = privileges - before.get(scope, frozenset()) - {_bridge(before, after, scope)}
            if gained:
                gaining.setdefault((scope, listed(gained)), []).append(account)
    return _grants(gaining)


def _grants(gaining: Mapping[tuple[Scope, str], list[Account]]) -> list[Step]:
    return [
        Step(f"GRANT {text} ON {_on(scope)} TO {_listed_sql(some)}", f"grant {text} on {scope} to {_names(some)}")
        for (scope, text), members in sorted(gaining.items())
        for some in _some(members)
    ]


def _by_narrowness(accounts: Iterable[Account], wide_first: bool) -> list[list[Account]]:
    """Return the accounts in groups within which no host lies in another one's."""
    groups: dict[int, list[Account]] = {}
    for account in accounts:
        groups.setdefault(narrowness(account), []).append(account)
    return [sorted(groups[number]) for number in sorted(groups, reverse=not wide_first)]


def _some(accounts: Iterable[Account], number: int = 50) -> list[list[Account]]:
    """Return the accounts in lots for one statement each; PUBLIC stands alone."""
    listed_ = list(accounts)
    public = [[account] for account in listed_ if account.user == PUBLIC]
    others = [account for account in listed_ if account.user != PUBLIC]
    return public + [others[start : start + number] for start in range(0, len(others), number)]


def _listed_sql(accounts: Iterable[Account]) -> str:
    return ", ".join(account.sql for account in accounts)


def _names(accounts: Iterable[Account]) -> str:
    return ", ".join(map(str, accounts))


def _on(scope: Scope) -> str:
    """Return what follows ON in GRANT and REVOKE."""
    if scope.kind == "global":
        return "*.*"
    if scope.kind == "database":
        return f"{quote_name(scope.database)}.*"
    target = f"{quote_name(scope.database)}.{quote_name(scope.name)}"
    return target if scope.kind in ("table", "column") else f"{scope.kind} {target}"


@functools.lru_cache(maxsize=10_000)
def listed(privileges: frozenset[str]) -> str:
    """Return privileges in the order people write them."""
    return ", ".join(sorted(privileges, key=lambda name: (_ORDER.index(name) if name in _ORDER else 99, name)))


# The registry: which accounts are ours, and whose sessions may be older than their rights

_REGISTRY_TABLES = {
    "managed_account": "user VARCHAR(128) NOT NULL, host VARCHAR(255) NOT NULL, PRIMARY KEY (user, host)",
    "unsettled_user": "user VARCHAR(128) NOT NULL PRIMARY KEY",
    "verified_password": "user VARCHAR(128) NOT NULL, digest CHAR(64) NOT NULL, PRIMARY KEY (user, digest)",
}


def registry_tables(flavour: str) -> frozenset[str]:
    """Return the tables of the registry that a server has."""
    return frozenset(_REGISTRY_TABLES) - ({"verified_password"} if flavour == "mariadb" else set())


def registry_steps(old: State) -> list[Step]:
    missing = sorted(registry_tables(old.flavour) - old.registry)
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


def unsettled_steps(old: State, changing: frozenset[str]) -> list[Step]:
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


def register(accounts: Iterable[Account]) -> list[Step]:
    """Return the step before the first CREATE USER: no account is ours without being known as ours."""
    return _in_registry(
        "INSERT INTO {table} VALUES {rows}", "managed_account", accounts, f"register {_names(sorted(accounts))}"
    )


def forget(accounts: Iterable[Account]) -> list[Step]:
    statement = "DELETE FROM {table} WHERE (user, host) IN ({rows})"
    return _in_registry(statement, "managed_account", accounts, f"forget {_names(sorted(accounts))}")


def verify_steps(old: State, new: State) -> list[Step]:
    """Return the steps that remember which passwords were compared."""
    added, removed = new.verified - old.verified, old.verified - new.verified
    remove = "DELETE FROM {table} WHERE (user, digest) IN ({rows})"
    about = "that passwords are compared of"
    return [
        *_in_registry(remove, "verified_password", removed, f"forget {about} {_users(removed)}"),
        *_in_registry(
            "INSERT INTO {table} VALUES {rows}", "verified_password", added, f"remember {about} {_users(added)}"
        ),
    ]


def _users(pairs: Iterable[tuple[str, str]]) -> str:
    return ", ".join(sorted({repr(user) for user, _ in pairs}))


def _in_registry(statement: str, table: str, pairs: Iterable[tuple[str, str]], about: str) -> list[Step]:
    """Return the one step that does something to all these rows of a table; none without any."""
    rows = ", ".join(f"({literal(one)}, {literal(two)})" for one, two in sorted(pairs))
    if not rows:
        return []
    return [Step(statement.format(table=f"{REGISTRY}.{table}", rows=rows), about)]


def overlap_steps(users: Iterable[str]) -> list[Step]:
    """Return the step that forgets overlaps of which no second password is left."""
    named = sorted(users)
    if not named:
        return []
    listed = ", ".join(map(literal, named))
    about = f"forget that two passwords were valid of {', '.join(map(repr, named))}"
    return [Step(f"DELETE FROM {REGISTRY}.password_overlap WHERE user IN ({listed})", about)]


def clean_steps(old: State, new: State) -> list[Step]:
    """Return the steps that remove rights without an account, and an empty database test."""
    steps = []
    for account in sorted(old.rights.keys() - old.accounts.keys() - new.accounts.keys()):
        # No statement revokes from an account that does not exist.
        gone = old.rights[account].keys() - new.rights.get(account, {}).keys()
        of_account = f"User = {literal(account.user)} AND Host = {literal(account.host)}"
        for scope in sorted(gone):
            where = f"{of_account} AND Db = {literal(scope.database)}"
            about = f"remove {listed(old.rights[account][scope])} on {scope} of {account}, which does not exist"
            if scope.kind == "database":
                steps.append(Step(f"DELETE FROM mysql.db WHERE {where}", about))
            elif scope.kind in ("table", "column"):
                where += f" AND Table_name = {literal(scope.name)}"
                steps += [
                    Step(f"DELETE FROM mysql.{table} WHERE {where}", about) for table in ("columns_priv", "tables_priv")
                ]
            elif scope.kind not in ("global", "role", "proxy"):
                where += f" AND Routine_name = {literal(scope.name)} AND Routine_type = {literal(scope.kind)}"
                steps.append(Step(f"DELETE FROM mysql.procs_priv WHERE {where}", about))
    if steps:
        steps.append(Step("FLUSH PRIVILEGES", "let the server read its grant tables again"))
    if old.test_database == ():
        steps.append(Step("DROP DATABASE test", "drop the empty database test"))
    return steps
