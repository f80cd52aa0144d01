"""The decisions about the server: what is refused, what is computed, what a running server needs."""

import pathlib
import subprocess

import pytest
import yaml
from peat import optionfiles, server, server_host, server_options
from peat.optionfiles import Setting

ROLE = pathlib.Path(__file__).parents[2] / "roles/mysql"
PLATFORMS = yaml.safe_load((ROLE / "vars/main.yml").read_text())["__mysql_platforms"]
MARIADB, MYSQL = PLATFORMS[0], PLATFORMS[-1]
VERSIONS = {"mariadb": ("10.11.18", "11.8.6"), "mysql": ("9.7.4",)}


def wishes(flavour="mariadb", **values):
    given = {
        "flavour": flavour,
        "version": VERSIONS[flavour][0],
        "port": 8080,
        "addresses": ("127.0.0.1", "192.0.2.10"),
        "clients": 5,
        "memory_mb": 4096,
        "data_mb": 0,
        "settings": {},
    }
    return server_options.Wishes(**given | values)


def setting(line, path="/etc/mysql/mariadb.conf.d/50-server.cnf", number=2):
    (found,) = optionfiles.read_one(f"[mysqld]\n{line}\n", path, frozenset({"mysqld"}))
    return Setting(found.name, found.spelled, found.value, path, number)


# Versions and platforms


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("1:10.11.18-0+deb12u1", "10.11.18"),
        ("1:11.8.9+ds-4", "11.8.9"),
        ("9.7.4-2", "9.7.4"),
        ("8.0.44-0ubuntu0.24.04.1", "8.0.44"),
    ],
)
def test_version_of_a_package(text, version):
    assert server_host.package_version(text) == version


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("mariadbd  Ver 10.11.18-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64 (Debian 12)", "10.11.18"),
        ("mariadbd  Ver 11.8.6-MariaDB-0+deb13u1 from Debian for debian-linux-gnu on x86_64 (--)", "11.8.6"),
        ("/usr/sbin/mysqld  Ver 9.7.4-2 for Linux on x86_64 ((Debian))", "9.7.4"),
    ],
)
def test_version_of_a_program(text, version):
    assert server_host.program_version(text) == version


def test_a_program_without_a_version_is_an_error():
    with pytest.raises(server_host.ServerError, match="no version"):
        server_host.program_version("not found")


@pytest.mark.parametrize(
    ("flavour", "announce", "text"),
    [
        ("mariadb", True, "5.5.5-10.11.18-MariaDB"),
        ("mariadb", False, "10.11.18-MariaDB"),
        ("mysql", True, "10.11.18"),
    ],
)
def test_what_clients_are_told(flavour, announce, text):
    assert server_host.announced("10.11.18", flavour, announce) == text


DEBIAN_12 = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\nID=debian\n'
DEBIAN_SID = 'PRETTY_NAME="Debian GNU/Linux forky/sid"\nVERSION_CODENAME=forky\nID=debian\n'


@pytest.mark.parametrize(
    ("os_release", "flavour", "installed", "unit", "release"),
    [
        (DEBIAN_12, "auto", [], "mariadb.service", "12"),
        (DEBIAN_12, "mariadb", ["mariadb-server"], "mariadb.service", "12"),
        (DEBIAN_SID, "auto", [], "mariadb.service", "sid"),
        (DEBIAN_SID, "auto", ["mysql-server"], "mysql.service", "sid"),
        (DEBIAN_SID, "mysql", [], "mysql.service", "sid"),
    ],
)
def test_the_platform_that_fits(os_release, flavour, installed, unit, release):
    chosen = server_host.platform(PLATFORMS, os_release, flavour, installed)
    assert (chosen["unit"], chosen["release"]) == (unit, release)


@pytest.mark.parametrize(
    ("os_release", "flavour", "installed", "told"),
    [
        ("ID=debian\nVERSION_ID=11\n", "auto", [], ["Debian 11", "supported are Debian 12, Debian 13, Debian sid"]),
        ("ID=fedora\nVERSION_ID=42\n", "auto", [], ["Fedora 42", "Debian 12"]),
        ("", "auto", [], ["unknown system", "Debian 12"]),
        (DEBIAN_12, "mysql", [], ["Debian 12 has no package of mysql", "mysql_flavour can be mariadb"]),
        (DEBIAN_12, "mysql", ["mariadb-server"], ["mariadb is installed", "set mysql_flavour to mariadb"]),
        (DEBIAN_SID, "mariadb", ["mysql-server"], ["mysql is installed", "set mysql_flavour to mysql"]),
        # Whatever is installed holds data; `auto` does not put another server in its place either.
        (DEBIAN_12, "auto", ["mysql-server"], ["mysql is installed"]),
        (DEBIAN_12, "auto", ["mysql-community-server"], ["mysql-community-server is installed", "another host"]),
    ],
)
def test_platforms_that_are_refused(os_release, flavour, installed, told):
    with pytest.raises(server_host.ServerError) as error:
        server_host.platform(PLATFORMS, os_release, flavour, installed)
    for text in told:
        assert text in str(error.value)


# Addresses and ports


def interface(name, *addresses, flags=("UP",), **marks):
    entries = [{"local": address, "scope": "link" if address.startswith("fe80") else "global"} for address in addresses]
    return {"ifname": name, "flags": list(flags), "addr_info": [entry | marks for entry in entries]}


LOOPBACK = interface("lo", "127.0.0.1", "::1")
ETHERNET = interface("eth0", "192.0.2.10", "2001:db8::10", "fe80::1")


def test_the_hosts_own_addresses_loopback_first():
    assert server_host.bind_addresses([], [ETHERNET, LOOPBACK]) == ["127.0.0.1", "::1", "192.0.2.10", "2001:db8::10"]


@pytest.mark.parametrize(
    "other",
    [
        interface("docker0", "172.17.0.1"),
        interface("br-0123456789ab", "172.18.0.1"),
        interface("virbr0", "192.168.122.1"),
        interface("wg0", "10.0.0.1", flags=["UP", "POINTOPOINT"]),
        interface("eth1", "198.51.100.1", flags=[]),
        interface("eth1", "2001:db8::beef", temporary=True),
        interface("eth1", "2001:db8::beef", tentative=True),
    ],
)
def test_addresses_that_may_be_gone_at_the_next_boot_are_not_listened_on(other):
    assert server_host.bind_addresses([], [LOOPBACK, other]) == ["127.0.0.1", "::1"]
    # Unless somebody says so.
    address = other["addr_info"][0]["local"]
    assert server_host.bind_addresses([address], [LOOPBACK, other]) == [address]


def test_a_bridge_of_the_administrators_is_no_virtual_network():
    assert "192.0.2.1" in server_host.bind_addresses([], [interface("br0", "192.0.2.1")])


@pytest.mark.parametrize("anywhere", ["*", "0.0.0.0", "::"])
def test_all_addresses(anywhere):
    assert server_host.bind_addresses([anywhere], [LOOPBACK]) == [anywhere]


@pytest.mark.parametrize(
    ("wished", "told"),
    [
        (["*", "127.0.0.1"], "must stand alone"),
        (["localhost"], "'localhost' is not an address"),
        (["192.0.2.99"], "this host has no address 192.0.2.99, only 127.0.0.1, ::1"),
    ],
)
def test_addresses_that_are_refused(wished, told):
    with pytest.raises(server_host.ServerError, match="mysql_bind_addresses") as error:
        server_host.bind_addresses(wished, [LOOPBACK])
    assert told in str(error.value)


@pytest.mark.parametrize("listens", [["127.0.0.1", "::1", "192.0.2.10", "2001:db8::10"], ["*"], ["::"]])
def test_the_addresses_by_which_clients_call(listens):
    assert server_host.reachable(listens, [LOOPBACK, ETHERNET]) == ["192.0.2.10", "2001:db8::10"]


def test_addresses_are_written_as_the_server_compares_them():
    assert server_host.bind_addresses(["2001:DB8:0:0::10"], [ETHERNET]) == ["2001:db8::10"]


# As /proc/net/tcp and tcp6 show them: 127.0.0.1:8080, 0.0.0.0:22, an open connection; [::1]:8080.
PROC_TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000   100        0 4711 1
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4712 1
   2: 0A0200C0:1F90 0B0200C0:C350 01 00000000:00000000 00:00000000 00000000     0        0 4713 1
"""
PROC_TCP6 = """\
  sl  local_address                         remote_address                        st tx_queue inode
   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 0:0 00:0 0 100 0 4714 1
"""


def test_listening_sockets():
    assert server_host.listeners(PROC_TCP) == [
        server_host.Listener("127.0.0.1", 8080, "4711"),
        server_host.Listener("0.0.0.0", 22, "4712"),
    ]
    assert server_host.listeners(PROC_TCP6) == [server_host.Listener("::1", 8080, "4714")]


@pytest.mark.parametrize(
    ("addresses", "port", "inodes"),
    [
        (["127.0.0.1"], 8080, ["4711"]),
        (["192.0.2.10"], 8080, []),
        (["192.0.2.10"], 22, ["4712"]),
        (["*"], 8080, ["4711"]),
        (["127.0.0.1"], 3306, []),
    ],
)
def test_listeners_in_the_way(addresses, port, inodes):
    found = server_host.in_the_way(server_host.listeners(PROC_TCP), addresses, port)
    assert [listener.inode for listener in found] == inodes


# Settings


@pytest.mark.parametrize(
    ("flavour", "version", "name", "advice"),
    [
        ("mysql", "9.7.4", "innodb_log_file_size", "use innodb_redo_log_capacity"),
        ("mysql", "9.7.4", "innodb-log-file-size", "use innodb_redo_log_capacity"),
        ("mysql", "9.7.4", "default_authentication_plugin", "use authentication_policy"),
        ("mysql", "9.7.4", "mysql_native_password", "caching_sha2_password"),
        ("mysql", "9.7.4", "skip-host-cache", "host_cache_size: 0"),
        ("mysql", "9.7.4", "expire_logs_days", "use binlog_expire_logs_seconds"),
        ("mysql", "9.7.4", "query_cache_size", "leave it out"),
        ("mysql", "8.0.44", "query_cache_size", "leave it out"),
        ("mysql", "9.7.4", "max_statement_time", "use max_execution_time"),
        ("mysql", "9.7.4", "tx_isolation", "use transaction_isolation"),
        ("mysql", "9.7.4", "aria_pagecache_buffer_size", "leave it out"),
        ("mariadb", "10.11.18", "innodb_redo_log_capacity", "use innodb_log_file_size"),
        ("mariadb", "11.8.6", "authentication_policy", "CREATE USER"),
        ("mariadb", "11.8.6", "max_execution_time", "use max_statement_time"),
        ("mariadb", "11.8.6", "log_error_verbosity", "use log_warnings"),
        ("mariadb", "11.8.6", "gtid_mode", "gtid_strict_mode"),
        ("mariadb", "11.8.6", "innodb_change_buffering", "leave it out"),
        ("mariadb", "11.8.6", "innodb_buffer_pool_instances", "leave it out"),
    ],
)
def test_options_of_another_version_are_refused_with_the_right_name(flavour, version, name, advice):
    with pytest.raises(server_host.ServerError) as error:
        server_options.check_settings({name: 1}, flavour, version, 4096)
    assert f"mysql_settings: {name} is not an option of {flavour} {version}" in str(error.value)
    assert advice in str(error.value)


@pytest.mark.parametrize(
    ("flavour", "version", "name"),
    [
        ("mysql", "8.0.44", "innodb_log_file_size"),
        ("mysql", "8.0.44", "default_authentication_plugin"),
        ("mysql", "8.0.44", "expire_logs_days"),
        ("mysql", "9.7.4", "innodb_redo_log_capacity"),
        ("mariadb", "10.11.18", "innodb_log_file_size"),
        ("mariadb", "10.11.18", "innodb_change_buffering"),
        ("mariadb", "11.8.6", "query_cache_size"),
        ("mariadb", "11.8.6", "expire_logs_days"),
    ],
)
def test_options_that_this_version_has(flavour, version, name):
    server_options.check_settings({name: 1}, flavour, version, 4096)


def test_no_option_is_advised_that_is_refused_itself():
    for flavour, rules in server_options.RETIRED.items():
        for _since, advice in rules.values():
            for word in advice.replace(",", " ").replace(":", " ").split():
                assert word not in rules, f"{flavour}: {advice}"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"port": 3306}, "set mysql_port"),
        ({"bind-address": "0.0.0.0"}, "set mysql_bind_addresses"),
        ({"loose_bind_address": "0.0.0.0"}, "set mysql_bind_addresses"),
        ({"version": "5.7"}, "set mysql_announce_version"),
        ({"datadir": "/srv"}, "stays where the package puts it"),
        ({"skip_networking": True}, "clients come over the network"),
        ({"skip_name_resolve": False}, "names must never be looked up"),
        ({"skip-grant-tables": True}, "let everybody in"),
        ({"disable_skip_grant_tables": True}, "let everybody in"),
        ({"max_allowed_packet": "16M"}, "16M is less than 64M"),
        ({"max_allowed_packet": 1024}, "1024 is less than 64M"),
        ({"log-warnings": 1}, "1 is less than 2: failed logins would not be logged"),
        ({"log_warnings": False}, "False is less than 2"),
        ({"ssl-key": "/tmp/key"}, "set tls_certificate, tls_key and tls_authority"),
        ({"tls_version": "TLSv1.1,TLSv1.2"}, "TLSv1.1,TLSv1.2 is not safe or unknown: use TLSv1.2 or TLSv1.3"),
        ({"tls_version": ""}, "is not safe or unknown"),
        ({"innodb_buffer_pool_size": "5G"}, "5G is more than the 4096M of this host"),
        ({"sql_mode": ["A", "B"]}, "the value is a list"),
        ({"sql_mode": {"A": 1}}, "the value is a mapping"),
        ({"init_connect": "SET NAMES utf8\nport = 1"}, "line break"),
        ({"wait timeout": 1}, "is not the name of an option"),
        ({"wait-timeout\n[client]": 1}, "is not the name of an option"),
        ({"wait-timeout": 1, "wait_timeout": 2}, "the same option as wait-timeout"),
    ],
)
def test_settings_that_are_refused(settings, told):
    with pytest.raises(server_host.ServerError, match="mysql_settings") as error:
        server_options.check_settings(settings, "mariadb", "10.11.18", 4096)
    assert told in str(error.value)


@pytest.mark.parametrize("value", [2, "1", None])
def test_mysql_has_to_log_failed_logins(value):
    server_options.check_settings({"log_error_verbosity": 3}, "mysql", "9.7.4", 4096)
    with pytest.raises(server_host.ServerError, match=r"mysql_settings: log_error_verbosity: \w+ is less than 3: "):
        server_options.check_settings({"log_error_verbosity": value}, "mysql", "9.7.4", 4096)


@pytest.mark.parametrize(
    ("amounts", "told"),
    [
        ({"clients": -1}, "mysql_clients: -1"),
        ({"memory_mb": -1}, "mysql_memory_mb: -1"),
        ({"memory_mb": 8192}, "mysql_memory_mb: 8192 is more than the 4096 of this host"),
        ({"data_mb": -1}, "mysql_data_mb: -1"),
    ],
)
def test_amounts_that_are_refused(amounts, told):
    right = {"clients": 0, "memory_mb": 4096, "data_mb": 10**6}
    server_options.check_amounts(right, 4096)
    with pytest.raises(server_host.ServerError) as error:
        server_options.check_amounts(right | amounts, 4096)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("name", "text"), [("bind_address", "set mysql_bind_addresses"), ("wait_timeout", "set it in mysql_settings")]
)
def test_how_to_have_another_value(name, text):
    assert server_options.remedy(name) == text


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(server_host.ServerError) as error:
        server_options.check_settings({"port": 1, "tx_isolation": 1, "sql_mode": []}, "mysql", "9.7.4", 4096)
    assert len(error.value.problems) == 3


@pytest.mark.parametrize(
    ("value", "size"),
    [(64, 64), ("64", 64), ("64M", 64 * 2**20), ("1g", 2**30), ("2.5", 2.5), ("-1", -1), ("7d", None), (True, None)],
)
def test_sizes(value, size):
    assert server_options.number(value) == size


# What is computed


@pytest.mark.parametrize("flavour", ["mariadb", "mysql"])
def test_what_every_server_gets(flavour):
    options = server_options.compute(wishes(flavour))
    assert options["port"] == "8080"
    assert options["bind_address"] == "127.0.0.1,192.0.2.10"
    assert options["wait_timeout"] == options["interactive_timeout"] == "604800"
    assert int(options["max_allowed_packet"]) >= 64 * 2**20
    assert options["innodb_flush_log_at_trx_commit"] == "1"
    assert options["skip_name_resolve"] is None
    assert options["skip_external_locking"] is None
    assert ("innodb_log_file_size" in options) == (flavour == "mariadb")
    assert ("innodb_redo_log_capacity" in options) == (flavour == "mysql")
    assert ("disable_log_bin" in options) == (flavour == "mysql")
    # Failed logins are in the log, whatever another option file says: fail2ban reads them there.
    assert {name: value for name, value in options.items() if name.startswith("log_")} == (
        {"log_error_verbosity": "3"} if flavour == "mysql" else {"log_warnings": "2"}
    )


@pytest.mark.parametrize("flavour", ["mariadb", "mysql"])
def test_nothing_computed_is_refused_as_a_setting(flavour):
    for version in VERSIONS[flavour]:
        own = {"port", "bind_address", "skip_name_resolve", "tcp_keepalive_time"}
        options = server_options.compute(wishes(flavour, version=version))
        others = {name: value for name, value in options.items() if name not in own}
        server_options.check_settings(others, flavour, version, 4096)


@pytest.mark.parametrize(
    ("memory_mb", "data_mb", "pool_mb", "redo_mb"),
    [
        (256, 0, 128, 512),
        (1024, 0, 512, 512),
        (4096, 0, 2432, 512),
        (16384, 0, 9728, 1024),
        (16384, 1000, 1280, 1024),
        (1024, 100000, 512, 512),
    ],
)
def test_memory(memory_mb, data_mb, pool_mb, redo_mb):
    options = server_options.compute(wishes(memory_mb=memory_mb, data_mb=data_mb))
    assert int(options["innodb_buffer_pool_size"]) == pool_mb * 2**20
    assert int(options["innodb_log_file_size"]) == redo_mb * 2**20
    assert pool_mb <= max(128, memory_mb * 0.6)


@pytest.mark.parametrize(("clients", "connections"), [(1, 151), (40, 151), (41, 153), (300, 930)])
def test_connections(clients, connections):
    assert server_options.compute(wishes(clients=clients))["max_connections"] == str(connections)


@pytest.mark.parametrize("flavour", ["mariadb", "mysql"])
def test_a_certificate_and_no_old_protocol(flavour):
    options = server_options.compute(wishes(flavour, tls_directory="/etc/mysql/tls"))
    assert {name: value for name, value in options.items() if name.startswith(("ssl", "tls"))} == {
        "ssl_ca": "/etc/mysql/tls/ca.crt",
        "ssl_cert": "/etc/mysql/tls/server.crt",
        "ssl_key": "/etc/mysql/tls/server.key",
        "tls_version": "TLSv1.2,TLSv1.3",
    }
    assert not [name for name in server_options.compute(wishes(flavour)) if name.startswith(("ssl", "tls"))]
    server_options.check_settings({"tls_version": "TLSv1.3"}, flavour, VERSIONS[flavour][-1], 4096)


def test_settings_win_and_null_leaves_an_option_out():
    options = server_options.compute(
        wishes(
            settings={
                "wait-timeout": 60,
                "long_query_time": 0.5,
                "collation_server": None,
                "slow_query_log": True,
                "local_infile": False,
                "skip_slave_start": True,
            }
        )
    )
    assert options["wait_timeout"] == "60"
    assert options["long_query_time"] == "0.5"
    assert "collation_server" not in options
    assert options["slow_query_log"] == "ON"
    assert options["local_infile"] == "OFF"
    assert options["skip_slave_start"] is None


@pytest.mark.parametrize("name", ["log_bin", "skip_log_bin"])
def test_whoever_speaks_of_the_binary_log_decides(name):
    options = server_options.compute(wishes("mysql", settings={name: "binlog"}))
    assert "disable_log_bin" not in options


def test_a_replicating_mysql_keeps_its_binary_log():
    assert "disable_log_bin" not in server_options.compute(wishes("mysql"), [setting("log-bin = binlog")])


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("max_allowed_packet = 256M", "max_allowed_packet", "256M"),
        ("max_allowed_packet = 16M", "max_allowed_packet", str(64 * 2**20)),
        ("max-connections = 500", "max_connections", "500"),
        ("log_warnings = 9", "log_warnings", "9"),
        ("log_warnings = 1", "log_warnings", "2"),
        ("innodb_buffer_pool_size = 8G", "innodb_buffer_pool_size", "8G"),
        ("wait_timeout = 9999999", "wait_timeout", "604800"),
    ],
)
def test_limits_that_somebody_raised_stay_raised(line, name, value):
    assert server_options.compute(wishes(), [setting(line)])[name] == value


def test_mysql_has_the_kernel_keep_connections_alive():
    options = server_options.compute(wishes("mysql", settings={"tcp_keepalive_time": 240}))
    own, keepalive = server_options.split_kernel(options, "mysql")
    assert "tcp_keepalive_time" not in own
    assert keepalive == "240"
    assert server_options.split_kernel(server_options.compute(wishes()), "mariadb")[1] is None


# Files


@pytest.mark.parametrize(("chosen", "announce"), [(MARIADB, True), (MARIADB, False), (MYSQL, True)])
def test_the_files(chosen, announce):
    files = server.files(chosen, server_options.compute(wishes(chosen["flavour"])), announce)
    announces = announce and chosen["flavour"] == "mariadb"
    assert (server.VERSION_FILE in files[chosen["config_file"]]) == announces
    assert (server.ANNOUNCE_PROGRAM in files[server.drop_in_file(chosen["unit"])]) == announces
    assert (files[server.ANNOUNCE_PROGRAM] is not None) == announces
    assert ("tcp_keepalive_time" in (files[server.KERNEL_FILE] or "")) == (chosen["flavour"] == "mysql")


def test_an_option_file_says_what_was_computed():
    options = server_options.compute(wishes(settings={"init_connect": 'SET NAMES utf8 # "now"', "plugin_dir": "C:\\x"}))
    found = optionfiles.read_one(server.render(options, server.VERSION_FILE), "/x.cnf", frozenset({"mysqld"}))
    assert {line.name: line.value for line in found} == options


@pytest.fixture
def announce(tmp_path):
    """Run the script that computes the announced version, for a server program that says `words`."""

    def run(words):
        script, program, target = (tmp_path / name for name in ("announce-version", "mariadbd", "version.cnf"))
        script.write_text(server.ANNOUNCE_SCRIPT)
        program.write_text(f'#!/bin/sh\n[ "$*" = "--no-defaults --version" ] && echo "{words}"\n')
        program.chmod(0o755)
        return subprocess.run(["sh", script, program, target]).returncode, target

    return run


def test_the_announced_version_is_computed_from_what_the_program_says(announce):
    code, target = announce("mariadbd  Ver 11.8.6-MariaDB-0+deb13u1 from Debian for debian-linux-gnu on x86_64 (--)")
    assert code == 0
    (line,) = optionfiles.read_one(target.read_text(), str(target), frozenset({"mysqld"}))
    assert (line.name, line.value) == ("version", "5.5.5-11.8.6-MariaDB")
    assert line.value == server_host.announced("11.8.6", "mariadb", True)
    # Readable for the server, writable for root alone.
    assert target.stat().st_mode & 0o777 == 0o644


def test_nothing_is_announced_for_a_program_without_a_version(announce):
    code, target = announce("Segmentation fault")
    assert code != 0
    assert not target.exists()


@pytest.mark.parametrize(
    "value", ["1", "ON", "", "a b", " a", "a ", "#", "a#b", '"', "it's", "a\\b", "127.0.0.1,::1", "C:\\new\\table"]
)
def test_a_value_is_read_as_it_was_written(value):
    assert optionfiles.unquoted(optionfiles.quoted(value)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("64M", "64M"),
        ("64M # of memory", "64M"),
        ("'SET NAMES utf8'", "SET NAMES utf8"),
        ('"a # b" # c', "a # b"),
        ("a\\sb\\\\c", "a b\\c"),
        ("'open", "'open"),
    ],
)
def test_how_the_servers_read_a_value(text, value):
    assert optionfiles.unquoted(text) == value


TREE = {
    "/etc/mysql/my.cnf": "[client]\nport=1\n!includedir /etc/mysql/conf.d/\n!include /etc/extra\n[mysqld]\nport=4\n",
    "/etc/mysql/conf.d/b.cnf": "[mysqld]\n# port = 9\n; port = 9\nPort=3\n",
    "/etc/mysql/conf.d/a.cnf": "[mysqld-10.11]\nport = 2 # why\nskip-name-resolve # bare\n[mysqld-11.8]\nport = 8\n",
    "/etc/mysql/conf.d/c.txt": "[mysqld]\nport = 9\n",
    "/etc/extra": "[mariadb]\nloose-port = 5\n!include /etc/mysql/my.cnf\n",
}


def tree_names(folder):
    return [path.rpartition("/")[2] for path in TREE if path.rpartition("/")[0] == folder.rstrip("/")]


@pytest.mark.parametrize(
    ("would_be", "more"),
    [
        ({"datadir": "/var/lib/mysql/", "tmpdir": "/tmp", "pid_file": "/var/run/mysqld/mysqld.pid"}, []),
        ({"datadir": "/srv/data", "innodb_undo_directory": "/srv/data/undo"}, ["/srv/data"]),
        ({"log_error": "/srv/log/error.log", "slow_query_log_file": "host-slow.log"}, ["/srv/log"]),
        ({"tmpdir": "/fast/one:/fast/two"}, ["/fast/one", "/fast/two"]),
        ({"secure_file_priv": "NULL", "innodb_data_home_dir": ""}, []),
        ({"datadir": "/var/lib/mysql-other"}, ["/var/lib/mysql-other"]),
    ],
)
def test_folders_the_server_writes_to(would_be, more):
    default = ["/run/mysqld", "/var/lib/mysql", "/var/log/mysql"]
    assert server.writable("mariadb", would_be) == default + more


def test_the_sandbox_in_the_unit():
    lines = server.sandbox("mariadb", ["/srv/a b", "/srv/100%"])
    assert 'ReadWritePaths=-"/srv/a b"' in lines
    assert "ReadWritePaths=-/srv/100%%" in lines
    assert "ProtectHome=yes" in lines
    assert "ProtectHome=no" in server.sandbox("mysql", ["/home/mysql"])


@pytest.mark.parametrize("folders", [None, ["/var/lib/mysql"]])
def test_the_unit_has_a_sandbox_if_it_is_wanted(folders):
    files = server.files(MARIADB, server_options.compute(wishes("mariadb")), False, folders)
    assert ("ProtectSystem=strict" in files[server.drop_in_file(MARIADB["unit"])]) == (folders is not None)


def test_option_files_are_read_in_the_order_of_the_servers():
    groups = optionfiles.server_groups("mariadb", (10, 11, 18))
    found = optionfiles.read(groups, {**TREE, "/etc/extra": "[mariadb]\nloose-port = 5\n"}.get, tree_names)
    assert [(line.name, line.value, line.path.rpartition("/")[2], line.line) for line in found] == [
        ("port", "2", "a.cnf", 2),
        ("skip_name_resolve", None, "a.cnf", 3),
        ("port", "3", "b.cnf", 4),
        ("port", "5", "extra", 2),
        ("port", "4", "my.cnf", 6),
    ]


def test_files_that_include_each_other_end():
    groups = optionfiles.server_groups("mariadb", (10, 11))
    assert len(optionfiles.read(groups, TREE.get, tree_names)) < 1000


def test_mysql_does_not_read_the_groups_of_mariadb():
    assert "mariadb" not in optionfiles.server_groups("mysql", (9, 7, 4))
    assert "mysqld-9.7" in optionfiles.server_groups("mysql", (9, 7, 4))


OURS = "/etc/mysql/mariadb.conf.d/zz-peat.cnf"


def test_what_other_files_say_differently():
    settings = [
        setting("wait_timeout = 30", "/a.cnf", 1),
        setting("wait_timeout = 60", "/a.cnf", 2),
        setting("max_connections = 151", "/a.cnf", 3),
        setting("back_log = 5", "/a.cnf", 4),
        setting("wait_timeout = 604800", OURS),
        setting("port = 8080", OURS),
        setting("port = 3306", "/z.cnf", 5),
    ]
    options = {"wait_timeout": "604800", "max_connections": "151", "port": "8080"}
    found = server.compare_foreign(settings, options, OURS)
    assert [str(line) for line in found.replaced] == ["wait_timeout = 60 (/a.cnf:2)"]
    assert [str(line) for line in found.overriding] == ["port = 3306 (/z.cnf:5)"]


def test_what_mysql_remembers_otherwise_is_refused():
    options = {"wait_timeout": "604800", "disable_log_bin": None, "skip_name_resolve": None}
    server.check_persisted(options, {"wait_timeout": "604800", "log_bin": "OFF", "long_query_time": "1"})
    with pytest.raises(server_host.ServerError, match="RESET PERSIST wait_timeout"):
        server.check_persisted(options, {"wait_timeout": "60"})


# What the server programs say

HELP = """\
mariadbd  Ver 10.11.18-MariaDB
  --port=#            Port number
Variables (--variable-name=value)
and boolean options {FALSE|TRUE}                             Value (after reading options)
------------------------------------------------------------- -------------
log-bin                                                      (No default value)
max-allowed-packet                                           67108864
performance-schema-consumer-events-statements-history-long-x FALSE
skip-name-resolve                                            TRUE
sql-mode                                                     ANSI_QUOTES,STRICT_TRANS_TABLES

To see what variables a running server is using, type
'SELECT * FROM INFORMATION_SCHEMA.GLOBAL_VARIABLES' instead
"""


def test_the_values_that_would_be_in_force():
    found = server.effective(HELP)
    assert found["log_bin"] == ""
    assert found["max_allowed_packet"] == "67108864"
    assert found["skip_name_resolve"] == "TRUE"
    assert found["sql_mode"] == "ANSI_QUOTES,STRICT_TRANS_TABLES"
    assert len(found) == 5


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("2026-11-22 22:18:03 0 [ERROR] /usr/sbin/mariadbd: unknown variable 'x=1'", "unknown variable 'x=1'"),
        (
            "2026-11-22 22:18:03 0 [ERROR] Buffered error: Incorrect unsigned value: '-5' for x",
            "Incorrect unsigned value",
        ),
        ("2026-11-22T22:18:09.87Z 0 [ERROR] [MY-000067] [Server] unknown variable 'x=1'.", "unknown variable 'x=1'"),
        ("mysqld: Character set 'utf9' is not a compiled character set", "Character set 'utf9'"),
        ("2026-11-22 22:18:04 0 [Warning] option 'x': unsigned value 7 adjusted to 3", "adjusted to 3"),
        ("2026-11-22 22:18:04 0 [Warning] option 'x': boolean value 'maybe' wasn't recognized. Set to OFF.", "maybe"),
        ("2026-11-22 22:18:04 0 [Warning] 'x' was removed. It does nothing now", "was removed"),
        (
            "2026-11-22T22:18:10.04Z 0 [Warning] [MY-000082] [Server] option 'x': value -5 adjusted to 1.",
            "adjusted to 1",
        ),
    ],
)
def test_complaints(line, told):
    (found,) = server.complaints(line + "\n", {"x"})
    assert found.startswith(told) or told in found


@pytest.mark.parametrize(
    "line",
    [
        "2026-11-22 22:18:03 0 [Warning] Could not increase number of max_open_files to more than 20000",
        "2026-11-22 22:18:04 0 [Warning] Changed limits: max_open_files: 20000  max_connections: 16770 (was 100000)",
        "2026-11-22 22:18:04 0 [Warning] option 'not_ours': unsigned value 7 adjusted to 3",
        "2026-11-22T22:18:09.87Z 0 [ERROR] [MY-010119] [Server] Aborting",
        "2026-11-22 22:18:04 0 [Warning] --x is deprecated and will be removed in a future release",
        "",
    ],
)
def test_no_complaints(line):
    assert server.complaints(line + "\n", {"x", "max_connections"}) == []


def test_why_a_server_did_not_start():
    log = [
        "0 [Note] InnoDB: Completed initialization",
        "/usr/sbin/mariadbd: File '/nonexistent/binlog.index' not found (Errcode: 2)",
        "0 [ERROR] Aborting",
    ]
    assert server.last_words(log) == [log[1]]
    assert server.last_words(["a", "b"]) == ["a", "b"]


# From what runs to what is wanted


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("64M", "67108864"),
        ("ON", "1"),
        ("TRUE", "on"),
        ("OFF", "0"),
        (None, "ON"),
        ("10", "10.000000"),
        ("utf8mb4", "UTF8MB4"),
        ("", ""),
    ],
)
def test_spellings_of_one_value(one, other):
    assert server_options.same(one, other)


@pytest.mark.parametrize(("one", "other"), [("64M", "64"), ("ON", "OFF"), ("ON", "2"), ("", "0"), ("a", "b")])
def test_different_values(one, other):
    assert not server_options.same(one, other)


def changes(options, before, live, would_be=None, settled=()):
    found = server.differing(options, before, live, would_be or {}, frozenset(settled))
    return [(change.name, change.variable, change.now, change.wanted) for change in found]


def test_nothing_to_change():
    options = {"wait_timeout": "604800", "skip_name_resolve": None, "disable_log_bin": None, "slow_query_log": "ON"}
    live = {"wait_timeout": "604800", "skip_name_resolve": "ON", "log_bin": "OFF", "slow_query_log": "ON"}
    assert changes(options, options, live) == []


def test_a_new_value_and_one_that_somebody_changed_in_the_running_server():
    options = {"wait_timeout": "604800", "max_connections": "300"}
    before = {"wait_timeout": "604800", "max_connections": "151"}
    live = {"wait_timeout": "60", "max_connections": "151"}
    assert changes(options, before, live) == [
        ("wait_timeout", "wait_timeout", "60", "604800"),
        ("max_connections", "max_connections", "151", "300"),
    ]


def test_an_option_that_leaves_our_file_goes_back_to_what_the_program_says():
    live, would_be = {"lock_wait_timeout": "4321"}, {"lock_wait_timeout": "86400"}
    assert changes({}, {"lock_wait_timeout": "4321"}, live, would_be) == [
        ("lock_wait_timeout", "lock_wait_timeout", "4321", "86400")
    ]


def test_the_servers_own_form_of_a_value_is_no_difference():
    options, live = {"sql_mode": "strict_trans_tables,ansi_quotes"}, {"sql_mode": "ANSI_QUOTES,STRICT_TRANS_TABLES"}
    assert changes(options, {}, live, {"sql_mode": "ANSI_QUOTES,STRICT_TRANS_TABLES"}) == []


def test_a_value_that_the_server_rounded_from_our_line_is_no_difference():
    options, live = {"innodb_buffer_pool_size": "200000000"}, {"innodb_buffer_pool_size": "199229440"}
    assert changes(options, options, live, settled=["innodb_buffer_pool_size"]) == []
    assert changes(options, options, live) != []
    assert changes(options, {"innodb_buffer_pool_size": "1"}, live, settled=["innodb_buffer_pool_size"]) != []


def test_a_switched_on_binary_log():
    options, live = {"log_bin": "peat"}, {"log_bin": "ON"}
    assert changes(options, {"disable_log_bin": None}, {"log_bin": "OFF"}) == [("log_bin", "log_bin", "OFF", "peat")]
    assert changes(options, options, live, settled=["log_bin"]) == []
    assert changes({"disable_log_bin": None}, options, live) == [("disable_log_bin", "log_bin", "ON", "OFF")]


def test_an_option_without_a_variable_is_compared_as_written():
    assert changes({"plugin_load_add": "x"}, {}, {}) == [("plugin_load_add", None, None, "x")]
    assert changes({"plugin_load_add": "x"}, {"plugin_load_add": "x"}, {}) == []
    assert changes({}, {"plugin_load_add": "x"}, {}) == [("plugin_load_add", None, "x", None)]


@pytest.mark.parametrize(
    ("wanted", "value"), [("64M", 64 * 2**20), ("604800", 604800), ("TRUE", "ON"), ("0.5", 0.5), ("utf8mb4", "utf8mb4")]
)
def test_values_for_set_global(wanted, value):
    assert server.assignment(server.Change("x", "x", None, wanted)) == ("x", value)
