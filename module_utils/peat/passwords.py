"""Generated passwords: one file per person beside the inventory, read and written on the controller.

A rotation puts the new passwords into a directory `.rotation` beside the old ones, where they count
from then on. When every server has them, that directory is renamed to `.rotated`, and from there the
files replace the old ones. So a run that was stopped anywhere has either all or nothing left to do
on the servers, and which of the two is seen by the name.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import string
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from .lab import PASSWORD_LENGTH

# Nothing here needs quoting in PEAT's dialog, ZConfig, shells or YAML, is split by a double click, or
# is taken for another letter by who types it from paper: 24 give 139 bits. With a letter of each kind a
# password is as strong as the policies of the servers can ask.
_KINDS = (
    "".join(letter for letter in string.ascii_lowercase if letter != "l"),
    "".join(letter for letter in string.ascii_uppercase if letter not in "IO"),
    "23456789",
    "_",
)
_LENGTH = 24

ROTATION = ".rotation"  # new passwords, on the way to the servers
ROTATED = ".rotated"  # new passwords that every server has, on the way to where they stay
EVERYBODY = "all"

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600


class PasswordError(Exception):
    """A password file cannot be used; the text names the file and says what to do."""


def generate() -> str:
    """Return a new password: 24 letters, inside which there is one of each kind."""
    while True:
        password = "".join(secrets.choice("".join(_KINDS)) for _ in range(_LENGTH))
        if all(set(kind) & set(password) for kind in _KINDS) and "_" not in password[0] + password[-1]:
            return password


def file_of(directory: str, person: str) -> str:
    """Return the path of a person's password file; raise PasswordError for a name with a path in it."""
    if not person or person.startswith(".") or os.path.basename(person) != person:
        raise PasswordError(f"the person {person!r} cannot have a password file: use a name that is no path")
    return os.path.join(directory, person)


def read(directory: str, person: str) -> str | None:
    """Return the generated password of a person, the new one in a rotation; None if there is no file yet.

    Raise PasswordError for a file that is unreadable or holds no password.
    """
    file_of(directory, person)
    # In this order: a file only ever moves on from one to the next.
    for place in (ROTATION, ROTATED, ""):
        password = _read(os.path.join(directory, place, person), person)
        if password is not None:
            return password
    return None


def _read(path: str, person: str) -> str | None:
    try:
        with open(path, encoding="ascii") as file:
            password = file.read().rstrip("\n")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not ASCII text"
        raise PasswordError(
            f"the password of {person!r} cannot be read from {path} ({reason}): "
            "make the file readable, or remove it and a password is generated"
        ) from None
    if len(password) < PASSWORD_LENGTH or not password.isprintable() or password != password.strip():
        raise PasswordError(
            f"{path} must hold one line with a password of at least {PASSWORD_LENGTH} characters: "
            "correct it, or remove the file and a password is generated"
        )
    return password


def resolve(people: Iterable[Mapping[str, Any]], directory: str) -> dict[str, str | None]:
    """Return everybody's password, given or generated; None where it is not generated yet."""
    return {
        person["name"]: person["password"] if person.get("password") is not None else read(directory, person["name"])
        for person in people
    }


def create(directory: str, person: str) -> bool:
    """Store a new password for a person; return False if somebody else stored one meanwhile.

    The file appears complete or not at all and never replaces one: several servers of one lab are
    set up at the same time and share the directory.
    """
    descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=".new-")  # mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(generate() + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, file_of(directory, person))
    except FileExistsError:
        return False
    finally:
        os.unlink(temporary)
    return True


# Rotation


def chosen(wanted: Sequence[str], people: Iterable[Mapping[str, Any]], directory: str, finish: bool) -> list[str]:
    """Return whose passwords are meant by names, or by ``all``: everybody whose password can be generated.

    Raise PasswordError if that says nobody or somebody unknown, or leaves out a person whose new
    password an interrupted run did not bring to every server. With `finish` nothing is generated, and
    ``all`` is everybody.
    """
    known = {person["name"]: person.get("password") is not None for person in people}
    wanted = [name for name in wanted if name]
    if not wanted:
        raise PasswordError(
            "nobody's password was changed: say whose, with -e peat_rotate=NAME, -e peat_rotate=NAME,NAME"
            f" or -e peat_rotate={EVERYBODY}"
        )
    unknown = [name for name in wanted if name not in known and name != EVERYBODY]
    if unknown:
        raise PasswordError(
            f"peat_rotate names {', '.join(unknown)}, but no entry of peat_people does: nobody's password was changed."
            f" Known are {', '.join(list(known)[:20])}{', ...' if len(known) > 20 else ''}"
        )
    names = [name for name in known if name in wanted or (EVERYBODY in wanted and (finish or not known[name]))]
    left = [name for name in pending(directory) if name in known and name not in names]
    if left and not finish:
        raise PasswordError(
            f"not every server has the new passwords of an earlier run yet: rotate {', '.join(left)} with the others"
            f" (-e peat_rotate={','.join([*left, *names])}). Nobody's password was changed"
        )
    return names


def pending(directory: str) -> list[str]:
    """Return who has a new password that not every server has yet."""
    return _names(os.path.join(directory, ROTATION))


def begin(directory: str, people: Collection[str]) -> list[str]:
    """Generate new passwords beside the old ones; return whose. Who has one already keeps it."""
    if not people:
        return []
    place = os.path.join(directory, ROTATION)
    os.makedirs(directory, mode=DIRECTORY_MODE, exist_ok=True)
    os.makedirs(place, mode=DIRECTORY_MODE, exist_ok=True)
    made = [name for name in people if create(place, name)]
    _sync(place)
    _sync(directory)
    return made


def end(directory: str) -> None:
    """Let the new passwords, which every server has, replace the old ones."""
    with contextlib.suppress(FileNotFoundError):
        os.rename(os.path.join(directory, ROTATION), os.path.join(directory, ROTATED))
    settle(directory)


def is_ending(directory: str) -> bool:
    """Tell whether every server has the new passwords, but an interrupted run left files where they do not stay."""
    return os.path.isdir(os.path.join(directory, ROTATED))


def settle(directory: str) -> None:
    """Do what an interrupted `end` left. Several may do so at the same time."""
    if not is_ending(directory):
        return
    place = os.path.join(directory, ROTATED)
    _sync(directory)
    for name in _names(place):
        with contextlib.suppress(FileNotFoundError):
            os.replace(os.path.join(place, name), os.path.join(directory, name))
    _sync(directory)
    shutil.rmtree(place, ignore_errors=True)


def _names(place: str) -> list[str]:
    """Return the names of the password files in a directory, without those half made."""
    try:
        return sorted(name for name in os.listdir(place) if not name.startswith("."))
    except FileNotFoundError:
        return []


def _sync(directory: str) -> None:
    """Wait until the names in a directory would outlive a power failure."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_open(path: str, mode: int) -> bool:
    """Tell whether an existing file or directory permits anything that `mode` does not."""
    try:
        return bool(stat.S_IMODE(os.stat(path).st_mode) & ~mode)
    except FileNotFoundError:
        return False


def opened(directory: str, people: Iterable[str]) -> list[str]:
    """Return the directories and password files that permit others than their owner anything."""
    places = [os.path.join(directory, place).rstrip("/") for place in ("", ROTATION, ROTATED)]
    found = [place for place in places if is_open(place, DIRECTORY_MODE)]
    files = [file_of(place, name) for place in places for name in people]
    return found + [path for path in files if is_open(path, FILE_MODE)]
