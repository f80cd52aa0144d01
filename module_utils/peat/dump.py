"""A complete logical dump of one database, in a file nobody but its owner reads.

Complete means: the dump program ended well, and the compressed file, read back, holds the
definition of every table and the dump program's own last line.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from datetime import datetime


class DumpError(Exception):
    """No complete dump could be written; says why and what to do."""


def command(mariadb: bool, socket: str, database: str) -> list[str]:
    """Return the command that writes a dump of ``database`` to its standard output.

    It loads into any database, also of another name, and needs no option file.
    """
    argv = [
        "mariadb-dump" if mariadb else "mysqldump",
        "--no-defaults",
        "--user=root",
        f"--socket={socket}",
        "--single-transaction",
        "--routines",
        "--triggers",
        "--events",
        "--hex-blob",
        "--default-character-set=utf8mb4",
        "--max-allowed-packet=1G",
    ]
    # The server's transaction log positions have no meaning where one database is loaded.
    argv += [] if mariadb else ["--set-gtid-purged=OFF", "--no-tablespaces"]
    return [*argv, "--", database]


def dump_path(folder: str, database: str, now: datetime) -> str:
    """Return the file for a dump of ``database`` begun at ``now`` (UTC)."""
    return os.path.join(folder, f"{database}-{now:%Y%m%dT%H%M%SZ}.sql.gz")


def write_dump(argv: list[str], path: str, tables: Iterable[str]) -> None:
    """Run a dump command into the gzip file ``path`` (0600, its folder 0700 if made here).

    Raises DumpError, and leaves no file behind, unless the dump is complete.
    """
    folder = os.path.dirname(path)
    if os.path.exists(path):
        raise DumpError(f"{path} exists already: wait a second and run again")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        handle, partial = tempfile.mkstemp(prefix=".partial-", dir=folder)  # 0600 by itself
    except OSError as error:
        raise DumpError(f"no dump in {folder}: {error}") from error
    try:
        with os.fdopen(handle, "wb") as raw, tempfile.TemporaryFile() as errors:
            with gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6) as packed:
                process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=errors)
                with process:
                    shutil.copyfileobj(process.stdout, packed, 1 << 20)
            if process.returncode != 0:
                errors.seek(0)
                said = errors.read().decode(errors="replace").strip()
                raise DumpError(f"{argv[0]} ended with code {process.returncode}: {said}")
            raw.flush()
            os.fsync(raw.fileno())
        check_complete(partial, tables)
        os.rename(partial, path)
    except OSError as error:
        raise DumpError(f"no dump in {folder}: {error}") from error
    finally:
        if os.path.exists(partial):
            os.unlink(partial)


def check_complete(path: str, tables: Iterable[str]) -> None:
    """Raise DumpError unless a gzipped dump has each of these tables and ends as it must."""
    missing, last = set(tables), b""
    try:
        with gzip.open(path, "rb") as lines:
            for line in lines:
                if line.startswith(b"CREATE TABLE "):
                    named = re.match(rb"CREATE TABLE `((?:[^`]|``)+)`", line)
                    missing.discard(named.group(1).decode().replace("``", "`") if named else None)
                if line.strip():
                    last = line
    except (OSError, EOFError) as error:
        raise DumpError(f"the dump cannot be read back: {error}") from error
    if missing:
        raise DumpError(f"the dump lacks the tables {', '.join(sorted(missing))}")
    if not last.startswith(b"-- Dump completed"):
        raise DumpError("the dump ends too early: its last line is missing")
