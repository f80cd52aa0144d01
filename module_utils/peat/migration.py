"""Bringing a RelStorage database from one release line's tables to another's: the decisions.

What a database is, what has to be done to it, in which portions, how long and how much space that
takes. Everything here is a pure function of what `migrator` reads; nothing is executed.

MySQL and MariaDB end a transaction at every ALTER TABLE, so a migration can be interrupted between any
two steps. Each step therefore leaves a database that `recognise` tells apart and that old and new
clients can read, and `plan` for such a database holds just the steps that are missing.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from . import schema
from .schema import Database, FoundTable
from .sql import quote_name

#: What a caller can ask for, besides `info`.
GOALS = ("migrated", "downgraded", "repaired", "relstorage4")

#: Objects that share one row of new_oid: row n stands for the object ids 16 n - 15 to 16 n.
OIDS_PER_ROW = 16

#: Only packing fills these, and it can fill them again.
HELPERS = tuple(name for name in schema.NON_TRANSACTIONAL if name != "new_oid")
REFERENCES = ("object_ref", "object_refs_added")


class MigrationError(Exception):
    """The database cannot be brought where it was asked to be; says why and what to do."""


# What is read


@dataclass(frozen=True)
class Session:
    """A connection of somebody else that uses the database."""

    id: int
    user: str
    address: str
    seconds: int
    in_transaction: bool = False
    doing: str = ""

    def __str__(self) -> str:
        """Return it as an administrator would look for it."""
        what = self.doing or ("idle inside a transaction" if self.in_transaction else "idle")
        return f"connection {self.id} of {self.user} from {self.address}, {what} for {self.seconds} s"


@dataclass(frozen=True)
class Facts:
    """Everything a plan depends on. Sizes in bytes; None where the database has no such thing."""

    name: str
    mariadb: bool
    database: Database
    rows: int = 0
    data_bytes: int = 0
    #: Some state_size is NULL, some is not. Read only where NULL is allowed.
    some_null: bool = False
    some_size: bool = False
    blobs: bool = False
    newest_tid: int | None = None
    highest_oid: int | None = None
    #: The number that the next row of new_oid would get.
    next_oid_row: int | None = None
    sessions: tuple[Session, ...] = ()


# What it is


@dataclass(frozen=True)
class Status:
    """What a database was recognised as.

    release: 1.0, 1.1, 1.4, 1.4.0, 1.4.2, 1.5, 3/4, or None if no release made it.
    stage: complete; added, partly filled, filled, not null (on the way from 1.4 to 1.5); half-done
    (RelStorage's own migration to 3 or 4 did not end); empty; foreign; damaged.
    """

    release: str | None
    keep_history: bool | None
    stage: str
    text: str
    findings: tuple[str, ...] = ()


_ON_THE_WAY = {
    "added": "state_size was added, no row has it yet",
    "partly filled": "state_size was added, some rows do not have it yet",
    "filled": "state_size is filled, but rows without it are still accepted",
    "not null": "state_size is complete, blob_chunk is missing",
}


def recognise(facts: Facts) -> Status:
    """Tell release line, history mode and stage of a database, and what is wrong with it."""
    found = facts.database.tables
    if facts.database.empty:
        return Status(None, None, "empty", "empty: it has no tables")
    columns = {name: {c.name for c in table.columns} for name, table in found.items()}
    identity = schema.identify(facts.database)
    if not {"zoid", "tid", "state"} <= columns.get("object_state", set()):
        return Status(None, None, "foreign", identity.text)
    if identity.keep_history is None:
        return Status(None, None, "damaged", identity.text)

    keep_history = identity.keep_history
    modern = _modern_signs(facts.database)
    findings = tuple(_findings(facts, keep_history))
    mode = schema.mode(keep_history)

    if "state_size" in columns["object_state"] and modern:
        complete = identity.generation == "relstorage4"
        text = f"RelStorage 3's and 4's, {mode}" if complete else identity.text
        return Status("3/4", keep_history, "complete" if complete else "half-done", text, findings)
    if modern:
        text = f"RelStorage 1.4's with signs of RelStorage 3 and 4 ({', '.join(modern)}), {mode}"
        return Status("1.4", keep_history, "half-done", text, findings)

    stage = _stage(facts)
    if stage == "complete" and "state_size" in columns["object_state"]:
        return Status("1.5", keep_history, stage, f"RelStorage 1.5's, {mode}", findings)
    release = _old_release(columns, keep_history)
    text = f"RelStorage {release}'s, {mode}"
    if stage != "complete":
        text += f", on the way to 1.5: {_ON_THE_WAY[stage]}"
    return Status(release, keep_history, stage, text, findings)


def _modern_signs(database: Database) -> list[str]:
    columns = {c.name for c in database.tables.get("transaction", FoundTable("", ())).columns}
    signs = ["column transaction.is_empty"] if "is_empty" in columns else []
    signs += [f"table {schema.LOCK_TABLE}"] if schema.LOCK_TABLE in database.tables else []
    oids = database.tables.get("new_oid")
    return signs + (["new_oid in InnoDB"] if oids and oids.engine == "InnoDB" else [])


def _old_release(columns: Mapping[str, set], keep_history: bool) -> str:
    if not keep_history:
        return "1.4.2" if "zoid" in columns.get("object_refs_added", ()) else "1.4.0"
    if "empty" not in columns["transaction"]:
        return "1.0"
    # History-preserving tables did not change from 1.1.1 to 1.4.2.
    return "1.4" if "visited" in columns.get("pack_object", ()) else "1.1"


def _stage(facts: Facts) -> str:
    size = next((c for c in facts.database.tables["object_state"].columns if c.name == "state_size"), None)
    if size is None:
        return "complete"
    if not size.null:
        return "complete" if "blob_chunk" in facts.database.tables else "not null"
    if not facts.some_null:
        return "filled"
    return "partly filled" if facts.some_size else "added"


def _findings(facts: Facts, keep_history: bool) -> Iterable[str]:
    found = facts.database.tables
    core = ("object_state", "current_object", "transaction", "blob_chunk")
    wrong = [f"{name} in {found[name].engine}" for name in core if name in found and found[name].engine != "InnoDB"]
    if wrong:
        yield f"mixed engines: {', '.join(wrong)} instead of InnoDB: a crash can lose or damage data"
    weak = [name for name in schema.NON_TRANSACTIONAL if name in found and found[name].engine == "MyISAM"]
    if weak and facts.mariadb:
        yield f"{', '.join(weak)} in MyISAM: a crash can damage them; a migration makes them Aria"
    if schema.LOCK_TABLE in found and len(facts.database.lock_rows) != 1:
        yield (
            f"{schema.LOCK_TABLE} has {len(facts.database.lock_rows)} rows instead of one:"
            " commits of RelStorage 3 and 4 are not serialised"
        )
    if oid_row_wanted(facts):
        yield (
            f"new_oid is behind the stored objects: the next object would get an id up to"
            f" {facts.next_oid_row * OIDS_PER_ROW if facts.next_oid_row else 0}, objects up to"
            f" {facts.highest_oid} exist, so new objects would overwrite old ones"
        )
    lacking = [t.name for t in schema.tables("peat2", keep_history) if t.name not in found]
    if lacking and lacking != ["blob_chunk"]:
        yield f"missing tables: {', '.join(lacking)}"


def oid_row_wanted(facts: Facts) -> int | None:
    """Return the row that new_oid must get so that no stored object's id is given out again."""
    if facts.highest_oid is None:
        return None
    last = -(-facts.highest_oid // OIDS_PER_ROW)
    return last if last > 0 and (facts.next_oid_row or 1) <= last else None


# What to do


@dataclass(frozen=True)
class Step:
    """One step. kind: sql (short), alter (short, but waits for readers), rebuild (copies all rows), fill."""

    kind: str
    text: str
    statements: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The steps, in order, and the database after them (empty steps: it is there already)."""

    steps: tuple[Step, ...]
    goal: Database
    #: The rows of object_state are digested before and after.
    reads_states: bool = False

    @property
    def rebuilds(self) -> bool:
        """Whether a second copy of object_state is made."""
        return any(step.kind == "rebuild" for step in self.steps)


def plan(facts: Facts, goal: str) -> Plan:
    """Return what brings a database to a goal. Raises MigrationError where that is not possible."""
    status = recognise(facts)
    where = f"database {facts.name} is {status.text}"
    nothing = Plan((), facts.database)
    if status.stage == "empty":
        return nothing
    if status.stage in ("foreign", "damaged"):
        raise MigrationError(f"{where}. It was not touched: name a database of RelStorage, or restore it from a backup")
    mixed = [finding for finding in status.findings if finding.startswith("mixed engines")]
    if mixed and goal != "downgraded":
        raise MigrationError(
            f"{where}, with {mixed[0]}. Nothing was changed: dump it and load the dump with playbooks/import.yml,"
            " which makes right tables"
        )
    if status.release == "1.0":
        raise MigrationError(
            f"{where}. Nothing was changed: dump it and load the dump with playbooks/import.yml, which makes"
            " right tables"
        )
    return {"migrated": _migrate, "downgraded": _downgrade, "repaired": _repair, "relstorage4": _modernise}[goal](
        facts, status, where
    )


class _Work:
    """Steps while they are collected, with the database as it will be after them."""

    def __init__(self, facts: Facts, keep_history: bool, generation: str):
        self.mariadb = facts.mariadb
        self.database = facts.database
        self.defined = {t.name: t for t in schema.tables(generation, keep_history)}
        self.steps: list[Step] = []

    def tables(self, changes: Mapping[str, FoundTable | None]) -> None:
        merged = {**self.database.tables, **changes}
        self.database = replace(self.database, tables={n: t for n, t in merged.items() if t is not None})

    def create(self, name: str) -> None:
        table = self.defined[name]
        self.steps.append(Step("sql", f"create {name}", (table.sql(self.mariadb),)))
        self.tables({name: without_keys(table.found(self.mariadb))})

    def helpers(self) -> None:
        """Make the tables that only packing uses as they must be; all of one pack or none."""
        wrong = []
        for group in (REFERENCES, tuple(n for n in HELPERS if n not in REFERENCES)):
            group = [name for name in group if name in self.defined]
            if any(self.differs(name) for name in group):
                wrong += group
        if wrong:
            statements = [f"DROP TABLE IF EXISTS {quote_name(name)}" for name in wrong]
            statements += [self.defined[name].sql(self.mariadb) for name in wrong]
            self.steps.append(Step("sql", f"make anew, for packing only: {', '.join(wrong)}", tuple(statements)))
            self.tables({name: without_keys(self.defined[name].found(self.mariadb)) for name in wrong})

    def differs(self, name: str) -> bool:
        return self.database.tables.get(name) != without_keys(self.defined[name].found(self.mariadb))

    def next_oid(self, facts: Facts) -> None:
        table, found = self.defined["new_oid"], self.database.tables.get("new_oid")
        if found is None:
            self.create("new_oid")
        elif self.differs("new_oid"):
            engine = table.engine(self.mariadb) + (" TRANSACTIONAL=1" if table.engine(self.mariadb) == "Aria" else "")
            self.steps.append(
                Step(
                    "sql",
                    f"new_oid from {found.engine} to {table.engine(self.mariadb)}",
                    (f"ALTER TABLE `new_oid` MODIFY {table.columns[0].sql()}, ENGINE={engine}",),
                )
            )
            self.tables({"new_oid": without_keys(table.found(self.mariadb))})
        row = oid_row_wanted(facts)
        if row:
            self.steps.append(
                Step(
                    "sql",
                    f"put new_oid ahead of the highest object id, {facts.highest_oid}",
                    (f"INSERT INTO `new_oid` (`zoid`) VALUES ({row})",),
                )
            )

    def done(self, reads_states: bool = False) -> Plan:
        return Plan(tuple(self.steps), self.database, reads_states and bool(self.steps))


def without_keys(table: FoundTable) -> FoundTable:
    """Return a table without its keys, which are not compared."""
    return replace(table, keys=None)


def _with_size(table: FoundTable, size: schema.Column) -> FoundTable:
    """Return object_state with the column where RelStorage 1.5 has it: just before state."""
    columns = [c for c in table.columns if c.name != "state_size"]
    place = next(i for i, c in enumerate(columns) if c.name == "state")
    return replace(table, columns=(*columns[:place], size, *columns[place:]))


def _migrate(facts: Facts, status: Status, where: str) -> Plan:
    if status.release == "3/4" or status.stage == "half-done":
        raise MigrationError(
            f"{where}. Nothing was changed: it is newer than RelStorage 1.5. If PEAT is to use it, state=repaired"
            " brings it back"
        )
    work = _Work(facts, status.keep_history, "peat2")
    if status.release == "1.5":
        return work.done()
    after = "md5" if status.keep_history else "tid"
    states = facts.database.tables["object_state"]
    size = work.defined["object_state"].columns[-2]
    work.helpers()
    work.next_oid(facts)
    if not any(c.name == "state_size" for c in states.columns):
        work.steps.append(
            Step(
                "alter",
                "add the column state_size",
                (f"ALTER TABLE `object_state` ADD COLUMN `state_size` BIGINT AFTER `{after}`",),
            )
        )
    reads = status.stage != "not null"
    if reads:
        work.steps.append(Step("fill", "fill state_size in portions"))
        work.steps.append(
            Step(
                "rebuild",
                "accept no row without state_size any more",
                (f"ALTER TABLE `object_state` MODIFY `state_size` BIGINT NOT NULL AFTER `{after}`",),
            )
        )
        work.tables({"object_state": _with_size(states, size)})
    if "blob_chunk" not in facts.database.tables:
        work.create("blob_chunk")
    return work.done(reads)


def _downgrade(facts: Facts, status: Status, where: str) -> Plan:
    if status.release == "3/4" or status.stage == "half-done":
        raise MigrationError(f"{where}. Nothing was changed: state=repaired brings it to RelStorage 1.5 first")
    work = _Work(facts, status.keep_history, "peat2")
    if facts.blobs:
        raise MigrationError(
            f"{where} and holds blobs, which RelStorage 1.4 cannot keep. Nothing was changed: stay with 1.5, or remove"
            " the blobs with a client and pack"
        )
    states = facts.database.tables["object_state"]
    if "blob_chunk" in facts.database.tables:
        work.steps.append(Step("sql", "drop the empty blob_chunk", ("DROP TABLE `blob_chunk`",)))
        work.tables({"blob_chunk": None})
    if any(c.name == "state_size" for c in states.columns):
        work.steps.append(
            Step("alter", "drop the column state_size", ("ALTER TABLE `object_state` DROP COLUMN `state_size`",))
        )
        columns = tuple(c for c in states.columns if c.name != "state_size")
        work.tables({"object_state": replace(states, columns=columns)})
    return work.done(True)


def _rename_empty(work: _Work) -> None:
    """Name the flag of transaction, and type its tid, as the generation does."""
    table, found = work.defined["transaction"], work.database.tables["transaction"]
    if found == without_keys(table.found(work.mariadb)):
        return
    tid, flag = table.columns[0], table.columns[2]
    old = next(c.name for c in found.columns if c.name in ("empty", "is_empty"))
    work.steps.append(
        Step(
            "alter",
            f"transaction.{old} becomes {flag.name}, tid {tid.type}",
            (f"ALTER TABLE `transaction` MODIFY {tid.sql()}, CHANGE {quote_name(old)} {flag.sql()}",),
        )
    )
    work.tables({"transaction": without_keys(table.found(work.mariadb))})


def _repair(facts: Facts, status: Status, where: str) -> Plan:
    columns = {c.name: c for c in facts.database.tables["object_state"].columns}
    if status.release != "1.5" and (status.release != "3/4" or columns["state_size"].null):
        raise MigrationError(
            f"{where}. Nothing was changed: only what RelStorage 3 or 4 made of a database of RelStorage 1.5 can be"
            " repaired; state=migrated is for older ones"
        )
    work = _Work(facts, status.keep_history, "peat2")
    if status.release == "1.5":
        if oid_row_wanted(facts):
            work.next_oid(facts)
        return work.done()
    database = facts.database
    if status.keep_history:
        _rename_empty(work)
    work.helpers()
    work.next_oid(facts)
    if "blob_chunk" not in database.tables:
        work.create("blob_chunk")
    drops = [f"DROP VIEW {quote_name(name)}" for name in sorted(database.views) if name == schema.VIEW]
    drops += [f"DROP PROCEDURE {quote_name(name)}" for name in sorted(database.procedures)]
    drops += [f"DROP TABLE {quote_name(schema.LOCK_TABLE)}"] if schema.LOCK_TABLE in database.tables else []
    if drops:
        work.steps.append(Step("sql", "drop what only RelStorage 3 and 4 use", tuple(drops)))
        work.tables({schema.LOCK_TABLE: None})
        views = {name: what for name, what in database.views.items() if name != schema.VIEW}
        work.database = replace(work.database, views=views, procedures={}, lock_rows=())
    return work.done(True)


def _modernise(facts: Facts, status: Status, where: str) -> Plan:
    columns = {c.name: c for c in facts.database.tables["object_state"].columns}
    if "state_size" not in columns or columns["state_size"].null:
        raise MigrationError(f"{where}. Nothing was changed: bring it to RelStorage 1.5 with state=migrated first")
    work = _Work(facts, status.keep_history, "relstorage4")
    if status.keep_history:
        _rename_empty(work)
    work.helpers()
    work.next_oid(facts)
    if "blob_chunk" not in facts.database.tables:
        work.create("blob_chunk")
    if schema.LOCK_TABLE not in facts.database.tables:
        work.create(schema.LOCK_TABLE)
    if 0 not in facts.database.lock_rows:
        work.steps.append(Step("sql", "one row of the commit lock", (schema.LOCK_ROW,)))
        work.database = replace(work.database, lock_rows=tuple(sorted({*facts.database.lock_rows, 0})))
    return work.done(True)


# How much


@dataclass(frozen=True)
class Estimate:
    """Expected seconds by phase, and bytes needed in the server's data folder and for the dump."""

    seconds: Mapping[str, float]
    data_bytes: int
    dump_bytes: int

    @property
    def total(self) -> float:
        """Seconds of all phases."""
        return sum(self.seconds.values())


#: Bytes of object_state per second, from a run of benchmarks/migration.py on two cores; see
#: docs/migrating.md. Only the order of magnitude is meant.
RATES = {"dump": 15e6, "fill": 60e6, "rebuild": 60e6, "verify": 150e6}
# A moment for each statement that copies nothing.
_PER_STEP = 0.1


def estimate(facts: Facts, steps: Plan, dump: bool = True) -> Estimate:
    """Return time and space for a plan. A rebuild needs a second copy of object_state with its indexes."""
    if not steps.steps:
        return Estimate({}, 0, 0)
    phases = {"dump"} if dump else set()
    phases |= {step.kind for step in steps.steps if step.kind in RATES}
    phases |= {"fill", "verify"} if steps.reads_states else set()
    seconds = {phase: round(facts.data_bytes / RATES[phase] + _PER_STEP, 1) for phase in RATES if phase in phases}
    seconds["other"] = round(_PER_STEP * len(steps.steps), 1)
    # 16 MiB: the undo and redo log of a portion, temporary files of small tables.
    data = (int(facts.data_bytes * 1.1) if steps.rebuilds else 0) + (16 << 20)
    # Hexadecimal text of bytes that do not compress, compressed again.
    return Estimate(seconds, data, int(facts.data_bytes * 1.2) if dump else 0)


def refuse_space(need: Estimate, data_free: int, dump_free: int, same_disk: bool) -> None:
    """Raise MigrationError if the disk would get full on the way."""
    wanted = [("the server's data", need.data_bytes, data_free), ("the dump", need.dump_bytes, dump_free)]
    if same_disk:
        wanted = [("the server's data and the dump together", need.data_bytes + need.dump_bytes, data_free)]
    short = [f"{what} needs {size(bytes_)} and has {size(free)}" for what, bytes_, free in wanted if free < bytes_]
    if short:
        raise MigrationError(
            f"not enough free disk space: {'; '.join(short)}. Nothing was changed: make room, or name a backup on"
            " another disk with `backup`"
        )


def size(count: float) -> str:
    """Return a number of bytes as a person reads it."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float) -> str:
    """Return seconds as a person reads them."""
    seconds = int(seconds + 0.5)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02} min"


# Portions of object_state


def key_columns(keep_history: bool) -> tuple[str, ...]:
    """Return the primary key of object_state."""
    return ("zoid", "tid") if keep_history else ("zoid",)


@dataclass(frozen=True)
class Portion:
    """Rows of object_state with low < primary key <= high; None is no bound."""

    low: tuple[int, ...] | None
    high: tuple[int, ...] | None


def within(portion: Portion, columns: Sequence[str]) -> tuple[str, list[int]]:
    """Return a WHERE condition and its parameters.

    Written out instead of as a comparison of rows, for which neither server uses the index.
    """
    parts, values = [], []
    for bound, less in ((portion.low, False), (portion.high, True)):
        if bound is None:
            continue
        sign = "<" if less else ">"
        last = "<=" if less else ">"
        if len(columns) == 1:
            parts.append(f"{columns[0]} {last} %s")
            values.append(bound[0])
        else:
            parts.append(f"({columns[0]} {sign} %s OR ({columns[0]} = %s AND {columns[1]} {last} %s))")
            values += [bound[0], bound[0], bound[1]]
    return " AND ".join(parts) or "TRUE", values


def next_rows(rows: int, seconds: float, most: int, target: float = 1.0) -> int:
    """Return how many rows the next portion has: as many as fit a transaction of `target` seconds.

    At most `most`, what the administrator allows, and never less than one; growing slowly, because the
    next rows may be larger.
    """
    wanted = rows * target / seconds if seconds > 0 else most
    return max(1, min(most, int(min(wanted, rows * 2))))


def digest_columns(keep_history: bool) -> str:
    """Return the SELECT list of a portion's (rows, digest, bytes).

    The digest is the exclusive or of 64 bits of each row's SHA-256 (MySQL 9.7 has no MD5 any more, and
    MariaDB's is slower); keys are unique, so no two rows cancel.
    A state is hashed by itself first: a text made of it could exceed max_allowed_packet and become NULL.
    """
    # Binary, because columns and functions have different collations, which CONCAT refuses to mix.
    texts = [*(["md5"] if keep_history else []), "SHA2(state, 256)"]
    parts = ["zoid", "tid", *(f"CAST(COALESCE({text}, '-') AS BINARY)" for text in texts)]
    row = f"CONV(LEFT(SHA2(CONCAT_WS(',', {', '.join(parts)}), 256), 16), 16, 10)"
    return f"COUNT(*), COALESCE(BIT_XOR(CAST({row} AS UNSIGNED)), 0), COALESCE(SUM(LENGTH(state)), 0)"


RIGHT_SIZE = "(state_size <=> COALESCE(LENGTH(state), 0))"


@dataclass(frozen=True)
class Measured:
    """What a portion holds."""

    rows: int
    digest: int
    bytes: int


@dataclass
class Ledger:
    """The measure of every portion, in order, as it was under the lock before the change."""

    portions: list[tuple[Portion, Measured]] = field(default_factory=list)

    @property
    def total(self) -> Measured:
        """All portions together."""
        digest = 0
        for _, measured in self.portions:
            digest ^= measured.digest
        return Measured(sum(m.rows for _, m in self.portions), digest, sum(m.bytes for _, m in self.portions))


# Progress


@dataclass
class Progress:
    """How far a phase is. `total` and `done` in rows, or in percent for a statement of the server's."""

    phase: str
    total: float
    started: float
    done: float = 0
    unit: str = "rows"

    def line(self, now: float) -> str:
        """Return the line an administrator sees: percent, speed, time left."""
        elapsed = max(now - self.started, 1e-6)
        if self.total <= 0:
            return f"{self.phase}: {duration(elapsed)}"
        share = min(self.done / self.total, 1.0)
        text = f"{self.phase}: {share:.0%}"
        if self.unit == "rows":
            text += f", {self.done:,.0f} of {self.total:,.0f} rows, {self.done / elapsed:,.0f} rows/s"
        if 0 < share < 1:
            text += f", {duration(elapsed / share - elapsed)} left"
        return text


# Whether Python 3 can read what Python 2 wrote


def pickle_problem(state: bytes) -> str | None:
    """Return why ZODB on Python 3 cannot open a state, or None if it can.

    Python 2 writes object ids and texts as strings of bytes. Python 3 decodes those as ASCII, so that any
    byte of 128 or more ends in UnicodeDecodeError; an object id above 127 has one.
    """
    position = 0
    # A record is two pickles: the class, then the attributes.
    for _ in range(2):
        try:
            for opcode, argument, at in pickletools.genops(state[position:]):
                if opcode.name in ("STRING", "BINSTRING", "SHORT_BINSTRING") and any(ord(c) > 127 for c in argument):
                    what = "an object id" if len(argument) == 8 and argument.startswith("\0") else "a text"
                    return f"{what} of Python 2 with non-ASCII bytes"
                end = at
        except Exception as error:
            return f"not a pickle: {error}"
        position += end + 1
    return None
