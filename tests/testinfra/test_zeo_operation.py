"""What an administrator of a ZEO server does, and what is done without them: logs, packs, backups, a restore."""

from __future__ import annotations

import functools
import re

import pytest
from conftest import put, run_ansible, wait_until, zeo_inits

ZEO_HOSTS = zeo_inits

#: Saves and backs up in turns, quicker than a second, then reads the root of what a restore would bring.
BACKUPS_IN_A_ROW = b"""
import os, shutil, sys, tempfile
from ZODB import DB
from ZODB.FileStorage import FileStorage
program = {"__name__": "maintenance"}
with open("/usr/local/lib/zeo-maintenance.py") as text:
    exec(text.read(), program)
os.umask(0o077)
server = program["Server"]()
database = DB(server.connect("hewlsample"))
for number in range(4):
    with database.transaction() as connection:
        connection.root()["backups in a row"] = number
    # After a pack that dropped what the backup before has comes a full copy.
    if number == 1:
        program["pack"](server, "hewlsample")
    program["backup"](server, "hewlsample")
database.close()
folder = tempfile.mkdtemp()
program["recover"](server, "hewlsample", folder)
restored = DB(FileStorage(folder + "/Data.fs", read_only=True))
with restored.transaction() as connection:
    print("restored: %d" % connection.root()["backups in a row"])
restored.close()
shutil.rmtree(folder)
"""


@pytest.fixture(scope="module")
def host(hosts, zeo_name):
    return hosts[zeo_name]


@pytest.fixture(scope="module")
def session(lab, run_client):
    """session(name, command, **options) -> the answer of a client of the generation of that server."""
    old = "peat2" in lab.hosts

    def run(name: str, command: str, **more) -> dict:
        options = {"server": lab.hosts[name]["address"], "port": lab.hosts[name]["port"], "backend": "zeo", **more}
        if not old:
            options["password"] = "none"
        host, program = ("peat2", "peat2") if old else ("modern", "relstorage4")
        answer = run_client(host, program, command, "farrell", "hewlsample", **options)
        assert answer["ok"], answer
        return answer

    return run


@pytest.fixture
def client(session, zeo_name):
    """client(command, **options) -> the answer of a session with the server of the test."""
    return functools.partial(session, zeo_name)


def stored(client, prefix: str) -> int:
    """Return how many records there are, all of them right."""
    read = client("read", prefix=prefix)
    assert read["wrong"] == []
    return len(read.get("names") or read.get("numbers") or [])


def scheduled(host, command: str) -> str:
    """Return the shell words with which a job is run by itself; it must be scheduled."""
    if host.file("/run/systemd/system").exists:
        unit = f"zeo-maintenance@{command}"
        assert host.check_output("systemctl is-enabled %s.timer", unit) == "enabled"
        following = host.check_output("systemctl show --property=NextElapseUSecRealtime --value %s.timer", unit)
        assert following, f"{unit}.timer has no next time"
        return f"systemctl start {unit}"
    lines = host.check_output("grep -h %s /etc/cron.d/zeo-maintenance", f"zeoctl {command}").splitlines()
    assert len(lines) == 1
    words = re.fullmatch(r"\d+ \d+ \* \* \* root (.*)", lines[0]).group(1)
    assert host.run("pgrep -x cron").rc == 0, "cron does not run"
    # As cron runs it: with next to nothing around.
    return f"env -i PATH=/usr/bin:/bin sh -c '{words}'"


def backups(host) -> list[tuple[str, str]]:
    """(moment, kind) of the project's backups, oldest first."""
    rows = [line.split("\t") for line in host.check_output("zeoctl backups").splitlines()]
    return [(moment, kind) for project, moment, kind in rows if project == "hewlsample"]


def test_zeoctl_needs_nothing_to_remember(host):
    assert host.run("zeoctl status").rc == 0
    assert "/etc/zeo/zeo.conf" in host.check_output("zeoctl show")
    assert "usage: zeoctl" in host.run("zeoctl").stderr


def test_logs_rotate_and_writing_goes_on(host, client):
    log = "/var/log/zeo/zeo.log"
    before = host.check_output("stat --format=%%i %s", log)
    host.check_output("logrotate --force /etc/logrotate.d/zeo")
    wait_until(lambda: host.file(log).exists, "a new log")
    assert host.check_output("stat --format=%%i %s", log) != before
    size, old = host.file(log).size, host.file(f"{log}.1").size
    client("open")
    wait_until(lambda: host.file(log).size > size, "the server to write to the new log")
    assert host.file(f"{log}.1").size == old, "the server goes on writing to the old log"
    assert host.file(log).user == "zeo"


def test_maintenance_leaves_the_log_to_the_server(host):
    """It runs as root: a log that it made, say just after a rotation, would keep the server from starting."""
    log = "/var/log/zeo/zeo.log"
    host.check_output("mv %s %s.away", log, log)
    host.check_output("zeoctl backup && zeoctl verify && zeoctl pack")
    assert not host.file(log).exists
    host.check_output("mv %s.away %s", log, log)


def test_history_is_packed_when_it_is_due(host, client, unused):
    client("add", prefix=unused, records=10, commits=10)
    client("undo", prefix=unused, first=3)
    data = "/var/lib/zeo/hewlsample/Data.fs"
    before = host.file(data).size
    run = scheduled(host, "pack-due")
    host.check_output("rm -rf /var/lib/zeo-packed")
    host.check_output(run)
    after = host.file(data).size
    assert after < before
    assert stored(client, unused) == 10
    # Once is enough until it is due again.
    client("undo", prefix=unused, first=3)
    more = host.file(data).size
    assert more > after
    host.check_output(run)
    assert host.file(data).size == more


def test_backup_and_restore(host, client, lab, zeo_name, unused):
    old = "peat2" in lab.hosts
    client("add", prefix=unused, records=20, commits=4)
    attached = client("attach" if old else "blob", prefix=f"file-{unused}")
    host.check_output(scheduled(host, "backup"))
    first = backups(host)[-1]
    client("add", prefix=unused, first=21, records=5)
    host.check_output("zeoctl backup")
    assert backups(host)[-1] != first
    assert backups(host)[-1][1] == "increment"
    client("add", prefix=unused, first=26, records=5)

    restored = host.check_output("zeoctl restore hewlsample")
    assert re.search(r"\d+ transactions, \d+ records, [1-9]\d* blobs", restored)
    assert host.run("zeoctl status").rc == 0
    assert stored(client, unused) == 25
    assert client("attachment" if old else "fetch", prefix=f"file-{unused}") == attached

    options = (f"--limit={zeo_name}", "-e", "zeo_restore_project=hewlsample", "-e", f"zeo_restore_time={first[0]}")
    code, _report, text = run_ansible("ansible-playbook", *options, "playbooks/zeo-restore.yml")
    assert code == 0, text
    assert stored(client, unused) == 20
    # What the restores put aside is there, and no project of its own.
    assert host.run("ls -d /var/lib/zeo/hewlsample/before-*").stdout.count("\n") >= 2
    host.check_output("rm -r /var/lib/zeo/hewlsample/before-*")
    assert client("add", prefix=unused, first=31, records=1)["ok"]


# What the program that packs and backs up does is the same on every host of a generation.


def test_backups_of_one_second_lack_nothing(server):
    """Names of backups are seconds: a full copy and what is added to it must not get the same one."""
    before = len(backups(server))
    put(server, BACKUPS_IN_A_ROW, "/run/backups_in_a_row.py")
    assert server.check_output("/opt/zeo/bin/python /run/backups_in_a_row.py").endswith("restored: 3")
    made = backups(server)[before:]
    assert [kind for _moment, kind in made[1:]] == ["full", "increment", "increment"]
    assert len({moment for moment, _kind in made}) == len(made) == 4


def last_set(host) -> str:
    """Return the folder of the backups that the next one is added to."""
    return host.check_output("ls -d /var/backups/peat-server/hewlsample/2* | tail -n 1")


def test_what_a_killed_backup_left_spoils_none(server, session, unused):
    server.check_output("zeoctl backup hewlsample")
    session("server", "add", prefix=unused, records=5)
    whole, folder = backups(server), last_set(server)
    date = "date --utc +%Y-%m-%d-%H-%M-%S"
    wait_until(lambda: server.check_output(date) > whole[-1][0], "the next second")
    now = server.check_output(date)
    full = [moment for moment, kind in whole if kind == "full"][-1]
    server.check_output(
        f"touch {folder}/adding && head --bytes=60 {folder}/data/{full}.fsz >{folder}/data/{now}.deltafsz"
    )
    assert backups(server) == whole
    server.check_output("zeoctl backup hewlsample && zeoctl verify hewlsample")
    assert backups(server)[:-1] == whole
    assert backups(server)[-1][1] == "increment"


@pytest.fixture
def own_disk(server):
    """The project's folder is a mount point, so nothing can take its place."""
    folder = "/var/lib/zeo/hewlsample"
    server.check_output("mount --bind %s %s", folder, folder)
    yield
    server.check_output("umount --lazy %s", folder)


def test_a_restore_after_many_starts(server, own_disk):
    """After five starts in five minutes systemd refuses the next, unless somebody says that it is meant."""
    server.check_output("zeoctl restart")
    for _ in range(4):
        server.check_output("service zeo restart")
    server.check_output("zeoctl backup hewlsample && zeoctl restore hewlsample")
    assert server.run("zeoctl status").rc == 0
    server.check_output("rm -r /var/lib/zeo/hewlsample/before-*")


def test_old_backups_go_and_attached_files_are_there_once(server, session, lab, unused):
    """A week later a new set begins; when there are five, the first goes."""
    session("server", "attach" if "peat2" in lab.hosts else "blob", prefix=unused)
    server.check_output("zeoctl backup hewlsample")
    first = last_set(server)
    for _ in range(5):
        server.check_output("touch --date='8 days ago' %s/begun", last_set(server))
        server.check_output("zeoctl backup hewlsample")
    sets = server.check_output("ls -d /var/backups/peat-server/hewlsample/2*").splitlines()
    assert len(sets) == 5 and first not in sets
    before, last = (server.check_output("find %s/blobs -name '*.blob' -printf '%%i %%f\n'", path) for path in sets[-2:])
    assert last and set(last.splitlines()) == set(before.splitlines())
    server.check_output("zeoctl verify hewlsample")


def test_a_clock_that_went_back_is_reported(server):
    """A backup with an earlier name than the last would not be found as the latest."""
    later = f"{last_set(server)}/data/2100-01-01-00-00-00.index"
    server.check_output("touch %s", later)
    try:
        refused = server.run("zeoctl backup hewlsample")
        assert refused.rc == 1 and "2100-01-01-00-00-00, which is yet to come" in refused.stderr
    finally:
        server.check_output("rm %s", later)


@pytest.mark.parametrize("file", ["data/*.fsz", "blobs/*.blob"])
def test_a_damaged_backup_is_found(server, session, lab, unused, file):
    """And a restore of it changes nothing."""
    session("server", "attach" if "peat2" in lab.hosts else "blob", prefix=unused)
    server.check_output("zeoctl backup")
    folder, name = file.split("/")
    newest = "find %s/%s -name %s -printf '%%T@ %%p\\n' | sort -n | tail -n 1 | cut -d' ' -f2"
    file = server.check_output(newest, last_set(server), folder, name)
    server.check_output("zeoctl verify hewlsample")
    server.check_output("mv %s /run/damaged", file)
    try:
        serving = server.check_output("cat /run/zeo/zeo.pid")
        assert server.run("zeoctl verify hewlsample").rc == 1
        assert server.run("zeoctl restore hewlsample").rc == 1
        assert server.check_output("cat /run/zeo/zeo.pid") == serving
    finally:
        server.check_output("mv /run/damaged %s", file)


def test_backups_are_for_root_alone(server):
    folder = server.file("/var/backups/peat-server/hewlsample")
    assert (folder.user, folder.mode) == ("root", 0o700)
    assert server.file("/etc/zeo-maintenance.json").mode == 0o600
