"""The procedures of relstorage4 databases, taken from the RelStorage that is installed here."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import pathlib
import re

import pytest
from ansible.errors import AnsibleFilterError
from peat.schema import Server, Wanted, plan, procedure_comment

ROOT = pathlib.Path(__file__).parents[2]
MARIADB, MYSQL = "5.5.5-10.11.18-MariaDB", "9.7.4-2"
PROJECTS = [{"name": "old", "clients": "peat2"}, {"name": "modern", "clients": "relstorage4"}]
NAMES = {
    "make_tid_for_epoch",
    "make_current_tid",
    "set_min_oid",
    "clean_temp_state",
    "lock_database_for_commit",
    "lock_objects_and_detect_conflicts",
    "lock_and_choose_tid",
    "lock_and_choose_tid_p",
    "lock_and_choose_tid_and_move",
}


def load():
    """Load the plugin as Ansible does: by its file, under a name that is not RelStorage's."""
    spec = importlib.util.spec_from_file_location("filters_relstorage", ROOT / "filter_plugins/relstorage.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PLUGIN = load()
relstorage_procedures = PLUGIN.FilterModule().filters()["relstorage_procedures"]


@pytest.mark.parametrize("projects", [[], PROJECTS[:1], [{**PROJECTS[1], "state": "absent"}]])
def test_nobody_needs_them(projects):
    assert relstorage_procedures(MARIADB, projects) == {}


@pytest.mark.parametrize("state", ["present", "frozen"])
@pytest.mark.parametrize("version", [MARIADB, MYSQL])
def test_all_of_them_run_with_the_rights_of_who_calls(version, state):
    made = relstorage_procedures(version, [{**PROJECTS[1], "state": state}])
    assert made.keys() == {"history_preserving", "history_free"}
    for statements in made.values():
        assert statements.keys() == NAMES
        for name, statement in statements.items():
            assert statement.startswith(f"CREATE PROCEDURE {name}(")
            head = statement[: statement.index("BEGIN")]
            assert re.search(r"\)\s+SQL SECURITY INVOKER COMMENT '[0-9a-f]{32}; ver \d'\s", head)
            assert statement.endswith("END;")


def test_the_history_modes_differ_where_they_must():
    made = relstorage_procedures(MARIADB, PROJECTS)
    preserving, free = made["history_preserving"], made["history_free"]
    differ = {name for name in NAMES if preserving[name] != free[name]}
    assert differ == {
        "lock_and_choose_tid",
        "lock_and_choose_tid_p",
        "lock_and_choose_tid_and_move",
        "lock_objects_and_detect_conflicts",
    }
    assert "current_object" not in free["lock_objects_and_detect_conflicts"].split("IS NOT NULL")[1]


@pytest.mark.parametrize(
    ("version", "major", "clause"), [(MARIADB, 5, "LOCK IN SHARE MODE"), (MYSQL, 9, "FOR SHARE NOWAIT")]
)
def test_they_are_written_for_the_announced_version(version, major, clause):
    for statements in relstorage_procedures(version, PROJECTS).values():
        assert all(procedure_comment(s).endswith(f"; ver {major}") for s in statements.values())
        assert clause in statements["lock_objects_and_detect_conflicts"]


def test_the_plan_takes_them_as_they_are():
    made = relstorage_procedures(MARIADB, PROJECTS)
    (change,) = plan([Wanted("modern", "relstorage4", False)], Server(True, {}), made)
    created = [s.replace(" OR REPLACE", "", 1) for s in change.statements if "PROCEDURE" in s]
    assert created == [made["history_free"][name] for name in sorted(NAMES)]


@pytest.mark.parametrize("version", ["10.11.18-MariaDB-0+deb12u1", "11.8.6-MariaDB", "5.7.44-MariaDB"])
def test_a_mariadb_on_which_commits_would_fail_is_refused(version):
    with pytest.raises(AnsibleFilterError, match=r"project modern .*5\.5\.5-<its version>-MariaDB"):
        relstorage_procedures(version, PROJECTS)
    assert relstorage_procedures(version, PROJECTS[:1]) == {}


def test_another_relstorage_is_refused(monkeypatch):
    monkeypatch.setattr(PLUGIN, "RELSTORAGE", "4.2.9")
    found = importlib.metadata.version("RelStorage")
    with pytest.raises(
        AnsibleFilterError, match=rf"project modern .* where RelStorage is {found}: pip install RelStorage==4\.2\.9"
    ):
        relstorage_procedures(MARIADB, PROJECTS)


def test_a_missing_relstorage_is_named(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(AnsibleFilterError, match=r"RelStorage is missing: pip install RelStorage==4\.3\.0"):
        relstorage_procedures(MARIADB, PROJECTS)


def test_the_pinned_release_is_the_installed_one():
    assert f"\nRelStorage=={PLUGIN.RELSTORAGE}\n" in (ROOT / "requirements.in").read_text()
