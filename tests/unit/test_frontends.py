"""What ufw and firewalld are told: enough, and never anything about rules that are not ours."""

import pytest
from peat.frontends import firewalld_plan, ports, ufw_plan

HEADER = "Added user rules (see 'ufw status' for running firewall):\n"
OURS = "ufw allow 8080/tcp comment 'peat'\n"


def test_ports_are_written_as_both_programs_read_them():
    openings = [(8080, "tcp"), (53, "udp"), (8080, "tcp")]
    assert ports({"port": port, "protocol": protocol} for port, protocol in openings) == ["8080/tcp", "53/udp"]


@pytest.mark.parametrize(
    ("added", "wanted", "calls"),
    [
        ("", ["8080/tcp"], [["ufw", "allow", "8080/tcp", "comment", "peat"]]),
        (OURS, ["8080/tcp"], []),
        (OURS, [], [["ufw", "delete", "allow", "8080/tcp"]]),
        (
            OURS,
            ["8081/tcp"],
            [["ufw", "allow", "8081/tcp", "comment", "peat"], ["ufw", "delete", "allow", "8080/tcp"]],
        ),
        # Open for everybody already: theirs stays theirs.
        ("ufw allow 8080\n", ["8080/tcp"], []),
        ("ufw allow 8080/tcp\n", ["8080/tcp"], []),
        ("ufw allow 8080/tcp comment 'by hand'\n", ["8080/tcp"], []),
        # Not open for everybody, or not this port.
        ("ufw allow from 192.0.2.1 to any port 8080 proto tcp\n", ["8080/tcp"], [["ufw", "allow", "8080/tcp"]]),
        ("ufw deny 8080/tcp\n", ["8080/tcp"], [["ufw", "allow", "8080/tcp"]]),
        ("ufw allow 8080/udp\n", ["8080/tcp"], [["ufw", "allow", "8080/tcp"]]),
        # What we did not make is not taken away.
        ("ufw allow 22/tcp\nufw allow 9000/tcp comment 'peat of mine'\n", [], []),
    ],
)
def test_ufw(added, wanted, calls):
    made = ufw_plan(HEADER + added, wanted)
    assert [call[: len(expected)] for call, expected in zip(made, calls, strict=True)] == calls


def words(calls):
    return [" ".join(call).removeprefix("firewall-cmd ") for call in calls]


def test_firewalld_gets_a_policy_of_our_own_that_precedes_every_zone():
    assert words(firewalld_plan(None, None, ["8080/tcp"])) == [
        "--permanent --new-policy peat",
        "--permanent --policy peat --add-ingress-zone ANY",
        "--permanent --policy peat --add-egress-zone HOST",
        "--permanent --policy peat --add-port 8080/tcp",
        "--reload",
    ]


@pytest.mark.parametrize(
    ("permanent", "runtime", "wanted", "calls"),
    [
        (["8080/tcp"], ["8080/tcp"], ["8080/tcp"], []),
        (None, None, [], []),
        # A port that moves needs no reload, which would drop what the administrator set for now only.
        (
            ["8080/tcp"],
            ["8080/tcp"],
            ["8081/tcp"],
            [
                "--permanent --policy peat --add-port 8081/tcp",
                "--permanent --policy peat --remove-port 8080/tcp",
                "--policy peat --add-port 8081/tcp",
                "--policy peat --remove-port 8080/tcp",
            ],
        ),
        # A run that made the policy was interrupted.
        (
            [],
            None,
            ["8080/tcp"],
            [
                "--permanent --policy peat --add-ingress-zone ANY",
                "--permanent --policy peat --add-egress-zone HOST",
                "--permanent --policy peat --add-port 8080/tcp",
                "--reload",
            ],
        ),
        (["8080/tcp"], [], ["8080/tcp"], ["--policy peat --add-port 8080/tcp"]),
        (["8080/tcp"], None, ["8080/tcp"], ["--reload"]),
    ],
)
def test_firewalld_is_told_only_the_difference(permanent, runtime, wanted, calls):
    assert words(firewalld_plan(permanent, runtime, wanted)) == calls
