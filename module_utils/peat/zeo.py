"""What a ZEO server is to be: its configuration, its unit, its users, and what a change of them takes."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

CONFIG = "/etc/zeo/zeo.conf"
USERS = "/etc/zeo/users"
MAINTENANCE_PASSWORD = "/etc/zeo/maintenance.password"
MAINTENANCE_CERTIFICATE = "/etc/zeo/maintenance.pem"
#: The authorities that were named, and the maintenance certificate, which nobody but root has.
AUTHORITIES = "/etc/zeo/authorities.pem"
#: What a configuration that is tried has to find.
BESIDE = (MAINTENANCE_CERTIFICATE, AUTHORITIES)
UNIT = "/etc/systemd/system/zeo.service"
#: There while files on disk may be newer than the server that runs.
PENDING = "/etc/zeo/restart-pending"
#: A link to the environment in use; nobody has to know the name of that.
ENVIRONMENT = "/opt/zeo"
LOG = "/var/log/zeo/zeo.log"
#: With a name that no person can have.
MAINTENANCE_USER = "+maintenance"

PEAT2 = "peat2"
#: How the files of each generation begin.
MAGIC = {b"FS21": "peat2", b"FS30": "current"}
_STORAGE_NAME = re.compile(r"[a-z0-9_][a-z0-9_-]*")
_PATH = re.compile(r"/[A-Za-z0-9_./+-]*[A-Za-z0-9_+-]")


class ZeoError(Exception):
    """What was asked for cannot be; ``problems`` holds one text for each reason and remedy."""

    def __init__(self, *problems: str) -> None:
        """Keep the problems as a list; the text of the exception is all of them."""
        super().__init__("\n".join(f"- {problem}" for problem in problems))
        self.problems = list(problems)


@dataclass(frozen=True)
class Storage:
    """A project's storage; ``folder`` has its Data.fs and its blobs."""

    name: str
    folder: str
    read_only: bool


@dataclass(frozen=True)
class Server:
    """All that a configuration follows from."""

    generation: str
    storages: tuple[Storage, ...]
    port: int
    transaction_timeout: int
    #: Certificate, key and authorities, or nothing.
    tls: tuple[str, ...] = ()
    #: What identifies the content of those files: renewed, they are read at a restart only.
    tls_content: str = ""


@dataclass(frozen=True)
class Layout:
    """Which folders belong to which projects."""

    served: tuple[Storage, ...]
    #: Folders of projects with state absent, by name.
    absent: Mapping[str, str] = field(default_factory=dict)


# What is wanted


def generation(projects: Iterable[Mapping[str, Any]]) -> str | None:
    """Return the generation of all projects, None of none; raise ZeoError where they differ."""
    by_clients: dict[str, list[str]] = {}
    for project in projects:
        by_clients.setdefault(project["clients"], []).append(project["name"])
    if len(by_clients) > 1:
        listed = ", ".join(f"clients: {clients} ({', '.join(names)})" for clients, names in by_clients.items())
        raise ZeoError(
            f"the ZEO projects of one host are of different generations: {listed}. No ZEO server speaks with both, "
            "and they cannot read each other's files: give each generation a host of its own"
        )
    return next(iter(by_clients), None)


def layout(projects: Iterable[Mapping[str, Any]], data_dir: str, folders: Mapping[str, str]) -> Layout:
    """Return where each project is; raise ZeoError for folders that cannot be."""
    problems = [
        f"{name} is {path!r}: write an absolute path of letters, digits and _ . - + only"
        for name, path in (
            ("zeo_data_dir", data_dir),
            *((f"zeo_project_dirs: {key}", value) for key, value in folders.items()),
        )
        if not _PATH.fullmatch(str(path).rstrip("/")) or ".." in str(path).split("/")
    ]
    names = {project["name"] for project in projects}
    problems += [
        f"zeo_projects names {name!r}: the name of a storage has small letters, digits and _ - only"
        for name in names
        if not _STORAGE_NAME.fullmatch(name)
    ]
    problems += [
        f"zeo_project_dirs names {name!r}, which is no ZEO project of this host: correct or remove it"
        for name in folders
        if name not in names
    ]
    if problems:
        raise ZeoError(*problems)
    where = {name: (folders.get(name) or f"{data_dir.rstrip('/')}/{name}").rstrip("/") for name in names}
    return Layout(
        served=tuple(
            Storage(project["name"], where[project["name"]], project["state"] == "frozen")
            for project in projects
            if project["state"] != "absent"
        ),
        absent={project["name"]: where[project["name"]] for project in projects if project["state"] == "absent"},
    )


def tls_problems(paths: Iterable[str]) -> list[str]:
    """Return what is wrong with the paths of certificate, key and authorities."""
    variables = ("zeo_tls_certificate", "zeo_tls_key", "zeo_tls_ca")
    return [
        f"{variable} is {path!r}: write an absolute path of letters, digits and _ . - + only"
        for variable, path in zip(variables, paths)
        if not _PATH.fullmatch(path)
    ]


def check_folders(real: Mapping[str, str]) -> None:
    """Raise ZeoError where two projects would write to one place. ``real`` are real paths by project."""
    problems = []
    names = sorted(real)
    for index, name in enumerate(names):
        for other in names[index + 1 :]:
            one, two = real[name], real[other]
            if one == two:
                problems.append(
                    f"the projects {name!r} and {other!r} have one folder, {one}: they would destroy each other's "
                    "data, give each its own"
                )
            elif one.startswith(two + "/") or two.startswith(one + "/"):
                problems.append(
                    f"the folders of the projects {name!r} ({one}) and {other!r} ({two}) are in each other: "
                    "give each its own"
                )
    if problems:
        raise ZeoError(*problems)


def missing_mounts(paths: Iterable[str], declared: Iterable[str], mounted: Iterable[str]) -> list[tuple[str, str]]:
    """Return (path, mount point) where a path is on a declared file system that is not mounted."""
    there = set(mounted)
    found = []
    for path in paths:
        above = [point for point in declared if point != "/" and (path + "/").startswith(point.rstrip("/") + "/")]
        found += [(path, point) for point in above if point not in there]
    return found


def fstab_points(fstab: str) -> list[str]:
    """Return the mount points that a file like /etc/fstab or /proc/self/mounts names."""
    points = []
    for line in fstab.splitlines():
        words = line.split()
        if len(words) >= 3 and not words[0].startswith("#") and words[1].startswith("/"):
            points.append(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal.group(1), 8)), words[1]))
    return points


# Files


def config(server: Server) -> str:
    """Return zeo.conf."""
    lines = ["# Written by Ansible (role zeo); the next run replaces changes made here.", "<zeo>"]
    lines += [
        f"  address {server.port}",
        "  # Without it, a client that stops in the middle of a commit keeps all others waiting.",
        f"  transaction-timeout {server.transaction_timeout}",
        "  pid-filename /run/zeo/zeo.pid",
    ]
    if server.generation == PEAT2:
        # No realm: PEAT sends none, and the two have to be equal.
        lines += ["  authentication-protocol digest", f"  authentication-database {USERS}"]
    if server.tls:
        certificate, key, authorities = server.tls
        lines += [
            f"  # The content of these files: {server.tls_content}",
            "  <ssl>",
            f"    certificate {certificate}",
            f"    key {key}",
            f"    authenticate {authorities}",
            "  </ssl>",
        ]
    lines.append("</zeo>")
    for storage in server.storages:
        lines += ["", f"<filestorage {storage.name}>", f"  path {storage.folder}/Data.fs"]
        lines += [f"  blob-dir {storage.folder}/blobs"]
        lines += ["  read-only true"] if storage.read_only else []
        lines += ["</filestorage>"]
    lines += [
        "",
        "<eventlog>",
        "  level info",
        "  <logfile>",
        f"    path {LOG}",
        "  </logfile>",
        "</eventlog>",
        "",
        "# For zeoctl and the init script of hosts without systemd.",
        "<runner>",
        f"  program {ENVIRONMENT}/bin/runzeo -C {CONFIG}",
        "  socket-name /run/zeo/zdaemon.sock",
        "  daemon true",
        "  forever false",
        "  backoff-limit 10",
        "  exit-codes 0, 2",
        "  directory /",
        "  user zeo",
        "  umask 077",
        "  default-to-interactive false",
        "  logfile /var/log/zeo/zdaemon.log",
        "</runner>",
        "",
    ]
    return "\n".join(lines)


def unit(folders: Iterable[str], port: int) -> str:
    """Return the unit for systemd, which runs the server itself, without zdaemon."""
    paths = " ".join(folders)
    at_home = any(path.startswith(("/home/", "/root/")) for path in paths.split())
    return f"""\
# Written by Ansible (role zeo); the next run replaces changes made here.
[Unit]
Description=ZEO server of the PEAT projects
Wants=network-online.target
After=network-online.target
RequiresMountsFor={paths}
StartLimitIntervalSec=300
StartLimitBurst=5

[Service]
Type=exec
User=zeo
Group=zeo
ExecStart={ENVIRONMENT}/bin/runzeo -C {CONFIG}
# Started means that clients can connect. After a crash ZEO may have to read a large storage first.
ExecStartPost={ENVIRONMENT}/bin/zeo-wait $MAINPID {port}
TimeoutStartSec=15min
# Opens the log file again.
ExecReload=/bin/kill -USR2 $MAINPID
Restart=on-failure
RestartSec=2
TimeoutStopSec=60
LimitNOFILE=65536
UMask=0077
RuntimeDirectory=zeo
RuntimeDirectoryMode=0750
# zeoctl reads zeo.conf also while the server is stopped, and that takes this folder.
RuntimeDirectoryPreserve=yes
LogsDirectory=zeo
LogsDirectoryMode=0750
ReadWritePaths={paths}
ProtectSystem=strict
ProtectHome={"read-only" if at_home else "yes"}
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectHostname=yes
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RemoveIPC=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources

[Install]
WantedBy=multi-user.target
"""


def user_file(passwords: Mapping[str, str]) -> str:
    """Return the digest users, as zeopasswd would write them for clients that name no realm."""
    return "".join(f"{name}: {digest(name, passwords[name])}\n" for name in sorted(passwords))


def digest(name: str, password: str) -> str:
    """Return what ZEO 4 keeps of a password, without a realm."""
    return hashlib.sha1(f"{name}:None:{password}".encode()).hexdigest()


def parse_users(text: str | None) -> dict[str, str]:
    """Return the digests of a user file by name."""
    pairs = (line.split(":", 1) for line in (text or "").splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def link(folder: str, path: str = ENVIRONMENT) -> None:
    """Lead the link to an environment, in one step."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    fresh = f"{path}.new"
    if os.path.lexists(fresh):
        os.remove(fresh)
    os.symlink(folder, fresh)
    os.replace(fresh, path)


# What a change takes


def storages_of(text: str | None) -> dict[str, str]:
    """Return the path of each storage's data in a zeo.conf."""
    found = re.findall(r"^<filestorage (\S+)>\n  path (\S+)$", text or "", re.MULTILINE)
    return dict(found)


def port_of(text: str | None) -> int | None:
    """Return the port that a zeo.conf names."""
    found = re.search(r"^  address (?:\S+:)?(\d+)$", text or "", re.MULTILINE)
    return int(found.group(1)) if found else None


def _of_server(text: str) -> list[str]:
    """Return the lines that the server reads: no remarks but the one on certificates, nothing for zdaemon."""
    text = re.sub(r"^<runner>$.*?^</runner>$", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and (not line.startswith("#") or line.startswith("# The content of"))]


def config_reasons(before: str | None, after: str) -> list[str]:
    """Return why a running server has to restart for another zeo.conf; nothing where it need not."""
    if before is None:
        return ["it has no configuration"]
    old, new = storages_of(before), storages_of(after)
    reasons = [f"storage {name} is new" for name in new if name not in old]
    reasons += [f"storage {name} is no longer served" for name in old if name not in new]
    if port_of(before) != port_of(after):
        reasons.append(f"port {port_of(before)} -> {port_of(after)}")
    for name in new:
        if name in old and _section(before, name) != _section(after, name):
            reasons.append(f"storage {name} has other settings")
    if _settings(before) != _settings(after):
        reasons.append("it has other settings")
    return reasons


def _section(text: str, name: str) -> str:
    found = re.search(rf"^<filestorage {re.escape(name)}>$.*?^</filestorage>$", text, re.MULTILINE | re.DOTALL)
    return found.group() if found else ""


def _settings(text: str) -> list[str]:
    """Return what the server reads besides its port and its storages."""
    text = re.sub(r"^<filestorage (\S+)>$.*?^</filestorage>$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [line for line in _of_server(text) if not line.startswith("address ")]


def user_reasons(before: str | None, after: str | None) -> list[str]:
    """Return what changed in the list of users, which a server reads once. No digests."""
    if before == after:
        return []
    old, new = parse_users(before), parse_users(after)
    reasons = [f"user {name} is new" for name in new if name not in old]
    reasons += [f"user {name} is removed" for name in old if name not in new]
    reasons += [f"user {name} has another password" for name in new if name in old and old[name] != new[name]]
    return reasons or ["the list of users"]


def without_digests(text: str | None) -> str:
    """Return a user file as a diff may show it."""
    return "".join(f"{name}: (digest)\n" for name in parse_users(text))
