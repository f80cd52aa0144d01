"""Generated passwords: one file per person beside the inventory, read and written on the controller."""

from __future__ import annotations

import os
import secrets
import stat
import string
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any

from .lab import PASSWORD_LENGTH

# Letters and digits need no quoting in PEAT's dialog, ZConfig, shells or YAML: 24 give 142 bits.
_ALPHABET = string.ascii_letters + string.digits
_LENGTH = 24

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600


class PasswordError(Exception):
    """A password file cannot be used; the text names the file and says what to do."""


def generate() -> str:
    """Return a new password."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))


def file_of(directory: str, person: str) -> str:
    """Return the path of a person's password file; raise PasswordError for a name with a path in it."""
    if not person or person.startswith(".") or os.path.basename(person) != person:
        raise PasswordError(f"the person {person!r} cannot have a password file: use a name that is no path")
    return os.path.join(directory, person)


def read(directory: str, person: str) -> str | None:
    """Return the generated password of a person, None if there is no file yet.

    Raise PasswordError for a file that is unreadable or holds no password.
    """
    path = file_of(directory, person)
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


def is_open(path: str, mode: int) -> bool:
    """Tell whether an existing file or directory permits anything that `mode` does not."""
    try:
        return bool(stat.S_IMODE(os.stat(path).st_mode) & ~mode)
    except FileNotFoundError:
        return False
