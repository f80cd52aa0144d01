"""ufw and firewalld: what they must be told so that they do not refuse what our table accepts.

A packet has to pass every firewall of a host, so each of them must let the managed ports through;
which addresses may come is decided by our own table alone, one list in one place. Everything made
here carries the name MARK, and nothing else is ever taken away.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

MARK = "peat"
RUNTIME: tuple[str, ...] = ()
PERMANENT = ("--permanent",)

_UFW_OWN = re.compile(rf"ufw allow (\d+/(?:tcp|udp)) comment '{MARK}'")
_UFW_OPEN = re.compile(r"ufw allow (\d+(?:/(?:tcp|udp))?)(?: comment '.*')?")


def ports(openings: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the ports of openings, each once, as both programs write them: ``8080/tcp``."""
    return list(dict.fromkeys(f"{opening['port']}/{opening['protocol']}" for opening in openings))


def ufw_own(added: str) -> list[str]:
    """Return the ports this role opened, from the output of ``ufw show added``."""
    return [match[1] for match in map(_UFW_OWN.fullmatch, added.splitlines()) if match]


def ufw_plan(added: str, wanted: Collection[str]) -> list[list[str]]:
    """Return the calls of ufw that open `wanted`, and nothing else, in our name.

    A port that the administrator opened for everybody needs no rule of ours; adding one would
    overwrite the comment of theirs and so take it over.
    """
    own = ufw_own(added)
    opened = {match[1] for match in map(_UFW_OPEN.fullmatch, added.splitlines()) if match}
    calls = [
        ["ufw", "allow", port, "comment", MARK]
        for port in wanted
        if port not in opened and port.partition("/")[0] not in opened
    ]
    return calls + [["ufw", "delete", "allow", port] for port in own if port not in wanted]


def firewalld_plan(
    permanent: Collection[str] | None, runtime: Collection[str] | None, wanted: Collection[str]
) -> list[list[str]]:
    """Return the calls of firewall-cmd that make a policy of our own open exactly `wanted`.

    `permanent` and `runtime` are the ports that our policy opens now, None where there is no such
    policy. It stands before every zone, so it holds whatever zone a client is in. A policy that is
    new to the running firewalld needs a reload, the only way to get one there.
    """
    policy = ("--policy", MARK)
    calls: list[list[str]] = []

    def call(scope: tuple[str, ...], *options: str) -> None:
        calls.append(["firewall-cmd", *scope, *options])

    if permanent is None:
        if not wanted:
            return []
        call(PERMANENT, "--new-policy", MARK)
    if wanted and not permanent:
        # Also if a run that made the policy was interrupted; firewalld does not mind a repetition.
        call(PERMANENT, *policy, "--add-ingress-zone", "ANY")
        call(PERMANENT, *policy, "--add-egress-zone", "HOST")
    for scope, opened in ((PERMANENT, permanent or ()), (RUNTIME, runtime)):
        if opened is None:
            call((), "--reload")
            continue
        for port in wanted:
            if port not in opened:
                call(scope, *policy, "--add-port", port)
        for port in opened:
            if port not in wanted:
                call(scope, *policy, "--remove-port", port)
    return calls
