"""Loads RelStorage's tables from a dump of any release into a database that nobody else can reach yet.

The tables are made here, in the layout the current server and a migration need; the dump only says which
columns it has. What packing can make again is left out.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import replace

from . import schema
from .backup import check_backup, open_dump
from .dump import DumpError
from .dumpreader import Create, DumpFormatError, Insert, read
from .migration import HELPERS
from .sql import quote_name

#: Where a server remembers what was loaded from what.
REGISTRY = "peat_server"
REGISTER = f"{REGISTRY}.loaded_dump"
#: A name no project can have, so that nobody has rights on it.
SUFFIX = "~import"
LONGEST_NAME = 64 - len(SUFFIX)

#: Tables of later releases that hold no data of the project.
_PASSED_OVER = {*HELPERS, schema.LOCK_TABLE, "commit_lock", "pack_lock"}
_RENAMED = {("transaction", "is_empty"): "empty"}
_ROOM = 4096


class LoadError(Exception):
    """The dump cannot be loaded; says why and what to do."""


def layout(creates: dict[str, Create]) -> tuple[bool, list[schema.Table]]:
    """Return history mode and the tables to make for those a dump has. Raises LoadError.

    object_state gets no state_size if the dump has none, and one that may be NULL otherwise, so that a
    migration adds, checks and corrects it.
    """
    if "object_state" not in creates or "new_oid" not in creates:
        raise LoadError(
            f"the dump has no RelStorage database: its tables are {', '.join(sorted(creates)) or 'none'}; object_state"
            " and new_oid must be among them"
        )
    keep_history = "current_object" in creates
    made = []
    for table in schema.tables("peat2", keep_history):
        create = creates.get(table.name)
        if create is None and table.name == "blob_chunk":
            continue
        if create is None and table.name not in HELPERS:
            raise LoadError(f"the dump is incomplete: it lacks the table {table.name}")
        if table.name in HELPERS:
            made.append(table)
            continue
        there, known = set(renamed(table.name, create.columns)), {c.name for c in table.columns}
        optional = {c.name for c in table.columns if c.null or c.default is not None} | {"state_size"}
        unknown, lacking = sorted(there - known), sorted(known - there - optional)
        if unknown or lacking:
            raise LoadError(
                f"table {table.name} of the dump is of no RelStorage release for"
                f" {schema.mode(keep_history)} databases: unknown columns {unknown}, missing columns {lacking}"
            )
        columns = tuple(
            replace(c, null=True) if c.name == "state_size" else c
            for c in table.columns
            if c.name != "state_size" or c.name in there
        )
        made.append(replace(table, columns=columns))
    return keep_history, made


def renamed(table: str, columns: tuple[str, ...]) -> tuple[str, ...]:
    """Return the columns under the names that the made table has."""
    return tuple(_RENAMED.get((table, column), column) for column in columns)


def portions(insert: Insert, columns: tuple[str, ...], most: int):
    """Return INSERT statements (bytes) for the rows of one of the dump, each at most `most` bytes.

    Raises LoadError for a row that alone is larger.
    """
    names = ", ".join(map(quote_name, columns))
    head = f"INSERT INTO {quote_name(insert.table)} ({names}) VALUES ".encode()
    rows: list[bytes] = []
    length = len(head)
    for begin, end in insert.rows:
        row = insert.statement[begin:end]
        if length + len(row) + 1 > most and rows:
            yield head + b",".join(rows)
            rows, length = [], len(head)
        if len(head) + len(row) > most:
            raise LoadError(
                f"a row of {insert.table} takes {len(row)} bytes in the dump, the server accepts {most}: set"
                f" max_allowed_packet to at least {len(row) + _ROOM} (mysql_settings), run site.yml, then run again"
            )
        rows.append(row)
        length += len(row) + 1
    if rows:
        yield head + b",".join(rows)


def fingerprint(path: str) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


class Loader:
    """Loads one dump into one new database over a connection of root."""

    def __init__(self, connection, staging: str, mariadb: bool, report):
        self.connection, self.cursor = connection, connection.cursor()
        self.staging, self.mariadb, self.report = staging, mariadb, report
        self.creates: dict[str, Create] = {}
        self.rows: dict[str, int] = {}
        self.columns: dict[str, tuple[str, ...]] = {}
        self.keep_history = None
        self.next_oid = 0

    def load(self, path: str, source: str | None) -> dict[str, int]:
        """Load a dump; return the rows of each table, as counted in the dump and on the server.

        source: which database of a dump of several. The dump is read twice: a table may come after
        another's rows, and which tables there are decides how all of them are made.
        """
        check_backup(path, ("object_state", "new_oid"))
        with open_dump(path) as stream:
            for item in read(stream):
                if isinstance(item, Create) and self._ours(item, source):
                    self.creates[item.table] = item
                    if item.table == "new_oid":
                        self.next_oid = (item.auto_increment or 1) - 1
        self.keep_history, tables = layout(self.creates)
        self._make(tables)
        most = self._most()
        with open_dump(path) as stream:
            for item in read(stream):
                if isinstance(item, Insert) and self._ours(item, source):
                    self._insert(item, most)
                    self.report(sum(self.rows.values()))
        self._finish()
        return dict(self.rows)

    def _ours(self, item: Create | Insert, source: str | None) -> bool:
        if item.table not in {t.name for k in (True, False) for t in schema.tables("peat2", k)} - _PASSED_OVER:
            return False
        if source is not None:
            return item.database == source
        known = next(iter(self.creates.values()), item).database
        if item.database != known:
            raise LoadError(
                f"the dump has RelStorage's tables in the databases {known} and {item.database}: name the one to load"
                " with import_source"
            )
        return True

    def _make(self, tables: list[schema.Table]) -> None:
        charset = f"CHARACTER SET {schema.CHARSET} COLLATE {schema.COLLATION}"
        self.cursor.execute(f"CREATE DATABASE {quote_name(self.staging)} {charset}")
        self.cursor.execute(f"USE {quote_name(self.staging)}")
        for table in tables:
            self.cursor.execute(table.sql(self.mariadb))
            create = self.creates.get(table.name)
            self.columns[table.name] = renamed(table.name, create.columns) if create else ()
        # The bytes of a dump are the bytes of the data. Rows come in any order, so references are checked
        # afterwards.
        self.cursor.execute("SET NAMES binary")
        self.cursor.execute("SET SESSION foreign_key_checks = 0, unique_checks = 0, autocommit = 0")
        self.cursor.execute("SET SESSION sql_mode = CONCAT(@@sql_mode, ',NO_AUTO_VALUE_ON_ZERO')")

    def _most(self) -> int:
        self.cursor.execute("SELECT @@max_allowed_packet")
        return int(self.cursor.fetchone()[0]) - _ROOM

    def _insert(self, insert: Insert, most: int) -> None:
        columns = renamed(insert.table, insert.columns) if insert.columns else self.columns[insert.table]
        for statement in portions(insert, columns, most):
            self.connection.query(statement)
        self.rows[insert.table] = self.rows.get(insert.table, 0) + len(insert.rows)
        self.connection.commit()

    def _finish(self) -> None:
        self.cursor.execute("SET SESSION autocommit = 1, foreign_key_checks = 1")
        if self.keep_history:
            self.cursor.execute(schema.FIRST_TRANSACTION)
        if self.next_oid:
            self.cursor.execute(f"INSERT IGNORE INTO new_oid (zoid) VALUES ({self.next_oid})")
        for table, expected in self.rows.items():
            self.cursor.execute(f"SELECT COUNT(*) FROM {quote_name(table)}")
            found = self.cursor.fetchone()[0]
            allowed = {expected, expected + 1} if table in ("transaction", "new_oid") else {expected}
            if found not in allowed:
                raise LoadError(f"{expected} rows of {table} are in the dump, {found} on the server")
        if self.keep_history:
            self.cursor.execute(
                "SELECT COUNT(*) FROM current_object c LEFT JOIN object_state s ON s.zoid = c.zoid AND s.tid = c.tid"
                " WHERE s.zoid IS NULL"
            )
            orphans = self.cursor.fetchone()[0]
            if orphans:
                raise LoadError(
                    f"the dump is damaged: {orphans} of its current objects have no state. Make the dump again while"
                    " nobody works, or restore an older one"
                )


@contextlib.contextmanager
def load_errors(path: str):
    """Turn what a file or its format says into a LoadError."""
    try:
        yield
    except DumpFormatError as error:
        raise LoadError(f"{path}: {error}. Nothing was opened to anybody") from error
    except DumpError as error:
        raise LoadError(f"{error}. Nothing was changed") from error
    except (OSError, EOFError) as error:
        raise LoadError(f"{path} cannot be read: {error}") from error
