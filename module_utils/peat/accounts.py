"""What the list says of accounts and rights, and the steps that make a server so.

Where a person's level on a project differs inside an IPv4 network, the network is cut into parts
that do not overlap, because servers do not order such hosts reliably (`account_state`).

Everything here is plain data in, plain data out; the caller runs the steps.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from . import auth
from .account_state import (
    GLOBAL,
    PACK_TABLES,
    PACKER,
    PUBLIC,
    READER,
    REGISTRY,
    WRITER,
    Account,
    AccountsError,
    Login,
    Rights,
    Scope,
    State,
    effective,
    login_account,
    matches,
    only_certificate,
    whole_database,
)
from .account_steps import (
    Step,
    alter,
    clean_steps,
    forget,
    give,
    listed,
    overlap_steps,
    register,
    registry_steps,
    registry_tables,
    take,
    unsettled_steps,
    verify_steps,
)
from .addresses import Network, account_host, contains
from .foreign import DROP, PROTECTED, REPORT, Reach, findings, settle
from .lab import ADMIN, CERTIFICATE, READ, REQUIRED, WRITE, Access, Lab, Person, as_the_server_sees

_SYSTEM_SESSIONS = frozenset(("system user", "event_scheduler", "unauthenticated user"))
_TEST_PATTERNS = ("test", r"test\_%", "test_%")


# What PEAT's dialog "Create DB on Server" needs: CREATE DATABASE, GRANT ALL PRIVILEGES on it, FLUSH PRIVILEGES. Who
# grants everything on a database must have everything on it. `_spelled` says these in the server's words.
_ALL = frozenset(("ALL PRIVILEGES", "GRANT OPTION"))
_FLUSH = frozenset(("FLUSH PRIVILEGES",))
# What phpMyAdmin needs to show the server's users and add some. Nobody gives what they do not have themselves.
_ADDS_USERS = frozenset(("CREATE USER", "GRANT OPTION"))
_USERS = whole_database("mysql")
# MariaDB's GRANT with REQUIRE, which phpMyAdmin says for every new user, asks for more than CREATE USER, which there
# includes to change every account. On MySQL it would be a way around what protects root's.
_USERS_RIGHTS = {"mariadb": READER | {"UPDATE"}, "mysql": READER}


@dataclass(frozen=True)
class Need:
    """How the list wants one account: `password` is None where none is generated yet.

    `tls` and `connections` are what a Login has, and `locked` accounts only hold rights.
    Without a password the account keeps the one that `password_hash` is of, if that is given.
    """

    password: str | None = field(repr=False)
    tls: str = ""
    password_hash: str | None = field(default=None, repr=False)
    connections: int = 0
    locked: bool = False


@dataclass(frozen=True)
class Wanted:
    """What the list says: accounts, their rights, and the projects' database names.

    Who makes databases with PEAT's dialog grants rights on databases of the `prefix` to `doors`.
    `administrators` also have _USERS_RIGHTS.
    """

    accounts: dict[Account, Need]
    rights: Rights
    projects: tuple[str, ...]
    prefix: str = ""
    doors: frozenset[Account] = frozenset()
    administrators: frozenset[Account] = frozenset()


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


def wanted(
    lab: Lab,
    passwords: Mapping[str, str | None],
    connections: int = 0,
    certificates: Mapping[str, Mapping[str, str]] | None = None,
    console: str = "127.0.0.1",
) -> Wanted:
    """Return the accounts and rights that make every address what the matrix says of it.

    `connections` is how many sessions an account of a person may have whose entry does not say it,
    `certificates` has subject and issuer of the certificates of people with ``tls: certificate``,
    `console` is the address from which phpMyAdmin connects.
    Raise AccountsError for a person whose name is an account of the server itself.
    """
    accounts: dict[Account, Need] = {}
    rights: Rights = {}
    entries: dict[tuple[str, str], list[Access]] = {}
    for access in as_the_server_sees(lab):
        entries.setdefault((access.person, access.project), []).append(access)
    needs: dict[str, Need] = {}
    for (name, project_name), rows in entries.items():
        if name in PROTECTED or not name:
            raise AccountsError(f"the person {name!r} has the name of an account of the server: rename the person")
        person, project = lab.people[name], lab.projects[project_name]
        if name not in needs:
            needs[name] = _need(person, passwords, connections, certificates or {})
        for row in rows:
            for network in _parts(row, rows):
                account = Account(name, account_host(network))
                accounts[account] = needs[name]
                granted = rights.setdefault(account, {})
                granted[whole_database(project_name)] = READER if row.level == READ else WRITER[project.clients]
                on_tables = PACKER if row.level == WRITE else READER
                if row.level == WRITE or _inside_a_writer(row, rows):
                    for table in PACK_TABLES[project.keep_history]:
                        granted[Scope("table", project_name, table)] = on_tables
    administrators = frozenset(Account(name, console) for name in lab.administrators)
    for account in administrators:
        accounts[account] = Need(passwords.get(account.user), connections=connections)
        rights[account] = _administrators_rights(lab)
    if lab.admin is None:
        return Wanted(accounts, rights, tuple(lab.projects), administrators=administrators)
    for network in lab.admin.networks:
        account = Account(ADMIN, account_host(network))
        accounts[account] = Need(passwords.get(ADMIN), connections=connections)
        rights[account] = {Scope("database", f"{lab.admin.prefix}%"): _ALL, GLOBAL: _FLUSH}
    # The dialog grants to accounts for every address, and no server lets it make them: these exist beforehand.
    doors = {Account(name, "%"): person for name, person in lab.people.items()}
    for account, person in doors.items():
        accounts.setdefault(account, replace(_need(person, passwords, connections, certificates or {}), locked=True))
    return Wanted(accounts, rights, tuple(lab.projects), lab.admin.prefix, frozenset(doors), administrators)


def _administrators_rights(lab: Lab) -> dict[Scope, frozenset[str]]:
    """Return what an administrator needs to add users, with what a person can have on a project, and to see all."""
    rights = {GLOBAL: _ADDS_USERS}
    for project in lab.projects.values():
        if project.state == "absent":
            continue
        frozen = project.state == "frozen"
        rights[whole_database(project.name)] = READER if frozen else WRITER[project.clients]
        for table in () if frozen else PACK_TABLES[project.keep_history]:
            rights[Scope("table", project.name, table)] = PACKER
    return rights


def _need(
    person: Person,
    passwords: Mapping[str, str | None],
    connections: int,
    certificates: Mapping[str, Mapping[str, str]],
) -> Need:
    limit = connections if person.connections is None else person.connections
    return Need(passwords.get(person.name), _demand(person, certificates), person.password_hash, limit)


def _demand(person: Person, certificates: Mapping[str, Mapping[str, str]]) -> str:
    """Return what a person's accounts demand of a connection."""
    if person.tls == CERTIFICATE:
        if person.name not in certificates:
            raise AccountsError(f"the person {person.name!r} has tls: certificate, but no certificate is known")
        names = certificates[person.name]
        # An empty one demands nothing, and a server may store an empty one for letters that it does not know.
        if not all(
            names[kind] and names[kind].isascii() and names[kind].isprintable() for kind in ("subject", "issuer")
        ):
            raise AccountsError(f"the certificate of {person.name!r} has names that no account can demand: {names}")
        return only_certificate(**names)
    return "ANY" if person.tls == REQUIRED else ""


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
    unmanaged: str = REPORT,
) -> Plan:
    """Return the steps that make the server what is wanted.

    Accounts of the names in `protected` (more than PROTECTED) are left alone; what becomes of others
    that neither the list nor the registry knows, `unmanaged` says (`foreign.settle`). Rights are
    taken before rights are given; wide rows are taken first and narrow ones given first, so that no
    address ever has a level it has neither in the old nor in the new list.
    """
    untouchable = PROTECTED | frozenset(protected)
    if {account.user for account in want.accounts} & untouchable:
        name = next(account.user for account in want.accounts if account.user in untouchable)
        raise AccountsError(f"the person {name!r} has the name of a protected account: rename the person")
    new = _target(old, want, untouchable, new_salt, unmanaged)
    gone = [account for account in old.accounts if account not in new.accounts]
    changed = [account for account in new.accounts if _differs(old, new, account)]
    adopted = new.registered - old.registered
    forgotten = old.registered - new.registered
    existing = old.by_user.keys() if gone or changed else ()
    changing = frozenset(account.user for account in (*gone, *changed) if account.user in existing)
    cleaning = clean_steps(old, new)
    ended = old.overlapping.keys() - new.overlapping.keys()
    verified = verify_steps(old, new)
    steps = [
        *register(adopted),
        *cleaning,
        *take(old, new, [*gone, *changed]),
        *alter(old, new, changed),
        *give(old, new, changed),
        *forget(forgotten),
        *overlap_steps(ended),
        *verified,
    ]
    last_steps: list[Step] = []
    unsettled = old.unsettled | changing
    if steps or unsettled:
        steps = [*registry_steps(old), *unsettled_steps(old, changing), *steps]
    if unsettled:
        last_steps = [Step(f"DELETE FROM {REGISTRY}.unsettled_user", "remember that their sessions are ended")]
    shown = sorted({*gone, *changed, *adopted, *forgotten, *_differing_orphans(old, new)})
    return Plan(
        tuple(steps),
        tuple(last_steps),
        _render(old, old, new, shown),
        _render(new, old, new, shown),
        tuple(findings(new, want.accounts, want.projects, untouchable, unmanaged)),
        tuple(sorted({account.user for account in changed if new.accounts[account].auth is None})),
        old,
        new,
        changing,
    )


def _target(
    old: State, want: Wanted, untouchable: frozenset[str], new_salt: Callable[[], str], unmanaged: str
) -> State:
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
    settle(old, accounts, rights, want.accounts, want.projects, untouchable, unmanaged)
    logins, verified = _logins(old, want, new_salt)
    accounts.update(logins)
    for account in want.accounts:
        rights.pop(account, None)
    rights.update(want.rights)
    for account in want.administrators:
        rights[account] = {**want.rights[account], _USERS: _USERS_RIGHTS[old.flavour]}
    if want.prefix:
        rights.update({account: _spelled(granted, old) for account, granted in rights.items() if account.user == ADMIN})
        if unmanaged != DROP:
            rights.update(_granted_by_dialog(old, want))
    two = {account.user for account, login in accounts.items() if login.spare}
    return replace(
        old,
        accounts=accounts,
        rights=rights,
        registry=old.registry | registry_tables(old.flavour),
        registered=frozenset(want.accounts),
        unsettled=frozenset(),
        overlapping={user: since for user, since in old.overlapping.items() if user in two},
        test_database=old.test_database or None,
        verified=verified,
    )


def _spelled(granted: Mapping[Scope, frozenset[str]], old: State) -> dict[Scope, frozenset[str]]:
    """Return rights with the names that the server has for them."""
    everything = old.everything | {"GRANT OPTION"} if old.everything else _ALL
    flush = frozenset(("FLUSH_PRIVILEGES",))  # MySQL has it apart; elsewhere it is part of a wider right
    flush = flush if flush <= old.rights.get(old.own, {}).get(GLOBAL, frozenset()) else frozenset(("RELOAD",))
    return {
        scope: everything if names == _ALL else flush if names == _FLUSH else names for scope, names in granted.items()
    }


def _granted_by_dialog(old: State, want: Wanted) -> Rights:
    """Return the doors' rights with what the dialog granted, but for what reaches a project of the list."""
    reach = Reach(old, want.projects)
    rights: Rights = {}
    for account in want.doors & old.rights.keys():
        kept = {
            scope: names
            for scope, names in old.rights[account].items()
            if scope.kind == "database" and scope.database.startswith(want.prefix) and not reach.projects(scope)
        }
        if kept:
            rights[account] = {**kept, **want.rights.get(account, {})}
    return rights


def _differing_orphans(old: State, new: State) -> list[Account]:
    """Return the accounts that do not exist and whose rights change."""
    without = old.rights.keys() - old.accounts.keys()
    return [account for account in without if old.rights[account] != new.rights.get(account, {})]


def _is_test(scope: Scope) -> bool:
    return scope.kind == "database" and scope.database in _TEST_PATTERNS


def _logins(
    old: State, want: Wanted, new_salt: Callable[[], str]
) -> tuple[dict[Account, Login], frozenset[tuple[str, str]]]:
    """Return how each wanted account is let in, and which passwords are then known to be right.

    A hash that is right is kept, and an overlap beside it. New accounts of a person share one hash,
    so that one computation tells whether all are right.
    """
    plugin = auth.PLUGINS[old.flavour]
    stored: dict[str, set[str]] = {}
    for account, login in old.accounts.items():
        if login.plugin == plugin and login.auth:
            stored.setdefault(account.user, set()).add(login.auth)
    right: dict[str, list[str | None]] = {}
    logins: dict[Account, Login] = {}
    verified = set()
    for account, need in want.accounts.items():
        user = account.user
        if user not in right:
            right[user] = _right_hashes(user, need, plugin, stored.get(user, ()), new_salt, old.verified)
        has = old.accounts.get(account)
        keep = has is not None and has.plugin == plugin and has.auth in right[user]
        text = has.auth if keep else right[user][0]
        spare = keep and has.spare and user in old.overlapping
        logins[account] = Login(plugin, text, need.tls, locked=need.locked, spare=spare, connections=need.connections)
        if digest := _digest(need, plugin, text):
            verified.add((user, digest))
    return logins, frozenset(verified)


def _digest(need: Need, plugin: str, stored: str | None) -> str | None:
    """Return what is remembered of a password compared with a hash that is slow to make; None for nothing."""
    if plugin != auth.MYSQL_PLUGIN or need.password_hash:
        return None
    if need.password is None or stored is None:
        return "not generated yet"
    return auth.digest(need.password, stored)


def _right_hashes(
    user: str,
    need: Need,
    plugin: str,
    stored: Iterable[str],
    new_salt: Callable[[], str],
    verified: Collection[tuple[str, str]],
) -> list[str | None]:
    """Return the stored hashes that are this password's; a new one if there is none."""
    if need.password is not None:
        right: list[str | None] = [
            text
            for text in sorted(stored)
            if (user, _digest(need, plugin, text)) in verified or auth.verifies(need.password, plugin, text)
        ]
        return right or [auth.make(need.password, plugin, new_salt())]
    if need.password_hash is None:
        return [None]
    kept = auth.unwritten(need.password_hash, plugin)
    if kept is None:
        raise AccountsError(
            f"the password_hash of {user!r} is not of {plugin}, with which this server lets people in: give the"
            " person a password instead"
        )
    return [kept]


def _differs(old: State, new: State, account: Account) -> bool:
    return old.accounts.get(account) != new.accounts[account] or old.rights.get(account, {}) != new.rights.get(
        account, {}
    )


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
    if (was.plugin, was.auth) != (is_.plugin, is_.auth) or (was.spare and not is_.spare) or _stricter(was, is_):
        return True
    if is_.locked and not was.locked:
        return True
    has = effective(new, before.user, client)
    had = effective(old, before.user, client)
    for account in old.by_user[before.user]:
        # Among overlapping hosts made by hand the row that counted is not certain: any that shrank.
        if matches(account.host, client):
            for scope, privileges in old.rights.get(account, {}).items():
                lost = privileges - new.rights.get(account, {}).get(scope, frozenset())
                had |= {(scope, privilege) for privilege in lost}
    return bool(had - has)


def _stricter(was: Login, is_: Login) -> bool:
    """Whether a connection that was good enough for an account may not be any more."""
    return is_.tls not in ("", was.tls) and not (is_.tls == "ANY" and was.tls)


# Text for people


def _render(state: State, old: State, new: State, shown: Iterable[Account]) -> str:
    """Return what the plan changes as it is in `state`: a line for each account and each right."""
    lines = []
    for account in shown:
        line = _account_line(state, new, account)
        if line != _account_line(old if state is new else new, new, account):
            lines.append(line)
        rights = state.rights.get(account, {})
        others = (old if state is new else new).rights.get(account, {})
        for scope in sorted(rights):
            if rights[scope] != others.get(scope):
                lines.append(f"{account}: {listed(rights[scope])} on {scope}")
    if state is new and (added := {user for user, _ in new.verified - old.verified}):
        lines.append(f"database {REGISTRY}: passwords compared of {', '.join(map(repr, sorted(added)))}")
    if lines and state is new and old.registry != new.registry:
        lines.append(f"database {REGISTRY}: remembers which accounts are managed")
    if old.test_database == () and state is old:
        lines.append("database test: empty")
    lines += [f"sessions of '{user}' with older rights" for user in sorted(state.unsettled)]
    if state is old:
        lines += [
            f"'{user}': an old password beside the new"
            for user in sorted(old.overlapping)
            if user not in new.overlapping
        ]
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
        same = (login.plugin, login.auth, login.spare) == (target.plugin, target.auth, target.spare)
        words.append("the password of the list" if same else "another password")
    words.append({"": "TLS optional", "ANY": "TLS required"}.get(login.tls, f"TLS required ({login.tls})"))
    if login.connections:
        words.append(f"at most {login.connections} connections")
    if login.throttled:
        words.append("other limits")
    if login.locked:
        words.append("locked")
    if account in new.registered and login.expires:
        words.append("expires")
    if login.expired:
        words.append("expired")
    words.append("managed" if account in state.registered else "made by hand")
    return f"{account}: {', '.join(words)}"
