"""Reading the RelStorage databases of a server: a few queries, whatever their number."""

from __future__ import annotations

from dataclasses import replace

from . import schema

_SYSTEM_SCHEMAS = ("information_schema", "mysql", "performance_schema", "sys")


def _rows(cursor, sql, *parameters):
    """Return all rows of a query as tuples of text and numbers."""
    cursor.execute(sql, parameters)
    return [tuple(v.decode() if isinstance(v, bytes) else v for v in row) for row in cursor.fetchall()]


def _by_schema(found):
    """Return the rows without their first value, grouped by it."""
    groups = {}
    for row in found:
        groups.setdefault(row[0], []).append(row[1:])
    return groups


def read(cursor, projects):
    """Return schema.Server for these projects and the names of other RelStorage databases.

    The number of queries does not depend on the number of projects.
    """
    ((version,),) = _rows(cursor, "SELECT VERSION()")
    mariadb = "mariadb" in version.lower()
    there = {row[0] for row in _rows(cursor, "SELECT schema_name FROM information_schema.schemata")}
    all_tables = _by_schema(
        _rows(
            cursor,
            "SELECT table_schema, table_name, engine FROM information_schema.tables"
            " WHERE table_type = 'BASE TABLE' AND table_schema NOT IN %s",
            _SYSTEM_SCHEMAS,
        )
    )
    listed = {project.name: project for project in projects}
    others = sorted(
        name
        for name, found in all_tables.items()
        if name not in listed and schema.looks_like_relstorage(table for table, _ in found)
    )
    names = sorted(there & listed.keys())
    if not names:
        return schema.Server(mariadb, {}), others

    columns = _columns(cursor, names)
    views = _by_schema(
        _rows(
            cursor,
            "SELECT table_schema, table_name, security_type FROM information_schema.views WHERE table_schema IN %s",
            names,
        )
    )
    procedures = _by_schema(
        _rows(
            cursor,
            "SELECT routine_schema, routine_name, routine_comment, character_set_client,"
            " collation_connection, security_type FROM information_schema.routines"
            " WHERE routine_schema IN %s",
            names,
        )
    )
    databases = {
        name: schema.Database(
            tables={
                table: schema.FoundTable(engine, tuple(columns.get((name, table), ())))
                for table, engine in all_tables.get(name, ())
            },
            views=dict(views.get(name, ())),
            procedures={row[0]: schema.Procedure(*row[1:]) for row in procedures.get(name, ())},
        )
        for name in names
    }
    _read_lock_rows(cursor, databases)
    _read_interrupted(cursor, databases, listed)
    return schema.Server(mariadb, databases), others


def _columns(cursor, names):
    """Return {(database, table): [schema.Column]}."""
    found = {}
    for database, table, name, kind, null, default, extra, charset in _rows(
        cursor,
        "SELECT table_schema, table_name, column_name, column_type, is_nullable, column_default,"
        " extra, character_set_name FROM information_schema.columns WHERE table_schema IN %s"
        " ORDER BY table_schema, table_name, ordinal_position",
        names,
    ):
        column = schema.Column(
            name,
            schema.normal_type(kind),
            null == "YES",
            schema.normal_default(default),
            "auto_increment" in extra.lower(),
            charset,
        )
        found.setdefault((database, table), []).append(column)
    return found


def _read_lock_rows(cursor, databases):
    """Fill in the rows of the commit locks."""
    query = schema.lock_rows_query(n for n, d in databases.items() if schema.LOCK_TABLE in d.tables)
    if query:
        for name, found in _by_schema(sorted(_rows(cursor, query))).items():
            tids = tuple(row[0] for row in found)
            databases[name] = replace(databases[name], lock_rows=tids)


def _read_interrupted(cursor, databases, listed):
    """Fill in keys and whether there is data, where a creation may have been interrupted."""
    names = [name for name in databases if schema.incomplete(listed[name], databases[name])]
    if not names:
        return
    keys = {}
    for database, table, key, column in _rows(
        cursor,
        "SELECT table_schema, table_name, index_name, column_name"
        " FROM information_schema.statistics WHERE table_schema IN %s"
        " ORDER BY table_schema, table_name, index_name, seq_in_index",
        names,
    ):
        keys.setdefault((database, table), {}).setdefault(key, []).append(column)
    filled = _by_schema(_rows(cursor, schema.filled_query({n: databases[n].tables for n in names})))
    for name in names:
        databases[name] = replace(
            databases[name],
            tables={
                table: replace(found, keys={k: tuple(c) for k, c in keys.get((name, table), {}).items()})
                for table, found in databases[name].tables.items()
            },
            filled=frozenset(table for (table,) in filled.get(name, ())),
        )
