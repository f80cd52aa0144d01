"""Client addresses: from the text in an inventory to the host part of a database account.

What a server matches was measured on MariaDB 10.11 and 11.8 and MySQL 9.7, with
``skip-name-resolve``: an account host is compared with the TEXT of the client's address.

* IPv4: an exact address or ``network/netmask`` matches; ``/24`` and a mask over set host bits are
  stored without complaint and never match (MariaDB).
* IPv6: only an exact address in canonical text, or a text prefix that ends in ``%``, matches.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Union


class AddressError(ValueError):
    """An address that cannot be used; the text says why and what to write instead."""


class Anywhere:
    """The type of ANYWHERE, every IPv4 and IPv6 address (written ``%``, as in an account)."""

    def __repr__(self) -> str:
        return "ANYWHERE"

    def __str__(self) -> str:
        return "%"


ANYWHERE = Anywhere()

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network, Anywhere]

_NETWORKS = {4: ipaddress.IPv4Network, 6: ipaddress.IPv6Network}
_GROUP_BITS = 16
_IPV6_BITS = 128
# Servers show a client from these as plain IPv4 (mapped), or in a form of their own (compatible).
_IPV4_IN_IPV6 = (ipaddress.IPv6Network("::ffff:0:0/96"), ipaddress.IPv6Network("::/96"))
_IPV6_LOOPBACK = ipaddress.IPv6Network("::1/128")
_IPV6_LINK_LOCAL = ipaddress.IPv6Network("fe80::/10")
_WILDCARD = re.compile(r"(\d{1,3}\.){1,3}[%*]")


def parse(text: str) -> Network:
    """Return the network that an address, ``address/length``, ``address/netmask`` or ``%`` names.

    A single address is a network of its own (/32 or /128). Raise AddressError for anything else:
    host names, host bits under the mask, everything-networks, addresses no client can come from.
    """
    if not isinstance(text, str):
        raise AddressError(f"{text!r} is not text: put the address in quotes")
    if text == "%":
        return ANYWHERE
    if _WILDCARD.fullmatch(text):
        raise AddressError(_wildcard_remedy(text))
    # Python takes a host mask (0.0.0.255) for a netmask and a zone (%eth0) for part of an address.
    address, slash, mask = text.partition("/")
    if "%" in text or (slash and "." in mask and not _is_netmask(mask)):
        raise AddressError(_not_an_address(text))
    try:
        first = ipaddress.ip_address(address)
        # Most are single addresses; reading the text once is half the time.
        network = (
            ipaddress.ip_network(text, strict=False)
            if slash
            else _NETWORKS[first.version]((int(first), first.max_prefixlen))
        )
    except ValueError:
        raise AddressError(_not_an_address(text)) from None
    if network.prefixlen == 0:
        raise AddressError(f"{text!r} is every address: write '%', which needs peat_allow_anywhere: true")
    if first != network.network_address:
        raise AddressError(
            f"{text!r} has host bits set: write {network} for the whole network or {first} for that one address"
        )
    _refuse_impossible(text, network)
    return network


def account_host(network: Network) -> str:
    """Return the account host that matches exactly the addresses of a network.

    Raise AddressError, naming the nearest alternatives, for an IPv6 network no host text matches.
    """
    if isinstance(network, Anywhere):
        return "%"
    if network.prefixlen == network.max_prefixlen:
        return str(network.network_address)
    if isinstance(network, ipaddress.IPv4Network):
        return f"{network.network_address}/{network.netmask}"
    if not _has_pattern(network):
        raise AddressError(
            f"{network} cannot be the host of an account (a server compares IPv6 addresses as "
            f"text): {_alternatives(network)}"
        )
    return ":".join(f"{group:x}" for group in _groups(network)) + ":%"


def network_of(host: str) -> Network | None:
    """Return the network whose account_host is `host`, None if there is none.

    None means that this project never makes such a host (``localhost``, ``192.0.2.%``, ``/24``).
    """
    text = host
    if host.endswith(":%"):
        text = f"{host[:-2]}::/{_GROUP_BITS * host.count(':')}"
    try:
        network = parse(text)
        return network if account_host(network) == host else None
    except AddressError:
        return None


def contains(outer: Network, inner: Network) -> bool:
    """Tell whether every address of `inner` is one of `outer`."""
    if isinstance(outer, Anywhere):
        return True
    if isinstance(inner, Anywhere) or outer.version != inner.version:
        return False
    return inner.subnet_of(outer)  # type: ignore[arg-type]


def specificity(network: Network) -> int:
    """Order networks that contain one address as a server does: the larger number is chosen."""
    return -1 if isinstance(network, Anywhere) else network.prefixlen


def display(network: Network) -> str:
    """Return the text a person reads: an address, ``network/length`` or ``%``."""
    if not isinstance(network, Anywhere) and network.prefixlen == network.max_prefixlen:
        return str(network.network_address)
    return str(network)


def _is_netmask(mask: str) -> bool:
    """Tell whether the text is a contiguous IPv4 netmask, as 255.255.255.0 is."""
    try:
        inverted = int(ipaddress.IPv4Address(mask)) ^ 0xFFFFFFFF
    except ValueError:
        return False
    return inverted & (inverted + 1) == 0


def _not_an_address(text: str) -> str:
    if re.search(r"[g-z]", text, re.IGNORECASE) and not re.search(r"[:/]", text):
        return f"{text!r} is a host name: the server does not resolve names (skip-name-resolve), write the IP address"
    return (
        f"{text!r} is not an address: write one like 192.0.2.7, 192.0.2.0/24, "
        "192.0.2.0/255.255.255.0 or 2001:db8:1::/48"
    )


def _wildcard_remedy(text: str) -> str:
    given = text.split(".")[:-1]
    network = ".".join(given + ["0"] * (4 - len(given)))
    return f"{text!r} is a wildcard: write {network}/{8 * len(given)}"


def _refuse_impossible(text: str, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> None:
    """Raise AddressError if no client's address, as a server sees it, can be in the network."""
    first = network.network_address
    if first.is_unspecified and network.prefixlen == network.max_prefixlen:
        raise AddressError(
            f"{text!r} is no client's address: for every address write '%', which needs peat_allow_anywhere: true"
        )
    if first.is_multicast:
        raise AddressError(f"{text!r} is multicast, no client's address: write the client's own")
    if isinstance(network, ipaddress.IPv4Network):
        return
    if network.subnet_of(_IPV6_LINK_LOCAL):
        raise AddressError(
            f"{text!r} is link-local, which a server sees together with an interface's name: "
            "write the client's global or fd00::/8 address"
        )
    if network != _IPV6_LOOPBACK and any(network.subnet_of(range_) for range_ in _IPV4_IN_IPV6):
        last = ipaddress.IPv4Address(int(first) & 0xFFFFFFFF)
        plain = ipaddress.IPv4Network((last, network.prefixlen - 96))
        raise AddressError(f"{text!r} is IPv4 in IPv6 clothes: write {display(plain)}")


def _groups(network: ipaddress.IPv6Network) -> list[int]:
    """Return the 16-bit groups that the prefix fixes completely."""
    bits = int(network.network_address)
    return [bits >> (_IPV6_BITS - end) & 0xFFFF for end in range(_GROUP_BITS, network.prefixlen + 1, _GROUP_BITS)]


def _has_pattern(network: ipaddress.IPv6Network) -> bool:
    """Tell whether the text of every address in the network, and of no other, begins the same.

    Canonical text writes the longest run of two or more zero groups as ``::``. A prefix whose own
    zeros may become part of such a run therefore begins differently from address to address.
    """
    if network.prefixlen % _GROUP_BITS:
        return False
    groups = _groups(network)
    return groups[-1] != 0 and all(one or two for one, two in zip(groups, groups[1:]))


def _alternatives(network: ipaddress.IPv6Network) -> str:
    """Name the narrowest wider network with a pattern, and a narrower one (or single addresses)."""
    bits = network.prefixlen
    choices = []
    for wider_bits in range((bits - 1) // _GROUP_BITS * _GROUP_BITS, 0, -_GROUP_BITS):
        wider = network.supernet(new_prefix=wider_bits)
        if _has_pattern(wider):
            choices.append(f"the wider {wider}")
            break
    narrower_bits = (bits // _GROUP_BITS + 1) * _GROUP_BITS
    if narrower_bits < _IPV6_BITS:
        step = 1 << (_IPV6_BITS - narrower_bits)
        example = int(network.network_address)
        if not example >> (_IPV6_BITS - narrower_bits) & 0xFFFF:
            example += step
        narrower = ipaddress.IPv6Network((example, narrower_bits))
        if _has_pattern(narrower):
            choices.append(f"the /{narrower_bits} networks in it that are used, such as {narrower}")
    choices.append("single addresses")
    return "write " + ", or ".join(choices)
