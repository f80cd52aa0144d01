"""When the environment of a ZEO server is made anew, without making one."""

import os
import sys

from peat import zeo
from run_module import run_module


def asked(path, check=True, **values):
    arguments = {"path": str(path), "generation": "current", "python": sys.executable, "requirements": ["zeo==6.2"]}
    return run_module("zeo_environment", check=check, **{**arguments, **values})


def test_check_mode_makes_nothing(tmp_path):
    result = asked(tmp_path / "zeo")
    assert result["changed"] and result["before"] == ""
    assert result["diff"]["after"] == result["folder"] + "\n"
    assert list(tmp_path.iterdir()) == []


def test_a_bare_host_without_the_interpreter_is_foretold(tmp_path):
    result = asked(tmp_path / "zeo", python="/nonexistent/python2.7")
    assert result["changed"] and result["diff"]["after"] == f"{tmp_path}/zeo-current-*\n"


def test_one_of_the_same_parts_is_kept_and_half_of_one_is_not(tmp_path):
    path = tmp_path / "zeo"
    folder = asked(path)["folder"]
    os.mkdir(folder)
    zeo.link(folder, str(path))
    assert asked(path)["changed"]
    open(os.path.join(folder, "complete"), "w").close()
    assert not asked(path)["changed"]


def test_every_part_counts(tmp_path):
    parts = [{}, {"requirements": ["zeo==6.1"]}, {"bootstrap": "x"}, {"programs": {"a": "b"}}, {"programs": {"a": "c"}}]
    assert len({asked(tmp_path / "zeo", **part)["folder"] for part in parts}) == len(parts)


def test_what_somebody_else_put_there_is_left_alone(tmp_path):
    (tmp_path / "zeo").mkdir()
    assert "not a link of this role" in asked(tmp_path / "zeo")["msg"]


def test_the_link_leads_to_the_next_one(tmp_path):
    for name in ("one", "two"):
        zeo.link(name, str(tmp_path / "zeo"))
        assert os.readlink(tmp_path / "zeo") == name
    assert [path.name for path in tmp_path.iterdir()] == ["zeo"]


def test_earlier_environments_are_removed_and_nothing_of_others(tmp_path):
    path = tmp_path / "zeo"
    folder, before = asked(path)["folder"], f"{path}-peat2-0123456789ab"
    earlier = f"{path}-current-ba9876543210"
    foreign = [f"{path}-{name}" for name in ("data-2024", "backup-202411250000", "current-notes", "current-0123456789abc")]
    for made in (folder, before, earlier, *foreign):
        os.mkdir(made)
    open(os.path.join(folder, "complete"), "w").close()
    zeo.link(before, str(path))
    assert asked(path, check=False)["changed"]
    assert os.readlink(path) == folder
    assert sorted(map(str, tmp_path.iterdir())) == sorted([str(path), folder, before, *foreign])
