"""Generated passwords: made once, complete or not at all, for their owner only."""

import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
from peat import passwords
from run_module import run_module

ROOT = pathlib.Path(__file__).parents[2]
PEOPLE = [
    {"name": "farrell", "from": ["192.0.2.7"], "password": "correct-horse-9"},
    {"name": "nielsen", "from": ["192.0.2.7"]},
    {"name": "guest", "from": ["192.0.2.7"]},
]


def mode(path):
    return os.stat(path).st_mode & 0o777


@pytest.fixture
def secrets(tmp_path):
    return tmp_path / "secrets"


def run(secrets, **options):
    return run_module("peat_passwords", people=PEOPLE, secrets_dir=str(secrets), **options)


def test_generated_passwords_need_no_quoting_and_differ():
    made = {passwords.generate() for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch("[A-Za-z0-9][A-Za-z0-9_]{22}[A-Za-z0-9]", password) for password in made)
    assert not set("lIO01") & set("".join(made)), "letters that look like others"


def test_generated_passwords_satisfy_the_servers_policies():
    for password in (passwords.generate() for _ in range(500)):
        assert all(re.search(kind, password) for kind in ("[a-z]", "[A-Z]", "[0-9]", "_"))


def test_missing_passwords_are_made_and_nothing_else(secrets):
    result = run(secrets)
    assert (result["changed"], result["created"]) == (True, ["nielsen", "guest"])
    assert sorted(os.listdir(secrets)) == ["guest", "nielsen"]
    assert mode(secrets) == 0o700 and mode(secrets / "guest") == 0o600
    assert passwords.resolve(PEOPLE, str(secrets)) == {
        "farrell": "correct-horse-9",
        "nielsen": (secrets / "nielsen").read_text().strip(),
        "guest": (secrets / "guest").read_text().strip(),
    }


def test_nothing_is_generated_for_a_password_that_is_kept(secrets):
    people = [{"name": "ada", "from": ["192.0.2.1"], "password_hash": "*" + 40 * "A"}]
    assert run_module("peat_passwords", people=people, secrets_dir=str(secrets))["created"] == []


def test_the_umask_makes_no_difference(secrets):
    before = os.umask(0)
    try:
        run(secrets)
    finally:
        os.umask(before)
    assert mode(secrets) == 0o700 and mode(secrets / "guest") == 0o600


def test_second_run_changes_nothing(secrets):
    run(secrets)
    before = (secrets / "guest").read_text()
    result = run(secrets)
    assert (result["changed"], result["created"]) == (False, [])
    assert result["diff"] == {"before": "", "after": ""}
    assert (secrets / "guest").read_text() == before


def test_check_mode_makes_nothing_and_predicts_the_same(secrets):
    predicted = run(secrets, check=True)
    assert not secrets.exists()
    done = run(secrets)
    for result in (predicted, done):
        del result["invocation"]
    assert predicted == done


def test_existing_passwords_stay(secrets):
    secrets.mkdir(mode=0o700)
    (secrets / "guest").write_text("chosen-by-hand\n")
    (secrets / "guest").chmod(0o600)
    assert run(secrets)["created"] == ["nielsen"]
    assert (secrets / "guest").read_text() == "chosen-by-hand\n"


def test_files_open_to_others_are_closed(secrets):
    secrets.mkdir()
    secrets.chmod(0o755)
    (secrets / "guest").write_text("chosen-by-hand\n")
    (secrets / "guest").chmod(0o644)
    assert run(secrets, check=True)["closed"] == [str(secrets), str(secrets / "guest")]
    assert mode(secrets / "guest") == 0o644
    assert run(secrets)["closed"] == [str(secrets), str(secrets / "guest")]
    assert mode(secrets) == 0o700 and mode(secrets / "guest") == 0o600


def test_result_and_diff_have_no_password(secrets):
    first, second = run(secrets), run(secrets)
    text = json.dumps([first, second])
    for secret in ("correct-horse-9", (secrets / "guest").read_text().strip()):
        assert secret not in text
    assert "guest: a generated password" in first["diff"]["after"]


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"short\n", b"two-words-and\nanother-line\n", b"p\xc3\xa4ssword-longer\n"]
)
def test_damaged_file_is_refused_by_name_and_kept(secrets, content):
    secrets.mkdir()
    (secrets / "guest").write_bytes(content)
    result = run(secrets)
    assert result["failed"] is True
    assert str(secrets / "guest") in result["msg"] and "a password is generated" in result["msg"]
    assert (secrets / "guest").read_bytes() == content
    assert not (secrets / "nielsen").exists()


def test_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    result = run(tmp_path / "file" / "secrets")
    assert result["failed"] is True
    assert "let peat_secrets_dir name a directory" in result["msg"] or "cannot be read" in result["msg"]


@pytest.mark.parametrize("name", ["../guest", "/etc/guest", ".guest", ""])
def test_names_that_are_paths_are_refused(tmp_path, name):
    with pytest.raises(passwords.PasswordError, match="use a name that is no path"):
        passwords.file_of(str(tmp_path), name)


def test_servers_set_up_at_once_agree_on_one_password(secrets):
    secrets.mkdir()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: passwords.create(str(secrets), "guest"), range(40)))
    assert made.count(True) == 1
    assert os.listdir(secrets) == ["guest"]
    assert passwords.read(str(secrets), "guest")


def test_password_files_are_not_taken_for_an_inventory(tmp_path):
    """They are beside hosts.yml, and Ansible reads every file of an inventory directory as hosts."""
    (tmp_path / "hosts.yml").write_text("mysql: {hosts: {server: }}\n")
    run(tmp_path / "secrets")
    (tmp_path / "sheets").mkdir()
    password = (tmp_path / "secrets/guest").read_text().strip()
    result = subprocess.run(
        [pathlib.Path(sys.executable).with_name("ansible-inventory"), "-i", tmp_path, "--list"],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(result.stdout)["mysql"] == {"hosts": ["server"]}
    assert password not in result.stdout
    assert "Unable to parse" not in result.stderr
