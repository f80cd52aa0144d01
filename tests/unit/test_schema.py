"""What databases get, what existing ones are recognised as, and what is refused."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from peat.schema import (
    FIRST_TRANSACTION,
    LOCK_ROW,
    PROCEDURE_SESSION,
    VIEW,
    Column,
    Database,
    FoundTable,
    Procedure,
    SchemaError,
    Server,
    Wanted,
    filled_query,
    identify,
    lock_rows_query,
    normal_default,
    normal_type,
    plan,
    plan_removal,
    refusals,
    stale_confirmations,
    tables,
    unconfirmed,
    wanted,
)
from run_module import run_module

PROCEDURES = {
    "history_preserving": {
        "lock_it": "CREATE PROCEDURE lock_it()\nSQL SECURITY INVOKER COMMENT 'aa; ver 5'\nBEGIN END;",
        "move_it": "CREATE PROCEDURE move_it()\nSQL SECURITY INVOKER COMMENT 'bb; ver 5'\nBEGIN END;",
    },
    "history_free": {"lock_it": "CREATE PROCEDURE lock_it()\nSQL SECURITY INVOKER COMMENT 'cc; ver 5'\nBEGIN END;"},
}
KINDS = [(generation, keep) for generation in ("peat2", "relstorage4") for keep in (True, False)]
NON_TRANSACTIONAL = {"new_oid", "object_ref", "object_refs_added", "pack_object", "pack_state", "pack_state_tid"}


def complete(generation, keep_history=True, mariadb=True):
    """Return a database that is as it shall be."""
    modern = generation == "relstorage4"
    statements = PROCEDURES["history_preserving" if keep_history else "history_free"]
    return Database(
        tables={t.name: t.found(mariadb) for t in tables(generation, keep_history)},
        views={VIEW: "INVOKER"} if modern and keep_history else {},
        procedures={n: Procedure(re.search("'(.*)'", s).group(1)) for n, s in statements.items()} if modern else {},
        lock_rows=(0,) if modern else (),
    )


def without(database, *names):
    """Return a database without some of its tables."""
    return replace(database, tables={n: t for n, t in database.tables.items() if n not in names})


def with_columns(database, table, columns):
    """Return a database with other columns in one table; `columns` changes their list."""
    changed = replace(database.tables[table], columns=tuple(columns(database.tables[table].columns)))
    return replace(database, tables={**database.tables, table: changed})


def with_engine(database, table, engine):
    """Return a database with one table in another engine."""
    return replace(database, tables={**database.tables, table: replace(database.tables[table], engine=engine)})


def drop(name):
    return lambda columns: [c for c in columns if c.name != name]


def plan_one(found, generation="peat2", keep_history=True, mariadb=True, procedures=PROCEDURES):
    """Return the only change of the plan for one project, or None."""
    server = Server(mariadb, {} if found is None else {"hewl": found})
    changes = plan([Wanted("hewl", generation, keep_history)], server, procedures)
    return changes[0] if changes else None


def refused(found, generation="peat2", keep_history=True):
    with pytest.raises(SchemaError) as caught:
        plan_one(found, generation, keep_history)
    (problem,) = caught.value.problems
    assert problem.startswith("project hewl: ")
    return problem


# The tables


@pytest.mark.parametrize(("generation", "keep"), KINDS)
@pytest.mark.parametrize("mariadb", [True, False])
def test_engines(generation, keep, mariadb):
    """RelStorage 1.x waits 50 s for a new object if new_oid is in InnoDB; RelStorage 4 refuses all else."""
    for table in tables(generation, keep):
        engine = re.search(r"\) ENGINE=(\S+)( TRANSACTIONAL=1)? DEFAULT", table.sql(mariadb))
        if generation == "relstorage4" or table.name not in NON_TRANSACTIONAL:
            assert engine.groups() == ("InnoDB", None)
        else:
            assert engine.groups() == (("Aria", " TRANSACTIONAL=1") if mariadb else ("MyISAM", None))


@pytest.mark.parametrize(("generation", "keep"), KINDS)
def test_every_foreign_key_is_well_formed(generation, keep):
    """Current servers take a column's REFERENCES seriously; a key must refer to a whole primary key."""
    primary = {t.name: t.keys["PRIMARY"] for t in tables(generation, keep)}
    made, keys = set(), 0
    for table in tables(generation, keep):
        assert all("REFERENCES" not in column.sql() for column in table.columns)
        for rest in table.rest:
            for target, columns in re.findall(r"REFERENCES `(\w+)` \(([^)]*)\)", rest):
                keys += 1
                assert target in made, "created after the table it refers to"
                assert tuple(re.findall(r"`(\w+)`", columns)) == primary[target]
        made.add(table.name)
    assert keys == (2 if keep else 1)


@pytest.mark.parametrize(
    ("generation", "keep", "names"),
    [
        ("peat2", False, "object_state blob_chunk new_oid object_ref object_refs_added pack_object"),
        (
            "relstorage4",
            False,
            "commit_row_lock object_state blob_chunk new_oid object_ref object_refs_added pack_object",
        ),
    ],
)
def test_table_names(generation, keep, names):
    free = set(names.split())
    assert {t.name for t in tables(generation, False)} == free
    preserving = free | {"transaction", "current_object", "pack_state", "pack_state_tid"}
    assert {t.name for t in tables(generation, True)} == preserving


def test_names_that_mysql_reserves_are_quoted():
    sql = {t.name: t.sql(False) for t in tables("peat2", True)}
    assert "`empty` tinyint(1) NOT NULL DEFAULT 0" in sql["transaction"]
    assert sql["transaction"].startswith("CREATE TABLE `transaction`")


def test_state_size_is_where_each_mode_has_it():
    def names(keep):
        return [c.name for t in tables("peat2", keep) if t.name == "object_state" for c in t.columns]

    assert names(True) == ["zoid", "tid", "prev_tid", "md5", "state_size", "state"]
    assert names(False) == ["zoid", "tid", "state_size", "state"]


def test_md5_does_not_depend_on_the_server_s_character_set():
    (state,) = (t for t in tables("peat2", True) if t.name == "object_state")
    assert "`md5` char(32) CHARACTER SET ascii COLLATE ascii_general_ci" in state.sql(True)


@pytest.mark.parametrize(
    ("told", "normal"),
    [("bigint(20)", "bigint"), ("BIGINT(20) UNSIGNED", "bigint unsigned"), ("bigint", "bigint"), ("tinyint(1)",) * 2],
)
def test_normal_type(told, normal):
    assert normal_type(told) == normal


@pytest.mark.parametrize(("told", "normal"), [("NULL", None), (None, None), ("0", "0")])
def test_normal_default(told, normal):
    assert normal_default(told) == normal


# A database that is still to be made


@pytest.mark.parametrize(("generation", "keep"), KINDS)
@pytest.mark.parametrize("mariadb", [True, False])
def test_a_new_project_gets_everything(generation, keep, mariadb):
    change = plan_one(None, generation, keep, mariadb)
    assert change.created
    assert change.before == ()
    assert change.statements[0].startswith("CREATE DATABASE `hewl` CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci")
    assert change.statements[1] == "USE `hewl`"
    made = [re.match(r"CREATE TABLE `(\w+)`", s).group(1) for s in change.statements if s.startswith("CREATE TABLE")]
    assert made == [t.name for t in tables(generation, keep)]
    assert (FIRST_TRANSACTION in change.statements) == keep
    assert (LOCK_ROW in change.statements) == (generation == "relstorage4")
    assert any("VIEW" in s for s in change.statements) == (generation == "relstorage4" and keep)
    assert change.after == plan_one(Database(), generation, keep, mariadb).after


def test_the_first_transaction_is_written_before_the_last_table():
    """So that a database with all its tables surely has it."""
    statements = plan_one(None).statements
    assert statements.index(FIRST_TRANSACTION) < max(i for i, s in enumerate(statements) if "CREATE TABLE" in s)


def test_an_empty_database_is_filled_not_created():
    change = plan_one(Database())
    assert not change.created
    assert change.statements[0] == "USE `hewl`"
    assert change.before == ("database hewl",)


@pytest.mark.parametrize(("generation", "keep"), KINDS)
@pytest.mark.parametrize("mariadb", [True, False])
def test_a_complete_database_is_left_alone(generation, keep, mariadb):
    assert plan_one(complete(generation, keep, mariadb), generation, keep, mariadb) is None


@pytest.mark.parametrize("state", ["present", "frozen"])
def test_frozen_is_made_like_present_and_absent_is_not_made(state):
    projects = [Wanted("kept", "peat2", True, state), Wanted("gone", "peat2", True, "absent")]
    assert [change.name for change in plan(projects, Server(True, {}), {})] == ["kept"]


def test_tables_beside_relstorage_s_are_nobody_s_business():
    found = complete("peat2")
    found = replace(found, tables={**found.tables, "notes": FoundTable("InnoDB", (Column("id", "bigint"),))})
    assert plan_one(found) is None


# An interrupted creation


@pytest.mark.parametrize(("generation", "keep"), KINDS)
def test_an_interrupted_creation_is_finished_from_every_point(generation, keep):
    defined = tables(generation, keep)
    for made in range(1, len(defined)):
        found = Database(tables={t.name: t.found(True) for t in defined[:made]})
        change = plan_one(found, generation, keep)
        created = [s for s in change.statements if s.startswith("CREATE TABLE")]
        assert created == [t.sql(True) for t in defined[made:]]
        assert (FIRST_TRANSACTION in change.statements) == keep
        assert change.after == plan_one(None, generation, keep).after


def test_missing_tables_beside_data_are_no_interrupted_creation():
    found = replace(without(complete("peat2"), "pack_state"), filled=frozenset({"object_state"}))
    assert "peat2 but lacks pack_state" in refused(found)


@pytest.mark.parametrize("key", ["object_state_tid", "PRIMARY"])
def test_a_table_with_other_keys_is_no_interrupted_creation(key):
    found = without(complete("peat2"), "pack_state")
    keys = {name: columns for name, columns in found.tables["object_state"].keys.items() if name != key}
    state = replace(found.tables["object_state"], keys=keys)
    assert "lacks pack_state" in refused(replace(found, tables={**found.tables, "object_state": state}))


# What is refused, and as what it is recognised


OLD = complete("peat2")
NEW = complete("relstorage4")
HALF_14 = with_columns(
    OLD, "object_state", lambda columns: [replace(c, null=True) if c.name == "state_size" else c for c in columns]
)
TABLES_OF_14 = without(with_columns(OLD, "object_state", drop("state_size")), "blob_chunk")


@pytest.mark.parametrize(
    ("found", "text", "keep_history"),
    [
        (TABLES_OF_14, "RelStorage 1.4's (object_state has no state_size)", True),
        (with_columns(OLD, "object_state", drop("state_size")), "RelStorage 1.4's", True),
        (
            without(with_columns(complete("peat2", False), "object_state", drop("state_size")), "blob_chunk"),
            "RelStorage 1.4's (object_state has no state_size), history-free",
            False,
        ),
        (HALF_14, "partly migrated from RelStorage 1.4 (object_state.state_size may be NULL)", True),
        (without(OLD, "blob_chunk"), "partly migrated from RelStorage 1.4 (it lacks blob_chunk)", True),
        (
            with_engine(OLD, "new_oid", "InnoDB"),
            "between two generations: of RelStorage 1 and 2 are column transaction.empty;"
            " of RelStorage 3 and 4 are new_oid in InnoDB",
            True,
        ),
        (
            replace(OLD, tables={**OLD.tables, "commit_row_lock": NEW.tables["commit_row_lock"]}),
            "between two generations: of RelStorage 1 and 2 are column transaction.empty, new_oid in Aria;"
            " of RelStorage 3 and 4 are table commit_row_lock",
            True,
        ),
        (
            with_engine(NEW, "pack_state", "MyISAM"),
            "between two generations: of RelStorage 1 and 2 are pack_state",
            True,
        ),
        (without(NEW, "commit_row_lock"), "relstorage4 but lacks commit_row_lock", True),
        (without(NEW, "blob_chunk"), "relstorage4 but lacks blob_chunk", True),
        (without(OLD, "current_object"), "neither history-preserving nor history-free: it has table transaction", None),
        (Database(tables={"wp_posts": FoundTable("InnoDB", ())}), "not RelStorage's (it holds wp_posts)", None),
        (Database(views={"report": "DEFINER"}), "not RelStorage's (it holds report)", None),
        (Database(procedures={"tidy": Procedure("")}), "not RelStorage's (it holds tidy)", None),
    ],
)
def test_what_no_client_of_ours_can_use_is_recognised_and_refused(found, text, keep_history):
    identity = identify(found)
    assert text in identity.text
    assert identity.generation is None
    assert identity.keep_history == keep_history
    for generation in ("peat2", "relstorage4"):
        problem = refused(replace(found, filled=frozenset({"object_state"})), generation)
        assert text in problem
        assert "Nothing was changed. What to do: " in problem
        assert identity.remedy
        assert identity.remedy in problem


@pytest.mark.parametrize(("generation", "keep"), KINDS)
@pytest.mark.parametrize("mariadb", [True, False])
def test_a_complete_database_is_recognised(generation, keep, mariadb):
    identity = identify(complete(generation, keep, mariadb))
    assert (identity.generation, identity.keep_history) == (generation, keep)


def test_myisam_of_a_hand_made_mariadb_database_is_as_good():
    found = complete("peat2", mariadb=False)
    assert plan_one(found, mariadb=True) is None


@pytest.mark.parametrize(("there", "listed"), [("peat2", "relstorage4"), ("relstorage4", "peat2")])
def test_another_generation_is_refused(there, listed):
    problem = refused(complete(there), listed)
    assert f"the list says {listed}, history-preserving, but its database on this server is {there}, history" in problem
    assert "correct clients, or migrate" in problem


@pytest.mark.parametrize(("generation", "keep"), KINDS)
def test_another_history_mode_is_refused(generation, keep):
    problem = refused(complete(generation, keep), generation, not keep)
    assert "correct keep_history" in problem
    assert "zodbconvert" in problem


def test_all_refusals_are_told_at_once_and_nothing_is_planned():
    server = Server(True, {"one": complete("peat2"), "two": complete("relstorage4")})
    projects = [Wanted("one", "relstorage4"), Wanted("new", "peat2"), Wanted("two", "peat2")]
    with pytest.raises(SchemaError) as caught:
        plan(projects, server, PROCEDURES)
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["project one", "project two"]


# What is kept right in a relstorage4 database


def test_a_missing_lock_row_is_inserted_and_nothing_else():
    change = plan_one(replace(NEW, lock_rows=()), "relstorage4")
    assert change.statements == ("USE `hewl`", LOCK_ROW)
    assert set(change.after) - set(change.before) == {"  row commit_row_lock 0"}


def test_two_lock_rows_are_an_error():
    problem = refused(replace(NEW, lock_rows=(0, 7)), "relstorage4")
    assert "must have exactly one row and has 2 (tid 0, 7)" in problem


@pytest.mark.parametrize(
    "what",
    [
        {"comment": "old; ver 5"},
        {"charset": "utf8mb3"},
        {"collation": "utf8mb4_uca1400_ai_ci"},
        {"security": "DEFINER"},
    ],
)
def test_a_procedure_that_differs_is_made_again(what):
    outdated = replace(NEW.procedures["move_it"], **what)
    found = replace(NEW, procedures={**NEW.procedures, "move_it": outdated})
    body = PROCEDURES["history_preserving"]["move_it"]
    assert plan_one(found, "relstorage4").statements == (
        "USE `hewl`",
        PROCEDURE_SESSION,
        body.replace("CREATE", "CREATE OR REPLACE", 1),
    )
    on_mysql = replace(found, tables=complete("relstorage4", mariadb=False).tables)
    assert plan_one(on_mysql, "relstorage4", mariadb=False).statements == (
        "USE `hewl`",
        PROCEDURE_SESSION,
        "DROP PROCEDURE IF EXISTS `move_it`",
        body,
    )


def test_a_missing_procedure_is_made_and_a_foreign_one_stays():
    found = replace(NEW, procedures={"lock_it": NEW.procedures["lock_it"], "mine": Procedure("")})
    change = plan_one(found, "relstorage4")
    assert [s.split("(")[0] for s in change.statements[2:]] == ["CREATE OR REPLACE PROCEDURE move_it"]
    assert any("procedure mine" in line for line in change.after)


def test_a_view_that_needs_its_definer_is_made_again():
    change = plan_one(replace(NEW, views={VIEW: "DEFINER"}), "relstorage4")
    assert len(change.statements) == 2
    assert change.statements[1].startswith("CREATE OR REPLACE SQL SECURITY INVOKER VIEW `current_object_state`")


def test_procedures_must_be_given_for_relstorage4_only():
    with pytest.raises(SchemaError, match=r"project hewl: .*filter relstorage_procedures"):
        plan_one(None, "relstorage4", procedures={})
    assert plan_one(None, "peat2", procedures={}).created


# Removal


PRESENT = Wanted("kept", "peat2")
GONE = Wanted("gone", "peat2", True, "absent")


def test_each_removal_must_be_confirmed_by_name():
    (problem,) = unconfirmed([PRESENT, GONE], [])
    assert problem.startswith("project gone: ")
    assert "peat_confirm_absent" in problem
    assert unconfirmed([PRESENT, GONE], ["gone"]) == []
    assert unconfirmed([PRESENT], []) == []
    assert stale_confirmations([PRESENT, GONE], ["gone"]) == []


@pytest.mark.parametrize(("name", "what"), [("kept", "has state present"), ("gnoe", "is not in peat_projects")])
def test_no_confirmation_lies_ready_for_later(name, what):
    (problem,) = stale_confirmations([PRESENT, GONE], ["gone", name])
    assert f"names '{name}', which {what}: take it out" in problem


def test_only_confirmed_databases_are_dropped():
    server = Server(True, {"gone": complete("peat2"), "kept": complete("peat2"), "unlisted": complete("peat2")})
    (change,) = plan_removal([PRESENT, GONE], server, ["gone"])
    assert change.statements == ("DROP DATABASE `gone`",)
    assert change.before[0] == "database gone: peat2, history-preserving"
    assert change.after == ()


def test_an_unconfirmed_removal_stops_the_confirmed_ones():
    server = Server(True, {"gone": complete("peat2"), "also": complete("peat2")})
    with pytest.raises(SchemaError, match=r"^project also: .*peat_confirm_absent"):
        plan_removal([GONE, replace(GONE, name="also")], server, ["gone"])


def test_what_is_gone_needs_no_confirmation():
    assert plan_removal([PRESENT, GONE], Server(True, {"kept": complete("peat2")}), []) == []


def test_a_database_that_is_not_relstorage_s_is_never_dropped():
    server = Server(True, {"gone": Database(tables={"wp_posts": FoundTable("InnoDB", ())})})
    with pytest.raises(SchemaError, match=r"project gone: .*not RelStorage's \(it holds wp_posts\)"):
        plan_removal([GONE], server, ["gone"])


@pytest.mark.parametrize("found", [TABLES_OF_14, HALF_14, without(OLD, "pack_state"), Database()])
def test_any_relstorage_database_may_be_removed(found):
    (change,) = plan_removal([GONE], Server(True, {"gone": found}), ["gone"])
    assert change.statements == ("DROP DATABASE `gone`",)


# What is refused before anything is changed


def test_everything_is_refused_at_once():
    server = Server(
        True,
        {"old": complete("peat2"), "twice": replace(NEW, lock_rows=(0, 1)), "gone": complete("peat2"), "good": NEW},
    )
    projects = [
        Wanted("old", "relstorage4"),
        Wanted("twice", "relstorage4"),
        GONE,
        Wanted("good", "relstorage4"),
        Wanted("new", "peat2"),
    ]
    problems = refusals(projects, server, ["good"])
    assert [problem.split(": ")[0] for problem in problems] == [
        "project old",
        "project twice",
        "project gone",
        "peat_confirm_absent names 'good', which has state present",
    ]
    assert refusals(projects[2:], server, ["gone"]) == []


@pytest.mark.parametrize("confirmed", [[], ["gone"]])
def test_a_removal_that_is_done_is_not_refused_again(confirmed):
    assert refusals([PRESENT, GONE], Server(True, {}), confirmed) == []


# Reading


def test_one_query_reads_any_number_of_databases():
    query = lock_rows_query(["lab-1", "o'neil"])
    assert query == (
        "SELECT 'lab-1', tid FROM `lab-1`.commit_row_lock UNION ALL SELECT 'o''neil', tid FROM `o'neil`.commit_row_lock"
    )
    assert lock_rows_query([]) is None


def test_rows_that_a_creation_writes_are_no_data():
    query = filled_query({"hewl": ["transaction", "object_state"]})
    assert "EXISTS (SELECT 1 FROM `hewl`.`transaction` WHERE tid <> 0)" in query
    assert "EXISTS (SELECT 1 FROM `hewl`.`object_state`)" in query


def test_projects_of_the_list():
    listed = [
        {"name": "a", "clients": "peat2"},
        {"name": "b", "clients": "relstorage4", "keep_history": False, "state": "frozen"},
    ]
    assert wanted(listed) == [Wanted("a", "peat2", True, "present"), Wanted("b", "relstorage4", False, "frozen")]


# The module where there is no server yet


PROJECTS = [
    {"name": "hewl", "clients": "peat2", "write": ["farrell"], "read": [{"person": "x", "from": ["192.0.2.1"]}]}
]


@pytest.mark.parametrize(("flavour", "engine"), [("mariadb", "Aria"), ("mysql", "MyISAM")])
def test_a_check_on_a_bare_host_plans_for_an_empty_server(tmp_path, flavour, engine):
    result = run_module(
        "relstorage_schema",
        check=True,
        projects=PROJECTS,
        flavour=flavour,
        login_unix_socket=str(tmp_path / "mysqld.sock"),
    )
    assert result["changed"]
    (project,) = result["projects"]
    assert (project["name"], project["created"], project["backup"]) == ("hewl", True, None)
    assert result["diff"]["before"] == ""
    assert f"table new_oid (zoid bigint) {engine}\n" in result["diff"]["after"]


def test_validation_passes_where_there_is_no_server_yet(tmp_path):
    result = run_module(
        "relstorage_schema", state="validated", projects=PROJECTS, login_unix_socket=str(tmp_path / "mysqld.sock")
    )
    assert (result["changed"], result["projects"]) == (False, [])


def test_a_real_run_without_a_server_fails(tmp_path):
    result = run_module("relstorage_schema", projects=PROJECTS, login_unix_socket=str(tmp_path / "mysqld.sock"))
    assert result["failed"]
    assert "mysqld.sock" in result["msg"]


def test_a_removal_needs_a_folder_for_the_dump():
    result = run_module("relstorage_schema", check=True, projects=PROJECTS, state="absent")
    assert "backup_dir" in result["msg"]
