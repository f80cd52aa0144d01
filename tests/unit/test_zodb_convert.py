"""How a converted storage takes the place of the empty one, without ZEO."""

import os

import pytest
from run_module import import_module

convert = import_module("zodb_convert")


class Host:
    """In the place of the module: notes what zeoctl is told, and has it fail where a test wants that."""

    def __init__(self, *failing):
        self.said, self.failing = [], list(failing)

    def run_command(self, argv):
        self.said.append(argv[1])
        fails = argv[1] in self.failing
        if fails:
            self.failing.remove(argv[1])
        return int(fails), "", f"cannot {argv[1]}"


@pytest.fixture(autouse=True)
def nobody_stored_anything(monkeypatch):
    monkeypatch.setattr(convert, "check_target", lambda module, path: None)


@pytest.fixture
def folders(tmp_path):
    """The empty storage's folder and the one that is to take its place."""
    for name in ("lab", "lab.converting"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "Data.fs").write_text(name)
    return str(tmp_path / "lab"), str(tmp_path / "lab.converting")


def served(folder):
    with open(os.path.join(folder, "Data.fs")) as file:
        return file.read()


def test_they_change_places(folders):
    host = Host()
    convert.change_places(host, *folders)
    assert served(folders[0]) == "lab.converting"
    assert host.said == ["stop", "start"]
    assert os.listdir(os.path.dirname(folders[0])) == ["lab"]


@pytest.mark.parametrize("failing", [1, 2])
def test_a_rename_that_fails_leaves_the_empty_one_served(folders, monkeypatch, failing):
    count, rename = [], os.rename

    def fails_once(before, after):
        count.append(before)
        if len(count) == failing:
            raise OSError(16, "Device or resource busy")
        rename(before, after)

    monkeypatch.setattr(os, "rename", fails_once)
    host = Host()
    with pytest.raises(convert.ConvertError, match=r"busy. The empty storage is back"):
        convert.change_places(host, *folders)
    assert served(folders[0]) == "lab"
    assert host.said == ["stop", "start"]


@pytest.mark.parametrize("word", ["stop", "start"])
def test_a_server_that_does_not_obey_gets_the_empty_one_back(folders, word):
    host = Host(word)
    with pytest.raises(convert.ConvertError, match=f"ZEO does not {word}: cannot {word}. The empty storage is back"):
        convert.change_places(host, *folders)
    assert served(folders[0]) == "lab"
    assert host.said[-1] == "start"


def test_somebody_stored_something_meanwhile(folders, monkeypatch):
    def filled(module, path):
        raise convert.ConvertError(f"{path} is not empty")

    monkeypatch.setattr(convert, "check_target", filled)
    host = Host()
    with pytest.raises(convert.ConvertError, match="is not empty"):
        convert.change_places(host, *folders)
    assert served(folders[0]) == "lab"
    assert host.said == ["stop", "start"]


def test_what_a_killed_conversion_left_is_refused_beforehand(folders):
    convert.check_places(folders[0])
    os.mkdir(f"{folders[0]}.empty")
    with pytest.raises(convert.ConvertError, match=r"lab.empty was left by a conversion that was killed"):
        convert.check_places(folders[0])


def test_what_a_restore_kept_is_not_lost(folders):
    os.mkdir(f"{folders[0]}/before-2026-01-31-14-00-00")
    with pytest.raises(convert.ConvertError, match=r"lab/before-2026-01-31-14-00-00 was kept by a restore"):
        convert.check_places(folders[0])


def test_a_folder_that_cannot_be_moved_is_refused_beforehand():
    with pytest.raises(convert.ConvertError, match="/proc is a mount point"):
        convert.check_places("/proc")
