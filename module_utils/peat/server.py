"""From what a MySQL or MariaDB server is to what it is to be: its files, and the way there. Pure.

How the programs word their answers was measured with MariaDB 10.11.18 and 11.8.6 and MySQL 9.7.4.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .optionfiles import Setting, line_of, normal_name
from .server_host import ServerError
from .server_options import number, same, split_kernel

# Our files

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


# What the packages' own files let the server write to.
_WRITABLE = {
    "mariadb": ("/run/mysqld", "/var/lib/mysql", "/var/log/mysql"),
    "mysql": ("/run/mysqld", "/var/lib/mysql", "/var/lib/mysql-files", "/var/lib/mysql-keyring", "/var/log/mysql"),
}
# Debian's helpers of a start run as root; the server itself, as mysql, has none of these but the first.
_CAPABILITIES = {
    "mariadb": "CAP_IPC_LOCK CAP_DAC_OVERRIDE",
    "mysql": "CAP_IPC_LOCK CAP_DAC_OVERRIDE CAP_CHOWN CAP_FOWNER CAP_SETGID CAP_SETUID",
}
# Options that name a folder in which the server writes, and those that name a file.
_FOLDER_OPTIONS = (
    "datadir",
    "tmpdir",
    "slave_load_tmpdir",
    "replica_load_tmpdir",
    "innodb_data_home_dir",
    "innodb_log_group_home_dir",
    "innodb_undo_directory",
    "innodb_tmpdir",
    "innodb_temp_tablespaces_dir",
    "innodb_doublewrite_dir",
    "aria_log_dir_path",
    "secure_file_priv",
)
_FILE_OPTIONS = (
    "general_log_file",
    "slow_query_log_file",
    "log_error",
    "log_bin",
    "relay_log",
    "pid_file",
    "socket",
)


def writable(flavour: str, would_be: Mapping[str, str]) -> list[str]:
    """Return the folders that the server writes to, from the values of its options.

    ``/tmp`` and ``/var/tmp`` are not among them: the server has its own.
    """
    folders = set()
    for name in _FOLDER_OPTIONS:
        folders.update(would_be.get(name, "").split(":"))
    folders.update(os.path.dirname(would_be.get(name, "")) for name in _FILE_OPTIONS)
    found = list(_WRITABLE[flavour])
    for folder in sorted(_canonical(folder) for folder in folders if folder.startswith("/")):
        if not any(os.path.commonpath((folder, known)) == known for known in (*found, "/tmp", "/var/tmp")):
            found.append(folder)
    return found


def sandbox(flavour: str, folders: Iterable[str]) -> list[str]:
    """Return the lines of a unit that leave the server only what it needs.

    A process that took the server over could write to its own data and talk over the network, and
    nothing else. Missing folders are no error (``-``). MemoryDenyWriteExecute is left out: it takes
    the compiler of regular expressions from the server. The PAM plugin, whose helper is setuid, does
    not work with NoNewPrivileges.
    """
    return [
        "# All it may write to, and the least of the kernel.",
        "ProtectSystem=strict",
        *(f"ReadWritePaths=-{_quoted(folder)}" for folder in folders),
        "ProtectHome=yes" if not any(map(_in_a_home, folders)) else "ProtectHome=no",
        "PrivateTmp=yes",
        "PrivateDevices=yes",
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        f"CapabilityBoundingSet={_CAPABILITIES[flavour]}",
        "ProtectClock=yes",
        "ProtectControlGroups=yes",
        "ProtectHostname=yes",
        "ProtectKernelLogs=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelTunables=yes",
        "ProtectProc=invisible",
        "LockPersonality=yes",
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6",
        "RestrictNamespaces=yes",
        "RestrictRealtime=yes",
        "RestrictSUIDSGID=yes",
        "SystemCallArchitectures=native",
        "SystemCallFilter=@system-service",
        "SystemCallErrorNumber=EPERM",
    ]


def _canonical(folder: str) -> str:
    """Return a folder without ``..`` and the like; ``/var/run`` is another name of ``/run``."""
    folder = os.path.normpath(folder)
    return folder[4:] if folder.startswith("/var/run/") else folder


def _quoted(folder: str) -> str:
    """Return a path as a unit file takes it: percent signs are specifiers there, control characters have codes."""
    text = folder.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    text = "".join(f"\\x{ord(c):02x}" if ord(c) < 32 or c == "\x7f" else c for c in text)
    return f'"{text}"' if re.search(r"[\s\"\\']", text) else text


def _in_a_home(folder: str) -> bool:
    return folder.startswith(("/home/", "/root/", "/run/user/"))


def drop_in(chosen: Mapping, announce: bool, folders: Iterable[str] | None) -> str:
    """Return our drop-in of the service's unit; ``folders`` None leaves the sandbox out.

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
    if folders is not None:
        lines += sandbox(chosen["flavour"], folders)
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


def files(
    chosen: Mapping, options: Mapping[str, str | None], announce: bool, folders: Iterable[str] | None = None
) -> dict:
    """Return {path: text} of all files that make the server what it is to be; None is no file.

    ``folders`` are those that the sandboxed server writes to; None leaves the sandbox out.
    """
    own, keepalive = split_kernel(options, chosen["flavour"])
    announce = announce and chosen["flavour"] == "mariadb"
    return {
        chosen["config_file"]: render(own, VERSION_FILE if announce else None),
        drop_in_file(chosen["unit"]): drop_in(chosen, announce, folders),
        ANNOUNCE_PROGRAM: ANNOUNCE_SCRIPT if announce else None,
        KERNEL_FILE: (None if keepalive is None else f"{HEADER}net.ipv4.tcp_keepalive_time = {keepalive}\n"),
    }


# Files of others


@dataclass(frozen=True)
class Foreign:
    """What other option files say about options that we set."""

    overriding: tuple[Setting, ...]
    replaced: tuple[Setting, ...]


# Where another file must not win.
ESSENTIAL = frozenset(
    {"port", "bind_address", "skip_name_resolve", "version", "ssl_ca", "ssl_cert", "ssl_key", "tls_version"}
)


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


def check_persisted(options: Mapping[str, str | None], persisted: Mapping[str, str]) -> None:
    """Refuse what MySQL remembers otherwise than our file says: at the next start it would win."""
    live = dict.fromkeys(persisted, "")
    problems = []
    for name, value in options.items():
        variable, opposite = variable_of(name, live)
        wanted = "OFF" if opposite else value
        if variable and not same(persisted[variable], wanted):
            problems.append(
                f"{variable} = {persisted[variable]} was set with SET PERSIST and would win at the next start:"
                f" run RESET PERSIST {variable}"
            )
    if problems:
        raise ServerError(*problems)


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
