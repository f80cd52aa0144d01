"""Whether a dump may stand for a database before somebody changes the database."""

from __future__ import annotations

import bz2
import glob
import gzip
import lzma
import os
import re
from collections.abc import Iterable
from typing import BinaryIO

from .dump import DumpError

#: How a complete dump ends, with comments and without, of mysqldump and mariadb-dump, and of phpMyAdmin.
_ENDS = (
    b"-- Dump completed",
    b"/*!40111 SET SQL_NOTES=@OLD_SQL_NOTES",
    b"/*M!100616 SET NOTE_VERBOSITY=@OLD_NOTE_VERBOSITY",
    b"/*!40101 SET COLLATION_CONNECTION=@OLD_COLLATION_CONNECTION",
)
_OPENERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}


def open_dump(path: str) -> BinaryIO:
    """Open a dump for reading, packed with gzip, bzip2 or xz or not at all. Raises OSError."""
    with open(path, "rb") as raw:
        head = raw.read(6)
    for magic, opener in _OPENERS.items():
        if head.startswith(magic):
            return opener(path, "rb")
    return open(path, "rb")


def check_backup(path: str, tables: Iterable[str], newest_tid: int | None = None) -> None:
    """Raise DumpError unless a dump is complete and holds the newest transaction.

    What a file holds is looked at, not its date: dates change when a file is copied. RelStorage numbers
    transactions upwards, so a dump with the newest number has all of them.
    """
    missing, last = set(tables), b""
    # A transaction id is a number of 18 or 19 digits that stands by itself.
    number = re.compile(rb"(?<!\d)%d(?!\d)" % newest_tid) if newest_tid else None
    try:
        with open_dump(path) as lines:
            for line in lines:
                if missing and line.startswith(b"CREATE TABLE "):
                    named = re.match(rb"CREATE TABLE (?:IF NOT EXISTS )?`?(\w+)`?", line)
                    missing.discard(named.group(1).decode() if named else None)
                if number and number.search(line):
                    number = None
                if not line.isspace():
                    last = line
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise DumpError(f"{path} cannot be read: {error}") from error
    if missing:
        raise DumpError(f"{path} lacks the tables {', '.join(sorted(missing))}")
    if not last.startswith(_ENDS):
        raise DumpError(f"{path} ends too early: its last line is not the last one of a complete dump")
    if number:
        raise DumpError(f"{path} is older than the database: it lacks the newest transaction, {newest_tid}")


def newest_backup(folder: str, database: str) -> str | None:
    """Return the newest dump of a database in a folder, by the time in its name (see `dump.dump_path`)."""
    stamp = "[0-9]" * 8 + "T" + "[0-9]" * 6 + "Z"
    found = glob.glob(os.path.join(glob.escape(folder), f"{glob.escape(database)}-{stamp}.sql.gz"))
    return max(found, default=None)
