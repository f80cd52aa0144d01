#!/usr/bin/python
"""Ansible module: what a MySQL or MariaDB server of a lab is to be, and the way there."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mysql_config
short_description: Configure the MySQL or MariaDB server of a PEAT host
description:
  - Computes the server's options from the host and the lab, writes them into one option file of
    its own, and makes the running server match.
  - What cannot be is refused before anything is written. The server program itself tries the whole
    configuration first. Variables that can change in the running server are set there, also where
    somebody set them back; for others the server restarts once. If it does not come up, the files
    are put back and the old server is started.
  - On a host without the packages, check mode plans with the version that would be installed.
options:
  platforms:
    description: What the distributions have, the preferred flavour of a release first.
    type: list
    elements: dict
    required: true
  flavour:
    description: The server wanted; V(auto) is the installed or else the preferred one.
    type: str
    choices: [auto, mariadb, mysql]
    default: auto
  port:
    description: Port that clients use.
    type: int
    required: true
  bind_addresses:
    description: Addresses to listen on; empty means the host's own.
    type: list
    elements: str
    default: []
  clients:
    description: Number of PEAT clients that may be connected at once.
    type: int
    default: 1
  memory_mb:
    description: Memory to plan with in MiB; 0 is what the host has.
    type: int
    default: 0
  data_mb:
    description: Expected size of all databases in MiB; 0 is unknown.
    type: int
    default: 0
  settings:
    description: Further options or other values; C(null) leaves an option to the server.
    type: dict
    default: {}
  announce_version:
    description: Whether MariaDB announces C(5.5.5-<version>-MariaDB).
    type: bool
    default: false
  sandbox:
    description:
      - Whether the unit leaves the server only what it needs of the host. The folders it writes to follow from its
        options.
      - A changed unit restarts the server.
    type: bool
    default: true
  tls_directory:
    description: Directory with C(ca.crt), C(server.crt) and C(server.key); empty leaves TLS to the server.
    type: str
    default: ""
  tls_fingerprint:
    description:
      - SHA-256 in hex of the certificate that clients are to be shown. If it is another one, the server reads the files
        again without ending sessions.
      - V(new) is one that is not made in check mode. Empty is not compared.
    type: str
    default: ""
  tls_reload:
    description: Whether the files have changed, so that they are read again even where the certificate is the same.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: A server for ten clients that logs slow statements
  mysql_config:
    platforms: "{{ __mysql_platforms }}"
    port: 8080
    clients: 10
    settings:
      slow_query_log: true
"""

RETURN = r"""
server:
  description: What clients and other roles need to know.
  type: dict
  returned: success
  sample:
    {flavour: mariadb, version: 10.11.18, announced_version: 5.5.5-10.11.18-MariaDB,
     socket: /run/mysqld/mysqld.sock}
log:
  description: Where the server logs, the unit in whose journal or the file.
  type: dict
  returned: success
  sample: {unit: mariadb.service, file: ""}
missing_packages:
  description: Packages to install before this module can do its work.
  type: list
  elements: str
  returned: success
packages_known:
  description: Whether apt knows a version of the packages that are missing.
  type: bool
  returned: success
pending:
  description: Whether something is to be done, packages included.
  type: bool
  returned: success
moves_from:
  description: The port that the running server listens on, if it is to be another.
  type: int
  returned: success
restarted:
  description: Whether the server was, or would be, started or restarted.
  type: bool
  returned: success
reasons:
  description: Why it was.
  type: list
  elements: str
  returned: success
certificate_reloaded:
  description: Whether the running server read, or would read, its certificate again.
  type: bool
  returned: success
addresses:
  description: Addresses by which clients on other machines call the server.
  type: list
  elements: str
  returned: success
live:
  description: Variables that were, or would be, set in the running server.
  type: list
  elements: str
  returned: success
"""

import os
import time
from dataclasses import dataclass, field

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.peat import optionfiles, server, server_host, server_options, sql
from ansible.module_utils.peat.server_doers import (
    SECONDS_TO_ANSWER,
    Host,
    HostError,
    Server,
    names_in,
    text_of,
    write,
)

# Exists while a run changes the server, and after one that was killed; a reboot clears it.
UNFINISHED = "/run/peat-server-unfinished"
KEEPALIVE = "/proc/sys/net/ipv4/tcp_keepalive_time"


@dataclass
class Plan:
    """What is to be done, and what of the host decides it."""

    chosen: dict
    version: str
    options: dict
    addresses: list[str]
    reachable: list[str]
    port: int
    announce: bool
    sandbox: bool
    announced: str
    socket: str
    missing: list[str]
    known: bool
    unit: dict
    files: dict
    before: dict
    keepalive: tuple
    fingerprint: str = ""
    reload: bool = False
    log: str = ""
    would_be: dict = field(default_factory=dict)
    overridden: frozenset[str] = frozenset()
    live: list[server.Change] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    changes: list[server.Change] = field(default_factory=list)

    @property
    def path(self) -> str:
        """Our option file."""
        return self.chosen["config_file"]

    @property
    def running(self) -> bool:
        """Whether the server ran when the plan was made."""
        return self.unit["ActiveState"] in ("active", "reloading")

    @property
    def writes(self) -> dict:
        """Files that are not as they are to be."""
        return {path: text for path, text in self.files.items() if text != self.before[path]}

    @property
    def enable(self) -> bool:
        """Whether the unit does not start at boot yet."""
        return self.unit["UnitFileState"] != "enabled"

    @property
    def set_kernel(self) -> bool:
        """Whether the kernel's keepalive differs."""
        return self.keepalive[0] != self.keepalive[1]

    @property
    def changed(self) -> bool:
        """Whether anything is to be done."""
        return bool(self.writes or self.live or self.reasons or self.reload or self.enable or self.set_kernel)


def make_plan(module: AnsibleModule, host: Host) -> Plan:
    """Read the host and decide; raise for what cannot be."""
    params = module.params
    here = host.installed(server_host.server_packages(params["platforms"]))
    chosen = server_host.platform(params["platforms"], text_of("/etc/os-release") or "", params["flavour"], here)
    flavour, path = chosen["flavour"], chosen["config_file"]
    missing = [package for package in chosen["packages"] if package not in here]
    if missing and not module.check_mode:
        raise HostError(f"install {', '.join(missing)} first")
    present, known = chosen["packages"][0] in here, True
    if present:
        words = host.run(chosen["program"], "--no-defaults", "--version")[1]
        version = server_host.program_version(words)
    else:
        candidate = host.candidate(chosen["packages"][0])
        known, version = candidate is not None, candidate or chosen["version"]
    unit = host.unit(chosen["unit"])
    memory_mb = host.memory_mb()
    addresses = check(host, params, flavour, version, unit["MainPID"], memory_mb)

    groups = optionfiles.server_groups(flavour, server_host.numbers(version))
    own_files = (path, server.VERSION_FILE)
    others = [setting for setting in optionfiles.read(groups, text_of, names_in) if setting.path not in own_files]
    options = server_options.compute(
        server_options.Wishes(
            flavour=flavour,
            version=version,
            port=params["port"],
            addresses=tuple(addresses),
            clients=params["clients"],
            memory_mb=params["memory_mb"] or memory_mb,
            data_mb=params["data_mb"],
            settings=params["settings"],
            tls_directory=params["tls_directory"],
        ),
        others,
    )
    announce = params["announce_version"] and flavour == "mariadb"

    def files_for(would_be: dict) -> dict:
        folders = server.writable(flavour, would_be) if params["sandbox"] else None
        return server.files(chosen, options, announce, folders)

    files = files_for({})
    own_options, keepalive = server_options.split_kernel(options, flavour)
    plan = Plan(
        chosen=chosen,
        version=version,
        options=own_options,
        addresses=addresses,
        reachable=server_host.reachable(addresses, host.interfaces()),
        port=params["port"],
        announce=announce,
        sandbox=params["sandbox"],
        announced=server_host.announced(version, flavour, announce),
        socket=chosen["socket"],
        missing=missing,
        known=known,
        unit=unit,
        files=files,
        before={name: text_of(name) for name in files},
        keepalive=(keepalive and (text_of(KEEPALIVE) or "").strip(), keepalive),
        fingerprint=params["tls_fingerprint"],
    )
    settings = with_candidate(groups, path, files[path])
    if present:
        problems, plan.would_be = host.trial(chosen, settings, own_options)
        if problems:
            raise server_host.ServerError(*(explained(chosen, text, settings) for text in problems))
        plan.socket = plan.would_be.get("socket") or plan.socket
        plan.files = files_for(plan.would_be)
    plan.log = {setting.name: setting.value for setting in settings}.get("log_error") or ""
    plan.overridden = report_foreign(module, host, plan, settings)
    compare_running(plan, module.check_mode, params["tls_reload"])
    return plan


def check(host: Host, params: dict, flavour: str, version: str, pid: str, memory_mb: int) -> list[str]:
    """Return the addresses to listen on; raise ServerError with all that the variables get wrong."""
    problems: list[str] = []
    addresses: list[str] = []
    try:
        server_options.check_amounts(params, memory_mb)
    except server_host.ServerError as error:
        problems += error.problems
    try:
        server_options.check_settings(params["settings"], flavour, version, memory_mb)
    except server_host.ServerError as error:
        problems += error.problems
    try:
        addresses = server_host.bind_addresses(params["bind_addresses"], host.interfaces())
        host.check_port(addresses, params["port"], pid)
    except server_host.ServerError as error:
        problems += error.problems
    if problems:
        raise server_host.ServerError(*problems)
    return addresses


def with_candidate(groups: frozenset[str], path: str, text: str) -> list[optionfiles.Setting]:
    """Return what the server would read if our file held this text."""
    folder, name = os.path.split(path)

    def names(asked: str) -> list[str]:
        found = names_in(asked)
        return [*found, name] if asked.rstrip("/") == folder and name not in found else found

    return optionfiles.read(groups, lambda x: text if x == path else text_of(x), names)


def explained(chosen: dict, complaint: str, settings: list[optionfiles.Setting]) -> str:
    """Return a complaint of the server program with the place of the option that it is about."""
    plain = optionfiles.normal_name(complaint)
    about = [setting for setting in settings if setting.name in plain]
    place = max(about, key=lambda setting: len(setting.name), default=None)
    if place is None:
        return f"{chosen['program']} refuses the configuration: {complaint}"
    if place.path == chosen["config_file"]:
        return f"mysql_settings: {place.spelled}: {chosen['program']} says: {complaint}"
    return f"{place}: {chosen['program']} says: {complaint}. Mend that file, it is not ours"


def report_foreign(
    module: AnsibleModule, host: Host, plan: Plan, settings: list[optionfiles.Setting]
) -> frozenset[str]:
    """Warn of what other option files say differently; return the names where they win.

    Raises ServerError where one would move the server away from the port or addresses wanted.
    """
    wanted = dict(plan.options)
    if plan.announce:
        wanted["version"] = plan.announced
    others = [setting for setting in settings if setting.path != server.VERSION_FILE]
    differ = server.compare_foreign(others, wanted, plan.path)
    winning = [setting for setting in differ.overriding if setting.name in server.ESSENTIAL]
    if winning:
        raise server_host.ServerError(
            *(f"{x} is read after {plan.path} and would win: remove it there" for x in winning)
        )
    for setting in differ.overriding:
        module.warn(f"{setting} is read after {plan.path} and wins over {wanted[setting.name]}")
    if differ.replaced:
        pristine = host.pristine()
        for setting in differ.replaced:
            if setting.path not in pristine:
                ours = optionfiles.line_of(setting.name, wanted[setting.name])
                remedy = server_options.remedy(setting.name)
                module.warn(f"{setting} is replaced by {ours}. To have it otherwise, {remedy}")
    return frozenset(setting.name for setting in differ.overriding)


def compare_running(plan: Plan, check_mode: bool, reload: bool) -> None:
    """Complete the plan with what the running server needs."""
    if not plan.running:
        plan.reasons = ["it does not run"]
        return
    try:
        running = Server(plan.chosen["flavour"], plan.socket)
    except sql.NoServer:
        # A server that somebody installed by hand, without the driver.
        if not (check_mode and plan.missing):
            raise
        plan.reasons = ["it was not configured by this role"]
        return
    with running:
        server.check_persisted(plan.options, running.persisted())
        plan.changes = changes = pending_changes(plan, running)
        another = bool(plan.fingerprint) and running.certificate() != plan.fingerprint
        cannot_set = [change for change in changes if not running.can_set(change)]
        now = running.version()
    plan.reasons = [server.readable(change) for change in cannot_set]
    if plan.chosen["flavour"] == "mariadb" and now.startswith("5.5.5-") != plan.announce:
        plan.reasons.append(f"version: {now} -> {plan.announced}")
    else:
        plan.announced = now
    unit_file = server.drop_in_file(plan.chosen["unit"])
    if unit_file in plan.writes or (plan.sandbox and not confined(plan.unit["MainPID"])):
        plan.reasons.append("its unit changed")
    if not plan.reasons:  # it reads its certificate when it starts
        plan.live, plan.reload = changes, another or reload


def confined(pid: str) -> bool:
    """Tell whether a process has the sandbox; a run may have been killed before the restart."""
    return "\nNoNewPrivs:\t1\n" in (text_of(f"/proc/{pid}/status") or "")


def pending_changes(plan: Plan, running: Server) -> list[server.Change]:
    """Return what differs between the running server and the options."""

    def ours(text):
        found = optionfiles.read_one(text or "", plan.path, frozenset({"mysqld"}))
        return {x.name: x.value for x in found if x.name not in plan.overridden}

    # After a run that was killed half way, the server may not have what the file says.
    settled = frozenset() if os.path.exists(UNFINISHED) else running.settled(plan.path)
    return server.differing(
        ours(plan.files[plan.path]),
        ours(text_of(plan.path)),
        running.variables(),
        plan.would_be,
        settled,
    )


def apply(host: Host, plan: Plan) -> None:
    """Do what the plan says, or put everything back and raise HostError.

    The restart is done here and not by a handler: only here the old files are still known, with
    which the server comes back if it does not start with the new ones.
    """
    unit = plan.chosen["unit"]
    write(UNFINISHED, "")
    try:
        put_files(host, plan.writes)
        if plan.set_kernel:
            set_kernel(plan.keepalive[1])
        if plan.reasons:
            host.restart(unit, plan.addresses, plan.port, plan.log)
        with Server(plan.chosen["flavour"], plan.socket) as running:
            for change in plan.live:
                running.set(change)
            if plan.reload:
                running.reload_certificate()
            verify(plan, running)
    except (HostError, sql.SqlError, OSError) as error:
        try:
            outcome = put_back(host, plan)
        except (HostError, sql.SqlError, OSError) as second:
            outcome = f"Putting back what was before failed too: {second}"
        raise HostError(f"{error}\n{outcome}") from error
    finally:
        write(UNFINISHED, None)
    if plan.enable:
        host.run("systemctl", "enable", unit)


def put_files(host: Host, texts: dict) -> None:
    """Write files, and have systemd read its own again."""
    for path, text in texts.items():
        write(path, text)
    if any(path.startswith("/etc/systemd/") for path in texts):
        host.run("systemctl", "daemon-reload")


def set_kernel(keepalive: str) -> None:
    """Set the keepalive seconds of the running kernel."""
    with open(KEEPALIVE, "w") as file:
        file.write(keepalive)


def put_back(host: Host, plan: Plan) -> str:
    """Restore what was before `apply`; return what came of it."""
    put_files(host, {path: plan.before[path] for path in plan.writes})
    if plan.set_kernel:
        set_kernel(plan.keepalive[0])
    unit = plan.chosen["unit"]
    if plan.reasons:
        host.run("systemctl", "stop", unit)
        host.run("systemctl", "reset-failed", unit, ok=(0, 1))
        if not plan.running:
            return "The old files are in place again; the server does not run, as before."
        if host.run("systemctl", "start", unit, ok=())[0]:
            return f"The old files are in place again, but {unit} does not start with them either."
        return "The old files are in place again and the server runs with them."
    if plan.live:
        with Server(plan.chosen["flavour"], plan.socket) as running:
            for change in plan.live:
                running.set(server.reverse(change))
    return "The old files and the old values are in place again."


def verify(plan: Plan, running: Server) -> None:
    """Wait until the server has every value; InnoDB changes some in the background."""
    deadline = time.monotonic() + SECONDS_TO_ANSWER
    # From here on the server has what the file says.
    write(UNFINISHED, None)
    while left := pending_changes(plan, running):
        if time.monotonic() > deadline:
            texts = "; ".join(server.readable(change) for change in left)
            raise HostError(f"the server does not take a value: {texts}")
        time.sleep(0.1)
    plan.announced = running.version()
    if plan.fingerprint and running.certificate() != plan.fingerprint:
        raise HostError(f"the server shows another certificate than {plan.options.get('ssl_cert')}")


def result_of(plan: Plan) -> dict:
    """Return the module's result."""
    diff = [
        {
            "before_header": path,
            "after_header": path,
            "before": plan.before[path] or "",
            "after": text or "",
        }
        for path, text in plan.writes.items()
    ]
    doings = [(f"{c.variable} = {c.now}", f"{c.variable} = {c.wanted}") for c in plan.live]
    if plan.set_kernel:
        name = "net.ipv4.tcp_keepalive_time"
        doings.append((f"{name} = {plan.keepalive[0]}", f"{name} = {plan.keepalive[1]}"))
    if plan.reload:
        doings.append(("another certificate", f"the certificate in {plan.options.get('ssl_cert')}"))
    if plan.reasons:
        state = "running" if plan.running else "stopped"
        doings.append((state, f"restarted, because {'; '.join(plan.reasons)}"))
    if plan.enable:
        doings.append(("not started at boot", "started at boot"))
    if doings:
        before, after = ("\n".join(side) + "\n" for side in zip(*doings))
        header = plan.chosen["unit"]
        diff.append({"before_header": header, "after_header": header, "before": before, "after": after})
    return {
        "changed": plan.changed,
        "diff": diff,
        "server": {
            "flavour": plan.chosen["flavour"],
            "version": plan.version,
            "announced_version": plan.announced,
            "socket": plan.socket,
        },
        "log": {"unit": plan.chosen["unit"], "file": plan.log},
        "missing_packages": plan.missing,
        "packages_known": plan.known,
        "pending": plan.changed or bool(plan.missing),
        "moves_from": next((int(change.now) for change in plan.changes if change.variable == "port"), None),
        "addresses": plan.reachable,
        "certificate_reloaded": plan.reload,
        "restarted": bool(plan.reasons),
        "reasons": plan.reasons,
        "live": [server.readable(change) for change in plan.live],
    }


def main() -> None:
    """Read, plan, apply unless in check mode, report."""
    module = AnsibleModule(
        argument_spec={
            "platforms": {"type": "list", "elements": "dict", "required": True},
            "flavour": {"type": "str", "choices": ["auto", "mariadb", "mysql"], "default": "auto"},
            "port": {"type": "int", "required": True},
            "bind_addresses": {"type": "list", "elements": "str", "default": []},
            "clients": {"type": "int", "default": 1},
            "memory_mb": {"type": "int", "default": 0},
            "data_mb": {"type": "int", "default": 0},
            "settings": {"type": "dict", "default": {}},
            "announce_version": {"type": "bool", "default": False},
            "sandbox": {"type": "bool", "default": True},
            "tls_directory": {"type": "str", "default": ""},
            "tls_fingerprint": {"type": "str", "default": ""},
            "tls_reload": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    host = Host(module.run_command)
    try:
        if os.geteuid() != 0:
            raise HostError("this takes root: set ansible_become, or ansible_user to root")
        plan = make_plan(module, host)
        if plan.changed and not module.check_mode:
            apply(host, plan)
        module.exit_json(**result_of(plan))
    except server_host.ServerError as error:
        module.fail_json(msg=f"This server cannot be as the variables say:\n{error}", problems=error.problems)
    except (HostError, sql.SqlError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
