"""New passwords on one server: the statements that set them, and let the old ones count beside them for a while.

Both flavours hold two passwords of one account. MySQL has a clause for it; MariaDB lets several
plugins authenticate, and mysql_native_password may be two of them (measured on MariaDB 10.11.18 with
PEAT's Python 2.7 client, PyMySQL and mysqlclient: each of the two lets in). All accounts of a person
change in one statement, so that no address ever wants another password than the others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from . import auth
from .account_state import REGISTRY, Account, Login, State
from .account_steps import Step, verify_steps
from .sql import literal

OVERLAP_TABLE = f"{REGISTRY}.password_overlap"
_CREATE_TABLE = (
    f"CREATE TABLE IF NOT EXISTS {OVERLAP_TABLE} (user VARCHAR(128) NOT NULL PRIMARY KEY, since DATE NOT NULL)"
    " ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin"
)
FINISH = "playbooks/rotate-passwords.yml -e peat_rotate_mode=finish -e peat_rotate="


class RotationError(Exception):
    """Passwords cannot be changed; the text says whose, why, and what to do. Nothing was changed."""


@dataclass(frozen=True)
class Plan:
    """Steps in order, and what they change as text. The sessions of `ending` end before `last_steps`."""

    steps: tuple[Step, ...]
    last_steps: tuple[Step, ...]
    ending: frozenset[str]
    before: str
    after: str


def rotate(
    state: State,
    passwords: Mapping[str, str | None],
    given: Collection[str] = (),
    overlap: bool = True,
    new_salt: Callable[[], str] = auth.new_salt,
) -> Plan:
    """Return the steps that set these people's passwords (None: not generated yet, to predict).

    With `overlap` the old password remains valid and sessions go on; without it neither does. `given`
    are people whose password the inventory gives. Raise RotationError for those of whom the server has
    it already, and where a third password would be needed because an earlier overlap goes on.
    """
    plugin = auth.PLUGINS[state.flavour]
    steps: list[Step] = []
    before, after, unfinished, unchanged, ending, verified = [], [], [], [], set(), set(state.verified)
    for person, accounts in _accounts(state, passwords).items():
        password = passwords[person]
        logins = {account: state.accounts[account] for account in accounts}
        hashes = _right_hashes(password, plugin, logins.values(), new_salt)
        wrong = {
            account: login
            for account, login in logins.items()
            if (login.plugin, login.auth) not in _pairs(plugin, hashes)
        }
        spare = {account: login for account, login in logins.items() if login.spare}
        if overlap and person in state.overlapping and wrong.keys() & spare.keys():
            unfinished.append(person)
        if person in given and not wrong and not spare and person not in state.overlapping:
            unchanged.append(person)
        new = Login(plugin, hashes[0])
        if wrong and password is not None and "verified_password" in state.registry:
            # What the next run of site.yml would otherwise find out and remember.
            verified -= {pair for pair in verified if pair[0] == person}
            verified |= {(person, digest) for text in hashes if (digest := auth.digest(password, text))}
        if overlap and wrong:
            steps += _overlapping(state.flavour, person, wrong, new)
            after.append(f"{person}: a new password, valid beside the old one")
        elif not overlap and (wrong or spare or person in state.unsettled):
            ending.add(person)
            steps += _replacing(state.flavour, person, wrong, spare, new)
            after.append(f"{person}: a new password alone, older sessions ended")
        if len(after) > len(before):
            before.append(f"{person}: {len(accounts)} accounts{' with two passwords' if spare else ''}")
    _refuse(unfinished, unchanged)
    steps += verify_steps(state, replace(state, verified=frozenset(verified)))
    first, last = _unsettled(ending, state)
    if ending & state.overlapping.keys():
        last.append(_forget(ending & state.overlapping.keys()))
    if any(OVERLAP_TABLE in step.sql for step in steps) and "password_overlap" not in state.registry:
        first.insert(0, Step(_CREATE_TABLE, f"create {OVERLAP_TABLE}"))
    return Plan((*first, *steps), tuple(last), frozenset(ending), _text(before), _text(after))


def finish(state: State, passwords: Mapping[str, str | None]) -> Plan:
    """Return the steps after which only these passwords are valid.

    Raise RotationError where that is not the one the server would keep: then nobody could log in.
    """
    plugin = auth.PLUGINS[state.flavour]
    steps, before, after, unknown, finished = [], [], [], [], set()
    for person, accounts in _accounts(state, passwords).items():
        spare = {account: state.accounts[account] for account in accounts if state.accounts[account].spare}
        hashes = {login.auth for login in spare.values()}
        password = passwords[person]
        if spare and (password is None or not all(auth.verifies(password, plugin, text or "") for text in hashes)):
            unknown.append(person)
        if spare:
            steps.append(_discard(state.flavour, person, spare))
        if spare or person in state.overlapping:
            finished.add(person)
            before.append(f"{person}: two passwords")
            after.append(f"{person}: one password")
    if unknown:
        raise RotationError(
            f"the newer password that the server has of {', '.join(unknown)} is not the one of this inventory: run"
            " site.yml first, or nobody would know the password that remains. Nothing was changed"
        )
    if finished & state.overlapping.keys():
        steps.append(_forget(finished & state.overlapping.keys()))
    return Plan(tuple(steps), (), frozenset(), _text(before), _text(after))


def _accounts(state: State, people: Iterable[str]) -> dict[str, list[Account]]:
    """Return the accounts that are ours by person, for people who have some."""
    found: dict[str, list[Account]] = {person: [] for person in people}
    for account in sorted(state.registered):
        if account.user in found and account in state.accounts:
            found[account.user].append(account)
    return {person: accounts for person, accounts in found.items() if accounts}


def _right_hashes(
    password: str | None, plugin: str, logins: Iterable[Login], new_salt: Callable[[], str]
) -> list[str | None]:
    """Return the stored hashes that are this password's; a new one if there is none."""
    if password is None:
        return [None]
    stored = {login.auth for login in logins if login.plugin == plugin and login.auth}
    return [text for text in sorted(stored) if auth.verifies(password, plugin, text)] or [
        auth.make(password, plugin, new_salt())
    ]


def _pairs(plugin: str, hashes: Iterable[str | None]) -> set[tuple[str, str | None]]:
    return {(plugin, text) for text in hashes if text is not None}


def _overlapping(flavour: str, person: str, accounts: Mapping[Account, Login], new: Login) -> list[Step]:
    """Return the steps that put a new password before the old one. It is known first that they will be two."""
    parts = []
    for account, login in accounts.items():
        # An empty password, or another plugin's, is none to keep.
        keep = login.plugin == new.plugin and login.auth
        if flavour == "mysql":
            parts.append(f"{account.sql} {_identified(flavour, new)}{' RETAIN CURRENT PASSWORD' if keep else ''}")
        else:
            old = f" OR {login.plugin} USING {literal(login.auth)}" if keep else ""
            parts.append(f"{account.sql} {_identified(flavour, new)}{old}")
    return [
        Step(
            f"REPLACE INTO {OVERLAP_TABLE} VALUES ({literal(person)}, UTC_DATE())",
            f"remember that {person!r} has two passwords",
        ),
        Step(f"ALTER USER {', '.join(parts)}", f"set a new password of {person!r} beside the old one"),
    ]


def _replacing(
    flavour: str, person: str, wrong: Mapping[Account, Login], spare: Mapping[Account, Login], new: Login
) -> list[Step]:
    """Return the steps that leave one password, the new one."""
    steps = []
    changing = {**wrong, **spare}
    if flavour == "mysql":
        changing = dict(wrong)
        if spare:
            steps.append(_discard(flavour, person, spare))
    if changing:
        parts = [f"{account.sql} {_identified(flavour, new)}" for account in sorted(changing)]
        steps.append(Step(f"ALTER USER {', '.join(parts)}", f"set a new password of {person!r}"))
    return steps


def _discard(flavour: str, person: str, accounts: Mapping[Account, Login]) -> Step:
    if flavour == "mysql":
        parts = [f"{account.sql} DISCARD OLD PASSWORD" for account in accounts]
    else:
        parts = [f"{account.sql} {_identified(flavour, login)}" for account, login in accounts.items()]
    return Step(f"ALTER USER {', '.join(parts)}", f"discard the old password of {person!r}")


def _identified(flavour: str, login: Login) -> str:
    if login.auth is None:
        return "<a password that is not generated yet>"  # no SQL: a statement with it cannot run
    if flavour == "mariadb":
        return f"IDENTIFIED VIA {login.plugin} USING {literal(login.auth)}"
    return f"IDENTIFIED WITH {login.plugin} AS 0x{login.auth.encode().hex()}"


def _unsettled(people: Collection[str], state: State) -> tuple[list[Step], list[Step]]:
    """Return the steps around changes after which sessions end, so that no interrupted run forgets them."""
    if not people:
        return [], []
    listed = sorted(people)
    names = ", ".join(map(literal, listed))
    rows = ", ".join(f"({literal(person)})" for person in listed if person not in state.unsettled)
    table = f"{REGISTRY}.unsettled_user"
    first = [Step(f"INSERT INTO {table} VALUES {rows}", f"remember whose sessions end: {names}")] if rows else []
    return first, [Step(f"DELETE FROM {table} WHERE user IN ({names})", "remember that their sessions are ended")]


def _forget(people: Iterable[str]) -> Step:
    names = ", ".join(map(literal, sorted(people)))
    return Step(f"DELETE FROM {OVERLAP_TABLE} WHERE user IN ({names})", f"remember that one password is left: {names}")


def _refuse(unfinished: Collection[str], unchanged: Collection[str]) -> None:
    if unfinished:
        raise RotationError(
            f"the last rotation of {', '.join(unfinished)} is not finished, and an account holds two passwords at most:"
            f" first run {FINISH}{','.join(unfinished)}, or say -e peat_rotate_mode=leaked and every older password"
            " stops at once. Nothing was changed"
        )
    if unchanged:
        raise RotationError(
            f"the inventory itself gives the password of {', '.join(unchanged)}, and the server has that one already:"
            " change the variable (ansible-vault edit), then run this again. Nothing was changed"
        )


def _text(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
