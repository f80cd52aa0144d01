"""The server itself: what it listens on, its options, and how it changes while it runs.

Runs on every flavour. What a test changes, the next test or the module's end changes back. Most of it is shown with the
module alone, given what the playbook gives it; what changes a server through site.yml is in test_site.py.
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass

import onhost
import pytest
from conftest import put, wait_until

# Read-only in both servers, so it takes a restart.
NEEDS_RESTART = {"back_log": 77}
# Both servers accept it in a trial and cannot start with it.
KILLS = {"log_bin": "/nonexistent/binlog"}


@dataclass(frozen=True)
class Flavour:
    unit: str
    folder: str
    socket_plugin: str
    redo: str


FLAVOURS = {
    "mariadb": Flavour("mariadb", "/etc/mysql/mariadb.conf.d", "unix_socket", "innodb_log_file_size"),
    "mysql": Flavour("mysql", "/etc/mysql/mysql.conf.d", "auth_socket", "innodb_redo_log_capacity"),
}


@pytest.fixture(scope="module")
def flavour(lab) -> Flavour:
    return FLAVOURS[lab.server["flavour"]]


@pytest.fixture(scope="module")
def only_mariadb(lab) -> bool:
    return lab.server["flavour"] == "mariadb"


@pytest.fixture(scope="module")
def configure(lab, site):
    """configure(check=False, **arguments): the module as the role calls it, some arguments apart."""
    run = site(None, "--tags=mysql", check=True)
    assert run.ok, run.failure
    assert run.changed == []
    arguments = run.output_of("plan the server")[-1]["invocation"]["module_args"]
    site.to_restore = True
    with onhost.module(onhost.ssh(lab.server), "mysql_config") as module:

        def call(check: bool = False, **others) -> onhost.Done:
            planned = module({**arguments, **others}, check=True)
            if check or not planned.get("pending"):
                return onhost.Done(planned)
            return onhost.Done(module({**arguments, **others}))

        yield call


@pytest.fixture(scope="module")
def process(server, flavour):
    """The server's process and when it was started."""

    def read() -> tuple[str, str]:
        return tuple(
            server.check_output(f"systemctl show --value --property={name} {flavour.unit}")
            for name in ("MainPID", "ExecMainStartTimestampMonotonic")
        )

    return read


@pytest.fixture(scope="module")
def starts(server, flavour):
    """How often systemd has started the server."""

    def count() -> int:
        journal = server.check_output(f"journalctl --output=cat --no-pager --unit={flavour.unit}")
        return sum(line.startswith(f"Started {flavour.unit}.service") for line in journal.splitlines())

    return count


@pytest.fixture
def foreign_file(server, flavour):
    """Write an option file of somebody else's; it is removed after the test."""
    written = []

    def write(name: str, *lines: str) -> str:
        path = f"{flavour.folder}/{name}"
        put(server, "\n".join(["[mysqld]", *lines, ""]).encode(), path)
        written.append(path)
        return path

    yield write
    for path in written:
        server.check_output("rm %s", path)


# What it is


def test_it_runs_now_and_after_a_reboot(server, flavour):
    assert server.service(flavour.unit).is_running
    assert server.service(flavour.unit).is_enabled


def test_it_listens_on_the_hosts_own_addresses_only(server, lab):
    lines = server.check_output("ss -Hltn sport = :%s", str(lab.server["port"])).splitlines()
    listening = {ipaddress.ip_address(line.split()[3].rpartition(":")[0].strip("[]")) for line in lines}
    assert listening == {
        ipaddress.ip_address(address) for address in ("127.0.0.1", "::1", lab.server["address"], lab.server["address6"])
    }


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("character_set_server", "utf8mb4"),
        ("interactive_timeout", "604800"),
        ("wait_timeout", "604800"),
        ("max_allowed_packet", "67108864"),
        ("innodb_flush_log_at_trx_commit", "1"),
        ("skip_name_resolve", "1"),
        ("skip_external_locking", "1"),
        ("log_bin", "0"),
    ],
)
def test_options_for_long_sessions_and_safe_commits(sql, variable, value):
    assert sql(f"SELECT @@global.{variable}") == [[value]]


def test_idle_connections_are_kept_alive(server, sql, only_mariadb):
    found = (
        sql("SELECT @@tcp_keepalive_time") if only_mariadb else [[str(server.sysctl("net.ipv4.tcp_keepalive_time"))]]
    )
    assert found == [["120"]]


def test_memory_and_redo_log_fit_the_host(sql, flavour):
    (pool, redo), *_ = sql(f"SELECT @@innodb_buffer_pool_size, @@{flavour.redo}")
    assert int(pool) >= 128 * 2**20
    assert 512 * 2**20 <= int(redo) <= 2**30


def test_every_client_of_the_lab_gets_its_connections(sql, site):
    run = site({"peat_clients": 100}, "--tags=mysql", check=True)
    assert "max_connections: 151 -> 330" in run.output_of("options, unit and running server")[0]["live"]
    assert sql("SELECT @@max_connections") == [["151"]]


def test_root_logs_in_over_the_socket_and_has_no_password(server, flavour):
    program = "mariadb" if flavour.unit == "mariadb" else "mysql"
    assert flavour.socket_plugin in server.check_output(f"{program} -BNe 'SHOW CREATE USER root@localhost'")
    refused = server.run(f"sudo -u nobody {program} --user=root -e 'SELECT 1'")
    assert refused.rc != 0


def test_dumps_take_large_records(server, flavour):
    program = "mariadb-dump" if flavour.unit == "mariadb" else "mysqldump"
    assert "max-allowed-packet=67108864" in server.check_output(f"{program} --print-defaults").replace("_", "-")


# How it changes


def test_a_dynamic_option_needs_no_restart(configure, sql, process):
    before = process()
    foretold = configure(check=True, settings={"lock_wait_timeout": 4321})
    assert sql("SELECT @@global.lock_wait_timeout") != [["4321"]]
    done = configure(settings={"lock_wait_timeout": 4321})
    assert done.ok, done.failure
    assert sql("SELECT @@global.lock_wait_timeout") == [["4321"]]
    assert process() == before
    assert foretold.changed and done.changed
    assert foretold.diff == done.diff
    # What is taken from the list goes back to the server's own default.
    assert configure().ok
    assert sql("SELECT @@global.lock_wait_timeout") != [["4321"]]
    assert process() == before


def test_what_somebody_set_in_the_running_server_is_set_back(configure, sql, process):
    before = process()
    sql("SET GLOBAL wait_timeout = 60, GLOBAL max_allowed_packet = 1048576, GLOBAL innodb_buffer_pool_size = 134217728")
    wait_until(lambda: sql("SELECT @@innodb_buffer_pool_size") == [["134217728"]], "a smaller buffer pool")
    foretold, done = configure(check=True), configure()
    assert foretold.changed and done.changed
    assert foretold.diff == done.diff
    assert sql("SELECT @@global.wait_timeout, @@global.max_allowed_packet") == [["604800", "67108864"]]
    assert sql("SELECT @@innodb_buffer_pool_size") != [["134217728"]]
    assert process() == before
    assert not configure().changed


def test_other_options_restart_it_once(configure, sql, starts):
    before = starts()
    # Two that need a restart and one that does not.
    settings = NEEDS_RESTART | {"innodb_ft_min_token_size": 4, "lock_wait_timeout": 4321}
    foretold, done = configure(check=True, settings=settings), configure(settings=settings)
    assert done.ok, done.failure
    assert foretold.changed and done.changed
    assert foretold.diff == done.diff
    assert sql("SELECT @@back_log, @@innodb_ft_min_token_size, @@global.lock_wait_timeout") == [["77", "4", "4321"]]
    assert starts() == before + 1
    assert not configure(settings=settings).changed


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"bind-address": "0.0.0.0", "max_allowed_packet": "16M", "tx_isolation": "SERIALIZABLE"},
            {
                "mysql_settings: bind-address": "set mysql_bind_addresses",
                "mysql_settings: max_allowed_packet": "less than 64M",
                "mysql_settings: tx_isolation": "use transaction_isolation",
            },
        ),
        ({"no_such_option": 1}, {"mysql_settings: no_such_option": "unknown variable"}),
        ({"sql_mode": "STRICTEST"}, {"mysql_settings: sql_mode": "STRICTEST"}),
        ({"innodb_flush_log_at_trx_commit": 7}, {"mysql_settings: innodb_flush_log_at_trx_commit": "adjusted"}),
    ],
)
def test_options_it_would_not_take_are_refused_before_anything_changes(
    configure, server, process, flavour, settings, told
):
    before = process(), server.file(f"{flavour.folder}/zz-peat.cnf").content_string
    run = configure(settings=settings)
    assert not run.ok
    for entry, remedy in told.items():
        assert any(line.startswith(entry) and remedy in line for line in run.failure.splitlines()), run.failure
    assert (process(), server.file(f"{flavour.folder}/zz-peat.cnf").content_string) == before


def test_it_comes_back_as_it_was_if_it_does_not_start(configure, server, sql, flavour):
    assert configure().ok
    path = f"{flavour.folder}/zz-peat.cnf"
    before = server.file(path).content_string
    run = configure(settings=KILLS)
    assert not run.ok
    assert "/nonexistent" in run.failure
    assert "server runs with" in run.failure
    assert sql("SELECT 1") == [["1"]]
    assert server.file(path).content_string == before
    assert not configure(check=True).changed


def test_a_stopped_server_is_started(configure, server, flavour):
    server.check_output(f"systemctl disable --now {flavour.unit}")
    assert configure().ok
    assert server.service(flavour.unit).is_running
    assert server.service(flavour.unit).is_enabled


def test_fewer_addresses(configure, server, lab):
    addresses = ["127.0.0.1", lab.server["address"]]
    assert configure(bind_addresses=addresses).ok
    assert "::" not in server.check_output("ss -Hltn sport = :%s", str(lab.server["port"]))
    assert not configure(bind_addresses=addresses).changed


def test_all_addresses(configure, server, lab):
    assert configure(bind_addresses=["*"]).ok
    assert "*:" in server.check_output("ss -Hltn sport = :%s", str(lab.server["port"])).replace("0.0.0.0", "*")
    assert not configure(bind_addresses=["*"]).changed


def test_an_address_of_another_host_is_refused(configure):
    run = configure(bind_addresses=["192.0.2.1"])
    assert not run.ok
    assert "this host has no address 192.0.2.1" in run.failure


# What others put beside it


def test_options_of_others_stay_and_those_we_replace_are_named(configure, sql, foreign_file, server, flavour):
    path = foreign_file("55-foreign.cnf", "wait_timeout = 60", "max_connect_errors = 4242", "max_allowed_packet = 256M")
    server.check_output(f"systemctl restart {flavour.unit}")
    run = configure()
    assert run.ok, run.failure
    assert sql("SELECT @@max_connect_errors, @@global.wait_timeout") == [["4242", "604800"]]
    # With less, records that are already stored could not be read.
    assert sql("SELECT @@global.max_allowed_packet") == [[str(256 * 2**20)]]
    assert run.warned(f"wait_timeout = 60 ({path}:2) is replaced")
    assert not run.warned("max_connect_errors")


def test_an_option_that_would_win_over_ours_is_named_and_left_alone(configure, sql, foreign_file, process, flavour):
    assert configure().ok
    path = foreign_file("zzz-foreign.cnf", "wait_timeout = 60")
    sql("SET GLOBAL wait_timeout = 60")
    run = configure()
    assert run.ok, run.failure
    assert not run.changed
    assert run.warned(f"wait_timeout = 60 ({path}:2) is read after")
    assert sql("SELECT @@global.wait_timeout") == [["60"]]


def test_a_port_that_would_win_over_ours_is_refused(configure, foreign_file):
    path = foreign_file("zzz-foreign.cnf", "port = 3999")
    run = configure()
    assert not run.ok
    assert f"port = 3999 ({path}:2)" in run.failure
    assert "remove it" in run.failure


def test_a_value_that_mysql_remembers_is_refused(configure, sql, only_mariadb):
    if only_mariadb:  # remembers nothing
        return
    sql("SET PERSIST wait_timeout = 60")
    run = configure()
    sql("RESET PERSIST wait_timeout")
    assert not run.ok
    assert "RESET PERSIST wait_timeout" in run.failure
    assert configure().ok


def test_a_root_that_cannot_use_the_socket_is_told_what_to_do(configure, server, flavour):
    assert configure().ok
    program = "mariadb" if flavour.unit == "mariadb" else "mysql"
    word = "VIA" if flavour.unit == "mariadb" else "WITH"
    by_hand = "BY 'by-hand'" if flavour.unit == "mariadb" else "WITH caching_sha2_password BY 'by-hand'"
    server.check_output(f'{program} -e "ALTER USER root@localhost IDENTIFIED {by_hand}"')
    try:
        run = configure()
        assert not run.ok
        assert f"ALTER USER root@localhost IDENTIFIED {word} {flavour.socket_plugin}" in run.failure
    finally:
        statement = f"ALTER USER root@localhost IDENTIFIED {word} {flavour.socket_plugin}"
        server.check_output(f"{program} --password=by-hand -e '{statement}'")
    assert not configure().changed


# The announced version


def real_version(server, flavour) -> str:
    program = "/usr/sbin/mariadbd" if flavour.unit == "mariadb" else "/usr/sbin/mysqld"
    return server.check_output(f"{program} --no-defaults --version").partition("Ver ")[2].split()[0].split("-")[0]


def test_mariadb_announces_a_version_and_mysql_its_own(site, server, sql, flavour, only_mariadb):
    run = site({"mysql_announce_version": True}, "--tags=mysql")
    assert run.ok, run.failure
    real = real_version(server, flavour)
    announced = f"5.5.5-{real}-MariaDB" if only_mariadb else sql("SELECT @@version")[0][0]
    assert sql("SELECT version()") == [[announced]]
    (published,) = run.output_of("publish what clients see")
    assert published["ansible_facts"]["mysql_server"] == {
        "flavour": "mariadb" if only_mariadb else "mysql",
        "version": real,
        "announced_version": announced,
        "socket": sql("SELECT @@socket")[0][0],
    }
    assert announced.startswith("5.5.5-" if only_mariadb else real)


def test_the_tools_see_the_real_version(server, flavour, only_mariadb):
    if only_mariadb:
        dump = server.check_output("mariadb-dump mysql global_priv")
        assert f"Server version\t{real_version(server, flavour)}" in dump
        assert server.run("mariadb-upgrade --skip-version-check --silent").rc == 0


def test_it_announces_nothing_where_nobody_needs_it(configure, server, sql, starts, flavour):
    before = starts()
    foretold, run = configure(check=True, announce_version=False), configure(announce_version=False)
    assert run.ok, run.failure
    assert foretold.diff == run.diff
    assert sql("SELECT version()")[0][0].startswith(real_version(server, flavour))
    assert not server.file("/usr/local/lib/peat-server/announce-version").exists
    assert "announce" not in server.check_output(f"systemctl cat {flavour.unit}")
    assert starts() == before + (flavour.unit == "mariadb")
    assert not configure(announce_version=False).changed


def test_the_result_of_a_run_names_why_it_restarts(configure):
    planned = configure(check=True, settings=NEEDS_RESTART).result
    assert planned["restarted"]
    assert any(reason.startswith("back_log: ") for reason in planned["reasons"]), json.dumps(planned)
