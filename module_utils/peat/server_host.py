"""What of a host decides its server: distribution, versions, addresses, ports. Pure: plain data in."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


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


def reachable(addresses: list[str], interfaces: list[Mapping]) -> list[str]:
    """Return the addresses by which clients on other machines call a server that listens on these."""
    if ANY_ADDRESS.intersection(addresses):
        addresses = host_addresses(interfaces)
    return [address for address in addresses if not ipaddress.ip_address(address).is_loopback]


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
