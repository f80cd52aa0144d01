"""What a database is recognised as, what is done to it, in which portions, and what is said meanwhile."""

from __future__ import annotations

import itertools
import pickle
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peat import migration as m
from peat import schema
from peat.schema import Column, Database, FoundTable

SIZE_NULL = Column("state_size", "bigint", null=True)


def tables(generation, keep_history=True, mariadb=True):
    return {t.name: m.without_keys(t.found(mariadb)) for t in schema.tables(generation, keep_history)}


def with_columns(table, *, without=(), add=()):
    columns = [c for c in table.columns if c.name not in without]
    return replace(table, columns=(*columns, *add))


def old(keep_history=True, engine="MyISAM"):
    """The tables of RelStorage 1.4.2."""
    found = tables("peat2", keep_history)
    del found["blob_chunk"]
    found["object_state"] = with_columns(found["object_state"], without=["state_size"])
    return {n: replace(t, engine=engine) if t.engine == "Aria" else t for n, t in found.items()}


def facts(found, **kwargs):
    defaults = {"rows": 10, "data_bytes": 1000, "newest_tid": 5, "highest_oid": 16, "next_oid_row": 2}
    database = Database(tables=found, lock_rows=kwargs.pop("lock_rows", ()))
    return m.Facts("lab", kwargs.pop("mariadb", True), database, **{**defaults, **kwargs})


def on_the_way(**kwargs):
    found = old()
    found["object_state"] = m._with_size(found["object_state"], SIZE_NULL)
    return facts(found, **kwargs)


def without_blobs():
    found = tables("peat2")
    del found["blob_chunk"]
    return facts(found)


def release_11():
    found = old()
    found["pack_object"] = with_columns(found["pack_object"], without=["visited"])
    return facts(found)


def release_10():
    found = old()
    found["transaction"] = with_columns(found["transaction"], without=["empty"])
    return facts(found)


def release_140_free():
    found = old(False)
    found["object_refs_added"] = with_columns(found["object_refs_added"], without=["zoid"])
    return facts(found)


def half_done():
    """What RelStorage 3 leaves where its migration stops after the engines."""
    return facts({n: replace(t, engine="InnoDB") for n, t in tables("peat2").items()})


STATES = {
    "empty": (facts({}), None, "empty"),
    "foreign": (facts({"pages": FoundTable("InnoDB", ())}), None, "foreign"),
    "damaged": (facts({n: t for n, t in old().items() if n != "current_object"}), None, "damaged"),
    "1.0": (release_10(), "1.0", "complete"),
    "1.1": (release_11(), "1.1", "complete"),
    "1.4": (facts(old()), "1.4", "complete"),
    "1.4.0 free": (release_140_free(), "1.4.0", "complete"),
    "1.4.2 free": (facts(old(False)), "1.4.2", "complete"),
    "added": (on_the_way(some_null=True), "1.4", "added"),
    "partly filled": (on_the_way(some_null=True, some_size=True), "1.4", "partly filled"),
    "filled": (on_the_way(some_size=True), "1.4", "filled"),
    "not null": (without_blobs(), "1.4", "not null"),
    "1.5": (facts(tables("peat2")), "1.5", "complete"),
    "1.5 free": (facts(tables("peat2", False)), "1.5", "complete"),
    "half-done": (half_done(), "3/4", "half-done"),
    "3/4": (facts(tables("relstorage4"), lock_rows=(0,)), "3/4", "complete"),
    "3/4 free": (facts(tables("relstorage4", False), lock_rows=(0,)), "3/4", "complete"),
}


@pytest.mark.parametrize("name", STATES)
def test_recognise(name):
    found, release, stage = STATES[name]
    status = m.recognise(found)
    assert (status.release, status.stage) == (release, stage)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            facts({**old(), "object_state": replace(old()["object_state"], engine="MyISAM")}),
            "mixed engines: object_state",
        ),
        (facts(tables("peat2"), highest_oid=17, next_oid_row=2), "new_oid is behind"),
        (facts(tables("relstorage4")), "0 rows instead of one"),
        (facts(old()), "in MyISAM"),
        (facts({n: t for n, t in tables("peat2").items() if n != "pack_state"}), "missing tables: pack_state"),
    ],
)
def test_findings(found, words):
    assert any(words in finding for finding in m.recognise(found).findings)


def test_a_right_database_has_no_findings():
    for found in (facts(tables("peat2")), facts(tables("relstorage4"), lock_rows=(0,))):
        assert m.recognise(found).findings == ()


# Plans

MIGRATED = {"1.1", "1.4", "1.4.0 free", "1.4.2 free", "added", "partly filled", "filled", "not null"}


@pytest.mark.parametrize("name", sorted(MIGRATED))
def test_migrated_is_the_layout_that_the_schema_module_makes(name):
    found, _, _ = STATES[name]
    plan = m.plan(found, "migrated")
    assert plan.steps
    keep_history = "free" not in name
    assert plan.goal.tables == tables("peat2", keep_history)
    assert schema.identify(plan.goal).generation == "peat2"
    assert m.plan(replace(found, database=plan.goal, some_null=False), "migrated").steps == ()


def test_every_way_goes_through_the_states_in_order():
    """What one step leaves is a state from which only the later steps are planned."""
    assert [s.kind for s in m.plan(STATES["1.4"][0], "migrated").steps] == [
        "sql",
        "sql",
        "alter",
        "fill",
        "rebuild",
        "sql",
    ]
    for name, kinds in {
        "added": ["fill", "rebuild", "sql"],
        "partly filled": ["fill", "rebuild", "sql"],
        # Rows of old clients may have come since, so it is looked at again.
        "filled": ["fill", "rebuild", "sql"],
        "not null": ["sql"],
    }.items():
        found = STATES[name][0]
        helpers = {n: t for n, t in tables("peat2").items() if n in schema.NON_TRANSACTIONAL}
        found = replace(found, database=Database(tables={**found.database.tables, **helpers}))
        assert [s.kind for s in m.plan(found, "migrated").steps] == kinds


def test_history_free_of_1_4_0_gets_the_table_of_1_4_2():
    plan = m.plan(release_140_free(), "migrated")
    assert "zoid" in {c.name for c in plan.goal.tables["object_refs_added"].columns}
    # What refers to states it no longer knows must go with it.
    assert any("DROP TABLE IF EXISTS `object_ref`" in s for s in plan.steps[0].statements)
    assert any("AFTER `tid`" in s for step in plan.steps for s in step.statements)


@pytest.mark.parametrize(("name", "goal"), [
    ("1.5", "migrated"), ("1.5 free", "migrated"), ("1.4", "downgraded"), ("1.5", "repaired"), ("3/4", "relstorage4"),
    *(("empty", goal) for goal in m.GOALS),
])  # fmt: skip
def test_nothing_to_do(name, goal):
    plan = m.plan(STATES[name][0], goal)
    assert plan.steps == ()
    assert plan.goal == STATES[name][0].database


REFUSALS = {
    **{("foreign", goal): "not touched" for goal in m.GOALS},
    **{("damaged", goal): "not touched" for goal in m.GOALS},
    ("3/4", "migrated"): "state=repaired",
    ("half-done", "migrated"): "state=repaired",
    ("3/4", "downgraded"): "state=repaired",
    ("1.4", "repaired"): "state=migrated",
    ("1.4", "relstorage4"): "state=migrated",
    ("added", "relstorage4"): "state=migrated",
    ("1.0", "migrated"): "import.yml",
}


@pytest.mark.parametrize(("name", "goal"), REFUSALS)
def test_refused_with_the_remedy(name, goal):
    with pytest.raises(m.MigrationError, match=REFUSALS[name, goal]):
        m.plan(STATES[name][0], goal)


def test_blobs_cannot_go_back_to_1_4():
    with pytest.raises(m.MigrationError, match="blobs"):
        m.plan(facts(tables("peat2"), blobs=True), "downgraded")


def test_data_in_myisam_is_not_migrated_in_place():
    found = {**old(), "object_state": replace(old()["object_state"], engine="MyISAM")}
    with pytest.raises(m.MigrationError, match=r"import\.yml"):
        m.plan(facts(found), "migrated")


@pytest.mark.parametrize("name", ["3/4", "3/4 free", "half-done"])
def test_repair_ends_at_peats_tables(name):
    found = STATES[name][0]
    found = replace(
        found,
        database=replace(found.database, views={schema.VIEW: "DEFINER"}, procedures={"p": schema.Procedure("c")}),
    )
    goal = m.plan(found, "repaired").goal
    assert goal == Database(tables=tables("peat2", "free" not in name))


@pytest.mark.parametrize(("name", "keep_history"), [("1.5", True), ("1.5 free", False), ("half-done", True)])
def test_relstorage4_ends_at_its_tables_with_one_lock_row(name, keep_history):
    goal = m.plan(STATES[name][0], "relstorage4").goal
    assert goal.tables == tables("relstorage4", keep_history)
    assert goal.lock_rows == (0,)


@pytest.mark.parametrize(("highest", "next_row", "wanted"), [
    (None, 1, None), (0, 1, None), (16, 2, None), (16, 1, 1), (17, 2, 2), (1599, 100, 100), (1600, 101, None),
    (5, None, 1),
])  # fmt: skip
def test_new_oid_must_be_ahead(highest, next_row, wanted):
    assert m.oid_row_wanted(facts({}, highest_oid=highest, next_oid_row=next_row)) == wanted


# How much


def test_estimate_grows_with_the_data_and_says_the_space():
    small, large = (facts(old(), data_bytes=n) for n in (10**6, 10**9))
    plan = m.plan(small, "migrated")
    assert m.estimate(large, plan).total > 10 * m.estimate(small, plan).total
    assert m.estimate(large, plan).data_bytes > 10**9
    assert m.estimate(large, plan).dump_bytes >= 10**9
    assert m.estimate(large, plan, dump=False).dump_bytes == 0


def test_a_full_disk_is_refused_beforehand():
    need = m.Estimate({}, 800, 300)
    m.refuse_space(need, 800, 300, same_disk=False)
    m.refuse_space(need, 1100, 1100, same_disk=True)
    with pytest.raises(m.MigrationError, match="the dump needs 300 B and has 299 B"):
        m.refuse_space(need, 800, 299, same_disk=False)
    with pytest.raises(m.MigrationError, match=r"together needs 1\.1 kB"):
        m.refuse_space(need, 1000, 1000, same_disk=True)


# Portions


KEYS = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 6)), unique=True, max_size=30)


def select(rows, portion, columns):
    """Read a condition as the server does."""
    condition, values = m.within(portion, columns)
    for value in values:
        condition = condition.replace("%s", str(value), 1)
    condition = condition.replace(" = ", " == ").replace("OR", "or").replace("AND", "and").replace("TRUE", "True")
    return [row for row in rows if eval(condition, dict(zip(columns, row)))]


@given(KEYS, st.integers(1, 5))
def test_portions_hold_every_row_once(keys, count):
    rows, columns = sorted(keys), m.key_columns(True)
    low, seen = None, []
    for _ in range(40):
        rest = select(rows, m.Portion(low, None), columns)
        high = rest[count - 1] if len(rest) >= count else None
        seen += select(rows, m.Portion(low, high), columns)
        if high is None:
            break
        low = high
    assert seen == rows


def test_portions_of_history_free_tables():
    assert select([(1,), (2,), (3,)], m.Portion((1,), (2,)), m.key_columns(False)) == [(2,)]


def test_portions_follow_the_time_they_take():
    assert m.next_rows(1000, 0.1, 5000) == 2000
    assert m.next_rows(4000, 0.1, 5000) == 5000
    assert m.next_rows(1000, 4, 5000) == 250
    assert m.next_rows(1, 100, 5000) == 1


def test_ledger_adds_up():
    ledger = m.Ledger(
        [(m.Portion(None, (1,)), m.Measured(2, 0b11, 10)), (m.Portion((1,), None), m.Measured(1, 0b01, 5))]
    )
    assert ledger.total == m.Measured(3, 0b10, 15)


# Progress


def test_progress_says_percent_speed_and_time_left():
    line = m.Progress("fill", 2000, started=0, done=500).line(now=10)
    assert line == "fill: 25%, 500 of 2,000 rows, 50 rows/s, 30 s left"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (61, "1 min 01 s"), (7300, "2 h 01 min")]
)
def test_duration(seconds, text):
    assert m.duration(seconds) == text


# Python 2 pickles


def record(value, protocol=2):
    return pickle.dumps(("mod", "cls"), protocol) + pickle.dumps(value, protocol)


def python2(text: bytes) -> bytes:
    """A pickle of a str of Python 2."""
    return b"U" + bytes([len(text)]) + text + b"."


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        (record({"a": "é"}), None),
        (record({"a": b"\xff"}, 3), None),
        (python2(b"class") + python2(b"ascii"), None),
        (python2(b"class") + python2(b"\0\0\0\0\0\0\0\x7f"), None),
        (python2(b"class") + python2(b"\0\0\0\0\0\0\0\x80"), "object id"),
        (python2(b"class") + python2("é".encode()), "a text"),
        (b"", "not a pickle"),
    ],
)
def test_pickle_problem(state, problem):
    found = m.pickle_problem(state)
    assert problem in found if problem else found is None


def test_states_differ_from_each_other():
    """No two of the states that are told apart look the same to the planner."""
    for (one, (a, *_)), (other, (b, *_)) in itertools.combinations(STATES.items(), 2):
        assert a != b, (one, other)
