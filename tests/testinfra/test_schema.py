"""Databases of projects: made, recognised, kept right, removed only with a dump.

The module runs on the server by itself, over projects of its own beside those of the scenario: KINDS, which
every test leaves as it found them, and others, which end with their test. Nothing else on the server is touched.
"""

from __future__ import annotations

import importlib.util

import onhost
import pytest
from conftest import REPOSITORY, wait_until

KINDS = {
    "schematest_p2hp": {"clients": "peat2"},
    "schematest-p2hf": {"clients": "peat2", "keep_history": False},
    "schematest_r4hp": {"clients": "relstorage4"},
    "schematest-r4hf": {"clients": "relstorage4", "keep_history": False},
}
MODERN = [name for name, kind in KINDS.items() if kind["clients"] == "relstorage4"]
NON_TRANSACTIONAL = {"new_oid", "object_ref", "object_refs_added", "pack_object", "pack_state", "pack_state_tid"}


def projects(*names: str, **changed) -> list[dict]:
    """Projects of the list: these, or all of KINDS."""
    return [{"name": name, **KINDS.get(name, {"clients": "peat2"}), **changed} for name in names or KINDS]


@pytest.fixture(scope="module")
def ours(sql):
    """ours(): the databases of this module that are there."""
    return lambda: {row[0] for row in sql("SHOW DATABASES LIKE 'schematest%'")}


@pytest.fixture(scope="module")
def schema(sql, lab):
    """schema(projects, check=False, **arguments): the module's result on the server."""
    ((version,),) = sql("SELECT VERSION()")
    spec = importlib.util.spec_from_file_location("filters", REPOSITORY / "filter_plugins/relstorage.py")
    filters = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(filters)
    with onhost.module(onhost.ssh(lab.server), "relstorage_schema") as run:

        def ask(listed: list[dict], check: bool = False, **arguments) -> dict:
            procedures = filters.relstorage_procedures(version, listed)
            return run({"projects": listed, "procedures": procedures, **arguments}, check)

        yield ask


@pytest.fixture(scope="module")
def created(schema, sql, ours):
    """The results of a check run and of the real run that made the four projects."""

    def drop() -> None:
        for name in ours():
            sql(f"DROP DATABASE `{name}`")

    drop()
    predicted = schema(projects(), check=True)
    assert ours() == set(), "a check run created a database"
    yield predicted, schema(projects())
    drop()


@pytest.fixture(autouse=True)
def left_as_it_was(created, sql, ours):
    yield
    for name in ours() - KINDS.keys():
        sql(f"DROP DATABASE `{name}`")
    assert ours() == KINDS.keys()


@pytest.fixture(scope="module")
def definitions(sql):
    """definitions(database): everything of it, as the server writes it."""

    def read(database: str) -> dict:
        tables = [row[0] for row in sql(f"SHOW TABLES FROM `{database}`")]
        of_routines = f"FROM information_schema.routines WHERE routine_schema='{database}'"
        return {
            "tables": {table: sql(f"SHOW CREATE TABLE `{database}`.`{table}`") for table in tables},
            "rows": {table: sql(f"SELECT COUNT(*) FROM `{database}`.`{table}`") for table in tables},
            "routines": sql(f"SELECT routine_name, security_type, routine_comment {of_routines} ORDER BY 1"),
            "made": sql(f"SELECT routine_name, created, last_altered {of_routines} ORDER BY 1"),
        }

    return read


def without_times(found: dict) -> dict:
    return {key: value for key, value in found.items() if key != "made"}


def engines(sql, database: str) -> dict[str, str]:
    return dict(
        sql(
            "SELECT table_name, engine FROM information_schema.tables"
            f" WHERE table_schema='{database}' AND table_type='BASE TABLE'"
        )
    )


def changed(result: dict) -> set[str]:
    """The projects that a run changed."""
    assert "projects" in result, result
    return {project["name"] for project in result["projects"] if project["changed"]}


# Made


def test_check_predicts_the_real_run_and_a_second_run_changes_nothing(created, schema):
    predicted, result = created
    assert predicted["changed"]
    assert result["changed"]
    assert result["diff"] == predicted["diff"]
    assert result["projects"] == predicted["projects"]
    assert [(p["name"], p["created"], p["changed"]) for p in result["projects"]] == [(n, True, True) for n in KINDS]

    again = schema(projects())
    assert not again["changed"]
    assert again["diff"] == {"before": "", "after": ""}
    assert not any(p["created"] or p["changed"] for p in again["projects"])


def test_what_is_made(sql):
    mariadb = "MariaDB" in sql("SELECT VERSION()")[0][0]
    for name, kind in KINDS.items():
        found, modern = engines(sql, name), kind["clients"] == "relstorage4"
        history = kind.get("keep_history", True)
        assert ("transaction" in found) == ("current_object" in found) == ("pack_state" in found) == history
        if history:
            assert sql(f"SELECT tid, username FROM `{name}`.transaction") == [["0", "system"]]
        for table, engine in found.items():
            other = "Aria" if mariadb else "MyISAM"
            assert engine == (other if table in NON_TRANSACTIONAL and not modern else "InnoDB"), (name, table)
        routines = sql(
            "SELECT security_type, character_set_client, collation_connection, COUNT(*)"
            f" FROM information_schema.routines WHERE routine_schema='{name}' GROUP BY 1, 2, 3"
        )
        assert routines == ([["INVOKER", "utf8mb4", "utf8mb4_general_ci", "9"]] if modern else [])
        if modern:
            assert sql(f"SELECT * FROM `{name}`.commit_row_lock") == [["0"]]
    if mariadb:
        ((_table, statement),) = sql("SHOW CREATE TABLE schematest_p2hp.new_oid")
        assert "TRANSACTIONAL=1" in statement, "not safe in a crash"


def test_the_work_does_not_grow_with_the_number_of_projects(schema, sql):
    def questions(listed: list[dict]) -> int:
        before = int(sql("SHOW GLOBAL STATUS LIKE 'Questions'")[0][1])
        assert not schema(listed)["changed"]
        return int(sql("SHOW GLOBAL STATUS LIKE 'Questions'")[0][1]) - before

    listed = projects() + [{"name": f"schematest{i}", "clients": "relstorage4"} for i in range(30)]
    assert schema(listed)["changed"]
    # Something else may ask the server something meanwhile.
    assert abs(questions(listed) - questions(projects())) < 15


def test_an_interrupted_creation_is_finished(schema, sql, definitions):
    whole = {name: without_times(definitions(name)) for name in KINDS}
    sql("DROP TABLE schematest_p2hp.pack_state_tid, `schematest-p2hf`.new_oid, `schematest-r4hf`.commit_row_lock")
    sql("DROP TABLE schematest_r4hp.transaction, schematest_r4hp.blob_chunk")
    sql("DROP VIEW schematest_r4hp.current_object_state; TRUNCATE schematest_r4hp.commit_row_lock")
    for name in MODERN:
        for routine, *_ in whole[name]["routines"]:
            sql(f"DROP PROCEDURE `{name}`.`{routine}`")
    assert changed(schema(projects())) == set(KINDS)
    assert {name: without_times(definitions(name)) for name in KINDS} == whole
    assert not schema(projects())["changed"]


# Kept right


def test_a_missing_commit_lock_row_is_put_back(schema, sql):
    for name in MODERN:
        sql(f"DELETE FROM `{name}`.commit_row_lock")
    predicted = schema(projects(), check=True)
    assert all(sql(f"SELECT * FROM `{name}`.commit_row_lock") == [] for name in MODERN)
    result = schema(projects())
    assert result["diff"] == predicted["diff"]
    before, after = (result["diff"][side].splitlines() for side in ("before", "after"))
    assert sorted(set(after) - set(before)) == ["  row commit_row_lock 0"]
    assert len(after) == len(before) + len(MODERN)
    assert all(sql(f"SELECT * FROM `{name}`.commit_row_lock") == [["0"]] for name in MODERN)
    assert not schema(projects())["changed"]


def test_two_commit_lock_rows_are_refused(schema, sql):
    sql("INSERT INTO schematest_r4hp.commit_row_lock VALUES (5)")
    result = schema(projects())
    sql("DELETE FROM schematest_r4hp.commit_row_lock WHERE tid=5")
    assert result["failed"]
    assert "project schematest_r4hp: commit_row_lock" in result["msg"]
    assert "delete all but tid 0" in result["msg"]


def test_what_clients_call_is_made_again(schema, definitions, sql):
    whole = definitions("schematest_r4hp")
    sql("ALTER PROCEDURE schematest_r4hp.lock_and_choose_tid SQL SECURITY DEFINER")
    sql("ALTER PROCEDURE schematest_r4hp.lock_and_choose_tid_p COMMENT 'of another release; ver 5'")
    sql("DROP PROCEDURE schematest_r4hp.set_min_oid")
    sql(
        "USE schematest_r4hp; ALTER SQL SECURITY DEFINER VIEW current_object_state AS"
        " SELECT zoid, tid, state FROM object_state JOIN current_object USING (zoid, tid)"
    )
    spoiled = definitions("schematest_r4hp")
    predicted = schema(projects(), check=True)
    assert definitions("schematest_r4hp") == spoiled != whole
    result = schema(projects())
    assert result["diff"] == predicted["diff"]
    assert changed(result) == {"schematest_r4hp"}
    assert without_times(definitions("schematest_r4hp")) == without_times(whole)
    assert not schema(projects())["changed"]


@pytest.mark.parametrize("name", MODERN)
def test_a_client_with_all_rights_finds_nothing_to_create(definitions, lab, sql, run_client, unused, name):
    """RelStorage 4 compares tables and procedures at every opening; it would re-create what differs."""
    account, password = f"'schematest'@'{lab.hosts['modern']['address']}'", "Only-in-this-test-1"
    options = {"create_schema": True, "history_free": not KINDS[name].get("keep_history", True)}
    whole = definitions(name)
    sql(f"CREATE USER {account} IDENTIFIED BY '{password}'; GRANT ALL ON `schematest%`.* TO {account}")
    try:
        answer = run_client(
            "modern", "relstorage4", "add", "schematest", name, password=password, prefix=unused, records=3, **options
        )
    finally:
        sql(f"DROP USER {account}")
    assert answer["ok"], answer
    now = definitions(name)
    assert now["made"] == whole["made"]
    assert now["tables"].keys() == whole["tables"].keys()
    assert int(now["rows"]["object_state"][0][0]) > 0


# Refused


#: What a peat2 project with history is made into -> how the refusal calls it.
SPOILED = {
    "schematest_14": (
        "ALTER TABLE object_state DROP COLUMN state_size; DROP TABLE blob_chunk",
        "RelStorage 1.4's (object_state has no state_size), history-preserving",
    ),
    "schematest_half14": (
        "ALTER TABLE object_state MODIFY state_size BIGINT NULL",
        "partly migrated from RelStorage 1.4 (object_state.state_size may be NULL)",
    ),
    "schematest_between": (
        "ALTER TABLE new_oid ENGINE=InnoDB",
        "between two generations: of RelStorage 1 and 2 are column transaction.empty;"
        " of RelStorage 3 and 4 are new_oid in InnoDB",
    ),
    "schematest_lacking": (
        "DROP TABLE pack_state; INSERT INTO new_oid VALUES (7)",
        "peat2 but lacks pack_state, history-preserving",
    ),
    "schematest_other": (
        f"DROP TABLE blob_chunk, current_object, object_state, transaction, {', '.join(NON_TRANSACTIONAL)};"
        " CREATE TABLE wp_posts (id INT)",
        "not RelStorage's (it holds wp_posts)",
    ),
}


def test_a_database_that_is_something_else_is_refused(schema, sql, definitions, ours):
    assert changed(schema(projects(*SPOILED))) == SPOILED.keys()
    for name, (statements, _text) in SPOILED.items():
        sql(f"USE {name}; {statements}")
    before = {name: definitions(name) for name in SPOILED}
    for state in ("present", "validated"):
        result = schema(projects("schematest_new", *SPOILED), state=state)
        assert result["failed"]
        problems = dict(line.removeprefix("project ").split(": ", 1) for line in result["msg"].splitlines())
        assert problems.keys() == SPOILED.keys()
        for name, (_statements, text) in SPOILED.items():
            assert "the list says peat2, history-preserving, but" in problems[name]
            assert f"is {text}" in problems[name]
            assert "What to do: " in problems[name]
    assert {name: definitions(name) for name in SPOILED} == before
    assert "schematest_new" not in ours(), "changed something although it refused"


def test_another_generation_or_history_mode_is_refused(schema, definitions):
    before = {name: definitions(name) for name in KINDS}
    swap = {"peat2": "relstorage4", "relstorage4": "peat2"}
    other = [{**project, "clients": swap[project["clients"]]} for project in projects()]
    assert schema(other)["msg"].count("migrate the database first") == len(KINDS)
    other = [{**project, "keep_history": not project.get("keep_history", True)} for project in projects()]
    assert schema(other)["msg"].count("correct keep_history") == len(KINDS)
    assert {name: definitions(name) for name in KINDS} == before


# Removed


@pytest.fixture
def backups(server):
    """A folder for dumps."""
    folder = server.check_output("mktemp --directory --dry-run /var/tmp/schematest.XXXXXXXX")
    yield folder
    server.check_output("rm -rf %s", folder)


def store(sql, name: str) -> None:
    """Store an object whose state has every byte in it."""
    state = bytes(range(256)).hex()
    if KINDS.get(name, {}).get("keep_history", True):
        sql(
            f"USE `{name}`; REPLACE transaction (tid, username, description) VALUES (9, 'farrell', X'00C3A4FF');"
            f" REPLACE object_state VALUES (900, 9, 0, REPEAT('a', 32), 256, X'{state}');"
            " REPLACE current_object VALUES (900, 9)"
        )
    else:
        sql(f"REPLACE `{name}`.object_state VALUES (900, 9, 256, X'{state}')")
    sql(f"REPLACE `{name}`.new_oid VALUES (960)")


def checksums(sql, name: str) -> dict:
    return {table: sql(f"CHECKSUM TABLE `{name}`.`{table}`")[0][1] for table in engines(sql, name)}


def test_a_removal_needs_its_confirmation(schema, ours, backups, server):
    listed = [*projects("schematest_p2hp", "schematest_r4hp", state="absent"), *projects("schematest-r4hf")]
    for state in ("absent", "validated"):
        result = schema(listed, state=state, confirm_absent=["schematest_p2hp"], backup_dir=backups)
        assert result["failed"]
        assert "project schematest_r4hp: state absent removes its database" in result["msg"]
        assert "peat_confirm_absent" in result["msg"]
        assert "schematest_p2hp" not in result["msg"]
    assert ours() == KINDS.keys()
    assert not server.file(backups).exists


def test_a_removed_database_is_in_a_dump_that_loads(schema, sql, ours, backups, server):
    names = [name for name in KINDS if name != "schematest-r4hf"]
    for name in KINDS:
        store(sql, name)
    before = {name: checksums(sql, name) for name in KINDS}
    listed = [*projects(*names, state="absent"), *projects("schematest-r4hf")]
    predicted = schema(listed, check=True, state="absent", confirm_absent=names, backup_dir=backups)
    assert changed(predicted) == set(names)
    assert ours() == KINDS.keys()
    assert not server.file(backups).exists

    result = schema(listed, state="absent", confirm_absent=names, backup_dir=backups)
    assert result["diff"] == predicted["diff"]
    assert ours() == {"schematest-r4hf"}
    dumps = {project["name"]: project["backup"] for project in result["projects"]}
    assert server.file(backups).mode == 0o700
    assert sorted(dumps.values()) == sorted(f"{backups}/{found}" for found in server.file(backups).listdir())
    again = schema(listed, state="absent", backup_dir=backups)
    assert not again["changed"], "what is gone needs no confirmation"
    assert "failed" not in schema(listed, state="validated")

    program = "mariadb" if server.exists("mariadb") else "mysql"
    for name in names:
        assert server.file(dumps[name]).mode == 0o600
        sql(f"CREATE DATABASE `{name}`")
        loaded = server.run("zcat %s | %s %s", dumps[name], program, name)
        assert loaded.rc == 0, loaded.stderr
    assert {name: checksums(sql, name) for name in KINDS} == before
    assert not schema(projects())["changed"], "a loaded dump is not all that was dropped"


def test_a_session_of_a_removed_project_ends(schema, sql, ours, backups, server):
    """What it has committed is in the dump, what it has not is not."""
    schema(projects("schematest_left"))
    store(sql, "schematest_left")
    server.check_output(
        "systemd-run --quiet --collect --unit=schematest-session %s schematest_left --execute=%s",
        "mariadb" if server.exists("mariadb") else "mysql",
        "BEGIN; INSERT INTO transaction (tid, username, description) VALUES (77, '', ''); SELECT SLEEP(600)",
    )
    sleeping = "SELECT db FROM information_schema.processlist WHERE info = 'SELECT SLEEP(600)'"
    wait_until(lambda: sql(sleeping) == [["schematest_left"]], "a session of the project")
    listed = projects("schematest_left", state="absent")
    result = schema(listed, state="absent", confirm_absent=["schematest_left"], backup_dir=backups)
    assert changed(result) == {"schematest_left"}
    assert "schematest_left" not in ours()
    assert sql(sleeping) == []
    text = server.check_output("zcat %s", result["projects"][0]["backup"])
    assert "(9,0,0,0x" in text
    assert "(77," not in text


def test_nothing_is_dropped_without_a_complete_dump(schema, ours):
    listed = projects("schematest_p2hp", state="absent")
    result = schema(listed, state="absent", confirm_absent=["schematest_p2hp"], backup_dir="/dev/null/backups")
    assert result["failed"]
    assert "project schematest_p2hp: no dump in /dev/null/backups" in result["msg"]
    assert "Its database was not dropped" in result["msg"]
    assert "schematest_p2hp" in ours()


def test_a_database_that_is_not_relstorage_s_is_never_dropped(schema, sql, backups):
    sql("CREATE DATABASE schematest_other; CREATE TABLE schematest_other.wp_posts (id INT)")
    listed = projects("schematest_other", state="absent")
    result = schema(listed, state="absent", confirm_absent=["schematest_other"], backup_dir=backups)
    assert "not RelStorage's (it holds wp_posts)" in result["msg"]
    assert engines(sql, "schematest_other").keys() == {"wp_posts"}


def test_databases_that_nobody_listed_are_reported_and_left_alone(schema, ours):
    result = schema(projects("schematest_p2hp"))
    assert not result["changed"]
    for name in KINDS:
        assert any(f"database {name} " in finding for finding in result["findings"]) == (name != "schematest_p2hp")
    assert ours() == KINDS.keys()
