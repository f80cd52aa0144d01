"""New passwords on a running server: nobody is locked out, nobody sees them, and a stopped run loses none.

The old password ends when that is said. The tests change the passwords of the scenario's people; after the last one
each has one password again, the one beside the inventory.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY, Run, inventory_options, run_ansible, wait_until
from logins import log_in
from peat import passwords
from secrecy import WATCH

PLAYBOOK = "playbooks/rotate-passwords.yml"


@pytest.fixture(scope="module")
def rotate():
    """rotate(whom, *options): one run of the playbook."""

    def run(whom: str, *options: str) -> Run:
        return Run(*run_ansible("ansible-playbook", "--diff", "-e", f"peat_rotate={whom}", *options, PLAYBOOK))

    yield run
    finished = run("all", "-e", "peat_rotate_mode=finish")
    assert finished.ok, finished.failure


@pytest.fixture(scope="module")
def secrets(lab) -> Path:
    return Path(lab.server["secrets"])


@pytest.fixture(scope="module")
def lets_in(lab, modern):
    """lets_in(person, password): whether it does, at the IPv4 and at the IPv6 address of a client."""
    with log_in(lab, modern) as run:

        def ask(person: str, *passwords: str) -> list[bool]:
            logins = [
                {"user": person, "password": password, "from": lab.hosts["modern"][address], "tls": False}
                for password in passwords
                for address in ("address", "address6")
            ]
            answers = run(logins, [])
            assert all(answer in ({}, 1045) for answer in answers), answers
            return [answer == {} for answer in answers]

        yield ask


YES, NO = [True, True], [False, False]


# A rotation from beginning to end


@pytest.fixture(scope="module")
def watched(server, tmp_path_factory):
    """Everything that a run could leave a secret in: command lines here and on the server, the server's logs."""
    folder = tmp_path_factory.mktemp("watch")

    @contextlib.contextmanager
    def watch(sql) -> Iterator[dict]:
        found: dict = {"started": folder / "started", "folder": folder}
        found["started"].touch()
        there, log = "/run/peat-test-watch", "/var/lib/mysql/peat-test-general.log"
        server.check_output(f"rm -f {there}*; touch {there}.started")
        sql(f"SET GLOBAL general_log_file = '{log}'")
        sql("SET GLOBAL general_log = ON")
        here = subprocess.Popen([sys.executable, "-c", WATCH, str(folder / "stop")])
        server.check_output("systemd-run --quiet --collect --unit=peat-test-watch python3 -c %s %s", WATCH, there)
        try:
            yield found
        finally:
            (folder / "stop").touch()
            server.check_output(f"touch {there}")
            here.wait(10)
            wait_until(lambda: server.file(f"{there}.seen").exists, "the watch on the server")
            sql("SET GLOBAL general_log = OFF")
        found["command lines here"] = (folder / "stop.seen").read_bytes().decode(errors="replace")
        found["command lines there"] = server.check_output(f"cat -v {there}.seen")
        found["general log"] = server.check_output(f"cat -v {log} && rm {log}")

    return watch


@pytest.fixture(scope="module")
def before(lab, run_client) -> dict:
    """What was: passwords, and a session of farrell's that is saving."""
    found = {name: lab.password(name) for name in ("farrell", "guest")}
    found["loop"] = run_client.loop(
        "peat2", "peat2", "farrell", "hewlsample", seconds=3600, every=0.3, prefix="rotated"
    )
    found["loop"].wait_for(2)
    return found


@pytest.fixture(scope="module")
def rotated(before, rotate, watched, sql, lab) -> dict:
    """One run for two people: foretold, then done while everything is watched, as verbose as helps anybody."""
    found = {"foretold": rotate("farrell,guest", "--check")}
    assert found["foretold"].ok, found["foretold"].failure
    assert {name: lab.password(name) for name in ("farrell", "guest")} == {n: before[n] for n in ("farrell", "guest")}
    with watched(sql) as seen:
        found["done"] = rotate("farrell,guest", "-vvv")
        assert found["done"].ok, found["done"].failure
    found["seen"] = seen
    found |= {name: lab.password(name) for name in ("farrell", "guest")}
    return found


def test_check_mode_foretells_exactly_what_is_done(rotated):
    assert rotated["foretold"].changed == rotated["done"].changed != []
    assert rotated["foretold"].diffs == rotated["done"].diffs


def test_old_and_new_passwords_let_in_at_every_address(rotated, before, lets_in):
    for name in ("farrell", "guest"):
        assert rotated[name] != before[name]
        assert lets_in(name, rotated[name], before[name], "neither-of-the-two") == YES + YES + NO


def test_the_real_client_logs_in_with_both(rotated, before, run_client, unused):
    for password in (rotated["farrell"], before["farrell"]):
        answer = run_client("peat2", "peat2", "add", "farrell", "my_sandbox", password=password, prefix=unused)
        assert answer["ok"], answer
        assert run_client("peat2", "peat2", "open", "guest", "hewlsample", password=rotated["guest"])["ok"]


def test_a_running_session_goes_on(rotated, before):
    saved = len(before["loop"].saved())
    before["loop"].wait_for(saved + 2)


def test_the_sheets_have_the_new_passwords_for_their_owner_only(rotated, before, lab):
    for name in ("farrell", "guest"):
        for path in Path(lab.server["sheets"]).glob(f"{name}.*"):
            assert rotated[name] in path.read_text() and before[name] not in path.read_text()
            assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_files_are_their_owners_only(rotated, secrets):
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets.iterdir()} == {0o600}


@pytest.fixture(scope="module")
def all_secrets(rotated, before) -> list[str]:
    return [found[name] for found in (rotated, before) for name in ("farrell", "guest")]


@pytest.mark.parametrize(
    ("where", "something"),
    [
        ("command lines here", "rotate-passwords.yml"),
        ("command lines there", "python3"),
        ("general log", "ALTER USER"),
    ],
)
def test_no_password_was_seen(rotated, all_secrets, where, something):
    text = rotated["seen"][where]
    assert something in text, "nothing was watched"
    assert [secret for secret in all_secrets if secret in text] == []


def test_no_file_of_the_server_has_a_password(rotated, all_secrets, server):
    """Neither a log of the database server, binary or not, nor what Ansible left. Hashes are not clear text."""
    # Patterns travel in a variable of the shell, which no other process has in its command line.
    done = server.run(
        "find / -xdev -type f -newer /run/peat-test-watch.started -not -path '/proc/*' -not -path '/sys/*' -print0"
        ' | PATTERNS=%s sh -c \'printf %%s "$PATTERNS" >/run/peat-test-patterns;'
        " xargs -0 grep --files-with-matches --fixed-strings --file=/run/peat-test-patterns --no-messages'",
        "\n".join(all_secrets),
    )
    server.check_output("rm -f /run/peat-test-patterns")
    assert [path for path in done.stdout.split() if path != "/run/peat-test-patterns"] == []


def test_no_file_here_that_others_can_read_has_a_password(rotated, all_secrets, lab):
    """Of the inventory, and of where Ansible keeps its temporary files."""
    since = rotated["seen"]["started"].stat().st_mtime
    folders = [Path(lab.server["secrets"]).parent, Path("~/.ansible").expanduser(), Path(tempfile.gettempdir())]
    leaks = []
    for folder in folders:
        for path in folder.rglob("*"):
            with contextlib.suppress(OSError):
                status = path.lstat()
                if not stat.S_ISREG(status.st_mode) or not status.st_mode & 0o077 or status.st_mtime < since:
                    continue
                text = path.read_bytes()
                leaks += [path for secret in all_secrets if secret.encode() in text]
    assert leaks == []


def test_what_ansible_says_has_no_password(rotated, all_secrets):
    for run in (rotated["foretold"], rotated["done"]):
        assert [secret for secret in all_secrets if secret in run.text] == []


# The overlap


@pytest.fixture(scope="module")
def kept(rotated, site) -> Run:
    """An ordinary run of site.yml meanwhile."""
    run = site()
    assert run.ok, run.failure
    return run


def test_site_changes_nothing_meanwhile(kept, rotated, before, lets_in):
    assert kept.changed == []
    assert lets_in("farrell", rotated["farrell"], before["farrell"]) == YES + YES


def test_site_reports_the_overlap(kept):
    (result,) = kept.output_of("Accounts |")
    assert any("farrell, guest" in text and "peat_rotate_mode=finish" in text for text in result["findings"])


def test_another_rotation_is_refused_meanwhile(kept, rotated, rotate, lab, secrets):
    run = rotate("farrell")
    assert not run.ok and run.changed == []
    assert "farrell is not finished" in run.failure and "peat_rotate_mode=finish" in run.failure
    assert lab.password("farrell") == rotated["farrell"] and not (secrets / ".rotation").exists()


@pytest.fixture(scope="module")
def finished(kept, rotate, site) -> dict[str, Run]:
    found = {"finish": rotate("farrell,guest", "-e", "peat_rotate_mode=finish"), "site": site()}
    for run in found.values():
        assert run.ok, run.failure
    return found


def test_a_finished_rotation_ends_the_old_passwords(finished, rotated, before, lets_in, run_client):
    for name in ("farrell", "guest"):
        assert lets_in(name, rotated[name], before[name]) == YES + NO
    answer = run_client("peat2", "peat2", "open", "farrell", "hewlsample", password=before["farrell"])
    assert answer["error"]["number"] == 1045
    assert run_client("peat2", "peat2", "open", "farrell", "hewlsample", password=rotated["farrell"])["ok"]


def test_nothing_of_a_finished_rotation_is_left(finished, sql):
    assert finished["site"].changed == []
    assert "peat_rotate_mode" not in json.dumps(finished["site"].output_of("Accounts |"))
    assert sql("SELECT * FROM peat_server.password_overlap") == []


def test_the_journal_has_no_password(finished, all_secrets, server):
    """Where Ansible writes every call of a module; since the host exists, runs of site.yml included."""
    text = server.check_output("journalctl --no-pager --boot")
    assert "ansible-peat_rotation" in text and "ansible-peat_access" in text
    assert [secret for secret in all_secrets if secret in text] == []


def test_a_finished_rotation_lets_sessions_go_on(finished, before):
    before["loop"].wait_for(len(before["loop"].saved()) + 1)


@pytest.fixture(scope="module")
def leaked(finished, rotate, lab) -> str:
    run = rotate("farrell", "-e", "peat_rotate_mode=leaked")
    assert run.ok, run.failure
    return lab.password("farrell")


def test_a_leaked_password_ends_at_once(leaked, rotated, lets_in):
    assert lets_in("farrell", leaked, rotated["farrell"]) == YES + NO
    assert lets_in("guest", rotated["guest"]) == YES


def test_sessions_end_with_a_leaked_password(leaked, before):
    assert before["loop"].end()["error"]


# What is refused


def test_nobody_in_particular_is_refused(rotate):
    run = rotate("")
    assert not run.ok and run.changed == [] and "say whose, with -e peat_rotate=NAME" in run.failure


def test_a_password_of_the_inventory_is_changed_there(rotate, site, lab, lets_in, tmp_path):
    """The same one again is refused, another one overlaps like any."""
    lists, old, new = lab.lists(), lab.password("visitor"), "changed-in-the-vault"
    entry = next(person for person in lists["peat_people"] if person["name"] == "visitor")
    site.to_restore = True
    runs = []
    for entry["password"] in (old, new):
        (tmp_path / "lists.json").write_text(json.dumps(lists))
        runs.append(rotate("visitor", "-e", f"@{tmp_path}/lists.json"))
    assert "gives the password of visitor" in runs[0].failure and runs[0].changed == []
    assert runs[1].ok, runs[1].failure
    assert lets_in("visitor", old, new) == YES + YES
    assert new not in runs[1].text
    assert lab.password("visitor") == old, "nothing is generated"


# Runs that do not come to their end


def known(secrets: Path, person: str) -> list[str]:
    """The passwords of a person that are anywhere beside the inventory, the one that is to be first."""
    paths = [secrets / place / person for place in (".rotation", ".rotated", "")]
    return [path.read_text().strip() for path in paths if path.exists()]


def test_a_killed_run_is_finished_by_the_next(rotate, secrets, lets_in, lab):
    """Killed as soon as there is a new password, before a server can have it."""
    command = [Path(sys.executable).with_name("ansible-playbook"), *inventory_options(), "-e", "peat_rotate=nielsen"]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg")}
    # Ansible refuses what others may have made non-blocking, as ssh does with the errors' end that it shares with us.
    nowhere = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    run = subprocess.Popen([*command, PLAYBOOK], cwd=REPOSITORY, env=environment, start_new_session=True, **nowhere)
    wait_until(lambda: (secrets / ".rotation/nielsen").exists() or run.poll() is not None, "a new password")
    assert run.poll() is None, "it came to its end"
    os.killpg(run.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    new, old = known(secrets, "nielsen")
    assert lets_in("nielsen", old) == YES
    again = rotate("nielsen")
    assert again.ok, again.failure
    assert known(secrets, "nielsen") == [new]
    assert lets_in("nielsen", new, old) == YES + YES


def test_a_run_stopped_after_the_server_is_finished_by_the_next(rotate, secrets, lets_in, site):
    """Also with a run of site.yml between the two."""
    stopped = rotate("guest", "-e", "peat_sheets_dir=/dev/null/sheets")
    assert "sheets cannot be kept" in stopped.failure
    new, old = known(secrets, "guest")
    assert lets_in("guest", new, old) == YES + YES
    between = site()
    assert between.ok, between.failure
    assert [diff for _host, task, diff in between.diffs if "Accounts" in task and "guest" in json.dumps(diff)] == []
    # A warning is wrapped to the terminal's width.
    assert "-e peat_rotate=guest" in " ".join(between.text.split())
    assert lets_in("guest", new, old) == YES + YES
    again = rotate("guest")
    assert again.ok, again.failure
    assert known(secrets, "guest") == [new]
    assert lets_in("guest", new, old) == YES + YES


# Strength

POLICY = {
    "mysql": (
        "INSTALL COMPONENT 'file://component_validate_password'; SET GLOBAL validate_password.policy = STRONG",
        "UNINSTALL COMPONENT 'file://component_validate_password'",
    ),
    "mariadb": ("INSTALL SONAME 'simple_password_check'", "UNINSTALL SONAME 'simple_password_check'"),
}


def test_generated_passwords_satisfy_the_servers_own_policy(sql, lab):
    on, off = POLICY[lab.server["flavour"]]
    sql(on)
    try:
        with pytest.raises(AssertionError, match="1819"):
            sql("CREATE USER weak@localhost IDENTIFIED BY 'onlylettersandnothingelse'")
        for _ in range(10):
            sql(f"CREATE USER strong@localhost IDENTIFIED BY '{passwords.generate()}'; DROP USER strong@localhost")
    finally:
        # MariaDB keeps the changed table open, which site.yml's trial of the configuration takes for a crash.
        sql(f"{off}; FLUSH TABLES")
