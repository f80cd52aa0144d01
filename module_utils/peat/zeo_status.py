"""What a ZEO server holds: its version, and the size and last commit of every storage.

Reads files only, and of those that hold data no more than the end: a report costs a busy server nothing.
"""

from __future__ import annotations

import os
import re
import struct
import time
from collections.abc import Mapping
from typing import Any

from . import zeo
from .status import time_of

#: How a transaction begins in a Data.fs: its tid, its length, its status, the lengths of user, description, extension.
_HEADER = struct.Struct(">8sQcHHH")
_MAGIC = 4
_DISTRIBUTION = re.compile(r"zeo-([0-9][0-9.]*?)(-py[0-9.]+)?\.(dist-info|egg-info|egg)", re.IGNORECASE)


def version(environment: str = zeo.ENVIRONMENT) -> str:
    """Return the version of ZEO in an environment; empty if there is none."""
    for folder, _folders, _files in os.walk(f"{environment}/lib/"):
        if os.path.basename(folder) == "site-packages":
            for name in sorted(os.listdir(folder)):
                if found := _DISTRIBUTION.fullmatch(name):
                    return found[1]
    return ""


def read(storages: Mapping[str, str], running: bool, environment: str = zeo.ENVIRONMENT) -> dict[str, Any]:
    """Return what there is of these storages, a Data.fs by name, in the form of status.read.

    A storage without a file is left out. Objects are not counted: only the server could.
    """
    number = version(environment)
    return {
        "software": f"ZEO {number}" if number else "ZEO, not installed yet",
        "announced": None,
        "running": running,
        "databases": {name: _storage(path) for name, path in storages.items() if os.path.exists(path)},
    }


def _storage(path: str) -> dict[str, Any]:
    data = os.path.getsize(path)
    return {
        "disk": data + _size_of(os.path.join(os.path.dirname(path), "blobs")),
        "objects": None,
        "data": {"value": data, "exact": True},
        "commit": _last_commit(path),
    }


def _size_of(folder: str) -> int:
    total = 0
    for where, _folders, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(where, name)).st_size
            except FileNotFoundError:
                continue  # packed meanwhile
    return total


def _last_commit(path: str) -> dict[str, Any] | None:
    """Return when the newest transaction was, and whose.

    Where the file ends in a transaction that is being written, its time is the file's.
    """
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size <= _MAGIC:
            return None
        # A transaction's length stands at its beginning and once more after its end.
        file.seek(-8, os.SEEK_END)
        (length,) = struct.unpack(">Q", file.read(8))
        begins = size - 8 - length
        if begins >= _MAGIC and length >= _HEADER.size:
            file.seek(begins)
            tid, again, status, user_length, _description, _extension = _HEADER.unpack(file.read(_HEADER.size))
            if again == length and status in b" p":
                number = int.from_bytes(tid, "big")
                try:
                    when = time_of(number).strftime("%Y-%m-%d %H:%M")
                except (ValueError, OverflowError):
                    when = None
                # ZODB writes a user as "path name", PEAT's path being empty or a slash.
                return {
                    "tid": number,
                    "time": when,
                    "user": file.read(user_length).decode(errors="replace").strip("/ "),
                }
    when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(os.path.getmtime(path)))
    return {"tid": None, "time": when, "user": ""}
