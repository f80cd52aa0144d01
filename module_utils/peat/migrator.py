"""Carries out what `migration` decided, on the local server, so that it can be interrupted anywhere.

One connection holds the commit locks of RelStorage from before the backup to after the verification, so
no client can commit or pack in between; readers go on. A second one watches while ALTER TABLE runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone

from . import migration, schema
from .backup import check_backup, newest_backup
from .dump import DumpError, command, dump_path, write_dump
from .migration import Facts, Ledger, Measured, MigrationError, Portion, Progress, Session
from .sql import connect, quote_name

_LOCK_TIMEOUT = 1205
_NOT_THIS_WAY = (1845, 1846)
_NO_SUCH_THREAD = 1094
_LOST = (2006, 2013)

#: Tried in this order; the last leaves the way to the server.
_WAYS = {
    "alter": (", ALGORITHM=INSTANT", ", ALGORITHM=INPLACE, LOCK=NONE", ""),
    "rebuild": (", ALGORITHM=INPLACE, LOCK=NONE", ""),
}


# Reading


def _rows(cursor, sql: str, *parameters) -> list[tuple]:
    """Return all rows of a query, text decoded."""
    cursor.execute(sql, parameters)
    return [tuple(v.decode() if isinstance(v, bytes) else v for v in row) for row in cursor.fetchall()]


def read_database(cursor, name: str) -> schema.Database | None:
    """Return one database without the keys of its tables, or None if there is none of that name."""
    if not _rows(cursor, "SELECT 1 FROM information_schema.schemata WHERE schema_name = %s", name):
        return None
    columns: dict[str, list] = {}
    for table, column, kind, null, default, extra, charset in _rows(
        cursor,
        "SELECT table_name, column_name, column_type, is_nullable, column_default, extra, character_set_name"
        " FROM information_schema.columns WHERE table_schema = %s ORDER BY table_name, ordinal_position",
        name,
    ):
        columns.setdefault(table, []).append(
            schema.Column(
                column,
                schema.normal_type(kind),
                null == "YES",
                schema.normal_default(default),
                "auto_increment" in extra.lower(),
                charset,
            )
        )
    tables = {
        table: schema.FoundTable(engine, tuple(columns.get(table, ())))
        for table, engine in _rows(
            cursor,
            "SELECT table_name, engine FROM information_schema.tables"
            " WHERE table_schema = %s AND table_type = 'BASE TABLE'",
            name,
        )
    }
    views = _rows(
        cursor, "SELECT table_name, security_type FROM information_schema.views WHERE table_schema = %s", name
    )
    procedures = _rows(
        cursor,
        "SELECT routine_name, routine_comment, character_set_client, collation_connection, security_type"
        " FROM information_schema.routines WHERE routine_schema = %s",
        name,
    )
    lock_rows = (
        _rows(cursor, f"SELECT tid FROM {quote_name(name)}.{quote_name(schema.LOCK_TABLE)} ORDER BY tid")
        if schema.LOCK_TABLE in tables
        else []
    )
    return schema.Database(
        tables=tables,
        views=dict(views),
        procedures={row[0]: schema.Procedure(*row[1:]) for row in procedures},
        lock_rows=tuple(row[0] for row in lock_rows),
    )


def read_sessions(cursor, name: str, own: Iterable[int] = (), anywhere: bool = False) -> tuple[Session, ...]:
    """Return the connections of others that use a database, those inside a transaction first.

    anywhere: also those inside a transaction that named no database, or another one, when they connected.
    """
    found = _rows(
        cursor,
        "SELECT p.id, p.user, p.host, p.time, p.command, p.info, t.trx_id IS NOT NULL"
        " FROM information_schema.processlist p"
        " LEFT JOIN information_schema.innodb_trx t ON t.trx_mysql_thread_id = p.id"
        " WHERE p.db = %s OR (%s AND t.trx_id IS NOT NULL) ORDER BY t.trx_id IS NULL, p.id",
        name,
        anywhere,
    )
    own = set(own)
    return tuple(
        Session(id_, user, host or "", int(seconds or 0), bool(inside), "" if idle == "Sleep" else (info or idle)[:60])
        for id_, user, host, seconds, idle, info, inside in found
        if id_ not in own
    )


def read_facts(cursor, name: str, own: Iterable[int] = ()) -> Facts:
    """Return what a plan depends on. Raises MigrationError if there is no such database."""
    ((version,),) = _rows(cursor, "SELECT VERSION()")
    mariadb = "mariadb" in version.lower()
    database = read_database(cursor, name)
    if database is None:
        raise MigrationError(f"there is no database {name} on this server: correct the name")
    facts = {
        "name": name,
        "mariadb": mariadb,
        "database": database,
        "sessions": read_sessions(cursor, name, own),
    }
    states = database.tables.get("object_state")
    columns = {c.name: c for c in states.columns} if states else {}
    if not {"zoid", "tid", "state"} <= columns.keys():
        return Facts(**facts)

    def exists(table: str, condition: str = "TRUE") -> bool:
        sql = f"SELECT EXISTS(SELECT 1 FROM {quote_name(name)}.{quote_name(table)} WHERE {condition})"
        return bool(_rows(cursor, sql)[0][0])

    where = f"{quote_name(name)}.object_state"
    facts["rows"], facts["highest_oid"] = _rows(cursor, f"SELECT COUNT(*), MAX(zoid) FROM {where}")[0]
    if not mariadb:
        # The tables' sizes and next numbers as they are now, not as they were a day ago.
        cursor.execute("SET SESSION information_schema_stats_expiry = 0")
    status = {
        table: (bytes_, next_)
        for table, bytes_, next_ in _rows(
            cursor,
            "SELECT table_name, data_length + index_length, auto_increment FROM information_schema.tables"
            " WHERE table_schema = %s AND table_type = 'BASE TABLE'",
            name,
        )
    }
    facts["data_bytes"] = int(status["object_state"][0] or 0)
    if "state_size" in columns and columns["state_size"].null:
        facts["some_null"] = exists("object_state", "state_size IS NULL")
        facts["some_size"] = exists("object_state", "state_size IS NOT NULL")
    if "blob_chunk" in database.tables:
        facts["blobs"] = exists("blob_chunk")
    newest = "transaction" if "transaction" in database.tables else "object_state"
    facts["newest_tid"] = _rows(cursor, f"SELECT MAX(tid) FROM {quote_name(name)}.{quote_name(newest)}")[0][0] or None
    if "new_oid" in database.tables:
        stored = _rows(cursor, f"SELECT COALESCE(MAX(zoid), 0) FROM {quote_name(name)}.new_oid")[0][0]
        facts["next_oid_row"] = max(int(status["new_oid"][1] or 1), stored + 1)
    return Facts(**facts)


def sample_states(cursor, name: str, count: int) -> list[bytes]:
    """Return up to `count` newest states of objects spread evenly over the object ids."""
    where = f"{quote_name(name)}.object_state"
    cursor.execute(f"SELECT MIN(zoid), MAX(zoid) FROM {where}")
    low, high = cursor.fetchone()
    found, reached = [], None
    step = max(1, ((high or 0) - (low or 0)) // count)
    for oid in range(low, high + 1, step) if low is not None else ():
        if reached is not None and oid <= reached:
            continue
        cursor.execute(
            f"SELECT zoid, state FROM {where} WHERE zoid >= %s AND state IS NOT NULL ORDER BY zoid, tid DESC LIMIT 1",
            (oid,),
        )
        row = cursor.fetchone()
        if row is None:
            break
        reached = row[0]
        found.append(row[1])
    return found


# Showing where it is


class Reporter:
    """Writes where the migration is into a file that somebody else reads while it runs."""

    def __init__(self, path: str | None):
        self.path, self.written = path, 0.0
        self.lock = threading.Lock()

    def __call__(self, progress: Progress, always: bool = False) -> None:
        """Write a line, at most twice a second unless `always`."""
        now = time.monotonic()
        with self.lock:
            if self.path is None or (not always and now - self.written < 0.5):
                return
            self.written = now
            partial = f"{self.path}.new"
            with open(partial, "w") as file:
                json.dump({"line": progress.line(now), "phase": progress.phase}, file)
            os.replace(partial, self.path)


# Doing


class Watcher(threading.Thread):
    """Looks after one ALTER TABLE: its progress, and who makes it wait for the table."""

    def __init__(self, migrator: Migrator, progress: Progress):
        super().__init__(daemon=True)
        self.migrator, self.progress, self.ended = migrator, progress, threading.Event()
        self.waited = 0.0

    def run(self) -> None:
        """Ask the server ten times a second until `ended`."""
        import pymysql

        with contextlib.suppress(pymysql.err.MySQLError, migration.MigrationError):
            cursor = connect(self.migrator.socket).cursor()
            share = "progress" if self.migrator.mariadb else "0"
            since = None
            while not self.ended.wait(0.1):
                found = _rows(
                    cursor,
                    f"SELECT state, {share} FROM information_schema.processlist WHERE id = %s",
                    self.migrator.id,
                )
                state, percent = found[0] if found else ("", 0)
                self.progress.done = float(percent or 0)
                self.migrator.report(self.progress)
                if "metadata lock" not in (state or ""):
                    since = None
                    continue
                since = since or time.monotonic()
                self.waited = max(self.waited, time.monotonic() - since)
                # A reader's short query ends by itself.
                if self.migrator.disconnect and time.monotonic() - since > 0.2:
                    sessions = read_sessions(cursor, self.migrator.name, [self.migrator.id])
                    kill(cursor, (s for s in sessions if s.in_transaction))


def kill(cursor, sessions: Iterable[Session]) -> None:
    """End connections; one that has gone by itself is no error."""
    import pymysql

    for session in sessions:
        try:
            cursor.execute(f"KILL {int(session.id)}")
        except pymysql.err.MySQLError as error:
            if error.args[0] != _NO_SUCH_THREAD:
                raise


class Migrator:
    """One migration of one database.

    batch_rows: most rows of a transaction; pause: seconds between two; disconnect: end connections of
    others instead of refusing; lock_wait: seconds to wait for a lock that somebody holds.
    """

    def __init__(
        self,
        socket: str,
        name: str,
        *,
        batch_rows: int = 5000,
        pause: float = 0,
        disconnect: bool = False,
        lock_wait: int = 30,
        report: Reporter | None = None,
    ):
        self.socket, self.name = socket, name
        self.batch_rows, self.pause = batch_rows, pause
        self.disconnect, self.lock_wait = disconnect, lock_wait
        self.report = report or Reporter(None)
        self.connection = connect(socket)
        self.cursor = self.connection.cursor()
        self.id = _rows(self.cursor, "SELECT CONNECTION_ID()")[0][0]
        self.mariadb = "mariadb" in _rows(self.cursor, "SELECT VERSION()")[0][0].lower()
        self.ledger = Ledger()
        self.seconds: dict[str, float] = {}
        self.longest_wait = 0.0
        self._row_lock = None

    def facts(self) -> Facts:
        """Return what the database is now."""
        return read_facts(self.cursor, self.name, [self.id])

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Remember how long something took, and say that it began."""
        started = time.monotonic()
        self.report(Progress(name, 0, started), always=True)
        yield
        self.seconds[name] = round(self.seconds.get(name, 0) + time.monotonic() - started, 2)

    # Alone with the database

    def lock(self, facts: Facts) -> None:
        """Take the locks without which no client of any release commits or packs."""
        # A session of a killed run may still be in a statement that the server finishes by itself.
        self.cursor.execute(f"USE {quote_name(self.name)}")
        for kind in ("commit", "pack"):
            name = f"{self.name}.{kind}"
            if _rows(self.cursor, "SELECT GET_LOCK(%s, %s)", name, self.lock_wait)[0][0] != 1:
                holder = _rows(self.cursor, "SELECT IS_USED_LOCK(%s)", name)[0][0]
                raise MigrationError(
                    f"the {kind} lock of database {self.name} is held by {self._describe(holder)} and was not free"
                    f" within {self.lock_wait} s. Nothing was changed: a client is busy, or an earlier migration still"
                    " runs on the server; run again later"
                )
        if schema.LOCK_TABLE in facts.database.tables:
            self._hold_row_lock()

    def _hold_row_lock(self) -> None:
        """Take the lock of RelStorage 3 and 4, a row, in a transaction of its own: ALTER TABLE ends ours."""
        import pymysql

        self._row_lock = connect(self.socket)
        cursor = self._row_lock.cursor()
        cursor.execute(f"SET SESSION innodb_lock_wait_timeout = {int(self.lock_wait)}")
        self._row_lock.begin()
        try:
            cursor.execute(f"SELECT tid FROM {quote_name(self.name)}.{quote_name(schema.LOCK_TABLE)} FOR UPDATE")
        except pymysql.err.OperationalError as error:
            raise MigrationError(
                f"a client of RelStorage 3 or 4 holds the commit lock of database {self.name}: {error}. Nothing was"
                " changed: stop that client and run again"
            ) from error

    def _describe(self, session: int | None) -> str:
        for id_, user, host, seconds, info in _rows(
            self.cursor,
            "SELECT id, user, host, time, info FROM information_schema.processlist WHERE id = %s",
            session or 0,
        ):
            return str(Session(id_, user, host, int(seconds or 0), doing=(info or "")[:60]))
        return "a connection that has just ended"

    def clear(self, seconds: float = 10) -> list[str]:
        """Refuse while others are connected, or end their connections; return those."""
        ended: dict[int, str] = {}
        deadline = time.monotonic() + seconds
        while True:
            sessions = read_sessions(self.cursor, self.name, [self.id])
            # Clients that come back after we ended them may read; what they cannot do is commit.
            known = [s for s in sessions if s.id in ended or not ended]
            if not known:
                return list(ended.values())
            if not self.disconnect:
                raise MigrationError(refusal(self.name, sessions))
            if time.monotonic() > deadline:
                raise MigrationError(f"{'; '.join(map(str, known))} does not end: stop that client and run again")
            ended.update({s.id: str(s) for s in known})
            kill(self.cursor, known)
            time.sleep(0.05)

    # Before anything

    def backup(self, facts: Facts, named: str | None, folder: str) -> str:
        """Return a complete dump that has everything: the named one, one made before, or a new one."""
        tables = [t for t in ("object_state", "transaction", "current_object") if t in facts.database.tables]
        with self.phase("dump"):
            if named:
                check_named(facts, named)
                return named
            before = newest_backup(folder, self.name)
            if before:
                with contextlib.suppress(DumpError):
                    check_backup(before, tables, facts.newest_tid)
                    return before
            path = dump_path(folder, self.name, datetime.now(timezone.utc))
            try:
                write_dump(command(self.mariadb, self.socket, self.name), path, facts.database.tables)
            except DumpError as error:
                raise MigrationError(f"no backup of database {self.name}: {error}. Nothing was changed") from error
            return path

    # The steps

    def run(self, steps: migration.Plan, facts: Facts, keep_history: bool) -> dict:
        """Carry out a plan and verify it; return the figures of the verification."""
        columns = migration.key_columns(keep_history)
        counts = self._counts(facts)
        if steps.reads_states and not any(step.kind == "fill" for step in steps.steps):
            with self.phase("measure"):
                self._portions("measure", facts.rows, columns, keep_history, fill=False)
        for step in steps.steps:
            with self.phase(step.kind if step.kind in ("fill", "rebuild") else "other"):
                if step.kind == "fill":
                    self._portions("fill state_size", facts.rows, columns, keep_history, fill=True)
                elif step.kind in _WAYS:
                    self._alter(step)
                else:
                    self._statements(step)
        figures = {}
        if steps.reads_states:
            with self.phase("verify"):
                sized = any(c.name == "state_size" for c in steps.goal.tables["object_state"].columns)
                figures = self._verify(columns, keep_history, sized)
        after = read_database(self.cursor, self.name)
        if after != steps.goal:
            raise MigrationError(
                f"database {self.name} is not what the plan says after its last step:"
                f" {schema.describe(self.name, after)} instead of {schema.describe(self.name, steps.goal)}."
                " No state was changed; restore the backup if clients cannot use it"
            )
        changed = {t: (n, m) for t, n in counts.items() for m in [self._count(t)] if n != m}
        if changed:
            raise MigrationError(f"rows were lost or added in {changed}: restore the backup")
        return {**figures, "rows_by_table": counts}

    def _counts(self, facts: Facts) -> dict[str, int]:
        """Rows of the tables that hold what people stored, besides object_state, which is digested."""
        return {
            t: self._count(t) for t in ("transaction", "current_object", "blob_chunk") if t in facts.database.tables
        }

    def _count(self, table: str) -> int:
        if not _rows(
            self.cursor,
            "SELECT 1 FROM information_schema.tables WHERE table_schema = %s AND table_name = %s",
            self.name,
            table,
        ):
            return 0
        return _rows(self.cursor, f"SELECT COUNT(*) FROM {quote_name(table)}")[0][0]

    def _statements(self, step: migration.Step) -> None:
        for statement in step.statements:
            if self._row_lock and statement.startswith(f"DROP TABLE {quote_name(schema.LOCK_TABLE)}"):
                # By now a writer of RelStorage 3 or 4 fails on the other tables.
                self._row_lock.close()
                self._row_lock = None
            self._patiently(step.text, statement)

    def _alter(self, step: migration.Step) -> None:
        import pymysql

        (statement,) = step.statements
        # Only MariaDB tells how far an ALTER TABLE is.
        progress = Progress(step.text, 100 if self.mariadb else 0, time.monotonic(), unit="percent")
        ways = list(_WAYS[step.kind])
        while True:
            watcher = Watcher(self, progress)
            watcher.start()
            try:
                self._patiently(step.text, statement + ways[0])
                return
            except pymysql.err.MySQLError as error:
                if error.args[0] not in _NOT_THIS_WAY or len(ways) == 1:
                    raise
                ways.pop(0)
            finally:
                watcher.ended.set()
                watcher.join()
                self.longest_wait = max(self.longest_wait, round(watcher.waited, 2))

    def _patiently(self, what: str, statement: str) -> None:
        """Execute DDL that may have to wait for a table, one second at a time.

        Who wants to read a table for which an ALTER TABLE waits, waits behind it. So no wait is longer
        than a second, and readers get their turn in between.
        """
        import pymysql

        self.cursor.execute("SET SESSION lock_wait_timeout = 1")
        deadline = time.monotonic() + self.lock_wait
        while True:
            started = time.monotonic()
            try:
                self.cursor.execute(statement)
                return
            except pymysql.err.OperationalError as error:
                if error.args[0] != _LOCK_TIMEOUT:
                    raise
                # A rebuild that found the table busy only at its end is not begun again and again.
                if time.monotonic() < deadline and time.monotonic() - started < 5:
                    time.sleep(0.2)
                    continue
                sessions = read_sessions(self.cursor, self.name, [self.id], anywhere=True)
                raise MigrationError(
                    f"could not {what}: the table is in use by {'; '.join(map(str, sessions)) or 'somebody'}."
                    " Everything done so far stays and both old and new clients can read; close that client, or let"
                    " clients be disconnected, and run again"
                ) from error

    def _portions(self, what: str, rows: int, columns: tuple, keep_history: bool, fill: bool) -> None:
        """Measure all rows of object_state portion by portion and, with `fill`, give them their size."""
        order = ", ".join(columns)
        progress = Progress(what, rows, time.monotonic())
        low, count = None, min(self.batch_rows, 1000)
        while True:
            started = time.monotonic()
            condition, values = migration.within(Portion(low, None), columns)
            last = _rows(
                self.cursor,
                f"SELECT {order} FROM object_state FORCE INDEX (PRIMARY) WHERE {condition}"
                f" ORDER BY {order} LIMIT 1 OFFSET {count - 1}",
                *values,
            )
            portion = Portion(low, last[0] if last else None)
            measured = self._measure(portion, columns, keep_history)
            if fill:
                condition, values = migration.within(portion, columns)
                self.cursor.execute(
                    f"UPDATE object_state SET state_size = COALESCE(LENGTH(state), 0)"
                    f" WHERE {condition} AND NOT {migration.RIGHT_SIZE}",
                    values,
                )
            self.ledger.portions.append((portion, measured))
            progress.done += measured.rows
            self.report(progress)
            if portion.high is None:
                return
            low = portion.high
            count = migration.next_rows(count, time.monotonic() - started, self.batch_rows)
            if self.pause:
                time.sleep(self.pause)

    def _measure(self, portion: Portion, columns: tuple, keep_history: bool) -> Measured:
        condition, values = migration.within(portion, columns)
        ((rows, digest, bytes_),) = _rows(
            self.cursor,
            f"SELECT {migration.digest_columns(keep_history)} FROM object_state FORCE INDEX (PRIMARY)"
            f" WHERE {condition}",
            *values,
        )
        return Measured(rows, int(digest), int(bytes_))

    def _verify(self, columns: tuple, keep_history: bool, sized: bool) -> dict:
        """Measure again and compare; every row must have its right size."""
        total = self.ledger.total
        progress = Progress("verify", total.rows, time.monotonic())
        for portion, before in self.ledger.portions:
            after = self._measure(portion, columns, keep_history)
            condition, values = migration.within(portion, columns)
            wrong = 0
            if sized:
                wrong = _rows(
                    self.cursor,
                    f"SELECT COUNT(*) FROM object_state FORCE INDEX (PRIMARY)"
                    f" WHERE {condition} AND NOT {migration.RIGHT_SIZE}",
                    *values,
                )[0][0]
            if after != before or wrong:
                raise MigrationError(
                    f"database {self.name}, rows of object_state above {portion.low} up to {portion.high}: {before}"
                    f" before and {after} after the migration, {wrong} with a wrong state_size. Restore the backup"
                )
            progress.done += after.rows
            self.report(progress)
        return {
            "rows": total.rows,
            "bytes": total.bytes,
            "digest": f"{total.digest:016x}",
            "wrong_sizes": 0 if sized else None,
        }

    def close(self) -> None:
        """Give the locks back."""
        for connection in (self._row_lock, self.connection):
            if connection is not None and connection.open:
                connection.close()


def refusal(name: str, sessions: Iterable[Session]) -> str:
    """Return why nothing is done while others are connected."""
    return (
        f"others are connected to database {name}: {'; '.join(map(str, sessions))}. Nothing was changed: close those"
        " clients, or let them be disconnected (clients=disconnect)"
    )


def check_named(facts: Facts, path: str) -> None:
    """Raise MigrationError unless a backup that somebody named has all of the database."""
    tables = [t for t in ("object_state", "transaction", "current_object") if t in facts.database.tables]
    try:
        check_backup(path, tables, facts.newest_tid)
    except DumpError as error:
        raise MigrationError(f"the backup is not good enough: {error}. Nothing was changed") from error


@contextlib.contextmanager
def server_errors(name: str) -> Iterator[None]:
    """Turn what the server or the connection says into a MigrationError with what to do."""
    import pymysql

    try:
        yield
    except pymysql.err.MySQLError as error:
        number = error.args[0] if error.args else None
        if number in _LOST or isinstance(error, pymysql.err.InterfaceError):
            raise MigrationError(
                f"the server ended the connection during the migration of database {name} ({error}): see that it runs,"
                " then run again; what was done stays and nothing is lost"
            ) from error
        raise MigrationError(
            f"the server refused a step of the migration of database {name}: {error}. What was done before stays and"
            " both old and new clients can read; correct the cause and run again"
        ) from error


def free_bytes(path: str) -> tuple[int, int]:
    """Return (free bytes, device) of the file system that a path is or will be on."""
    while not os.path.exists(path):
        path = os.path.dirname(path) or "/"
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize, os.stat(path).st_dev
