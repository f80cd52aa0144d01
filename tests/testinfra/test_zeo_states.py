"""ZEO projects are added, frozen and removed, and leave a server without any; then the list brings them back.

Each run of site.yml serves both init systems and several tests, so these build on one another.
"""

from __future__ import annotations

import dataclasses
import time

import pytest
from conftest import Loop, Run, Site, at_once, wait_until, zeo_inits

KEPT = "kept-by-a-frozen-project"
TIMEOUT = 3
DATA = "/var/lib/zeo"
CONFIGURE = "zeo : Configure | storages, users, unit and running server"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Try each step on all hosts before the next one."""
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", zeo_inits())


@pytest.fixture(scope="module")
def run(site: Site):
    """run(variables) -> site.yml on the hosts of this module."""
    limit = f"--limit={','.join(zeo_inits())}"
    return lambda variables, **options: site(variables, limit, **options)


@pytest.fixture(scope="module")
def session(lab, run_client):
    """session(server, project, command, **options) -> the answer of a client."""

    def start(name: str, project: str, command: str, **options) -> dict:
        address = {"server": lab.hosts[name]["address"], "port": lab.hosts[name]["port"]}
        options = {**address, "backend": "zeo", "password": "none", **options}
        return run_client("modern", "relstorage4", command, "farrell", project, **options)

    return start


@pytest.fixture(scope="module")
def background(lab, run_client):
    """background(server, project, command, **options) -> a client that goes on while the test does."""

    def start(name: str, project: str, command: str, **options) -> Loop:
        address = {"server": lab.hosts[name]["address"], "port": lab.hosts[name]["port"]}
        options = {**address, "backend": "zeo", "password": "none", **options}
        return run_client.loop("modern", "relstorage4", "farrell", project, command=command, **options)

    return start


@pytest.fixture(scope="module")
def frozen_list(lab) -> dict:
    """One project frozen, one as before, one new that keeps its history."""
    lists = lab.lists()
    frozen, _sandbox = lists["peat_projects"]
    frozen["state"] = "frozen"
    lists["peat_projects"].append({**lab.lists()["peat_projects"][0], "name": "newcomer"})
    packs = [{"name": "newcomer", "days": 30, "weekday": "daily"}]
    return lists | {"zeo_pack_projects": packs, "zeo_transaction_timeout": TIMEOUT}


@dataclasses.dataclass
class Frozen:
    """A run foretold and done, and the clients that were saving meanwhile."""

    foretold: Run
    done: Run
    loops: dict[str, Loop]


@pytest.fixture(scope="module")
def frozen(run, hosts, session, background, frozen_list) -> Frozen:
    loops = {}
    for name in zeo_inits():
        assert session(name, "hewlsample", "add", prefix=KEPT, records=5)["ok"]
        loops[name] = background(name, "my_sandbox", "commit-loop", prefix=KEPT, seconds=600, patient=True)
        loops[name].wait_for(5)
        # Somebody was careless.
        hosts[name].check_output(f"chmod 755 {DATA}/my_sandbox && chown root:root {DATA}/my_sandbox/blobs")
        hosts[name].run("chmod 666 /etc/systemd/system/zeo.service")
    foretold = run(frozen_list, check=True)
    return Frozen(foretold, run(frozen_list), loops)


def test_check_mode_foretells_what_is_frozen_added_and_repaired(frozen):
    for each in (frozen.foretold, frozen.done):
        assert each.ok, each.failure
    assert frozen.foretold.changed == frozen.done.changed != []
    assert frozen.foretold.diffs == frozen.done.diffs


def test_modes_and_owners_are_repaired_and_reported(frozen, hosts, name):
    host = hosts[name]
    (told,) = [repr(diffs) for where, task, diffs in frozen.done.diffs if (where, task) == (name, CONFIGURE)]
    for folder in (f"{DATA}/my_sandbox", f"{DATA}/my_sandbox/blobs"):
        assert (host.file(folder).user, host.file(folder).mode) == ("zeo", 0o700)
        assert f"{folder}: open to others" in told
    if host.file("/run/systemd/system").exists:
        assert host.file("/etc/systemd/system/zeo.service").mode == 0o644
        assert "zeo.service: mode 0666 of root:root" in told


def test_an_open_client_goes_on_after_the_run_and_after_a_restart(frozen, hosts, session, name):
    loop = frozen.loops[name]
    loop.wait_for(len(loop.saved()) + 5)
    hosts[name].check_output("zeoctl restart")
    loop.wait_for(len(loop.saved()) + 5)
    loop.stop()
    # It was one program all the time, and noticed that the server was away.
    assert any("failed" in line for line in loop.lines()) and not any("ok" in line for line in loop.lines())
    read = session(name, "my_sandbox", "read", prefix=KEPT)
    assert set(loop.saved()) - set(read["numbers"]) == set()
    assert read["wrong"] == []


def test_a_server_that_ends_takes_no_more_connections(frozen, hosts, lab, name):
    """A client would wait for what it says first."""
    host, port = hosts[name], lab.hosts[name]["port"]
    # Until somebody reads it the server is busy with saving this index.
    index = f"{DATA}/newcomer/Data.fs.index"
    host.check_output(f"mkfifo --mode=600 {index}.index_tmp && chown zeo:zeo {index}.index_tmp")
    pid = host.check_output("cat /run/zeo/zeo.pid")
    host.check_output(f"kill -TERM {pid}")
    try:
        wait_until(lambda: host.check_output(f"ss -Hltn sport = :{port}") == "", "the server to stop listening")
        assert host.run(f"kill -0 {pid}").rc == 0
    finally:
        host.run(f"timeout 30 cat {index}.index_tmp >/dev/null")
        wait_until(lambda: host.run(f"kill -0 {pid}").rc != 0, "the server to end")
        host.check_output(f"rm -f {index} {index}.index_tmp")
    host.check_output("zeoctl start && zeoctl status")


def test_a_frozen_project_is_read_and_not_written(frozen, session, name):
    read, written = at_once(
        lambda command, **options: (
            session(name, "hewlsample", command, prefix=KEPT, **options)
            if command == "add"
            else session(name, "hewlsample", command, prefix=KEPT, read_only=True)
        ),
        ("read",),
        ("add",),
    )
    assert read["ok"] and len(read["numbers"]) == 5
    assert not written["ok"]


def test_each_project_is_packed_as_it_says_and_a_frozen_one_is_not(frozen, hosts, session, name):
    host = hosts[name]
    for project in ("newcomer", "my_sandbox"):
        session(name, project, "add", prefix="packed", records=5, commits=5)
        session(name, project, "undo", prefix="packed")
    size = {project: host.file(f"{DATA}/{project}/Data.fs").size for project in ("newcomer", "my_sandbox")}
    host.check_output("rm -rf /var/lib/zeo-packed")
    host.check_output("zeoctl pack-due")
    assert sorted(host.file("/var/lib/zeo-packed").listdir()) == ["my_sandbox", "newcomer"]
    assert host.file(f"{DATA}/newcomer/Data.fs").size == size["newcomer"]
    assert host.file(f"{DATA}/my_sandbox/Data.fs").size < size["my_sandbox"]
    refused = host.run("zeoctl pack hewlsample")
    assert refused.rc == 1 and "it is frozen" in refused.stderr
    host.check_output("zeoctl backup hewlsample && zeoctl verify hewlsample")


def test_a_client_that_stops_amid_a_commit_stops_others_no_longer_than_the_limit(frozen, background, name, unused):
    sleeper = background(name, "newcomer", "hold")
    sleeper.wait_for(1)
    begun = time.monotonic()
    other = background(name, "newcomer", "commit-loop", prefix=unused, seconds=1)
    other.wait_for(1, TIMEOUT + 20)
    # It did have to wait.
    assert time.monotonic() - begun > TIMEOUT / 2
    sleeper.stop()


@pytest.fixture(scope="module")
def refused(frozen, run, hosts, frozen_list) -> Run:
    """A project without its data, one that only somebody else could read, and one to be removed without a word."""
    frozen_list = {**frozen_list, "peat_projects": [dict(project) for project in frozen_list["peat_projects"]]}
    frozen_list["peat_projects"][1]["state"] = "absent"
    frozen_list["peat_projects"].append({**frozen_list["peat_projects"][2], "name": "older"})
    for name in zeo_inits():
        hosts[name].check_output(f"mkdir {DATA}/older && printf FS21 >{DATA}/older/Data.fs")
        hosts[name].check_output(f"mv {DATA}/hewlsample {DATA}/hewlsample.away")
    yield run(frozen_list)


@pytest.fixture(scope="module")
def repaired(refused, hosts) -> None:
    for name in zeo_inits():
        hosts[name].check_output(f"rm -r {DATA}/older && mv {DATA}/hewlsample.away {DATA}/hewlsample")


def test_data_that_is_gone_or_would_go_or_is_of_others_is_refused(refused, name):
    assert refused.changed == []
    said = refused.failure_of(name)
    assert f"served from {DATA}/hewlsample/Data.fs, and that is gone: is a file system not mounted?" in said
    assert f"{DATA}/older/Data.fs was written for clients: peat2" in said
    assert "my_sandbox is absent in the list" in said and '{"peat_confirm_absent": ["my_sandbox"]}' in said


@pytest.fixture(scope="module")
def left(repaired, run, lab) -> dict[str, Run]:
    """Two projects go, the third is not in the list any more: no project is left."""
    lists = lab.lists()
    sandbox = {**lists["peat_projects"][1], "state": "absent"}
    lists["peat_projects"] = [sandbox, {**sandbox, "name": "newcomer"}]
    lists["peat_confirm_absent"] = ["my_sandbox", "newcomer"]
    return {"foretold": run(lists, check=True), "done": run(lists), "again": run(lists)}


def test_the_last_project_leaves_as_foretold_and_once(left):
    for each in left.values():
        assert each.ok, each.failure
    assert left["foretold"].changed == left["done"].changed != []
    assert left["foretold"].diffs == left["done"].diffs
    assert left["again"].changed == []


def test_nothing_runs_or_is_started_for_nobody(left, hosts, name):
    host = hosts[name]
    assert host.run("service zeo status").rc == 3
    assert host.check_output("pidof -x /opt/zeo/bin/runzeo || true") == ""
    assert host.run("ls /etc/cron.d/zeo-maintenance").rc != 0
    if host.file("/run/systemd/system").exists:
        assert host.run("systemctl is-enabled zeo").stdout.strip() == "disabled"
        assert "zeo-maintenance" not in host.check_output("systemctl list-timers --all")
    else:
        assert host.check_output("ls /etc/rc?.d | grep S..zeo || true") == ""


def test_what_was_removed_is_saved_and_what_is_not_listed_is_kept(left, hosts, name):
    host = hosts[name]
    (done,) = [result for task, where, result in left["done"].results() if (where, task) == (name, CONFIGURE)]
    for project in ("my_sandbox", "newcomer"):
        assert not host.file(f"{DATA}/{project}").exists
        assert f"{project}/Data.fs" in host.check_output("tar --list --file=%s", done["removed"][project])
    assert any("hewlsample has the data of a project that is not in the list" in text for text in done["warnings"])
    assert host.file(f"{DATA}/hewlsample/Data.fs").exists


def test_projects_that_come_back_have_their_data(left, site, hosts, session, name):
    site.restore()
    host = hosts[name]
    assert host.run("zeoctl status").rc == 0
    assert len(session(name, "hewlsample", "read", prefix=KEPT)["numbers"]) == 5
    assert session(name, "my_sandbox", "add", prefix=KEPT)["records"] == 1
    if host.file("/run/systemd/system").exists:
        assert host.check_output("systemctl is-enabled zeo zeo-maintenance@backup.timer") == "enabled\nenabled"
    else:
        assert host.file("/etc/cron.d/zeo-maintenance").exists
        assert "zeo" in host.check_output("ls /etc/rc2.d | grep S..zeo")
