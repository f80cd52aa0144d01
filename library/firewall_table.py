#!/usr/bin/python
"""Ansible module: the server's own nftables table, from the openings of a lab."""

from __future__ import annotations

DOCUMENTATION = r"""
module: firewall_table
short_description: Keep a server's own nftables table exactly as wanted
description:
  - Keeps table C(inet peat), its file, and the unit (without systemd, the init script) that loads it at
    boot. A port that is named in O(openings) accepts only its sources and refuses everybody else at
    once; other ports are left alone unless O(default_deny).
  - The table is compared as the kernel holds it, so what somebody added or deleted by hand is put
    back. It is replaced in one step and never half loaded; where only a few sources differ, these alone
    are changed, in one step as well, which no connected client notices.
  - An active ufw or firewalld is told to let the same ports through; the sources are kept in the
    table alone.
options:
  openings:
    description: The managed ports; entries of one port are merged.
    type: list
    elements: dict
    required: true
    suboptions:
      port:
        description: Port of this server.
        type: int
        required: true
      protocol:
        description: Transport protocol.
        type: str
        choices: [tcp, udp]
        default: tcp
      sources:
        description: IPv4 and IPv6 addresses and networks that may use the port, C(%) for all.
        type: list
        elements: str
        required: true
      comment:
        description: Shown with the rule in C(nft list table inet peat).
        type: str
  openings_before:
    description:
      - In check mode, the openings that an earlier task of the same run would have made; the
        prediction starts from them.
      - A server that moves to another port is guarded at both until it has moved.
    type: list
    elements: dict
    default: []
  default_deny:
    description: Refuse whatever no opening accepts; ssh is then kept as O(admin_sources) says.
    type: bool
    default: false
  ssh_port:
    description: Port of sshd.
    type: int
    default: 22
  admin_sources:
    description:
      - Addresses and networks that keep ssh, besides the one that Ansible itself comes from, if
        O(default_deny) or an opening of the ssh port would refuse others.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Open the database to the campus
  firewall_table:
    openings:
      - port: 8080
        sources: [192.0.2.0/24, "2001:db8:1::/48"]
"""

RETURN = r"""
ssh_client:
  description: The address that Ansible came from, as this server sees it; empty without ssh.
  type: str
  returned: always
other_firewalls:
  description: Other firewalls that are active here (ufw, firewalld).
  type: list
  elements: str
  returned: always
"""

import glob
import os
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.peat import frontends, ruleset

NFT = "/usr/sbin/nft"
WANTED_UNIT = "enabled, active"
# The lab's addresses are nobody's business; systemd wants to read its own files as anybody.
MODES = {ruleset.FILE: 0o600, ruleset.UNIT_FILE: 0o644, ruleset.DROP_IN_FILE: 0o644, ruleset.INIT_FILE: 0o755}


class FirewallError(Exception):
    """The host is not as the firewall needs it; the text says what to do."""


class Host:
    """The doers and the questions: everything here talks to the server that is managed."""

    def __init__(self, module: AnsibleModule) -> None:
        """Look for the programs; what is missing is None."""
        self.module = module
        self.nft = module.get_bin_path("nft")
        self.ufw = module.get_bin_path("ufw")
        self.systemd = os.path.isdir("/run/systemd/system")

    def files(self, table: str) -> dict:
        """Return the files that load a table at boot, by path."""
        nft = self.nft or NFT
        if not self.systemd:
            return {ruleset.FILE: table, ruleset.INIT_FILE: ruleset.init_script(nft)}
        return {ruleset.FILE: table, ruleset.UNIT_FILE: ruleset.unit(nft), ruleset.DROP_IN_FILE: ruleset.drop_in(nft)}

    def run(self, *argv: str, ok: tuple[int, ...] = (0,), data=None) -> tuple[int, str, str]:
        """Run a program; raise FirewallError with its own words for an unexpected exit code."""
        code, out, err = self.module.run_command(list(argv), data=data, environ_update={"LC_ALL": "C"})
        if code not in ok:
            words = (err or out).strip()
            raise FirewallError(f"`{' '.join(argv)}` ended with code {code}: {words}")
        return code, out, err

    def live_table(self) -> str:
        """Return the table as the kernel holds it, flattened, "" if there is none."""
        if self.nft is None:
            return ""
        code, out, err = self.run(self.nft, "-s", "list", "table", *ruleset.TABLE.split(), ok=(0, 1))
        if code and "No such file or directory" not in err:
            raise FirewallError(
                f"nftables does not work here: {err.strip()}. The kernel needs nf_tables (in a "
                "container: the host's kernel, and the capability NET_ADMIN)"
            )
        return ruleset.flatten(out)

    def listed(self, text: str) -> str:
        """Return how nft of this host lists the table of `text`, flattened.

        The text is loaded for real, in a network namespace that ends with the call. That proves
        more than ``nft --check`` does, and needs no knowledge of how a release words its listing.
        """
        if self.nft is None:
            return ruleset.flatten(text)
        script = f"{self.nft} -f - && {self.nft} -s list table {ruleset.TABLE}"
        return ruleset.flatten(self.run("unshare", "--net", "sh", "-c", script, data=text)[1])

    def load(self, text: str, update: str, wanted: str) -> None:
        """Make the live table the wanted one, in one transaction: by `update` where that works, else anew."""
        if update and not self.run(self.nft, "-f", "-", data=update, ok=(0, 1))[0] and self.live_table() == wanted:
            return
        self.run(self.nft, "-f", "-", data=text)

    def write(self, path: str, text: str) -> None:
        """Replace a file in one step."""
        folder = os.path.dirname(path)
        os.makedirs(folder, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder)
        with os.fdopen(handle, "w") as file:
            file.write(text)
        os.chmod(name, MODES[path])
        os.replace(name, path)

    def units(self) -> dict:
        """Return {unit: {property: value}} of our unit and of firewalld."""
        names = (ruleset.UNIT, "firewalld.service")
        if not self.systemd:
            enabled = "enabled" if glob.glob("/etc/rcS.d/S*peat-firewall") else "disabled"
            # An init script is over when it has done its work; whether it did is seen in the table.
            ours = {"LoadState": "loaded", "ActiveState": "active", "UnitFileState": enabled}
            return {names[0]: ours, names[1]: {"ActiveState": "inactive"}}
        asked = "--property=LoadState,ActiveState,UnitFileState"
        out = self.run("systemctl", "show", asked, *names)[1]
        blocks = out.strip().split("\n\n")
        return {name: dict(line.split("=", 1) for line in block.splitlines()) for name, block in zip(names, blocks)}

    def ufw_added(self):
        """Return the rules of ufw as it shows them, None unless it is active."""
        if self.ufw is None or "Status: active" not in self.run(self.ufw, "status")[1]:
            return None
        return self.run(self.ufw, "show", "added")[1]

    def firewalld_ports(self, *scope: str):
        """Return the ports of our policy in firewalld, None if there is no such policy."""
        argv = ("firewall-cmd", *scope, "--policy", frontends.MARK, "--list-ports")
        code, out, _err = self.run(*argv, ok=(0, 140))  # 140: no such policy
        return None if code else out.split()


def read(path: str):
    """Return a file's text, None if there is none."""
    try:
        with open(path) as file:
            return file.read()
    except FileNotFoundError:
        return None


def ssh_session():
    """Return the ssh session this module runs in.

    sudo does not hand the variable on, so the processes that lead here are asked as well.
    """
    process = os.getpid()
    while process > 1:
        try:
            with open(f"/proc/{process}/environ", "rb") as file:
                pairs = (item.partition(b"=") for item in file.read().split(b"\0"))
                found = ruleset.session({os.fsdecode(k): os.fsdecode(v) for k, _eq, v in pairs})
            if found:
                return found
            with open(f"/proc/{process}/stat") as file:
                process = int(file.read().rpartition(")")[2].split()[1])
        except OSError:  # a process that ended meanwhile, or one that is not ours to see
            return None
    return None


def main() -> None:
    """Read, plan, apply unless in check mode, report."""
    module = AnsibleModule(
        argument_spec={
            "openings": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "port": {"type": "int", "required": True},
                    "protocol": {"type": "str", "choices": ["tcp", "udp"], "default": "tcp"},
                    "sources": {"type": "list", "elements": "str", "required": True},
                    "comment": {"type": "str"},
                },
            },
            "openings_before": {"type": "list", "elements": "dict", "default": []},
            "default_deny": {"type": "bool", "default": False},
            "ssh_port": {"type": "int", "default": 22},
            "admin_sources": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**manage(module))
    except ruleset.RulesetError as error:
        module.fail_json(msg=f"These openings cannot be made:\n{error}", problems=error.problems)
    except FirewallError as error:
        module.fail_json(msg=str(error))


def manage(module: AnsibleModule) -> dict:
    """Make the host as the parameters say and return the module's result."""
    wanted_ports, default_deny = module.params["openings"], module.params["default_deny"]
    ssh = ssh_session()

    def rendered(openings: list) -> str:
        ssh_rule = (module.params["ssh_port"], module.params["admin_sources"], ssh)
        return ruleset.render(ruleset.openings(openings, default_deny, *ssh_rule), default_deny)

    text = rendered(wanted_ports)
    host = Host(module)
    earlier = module.params["openings_before"] if module.check_mode else []
    if host.nft is None and not module.check_mode:
        raise FirewallError("nft is not installed: install the package nftables")
    files = host.files(text)
    units = host.units()
    wanted = ruleset.State(host.listed(text), files, WANTED_UNIT)
    plan = ruleset.plan(
        ruleset.State(
            host.listed(rendered(earlier)) if earlier else host.live_table(),
            {path: read(path) for path in files},
            unit_state(units),
        ),
        wanted,
    )
    ports = frontends.ports(wanted_ports)
    others = frontend_calls(host, units, ports)
    calls = [call for name in others for call in others[name]]
    changed = bool(plan.load or plan.write or plan.start or calls)
    if changed and not module.check_mode:
        apply(host, plan, wanted, calls)
    for name in others:
        if others[name]:
            module.warn(
                f"{name} is active on this host: it now lets everybody through to {' '.join(ports)}; "
                f"who gets in is decided by nftables table {ruleset.TABLE} alone"
            )
    told = "".join(f"{' '.join(call)}\n" for call in calls)
    return {
        "changed": changed,
        # Thousands of addresses are not sent where nobody looks at them.
        "diff": {"before": plan.before, "after": plan.after + told} if module._diff else {},
        "ssh_client": ssh.address if ssh else "",
        "other_firewalls": list(others),
    }


def apply(host: Host, plan: ruleset.Plan, wanted: ruleset.State, calls: list) -> None:
    """Carry out a plan. The kernel comes first: if it refuses the table, nothing has changed."""
    if plan.load:
        host.load(wanted.files[ruleset.FILE], plan.update, wanted.table)
    for path in plan.write:
        host.write(path, wanted.files[path])
    if not host.systemd:
        if plan.start or ruleset.INIT_FILE in plan.write:
            host.run("update-rc.d", "peat-firewall", "defaults")
    elif set(plan.write) - {ruleset.FILE}:
        host.run("systemctl", "daemon-reload")
    if host.systemd and (plan.start or ruleset.UNIT_FILE in plan.write):
        # Not `enable`: that would keep the links of what an older unit file said.
        host.run("systemctl", "reenable", ruleset.UNIT)
        host.run("systemctl", "start", ruleset.UNIT)
    for call in calls:
        host.run(*call)


def unit_state(units: dict) -> str:
    """Return how our unit is, in the words of WANTED_UNIT."""
    ours = units[ruleset.UNIT]
    if ours["LoadState"] == "masked":
        raise FirewallError(
            f"{ruleset.UNIT} is masked: the table would be missing after the next boot; "
            f"`systemctl unmask {ruleset.UNIT}` allows it again"
        )
    return f"{ours['UnitFileState'] or 'missing'}, {ours['ActiveState']}"


def frontend_calls(host: Host, units: dict, ports: list) -> dict:
    """Return {name: calls} of the other firewalls that are active."""
    calls = {}
    added = host.ufw_added()
    if added is not None:
        calls["ufw"] = frontends.ufw_plan(added, ports)
    if units["firewalld.service"]["ActiveState"] == "active":
        calls["firewalld"] = frontends.firewalld_plan(
            host.firewalld_ports(*frontends.PERMANENT),
            host.firewalld_ports(*frontends.RUNTIME),
            ports,
        )
    return calls


if __name__ == "__main__":
    main()
