"""What a PEAT server's MySQL or MariaDB is to be: options, their limits, and the way there.

Pure: the caller reads the host and passes plain data. The tables were measured with MariaDB
10.11.18 and 11.8.6 and MySQL 9.7.4 as Debian packages them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .optionfiles import Setting, line_of, normal_name

MIB = 1024 * 1024


class ServerError(Exception):
    """What was asked for cannot be; ``problems`` holds one text for each reason and remedy."""

    def __init__(self, *problems: str) -> None:
        """Keep the problems as a list; the text of the exception is all of them."""
        super().__init__("\n".join(problems))
        self.problems = list(problems)


# Versions and platforms


def numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: ``10.11.18-MariaDB`` is (10, 11, 18)."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in found.group().split(".")) if found else ()


def package_version(text: str) -> str:
    """Return the upstream version of a Debian version: ``1:11.8.6-0+deb13u1`` is ``11.8.6``."""
    return ".".join(str(number) for number in numbers(text.partition(":")[2] or text))


def program_version(text: str) -> str:
    """Return the version that ``mariadbd --no-defaults --version`` or ``mysqld`` prints."""
    found = re.search(r"Ver (\d+(?:\.\d+)*)", text)
    if found is None:
        raise ServerError(f"no version in what the server program says of itself: {text.strip()!r}")
    return found.group(1)


def announced(version: str, flavour: str, announce: bool) -> str:
    """Return what clients are told, as far as it follows from the version alone.

    RelStorage 4 reads ``5.5.5`` and avoids a syntax that MariaDB lacks; C clients strip it.
    """
    if flavour == "mysql":
        return version
    return f"5.5.5-{version}-MariaDB" if announce else f"{version}-MariaDB"


def distribution(os_release: str) -> tuple[str, str]:
    """Return (id, release) of ``/etc/os-release``; Debian unstable, without a number, is "sid"."""
    pairs = dict(line.split("=", 1) for line in os_release.splitlines() if re.match(r"[A-Z_]+=", line))
    values = {key: value.strip("\"'") for key, value in pairs.items()}
    unnumbered = "sid" if values.get("PRETTY_NAME", "").endswith("/sid") else ""
    return values.get("ID", ""), values.get("VERSION_ID", unnumbered)


# Packages of servers that the role does not configure.
_OTHER_SERVERS = frozenset({"mysql-community-server", "percona-server-server"})


def server_packages(platforms: list[Mapping]) -> list[str]:
    """Return the packages to ask the host about."""
    wanted = {package for p in platforms for package in p["packages"]}
    return sorted(wanted | _OTHER_SERVERS)


def platform(platforms: list[Mapping], os_release: str, flavour: str, installed: Iterable[str]) -> Mapping:
    """Choose the platform that fits the host. ``installed`` are names of installed packages.

    ``auto`` is what is installed, else the first that the distribution has. Raises ServerError
    for a distribution or flavour that is not supported, and where choosing another flavour than
    the installed one would replace a server with its data.
    """
    here = distribution(os_release)
    system = " ".join(here).strip().title()
    known = [p for p in platforms if (p["distribution"], p["release"]) == here]
    if not known:
        supported = dict.fromkeys(f"{p['distribution'].title()} {p['release']}" for p in platforms)
        raise ServerError(f"this host runs {system or 'an unknown system'}; supported are {', '.join(supported)}")
    installed = frozenset(installed)
    strangers = sorted(installed & _OTHER_SERVERS)
    if strangers:
        raise ServerError(
            f"{', '.join(strangers)} is installed on this host, a server that is not supported and"
            " that another one would displace: use another host, or remove it after saving its data"
        )
    there = {p["flavour"] for p in platforms if p["packages"][0] in installed}
    fitting = [p for p in known if flavour in ("auto", p["flavour"])]
    if there:
        present = next(iter(there))
        fitting = [p for p in fitting if p["flavour"] == present]
        if not fitting:
            raise ServerError(
                f"{present} is installed on this host and {flavour} would take its place: set"
                f" mysql_flavour to {present} where {system} is supported with it"
                f" ({', '.join(p['flavour'] for p in known)}), or remove {present} after saving its"
                " data"
            )
    if not fitting:
        raise ServerError(
            f"{system} has no package of {flavour}: mysql_flavour can be {', '.join(p['flavour'] for p in known)} there"
        )
    return fitting[0]


# Addresses and ports

# Interfaces of container and virtual machine hosts: none of a lab's clients is behind them, and
# what is not there at boot would keep the server from starting.
_VIRTUAL = re.compile(r"(docker|podman|cni|veth|virbr|vnet|lxc|lxd|incus|br-[0-9a-f]{12})")
ANY_ADDRESS = frozenset({"*", "0.0.0.0", "::"})


def host_addresses(interfaces: list[Mapping], everything: bool = False) -> list[str]:
    """Return addresses to listen on from ``ip -json address``: loopback and the host's own.

    Left out, unless ``everything``, are those of tunnels and virtual networks, temporary ones
    and ones still being checked for duplicates, all of which may be missing at the next boot.
    """
    found = []
    for interface in interfaces:
        flags = interface.get("flags", [])
        stable = "UP" in flags and "POINTOPOINT" not in flags
        if not everything and (not stable or _VIRTUAL.match(interface["ifname"])):
            continue
        for entry in interface.get("addr_info", []):
            passing = any(entry.get(key) for key in ("temporary", "tentative", "deprecated"))
            if entry.get("scope") != "link" and entry.get("local") and (everything or not passing):
                found.append(ipaddress.ip_address(entry["local"]))
    found.sort(key=lambda address: (not address.is_loopback, address.version, address))
    return [str(address) for address in dict.fromkeys(found)]


def bind_addresses(wished: list[str], interfaces: list[Mapping]) -> list[str]:
    """Return the addresses to listen on; ``wished`` empty means the host's own.

    Raises ServerError for an address that the host does not have: the server would not start.
    """
    if not wished:
        return host_addresses(interfaces)
    if len(wished) > 1 and ANY_ADDRESS.intersection(wished):
        raise ServerError(
            f"mysql_bind_addresses: {', '.join(wished)}: '*' stands for all addresses, so it must stand alone"
        )
    if wished[0] in ANY_ADDRESS:
        return wished
    has = host_addresses(interfaces, everything=True)
    problems = []
    result = []
    for text in wished:
        try:
            address = str(ipaddress.ip_address(text))
        except ValueError:
            problems.append(f"mysql_bind_addresses: {text!r} is not an address")
            continue
        if address not in has:
            problems.append(f"mysql_bind_addresses: this host has no address {address}, only {', '.join(has)}")
        result.append(address)
    if problems:
        raise ServerError(*problems)
    return list(dict.fromkeys(result))


@dataclass(frozen=True)
class Listener:
    """A listening TCP socket."""

    address: str
    port: int
    inode: str


def listeners(proc_net_tcp: str) -> list[Listener]:
    """Return the listening sockets of ``/proc/net/tcp`` or ``/proc/net/tcp6``."""
    found = []
    for line in proc_net_tcp.splitlines()[1:]:
        words = line.split()
        if words[3] == "0A":
            where, port = words[1].split(":")
            # Groups of four bytes, each in the machine's byte order.
            packed = b"".join(bytes.fromhex(where[i : i + 8])[::-1] for i in range(0, len(where), 8))
            found.append(Listener(str(ipaddress.ip_address(packed)), int(port, 16), words[9]))
    return found


def in_the_way(found: Iterable[Listener], addresses: list[str], port: int) -> list[Listener]:
    """Return the listeners that would keep a server from listening on these addresses."""
    wide = bool(ANY_ADDRESS.intersection(addresses))
    return [
        listener
        for listener in found
        if listener.port == port and (wide or listener.address in ANY_ADDRESS or listener.address in addresses)
    ]


# Options

# What the role sets itself, or what would take the role's or the accounts' ground away.
_STAYS = "moving the data is not a matter of one option: it stays where the package puts it"
_OWNED = {
    "port": "set mysql_port",
    "bind_address": "set mysql_bind_addresses",
    "version": "set mysql_announce_version",
    "socket": "the role and Debian's own tools expect it where the package puts it",
    "datadir": _STAYS,
    "innodb_data_home_dir": _STAYS,
    "innodb_data_file_path": _STAYS,
    "innodb_log_group_home_dir": _STAYS,
    "innodb_undo_directory": _STAYS,
    "basedir": "it is where the package is",
    "pid_file": "it is where the package's unit expects it",
    "user": "the package's unit decides it",
    "skip_networking": "clients come over the network",
    "skip_grant_tables": "it would let everybody in",
    "skip_name_resolve": "accounts are for addresses, so names must never be looked up",
    "lower_case_table_names": "it can only be chosen before the first start of a server",
    "innodb_page_size": "it can only be chosen before the first start of a server",
    "init_file": "the role would not know what it does",
}

_ONLY_MARIADB = "MySQL has no such option"
_ONLY_MYSQL = "MariaDB has no such option"
_GONE = "it no longer exists"
_REMOVED = "it does nothing any more"


def _rule(names: str, advice: str, since: tuple[int, ...] = ()) -> dict:
    return dict.fromkeys(names.split(), (since, advice))


# {flavour: {option: (first version concerned, advice)}}. A server of that flavour does not start
# with the option, or ignores it. What is not listed is caught by the server program itself.
RETIRED: dict[str, dict[str, tuple[tuple[int, ...], str]]] = {
    "mysql": {
        **_rule(
            "innodb_log_file_size innodb_log_files_in_group",
            "use innodb_redo_log_capacity, the size of all redo log files together",
            (9,),
        ),
        **_rule(
            "default_authentication_plugin",
            "use authentication_policy, for example 'caching_sha2_password,,'",
            (8, 4),
        ),
        **_rule("mysql_native_password", "accounts use caching_sha2_password", (9,)),
        **_rule("skip_host_cache", "use host_cache_size: 0", (8, 3)),
        **_rule("expire_logs_days", "use binlog_expire_logs_seconds", (8, 4)),
        **_rule(
            "query_cache_size query_cache_type query_cache_limit query_cache_min_res_unit",
            "MySQL has no query cache since 8.0: leave it out",
            (8, 0, 3),
        ),
        **_rule("log_warnings", "use log_error_verbosity", (8, 0, 3)),
        **_rule("tx_isolation", "use transaction_isolation", (8, 0, 3)),
        **_rule("tx_read_only", "use transaction_read_only", (8, 0, 3)),
        **_rule("innodb_undo_tablespaces innodb_undo_logs", _GONE + ": leave it out", (9,)),
        **_rule(
            "innodb_file_format innodb_large_prefix innodb_locks_unsafe_for_binlog innodb_checksums"
            " innodb_support_xa innodb_stats_sample_pages sync_frm secure_auth old_passwords old"
            " metadata_locks_cache_size ignore_db_dirs multi_range_count",
            _GONE + ": leave it out",
            (8, 0, 3),
        ),
        **_rule(
            "master_info_repository relay_log_info_repository transaction_write_set_extraction"
            " binlog_transaction_dependency_tracking ssl character_set_client_handshake"
            " skip_character_set_client_handshake avoid_temporal_upgrade show_old_temporals",
            _GONE + ": leave it out",
            (9,),
        ),
        **_rule("table_cache", "use table_open_cache"),
        **_rule("key_buffer", "use key_buffer_size"),
        **_rule("log_slow_queries log_slow_query", "use slow_query_log"),
        **_rule("log_slow_query_time", "use long_query_time"),
        **_rule("log_slow_query_file", "use slow_query_log_file"),
        **_rule("skip_locking", "use skip_external_locking, which the role does"),
        **_rule("skip_innodb skip_bdb", _GONE + ": leave it out"),
        **_rule(
            "max_statement_time",
            f"{_ONLY_MARIADB}: use max_execution_time, in milliseconds",
        ),
        **_rule("extra_port", f"{_ONLY_MARIADB}: use admin_port"),
        **_rule("extra_max_connections", _ONLY_MARIADB),
        **_rule("gtid_strict_mode gtid_domain_id", f"{_ONLY_MARIADB}: use gtid_mode"),
        **_rule("slave_parallel_threads", f"{_ONLY_MARIADB}: use replica_parallel_workers"),
        **_rule(
            "tcp_keepalive_interval",
            f"{_ONLY_MARIADB}: set the kernel's net.ipv4.tcp_keepalive_intvl",
        ),
        **_rule(
            "tcp_keepalive_probes",
            f"{_ONLY_MARIADB}: set the kernel's net.ipv4.tcp_keepalive_probes",
        ),
        **_rule(
            "aria_pagecache_buffer_size aria_log_file_size tcp_nodelay thread_pool_size userstat"
            " feedback unix_socket plugin_maturity idle_transaction_timeout max_password_errors"
            " idle_readonly_transaction_timeout optimizer_use_condition_selectivity old_mode"
            " rowid_merge_buff_size debug_no_thread_alarm",
            f"{_ONLY_MARIADB}: leave it out",
        ),
    },
    "mariadb": {
        **_rule("innodb_redo_log_capacity", f"{_ONLY_MYSQL}: use innodb_log_file_size"),
        **_rule(
            "authentication_policy default_authentication_plugin mysql_native_password",
            f"{_ONLY_MYSQL}: an account's plugin is chosen by CREATE USER",
        ),
        **_rule("log_error_verbosity", f"{_ONLY_MYSQL}: use log_warnings"),
        **_rule("max_execution_time", f"{_ONLY_MYSQL}: use max_statement_time, in seconds"),
        **_rule("tx_isolation", "use transaction_isolation"),
        **_rule("tx_read_only", "use transaction_read_only"),
        **_rule("log_slow_queries", "use slow_query_log"),
        **_rule("skip_locking", "use skip_external_locking, which the role does"),
        **_rule("admin_address admin_port", f"{_ONLY_MYSQL}: use extra_port"),
        **_rule(
            "gtid_mode enforce_gtid_consistency",
            f"{_ONLY_MYSQL}: MariaDB always has GTIDs; gtid_strict_mode makes them strict",
        ),
        **_rule("log_replica_updates", f"{_ONLY_MYSQL}: use log_slave_updates"),
        **_rule("replica_net_timeout", f"{_ONLY_MYSQL}: use slave_net_timeout"),
        **_rule("replica_parallel_workers", f"{_ONLY_MYSQL}: use slave_parallel_threads"),
        **_rule("skip_replica_start", f"{_ONLY_MYSQL}: use skip_slave_start"),
        **_rule("super_read_only", f"{_ONLY_MYSQL}: use read_only"),
        **_rule("temptable_max_ram", f"{_ONLY_MYSQL}: use tmp_memory_table_size"),
        **_rule(
            "innodb_dedicated_server sql_require_primary_key internal_tmp_mem_storage_engine"
            " mysqlx mysqlx_port mysqlx_bind_address caching_sha2_password_auto_generate_rsa_keys"
            " sha256_password_auto_generate_rsa_keys sha256_password_proxy_users"
            " transaction_write_set_extraction binlog_transaction_dependency_tracking",
            f"{_ONLY_MYSQL}: leave it out",
        ),
        **_rule(
            "innodb_additional_mem_pool_size innodb_support_xa innodb_checksums"
            " innodb_file_format_check innodb_mtflush_threads avoid_temporal_upgrade"
            " show_old_temporals",
            _GONE + ": leave it out",
        ),
        **_rule(
            "innodb_log_files_in_group innodb_file_format innodb_large_prefix innodb_undo_logs"
            " innodb_locks_unsafe_for_binlog innodb_buffer_pool_instances innodb_page_cleaners"
            " innodb_stats_sample_pages innodb_log_checksums innodb_scrub_log"
            " innodb_log_optimize_ddl innodb_thread_concurrency thread_concurrency skip_bdb"
            " master_info_repository relay_log_info_repository log_bin_use_v1_row_events"
            " multi_range_count timed_mutexes",
            _REMOVED + ": leave it out",
        ),
        **_rule("innodb_change_buffering innodb_defragment", _REMOVED + ": leave it out", (11,)),
        **_rule("max_tmp_tables debug_no_thread_alarm", _GONE + ": leave it out", (11,)),
    },
}

# Options of which less than the lab needs loses work.
_LEAST = {
    "max_allowed_packet": (64 * MIB, "a 20 MB record fails with the server's own default of 16M"),
}

# What an administrator chose before is kept where it is larger than what is computed: with less,
# records that are already stored could not be read, or clients that connect today could not.
_KEEP_LARGER = (
    "max_allowed_packet",
    "max_connections",
    "innodb_buffer_pool_size",
    "innodb_log_file_size",
    "innodb_redo_log_capacity",
)

# The servers' own default; fewer connections than that help nobody.
_MAX_CONNECTIONS = 151
_KERNEL_KEEPALIVE = "tcp_keepalive_time"


def check_settings(settings: Mapping, flavour: str, version: str) -> None:
    """Refuse `mysql_settings` that cannot be, with all reasons in one ServerError."""
    problems = []
    seen: dict[str, str] = {}
    for spelled, value in settings.items():
        where = f"mysql_settings: {spelled}"
        name = normal_name(str(spelled))
        if not re.fullmatch(r"[a-z][a-z0-9_.]*", name):
            problems.append(f"{where} is not the name of an option")
            continue
        if name in seen:
            problems.append(f"{where} is the same option as {seen[name]}: keep one of them")
        seen[name] = str(spelled)
        if not isinstance(value, (str, int, float, bool, type(None))):
            kind = {"list": "a list", "dict": "a mapping"}.get(type(value).__name__, "of no use")
            problems.append(f"{where}: the value is {kind}; give a text, a number, a bool or null")
        elif isinstance(value, str) and re.search(r"[\0\r\n]", value):
            problems.append(f"{where}: the value has a line break; write it in one line")
        stem = re.sub(r"^(skip|disable|enable)_", "", name)
        for owned in dict.fromkeys((name, stem)):
            if owned in _OWNED:
                problems.append(f"{where} is not for this mapping: {_OWNED[owned]}")
        since, advice = RETIRED[flavour].get(name, (None, ""))
        if since is not None and numbers(version) >= since:
            problems.append(f"{where} is not an option of {flavour} {version}: {advice}")
        least, reason = _LEAST.get(name, (0, ""))
        if least and value is not None and (number(value) or 0) < least:
            problems.append(f"{where}: {value} is less than {least // MIB}M: {reason}")
    if problems:
        raise ServerError(*problems)


def number(value) -> float | None:
    """Return what a server reads a numeric option as (``64M`` is 67108864), None for a text."""
    if isinstance(value, bool) or value is None:
        return None
    found = re.fullmatch(r"(-?\d+(?:\.\d+)?)([KMGTPE]?)", str(value).strip(), re.IGNORECASE)
    if found is None:
        return None
    digits, unit = found.groups()
    size = 1024 ** " KMGTPE".index(unit.upper()) if unit else 1
    return float(digits) * size if "." in digits else int(digits) * size


@dataclass(frozen=True)
class Wishes:
    """What the role's variables say, and what of the host decides the computed options."""

    flavour: str
    version: str
    port: int
    addresses: tuple[str, ...]
    clients: int
    memory_mb: int
    data_mb: int
    settings: Mapping


def text_of(value) -> str | None:
    """Return a value of `mysql_settings` as the text of an option."""
    if isinstance(value, bool):
        return "ON" if value else "OFF"
    return str(value)


def compute(wishes: Wishes, foreign: Iterable[Setting] = ()) -> dict[str, str | None]:
    """Return {option: value} for our option file; None is an option without a value.

    ``foreign`` is what other option files say. Memory decides the buffer pool (60 %, or less
    where the data is known to be smaller), the lab's clients the connections (RelStorage and PEAT
    were seen to hold 3 each).
    """
    step = 128 * MIB
    pool = wishes.memory_mb * MIB * 60 // 100
    if wishes.data_mb:
        pool = min(pool, wishes.data_mb * MIB * 5 // 4 + step)
    redo = 512 * MIB if wishes.memory_mb < 8192 else 1024 * MIB
    redo_name = "innodb_redo_log_capacity" if wishes.flavour == "mysql" else "innodb_log_file_size"
    others = {setting.name: setting.value for setting in foreign}
    computed: dict[str, str | int | None] = {
        "character_set_server": "utf8mb4",
        "collation_server": "utf8mb4_general_ci",
        "max_connections": max(_MAX_CONNECTIONS, 3 * wishes.clients + 30),
        "max_allowed_packet": 64 * MIB,
        # Desktops are left open overnight; an expired connection loses the session's work.
        "wait_timeout": 604800,
        "interactive_timeout": 604800,
        # Address translators on the way forget quiet connections sooner than the kernel asks.
        _KERNEL_KEEPALIVE: 120,
        "innodb_buffer_pool_size": max(step, pool // step * step),
        redo_name: redo,
        "innodb_flush_log_at_trx_commit": 1,
        "skip_external_locking": None,
    }
    if wishes.flavour == "mysql" and not {"log_bin", "server_id"} & set(others):
        # Costs 6 to 24 % of small commits and serves replication only.
        computed["disable_log_bin"] = None
    for name in _KEEP_LARGER:
        if name in computed and (number(others.get(name)) or 0) > computed[name]:
            computed[name] = others[name]
    result = {
        "port": str(wishes.port),
        "bind_address": ",".join(wishes.addresses),
        "skip_name_resolve": None,
        **{name: None if value is None else str(value) for name, value in computed.items()},
    }
    for spelled, value in wishes.settings.items():
        name = normal_name(str(spelled))
        if name in ("log_bin", "skip_log_bin"):
            result.pop("disable_log_bin", None)
        bare = value is True and name.startswith(("skip_", "disable_", "enable_"))
        result.pop(name, None)
        if value is not None:
            result[name] = None if bare else text_of(value)
    return result


def split_kernel(options: Mapping, flavour: str) -> tuple[dict, str | None]:
    """Return the options of the server itself and the keepalive seconds for the kernel.

    MySQL has no option for it and follows ``net.ipv4.tcp_keepalive_time``; for MariaDB, None.
    """
    if flavour == "mariadb":
        return dict(options), None
    own = {name: value for name, value in options.items() if name != _KERNEL_KEEPALIVE}
    return own, options.get(_KERNEL_KEEPALIVE)


HEADER = "# Written by PEAT Server (role mysql). Changes are lost: put them into mysql_settings.\n"


def render(options: Mapping[str, str | None], include: str | None = None) -> str:
    """Return our option file. ``include`` is a file written at each start of the service."""
    packet = options.get("max_allowed_packet")
    lines = ["[mysqld]", *(line_of(name, value) for name, value in options.items())]
    if packet:
        # Dumps and their restoring meet the same records as the server.
        for group in ("mysqldump", "mysql"):
            lines += ["", f"[{group}]", line_of("max_allowed_packet", packet)]
    if include:
        lines += ["", f"!include {include}"]
    return HEADER + "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Foreign:
    """What other option files say about options that we set."""

    overriding: tuple[Setting, ...]
    replaced: tuple[Setting, ...]


# Where another file must not win.
ESSENTIAL = frozenset({"port", "bind_address", "skip_name_resolve", "version"})


def compare_foreign(settings: list[Setting], options: Mapping, path: str) -> Foreign:
    """Sort what other files say differently: read after ours it wins, before ours it loses.

    Of several lines about one option in other files, only the last one counts.
    """
    position = max((i for i, s in enumerate(settings) if s.path == path), default=-1)
    others = [(i, s) for i, s in enumerate(settings) if s.path != path and s.name in options]
    last = {setting.name: (index, setting) for index, setting in others}
    differing = [(index, setting) for index, setting in last.values() if not same(setting.value, options[setting.name])]
    return Foreign(
        tuple(setting for index, setting in differing if index > position),
        tuple(setting for index, setting in differing if index < position),
    )


# What the server program says of a configuration


def effective(help_text: str) -> dict[str, str]:
    """Return {variable: value} from ``--verbose --help``: the table of what would be in force."""
    table = re.split(r"^-+ -+$", help_text, maxsplit=1, flags=re.MULTILINE)
    found = {}
    for line in (table[1] if len(table) == 2 else "").split("\n\n")[0].strip().splitlines():
        name, _space, value = line.partition(" ")
        value = value.strip()
        found[normal_name(name)] = "" if value == "(No default value)" else value
    return found


def complaints(stderr: str, names: Iterable[str]) -> list[str]:
    """Return what the server program complains of in a trial of the configuration.

    Errors always count. A warning counts if it is about one of ``names`` and says that the value
    would not be used as written. Limits of our own process (open files) do not.
    """
    found = []
    for line in stderr.splitlines():
        text = re.sub(r"^.*?\[(ERROR|Warning)\]\s*(\[MY-\d+\]\s*)?(\[Server\]\s*)?", "", line)
        text = re.sub(r"^(Buffered (error|warning): )?(\S*/)?(mariadbd|mysqld): ", "", text)
        if "[ERROR]" in line:
            if text not in ("Aborting", "Aborted"):
                found.append(text)
        elif "[Warning]" in line and re.search(
            r"adjusted to|recognized|was removed|unknown variable|Not used or needed|compatible", line
        ):
            plain = normal_name(line)
            if any(re.search(rf"\b{re.escape(name)}\b", plain) for name in names):
                found.append(text)
        elif re.match(r"\S*(mariadbd|mysqld): ", line):
            found.append(text)
    return list(dict.fromkeys(found))


def last_words(log: list[str]) -> list[str]:
    """Return the lines that tell why a server did not start; the last ones if none is an error."""
    errors = [
        line
        for line in log
        if ("[ERROR]" in line or re.match(r"\S*(mariadbd|mysqld): ", line)) and not re.search(r"\bAbort(ing|ed)$", line)
    ]
    return list(dict.fromkeys(errors or log[-5:]))[:5]


# From what runs to what is wanted

_ON_OFF = {"on": "1", "true": "1", "yes": "1", "off": "0", "false": "0", "no": "0"}


def same(one: str | None, other: str | None) -> bool:
    """Tell whether two spellings are one value to a server; None is "on"."""

    def normal(value):
        text = "on" if value is None else str(value).strip().lower()
        size = number(text)
        return _ON_OFF.get(text, text) if size is None else str(float(size))

    texts = {normal(one), normal(other)}
    return len(texts) == 1 or texts in ({"1", "1.0"}, {"0", "0.0"})


@dataclass(frozen=True)
class Change:
    """A variable of the running server that is not what it is to be.

    ``variable`` None: an option that shows in no variable.
    """

    name: str
    variable: str | None
    now: str | None
    wanted: str | None


def variable_of(name: str, live: Mapping[str, str]) -> tuple[str | None, bool]:
    """Return (variable, whether the option means its opposite) of an option."""
    if name in live:
        return name, False
    found = re.fullmatch(r"(skip|disable|enable)_(.*)", name)
    if found and found.group(2) in live:
        return found.group(2), found.group(1) != "enable"
    return None, False


def differing(
    options: Mapping[str, str | None],
    before: Mapping[str, str | None],
    live: Mapping[str, str],
    would_be: Mapping[str, str],
    settled: frozenset[str] = frozenset(),
) -> list[Change]:
    """Return what to change on a running server.

    ``before`` and ``options`` are our file as it is and as it is to be, ``live`` the global
    variables, ``would_be`` what the server program makes of the new file, ``settled`` the
    variables that the running server took from our file as it is: whatever it made of a line
    that stays is right (a server rounds some sizes).
    """
    found = []
    for name in dict.fromkeys((*options, *before)):
        variable, opposite = variable_of(name, live)
        stays = name in options and name in before and options[name] == before[name]
        if variable is None:
            if not stays:
                found.append(Change(name, None, before.get(name), options.get(name)))
            continue
        target = would_be.get(variable)
        if name in options:
            own = options[name] if not opposite else ("ON" if same(options[name], "OFF") else "OFF")
            if same(live[variable], own) or (stays and variable in settled):
                continue
            target = own if target is None or opposite else target
        if target is not None and not same(live[variable], target):
            found.append(Change(name, variable, live[variable], target))
    return found


def assignment(change: Change) -> tuple[str, str | int | float]:
    """Return (variable, value) for SET GLOBAL: numbers as numbers, anything else as a text."""
    value = number(change.wanted)
    if value is not None:
        return change.variable or "", value
    text = str(change.wanted)
    return change.variable or "", {"true": "ON", "false": "OFF"}.get(text.lower(), text)


def reverse(change: Change) -> Change:
    """Return the change that undoes another."""
    return Change(change.name, change.variable, change.wanted, change.now)


def readable(change: Change) -> str:
    """Return a change as a message shows it."""
    return f"{change.name}: {change.now} -> {change.wanted}"


def drop_in(chosen: Mapping, announce: bool) -> str:
    """Return our drop-in of the service's unit.

    System tables are upgraded at each start because Debian's own attempt passes
    ``--version-check``, which fails while another version is announced. Neither that nor a failed
    computation keeps the server from starting.
    """
    lines = [
        HEADER.rstrip(),
        "# The server listens on addresses of its own, which may come late at boot.",
        "[Unit]",
        "Wants=network-online.target",
        "After=network-online.target",
        "",
        "[Service]",
        "Restart=on-failure",
        "RestartSec=5s",
    ]
    if announce:
        upgrade = chosen["upgrade_program"]
        lines += [
            f"ExecStartPre=-+{ANNOUNCE_PROGRAM} {chosen['program']} {VERSION_FILE}",
            f"ExecStartPost=-!{upgrade} --skip-version-check --silent",
        ]
    return "\n".join(lines) + "\n"


# A file that only root can write: whoever can write it can give the server any option.
VERSION_FILE = "/run/peat-server-version.cnf"
ANNOUNCE_PROGRAM = "/usr/local/lib/peat-server/announce-version"
ANNOUNCE_SCRIPT = r"""#!/bin/sh
# Run as root before each start of the server: writes the version to announce into an option file
# that the server reads. Computed each time, so it follows package upgrades.
# usage: announce-version SERVER-PROGRAM OPTION-FILE
set -eu
umask 022
version=$("$1" --no-defaults --version | sed -n 's/.* Ver \([0-9.]*\).*/\1/p')
[ -n "$version" ]
printf '[mysqld]\nversion = 5.5.5-%s-MariaDB\n' "$version" >"$2"
"""
KERNEL_FILE = "/etc/sysctl.d/60-peat-server.conf"


def drop_in_file(unit: str) -> str:
    """Return the path of our drop-in of a unit."""
    return f"/etc/systemd/system/{unit}.d/peat-server.conf"


def files(chosen: Mapping, options: Mapping[str, str | None], announce: bool) -> dict:
    """Return {path: text} of all files that make the server what it is to be; None is no file."""
    own, keepalive = split_kernel(options, chosen["flavour"])
    announce = announce and chosen["flavour"] == "mariadb"
    return {
        chosen["config_file"]: render(own, VERSION_FILE if announce else None),
        drop_in_file(chosen["unit"]): drop_in(chosen, announce),
        ANNOUNCE_PROGRAM: ANNOUNCE_SCRIPT if announce else None,
        KERNEL_FILE: (None if keepalive is None else f"{HEADER}net.ipv4.tcp_keepalive_time = {keepalive}\n"),
    }
