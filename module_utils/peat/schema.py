"""The tables RelStorage clients need, and the plan that brings a server's databases to them.

Two generations of clients, each history-preserving or history-free:

- ``peat2``: the layout of RelStorage 1.5, which 1.4 to 2.x and the PEAT 2.3 client use. Its
  ``new_oid`` must not be transactional: with InnoDB a client of 1.x waits 50 seconds for every
  new object and then fails. On MariaDB that is Aria, which survives a crash; MySQL has MyISAM.
- ``relstorage4``: what RelStorage 4 makes, all InnoDB, with a commit lock row and procedures.

No RelStorage release can create its own history-preserving tables on a current server
(``tid ... REFERENCES transaction`` is an ill-formed foreign key since MariaDB 10.5 and MySQL 9.0),
and clients should hold no rights to create tables. So the server makes them here.

Everything is a pure function of what the module read; an existing table is never altered.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from .sql import literal, quote_name

# RelStorage 4 compares its procedures' comment and these two with what it expects.
CHARSET, COLLATION = "utf8mb4", "utf8mb4_general_ci"
PROCEDURE_SESSION = (
    f"SET SESSION character_set_client={CHARSET}, character_set_connection={CHARSET},"
    f" character_set_results={CHARSET}, collation_connection={COLLATION}"
)

LOCK_TABLE = "commit_row_lock"
VIEW = "current_object_state"


class SchemaError(Exception):
    """What the list wants cannot be done to the databases that are there; has all problems."""

    def __init__(self, problems: Sequence[str]):
        """``problems``: one sentence or two each, naming the project."""
        super().__init__("\n".join(problems))
        self.problems = list(problems)


# What the list wants


@dataclass(frozen=True)
class Wanted:
    """One project of the list, as far as its database is concerned."""

    name: str
    generation: str
    keep_history: bool = True
    state: str = "present"


def wanted(projects: Iterable[Mapping]) -> list[Wanted]:
    """Return the projects of the inventory's list, already validated, as Wanted."""
    return [
        Wanted(
            item["name"],
            item["clients"],
            item.get("keep_history", True),
            item.get("state") or "present",
        )
        for item in projects
    ]


# What a server has


@dataclass(frozen=True)
class Column:
    """A column as information_schema tells it, with display widths taken off BIGINT."""

    name: str
    type: str
    null: bool = False
    default: str | None = None
    auto: bool = False
    charset: str | None = None

    def sql(self) -> str:
        """Return the column's part of CREATE TABLE."""
        words = [quote_name(self.name), self.type]
        if self.charset:
            words.append(f"CHARACTER SET {self.charset} COLLATE {self.charset}_general_ci")
        words += [] if self.null else ["NOT NULL"]
        words += [] if self.default is None else [f"DEFAULT {self.default}"]
        words += ["AUTO_INCREMENT"] if self.auto else []
        return " ".join(words)

    def __str__(self) -> str:
        """Return the column as it reads in a diff."""
        return self.name + " " + self.type + (" null" if self.null else "")


@dataclass(frozen=True)
class FoundTable:
    """A table of a server. ``keys`` is None where nobody needed to read them."""

    engine: str
    columns: tuple[Column, ...]
    keys: Mapping[str, tuple[str, ...]] | None = None


@dataclass(frozen=True)
class Procedure:
    """What RelStorage and we look at in a procedure; ``security`` is INVOKER or DEFINER."""

    comment: str
    charset: str = CHARSET
    collation: str = COLLATION
    security: str = "INVOKER"


@dataclass(frozen=True)
class Database:
    """One database of a server: tables, views (name: security), procedures, commit lock rows."""

    tables: Mapping[str, FoundTable] = field(default_factory=dict)
    views: Mapping[str, str] = field(default_factory=dict)
    procedures: Mapping[str, Procedure] = field(default_factory=dict)
    lock_rows: tuple[int, ...] = ()
    # Tables that hold rows, read only where a creation may have been interrupted; the rows a
    # creation itself writes do not count.
    filled: frozenset[str] = frozenset()

    @property
    def empty(self) -> bool:
        """Whether nothing was ever made in it."""
        return not (self.tables or self.views or self.procedures)


@dataclass(frozen=True)
class Server:
    """The databases of a server by name, and whether it is MariaDB (else MySQL)."""

    mariadb: bool
    databases: Mapping[str, Database]


def normal_type(column_type: str) -> str:
    """Return a column type as both flavours would say it: MySQL 8 dropped BIGINT's width."""
    return re.sub(r"\bbigint\(\d+\)", "bigint", column_type.lower())


def normal_default(text: str | None) -> str | None:
    """Return a column default as both flavours would say it: MariaDB spells NULL out."""
    return None if text is None or text == "NULL" else text


# The tables


@dataclass(frozen=True)
class Table:
    """The definition of one table; ``rest`` holds foreign keys and checks as SQL."""

    name: str
    columns: tuple[Column, ...]
    keys: Mapping[str, tuple[str, ...]]
    rest: tuple[str, ...] = ()
    transactional: bool = True

    def engine(self, mariadb: bool) -> str:
        """Return the engine's name as information_schema spells it."""
        return "InnoDB" if self.transactional else "Aria" if mariadb else "MyISAM"

    def sql(self, mariadb: bool) -> str:
        """Return CREATE TABLE for a server that is MariaDB or MySQL."""
        lines = [column.sql() for column in self.columns]
        for name, columns in self.keys.items():
            kind = "PRIMARY KEY" if name == "PRIMARY" else f"KEY {quote_name(name)}"
            lines.append(f"{kind} ({', '.join(map(quote_name, columns))})")
        engine = self.engine(mariadb)
        # Crash-safe only with TRANSACTIONAL=1, which does not make Aria take part in
        # transactions.
        options = f"ENGINE={engine}" + (" TRANSACTIONAL=1" if engine == "Aria" else "")
        body = ",\n  ".join([*lines, *self.rest])
        return (
            f"CREATE TABLE {quote_name(self.name)} (\n  {body}\n)"
            f" {options} DEFAULT CHARSET={CHARSET} COLLATE={COLLATION}"
        )

    def found(self, mariadb: bool) -> FoundTable:
        """Return what a server says of this table once it is made."""
        return FoundTable(self.engine(mariadb), self.columns, self.keys)

    def same(self, other: FoundTable, mariadb: bool) -> bool:
        """Whether a table of a server is exactly this one."""
        return other == self.found(mariadb)


def tables(generation: str, keep_history: bool) -> tuple[Table, ...]:
    """Return the tables of a generation in the order in which they can be created."""
    modern = generation == "relstorage4"
    oid_type = "bigint unsigned" if modern else "bigint"
    zoid, tid = Column("zoid", "bigint"), Column("tid", "bigint")
    md5 = Column("md5", "char(32)", null=True, charset="ascii")
    state = (Column("state_size", "bigint"), Column("state", "longblob", null=True))
    checks = ("CHECK (`tid` > 0)", *(("CHECK (`state_size` >= 0)",) if modern else ()))

    def flag(name: str) -> Column:
        return Column(name, "tinyint(1)", default="0")

    result = []
    if modern:
        result.append(Table(LOCK_TABLE, (Column("tid", oid_type),), {"PRIMARY": ("tid",)}))
    if keep_history:
        result += [
            Table(
                "transaction",
                (
                    Column("tid", oid_type),
                    flag("packed"),
                    flag("is_empty" if modern else "empty"),
                    Column("username", "blob"),
                    Column("description", "blob"),
                    Column("extension", "blob", null=True),
                ),
                {"PRIMARY": ("tid",)},
            ),
            Table(
                "object_state",
                (zoid, tid, Column("prev_tid", "bigint"), md5, *state),
                {
                    "PRIMARY": ("zoid", "tid"),
                    "object_state_tid": ("tid",),
                    "object_state_prev_tid": ("prev_tid",),
                },
                checks,
            ),
            Table(
                "blob_chunk",
                (zoid, tid, Column("chunk_num", "bigint"), Column("chunk", "longblob")),
                {"PRIMARY": ("zoid", "tid", "chunk_num"), "blob_chunk_lookup": ("zoid", "tid")},
                (
                    "CONSTRAINT `blob_chunk_fk` FOREIGN KEY (`zoid`, `tid`)"
                    " REFERENCES `object_state` (`zoid`, `tid`) ON DELETE CASCADE",
                ),
            ),
            Table(
                "current_object",
                (zoid, tid),
                {
                    "PRIMARY": ("zoid",),
                    # The server makes this one for the foreign key if nobody else does.
                    "zoid": ("zoid", "tid"),
                    "current_object_tid": ("tid",),
                },
                ("FOREIGN KEY (`zoid`, `tid`) REFERENCES `object_state` (`zoid`, `tid`)",),
            ),
        ]
        references = (
            ((zoid, tid, Column("to_zoid", "bigint")), ("tid", "zoid", "to_zoid")),
            ((tid,), ("tid",)),
        )
    else:
        result += [
            Table(
                "object_state",
                (zoid, tid, *state),
                {"PRIMARY": ("zoid",), "object_state_tid": ("tid",)},
                checks,
            ),
            Table(
                "blob_chunk",
                (zoid, Column("chunk_num", "bigint"), tid, Column("chunk", "longblob")),
                {"PRIMARY": ("zoid", "chunk_num"), "blob_chunk_lookup": ("zoid",)},
                (
                    "CONSTRAINT `blob_chunk_fk` FOREIGN KEY (`zoid`)"
                    " REFERENCES `object_state` (`zoid`) ON DELETE CASCADE",
                ),
            ),
        ]
        references = (
            ((zoid, Column("to_zoid", "bigint"), tid), ("zoid", "to_zoid")),
            ((zoid, tid), ("zoid",)),
        )
    result += [
        Table("new_oid", (Column("zoid", oid_type, auto=True),), {"PRIMARY": ("zoid",)}),
        Table("object_ref", references[0][0], {"PRIMARY": references[0][1]}),
        Table("object_refs_added", references[1][0], {"PRIMARY": references[1][1]}),
        Table(
            "pack_object",
            (
                Column("zoid", oid_type),
                Column("keep", "tinyint(1)"),
                Column("keep_tid", oid_type),
                flag("visited"),
            ),
            {"PRIMARY": ("zoid",), "pack_object_keep_zoid": ("keep", "zoid")},
        ),
    ]
    if keep_history:
        result += [
            Table("pack_state", (tid, zoid), {"PRIMARY": ("tid", "zoid")}),
            Table("pack_state_tid", (tid,), {"PRIMARY": ("tid",)}),
        ]
    if not modern:
        result = [replace(t, transactional=t.name not in NON_TRANSACTIONAL) for t in result]
    return tuple(result)


# In the peat2 generation; everything in them can be made again except the next object id.
NON_TRANSACTIONAL = (
    "new_oid",
    "object_ref",
    "object_refs_added",
    "pack_object",
    "pack_state",
    "pack_state_tid",
)

# The transaction "of object creation" that object_state.prev_tid refers to.
FIRST_TRANSACTION = (
    "INSERT IGNORE INTO `transaction` (`tid`, `username`, `description`)"
    " VALUES (0, 'system', 'special transaction for object creation')"
)

# Without this row RelStorage 3 and 4 do not serialise commits: assertions are lost under load.
LOCK_ROW = f"INSERT IGNORE INTO {quote_name(LOCK_TABLE)} (`tid`) VALUES (0)"

# INVOKER, so that no account must exist for ever for clients to be able to read.
CREATE_VIEW = (
    f"CREATE OR REPLACE SQL SECURITY INVOKER VIEW {quote_name(VIEW)} AS"
    " SELECT `zoid`, `tid`, `state` FROM `object_state`"
    " JOIN `current_object` USING (`zoid`, `tid`)"
)


# What an existing database is


@dataclass(frozen=True)
class Identity:
    """What a database was recognised as.

    ``generation`` is ``peat2`` or ``relstorage4``, or None for anything no client of theirs can use;
    ``text`` says it in words and ``remedy`` what to do about it.
    """

    generation: str | None
    keep_history: bool | None
    text: str
    remedy: str


_MIGRATE_15 = "bring it to the tables of RelStorage 1.5 with playbooks/migrate.yml (see docs/migrating.md)"
_ONE_GENERATION = (
    "bring it back to PEAT's tables with playbooks/migrate.yml and migrate_to=repaired, or restore it from a backup"
)
_FOREIGN = "give the project another name, or remove what is in that database yourself"


def identify(database: Database) -> Identity:
    """Tell what a database that is not empty is, from its tables, columns and engines."""
    found = database.tables
    names = {name: {c.name for c in table.columns} for name, table in found.items()}
    if not {"zoid", "tid", "state"} <= names.get("object_state", set()):
        listing = ", ".join(sorted([*found, *database.views, *database.procedures])[:5])
        return Identity(None, None, f"not RelStorage's (it holds {listing})", _FOREIGN)

    signs = {
        "table transaction": "transaction" in found,
        "table current_object": "current_object" in found,
        "column object_state.prev_tid": "prev_tid" in names["object_state"],
    }
    if len(set(signs.values())) > 1:
        there = ", ".join(sign for sign, seen in signs.items() if seen)
        gone = ", ".join(sign for sign, seen in signs.items() if not seen)
        return Identity(
            None,
            None,
            f"neither history-preserving nor history-free: it has {there} but not {gone}",
            "restore it from a backup",
        )
    keep_history = all(signs.values())

    transaction = names.get("transaction", set())
    oids = found["new_oid"].engine if "new_oid" in found else None
    old = ["column transaction.empty"] if "empty" in transaction else []
    old += [f"new_oid in {oids}"] if oids and oids != "InnoDB" else []
    new = ["column transaction.is_empty"] if "is_empty" in transaction else []
    new += [f"table {LOCK_TABLE}"] if LOCK_TABLE in found else []
    new += ["new_oid in InnoDB"] if oids == "InnoDB" else []
    if new and not old:
        old += [
            f"{name} in {found[name].engine}"
            for name in NON_TRANSACTIONAL[1:]
            if name in found and found[name].engine != "InnoDB"
        ]

    def unusable(text: str, remedy: str) -> Identity:
        return Identity(None, keep_history, f"{text}, {mode(keep_history)}", remedy)

    if old and new:
        return unusable(
            "between two generations: of RelStorage 1 and 2 are " + ", ".join(old)
            + "; of RelStorage 3 and 4 are " + ", ".join(new),
            _ONE_GENERATION,
        )  # fmt: skip
    if "state_size" not in names["object_state"]:
        return unusable("RelStorage 1.4's (object_state has no state_size)", _MIGRATE_15)
    if any(c.null for c in found["object_state"].columns if c.name == "state_size"):
        return unusable("partly migrated from RelStorage 1.4 (object_state.state_size may be NULL)", _MIGRATE_15)
    generation = "relstorage4" if new else "peat2"
    lacking = [t.name for t in tables(generation, keep_history) if t.name not in found]
    if lacking == ["blob_chunk"] and generation == "peat2":
        return unusable("partly migrated from RelStorage 1.4 (it lacks blob_chunk)", _MIGRATE_15)
    if lacking:
        return unusable(f"{generation} but lacks {', '.join(lacking)}", "restore it from a backup")
    return Identity(generation, keep_history, f"{generation}, {mode(keep_history)}", "")


def mode(keep_history: bool) -> str:
    """Return the history mode in words."""
    return "history-preserving" if keep_history else "history-free"


def looks_like_relstorage(table_names: Iterable[str]) -> bool:
    """Whether a database with these tables is likely RelStorage's."""
    return {"object_state", "new_oid"} <= set(table_names)


# The plan for projects that are present or frozen


@dataclass(frozen=True)
class Change:
    """What is done to one database, in SQL, and how it reads before and after."""

    name: str
    created: bool
    statements: tuple[str, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]


def incomplete(project: Wanted, database: Database | None) -> bool:
    """Whether only some of the project's tables are there and nothing else.

    Its keys and whether tables hold rows must be read before `plan` can decide.
    """
    if database is None or not database.tables:
        return False
    defined = {t.name for t in tables(project.generation, project.keep_history)}
    return set(database.tables) < defined


def _interrupted(project: Wanted, database: Database, mariadb: bool) -> bool:
    """Whether a creation of ours was interrupted: tables exactly as defined, without data."""
    defined = {t.name: t for t in tables(project.generation, project.keep_history)}
    return (
        incomplete(project, database)
        and not database.filled
        and not database.views
        and not database.procedures
        and all(defined[name].same(table, mariadb) for name, table in database.tables.items())
    )


def plan(
    projects: Iterable[Wanted],
    server: Server,
    procedures: Mapping[str, Mapping[str, str]],
) -> list[Change]:
    """Return what to do so that every project that is not absent has its database.

    ``procedures`` holds ``history_preserving`` and ``history_free``, each {name: statement}.
    Raises SchemaError, naming every project whose existing database is not what the list says.
    """
    changes, problems = [], []
    for project in projects:
        if project.state == "absent":
            continue
        found = server.databases.get(project.name)
        try:
            new = _goal(project, found, server.mariadb, procedures)
        except SchemaError as error:
            problems += error.problems
            continue
        if found is None or new != found:
            changes.append(_change(project, found, new, server.mariadb, procedures))
    if problems:
        raise SchemaError(problems)
    return changes


def _usable(project: Wanted, found: Database | None, mariadb: bool) -> Database:
    """Return the project's database with all its tables, or raise SchemaError."""
    if found is None or found.empty or _interrupted(project, found, mariadb):
        defined = tables(project.generation, project.keep_history)
        return Database(tables={t.name: t.found(mariadb) for t in defined})
    _refuse_other(project, found)
    if len(found.lock_rows) > 1:
        raise SchemaError(
            [
                f"project {project.name}: {LOCK_TABLE} of its database must have exactly one row"
                f" and has {len(found.lock_rows)} (tid {', '.join(map(str, found.lock_rows))}), so"
                " that no client can commit: delete all but tid 0, then run again"
            ]
        )
    return found


def _goal(
    project: Wanted,
    found: Database | None,
    mariadb: bool,
    procedures: Mapping[str, Mapping[str, str]],
) -> Database:
    """Return the project's database as it shall be, or raise SchemaError."""
    goal = _usable(project, found, mariadb)
    if project.generation != "relstorage4":
        return goal
    made = procedures.get(_procedure_set(project), {})
    if not made:
        raise SchemaError(
            [
                f"project {project.name}: clients relstorage4 need RelStorage's procedures and none"
                " were given: pass what the filter relstorage_procedures returns as `procedures`"
            ]
        )
    return replace(
        goal,
        lock_rows=goal.lock_rows or (0,),
        views={**goal.views, VIEW: "INVOKER"} if project.keep_history else goal.views,
        procedures={
            **goal.procedures,
            **{name: Procedure(procedure_comment(sql)) for name, sql in made.items()},
        },
    )


def _procedure_set(project: Wanted) -> str:
    return "history_preserving" if project.keep_history else "history_free"


def _refuse_other(project: Wanted, found: Database) -> None:
    identity = identify(found)
    if (identity.generation, identity.keep_history) == (project.generation, project.keep_history):
        return
    if identity.generation is None:
        remedy = identity.remedy
    elif identity.generation == project.generation:
        remedy = (
            "correct keep_history; a database cannot change its history mode, only be copied into"
            " one of the other mode (zodbconvert)"
        )
    else:
        remedy = (
            "correct clients, or migrate the database first; clients of one generation must never"
            " write into a database of the other"
        )
    raise SchemaError(
        [
            f"project {project.name}: the list says {project.generation},"
            f" {mode(project.keep_history)}, but its database on this server is {identity.text}."
            f" Nothing was changed. What to do: {remedy}"
        ]
    )


def _change(
    project: Wanted,
    found: Database | None,
    goal: Database,
    mariadb: bool,
    procedures: Mapping[str, Mapping[str, str]],
) -> Change:
    statements = []
    old = found or Database()
    if found is None:
        statements.append(f"CREATE DATABASE {quote_name(project.name)} CHARACTER SET {CHARSET} COLLATE {COLLATION}")
    statements.append(f"USE {quote_name(project.name)}")
    for table in tables(project.generation, project.keep_history):
        if table.name not in old.tables:
            statements.append(table.sql(mariadb))
        # Also where the table was there already: a creation may have ended between the two.
        if table.name == "transaction" and old.tables.keys() != goal.tables.keys():
            statements.append(FIRST_TRANSACTION)
    if goal.lock_rows != old.lock_rows:
        statements.append(LOCK_ROW)
    if goal.views != old.views:
        statements.append(CREATE_VIEW)
    outdated = [n for n, what in goal.procedures.items() if what != old.procedures.get(n)]
    if outdated:
        statements.append(PROCEDURE_SESSION)
    for name in sorted(outdated):
        create = procedures[_procedure_set(project)][name]
        if mariadb:
            # At no moment is there no procedure, so that clients may go on.
            statements.append(create.replace("CREATE ", "CREATE OR REPLACE ", 1))
        else:
            statements += [f"DROP PROCEDURE IF EXISTS {quote_name(name)}", create]
    return Change(
        project.name,
        found is None,
        tuple(statements),
        () if found is None else describe(project.name, found),
        describe(project.name, goal),
    )


def procedure_comment(statement: str) -> str:
    """Return the text of COMMENT in a CREATE PROCEDURE statement of RelStorage."""
    return re.search(r"COMMENT '([^']*)'", statement).group(1)


def describe(name: str, database: Database) -> tuple[str, ...]:
    """Return a database as lines for a diff."""
    lines = [f"database {name}" if database.empty else f"database {name}: {identify(database).text}"]
    for table, what in sorted(database.tables.items()):
        columns = ", ".join(map(str, what.columns))
        lines.append(f"  table {table} ({columns}) {what.engine}")
    lines += [f"  row {LOCK_TABLE} {tid}" for tid in database.lock_rows]
    lines += [f"  view {view} SECURITY {what}" for view, what in sorted(database.views.items())]
    lines += [
        f"  procedure {procedure} '{what.comment}' {what.charset} {what.collation} SECURITY {what.security}"
        for procedure, what in sorted(database.procedures.items())
    ]
    return tuple(lines)


# The plan for projects that are absent


def unconfirmed(projects: Iterable[Wanted], confirm_absent: Iterable[str]) -> list[str]:
    """Return a problem for each absent project that peat_confirm_absent does not name.

    Leave out the projects whose database is gone already, if that is known.
    """
    confirmed = set(confirm_absent)
    return [
        f"project {project.name}: state absent removes its database; confirm that by adding {project.name!r} to"
        " peat_confirm_absent, or set state to frozen to keep it"
        for project in projects
        if project.state == "absent" and project.name not in confirmed
    ]


def stale_confirmations(projects: Iterable[Wanted], confirm_absent: Iterable[str]) -> list[str]:
    """Return a problem for each name in peat_confirm_absent that is no absent project.

    A confirmation that lies ready would let a later mistake in the list remove a database.
    """
    states = {project.name: project.state for project in projects}
    return [
        f"peat_confirm_absent names {name!r}, which"
        f" {f'has state {states[name]}' if name in states else 'is not in peat_projects'}: take it out; only projects"
        " with state absent may be confirmed"
        for name in sorted(set(confirm_absent))
        if states.get(name) != "absent"
    ]


def plan_removal(projects: Iterable[Wanted], server: Server, confirm_absent: Iterable[str]) -> list[Change]:
    """Return the databases to dump and drop; ``statements`` are for after the dump.

    Raises SchemaError, before anything is done, for a database that nobody confirmed or that is
    not RelStorage's.
    """
    there = [p for p in projects if p.state == "absent" and p.name in server.databases]
    problems = unconfirmed(there, confirm_absent)
    changes = []
    for project in there:
        found = server.databases[project.name]
        if not found.empty and not looks_like_relstorage(found.tables):
            problems.append(
                f"project {project.name}: state absent, but its database is"
                f" {identify(found).text}: take the project out of the list, and drop that database"
                " yourself if it is not needed"
            )
        changes.append(
            Change(
                project.name,
                False,
                (f"DROP DATABASE {quote_name(project.name)}",),
                describe(project.name, found),
                (),
            )
        )
    if problems:
        raise SchemaError(problems)
    return changes


def refusals(projects: Iterable[Wanted], server: Server, confirm_absent: Iterable[str]) -> list[str]:
    """Return everything in the databases that `plan` and `plan_removal` would refuse.

    For a look at the server before anything on it is changed.
    """
    projects, problems = list(projects), []
    for project in projects:
        if project.state != "absent":
            try:
                _usable(project, server.databases.get(project.name), server.mariadb)
            except SchemaError as error:
                problems += error.problems
    try:
        plan_removal(projects, server, confirm_absent)
    except SchemaError as error:
        problems += error.problems
    return problems + stale_confirmations(projects, confirm_absent)


# Reading a server: one statement each for any number of databases


def lock_rows_query(names: Iterable[str]) -> str | None:
    """Return one SELECT of (database, tid) over all these databases, or None for none."""
    return _union(f"SELECT {literal(n)}, tid FROM {quote_name(n)}.{LOCK_TABLE}" for n in names)


def filled_query(found: Mapping[str, Iterable[str]]) -> str | None:
    """Return one SELECT of (database, table) for tables that hold rows of a client.

    The rows that a creation itself writes (tid 0 of transaction and commit_row_lock) are not.
    """
    return _union(
        f"SELECT {literal(name)}, {literal(table)} FROM DUAL WHERE EXISTS (SELECT 1 FROM"
        f" {quote_name(name)}.{quote_name(table)}"
        + (" WHERE tid <> 0)" if table in ("transaction", LOCK_TABLE) else ")")
        for name, names in found.items()
        for table in names
    )


def _union(selects: Iterable[str]) -> str | None:
    return " UNION ALL ".join(selects) or None
