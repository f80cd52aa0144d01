"""The options of a PEAT server's MySQL or MariaDB: which are refused, which are computed.

The tables were measured with MariaDB 10.11.18 and 11.8.6 and MySQL 9.7.4 as Debian packages them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .optionfiles import Setting, normal_name
from .server_host import ServerError, numbers

MIB = 1024 * 1024
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
    **dict.fromkeys(("ssl_ca", "ssl_cert", "ssl_key"), "set tls_certificate, tls_key and tls_authority"),
}


def remedy(name: str) -> str:
    """Return how an administrator gets another value of an option."""
    return _OWNED.get(name, "set it in mysql_settings")


_ONLY_MARIADB = "only MariaDB has it"
_ONLY_MYSQL = "only MySQL has it"
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

# Options of which less than the lab needs loses work, or the defence against guessing.
_NOT_LOGGED = "failed logins would not be logged, and nobody who guesses passwords refused"
_LEAST = {
    "max_allowed_packet": (64 * MIB, "64M", "a 20 MB record fails with the server's own default of 16M"),
    "log_warnings": (2, "2", _NOT_LOGGED),
    "log_error_verbosity": (3, "3", _NOT_LOGGED),
}

# What an administrator chose before is kept where it is larger than what is computed: with less, records that are
# already stored could not be read, clients that connect today could not, or the log would not have what somebody wants.
_KEEP_LARGER = (
    "max_allowed_packet",
    "max_connections",
    "innodb_buffer_pool_size",
    "innodb_log_file_size",
    "innodb_redo_log_capacity",
    "log_warnings",
)

# What the older ones carry can be read by others.
TLS_VERSIONS = ("TLSv1.2", "TLSv1.3")

# The servers' own default; fewer connections than that help nobody.
_MAX_CONNECTIONS = 151
_KERNEL_KEEPALIVE = "tcp_keepalive_time"


def check_amounts(params: Mapping, memory_mb: int) -> None:
    """Refuse numbers of the role's variables that a host with this memory cannot mean."""
    problems = [
        f"mysql_{name}: {params[name]} is less than nothing: use 0 or more"
        for name in ("clients", "memory_mb", "data_mb")
        if params[name] < 0
    ]
    if params["memory_mb"] > memory_mb:
        problems.append(
            f"mysql_memory_mb: {params['memory_mb']} is more than the {memory_mb} of this host: use that or less"
        )
    if problems:
        raise ServerError(*problems)


def check_settings(settings: Mapping, flavour: str, version: str, memory_mb: int) -> None:
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
        elif isinstance(value, str) and not value.isprintable():
            problems.append(f"{where}: the value has a line break or a control character; write it in one line")
        stem = re.sub(r"^(skip|disable|enable)_", "", name)
        for owned in dict.fromkeys((name, stem)):
            if owned in _OWNED:
                problems.append(f"{where} is not for this mapping: {_OWNED[owned]}")
        since, advice = RETIRED[flavour].get(name, (None, ""))
        if since is not None and numbers(version) >= since:
            problems.append(f"{where} is not an option of {flavour} {version}: {advice}")
        if name == "innodb_buffer_pool_size" and (number(value) or 0) > memory_mb * MIB:
            problems.append(f"{where}: {value} is more than the {memory_mb}M of this host: use less")
        if name == "tls_version" and not set(str(value).split(",")) <= set(TLS_VERSIONS):
            problems.append(f"{where}: {value} is not safe or unknown: use {' or '.join(TLS_VERSIONS)}")
        least, spelled_least, reason = _LEAST.get(name, (0, "", ""))
        # What is left to the server's own default gets enough of all but this.
        enough = name != "log_error_verbosity" if value is None else (number(value) or 0) >= least
        if since is None and not enough:
            shown = "null" if value is None else value
            problems.append(f"{where}: {shown} is less than {spelled_least}: {reason}")
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
    tls_directory: str = ""


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
    # Whoever guesses passwords is refused by what the log says of failed logins, which are notes to MySQL.
    if wishes.flavour == "mysql":
        computed["log_error_verbosity"] = 3
    else:
        computed["log_warnings"] = 2
    if wishes.flavour == "mysql" and not {"log_bin", "server_id"} & set(others):
        # Costs 6 to 24 % of small commits and serves replication only.
        computed["disable_log_bin"] = None
    if wishes.tls_directory:
        computed["ssl_ca"] = f"{wishes.tls_directory}/ca.crt"
        computed["ssl_cert"] = f"{wishes.tls_directory}/server.crt"
        computed["ssl_key"] = f"{wishes.tls_directory}/server.key"
        computed["tls_version"] = ",".join(TLS_VERSIONS)
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


_ON_OFF = {"on": "1.0", "true": "1.0", "yes": "1.0", "off": "0.0", "false": "0.0", "no": "0.0"}


def same(one: str | None, other: str | None) -> bool:
    """Tell whether two spellings are one value to a server; None is "on"."""

    def normal(value):
        text = "on" if value is None else str(value).strip().lower()
        size = number(text)
        return _ON_OFF.get(text, text) if size is None else str(float(size))

    return normal(one) == normal(other)
