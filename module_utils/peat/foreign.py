"""What is on a server and not in the list: what becomes of it, and what to tell an administrator.

Plain data in, plain data out. An account is foreign if neither the list nor the registry knows it.
Accounts of the server itself and of its services (`guarded`) are never touched.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from .account_state import (
    GLOBAL,
    PACKER,
    PUBLIC,
    READER,
    WRITER,
    Account,
    Login,
    Rights,
    Scope,
    State,
    like,
)
from .account_steps import listed
from .sql import grant_escaped, printable

REPORT, LOCK, DROP = MODES = ("report", "lock", "drop")

PROTECTED = frozenset(
    ("root", "mysql", "mysql.sys", "mysql.session", "mysql.infoschema", "mariadb.sys", "debian-sys-maint")
)
LOCAL_HOSTS = frozenset(("localhost", "127.0.0.1", "::1"))

# The names that manuals and packages give to accounts of replication, backups and monitoring, and the rights
# such accounts have where they have no others: who locks or drops one of them stops a service unseen.
_SERVICE_NAMES = frozenset(
    (
        *("repl", "replica", "replicant", "replication", "replicator", "slave", "sst", "sstuser", "maxscale"),
        *("backup", "bkpuser", "mariabackup", "mariadb-backup", "mariadb_backup", "mysqlbackup", "xtrabackup"),
        *("exporter", "monitor", "monitoring", "mysqld_exporter", "nagios", "netdata", "pmm", "prometheus"),
        *("telegraf", "zabbix", "zbx_monitor", "phpmyadmin"),
    )
)
_SERVICE_RIGHTS = frozenset(
    (
        *("REPLICATION SLAVE", "REPLICATION CLIENT", "BINLOG MONITOR", "SLAVE MONITOR", "REPLICA MONITOR"),
        *("PROCESS", "RELOAD", "LOCK TABLES", "BACKUP_ADMIN", "SHOW DATABASES", "CONNECTION ADMIN"),
    )
)
_WILDCARD = re.compile(r"(?<!\\)[_%]")
_SYSTEM_SCHEMAS = frozenset(("performance_schema", "sys"))
_CLIENTS_NEED = frozenset().union(READER, *WRITER.values())


def guarded(
    state: State, account: Account, untouchable: Collection[str], people: Collection[str] = frozenset()
) -> bool:
    """Whether an account is the server's, a service's, or the one that all this is done with."""
    return account.user in untouchable or account == state.own or _is_service(state, account, people)


def _fixed(state: State, account: Account) -> bool:
    """Whether the server can drop an account, but neither lock it nor revoke its rights.

    MySQL answers ALTER USER, GRANT and REVOKE with error 1133 if the host has a backslash (measured, 9.7.4).
    """
    return state.flavour == "mysql" and "\\" in account.host


def _is_service(state: State, account: Account, people: Collection[str]) -> bool:
    """Whether an account looks like a service's. One of a listed person's name opens what the list gives: it is not."""
    if account.user in people:
        return False
    if account.user in _SERVICE_NAMES:
        return True
    rights = state.rights.get(account, {})
    elsewhere = any(scope != GLOBAL and scope.database not in _SYSTEM_SCHEMAS for scope in rights)
    return not elsewhere and GLOBAL in rights and rights[GLOBAL] <= _SERVICE_RIGHTS


def settle(
    old: State,
    accounts: dict[Account, Login],
    rights: Rights,
    wanted: Collection[Account],
    projects: Iterable[str],
    untouchable: Collection[str],
    mode: str,
) -> None:
    """Make of the foreign in `accounts` and `rights` what the mode says.

    LOCK locks accounts and leaves their rights, so that it can be undone; it takes only rights that
    count for people of the list: those of accounts of their names, and PUBLIC's. DROP drops
    accounts, roles and rights; an account with whose rights a view or routine runs is locked.
    """
    if mode == REPORT:
        return
    people = {account.user for account in wanted}
    reaches = Reach(old, projects)
    foreign = [
        account
        for account in {**accounts, **rights}
        if account not in wanted and not guarded(old, account, untouchable, people)
    ]
    roles = []
    for account in foreign:
        login = accounts.get(account)
        public = account.user == PUBLIC
        if login is None and not public:
            if mode == DROP or account.user in people:
                del rights[account]
        elif login and login.role and not public:
            roles.append(account)
        elif mode == DROP and not public and account not in old.definers:
            del accounts[account]
            rights.pop(account, None)
        elif not _fixed(old, account):
            if login and not public:
                accounts[account] = replace(login, locked=True)
            if account in rights and (public or account.user in people):
                rights[account] = {
                    scope: names for scope, names in rights[account].items() if not reaches.projects(scope)
                }
                if not rights[account]:
                    del rights[account]
    if mode == DROP:
        # Who makes a role on MariaDB is in it; the server's own accounts need none.
        needed = {
            (scope.name, scope.detail)
            for account, granted in rights.items()
            for scope in granted
            if scope.kind == "role" and account.user not in PROTECTED
        }
        for account in roles:
            if tuple(account) not in needed:
                del accounts[account]
                rights.pop(account, None)


def findings(
    state: State,
    wanted: Collection[Account],
    projects: Collection[str],
    untouchable: frozenset[str],
    mode: str = REPORT,
) -> list[str]:
    """Return what a plan whose outcome is `state` leaves and an administrator should know of."""
    people = {account.user for account in wanted}
    reaches = Reach(state, projects)
    found = []
    for account in sorted({*state.accounts, *state.rights} - set(wanted)):
        login = state.accounts.get(account)
        if account.user in untouchable or account == state.own:
            if account.user in PROTECTED and login and not login.locked and account.host not in LOCAL_HOSTS:
                found.append(
                    f"{account} lets an account of the server in from other machines; if that is not meant:"
                    f" DROP USER {account.sql}"
                )
            continue
        reach = reaches.words(account)
        if login and login.role:
            if reach:
                found.append(f"the role {account.user} was left alone: it has {'; '.join(reach)}")
            continue
        points = list(reach)
        if account.user in people and login:
            points.append(f"its password and rights count for {account.user} at the addresses of its host")
        if account.host in ("%", ""):
            points.append("it may come from every address")
        if _is_service(state, account, people):
            what = "looks like the account of a replication, backup or monitoring service and was left alone"
            remedy = "Name it in peat_protected_accounts if it is"
        elif login is None:
            what = "does not exist, but rights of it do, and was left alone"
            remedy = "Add the person to peat_people"
        elif mode != REPORT and _fixed(state, account):
            what = "is not in the list and was left alone, because MySQL locks no account with a backslash in its host"
            remedy = "Add the person to peat_people"
        elif mode == DROP and account in state.definers:
            what = "is not in the list and was locked, not dropped: views or routines run with its rights"
            remedy = "Make these anew under another DEFINER"
        else:
            what = "is not in the list and " + ("is locked" if login.locked else "was left alone")
            remedy = "Add the person to peat_people"
        ending = f"DROP USER {account.sql}" if login else f"delete its rows in mysql.db for {account}"
        found.append(f"{account} {what}" + "".join(f"; {point}" for point in points) + f". {remedy}, or: {ending}")
    if state.overlapping:
        found.append(
            f"the old password is valid too, beside the new one, of {', '.join(sorted(state.overlapping))}"
            f" (since {min(state.overlapping.values())}): once the new one is in use, run"
            " playbooks/rotate-passwords.yml with -e peat_rotate_mode=finish -e peat_rotate=all"
        )
    if state.test_database:
        found.append(
            f"the database test is not empty and was left alone: it holds {', '.join(state.test_database[:5])}"
        )
    return list(map(printable, found))


class Reach:
    """What rights reach of the projects."""

    def __init__(self, state: State, projects: Iterable[str]) -> None:
        self.state = state
        self.names = dict.fromkeys(projects)
        self.escaped = {grant_escaped(name): name for name in self.names}
        self.covered = functools.lru_cache(maxsize=None)(self._covered)

    def _covered(self, pattern: str) -> list[str]:
        if pattern in self.escaped:
            return [self.escaped[pattern]]
        if not _WILDCARD.search(pattern):
            return []
        return [name for name in self.names if like(pattern, name)]

    def projects(self, scope: Scope) -> bool:
        """Whether a right on it is one on a project; one on every database is not meant."""
        if scope.kind == "database":
            return bool(self.covered(scope.database))
        return scope.database in self.names

    def words(self, account: Account, through: tuple[Account, ...] = ()) -> list[str]:
        """Return, in words, what an account's rights, its roles' included, reach."""
        rights: Mapping[Scope, frozenset[str]] = self.state.rights.get(account, {})
        reach = []
        for scope in sorted(rights):
            names = listed(rights[scope]) if len(rights[scope]) <= 6 else f"{len(rights[scope])} privileges"
            if scope.kind == "global":
                reach.append(f"{names} on every database")
            elif scope.kind == "proxy":
                reach.append(f"it may act as {Account(scope.name, scope.detail)}")
            elif scope.kind == "role":
                role = Account(scope.name, scope.detail)
                if role not in through:
                    inherited = self.words(role, (*through, role))
                    reach += [f"{text} through the role {role.user}" for text in inherited]
            elif scope.kind == "database" and self.covered(scope.database):
                covered = self.covered(scope.database)
                more_than_needed = rights[scope] - _CLIENTS_NEED
                reach.append(
                    f"{names} on {self._database(scope.database, covered)}"
                    + (", more than any client needs" if more_than_needed else "")
                )
            elif scope.database in self.names:
                more_than_needed = scope.kind != "table" or rights[scope] - _CLIENTS_NEED - PACKER
                reach.append(f"{names} on {scope}" + (", which no client needs" if more_than_needed else ""))
        return reach

    @staticmethod
    def _database(pattern: str, covered: list[str]) -> str:
        if len(covered) == 1 and pattern == grant_escaped(covered[0]):
            return covered[0]
        more = f" and {len(covered) - 3} more" if len(covered) > 3 else ""
        return f"`{pattern}`, where _ and % stand for any letters, so also on {', '.join(covered[:3])}{more}"
