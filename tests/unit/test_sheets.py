"""Connection sheets: what they say, which files change, and what a diff may show."""

import ast
import getpass
import json
import os
import re

import pymysql
import pytest
from peat import sheets
from peat.lab import load
from run_module import run_module

NETWORKS = [{"name": "campus", "addresses": ["192.0.2.0/24", "2001:db8:1::/48"]}]
PEOPLE = [
    {"name": "farrell", "from": ["campus", "198.51.100.7"]},
    {"name": "guest", "from": ["campus"]},
    {"name": "pipeline", "from": ["203.0.113.9"], "tls": "required"},
    {"name": "idle", "from": ["campus"]},
]
PROJECTS = [
    {"name": "hewlsample", "clients": "peat2", "write": ["farrell"], "read": ["guest"]},
    {"name": "screening", "clients": "relstorage4", "keep_history": False, "write": ["pipeline", "farrell"]},
    {"name": "thesis", "clients": "peat2", "state": "frozen", "write": ["farrell"]},
    {"name": "gone", "clients": "peat2", "state": "absent", "write": ["guest"]},
]
PASSWORDS = {name: f"{name}-Secret-99" for name in ("farrell", "guest", "pipeline", "idle")}
SERVER = sheets.Server("db.example.org", 8080)


def rendered(projects=PROJECTS, passwords=PASSWORDS):
    return sheets.render_all(load(NETWORKS, PEOPLE, projects), SERVER, passwords)


def paragraph(text, title):
    """The part of a sheet about one project."""
    return text.split(f"Project {title}\n")[1].split("\nProject ")[0]


def program(text, title):
    """The Python of a sheet for one project."""
    return "\n".join(line[4:] for line in paragraph(text, title).splitlines() if line.startswith("    "))


def test_one_sheet_for_each_person():
    assert set(rendered()) == {"farrell.txt", "guest.txt", "pipeline.txt", "idle.txt"}


def test_sheet_begins_with_marker_server_and_login():
    lines = rendered()["guest.txt"].splitlines()
    assert lines[0] == sheets.MARKER
    for line in ("Server     db.example.org", "Port       8080", "User name  guest", "Password   guest-Secret-99"):
        assert line in lines


def test_password_is_there_once_and_nobody_elses():
    for name, text in rendered().items():
        assert re.findall(r"\w+-Secret-99", text) == [PASSWORDS[name.removesuffix(".txt")]]


def test_peat_project_gives_the_fields_of_peats_dialog():
    # PEATDB 2.3 asks for these six; with any backend but `mysql` it would speak ZEO to the server.
    fields = dict(re.findall(r"(?m)^  (\w+) +(.*)$", paragraph(rendered()["guest.txt"], "hewlsample")))
    assert list(fields) == ["username", "password", "server", "port", "project", "backend"]
    assert fields["username"] == "guest"
    assert (fields["server"], fields["port"]) == ("db.example.org", "8080")
    assert fields["project"] == "hewlsample"
    assert fields["backend"].split()[0] == "mysql"


def test_modern_project_gives_a_program_that_compiles():
    source = program(rendered()["farrell.txt"], "screening")
    calls = {
        node.func.id: node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and hasattr(node.func, "id")
    }
    options = {keyword.arg: ast.literal_eval(keyword.value) for keyword in calls["Options"].keywords}
    assert options == {"driver": "PyMySQL", "create_schema": False, "keep_history": False}
    adapter = {keyword.arg: keyword.value for keyword in calls["MySQLAdapter"].keywords}
    assert ast.literal_eval(adapter["host"]) == "db.example.org"
    assert ast.literal_eval(adapter["port"]) == 8080
    assert ast.literal_eval(adapter["db"]) == "screening"
    assert ast.literal_eval(adapter["user"]) == "farrell"
    assert "Secret" not in source


# RelStorage hides a password from its log only if it is called passwd, a name PyMySQL would like to change.
@pytest.mark.filterwarnings("ignore:'(db|passwd)' is deprecated:DeprecationWarning")
def test_program_gets_as_far_as_the_network_with_the_real_relstorage(monkeypatch):
    server = sheets.Server("127.0.0.1", 1)  # nothing listens there
    text = sheets.render_all(load(NETWORKS, PEOPLE, PROJECTS), server, PASSWORDS)["farrell.txt"]
    monkeypatch.setattr(getpass, "getpass", lambda: "x")
    with pytest.raises(pymysql.err.OperationalError, match="Can't connect to MySQL server"):
        exec(program(text, "screening"))


def test_levels_and_addresses():
    projects = [{**PROJECTS[0], "read": [{"person": "farrell", "from": ["192.0.2.16/28"]}]}]
    text = paragraph(rendered(projects)["farrell.txt"], "hewlsample")
    assert "write      from 192.0.2.0/24, 2001:db8:1::/48, 198.51.100.7\n" in text
    assert "read       from 192.0.2.16/28\n" in text
    assert "the narrower one counts" in text
    assert "the narrower one counts" not in rendered()["farrell.txt"]


def test_readers_are_told_what_a_refused_commit_looks_like():
    assert "1044" in rendered()["guest.txt"]
    assert "1044" not in rendered()["pipeline.txt"]


def test_frozen_project_is_read_only_and_says_so():
    text = paragraph(rendered()["farrell.txt"], "thesis")
    assert "read       from 192.0.2.0/24" in text and "write " not in text
    assert "frozen" in text


def test_people_without_access_get_a_sheet_that_says_so():
    assert "No project is open to you" in rendered()["idle.txt"]
    assert "gone" not in rendered()["guest.txt"]


def test_tls_advice():
    assert "PEAT 2.3 cannot ask for TLS" in rendered()["guest.txt"]
    assert "PEAT 2.3 cannot ask for TLS" not in rendered()["pipeline.txt"]
    assert "must use TLS" in rendered()["pipeline.txt"]


def test_anywhere_is_said_in_words():
    people = [{"name": "farrell", "from": ["%"]}]
    lab = load([], people, [{"name": "hewlsample", "clients": "peat2", "write": ["farrell"]}], True)
    assert "write      from anywhere\n" in sheets.render_all(lab, SERVER, PASSWORDS)["farrell.txt"]


# What changes


def test_plan_writes_what_differs_and_removes_sheets_of_people_who_left():
    wanted = rendered()
    existing = {
        **wanted,
        "guest.txt": wanted["guest.txt"] + "edited\n",
        "gone.txt": sheets.MARKER + "\nx\n",
        "notes.txt": "mine\n",
    }
    plan = sheets.plan(existing, wanted)
    assert plan.write == {"guest.txt": (existing["guest.txt"], wanted["guest.txt"])}
    assert plan.remove == {"gone.txt": existing["gone.txt"]}


def test_plan_of_what_is_there_is_empty():
    plan = sheets.plan(rendered(), rendered())
    assert (plan.write, plan.remove, plan.diffs("/sheets")) == ({}, {}, [])


def test_file_that_is_no_sheet_is_not_overwritten():
    with pytest.raises(sheets.SheetError, match=r"guest\.txt is no connection sheet.*move the file away"):
        sheets.plan({"guest.txt": "my notes\n"}, rendered())


def test_diff_shows_everything_but_passwords():
    wanted = rendered()
    changed = {**PASSWORDS, "guest": "another-Secret-99"}
    plan = sheets.plan({"guest.txt": rendered(passwords=changed)["guest.txt"], "left.txt": wanted["idle.txt"]}, wanted)
    diffs = {diff["after_header"]: diff for diff in plan.diffs("/sheets")}
    assert "Secret" not in json.dumps(diffs)
    assert "Password   (not shown)" in diffs["/sheets/guest.txt"]["before"]
    assert "Password   (changed, not shown)" in diffs["/sheets/guest.txt"]["after"]
    assert "Password   (not shown)" in diffs["/sheets/farrell.txt"]["after"]
    assert "Project hewlsample" in diffs["/sheets/farrell.txt"]["after"]
    assert diffs["/sheets/left.txt"]["after"] == "" != diffs["/sheets/left.txt"]["before"]


# The module


def run(directory, people=PEOPLE, passwords=PASSWORDS, projects=PROJECTS, **options):
    return run_module(
        "peat_sheets",
        dest=str(directory),
        address="db.example.org",
        port=8080,
        networks=NETWORKS,
        people=people,
        projects=projects,
        passwords=passwords,
        **options,
    )


def contents(directory):
    return {path.name: path.read_text() for path in directory.iterdir()}


def test_module_writes_private_files_once(tmp_path):
    directory = tmp_path / "sheets" / "server"
    assert run(directory)["written"] == ["farrell.txt", "guest.txt", "idle.txt", "pipeline.txt"]
    assert contents(directory) == rendered()
    assert os.stat(directory).st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o600}
    again = run(directory)
    assert (again["changed"], again["diff"]) == (False, [])


def test_module_in_check_mode_predicts_and_writes_nothing(tmp_path):
    directory = tmp_path / "sheets"
    predicted = run(directory, check=True)
    assert not directory.exists()
    done = run(directory)
    for result in (predicted, done):
        del result["invocation"]
    assert predicted == done


def test_module_takes_passwords_that_are_not_generated_yet(tmp_path):
    result = run(tmp_path, passwords={**PASSWORDS, "guest": None}, check=True)
    assert "guest.txt" in result["written"]


def test_module_result_has_no_password(tmp_path):
    first = run(tmp_path)
    people = [{**person, "password": "given-Secret-98"} for person in PEOPLE]
    second = run(tmp_path, people=people, passwords=dict.fromkeys(PASSWORDS, "given-Secret-98"))
    assert second["changed"] is True
    assert "Secret" not in json.dumps([first, second])
    assert "given-Secret-98" in (tmp_path / "guest.txt").read_text()


def test_module_removes_the_sheet_of_who_left_and_leaves_other_files(tmp_path):
    run(tmp_path)
    (tmp_path / "notes.txt").write_text("mine\n")
    (tmp_path / "guest.pdf").write_text("mine\n")
    projects = [{**PROJECTS[0], "read": []}, *PROJECTS[1:3]]
    people = [person for person in PEOPLE if person["name"] != "guest"]
    result = run(tmp_path, people=people, projects=projects)
    assert (result["removed"], result["written"]) == (["guest.txt"], [])
    assert sorted(contents(tmp_path)) == ["farrell.txt", "guest.pdf", "idle.txt", "notes.txt", "pipeline.txt"]


def test_module_closes_a_sheet_that_others_can_read(tmp_path):
    run(tmp_path)
    (tmp_path / "guest.txt").chmod(0o644)
    assert run(tmp_path, check=True)["changed"] is True
    assert run(tmp_path)["changed"] is True
    assert (tmp_path / "guest.txt").stat().st_mode & 0o777 == 0o600
    assert run(tmp_path)["changed"] is False


def test_module_refuses_to_overwrite_and_changes_nothing(tmp_path):
    (tmp_path / "guest.txt").write_text("my notes\n")
    result = run(tmp_path)
    assert result["failed"] is True
    assert "guest.txt is no connection sheet" in result["msg"] and str(tmp_path) in result["msg"]
    assert contents(tmp_path) == {"guest.txt": "my notes\n"}


def test_module_names_the_problems_of_a_bad_list(tmp_path):
    result = run(tmp_path, projects=[{**PROJECTS[0], "read": ["nobody"]}])
    assert result["failed"] is True
    assert "peat_projects, entry 1 (hewlsample): read names the unknown person 'nobody'" in result["msg"]
