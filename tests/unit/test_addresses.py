"""Addresses and account hosts, above all: a host must match exactly the network it stands for."""

import ipaddress
import socket

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from peat.addresses import (
    ANYWHERE,
    AddressError,
    account_host,
    contains,
    display,
    network_of,
    parse,
    specificity,
)

USABLE = {
    "192.0.2.7": "192.0.2.7",
    "192.0.2.0/24": "192.0.2.0/255.255.255.0",
    "192.0.2.0/255.255.255.0": "192.0.2.0/255.255.255.0",
    "198.51.100.16/28": "198.51.100.16/255.255.255.240",
    "10.0.0.0/8": "10.0.0.0/255.0.0.0",
    "192.0.2.7/32": "192.0.2.7",
    "127.0.0.1": "127.0.0.1",
    "2001:DB8:0001:0::7": "2001:db8:1::7",
    "2001:db8:1::7/128": "2001:db8:1::7",
    "2001:db8:1::/48": "2001:db8:1:%",
    "fd00:77::/32": "fd00:77:%",
    "2001::/16": "2001:%",
    "2001:db8:0:1::/64": "2001:db8:0:1:%",
    "2001:db8:1:2:3:4:5:0/112": "2001:db8:1:2:3:4:5:%",
    "::1": "::1",
    "%": "%",
}


@pytest.mark.parametrize(("text", "host"), USABLE.items())
def test_account_host(text, host):
    assert account_host(parse(text)) == host


@pytest.mark.parametrize("text", USABLE)
def test_network_of_is_the_reverse(text):
    assert network_of(account_host(parse(text))) == parse(text)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "192.0.2.%",
        "192.0.2.0/24",
        "192.0.2.7/255.255.255.0",
        "192.0.2.0/0.0.0.255",
        "pc7.example.org",
        "2001:db8:1::/48",
        "2001:DB8:1:%",
        "2001:db8:1:0:%",
        "2001:0db8::7",
        "fd00:77::%",
        "2001:db8:1:2:3:4:5:6:%",
        ":%",
        "",
    ],
)
def test_hosts_never_made_have_no_network(host):
    assert network_of(host) is None


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("192.0.2.9/24", "write 192.0.2.0/24 for the whole network or 192.0.2.9 for that one address"),
        ("192.0.2.9/255.255.255.0", "write 192.0.2.0/24"),
        ("2001:db8:1::7/48", "write 2001:db8:1::/48"),
        ("192.0.2.%", "write 192.0.2.0/24"),
        ("10.*", "write 10.0.0.0/8"),
        ("0.0.0.0/0", "write '%'"),
        ("0.0.0.0/0.0.0.0", "write '%'"),
        ("::/0", "write '%'"),
        ("0.0.0.0", "write '%'"),
        ("::", "write '%'"),
        ("::ffff:192.0.2.7", "write 192.0.2.7"),
        ("::ffff:192.0.2.0/120", "write 192.0.2.0/24"),
        ("::192.0.2.7", "write 192.0.2.7"),
        ("fe80::1", "write the client's global or fd00::/8 address"),
        ("fe80::/10", "write the client's global"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("pc7.example.org", "is a host name"),
        ("localhost", "is a host name"),
        ("192.0.2.0/33", "is not an address"),
        ("192.0.2.256", "is not an address"),
        ("192.0.2", "is not an address"),
        ("192.0.2.010", "is not an address"),
        ("192.0.2.0/0.0.0.255", "is not an address"),
        ("192.0.2.0/255.0.255.0", "is not an address"),
        ("192.0.2.1-9", "is not an address"),
        ("192.0.2.1 ", "is not an address"),
        ("fe80::1%eth0", "is not an address"),
        ("2001:db8::1::2", "is not an address"),
        ("192.0.2.0/24/24", "is not an address"),
        ("", "is not an address"),
        (120070, "put the address in quotes"),
        (None, "put the address in quotes"),
    ],
)
def test_refused_with_the_remedy(text, remedy):
    with pytest.raises(AddressError) as caught:
        parse(text)
    assert remedy in str(caught.value)


@pytest.mark.parametrize(
    ("text", "alternatives"),
    [
        (
            "2001:db8:1::/56",
            "the wider 2001:db8:1::/48, or the /64 networks in it that are used, such as 2001:db8:1:1::/64",
        ),
        (
            "2001:db8:1::/64",
            "the wider 2001:db8:1::/48, or the /80 networks in it that are used, such as 2001:db8:1:0:1::/80",
        ),
        (
            "2001:db8:1:8::/61",
            "the wider 2001:db8:1::/48, or the /64 networks in it that are used, such as 2001:db8:1:8::/64",
        ),
        ("2001:db8:0:0:1::/80", "write the wider 2001:db8::/32, or single addresses"),
        ("fd00::/8", "write the /16 networks in it that are used, such as fd00::/16, or single addresses"),
        ("2001:db8:1:2:3:4:5:8/126", "write the wider 2001:db8:1:2:3:4:5:0/112, or single addresses"),
    ],
)
def test_ipv6_without_a_host_text_names_usable_alternatives(text, alternatives):
    with pytest.raises(AddressError) as caught:
        account_host(parse(text))
    message = str(caught.value)
    assert alternatives in message
    for word in message.partition("): ")[2].replace(",", "").split():
        if "::/" in word or ":0/" in word:
            account_host(parse(word))


ipv4_networks = st.builds(
    lambda bits, length: ipaddress.IPv4Network((bits >> (32 - length) << (32 - length), length)),
    st.integers(1 << 24, (224 << 24) - 1),
    st.integers(8, 32),
)
# Groups of zeros are what makes IPv6 text hard, so they are frequent here.
ipv6_addresses = st.lists(
    st.sampled_from([0, 0, 0, 1, 0xDB8, 0x1000]) | st.integers(0, 0xFFFF), min_size=8, max_size=8
).map(lambda groups: ipaddress.IPv6Address(b"".join(group.to_bytes(2, "big") for group in groups)))


def prefix(groups):
    """The network of some leading groups, zeros beside zeros made 1."""
    for index in range(1, len(groups)):
        groups[index] = groups[index] or int(not groups[index - 1])
    packed = b"".join(group.to_bytes(2, "big") for group in groups).ljust(16, b"\0")
    return ipaddress.IPv6Network((packed, 16 * len(groups)))


ipv6_prefixes = st.lists(
    st.sampled_from([0, 0, 1, 0xDB8, 0x1000]) | st.integers(0, 0xFFFF), min_size=1, max_size=7
).map(prefix)


def in_network(address, length):
    return ipaddress.IPv6Network((int(address) >> (128 - length) << (128 - length), length))


def client_text(address):
    """The text the C library, and so a server, makes of an address."""
    return socket.inet_ntop(socket.AF_INET6, address.packed)


def parsed(network):
    try:
        return parse(str(network)) == network
    except AddressError:
        return False


def usable(network):
    try:
        account_host(network)
    except AddressError:
        return False
    return parsed(network)


@given(ipv4_networks)
def test_ipv4_round_trip(network):
    assume(usable(network))
    assert network_of(account_host(network)) == network


@given(ipv6_prefixes)
def test_ipv6_round_trip(network):
    assume(usable(network))
    assert network_of(account_host(network)) == network


@given(ipv6_addresses)
def test_single_ipv6_address_is_written_as_a_server_sees_it(address):
    assume(usable(ipaddress.IPv6Network(address)))
    assert account_host(ipaddress.IPv6Network(address)) == client_text(address)


@given(ipv6_prefixes, ipv6_addresses, st.booleans())
@example(ipaddress.ip_network("2001:db8:1::/48"), ipaddress.ip_address("2001:db8:1::7"), False)
@example(ipaddress.ip_network("2001:db8:0:1::/64"), ipaddress.ip_address("2001:db8:0:1::7"), False)
@example(ipaddress.ip_network("2001:db8:1:2:3:4:5:0/112"), ipaddress.ip_address("2001:db8:1:2:3:4:5:0"), False)
def test_ipv6_pattern_matches_exactly_the_prefix(network, client, inside):
    assume(usable(network))
    if inside:  # a random client is hardly ever in a random network
        client = ipaddress.IPv6Address(int(network.network_address) | (int(client) & int(network.hostmask)))
    pattern = account_host(network)
    assert pattern.endswith("%")
    assert client_text(client).startswith(pattern[:-1]) == (client in network)


@given(ipv6_addresses, st.sampled_from(range(16, 128, 16)))
def test_refused_ipv6_prefix_has_no_common_text(address, length):
    """Every refusal is needed: the groups of the prefix do not begin the text of all its addresses."""
    network = in_network(address, length)
    assume(parsed(network) and not usable(network))
    groups = network.network_address.exploded.split(":")[: length // 16]
    text = ":".join(f"{int(group, 16):x}" for group in groups) + ":"
    first, last = client_text(network[0]), client_text(network[-1])
    assert not (first.startswith(text) and last.startswith(text))


def test_contains_and_specificity_order_as_a_server_does():
    campus, room, desk = parse("192.0.2.0/24"), parse("192.0.2.16/28"), parse("192.0.2.17")
    assert contains(ANYWHERE, campus) and contains(campus, room) and contains(room, desk)
    assert not contains(desk, room) and not contains(campus, ANYWHERE)
    assert not contains(campus, parse("2001:db8:1::/48"))
    assert specificity(desk) > specificity(room) > specificity(campus) > specificity(ANYWHERE)


def test_display():
    assert [display(parse(text)) for text in ("192.0.2.7/32", "192.0.2.0/255.255.255.0", "%", "2001:DB8::1")] == [
        "192.0.2.7",
        "192.0.2.0/24",
        "%",
        "2001:db8::1",
    ]
