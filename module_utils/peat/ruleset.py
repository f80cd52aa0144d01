"""The server's own nftables table: what it must be, and how a live one is compared with it.

Measured with nftables 1.0.6, 1.1.3 and 1.1.6:

* ``add table``, ``delete table`` and the new table in ONE file replace a table atomically;
  ``flush table`` would keep the elements of its sets.
* While a table is replaced, its new sets are empty for an instant, some milliseconds with ten thousand
  addresses: a client that may come in is refused, and one that is connected is cut (measured on
  Linux 6.18). A change of elements has no such instant, but nft takes seconds for hundreds of them.
* Overlapping elements stop an interval set from loading, so sources are collapsed first.
* ``0.0.0.0/0`` and ``::/0`` are elements like any other, so ``%`` needs no rule of its own.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .addresses import ANYWHERE, AddressError, parse

TABLE = "inet peat"
FILE = "/etc/peat-firewall.nft"
UNIT = "peat-firewall.service"
UNIT_FILE = f"/etc/systemd/system/{UNIT}"
DROP_IN_FILE = "/etc/systemd/system/nftables.service.d/peat-firewall.conf"
#: Where there is no systemd.
INIT_FILE = "/etc/init.d/peat-firewall"

_FEW_ELEMENTS = 50
_ELEMENT = re.compile(r"set (\w+): ([0-9a-f.:/]+)\n")

_EVERY_ADDRESS = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
_PROTOCOLS = ("tcp", "udp")
# nft refuses rule comments of more than 128 bytes and has no way to quote a quotation mark.
_COMMENT = re.compile(r'[^"\\]*')
_COMMENT_BYTES = 120

# The client of a refused TCP connection gets "connection refused" at once. An ICMP error would be
# ignored by Windows until its own timeout, is rate limited by Linux, and never ends a connection
# that is already open; a silent drop makes every client wait for minutes.
_REFUSE = {"tcp": "reject with tcp reset", "udp": "reject with icmpx admin-prohibited"}

# What a host needs to stay on its network, besides the openings, when all else is refused.
_KEEP_ON_NETWORK = """\
		ct state established,related accept
		icmp type { echo-request, router-advertisement } accept
		icmpv6 type { echo-request, mld-listener-query, nd-router-advert, nd-neighbor-solicit, \
nd-neighbor-advert, nd-redirect, mld2-listener-report } accept
		udp sport 67 udp dport 68 accept
		ip6 saddr fe80::/10 udp sport 547 udp dport 546 accept
		meta l4proto tcp counter reject with tcp reset
		counter reject with icmpx admin-prohibited
"""


class RulesetError(ValueError):
    """Wanted openings that cannot become a table; `problems` has one text for each."""

    def __init__(self, problems: Sequence[str]) -> None:
        """Keep all the problems; the exception's own text has one line for each."""
        super().__init__("\n".join(problems))
        self.problems = list(problems)


@dataclass(frozen=True)
class Session:
    """The ssh session that Ansible works through, as the server sees it."""

    address: str
    port: int


@dataclass(frozen=True)
class Opening:
    """One port of the server and the networks (collapsed, none overlaps) that may use it."""

    port: int
    protocol: str
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
    comment: str = ""

    def sources(self, version: int) -> list[str]:
        """Return the sources of IP version 4 or 6, written as nft lists them."""
        return [
            str(network.network_address if network.prefixlen == network.max_prefixlen else network)
            for network in self.networks
            if network.version == version
        ]


@dataclass(frozen=True)
class State:
    """What a host has, or should have, of this firewall."""

    table: str
    """The table in the kernel, flattened; empty if there is none."""
    files: Mapping[str, str | None]
    """The text of each file, None if there is none."""
    unit: str
    """How the unit is, ``enabled, active`` if it is as it must be."""


@dataclass(frozen=True)
class Plan:
    """What makes a host's state the wanted one, and how that reads."""

    load: bool
    update: str
    """Commands that do the same as loading the table without refusing anybody meanwhile, "" if there are none."""
    write: tuple[str, ...]
    start: bool
    before: str
    after: str


def plan(found: State, wanted: State) -> Plan:
    """Compare two states. A file is only said to differ: its content is the table's."""
    status = {
        path: "missing" if text is None else "ok" if text == wanted.files[path] else "differs"
        for path, text in found.files.items()
    }

    def lines(table: str, files: Mapping[str, str], unit: str) -> str:
        told = "".join(f"file {path}: {how}\n" for path, how in files.items())
        return f"{table}{told}unit {UNIT}: {unit}\n"

    return Plan(
        load=found.table != wanted.table,
        update=_update(found.table, wanted.table),
        write=tuple(path for path, how in status.items() if how != "ok"),
        start=found.unit != wanted.unit,
        before=lines(found.table, status, found.unit),
        after=lines(wanted.table, dict.fromkeys(status, "ok"), wanted.unit),
    )


def _update(found: str, wanted: str) -> str:
    """Return the commands that change one table into the other where only a few elements of sets differ."""
    old, new = set(found.splitlines(keepends=True)), set(wanted.splitlines(keepends=True))
    commands = []
    for verb, lines in (("delete", old - new), ("add", new - old)):
        elements: dict[str, list[str]] = {}
        for line in sorted(lines):
            match = _ELEMENT.fullmatch(line)
            if not match:
                return ""
            elements.setdefault(match[1], []).append(match[2])
        commands += [f"{verb} element {TABLE} {name} {{ {', '.join(some)} }}\n" for name, some in elements.items()]
    return "".join(commands) if len(old ^ new) <= _FEW_ELEMENTS else ""


def session(environ: Mapping[str, str]) -> Session | None:
    """Return the ssh session that an environment tells of (``SSH_CONNECTION``), None if none."""
    words = environ.get("SSH_CONNECTION", "").split()
    if len(words) != 4:
        return None
    # A link-local client is shown with the interface it came through; packets do not carry that.
    return Session(words[0].partition("%")[0], int(words[3]))


def openings(
    wanted: Iterable[Mapping[str, Any]],
    default_deny: bool = False,
    ssh_port: int = 22,
    admin_sources: Sequence[str] = (),
    ssh: Session | None = None,
) -> tuple[Opening, ...]:
    """Return the managed ports, in order, entries of one port merged.

    ssh becomes a managed port if everything is refused by default, or if an opening names its
    port; then `admin_sources` and the client of the running session `ssh` always keep it. Raise
    RulesetError with every problem, or if nobody at all would keep ssh.
    """
    problems: list[str] = []
    merged: dict[tuple[int, str], tuple[list, list[str]]] = {}

    def add(port: int, protocol: str, sources: list, comment: str) -> None:
        networks, comments = merged.setdefault((port, protocol), ([], []))
        networks.extend(sources)
        if comment and comment not in comments:
            comments.append(comment)

    for index, entry in enumerate(wanted):
        name = f"firewall_openings[{index}] (port {entry['port']})"
        protocol = entry.get("protocol") or "tcp"
        comment = entry.get("comment") or ""
        problems += _problems(name, entry["port"], protocol, comment)
        add(entry["port"], protocol, _networks(name, entry["sources"], problems), comment)

    administrators = _networks("firewall_admin_sources", admin_sources, problems)
    if not 0 < ssh_port < 65536:
        problems.append(f"firewall_ssh_port: {ssh_port} is not a port: write one from 1 to 65535")
    if default_deny and not administrators and ssh is None:
        problems.append(
            "firewall_default_deny would lock everybody out of ssh: the address Ansible comes from "
            "is unknown (no ssh connection); name yours in firewall_admin_sources"
        )
    here = [ipaddress.ip_network(ssh.address)] if ssh else []
    for port in sorted({ssh_port, ssh.port if ssh else ssh_port}):
        if default_deny or (port, "tcp") in merged:
            add(port, "tcp", administrators + here, "ssh")

    result = []
    for (port, protocol), (networks, comments) in sorted(merged.items()):
        comment = ", ".join(comments)
        if len(comment.encode()) > _COMMENT_BYTES:
            problems.append(
                f"firewall_openings: the comments of port {port}/{protocol} have more than "
                f"{_COMMENT_BYTES} bytes together: shorten them"
            )
        result.append(Opening(port, protocol, _collapse(networks), comment))
    if problems:
        raise RulesetError(problems)
    return tuple(result)


def render(managed: Iterable[Opening], default_deny: bool = False) -> str:
    """Return the file that replaces the table by exactly these openings.

    Connections that are already open get no rule of their own on a managed port: an address that
    leaves its set is cut with its next packet. The chain runs before those of other firewalls
    (priority 0 and later), which would answer a refused client with silence.
    """
    sets, rules = [], []
    for opening in managed:
        dport = f"{opening.protocol} dport {opening.port}"
        comment = f' comment "{opening.comment}"' if opening.comment else ""
        for family, version in (("ip", 4), ("ip6", 6)):
            name = f"{opening.protocol}_{opening.port}_ipv{version}"
            elements = ",\n\t\t\t".join(opening.sources(version))
            sets.append(
                f"\tset {name} {{\n\t\ttype ipv{version}_addr\n\t\tflags interval\n"
                + (f"\t\telements = {{\n\t\t\t{elements}\n\t\t}}\n" if elements else "")
                + "\t}\n"
            )
            rules.append(f"\t\t{dport} {family} saddr @{name} accept{comment}\n")
        rules.append(f"\t\t{dport} counter {_REFUSE[opening.protocol]}\n")
    return (
        "# Managed by Ansible: the lab's inventory says who may come in, change it there.\n"
        "# The first two commands make loading this file replace the table in one step.\n"
        f"add table {TABLE}\n"
        f"delete table {TABLE}\n"
        f"table {TABLE} {{\n"
        + "".join(sets)
        + "\tchain input {\n"
        + "\t\ttype filter hook input priority filter - 5; policy accept;\n"
        + '\t\tiifname "lo" accept\n'
        + "".join(rules)
        + (_KEEP_ON_NETWORK if default_deny else "")
        + "\t}\n}\n"
    )


def flatten(listing: str) -> str:
    """Return a table, as nft lists it or as `render` writes it, one self-contained line per fact.

    Two tables are equal if their lines are; the lines are also what a person sees as a difference.
    """
    text = re.sub(
        r"elements = \{([^}]*)\}",
        lambda match: "\n".join(sorted(part.strip() for part in match.group(1).split(","))),
        listing,
    )
    lines, blocks = [], []
    for line in map(str.strip, text.splitlines()):
        if not line or line.startswith(("#", "add ", "delete ")):
            continue
        if line.endswith("{"):
            blocks.append(line[:-1].strip())
        elif line == "}":
            blocks.pop()
        else:
            lines.append(f"{blocks[-1]}: {line}\n")
    return "".join(lines)


def unit(nft: str) -> str:
    """Return the unit that loads the table at boot; `nft` is the path of the program.

    Every ordinary service, a database server among them, starts after sysinit.target and so after
    the table is there. No ExecStop: stopping the unit leaves the table where it is. ufw and
    firewalld never touch another's table (measured), so their order does not matter.
    """
    return f"""\
# Managed by Ansible.
[Unit]
Description=Firewall table of the PEAT server ({TABLE})
DefaultDependencies=no
Wants=network-pre.target
Before=network-pre.target sysinit.target shutdown.target
After=nftables.service
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={nft} -f {FILE}
ExecReload={nft} -f {FILE}

[Install]
WantedBy=sysinit.target
"""


def init_script(nft: str) -> str:
    """Return what loads the table at boot where there is no systemd. Like the unit it takes nothing away."""
    return f"""\
#!/bin/sh
# Managed by Ansible.
### BEGIN INIT INFO
# Provides:          peat-firewall
# Required-Start:    $local_fs
# Required-Stop:
# X-Start-Before:    networking
# Default-Start:     S
# Default-Stop:
# Short-Description: Firewall table of the PEAT server ({TABLE})
### END INIT INFO
case ${{1:-}} in
start | restart | reload | force-reload) exec {nft} -f {FILE} ;;
status) exec {nft} list table {TABLE} ;;
stop) ;;
*) echo "usage: $0 start|restart|reload|force-reload|status|stop" >&2; exit 2 ;;
esac
"""


def drop_in(nft: str) -> str:
    """Return the addition to nftables.service, which empties the whole ruleset three ways.

    A start, a stop and a reload of it each load the table again before the command returns. The
    unit's own dependencies cannot do that: a reload can be propagated, but a restart could only be
    shared (PartOf), and then a stop followed by a start would leave the table out.
    """
    return f"""\
# Managed by Ansible: this service empties the whole ruleset; put {TABLE} back each time.
[Service]
ExecStartPost=-{nft} -f {FILE}
ExecStopPost=-{nft} -f {FILE}
ExecReload=-{nft} -f {FILE}
"""


def _problems(name: str, port: int, protocol: str, comment: str) -> list[str]:
    problems = []
    if not 0 < port < 65536:
        problems.append(f"{name}: not a port: write one from 1 to 65535")
    if protocol not in _PROTOCOLS:
        problems.append(f"{name}: protocol {protocol!r}: write one of {', '.join(_PROTOCOLS)}")
    if not _COMMENT.fullmatch(comment) or not comment.isprintable():
        problems.append(f"{name}: comment {comment!r}: leave out quotation marks, \\ and newlines")
    return problems


def _networks(name: str, sources: Iterable[str], problems: list[str]) -> list:
    """Return the networks of a list of sources; what is wrong with others is added to problems."""
    networks: list = []
    for source in sources:
        try:
            network = parse(source)
        except AddressError as error:
            problems.append(f"{name}: {error}")
            continue
        networks.extend(_EVERY_ADDRESS if network is ANYWHERE else [network])
    return networks


def _collapse(networks: list) -> tuple:
    """Return the fewest networks that hold the same addresses, IPv4 first."""
    return tuple(
        network
        for version in (4, 6)
        for network in ipaddress.collapse_addresses(n for n in networks if n.version == version)
    )
