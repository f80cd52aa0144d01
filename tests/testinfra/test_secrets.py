"""No password is in anything that a run leaves or shows, and what may have one is its owner's only.

Runs of site.yml, of a rotation and of the check of a live lab, as verbose as helps anybody, make accounts, predict,
dump and remove a project, change a password and log in everywhere, while everything that could keep a secret is on:
the database server's logs, and a watch over command lines and environments here, on the server and at a vantage
point. Then all three are searched. A secret that is no password is planted in each place beforehand: the search must
find that. One password is a command to every shell that gets it in any quotes, or in none.
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
from verified import verify

#: A password that the list gives, with what programs quote or take for a template.
GIVEN = 'it\'s 100% \\given\\ <&> "{x}" $HOME;'
#: Made by a shell that has any of these before it; a project's name, which another shell would write.
MADE = "/tmp/peat-test-shell"
COMMAND = f"'$(touch {MADE})'\"$(touch {MADE})\"; touch {MADE}"
LEAVING = "leaving$HOME"
WATCHED = "/run/peat-test-watch"
PLANTED = [f"{folder}/peat-test-planted" for folder in ("/tmp", "/root/.ansible", "/var/log", "/var/lib/peat-test")]
#: Who is new, and may log in at the vantage point.
NEW = ["given", "command", "thomsen"]


@pytest.fixture(scope="module")
def planted() -> str:
    return passwords.generate()


@pytest.fixture(scope="module")
def wanted(lab) -> dict:
    lists = lab.lists()
    lists["peat_people"].append({"name": "given", "from": ["campus"], "password": GIVEN})
    lists["peat_people"].append({"name": "command", "from": ["campus"], "password": COMMAND})
    lists["peat_people"].append({"name": "thomsen", "from": ["campus"]})
    staying = next(project for project in lists["peat_projects"] if project["name"] == "modernhp")
    staying["read"] += NEW
    lists["peat_projects"].append({"name": LEAVING, "clients": "peat2", "write": NEW})
    return lists


@contextlib.contextmanager
def watch(hosts, folder):
    """Remember what processes show, here and on hosts."""
    start = "rm -f %s* && systemd-run --quiet --collect --unit=peat-test-watch python3 -c %s %s"
    here = subprocess.Popen([sys.executable, "-c", secrecy.WATCH, f"{folder}/watch"])
    for host in hosts:
        host.check_output(start, WATCHED, secrecy.WATCH, WATCHED)
    try:
        yield
    finally:
        pathlib.Path(f"{folder}/watch").touch()
        for host in hosts:
            host.check_output("touch %s", WATCHED)
            wait_until(lambda host=host: host.file(f"{WATCHED}.seen").exists, "the watch on a host")
        assert here.wait(30) == 0


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


def plant(hosts, sql, secret: str, here: pathlib.Path) -> None:
    """Put a secret where a careless program would leave one, in each place in another form."""
    encoded = base64.b64encode(f"x{secret}y".encode()).decode()
    texts = (secret, json.dumps({"content": encoded}), secret.encode().hex(), secret)
    for host in hosts:
        host.check_output("echo %s | systemd-cat", f"password {secret}")
        host.check_output("sh -c 'exec sleep 0.3' %s", secret)
        for path, text in zip(PLANTED, texts, strict=True):
            host.check_output("mkdir -p $(dirname %s) && echo %s >%s", path, text, path)
    sql(f"SELECT '{secret}'")
    for folder in (here, pathlib.Path("~/.ansible").expanduser()):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "peat-test-planted").write_text(f"PEAT {encoded}")
    subprocess.run(["sleep", "0.3"], env={"PATH": "/usr/bin:/bin", "PASSWORD": secret}, check=True)


@pytest.fixture(scope="module")
def left(lab, server, modern, sql, site, wanted, planted, tmp_path_factory):
    """What was searched for and where it was found, and what the runs said."""
    folder = tmp_path_factory.mktemp("secrets")
    earlier = secrecy.known(lab, server)
    everything = {GIVEN, COMMAND, *earlier}
    without = {**wanted, "peat_confirm_absent": [LEAVING]}
    without["peat_projects"] = [
        {**project, "state": "absent"} if project["name"] == LEAVING else project for project in wanted["peat_projects"]
    ]
    texts = []
    try:
        with logged(sql), watch((server, modern), folder):
            plant((server, modern), sql, planted, folder)
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
                everything |= secrecy.known(lab, server)
            extra.unlink()
            checked = verify(without, "-vvv")
            wrong = [row for row in checked.rows if not row["ok"]]
            # Everybody got in; the rotation is not finished.
            assert [row["check"] for row in wrong] == ["accounts"], checked.table
            assert "the old password is valid too" in wrong[0]["found"], checked.table
            texts.append(checked.text)
        site.to_restore = True
        here = (str(folder), str(pathlib.Path("~/.ansible").expanduser()), *map(str, inventory_files(lab)))
        # What was there before, other tests may have put on the client.
        new = everything - earlier | {GIVEN, COMMAND}
        searches = (
            ("server", onhost.ssh(lab.server), everything, secrecy.ROOTS),
            ("modern", onhost.ssh(lab.hosts["modern"]), new, secrecy.ROOTS),
            ("here", ["sh", "-c"], everything, here),
        )
        found = {
            what: {
                f"{name}:{place}"
                for name, command, secrets, roots in searches
                for place in secrecy.places(command, {planted} if what == "planted" else secrets, roots)
                if place not in (*secrecy.KEPT, str(secrecy.passphrase(lab)))
            }
            for what in ("planted", "real")
        }
        yield {**found, "texts": texts, "secrets": everything, "new": new}
    finally:
        for path in (folder, pathlib.Path("~/.ansible").expanduser()):
            (path / "peat-test-planted").unlink(missing_ok=True)
        for host in (server, modern):
            host.check_output(f"rm -rf /run/mysqld/peat-test-* /var/lib/peat-test {WATCHED}* {' '.join(PLANTED)}")


def inventory_files(lab) -> list[pathlib.Path]:
    """What lies beside the inventory, but for what is there to keep secrets."""
    secret = {pathlib.Path(lab.server["secrets"]), pathlib.Path(lab.server["sheets"]).parent}
    beside = pathlib.Path(lab.server["secrets"]).parent
    return [REPOSITORY / "molecule/shared/inventory", *(path for path in beside.iterdir() if path not in secret)]


def test_the_search_finds_what_is_planted(left):
    everywhere = ("the journal", f"{WATCHED}.seen", *PLANTED)
    expected = {f"{host}:{place}" for host in ("server", "modern") for place in everywhere}
    expected |= {f"server:/run/mysqld/peat-test-{log}" for log in ("general_log", "slow_query_log")}
    assert expected <= left["planted"], expected - left["planted"]
    here = {place.rpartition("/")[2] for place in left["planted"] if place.startswith("here:")}
    assert {"peat-test-planted", "watch.seen"} <= here, left["planted"]
    assert len([place for place in left["planted"] if place.startswith("here:") and "planted" in place]) == 2


def test_there_was_something_to_find(left, lab):
    """What is generated for people and for the authority, old and new of a rotation, and what the list gives."""
    assert secrecy.passphrase(lab).read_text().strip() in left["secrets"]
    assert len(left["secrets"]) >= 9 and len(left["new"]) >= 3, len(left["new"])
    assert all("TASK [" in text or '"plays"' in text for text in left["texts"])


def test_no_password_is_left_anywhere(left):
    assert left["real"] == set()


def test_ansible_prints_no_password(left):
    printed = "\n".join(left["texts"]).encode()
    assert [form for form in secrecy.forms(left["secrets"]) if form in printed] == []


def test_no_shell_ran_a_password_or_a_projects_name(left, lab, hosts, server):
    for host in (server, hosts["modern"]):
        assert not host.file(MADE).exists
    assert not pathlib.Path(MADE).exists()
    # Whatever quotes a shell has around it, it would.
    for word in (COMMAND, f"'{COMMAND}'", f'"{COMMAND}"'):
        server.run(f"rm -f {MADE}; echo {word}")
        assert server.file(MADE).exists, word
    server.check_output(f"rm {MADE}")


def test_what_has_secrets_is_its_owners_only(left, lab, server):
    beside = pathlib.Path(lab.server["secrets"]).parent
    paths = [path for name in ("secrets", "sheets", "tls") for path in (beside / name).rglob("*")]
    assert {path.suffix for path in paths} >= {"", ".txt", ".html", ".key", ".crt"}
    for path in paths:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert not mode & 0o077 or not path.stat().st_size, f"{path}: {mode:o}"
    dumps = server.check_output("find /var/backups/peat-server -name %s -size +0", f"*{LEAVING}*").splitlines()
    assert dumps
    assert server.check_output("find /var/backups/peat-server -perm /077") == ""
