"""SQL text that values cannot be passed into, and the one way to reach the local server.

Values travel as query parameters. What cannot be a parameter (identifiers, the database part
of GRANT, string literals inside DDL) goes through exactly one of the functions below.
"""

from __future__ import annotations

# Written down so that no server setting changes the meaning of a statement: ANSI_QUOTES would
# turn "text" into a name, NO_BACKSLASH_ESCAPES would make `literal` double its backslashes, and
# a non-strict mode would store cut values without an error.
SQL_MODE = "STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"

# CR_CONNECTION_ERROR: what PyMySQL raises when connecting to the socket itself fails.
_NO_ANSWER = 2003


class SqlError(Exception):
    """The server cannot be reached, or a text cannot be written as SQL; says what to do."""


class NoServer(SqlError):
    """There is nothing to talk to yet: no driver, or no server on that socket.

    A real run must stop; a check run on a host that is still to be set up may plan as if the
    server were empty.
    """


def quote_name(name: str) -> str:
    """Return an identifier (database, table, column, routine) in backticks.

    Also right for the database of a table-level GRANT, where ``_`` and ``%`` are plain letters.
    Raises SqlError for an empty name or one with a NUL character, which no server accepts.
    """
    if not name or "\0" in name:
        raise SqlError(f"{name!r} cannot be the name of a database object: use letters and digits")
    return "`" + name.replace("`", "``") + "`"


def grant_escaped(name: str) -> str:
    r"""Return a database name as the grant tables store it when only that database is meant.

    In a database-level GRANT ``_`` and ``%`` are wildcards and a backslash takes that away:
    ``hewl_sample`` is stored as ``hewl\_sample`` in ``mysql.db``.
    """
    return name.replace("\\", "\\\\").replace("_", "\\_").replace("%", "\\%")


def grant_pattern(name: str) -> str:
    """Return the database part of ``GRANT ... ON <here>.*``, quoted and without wildcards."""
    return quote_name(grant_escaped(name))


def literal(text: str) -> str:
    """Return a string literal in single quotes, for DDL that takes no parameters.

    Right under SQL_MODE, which `connect` sets. Raises SqlError for a NUL character.
    """
    if "\0" in text:
        raise SqlError("a NUL character cannot be part of an SQL text: remove it")
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def printable(text: str) -> str:
    r"""Return a text for people and comments: on one line, and nothing in it moves a terminal's cursor.

    ``\U0000001b`` for an escape, which is also how YAML writes it inside double quotes.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)


def connect(socket: str, lock_wait: int = 60):
    """Return an autocommitting PyMySQL connection of root over a unix socket.

    ``lock_wait`` bounds, in seconds, how long a statement waits for somebody else's table.
    Raises NoServer when PyMySQL is missing or nothing answers, SqlError when the server does not
    let us in.
    """
    try:
        import pymysql
    except ImportError as error:
        raise NoServer("PyMySQL is missing in the Python that runs this module: install python3-pymysql") from error
    try:
        return pymysql.connect(
            unix_socket=socket,
            user="root",
            charset="utf8mb4",
            autocommit=True,
            init_command=f"SET SESSION sql_mode = {literal(SQL_MODE)}, lock_wait_timeout = {int(lock_wait)}",
        )
    except pymysql.err.MySQLError as error:
        if error.args[0] == _NO_ANSWER:
            raise NoServer(
                f"nothing answers on {socket}: {error.args[1]}; start the server or name its socket"
            ) from error
        raise SqlError(
            f"no connection as root over {socket}: {error}; the server must let the system's root"
            " in over this socket without a password"
        ) from error
