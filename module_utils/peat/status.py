"""What a server holds: its software, and the size, objects and last commit of every project.

Nothing here reads a large table as a whole. Objects are counted and states added up as far as the two
limits below, which is exact; beyond them the answer is marked. The last commit is read from the end of
an index, whatever the size. What a database takes on disk is the server's own figure.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .sql import quote_name

# Measured on MariaDB 10.11 with a million states of 900 bytes: 0.4 s to count as many objects (an index alone), 0.2 s
# to add up as many sizes while none is in memory, against 1.8 s for all of them.
COUNTED_OBJECTS = 1_000_000
ADDED_STATES = 100_000

Query = Callable[..., list[tuple]]


def time_of(tid: int) -> datetime.datetime:
    """Return when a transaction began, in UTC, to the second.

    ZODB writes a time as minutes, as if every month had 31 days, and a 32-bit fraction of a minute.
    """
    minutes, fraction = divmod(tid, 1 << 32)
    days, minutes = divmod(minutes, 24 * 60)
    months, day = divmod(days, 31)
    year, month = divmod(months, 12)
    day_begins = datetime.datetime(1900 + year, month + 1, day + 1, tzinfo=datetime.timezone.utc)
    return day_begins + datetime.timedelta(minutes=minutes, seconds=fraction * 60 >> 32)


def real_version(announced: str) -> str:
    """Return the number of a version as the server tells it: ``5.5.5-10.11.18-MariaDB`` is 10.11.18."""
    return announced.removeprefix("5.5.5-").partition("-")[0]


def read(query: Query, names: Iterable[str]) -> dict[str, Any]:
    """Return the software of a server and, by name, what there is of these databases.

    `query` runs a statement with parameters and returns its rows. A database that does not exist is
    left out.
    """
    ((announced, comment),) = query("SELECT @@version, @@version_comment")
    mysql = "mariadb" not in f"{announced} {comment}".lower()
    if mysql:
        # Else its figures may be a day old.
        query("SET SESSION information_schema_stats_expiry = 0")
    existing = {name for (name,) in query("SELECT SCHEMA_NAME FROM information_schema.SCHEMATA")}
    names = [name for name in names if name in existing]
    tables: dict[str, dict[str, tuple]] = {name: {} for name in names}
    sized = set()
    if names:
        marks = ", ".join(["%s"] * len(names))
        for database, table, *figures in query(
            "SELECT TABLE_SCHEMA, TABLE_NAME, DATA_LENGTH, INDEX_LENGTH FROM information_schema.TABLES"
            f" WHERE TABLE_TYPE = 'BASE TABLE' AND TABLE_SCHEMA IN ({marks})",
            names,
        ):
            tables[database][table] = tuple(int(figure or 0) for figure in figures)
        sized = {
            database
            for (database,) in query(
                "SELECT TABLE_SCHEMA FROM information_schema.COLUMNS"
                f" WHERE TABLE_NAME = 'object_state' AND COLUMN_NAME = 'state_size' AND TABLE_SCHEMA IN ({marks})",
                names,
            )
        }
    return {
        "software": f"{'MySQL' if mysql else 'MariaDB'} {real_version(announced)}",
        "announced": announced if announced.startswith("5.5.5-") else None,
        "databases": {name: _database(query, name, tables[name], name in sized) for name in names},
    }


def _database(query: Query, name: str, tables: Mapping[str, tuple], sized: bool) -> dict[str, Any]:
    """Return the figures of one database; None where it cannot have them."""
    figures: dict[str, Any] = {
        "disk": sum(data + index for data, index in tables.values()),
        "objects": None,
        "data": None,
        "commit": None,
    }
    if "object_state" not in tables:
        return figures
    figures["objects"] = _objects(query, name, "current_object" if "current_object" in tables else "object_state")
    if sized:
        data, _index = tables["object_state"]
        figures["data"] = _data(query, name, data)
    figures["commit"] = _last_commit(query, name, "transaction" in tables)
    return figures


def _objects(query: Query, name: str, table: str) -> dict[str, Any]:
    """Return how many objects there are; not exact means that there are more."""
    rows = f"(SELECT 1 FROM {quote_name(name)}.{table} LIMIT {COUNTED_OBJECTS + 1}) AS bounded"
    ((count,),) = query(f"SELECT COUNT(*) FROM {rows}")
    return {"value": min(int(count), COUNTED_OBJECTS), "exact": count <= COUNTED_OBJECTS}


def _data(query: Query, name: str, estimate: int) -> dict[str, Any]:
    """Return the sum of the sizes of all stored states; not exact means that it is the server's estimate."""
    rows = f"(SELECT state_size FROM {quote_name(name)}.object_state LIMIT {ADDED_STATES + 1}) AS bounded"
    ((count, total),) = query(f"SELECT COUNT(*), SUM(state_size) FROM {rows}")
    if count <= ADDED_STATES:
        return {"value": int(total or 0), "exact": True}
    return {"value": max(estimate, int(total or 0)), "exact": False}


def _last_commit(query: Query, name: str, keeps_history: bool) -> dict[str, Any] | None:
    """Return when the newest transaction was, and whose, where that is kept."""
    if keeps_history:
        # Transaction 0 is not a commit: it is there from the start.
        rows = query(
            f"SELECT tid, username FROM {quote_name(name)}.`transaction` WHERE tid > 0 ORDER BY tid DESC LIMIT 1"
        )
    else:
        rows = [(tid, b"") for (tid,) in query(f"SELECT MAX(tid) FROM {quote_name(name)}.object_state") if tid]
    for tid, user in rows:
        words = user.decode(errors="replace") if isinstance(user, (bytes, bytearray)) else str(user or "")
        try:
            when = time_of(int(tid)).strftime("%Y-%m-%d %H:%M")
        except (ValueError, OverflowError):
            when = None
        # ZODB writes a user as "path name", PEAT's path being empty or a slash.
        return {"tid": int(tid), "time": when, "user": words.strip("/ ")}
    return None


def system(path: str = "/etc/os-release") -> str:
    """Return the name of this host's operating system, as it calls itself."""
    try:
        with open(path, encoding="utf-8") as file:
            values = dict(line.rstrip("\n").split("=", 1) for line in file if "=" in line)
    except OSError:
        return ""
    return values.get("PRETTY_NAME", "").strip("\"'")
