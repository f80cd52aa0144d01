"""When a ZEO project is packed: the program runs with the server's libraries, which are not needed for that."""

import importlib.util
import pathlib
import sys
import time
from unittest import mock

import pytest

PROGRAM = pathlib.Path(__file__).parents[2] / "roles/zeo/files/zeo-maintenance.py"
LIBRARIES = ("ZConfig", "ZEO", "ZEO.ClientStorage", "ZODB", "ZODB.blob", "ZODB.FileStorage")


@pytest.fixture(scope="module")
def maintenance():
    spec = importlib.util.spec_from_file_location("zeo_maintenance", PROGRAM)
    program = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, {name: mock.MagicMock() for name in LIBRARIES}):
        spec.loader.exec_module(program)
    return program


def moment(text):
    """Return a time of this host's clock; 2026-01-01 is a Thursday."""
    return time.mktime(time.strptime(text, "%Y-%m-%d %H:%M"))


@pytest.mark.parametrize(
    ("weekday", "at", "now", "due"),
    [
        ("daily", "03:30", "2026-01-08 03:29", "2026-01-07 03:30"),
        ("daily", "03:30", "2026-01-08 03:30", "2026-01-08 03:30"),
        ("thu", "03:30", "2026-01-08 03:29", "2026-01-01 03:30"),
        ("thu", "03:30", "2026-01-08 03:31", "2026-01-08 03:30"),
        ("fri", "23:59", "2026-01-08 12:00", "2026-01-02 23:59"),
        # On the first of a month the days before are those of the month before.
        ("sun", "03:30", "2026-01-01 12:00", "2025-12-28 03:30"),
    ],
)
def test_a_pack_is_due_at_the_time_of_its_day(maintenance, weekday, at, now, due):
    assert maintenance.last_due({"weekday": weekday, "time": at}, moment(now)) == moment(due)


def test_without_a_time_no_pack_is_ever_due(maintenance):
    assert maintenance.last_due({"weekday": "daily", "time": ""}, moment("2026-01-08 12:00")) is None


@pytest.fixture
def server(maintenance):
    """A server of three projects, one of which is frozen and one is packed at other times."""
    found = maintenance.Server.__new__(maintenance.Server)
    found.storages = {name: mock.Mock(read_only=name == "frozen") for name in ("one", "frozen", "own")}
    found.settings = {
        "pack": {"days": 30, "weekday": "sun", "time": "03:30"},
        "pack_projects": [{"name": "own", "days": 365, "weekday": "daily"}],
    }
    return found


def test_a_project_has_its_own_times_and_else_those_of_all(server):
    assert server.schedule("one") == server.settings["pack"]
    own = server.schedule("own")
    assert (own["days"], own["weekday"], own["time"]) == (365, "daily", "03:30")


@pytest.mark.parametrize(("packed", "packs"), [("2026-01-07 03:29", 1), ("2026-01-07 03:31", 0)])
def test_a_pack_that_was_missed_is_made_up_for_once(maintenance, server, packed, packs):
    with (
        mock.patch.object(maintenance, "packed", return_value=moment(packed)),
        mock.patch.object(maintenance, "pack") as pack,
        mock.patch.object(maintenance.time, "time", return_value=moment("2026-01-07 12:00")),
    ):
        maintenance.pack_if_due(server, "own")
    assert pack.call_count == packs


def test_what_is_frozen_is_backed_up_and_not_packed(maintenance, server):
    assert server.projects("pack-due") == server.projects("pack") == ["one", "own"]
    assert server.projects("backup") == ["frozen", "one", "own"]
    with pytest.raises(maintenance.Failure, match="it is frozen"):
        maintenance.pack(server, "frozen")


def folder_of(path, **files):
    """Make a folder with files, whose text says where they come from."""
    (path / "blobs").mkdir(parents=True)
    for name, text in files.items():
        (path / name.replace("_", ".")).write_text(text)
    return path


def test_a_storage_and_its_backup_change_places(maintenance, tmp_path):
    folder = folder_of(tmp_path / "a", Data_fs="old")
    (folder / "lost+found").mkdir()
    fresh = folder_of(folder / "restoring", Data_fs="new")
    maintenance.change_places(str(folder), str(fresh), str(folder / "before"))
    assert (folder / "Data.fs").read_text() == "new"
    assert (folder / "before/Data.fs").read_text() == "old"
    assert sorted(path.name for path in folder.iterdir()) == ["Data.fs", "before", "blobs", "lost+found"]


def test_a_storage_that_cannot_be_replaced_stays_whole(maintenance, tmp_path):
    folder = folder_of(tmp_path / "a", Data_fs="old")
    fresh = folder_of(folder / "restoring", Data_fs="new")
    rename, calls = maintenance.os.rename, []

    def fails_late(old, new):
        calls.append(old)
        if len(calls) == 4:
            raise OSError("no more")
        rename(old, new)

    with mock.patch.object(maintenance.os, "rename", fails_late), pytest.raises(OSError, match="no more"):
        maintenance.change_places(str(folder), str(fresh), str(folder / "before"))
    assert (folder / "Data.fs").read_text() == "old" and (folder / "blobs").is_dir()
    assert (fresh / "Data.fs").read_text() == "new"
