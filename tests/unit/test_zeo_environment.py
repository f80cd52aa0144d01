"""What interpreter a ZEO server gets, and when its environment is made anew, without making one."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from peat import zeo
from run_module import import_module, run_module


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
    foreign = [
        f"{path}-{name}" for name in ("data-2024", "backup-202411250000", "current-notes", "current-0123456789abc")
    ]
    for made in (folder, before, earlier, *foreign):
        os.mkdir(made)
    open(os.path.join(folder, "complete"), "w").close()
    zeo.link(before, str(path))
    assert asked(path, check=False)["changed"]
    assert os.readlink(path) == folder
    assert sorted(map(str, tmp_path.iterdir())) == sorted([str(path), folder, before, *foreign])


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        ("/nonexistent/python2.7", "it is no program of this host"),
        ("/usr", "it is no program of this host"),
        ("/etc/os-release", "it is no program of this host"),
        (sys.executable, f"it is Python {sys.version_info[0]}.{sys.version_info[1]}"),
        ("/bin/false", "it does not run"),
    ],
)
def test_an_interpreter_that_cannot_be_is_refused_with_the_reason(monkeypatch, named, reason):
    config = import_module("zeo_config")
    monkeypatch.setattr(config, "text_of", lambda path: 'ID=debian\nVERSION_ID="12"\n')
    platform = {"generation": "peat2", "distribution": "debian", "release": "12", "python": "", "packages": []}
    params = {"python": named, "platforms": [{**platform, "refused": "it has no Python 2.7"}]}
    module = SimpleNamespace(params=params, check_mode=True, run_command=lambda argv, **_: ran(argv))
    with pytest.raises(config.zeo.ZeoError, match=f"zeo_python: {named} is to be Python 2.7, but {reason}"):
        config.choose_platform(module, config.Host(module), config.Plan(generation="peat2"))


def ran(argv):
    done = subprocess.run(argv, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr
