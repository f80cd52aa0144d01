#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One ZEO server with a storage for each project: configuration, users, unit, folders and the running server."""

from __future__ import annotations

DOCUMENTATION = r"""
module: zeo_config
short_description: One ZEO server with a storage for each project
description:
  - Reads the host, plans all storages at once, and applies the plan. What cannot be is refused with every reason,
    also in check mode, which is how a playbook asks before its first change.
  - ZEO's own programs read the new configuration before it replaces the old one. If the server does not start with
    it, the old files come back and the server runs with them.
  - The server restarts only where it must. It reads storages, settings, users and certificates once, so each of
    them takes a restart; clients connect again by themselves.
  - Folders of projects that are not in the list are reported and left alone.
options:
  projects:
    description: The ZEO projects of this host.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of project and storage.
        type: str
        required: true
      clients:
        description: Which generation of ZEO its clients speak.
        type: str
        choices: [peat2, current]
        required: true
      state:
        description:
          - C(frozen) is a storage that nobody can write to. C(absent) is not served, and removed once
            O(confirm_absent) names it.
        type: str
        choices: [present, frozen, absent]
        default: present
  platforms:
    description: For each generation and distribution release, C(packages) and C(python), or C(refused) with the reason.
    type: list
    elements: dict
    required: true
  python:
    description: An interpreter of Python 2.7 for the generation C(peat2) that the administrator provides.
    type: str
    default: ""
  users:
    description:
      - Passwords of everybody who may connect, by name, for the generation C(peat2). A password of None is not
        known yet, in check mode.
    type: dict
    default: {}
  port:
    description: Port of the server.
    type: int
    required: true
  data_dir:
    description: Folder of the projects' folders.
    type: str
    required: true
  project_dirs:
    description: Folders of projects that are elsewhere, by name.
    type: dict
    default: {}
  transaction_timeout:
    description: After how many seconds a commit that does not go on is given up.
    type: int
    required: true
  tls:
    description: Paths of certificate, key and authorities, for the generation C(current); empty for none.
    type: list
    elements: str
    default: []
  tls_issued:
    description: Whether files of O(tls) may be missing in check mode, because other tasks make them.
    type: bool
    default: false
  tls_changed:
    description: Whether what is in O(tls) is other than before. Tells check mode, which cannot see it.
    type: bool
    default: false
  confirm_absent:
    description: Names of projects with state C(absent) whose storages are saved and removed.
    type: list
    elements: str
    default: []
  backup_dir:
    description: Folder for what is saved before a removal.
    type: str
    required: true
  environment_changed:
    description: Whether the server's programs are other ones than it was started from.
    type: bool
    default: false
  environment_before:
    description: Folder of the environment that it returns to if it does not start with the new one.
    type: str
    default: ""
author: PEAT Server maintainers
"""

EXAMPLES = r"""
- zeo_config:
    projects: [{name: hewlsample, clients: current}]
    platforms: "{{ __zeo_platforms }}"
    port: 8090
    data_dir: /var/lib/zeo
    transaction_timeout: 120
    backup_dir: /var/backups/peat-server
"""

RETURN = r"""
generation:
  description: Which ZEO this host has, C(peat2) or C(current); None without projects.
  type: str
  returned: success
python:
  description: The interpreter of its environment.
  type: str
  returned: success
missing_packages:
  description: Packages to install first.
  type: list
  elements: str
  returned: success
wanted:
  description: Whether there is any storage to serve.
  type: bool
  returned: success
moves_from:
  description: The port that the running server leaves, None if it stays.
  type: int
  returned: success
restarted:
  description: Whether the server was restarted, or would be.
  type: bool
  returned: success
reasons:
  description: Why.
  type: list
  elements: str
  returned: success
steps:
  description: What is done, or would be, in words.
  type: list
  elements: str
  returned: success
removed:
  description: What of removed projects was saved, by name.
  type: dict
  returned: success
addresses:
  description: The addresses at which clients can reach the server; of a server without TLS, none.
  type: list
  elements: str
  returned: success
"""

import glob
import grp
import hashlib
import json
import os
import pwd
import re
import secrets
import shutil
import stat
import tarfile
import tempfile
import time
from dataclasses import dataclass, field, replace

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.peat import server_host, zeo

SERVICE = "zeo"
#: Mode, owner and group of a project's folder.
PRIVATE = (0o700, "zeo", "zeo")
#: What the role's other tasks leave to be started by cron, or by timers of systemd.
CRON = "/etc/cron.d/zeo-maintenance"
TIMERS = "/etc/systemd/system/timers.target.wants/zeo-maintenance@*.timer"
#: What there may be in the folder of a project; others belong to somebody else.
OURS = re.compile(r"(Data\.fs|blobs|before-|restoring|lost\+found).*")
# With a root object, which a client of a storage that it cannot write to would not make.
EMPTY_STORAGE = """
import os, sys
from ZODB import DB
from ZODB.FileStorage import FileStorage
os.umask(0o077)
DB(FileStorage(sys.argv[1], blob_dir=sys.argv[2])).close()
"""
READ_CONFIG = "import sys; from ZEO.runzeo import ZEOOptions; ZEOOptions().realize(['-C', sys.argv[1]])"


class HostError(Exception):
    """The host is not as it must be; the text says what to do."""


def text_of(path: str):
    """Return a file's text, None if there is none."""
    try:
        with open(path) as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None


def write(path: str, text, mode: int = 0o644, owner: str = "root", group: str = "root") -> None:
    """Replace a file in one step, never readable by more than it should be; text None removes it."""
    if text is None:
        if os.path.exists(path):
            os.remove(path)
        return
    handle, name = tempfile.mkstemp(dir=os.path.dirname(path))
    with os.fdopen(handle, "w") as file:
        file.write(text)
    shutil.chown(name, owner, group)
    os.chmod(name, mode)
    os.replace(name, path)


@dataclass(frozen=True)
class File:
    """A file as it is to be; text None is none."""

    text: str | None
    mode: int = 0o644
    owner: str = "root"
    group: str = "root"


def access(path: str) -> tuple[int, str, str]:
    """Return mode, owner and group of a file or folder; numbers for those without a name."""
    found = os.stat(path)
    names = []
    for look_up, number in ((pwd.getpwuid, found.st_uid), (grp.getgrgid, found.st_gid)):
        try:
            names.append(look_up(number)[0])
        except KeyError:
            names.append(str(number))
    return (stat.S_IMODE(found.st_mode), *names)


def file_of(path: str) -> File:
    """Return a file as it is."""
    text = text_of(path)
    return File(None) if text is None else File(text, *access(path))


class Host:
    """The questions to the host, and what is done to it."""

    def __init__(self, module: AnsibleModule) -> None:
        """Keep the way to run programs."""
        self.module = module
        self.systemd = os.path.isdir("/run/systemd/system")

    def run(self, *argv: str, ok: tuple[int, ...] = (0,)) -> tuple[int, str, str]:
        """Run a program; raise HostError with its own words for an unexpected exit code."""
        code, out, err = self.module.run_command(list(argv), environ_update={"LC_ALL": "C"}, cwd="/")
        if ok and code not in ok:
            raise HostError(f"`{' '.join(argv)}` ended with code {code}: {(err or out).strip()}")
        return code, out, err

    def run_as_zeo(self, *argv: str) -> None:
        """Run a program with the rights of the server."""
        self.run("runuser", "--user", "zeo", "--", *argv)

    def readable(self, path: str) -> bool:
        """Return whether the server could read a file; of one that has no user yet, nobody knows."""
        try:
            pwd.getpwnam("zeo")
        except KeyError:
            return True
        return self.run("runuser", "--user", "zeo", "--", "test", "-r", path, ok=())[0] == 0

    def missing(self, packages: list[str]) -> list[str]:
        """Return those of the packages that are not installed."""
        if not packages:
            return []
        asked = "--showformat=${Package} ${db:Status-Status}\n"
        out = self.run("dpkg-query", "--show", asked, *packages, ok=(0, 1))[1]
        there = {line.split()[0] for line in out.splitlines() if line.endswith(" installed")}
        return [package for package in packages if package not in there]

    def listeners(self, port: int) -> dict:
        """Return the command lines of the processes that listen on a port, by process id (0: unknown)."""
        inodes = set()
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            inodes |= {f"socket:[{x.inode}]" for x in server_host.listeners(text_of(table) or "") if x.port == port}
        found = {}
        for name in os.listdir("/proc"):
            if not name.isdigit() or not inodes:
                continue
            try:
                mine = {os.readlink(f"/proc/{name}/fd/{number}") for number in os.listdir(f"/proc/{name}/fd")}
                if mine & inodes:
                    found[int(name)] = (text_of(f"/proc/{name}/cmdline") or "").replace("\0", " ").strip()
            except OSError:
                continue  # ended meanwhile
        return found or ({0: "an unknown program"} if inodes else {})

    def addresses(self) -> list[str]:
        """Return the addresses by which other machines call this host."""
        interfaces = json.loads(self.run("ip", "-json", "address", "show")[1])
        return server_host.reachable(["*"], interfaces)

    def active(self) -> bool:
        """Return whether the init system knows the server as running."""
        if self.systemd:
            return self.run("systemctl", "is-active", "--quiet", SERVICE, ok=())[0] == 0
        return self.run("service", SERVICE, "status", ok=())[0] == 0

    def main_pid(self) -> int:
        """Return the process that systemd started."""
        out = self.run("systemctl", "show", "--property=MainPID", "--value", SERVICE)[1]
        return int(out.strip() or 0)

    def enabled(self) -> bool:
        """Return whether the server starts at boot."""
        if self.systemd:
            return self.run("systemctl", "is-enabled", "--quiet", SERVICE, ok=())[0] == 0
        return bool(glob.glob(f"/etc/rc[2-5].d/S??{SERVICE}"))

    def enable(self, wanted: bool) -> None:
        """Have the server start at boot or not."""
        if self.systemd:
            self.run("systemctl", "enable" if wanted else "disable", "--quiet", SERVICE)
            return
        # Makes the links if there are none, and otherwise leaves them as they are.
        self.run("update-rc.d", SERVICE, "defaults")
        self.run("update-rc.d", SERVICE, "enable" if wanted else "disable")

    def timers(self) -> list[str]:
        """Return what systemd starts for the storages by itself."""
        return sorted(os.path.basename(path) for path in glob.glob(TIMERS)) if self.systemd else []

    def restart(self) -> None:
        """Stop the server and start it; HostError with the end of the log if it does not come up."""
        if self.systemd:
            self.run("systemctl", "reset-failed", SERVICE, ok=())
        code, out, err = self.run("service", SERVICE, "restart", ok=())
        if code:
            # zdaemon's own words, several for each of its attempts, would crowd out why they failed.
            lines = (text_of(zeo.LOG) or "").splitlines()
            log = "\n".join([line for line in lines if line != "------" and " INFO root " not in line][-10:])
            said = ""
            if self.systemd:
                said = self.run("journalctl", "--unit", SERVICE, "--lines=15", "--no-pager", "--output=cat", ok=())[1]
                # It would go on trying with a configuration that is about to go.
                self.run("systemctl", "stop", SERVICE, ok=())
            else:
                # Under zdaemon nobody hears why a storage cannot be opened: open them all once more.
                self.run("service", SERVICE, "stop", ok=())
                trial = (f"{zeo.ENVIRONMENT}/bin/runzeo", "--test", "-C", zeo.CONFIG)
                said = "\n".join(self.run("runuser", "-u", "zeo", "--", *trial, ok=())[2].splitlines()[-15:])
            raise HostError(f"ZEO does not start: {(err or out).strip()}\n{said.strip()}\n{zeo.LOG}:\n{log}")

    def stop(self) -> None:
        """Stop the server."""
        self.run("service", SERVICE, "stop")


@dataclass
class Plan:
    """What is, what is to be, and what it takes."""

    generation: str | None
    python: str = ""
    missing: list = field(default_factory=list)
    served: tuple = ()
    absent: dict = field(default_factory=dict)
    removals: dict = field(default_factory=dict)
    #: Those that are missing, or are not for the server alone, and which it is.
    folders: dict = field(default_factory=dict)
    empty: list = field(default_factory=list)
    files: dict = field(default_factory=dict)
    before: dict = field(default_factory=dict)
    active: bool = False
    enabled: bool = False
    #: Those that a server without storages leaves.
    timers: list = field(default_factory=list)
    reasons: list = field(default_factory=list)
    moves_from: int | None = None
    removed: dict = field(default_factory=dict)
    #: Of this host, where they matter: in certificates.
    addresses: list = field(default_factory=list)

    @property
    def writes(self) -> dict:
        """Return the files that are not as they must be, be it their text, mode or owner."""
        return {path: file for path, file in self.files.items() if self.before[path] != file}

    @property
    def stops(self) -> bool:
        """Whether nothing is left to serve."""
        return not self.served and bool(self.active or self.enabled or self.timers)

    @property
    def enables(self) -> bool:
        """Whether the server has to be started at boot from now on."""
        return bool(self.served) and not self.enabled

    @property
    def changed(self) -> bool:
        """Whether anything is to be done."""
        return bool(self.writes or self.folders or self.reasons or self.stops or self.enables or self.removals)


# Reading and planning


def make_plan(module: AnsibleModule, host: Host) -> Plan:
    """Read the host and decide; raise for what cannot be."""
    params = module.params
    params["data_dir"] = params["data_dir"].rstrip("/")
    plan = Plan(generation=zeo.generation(params["projects"]))
    problems = []
    for step in (choose_platform, plan_storages, plan_files):
        try:
            step(module, host, plan)
        except zeo.ZeoError as error:
            problems += error.problems
    if problems:
        raise zeo.ZeoError(*problems)
    compare_running(module, host, plan)
    plan.addresses = host.addresses() if plan.served and params["tls"] else []
    return plan


def choose_platform(module: AnsibleModule, host: Host, plan: Plan) -> None:
    """Find the interpreter and the packages of the generation."""
    if plan.generation is None:
        return
    params = module.params
    own = params["python"] if plan.generation == zeo.PEAT2 else ""
    here = server_host.distribution(text_of("/etc/os-release") or "")
    system = " ".join(here).strip().title() or "an unknown system"
    known = [x for x in params["platforms"] if (x["distribution"], x["release"]) == here]
    chosen = next((x for x in known if x["generation"] == plan.generation), None)
    if chosen is None:
        supported = dict.fromkeys(f"{x['distribution'].title()} {x['release']}" for x in params["platforms"])
        raise zeo.ZeoError(f"this host runs {system}; ZEO is supported on {', '.join(supported)}")
    if chosen.get("refused") and not own:
        raise zeo.ZeoError(f"clients: {plan.generation} on {system}: {chosen['refused']}")
    plan.python = own or chosen["python"]
    plan.missing = host.missing(chosen["packages"])
    if own:
        # A program that is not there would end the module with words of Ansible's.
        if not os.path.isfile(own) or not os.access(own, os.X_OK):
            raise zeo.ZeoError(f"zeo_python: {own} is to be Python 2.7, but it is no program of this host")
        code, out, err = host.run(own, "-c", "import sys; print('%d.%d' % sys.version_info[:2])", ok=())
        if code or out.strip() != "2.7":
            found = f"it is Python {out.strip()}" if not code else (err or out).strip() or "it does not run"
            raise zeo.ZeoError(f"zeo_python: {own} is to be Python 2.7, but {found}")
    if plan.missing and not module.check_mode:
        raise HostError(f"install {', '.join(plan.missing)} first")


def plan_storages(module: AnsibleModule, host: Host, plan: Plan) -> None:
    """Find folders, and refuse those where data would be in the wrong place, or nowhere."""
    params = module.params
    layout = zeo.layout(params["projects"], params["data_dir"], params["project_dirs"])
    plan.served, plan.absent = layout.served, dict(layout.absent)
    everything = {**{x.name: x.folder for x in plan.served}, **plan.absent}
    zeo.check_folders({name: os.path.realpath(folder) for name, folder in everything.items()})
    problems = unmounted(everything, params["data_dir"])
    for name, path in zeo.storages_of(text_of(zeo.CONFIG)).items():
        if name in everything and not problems and path == f"{everything[name]}/Data.fs" and not os.path.exists(path):
            problems.append(
                f"{name} is served from {path}, and that is gone: is a file system not mounted? Bring the file back. "
                f"If the project is to begin anew, take it out of the list for one run"
            )
    problems += other_generation(plan)
    unconfirmed = [
        name for name, folder in plan.absent.items() if os.path.exists(folder) and name not in params["confirm_absent"]
    ]
    problems += [
        f"{name} is absent in the list, and {plan.absent[name]} has its data: to save it in {params['backup_dir']} and "
        f'remove it, run once with -e \'{{"peat_confirm_absent": ["{name}"]}}\''
        for name in unconfirmed
    ]
    if problems:
        raise zeo.ZeoError(*problems)
    plan.removals = {name: folder for name, folder in plan.absent.items() if os.path.exists(folder)}
    wanted = [folder for x in plan.served for folder in (x.folder, f"{x.folder}/blobs")]
    found = {folder: "open to others" if os.path.isdir(folder) else "missing" for folder in wanted}
    plan.folders = {folder: state for folder, state in found.items() if not private(folder)}
    plan.empty = [x for x in plan.served if x.read_only and not os.path.exists(f"{x.folder}/Data.fs")]
    report_unlisted(module, everything)


def private(folder: str) -> bool:
    """Return whether a folder is there and the server's alone, or has what is not the server's and is left as it is."""
    if not os.path.isdir(folder):
        return False
    blobs = os.path.basename(folder) == "blobs"
    return access(folder) == PRIVATE or not (blobs or all(OURS.fullmatch(name) for name in os.listdir(folder)))


def other_generation(plan: Plan) -> list:
    """Return a problem for each storage that a server of this generation could not read."""
    problems = []
    for storage in plan.served:
        try:
            with open(f"{storage.folder}/Data.fs", "rb") as file:
                clients = zeo.MAGIC.get(file.read(4))
        except (FileNotFoundError, NotADirectoryError):
            continue
        if clients not in (None, plan.generation):
            problems.append(
                f"{storage.folder}/Data.fs was written for clients: {clients}, and clients: {plan.generation} "
                f"cannot read it: leave {storage.name} as it was, or convert the project first"
            )
    return problems


def unmounted(folders: dict, data_dir: str) -> list:
    """Return a problem for each folder whose file system is missing."""
    mounted = zeo.fstab_points(text_of("/proc/self/mounts") or "")
    declared = zeo.fstab_points(text_of("/etc/fstab") or "")
    places = [data_dir, *folders.values()]
    return [
        f"{path} belongs to the file system {point} of /etc/fstab, which is not mounted: mount it first, or the data "
        "would go to the wrong disk"
        for path, point in dict.fromkeys(zeo.missing_mounts(places, declared, mounted))
    ]


def report_unlisted(module: AnsibleModule, known: dict) -> None:
    """Warn of storages in the data folder that no project of the list has."""
    data_dir = module.params["data_dir"]
    if not os.path.isdir(data_dir):
        return
    listed = set(known.values())
    for name in sorted(os.listdir(data_dir)):
        folder = f"{data_dir}/{name}"
        if folder not in listed and "." not in name and os.path.exists(f"{folder}/Data.fs"):
            module.warn(f"{folder} has the data of a project that is not in the list: it is kept, and not served")


def plan_files(module: AnsibleModule, host: Host, plan: Plan) -> None:
    """Decide the content of every file."""
    params = module.params
    problems = []
    if params["tls"] and plan.generation == zeo.PEAT2:
        problems.append(
            "ZEO 4.3.1, for clients: peat2, has no TLS: leave out zeo_tls, zeo_tls_certificate and what belongs to it"
        )
    if params["tls"] and len(params["tls"]) != 3:
        problems.append("TLS takes all of zeo_tls_certificate, zeo_tls_key and zeo_tls_ca")
    problems += zeo.tls_problems(params["tls"])
    if not 1 <= params["port"] <= 65535:
        problems.append(f"zeo_port is {params['port']}: choose one from 1024 to 65535")
    elif params["port"] < 1024:
        problems.append(f"zeo_port is {params['port']}, and only root may listen below 1024: choose a higher one")
    if params["transaction_timeout"] < 1:
        problems.append("zeo_transaction_timeout is to be at least 1: without a limit one client can stop all others")
    if plan.served:
        problems += in_the_way(host, params["port"])
    if problems:
        raise zeo.ZeoError(*problems)
    served = bool(plan.served)
    plan.files[zeo.CONFIG] = File(None)
    plan.files[zeo.USERS] = File(None)
    plan.files.update(dict.fromkeys(zeo.BESIDE, File(None)))
    plan.files.update({} if served else {CRON: File(None)})
    tls = params["tls"]
    if served:
        content = tls_content(host, params, module.check_mode)
        if tls:
            own = text_of(zeo.MAINTENANCE_CERTIFICATE) or maintenance_certificate(host)
            plan.files[zeo.MAINTENANCE_CERTIFICATE] = File(own, 0o600)
            trusted = f"{text_of(tls[2]) or ''}\n{own[own.index('-----BEGIN CERTIFICATE') :]}"
            plan.files[zeo.AUTHORITIES] = File(trusted, 0o640, "root", "zeo")
        server = zeo.Server(
            plan.generation,
            plan.served,
            params["port"],
            params["transaction_timeout"],
            (*tls[:2], zeo.AUTHORITIES) if tls else (),
            content,
        )
        plan.files[zeo.CONFIG] = File(zeo.config(server), 0o640, "root", "zeo")
        if plan.generation == zeo.PEAT2:
            password = text_of(zeo.MAINTENANCE_PASSWORD) or secrets.token_urlsafe(24) + "\n"
            # One that is not known yet is made in this run, so this text is never written.
            known = {name: value if value is not None else "" for name, value in params["users"].items()}
            known[zeo.MAINTENANCE_USER] = password.strip()
            plan.files[zeo.MAINTENANCE_PASSWORD] = File(password, 0o600)
            plan.files[zeo.USERS] = File(zeo.user_file(known), 0o600, "zeo", "zeo")
        if host.systemd:
            folders = list(dict.fromkeys([params["data_dir"], *(x.folder for x in plan.served)]))
            plan.files[zeo.UNIT] = File(zeo.unit(folders, params["port"]))
    plan.before = {path: file_of(path) for path in plan.files}


def maintenance_certificate(host: Host) -> str:
    """Return a new key and its certificate, signed by itself."""
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 36500 -subj /CN=zeo-maintenance"
    return host.run("openssl", *words.split(), "-keyout", "-", "-out", "-")[1]


def in_the_way(host: Host, port: int) -> list:
    """Return a problem for each process that would keep the server from its port."""
    problems = []
    for pid, line in host.listeners(port).items():
        if f"{zeo.ENVIRONMENT}/bin/runzeo" not in line:
            problems.append(
                f"port {port} is in use by another program, process {pid} ({line}): stop it or choose another zeo_port"
            )
        # The init script ends it by itself.
        elif host.systemd and pid != host.main_pid():
            problems.append(
                f"port {port} is in use by a ZEO server, process {pid}, that systemd did not start: "
                f"end it with `kill {pid}`"
            )
    return problems


def tls_content(host: Host, params: dict, check_mode: bool) -> str:
    """Return what identifies the certificates' content; raise ZeoError for those that the server could not read."""
    digest, problems = hashlib.sha256(), []
    if check_mode and params["tls_changed"]:
        return "not there yet"
    for path in params["tls"]:
        if os.path.isdir(path):
            problems.append(f"{path} is a folder: zeo_tls_ca takes one file with the authorities")
        elif not os.path.exists(path):
            # Those of the lab's own authority have not been made where this is foretold.
            if not (check_mode and params["tls_issued"]):
                problems.append(f"{path} is missing: it is one of zeo_tls_certificate, zeo_tls_key, zeo_tls_ca")
        elif not host.readable(path):
            # ZEO's own words name no file.
            problems.append(f"the user zeo cannot read {path}: give the file to its group, `chgrp zeo` and `chmod g+r`")
        else:
            with open(path, "rb") as file:
                digest.update(file.read())
    if problems:
        raise zeo.ZeoError(*problems)
    return digest.hexdigest() if params["tls"] else ""


def compare_running(module: AnsibleModule, host: Host, plan: Plan) -> None:
    """Complete the plan with what the running server needs."""
    plan.active, plan.enabled = host.active(), host.enabled()
    if not plan.served:
        plan.timers = host.timers()
        return
    before = plan.before[zeo.CONFIG].text
    old_port = zeo.port_of(before)
    if old_port not in (None, module.params["port"]) and host.listeners(old_port):
        plan.moves_from = old_port
    if not plan.active:
        plan.reasons = ["it does not run"]
        return
    plan.reasons = zeo.config_reasons(before, plan.files[zeo.CONFIG].text)
    plan.reasons += zeo.user_reasons(plan.before[zeo.USERS].text, plan.files[zeo.USERS].text)
    if module.params["environment_changed"]:
        plan.reasons.append("its programs are other ones")
    elif host.systemd and plan.before[zeo.UNIT].text != plan.files[zeo.UNIT].text and not plan.reasons:
        plan.reasons.append("its unit is another one")
    if not plan.reasons and os.path.exists(zeo.PENDING):
        plan.reasons = ["an earlier run did not come to its end"]


# Doing


def apply(module: AnsibleModule, host: Host, plan: Plan) -> None:
    """Do what the plan says, or put everything back and raise HostError."""
    os.makedirs(os.path.dirname(zeo.CONFIG), mode=0o755, exist_ok=True)
    if plan.served:
        make_folders(module, plan)
        known = {path: file for path, file in plan.writes.items() if path in zeo.BESIDE}
        put_files(host, known)
        try:
            try_config(host, plan)
        except HostError:
            put_files(host, before(plan, known))
            raise
        for storage in plan.empty:
            host.run_as_zeo(
                f"{zeo.ENVIRONMENT}/bin/python",
                "-c",
                EMPTY_STORAGE,
                f"{storage.folder}/Data.fs",
                f"{storage.folder}/blobs",
            )
    elif plan.stops:
        if plan.timers:
            host.run("systemctl", "disable", "--now", "--quiet", *plan.timers)
        if plan.enabled:
            host.enable(False)
        if plan.active:
            host.stop()
    if plan.reasons:
        write(zeo.PENDING, "")
    put_files(host, plan.writes)
    if plan.reasons:
        try:
            host.restart()
        except HostError as error:
            raise HostError(f"{error}\n{put_back(module, host, plan)}") from error
    if plan.enables:
        host.enable(True)
    write(zeo.PENDING, None)
    for name, folder in plan.removals.items():
        plan.removed[name] = save_and_remove(module.params["backup_dir"], name, folder)


def make_folders(module: AnsibleModule, plan: Plan) -> None:
    """Make the folders that are missing; only the projects' own belong to the server."""
    ids = pwd.getpwnam("zeo")
    os.umask(0o022)
    for path in (module.params["data_dir"], *(os.path.dirname(x.folder) for x in plan.served)):
        os.makedirs(path, exist_ok=True)
    missing = [(path, 0o750) for path in ("/run/zeo", "/var/log/zeo") if not os.path.isdir(path)]
    for path, mode in (*missing, *((folder, PRIVATE[0]) for folder in plan.folders)):
        os.makedirs(path, mode, exist_ok=True)
        os.chown(path, ids.pw_uid, ids.pw_gid)
        os.chmod(path, mode)


def try_config(host: Host, plan: Plan) -> None:
    """Have ZEO's own programs read the configuration, with the server's rights, before it takes a place."""
    candidate = f"{zeo.CONFIG}.new"
    file = plan.files[zeo.CONFIG]
    write(candidate, file.text, file.mode, file.owner, file.group)
    try:
        host.run_as_zeo(f"{zeo.ENVIRONMENT}/bin/zeoctl", "-C", candidate, "show")
        host.run_as_zeo(f"{zeo.ENVIRONMENT}/bin/python", "-c", READ_CONFIG, candidate)
    except HostError as error:
        words = "\n".join(str(error).splitlines()[-2:])
        raise HostError(f"ZEO refuses the new configuration; the server was left as it was.\n{words}") from error
    finally:
        write(candidate, None)


def put_files(host: Host, files: dict) -> None:
    """Write files, and have systemd read its own again."""
    for path, file in files.items():
        write(path, file.text, file.mode, file.owner, file.group)
    if zeo.UNIT in files:
        host.run("systemctl", "daemon-reload")


def before(plan: Plan, files: dict) -> dict:
    """Return files as they were."""
    return {path: File(plan.before[path].text, file.mode, file.owner, file.group) for path, file in files.items()}


def put_back(module: AnsibleModule, host: Host, plan: Plan) -> str:
    """Restore the files and the environment that were before; return what came of it."""
    environment = module.params["environment_before"]
    if module.params["environment_changed"] and os.path.isdir(environment):
        zeo.link(environment)
    put_files(host, before(plan, plan.writes))
    if not plan.active:
        return "The files of before are in place again; the server does not run, as before."
    try:
        host.restart()
    except HostError:
        return "The files of before are in place again, but the server does not start with them either."
    write(zeo.PENDING, None)
    return "The files of before are in place again and the server runs with them."


def save_and_remove(backup_dir: str, name: str, folder: str) -> str:
    """Save a storage that is not served any more, read what was saved, and only then remove it."""
    os.makedirs(backup_dir, mode=0o700, exist_ok=True)
    path = os.path.join(backup_dir, f"{name}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.zeo.tar.gz")
    os.umask(0o077)
    with tarfile.open(f"{path}.part", "w:gz") as archive:
        archive.add(folder, arcname=name)
    saved = {}
    with tarfile.open(f"{path}.part") as archive:
        for member in archive:
            if member.isreg():
                saved[member.name] = member.size
            # A pack leaves files with two names.
            elif member.islnk():
                saved[member.name] = saved[member.linkname]
    there = {}
    for where, _folders, files in os.walk(folder):
        for file in files:
            full = os.path.join(where, file)
            if not os.path.islink(full):
                there[os.path.join(name, os.path.relpath(full, folder))] = os.lstat(full).st_size
    if there != saved:
        raise HostError(f"{path}.part is not what {folder} has: does something still write there? Nothing was removed")
    os.replace(f"{path}.part", path)
    if os.path.ismount(folder):
        for entry in os.listdir(folder):
            full = os.path.join(folder, entry)
            shutil.rmtree(full) if os.path.isdir(full) and not os.path.islink(full) else os.remove(full)
    else:
        shutil.rmtree(folder)
    return path


# Reporting


def result_of(plan: Plan) -> dict:
    """Return the module's result."""
    diff, doings = [], []
    for path, file in plan.writes.items():
        before = plan.before[path]
        texts = [before.text or "", file.text or ""]
        if path == zeo.USERS:
            texts = [zeo.without_digests(text) for text in texts]
        elif path in (zeo.MAINTENANCE_PASSWORD, zeo.MAINTENANCE_CERTIFICATE, zeo.AUTHORITIES):
            texts = ["", "(a secret made on this host)\n"]
        if before.text != file.text:
            diff.append({"before_header": path, "after_header": path, "before": texts[0], "after": texts[1]})
        if None not in (before.text, file.text) and before != replace(file, text=before.text):
            doings.append(tuple(f"{path}: mode {x.mode:04o} of {x.owner}:{x.group}" for x in (before, file)))
    doings += [(f"{folder}: {state}", f"{folder}: folder of the server") for folder, state in plan.folders.items()]
    state = "running" if plan.active else "stopped"
    if plan.reasons:
        doings.append((state, f"restarted, because {'; '.join(plan.reasons)}"))
    if plan.stops and (plan.active or plan.enabled):
        doings.append((state, "stopped, because no ZEO project is left"))
    doings += [(f"{timer}: on", f"{timer}: off") for timer in plan.timers]
    if plan.enables:
        doings.append(("not started at boot", "started at boot"))
    doings += [(f"{folder}: data of {name}", f"{folder}: saved and removed") for name, folder in plan.removals.items()]
    rewritten = [path for path, file in plan.writes.items() if plan.before[path].text != file.text]
    steps = [f"write {path}" for path in rewritten] + [after for _before, after in doings]
    if doings:
        before, after = ("\n".join(side) + "\n" for side in zip(*doings))
        diff.append({"before_header": "zeo", "after_header": "zeo", "before": before, "after": after})
    return {
        "changed": plan.changed,
        "diff": diff,
        "generation": plan.generation,
        "python": plan.python,
        "missing_packages": plan.missing,
        "wanted": bool(plan.served),
        "moves_from": plan.moves_from,
        "restarted": bool(plan.reasons),
        "reasons": plan.reasons,
        "steps": steps,
        "removed": plan.removed,
        "addresses": plan.addresses,
        "msg": f"ZEO restarted: {'; '.join(plan.reasons)}" if plan.reasons else "",
    }


def main() -> None:
    """Read, plan, apply unless in check mode, report."""
    project = {
        "name": {"type": "str", "required": True},
        "clients": {"type": "str", "choices": ["peat2", "current"], "required": True},
        "state": {"type": "str", "choices": ["present", "frozen", "absent"], "default": "present"},
    }
    module = AnsibleModule(
        argument_spec={
            "projects": {"type": "list", "elements": "dict", "default": [], "options": project},
            "platforms": {"type": "list", "elements": "dict", "required": True},
            "python": {"type": "str", "default": ""},
            "users": {"type": "dict", "default": {}, "no_log": True},
            "port": {"type": "int", "required": True},
            "data_dir": {"type": "str", "required": True},
            "project_dirs": {"type": "dict", "default": {}},
            "transaction_timeout": {"type": "int", "required": True},
            "tls": {"type": "list", "elements": "str", "default": []},
            "tls_issued": {"type": "bool", "default": False},
            "tls_changed": {"type": "bool", "default": False},
            "confirm_absent": {"type": "list", "elements": "str", "default": []},
            "backup_dir": {"type": "str", "required": True},
            "environment_changed": {"type": "bool", "default": False},
            "environment_before": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    host = Host(module)
    try:
        if os.geteuid() != 0:
            raise HostError("this takes root: set ansible_become, or ansible_user to root")
        plan = make_plan(module, host)
        if plan.changed and not module.check_mode:
            apply(module, host, plan)
        module.exit_json(**result_of(plan))
    except zeo.ZeoError as error:
        module.fail_json(msg=f"ZEO cannot be on this host as the variables say:\n{error}", problems=error.problems)
    except (HostError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
