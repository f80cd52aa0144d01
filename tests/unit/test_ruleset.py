"""The table a list of openings becomes, and how a live one is told from it."""

import ipaddress
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peat import ruleset
from peat.ruleset import Opening, RulesetError, Session, State, flatten, openings, plan, render, session

ADMIN = Session("203.0.113.9", 22)


def opening(port=8080, sources=("192.0.2.0/24",), **more):
    return {"port": port, "sources": list(sources), **more}


def sources(managed, port=8080, protocol="tcp"):
    [found] = [one for one in managed if (one.port, one.protocol) == (port, protocol)]
    return found.sources(4) + found.sources(6)


def rules(managed, default_deny=False):
    lines = flatten(render(managed, default_deny)).splitlines()
    return [line.removeprefix("chain input: ") for line in lines if line.startswith("chain input: ")]


# Openings


def test_entries_of_one_port_add_up_and_collapse():
    managed = openings(
        [
            opening(sources=["192.0.2.128/25", "2001:db8::/48"], comment="campus"),
            opening(9999, protocol="udp"),
            opening(sources=["192.0.2.0/25", "192.0.2.7", "198.51.100.7"], comment="guests"),
            opening(sources=["2001:DB8:0:1::/64"], comment="campus"),
        ]
    )
    assert [(one.port, one.protocol, one.comment) for one in managed] == [
        (8080, "tcp", "campus, guests"),
        (9999, "udp", ""),
    ]
    assert sources(managed) == ["192.0.2.0/24", "198.51.100.7", "2001:db8::/48"]


def test_tcp_and_udp_of_one_number_are_two_ports():
    managed = openings([opening(sources=["192.0.2.1"]), opening(protocol="udp", sources=["192.0.2.2"])])
    assert sources(managed) == ["192.0.2.1"]
    assert sources(managed, protocol="udp") == ["192.0.2.2"]


def test_percent_is_everybody():
    assert sources(openings([opening(sources=["192.0.2.1", "%"])])) == ["0.0.0.0/0", "::/0"]


def test_no_source_leaves_a_port_that_refuses_everybody():
    managed = openings([opening(sources=[])])
    assert sources(managed) == []
    assert "tcp dport 8080 counter reject with tcp reset" in rules(managed)


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(24, 32)), max_size=30))
def test_collapsed_sources_hold_the_same_addresses_and_never_overlap(pairs):
    wanted = [ipaddress.ip_network((0xC0000200 | last, prefix), strict=False) for last, prefix in pairs]
    got = [ipaddress.ip_network(source) for source in sources(openings([opening(sources=map(str, wanted))]))]
    addresses = [address for network in got for address in network]
    assert len(addresses) == len(set(addresses))
    assert set(addresses) == {address for network in wanted for address in network}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (opening(sources=["192.0.2.1/24"]), "'192.0.2.1/24' has host bits set: write 192.0.2.0/24"),
        (opening(sources=["server.example.org"]), "is a host name"),
        (opening(sources=["192.0.2.300"]), "'192.0.2.300' is not an address"),
        (opening(0), "(port 0): not a port: write one from 1 to 65535"),
        (opening(65536), "not a port"),
        (opening(protocol="sctp"), "protocol 'sctp': write one of tcp, udp"),
        (opening(comment='say "hello"'), "leave out quotation marks"),
        (opening(comment="two\nlines"), "leave out quotation marks"),
        (opening(comment="ä" * 61), "more than 120 bytes"),
    ],
)
def test_bad_input_is_refused_with_the_entry_and_the_remedy(wrong, told):
    with pytest.raises(RulesetError) as caught:
        openings([opening(9000), wrong])
    [problem] = caught.value.problems
    assert problem.startswith("firewall_openings")
    assert told in problem
    assert f"port {wrong['port']}" in problem


def test_all_problems_are_told_at_once():
    with pytest.raises(RulesetError) as caught:
        openings([opening(0, ["x/y"])], ssh_port=0, admin_sources=["nowhere"])
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "firewall_openings[0] (port 0)",
        "firewall_openings[0] (port 0)",
        "firewall_admin_sources",
        "firewall_ssh_port",
    ]


# ssh


def test_ssh_is_left_alone_unless_asked():
    managed = openings([opening()], admin_sources=["198.51.100.1"], ssh=ADMIN)
    assert [one.port for one in managed] == [8080]


def test_default_deny_keeps_ssh_for_administrators_and_the_running_session():
    managed = openings([opening()], default_deny=True, admin_sources=["2001:db8::1"], ssh=ADMIN)
    assert sources(managed, 22) == ["203.0.113.9", "2001:db8::1"]


def test_the_port_of_the_running_session_is_kept_as_well_as_the_configured_one():
    # Behind a port forwarding the inventory's port is not the one sshd listens on.
    managed = openings([], default_deny=True, ssh_port=2222, ssh=ADMIN)
    assert sources(managed, 22) == sources(managed, 2222) == ["203.0.113.9"]


def test_an_opening_of_the_ssh_port_never_shuts_the_running_session_out():
    managed = openings([opening(22)], admin_sources=["198.51.100.1"], ssh=ADMIN)
    assert sources(managed, 22) == ["192.0.2.0/24", "198.51.100.1", "203.0.113.9"]


def test_default_deny_without_any_known_administrator_is_refused():
    with pytest.raises(RulesetError, match=r"lock everybody out of ssh.*firewall_admin_sources"):
        openings([opening()], default_deny=True)
    assert sources(openings([], default_deny=True, admin_sources=["192.0.2.1"]), 22) == ["192.0.2.1"]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("203.0.113.9 51234 192.0.2.10 22", Session("203.0.113.9", 22)),
        ("2001:db8::9 51234 2001:db8::10 2222", Session("2001:db8::9", 2222)),
        ("fe80::9%eth0 51234 fe80::10%eth0 22", Session("fe80::9", 22)),
        ("", None),
    ],
)
def test_session_is_read_from_the_environment_of_ssh(value, found):
    assert session({"SSH_CONNECTION": value}) == found


def test_without_ssh_there_is_no_session():
    assert session({}) is None


# The table


def test_a_connection_that_is_open_gets_no_way_around_the_sources():
    managed = openings([opening(), opening(9000)])
    assert not any(" ct " in f" {rule} " for rule in rules(managed))
    # With default deny there is such a rule; it comes after every managed port.
    listed = rules(openings([opening()], default_deny=True, ssh=ADMIN), default_deny=True)
    established = next(i for i, rule in enumerate(listed) if rule.startswith("ct state established"))
    assert all("dport 8080" not in rule and "dport 22" not in rule for rule in listed[established:])


def test_each_port_accepts_its_sources_and_refuses_everybody_else_at_once():
    assert rules(openings([opening(comment="campus"), opening(9000, protocol="udp")])) == [
        "type filter hook input priority filter - 5; policy accept;",
        'iifname "lo" accept',
        'tcp dport 8080 ip saddr @tcp_8080_ipv4 accept comment "campus"',
        'tcp dport 8080 ip6 saddr @tcp_8080_ipv6 accept comment "campus"',
        "tcp dport 8080 counter reject with tcp reset",
        "udp dport 9000 ip saddr @udp_9000_ipv4 accept",
        "udp dport 9000 ip6 saddr @udp_9000_ipv6 accept",
        "udp dport 9000 counter reject with icmpx admin-prohibited",
    ]


def test_nothing_else_is_refused_unless_default_deny():
    assert not any("reject" in rule for rule in rules(()))
    assert rules((), default_deny=True)[-2:] == [
        "meta l4proto tcp counter reject with tcp reset",
        "counter reject with icmpx admin-prohibited",
    ]


def test_the_file_replaces_the_table_in_one_transaction():
    lines = [line for line in render(openings([opening()])).splitlines() if not line.startswith("#")]
    assert lines[:3] == ["add table inet peat", "delete table inet peat", "table inet peat {"]


# As nftables 1.0.6 lists the table of the openings beside it; a counter's numbers are left out by `nft -s`.
LISTING = """table inet peat {
	set tcp_8080_ipv4 {
		type ipv4_addr
		flags interval
		elements = { 10.0.0.7, 192.0.2.0/24,
			198.51.100.0/24 }
	}

	set tcp_8080_ipv6 {
		type ipv6_addr
		flags interval
	}

	chain input {
		type filter hook input priority filter - 5; policy accept;
		iifname "lo" accept
		tcp dport 8080 ip saddr @tcp_8080_ipv4 accept
		tcp dport 8080 ip6 saddr @tcp_8080_ipv6 accept
		tcp dport 8080 counter reject with tcp reset
	}
}
"""
LISTED = [opening(sources=["198.51.100.0/24", "192.0.2.0/24", "10.0.0.7"])]


def test_a_rendered_table_reads_like_a_listed_one():
    assert flatten(render(openings(LISTED))) == flatten(LISTING)


def test_every_source_is_a_line_of_its_own_that_names_its_port():
    assert [line for line in flatten(LISTING).splitlines() if line.startswith("set tcp_8080_ipv4: ")][2:] == [
        "set tcp_8080_ipv4: 10.0.0.7",
        "set tcp_8080_ipv4: 192.0.2.0/24",
        "set tcp_8080_ipv4: 198.51.100.0/24",
    ]


def test_order_of_elements_is_no_difference():
    assert flatten(LISTING.replace("10.0.0.7, 192.0.2.0/24", "192.0.2.0/24, 10.0.0.7")) == flatten(LISTING)


@pytest.mark.parametrize(
    ("text", "drifted"),
    [
        ("10.0.0.7, ", ""),
        ("10.0.0.7, ", "10.0.0.7, 10.0.0.8, "),
        ("\t\ttcp dport 8080 counter reject with tcp reset\n", ""),
        ('iifname "lo" accept', 'iifname "lo" accept\n\t\taccept'),
        ("policy accept", "policy drop"),
        ("table inet peat {", "table inet peat {\n\tflags dormant"),
        ("\tchain input", "\tset more {\n\t\ttype ipv4_addr\n\t}\n\n\tchain input"),
    ],
)
def test_every_drift_is_a_difference(text, drifted):
    assert text in LISTING
    assert flatten(LISTING.replace(text, drifted)) != flatten(LISTING)


def test_ten_thousand_sources_are_rendered_and_read_back():
    numbers = random.Random(1).sample(range(2**24, 2**28), 10_000)
    managed = openings([opening(sources=[str(ipaddress.IPv4Address(number)) for number in numbers])])
    assert sum(line.count(".") == 3 for line in flatten(render(managed)).splitlines()) == len(sources(managed)) > 9_900


# The plan


WANTED = State(flatten(LISTING), {ruleset.FILE: "table", ruleset.UNIT_FILE: "unit"}, "enabled, active")


def test_a_host_that_is_as_wanted_needs_nothing():
    made = plan(WANTED, WANTED)
    assert (made.load, made.write, made.start) == (False, (), False)
    assert made.before == made.after


@pytest.mark.parametrize(
    ("found", "needs", "line"),
    [
        ({"table": ""}, (True, (), False), "-set tcp_8080_ipv4: 10.0.0.7"),
        (
            {"files": {ruleset.FILE: "other", ruleset.UNIT_FILE: "unit"}},
            (False, (ruleset.FILE,), False),
            "-file /etc/peat-firewall.nft: ok",
        ),
        (
            {"files": {ruleset.FILE: "table", ruleset.UNIT_FILE: None}},
            (False, (ruleset.UNIT_FILE,), False),
            "-file /etc/systemd/system/peat-firewall.service: ok",
        ),
        ({"unit": "disabled, active"}, (False, (), True), "-unit peat-firewall.service: enabled, active"),
    ],
)
def test_only_what_differs_is_done_and_shown(found, needs, line):
    made = plan(State(**{**WANTED.__dict__, **found}), WANTED)
    assert (made.load, made.write, made.start) == needs
    assert line.removeprefix("-") in made.after.splitlines()
    assert line.removeprefix("-") not in made.before.splitlines()


def test_a_few_elements_are_changed_where_they_are():
    """So no client that stays in the list is refused while the table would be replaced."""
    found = LISTING.replace("10.0.0.7, 192.0.2.0/24", "10.0.0.8, 192.0.2.0/24")
    made = plan(State(flatten(found), WANTED.files, WANTED.unit), WANTED)
    assert made.load
    assert made.update == (
        "delete element inet peat tcp_8080_ipv4 { 10.0.0.8 }\nadd element inet peat tcp_8080_ipv4 { 10.0.0.7 }\n"
    )


@pytest.mark.parametrize(
    "found",
    [
        "",
        LISTING.replace("policy accept", "policy drop"),
        LISTING.replace("10.0.0.7, ", "10.0.0.7, 10.0.0.8-10.0.0.9, "),
        LISTING.replace("10.0.0.7, ", "10.0.0.7, " + "".join(f"10.0.1.{number}, " for number in range(51))),
    ],
)
def test_anything_else_replaces_the_table(found):
    made = plan(State(flatten(found), WANTED.files, WANTED.unit), WANTED)
    assert (made.load, made.update) == (True, "")


def test_addresses_are_written_as_nft_lists_them():
    networks = tuple(map(ipaddress.ip_network, ("192.0.2.1/32", "192.0.2.8/29", "2001:db8::1/128", "2001:db8::/32")))
    one = Opening(1, "tcp", networks)
    assert one.sources(4) == ["192.0.2.1", "192.0.2.8/29"]
    assert one.sources(6) == ["2001:db8::1", "2001:db8::/32"]
