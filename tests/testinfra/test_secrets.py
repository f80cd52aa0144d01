"""No password is in anything that a run leaves or shows, and what may have one is its owner's only.

Runs of site.yml and of a rotation, as verbose as helps anybody, make accounts, predict, dump and remove a project and
change a password, while everything that could keep a secret is on: the database server's logs, and a watch over
command lines and environments on both machines. Then both are searched. A secret that is no password is planted
in each place beforehand: the search must find that.
"""

from __future__ import annotations

import base64
import contextlib
import json
import pathlib
import stat
import subprocess
import sys

import onhost
import pytest
import secrecy
from conftest import REPOSITORY, Run, run_ansible, wait_until
from peat import passwords

ROOTS = ("/etc", "/home", "/opt", "/root", "/run", "/srv", "/tmp", "/usr/local", "/var")
#: A password that the list gives, with what programs quote or take for a template.
GIVEN = 'it\'s 100% \\given\\ <&> "{x}" $HOME;'
WATCHED = "/run/peat-test-watch"
LOGS = ("general", "slow")


@pytest.fixture(scope="module")
def planted() -> str:
    return passwords.generate()


@pytest.fixture(scope="module")
def wanted(lab) -> dict:
    lists = lab.lists()
    lists["peat_people"].append({"name": "given", "from": ["campus"], "password": GIVEN})
    lists["peat_people"].append({"name": "thomsen", "from": ["campus"]})
    lists["peat_projects"].append({"name": "leaving", "clients": "peat2", "write": ["given", "thomsen"]})
    return lists


def known(lab) -> set[str]:
    """Every password beside the inventory."""
    return {path.read_text().strip() for path in pathlib.Path(lab.server["secrets"]).rglob("*") if path.is_file()}


@contextlib.contextmanager
def watch(server, folder):
    """Remember what processes show, here and on the server."""
    server.check_output("rm -f %s*", WATCHED)
    here = subprocess.Popen([sys.executable, "-c", secrecy.WATCH, f"{folder}/watch"])
    server.check_output("systemd-run --quiet --collect --unit=peat-test-watch python3 -c %s %s", secrecy.WATCH, WATCHED)
    try:
        yield
    finally:
        pathlib.Path(f"{folder}/watch").touch()
        server.check_output("touch %s", WATCHED)
        assert here.wait(30) == 0
        wait_until(lambda: server.file(f"{WATCHED}.seen").exists, "the watch on the server")


@contextlib.contextmanager
def logged(sql):
    """Let the database server log every statement."""
    settings = ("general_log", "general_log_file", "slow_query_log", "slow_query_log_file", "long_query_time")
    (kept,) = sql(f"SELECT {', '.join(f'@@GLOBAL.{name}' for name in settings)}")
    sql("".join(f"SET GLOBAL {log}_file = '/run/mysqld/peat-test-{log}';" for log in ("general_log", "slow_query_log")))
    sql("SET GLOBAL general_log = ON, GLOBAL slow_query_log = ON, GLOBAL long_query_time = 0")
    try:
        yield
    finally:
        sql("SET GLOBAL general_log = OFF, GLOBAL slow_query_log = OFF")
        for name, value in zip(settings, kept, strict=True):
            sql(f"SET GLOBAL {name} = {value if value.replace('.', '').isdigit() else repr(value)}")


def plant(server, sql, secret: str, here: pathlib.Path) -> None:
    """Put a secret where a careless program would leave one, in each place in another form."""
    encoded = base64.b64encode(f"x{secret}y".encode()).decode()
    server.check_output("echo %s | systemd-cat", f"password {secret}")
    server.check_output("sh -c 'exec sleep 0.3' %s", secret)
    for path, text in (
        ("/tmp/peat-test-planted", secret),
        ("/root/.ansible/peat-test-planted", json.dumps({"content": encoded})),
        ("/var/log/peat-test-planted", secret.encode().hex()),
        ("/var/lib/fail2ban/peat-test-planted", secret),
    ):
        server.check_output("mkdir -p $(dirname %s) && echo %s >%s", path, text, path)
    sql(f"SELECT '{secret}'")
    for folder in (here, pathlib.Path("~/.ansible").expanduser()):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "peat-test-planted").write_text(f"PEAT {encoded}")
    subprocess.run(["sleep", "0.3"], env={"PATH": "/usr/bin:/bin", "PASSWORD": secret}, check=True)


@pytest.fixture(scope="module")
def left(lab, server, sql, site, wanted, planted, tmp_path_factory):
    """What was searched for and where it was found, and what the runs said."""
    folder = tmp_path_factory.mktemp("secrets")
    everything = {GIVEN, *known(lab)}
    without = {**wanted, "peat_confirm_absent": ["leaving"]}
    without["peat_projects"] = [
        {**project, "state": "absent"} if project["name"] == "leaving" else project
        for project in wanted["peat_projects"]
    ]
    texts = []
    try:
        with logged(sql), watch(server, folder):
            plant(server, sql, planted, folder)
            extra = folder / "extra.json"
            extra.write_text(json.dumps(without))
            extra.chmod(0o600)
            rotate = ("ansible-playbook", "--diff", "-vvv", "-e", f"@{extra}", "-e", "peat_rotate=thomsen")
            for act in (
                lambda: site(wanted, "-vvv"),
                lambda: site(without, "-vvv", "--tags=mysql,peat", check=True),
                lambda: site(without, "-vvv", "--tags=mysql,peat"),
                lambda: Run(*run_ansible(*rotate, "playbooks/rotate-passwords.yml")),
            ):
                run = act()
                assert run.ok, run.failure
                assert run.changed
                texts.append(run.text)
                everything |= known(lab)
            extra.unlink()
        site.to_restore = True
        here = (str(folder), str(pathlib.Path("~/.ansible").expanduser()), *map(str, inventory_files(lab)))
        found = {}
        for what, secrets in (("planted", {planted}), ("real", everything)):
            there = secrecy.places(onhost.ssh(lab.server), secrets, ROOTS)
            found[what] = {f"server:{place}" for place in there}
            found[what] |= {f"here:{place}" for place in secrecy.places(["sh", "-c"], secrets, here)}
        yield {**found, "texts": texts, "secrets": everything}
    finally:
        for path in (folder, pathlib.Path("~/.ansible").expanduser()):
            (path / "peat-test-planted").unlink(missing_ok=True)
        server.check_output("rm -f /tmp/peat-test-planted /root/.ansible/peat-test-planted /var/log/peat-test-planted"
                            " /var/lib/fail2ban/peat-test-planted /run/mysqld/peat-test-* %s*", WATCHED)  # fmt: skip


def inventory_files(lab) -> list[pathlib.Path]:
    """What lies beside the inventory, but for what is there to keep secrets."""
    secret = {pathlib.Path(lab.server["secrets"]), pathlib.Path(lab.server["sheets"]).parent}
    beside = pathlib.Path(lab.server["secrets"]).parent
    return [REPOSITORY / "molecule/shared/inventory", *(path for path in beside.iterdir() if path not in secret)]


def test_the_search_finds_what_is_planted(left):
    expected = {
        "server:the journal", "server:/tmp/peat-test-planted", "server:/root/.ansible/peat-test-planted",
        "server:/var/log/peat-test-planted", "server:/var/lib/fail2ban/peat-test-planted", f"server:{WATCHED}.seen",
        "server:/run/mysqld/peat-test-general_log", "server:/run/mysqld/peat-test-slow_query_log",
    }  # fmt: skip
    assert expected <= left["planted"], expected - left["planted"]
    here = {place.rpartition("/")[2] for place in left["planted"] if place.startswith("here:")}
    assert {"peat-test-planted", "watch.seen"} <= here, left["planted"]
    assert len([place for place in left["planted"] if place.startswith("here:") and "planted" in place]) == 2


def test_there_was_something_to_find(left, sql):
    """Generated passwords, also old and new of a rotation, and one that the list gives."""
    assert len(left["secrets"]) >= 7
    assert all("TASK [" in text or '"plays"' in text for text in left["texts"])


def test_no_password_is_left_anywhere(left):
    assert left["real"] == set()


def test_ansible_prints_no_password(left):
    printed = "\n".join(left["texts"]).encode()
    assert [form for form in secrecy.forms(left["secrets"]) if form in printed] == []


def test_what_has_secrets_is_its_owners_only(left, lab, server):
    beside = pathlib.Path(lab.server["secrets"]).parent
    paths = [path for name in ("secrets", "sheets", "tls") for path in (beside / name).rglob("*")]
    assert {path.suffix for path in paths} >= {"", ".txt", ".html", ".key", ".crt"}
    for path in paths:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert not mode & 0o077 or not path.stat().st_size, f"{path}: {mode:o}"
    dumps = server.check_output("find /var/backups/peat-server -name 'leaving*' -size +0").splitlines()
    assert dumps
    assert server.check_output("find /var/backups/peat-server -perm /077") == ""
