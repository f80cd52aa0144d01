"""The database server can reach its own folders and little else, and works as before inside its sandbox."""

import re

import pytest
from conftest import confined, put
from peat import zeo


@pytest.fixture
def folder(server):
    """A folder of the host that everybody may write to."""
    path = "/srv/peat-test"
    server.check_output(f"rm -rf {path} && mkdir {path} && chmod 1777 {path}")
    yield path
    server.check_output(f"rm -rf {path}")


def unit_of(server) -> str:
    return "mariadb.service" if server.exists("mariadb") else "mysql.service"


def exposure(server, unit: str) -> float:
    """What systemd-analyze makes of a unit: 0 is confined, 10 is not."""
    lines = server.check_output(f"systemd-analyze security --no-pager {unit}").splitlines()
    return float(next(line for line in lines if "Overall exposure level" in line).split(": ")[1].split()[0])


def attempt(server, path: str) -> str:
    """Have the server create a file; return what it says."""
    program = "mariadb" if server.exists("mariadb") else "mysql"
    return server.run(f"{program} --execute=\"SET GLOBAL general_log_file = '{path}', GLOBAL general_log = ON\"").stderr


def test_the_server_writes_to_no_folder_but_its_own(server, sql, site, folder):
    # Everybody may write there, so only the sandbox is in the way.
    [[file]] = sql("SELECT @@general_log_file")
    try:
        attempt(server, f"{folder}/general.log")
        assert not server.file(f"{folder}/general.log").exists
        attempt(server, "/var/tmp/peat-test.log")
        assert not server.file("/var/tmp/peat-test.log").exists
    finally:
        sql(f"SET GLOBAL general_log = OFF; SET GLOBAL general_log_file = '{file}'")


def test_nothing_gives_the_server_new_privileges(server):
    assert confined(server, unit_of(server))


def test_systemd_finds_the_server_little_exposed(server):
    assert exposure(server, unit_of(server)) < 2.5


def test_systemd_finds_a_zeo_server_little_exposed(server):
    """Looked at here, where its unit does not run."""
    path, unit = "/run/peat-test-zeo.service", zeo.unit(["/var/lib/zeo"], 8090)
    without = re.sub(r"(?s)^ReadWritePaths=.*(?=^$)", "", unit, flags=re.MULTILINE)
    # The limit is in tenths.
    analyze = "systemd-analyze security --no-pager --offline=yes --threshold=%s %s"
    for text, limit, passes in ((unit, "15", True), (without, "85", False)):
        put(server, text.encode(), path)
        assert (server.run(analyze, limit, path).rc == 0) is passes, (text, limit)
    server.check_output("rm %s", path)


def test_folders_that_the_options_name_are_the_servers_own(server, sql, site, folder):
    options = {"slow_query_log": True, "slow_query_log_file": f"{folder}/slow.log", "long_query_time": 0}
    foretold = site({"mysql_settings": options}, check=True)
    run = site({"mysql_settings": options})
    assert run.ok, run.failure
    assert foretold.diffs == run.diffs
    sql("SELECT 'slow enough'")
    assert "slow enough" in server.file(f"{folder}/slow.log").content_string


def test_a_data_folder_elsewhere(server, sql, site, run_client, unused):
    """Moved as administrators do it: stop, copy, an option file of their own."""
    unit, moved = unit_of(server), "/srv/peat-data"
    own = f"/etc/mysql/{'mariadb' if server.exists('mariadb') else 'mysql'}.conf.d/10-datadir.cnf"
    server.check_output(f"systemctl stop {unit} && cp -a /var/lib/mysql {moved}")
    server.check_output(f"printf '[mysqld]\ndatadir = {moved}\n' >{own}")
    try:
        run = site()
        assert run.ok, run.failure
        assert sql("SELECT @@datadir") == [[f"{moved}/"]]
        assert run_client("modern", "relstorage4", "add", "farrell", "modernhp", prefix=unused)["ok"]
        assert not site().changed
    finally:
        server.check_output(f"rm {own} && systemctl stop {unit} && rm -rf {moved}")
        run = site(None, "--tags=mysql")
    assert run.ok, run.failure
    assert sql("SELECT @@datadir") == [["/var/lib/mysql/"]]


def test_backups_are_still_possible(server, folder):
    if server.exists("mariadb"):
        server.check_output("apt-get install --quiet --quiet --yes --no-install-recommends mariadb-backup")
        server.check_output(f"mariadb-backup --backup --target-dir={folder}/copy")
        server.check_output(f"mariadb-backup --prepare --target-dir={folder}/copy")
    else:
        server.check_output(f"mysqldump --all-databases --single-transaction --result-file={folder}/all.sql")


def test_without_the_sandbox_the_server_can_write_elsewhere(server, sql, site, folder):
    """What the first test would find without the sandbox: it can fail."""
    run = site({"mysql_sandbox": False}, "--tags=mysql")
    assert run.ok, run.failure
    [[file]] = sql("SELECT @@general_log_file")
    attempt(server, f"{folder}/general.log")
    sql(f"SET GLOBAL general_log = OFF; SET GLOBAL general_log_file = '{file}'")
    assert server.file(f"{folder}/general.log").exists
    assert exposure(server, unit_of(server)) > 8
