"""managed_files: what it plans, and what it does to real files."""

import os
import stat

import pytest
from peat.files import Entry, plan
from run_module import run_module

SECRET = "-----BEGIN PRIVATE KEY-----\n"
FOLDER = Entry("/etc/x", "root", "root", 0o755)
FILE = Entry("/etc/x/a", "root", "root", 0o644, "one\n")


def test_what_is_right_is_left_alone():
    assert plan([FILE, FOLDER], [], {entry.path: entry for entry in (FOLDER, FILE)}) == []


def test_folders_come_before_what_is_in_them_and_removals_last():
    old = Entry("/etc/x/old", "root", "root", 0o644, "old\n")
    steps = plan([FILE, FOLDER], [old.path, "/etc/x/never"], {old.path: old})
    assert [(step.path, step.write) for step in steps] == [(FOLDER.path, True), (FILE.path, True), (old.path, False)]


@pytest.mark.parametrize(
    ("change", "write", "before"),
    [
        ({"text": "two\n"}, True, "two\n"),
        ({"mode": 0o600}, False, "file of root:root, mode 0600\n"),
        ({"owner": "nobody"}, False, "file of nobody:root, mode 0644\n"),
        ({"group": "mysql", "text": "two\n"}, True, "file of root:mysql, mode 0644\ntwo\n"),
    ],
)
def test_a_difference_is_one_step_that_says_what(change, write, before):
    found = Entry(**{**vars(FILE), **change})
    (step,) = plan([FILE], [], {FILE.path: found})
    assert step.write == write
    assert step.diff["before"] == before
    assert step.diff["before"] != step.diff["after"]


def test_a_secret_is_never_in_a_diff():
    wanted = Entry("/etc/x/key", "root", "root", 0o640, SECRET, secret=True)
    for found in (None, Entry(**{**vars(wanted), "text": "another\n"}), Entry(**{**vars(wanted), "mode": 0o644})):
        (step,) = plan([wanted], [], {wanted.path: found} if found else {})
        assert "PRIVATE" not in str(step.diff) and "another" not in str(step.diff)
        assert step.diff["before"] != step.diff["after"]


@pytest.fixture
def run(tmp_path):
    group = os.popen("id --group --name").read().strip()

    def call(check=False, **options):
        return run_module("managed_files", check=check, group=group, **options)

    return call


def test_a_run_does_what_check_mode_foretold_and_the_next_nothing(run, tmp_path):
    (tmp_path / "old").write_text("old\n")
    wanted = {
        "directories": [{"path": str(tmp_path / "folder"), "mode": "0750"}],
        "files": [
            {"path": str(tmp_path / "folder/key"), "secret": SECRET, "mode": "0640"},
            {"path": str(tmp_path / "program"), "content": "#!/bin/sh\n", "mode": "0755"},
        ],
        "absent": [str(tmp_path / "old")],
    }
    foretold = run(check=True, **wanted)
    assert sorted(os.listdir(tmp_path)) == ["old"]
    done = run(**wanted)
    assert foretold == done
    assert done["changed"] and "PRIVATE" not in str(done)
    assert sorted(os.listdir(tmp_path)) == ["folder", "program"]
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("folder", "folder/key", "program")}
    assert modes == {"folder": 0o750, "folder/key": 0o640, "program": 0o755}
    assert (tmp_path / "folder/key").read_text() == SECRET
    assert not run(**wanted)["changed"]
    (tmp_path / "folder/key").chmod(0o644)
    assert run(**wanted)["paths"] == [str(tmp_path / "folder/key")]
    assert not run(**wanted)["changed"]


def test_a_file_that_cannot_be_written_is_named(run, tmp_path):
    path = str(tmp_path / "missing/file")
    failed = run(files=[{"path": path, "content": ""}])
    assert failed["failed"] and path in failed["msg"]
