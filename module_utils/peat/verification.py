"""What a live lab is held against its list for: which logins are tried, and what the answers say.

A check is a row, ``{check, found, ok}``: what was looked at, what it is, whether that is as declared. Nothing
here touches a server. `tries` says what a vantage point is to try, `verdict` what came of it.
"""

from __future__ import annotations

import calendar
import ipaddress
import textwrap
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from .addresses import contains, parse
from .lab import ADMIN, CERTIFICATE, FORWARDER, RELSTORAGE, REQUIRED, Lab, level_at, of_backend, openings

#: With a name that no list can have, so that nobody's account is meant.
NOBODY = "+nobody"
WRONG = "+wrong"

#: How a try connects: encrypted with a verified server, as the server offers it, in clear, through the forwarder.
VERIFIED, AS_OFFERED, CLEAR, THROUGH = "verified", "as offered", "clear", "forwarder"

#: What a try is about. Only the last two are no logins.
IN, WRONG_PASSWORD, UNKNOWN, ELSEWHERE, UNENCRYPTED, NO_CERTIFICATE, PAST_FORWARDER = (
    "in",
    "wrong password",
    "unknown",
    "elsewhere",
    "unencrypted",
    "no certificate",
    "past the forwarder",
)
CLOSED, OPEN = "closed", "open"

#: After so many refusals that the list does not want, an address tries no more: failed logins get it refused.
MOST_REFUSALS = 3

#: With which a server says that somebody is not let in: no account, wrong password, no right to come, locked.
REFUSED = frozenset((1045, 1130, 1698, 3118, 4151))

_LISTEN = "0A"
_WIDTH = 100

Row = dict[str, Any]


def row(check: str, found: str | Sequence[str], ok: bool = True) -> Row:
    """Return a row; several things found are lines of it."""
    return {"check": check, "found": found if isinstance(found, str) else "\n".join(found), "ok": ok}


def held(check: str, problems: Sequence[str], well: str) -> Row:
    """Return the row of a check that found these problems, or that all is well."""
    return row(check, problems or well, not problems)


def few(texts: Sequence[str], most: int = 8) -> list[str]:
    """Return the first of many."""
    rest = len(texts) - most
    return [*texts[:most], f"and {rest} more"] if rest > 0 else list(texts)


# On the server


def listening(ipv4: str, ipv6: str) -> list[tuple[str, int, str]]:
    """Return address, port and socket of everything that listens, from /proc/net/tcp and tcp6."""
    found = []
    for text, groups in ((ipv4, 1), (ipv6, 4)):
        for line in text.splitlines()[1:]:
            words = line.split()
            if len(words) < 10 or words[3] != _LISTEN:
                continue
            address, port = words[1].split(":")
            # Groups of four bytes, each as a number of this machine.
            packed = b"".join(bytes.fromhex(address[8 * n : 8 * n + 8])[::-1] for n in range(groups))
            found.append((str(ipaddress.ip_address(packed)), int(port, 16), words[9]))
    return found


def reachable(address: str) -> bool:
    """Whether others than this host itself can connect to what listens there."""
    return not ipaddress.ip_address(address).is_loopback


def listeners(
    sockets: Iterable[tuple[str, int, str]], processes: Mapping[str, str], declared: Collection[int], guarded: bool
) -> Row:
    """Return the row of what listens besides `declared`; nothing does harm where the firewall refuses all else."""
    ports: dict[tuple[int, str], list[str]] = {}
    for address, port, socket in sockets:
        if reachable(address) and port not in declared:
            ports.setdefault((port, processes.get(socket, "an unknown process")), []).append(address)
    found = [
        f"{process} listens on port {port} of {', '.join(sorted(set(addresses)))}"
        for (port, process), addresses in sorted(ports.items())
    ]
    if guarded and found:
        return row("listening", [*few(found), "which the firewall refuses to everybody"])
    remedy = ["stop it, let it listen on 127.0.0.1, or name the port in peat_verify_listeners"] if found else []
    return held("listening", few(found) + remedy, f"nothing but ports {', '.join(map(str, sorted(declared)))}")


def watched(jails: Sequence[str], said: str) -> Row | None:
    """Return the row of fail2ban, by what `fail2ban-client status` said."""
    if not jails:
        return None
    running = said.rpartition("Jail list:")[2].replace(",", " ").split()
    missing = [f"fail2ban does not watch {jail}: site.yml starts it" for jail in jails if jail not in running]
    return held("failed logins", missing, "fail2ban watches for them")


def commit_locks(rows: Mapping[str, Sequence[int]]) -> Row | None:
    """Return the row of the commit locks: the row's tid of each database that has such a table."""
    if not rows:
        return None
    wrong = [
        f"{name} has {len(tids)} rows in commit_row_lock instead of one"
        + (": commits are not serialised" if not tids else ": nobody can commit")
        for name, tids in sorted(rows.items())
        if len(tids) != 1
    ]
    return held("commit lock", few(wrong), f"one row in each of {_count(rows, 'database')}")


def next_ids(behind: Mapping[str, tuple[int, int] | None]) -> Row | None:
    """Return the row of the next object ids; of each database the next and the highest one, if it is behind."""
    if not behind:
        return None
    wrong = [
        f"{name} would give out ids from {found[0]}, objects up to {found[1]} exist: new ones overwrite them"
        for name, found in sorted(behind.items())
        if found
    ]
    return held("next object id", few(wrong), f"above every stored object in {_count(behind, 'database')}")


def protocols(offered: str) -> Row:
    """Return the row of the protocol versions that a server offers, or would with a certificate."""
    versions = [version.strip() for version in offered.split(",") if version.strip()]
    old = [f"{version} is offered" for version in versions if version not in ("TLSv1.2", "TLSv1.3")]
    return held("TLS versions", old, ", ".join(versions))


def certificates(expiry: Sequence[Mapping[str, Any]], problems: Sequence[str]) -> Row | None:
    """Return the row of the certificates on the controller; `problems` says what is missing or about to expire."""
    if not expiry and not problems:
        return None
    first = min(expiry, key=lambda entry: entry["days_left"], default={})
    well = (
        f"{_count(expiry, 'certificate')}, the first ends on {first.get('not_after')} ({first.get('days_left')} days)"
    )
    return held("certificates", few(problems), well)


def backups(found: Mapping[str, Mapping[str, float | None]], hours: float, now: float) -> Row | None:
    """Return the row of the backups of each project: when its last `ended`, and since when there `is` data.

    Both are times, None for never.
    """
    if not found:
        return None
    oldest, problems, fresh = 0.0, [], []
    for name, times in sorted(found.items()):
        if times["ended"] is not None:
            age = (now - times["ended"]) / 3600
            oldest = max(oldest, age)
            if age > hours:
                problems.append(f"the last of {name} is {_age(age)} old")
        elif times["since"] is not None and (now - times["since"]) / 3600 > hours:
            problems.append(f"{name} has none, and data for {_age((now - times['since']) / 3600)}")
        else:
            fresh.append(name)
    well = [f"the oldest of {_count(found, 'project')} is {_age(oldest)} old"] if len(fresh) < len(found) else []
    well += [f"{', '.join(few(fresh))}: none yet"] if fresh else []
    return held("backups", few(problems), "; ".join(well))


def service(code: int, said: str, answers: bool) -> Row:
    """Return the row of a ZEO server: what `zeoctl status` said of it, and whether it answers."""
    if answers and code == 0:
        return row("service", "it answers, and zeoctl status says so")
    word = said.strip().splitlines()[-1] if said.strip() else "nothing"
    truth = "it answers" if answers else "it does not answer"
    return row("service", f"{truth}; zeoctl status says {word!r} ({code})", False)


# From a vantage point: what to try


def at(lab: Lab, address: str) -> dict[str, dict[str, str]]:
    """Return who has access from an address: {person: {project: level}}."""
    entries: dict[tuple[str, str], list] = {}
    for entry in lab.matrix:
        entries.setdefault((entry.person, entry.project), []).append(entry)
    found: dict[str, dict[str, str]] = {}
    for (person, project), rows in entries.items():
        if level := level_at(rows, address):
            found.setdefault(person, {})[project] = level
    return found


def open_at(lab: Lab, address: str, forwarded: bool = False) -> bool:
    """Whether the firewall lets an address through to the server's port, or to the forwarder's."""
    client = ipaddress.ip_network(address)
    return any(contains(parse(text), client) for text in openings(lab, forwarded))


def tries(
    lab: Lab,
    passwords: Mapping[str, str | None],
    address: str,
    port: int,
    forwarder_port: int | None = None,
    encrypted: bool = False,
    again: bool = False,
) -> list[dict[str, Any]]:
    """Return what to try at a database server from an address.

    `encrypted` is whether the server has a certificate that can be verified. Each way of being refused is tried
    once, whatever the number of people, because failed logins get an address refused; not at all if this is done
    `again`, at another of the server's addresses.
    """
    lab = of_backend(lab, RELSTORAGE)
    here, known = at(lab, address), {name: text for name, text in passwords.items() if text}
    forwarded = {name for name in here if lab.people[name].tls == FORWARDER}
    planned = []
    if forwarder_port:
        if open_at(lab, address, forwarded=True):
            planned += [_login(IN, name, known, forwarder_port, THROUGH) for name in here if name in forwarded]
        else:
            planned.append({"about": CLOSED, "port": forwarder_port})
    if not open_at(lab, address):
        return [*planned, {"about": CLOSED, "port": port}]
    usual = VERIFIED if encrypted else AS_OFFERED
    direct = [name for name in here if name not in forwarded]
    if lab.admin and any(contains(network, parse(address)) for network in lab.admin.networks):
        direct.append(ADMIN)
    planned += [_login(IN, name, known, port, usual) for name in direct]
    if again:
        return planned
    for name in direct[:1]:
        planned.append({**_login(WRONG_PASSWORD, name, {}, port, usual), "password": WRONG})
    planned.append({**_login(UNKNOWN, NOBODY, {}, port, usual), "password": WRONG})
    everybody = {entry.person for entry in lab.matrix}
    elsewhere = [name for name in lab.people if name in everybody and name not in here and name in known]
    planned += [_login(ELSEWHERE, name, known, port, usual) for name in elsewhere[:1]]
    planned += _demands(lab, [name for name in here if name in known], known, port, usual)
    return planned


def _demands(lab: Lab, people: Sequence[str], known: Mapping[str, str], port: int, usual: str) -> list[dict[str, Any]]:
    """Return the try that a demand for TLS, a certificate or the forwarder has to refuse; one of all people."""
    first: dict[str, str] = {}
    for name in people:
        first.setdefault(lab.people[name].tls, name)
    if name := first.get(REQUIRED):
        return [_login(UNENCRYPTED, name, known, port, CLEAR)]
    if name := first.get(CERTIFICATE):
        return [{**_login(NO_CERTIFICATE, name, known, port, VERIFIED), "certified": False}]
    if name := first.get(FORWARDER):
        return [_login(PAST_FORWARDER, name, known, port, usual)]
    return []


def _login(about: str, name: str, known: Mapping[str, str], port: int, way: str) -> dict[str, Any]:
    return {"about": about, "user": name, "password": known.get(name), "port": port, "way": way}


def door_tries(doors: Iterable[Mapping[str, Any]], address: str) -> list[dict[str, Any]]:
    """Return what to try at ports that are for some networks only and speak TLS from their first byte."""
    planned, client = [], ipaddress.ip_address(address)
    for door in doors:
        if any(client in ipaddress.ip_network(source) for source in door["sources"]):
            planned.append({"about": OPEN, "port": int(door["port"]), "way": VERIFIED})
        else:
            planned.append({"about": CLOSED, "port": int(door["port"]), "why": door["why"]})
    return planned


def zeo_tries(lab: Lab, address: str, port: int, certified: bool, verified: bool) -> list[dict[str, Any]]:
    """Return what to try at a ZEO server from an address.

    `certified` is whether it asks for certificates, `verified` whether those are of the lab's authority: of
    others nobody here has one to try with.
    """
    if not open_at(lab, address):
        return [{"about": CLOSED, "port": port}]
    if not certified:
        return [{"about": OPEN, "port": port, "way": CLEAR}]
    person = next(iter(at(lab, address)), None)
    return [
        *([{"about": OPEN, "port": port, "way": VERIFIED, "user": person}] if verified else []),
        {"about": NO_CERTIFICATE, "port": port, "way": VERIFIED, "certified": False},
        {"about": UNENCRYPTED, "port": port, "way": CLEAR},
    ]


# What came of it


def unwanted(tried: Iterable[Mapping[str, Any]], answers: Iterable[Mapping[str, Any]]) -> int:
    """Return how many of those whom the list lets in were refused."""
    return sum(one["about"] == IN and answer.get("number") in REFUSED for one, answer in zip(tried, answers))


def verdict(
    lab: Lab,
    address: str,
    tried: Sequence[Mapping[str, Any]],
    answers: Sequence[Mapping[str, Any]],
    now: float,
    fail_days: int,
    fingerprint: str = "",
) -> list[Row]:
    """Return the rows of what a vantage point tried from one address.

    An answer has `in` with `databases`, `tls`, `not_after` and `fingerprint`, or is a refusal: a database server's
    with a `number`, a ZEO server's with `reached`, the network's with neither. `text` says it in words, `seen` as
    which address the server sees the vantage point. `fingerprint` is of the certificate that is to be shown.
    """
    pairs = list(zip(tried, answers))
    rows = [_reach(pairs), _let_in(lab, address, pairs), _refused(pairs)]
    rows += _encryption(pairs, now, fail_days, fingerprint)
    seen = {answer["seen"] for answer in answers if answer.get("seen")} - {address}
    if seen:
        text = f"the server sees {', '.join(sorted(seen))}: something on the way translates addresses, write that one"
        rows.append(row("address", f"{text} into the list, or verify from elsewhere", False))
    return [found for found in rows if found]


def _reach(pairs: Sequence[tuple[Mapping, Mapping]]) -> Row | None:
    """Return the row of the ports that are closed to an address, and of those a server answers at."""
    good, bad = [], []
    for one, answer in pairs:
        if one["about"] == CLOSED:
            why = one.get("why", "nobody of the list works there")
            if answer.get("in"):
                bad.append(f"port {one['port']} is open, though {why}")
            else:
                good.append(f"port {one['port']} refuses: {why}")
        elif one["about"] == OPEN:
            if answer.get("in"):
                good.append(f"port {one['port']} answers: {answer['text']}")
            else:
                bad.append(f"port {one['port']} does not let in who may: {answer['text']}")
    return held("reach", bad, "\n".join(good)) if good or bad else None


def _let_in(lab: Lab, address: str, pairs: Sequence[tuple[Mapping, Mapping]]) -> Row | None:
    """Return the row of those whom the list lets in."""
    here, listed = at(of_backend(lab, RELSTORAGE), address), set(lab.projects)
    good, bad, untried, unknown = 0, [], 0, []
    for one, answer in pairs:
        if one["about"] != IN:
            continue
        if one["password"] is None:
            unknown.append(one["user"])
        elif answer.get("skipped"):
            untried += 1
        elif not answer.get("in"):
            bad.append(f"{one['user']} is not let in: {answer['text']}")
        else:
            seen, wanted = set(answer["databases"]) & listed, set(here.get(one["user"], ()))
            more, less = sorted(seen - wanted), sorted(wanted - seen)
            if one["user"] != ADMIN and (more or less):
                wrong = [f"also {', '.join(more)}"] * bool(more) + [f"not {', '.join(less)}"] * bool(less)
                bad.append(f"{one['user']} sees {' and '.join(wrong)}")
            else:
                good += 1
    if not (good or bad or unknown):
        return None
    if untried:
        bad.append(f"{untried} more were not tried, lest this address is refused for failed logins")
    people = (
        "one person gets in and sees exactly their" if good == 1 else f"{good} people get in, each sees exactly their"
    )
    well = [f"{people} projects"] if good else []
    well += [f"not tried, the password is not known here: {', '.join(few(unknown))}"] if unknown else []
    return row("logins", few(bad) if bad else well, not bad)


_WORDS = {
    WRONG_PASSWORD: ("{user} with a wrong password", "{user}: any password"),
    UNKNOWN: ("a name that is not in the list", "somebody who is not in the list"),
    ELSEWHERE: ("{user}, who does not work there", "{user}, who does not work there"),
    UNENCRYPTED: ("who does not encrypt", "{user} without TLS"),
    NO_CERTIFICATE: ("who has no certificate", "{user} without a certificate"),
    PAST_FORWARDER: ("{user} past the forwarder", "{user}, who is to come through the forwarder, without it"),
}


def _refused(pairs: Sequence[tuple[Mapping, Mapping]]) -> Row | None:
    """Return the row of those who must not get in."""
    good, bad = [], []
    for one, answer in pairs:
        if one["about"] not in _WORDS:
            continue
        refused, let_in = (text.format(user=one.get("user") or "somebody") for text in _WORDS[one["about"]])
        number = answer.get("number")
        if answer.get("in"):
            bad.append(f"{let_in} gets in")
        elif not (number in REFUSED or answer.get("reached")):
            bad.append(f"not proven of {refused}: {answer['text']}")
        else:
            good.append(refused + (f" ({number})" if number else ""))
    return held("refusals", bad, "refused: " + ", ".join(good)) if good or bad else None


def _encryption(pairs: Sequence[tuple[Mapping, Mapping]], now: float, fail_days: int, fingerprint: str) -> list[Row]:
    """Return the rows of the certificates that the server really shows, one for each port."""
    shown: dict[int, Mapping] = {}
    for one, answer in pairs:
        if answer.get("in") and one.get("way") in (VERIFIED, THROUGH):
            shown.setdefault(one["port"], answer)
    rows = []
    for port, answer in shown.items():
        days = days_left(answer["not_after"], now)
        another = bool(fingerprint) and answer["fingerprint"] != fingerprint
        found = [
            f"{answer['tls']}, a verified certificate for this name or address with {days} days left",
            *["which is another than the one issued or given for it: run site.yml"] * another,
            *["run site.yml, which renews all but given ones"] * (days < fail_days and not another),
        ]
        ok = days >= fail_days and answer["tls"] in ("TLSv1.2", "TLSv1.3") and not another
        rows.append(row(f"TLS {port}", found, ok))
    return rows


def days_left(not_after: str, now: float) -> int:
    """Return for how many whole days a certificate is good whose end is as OpenSSL writes it."""
    ends = calendar.timegm(time.strptime(not_after.replace(" GMT", ""), "%b %d %H:%M:%S %Y"))
    return int((ends - now) // 86400)


# The table


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows, each with its `server`, as a text of four columns."""
    rows = list(rows)
    names = ("server", "check")
    widths = [max([len(name), *(len(entry[name]) for entry in rows)]) for name in names]
    lines = [f"{'server':{widths[0]}}  {'check':{widths[1]}}  {'':6}  found"]
    for entry in rows:
        found = [
            part for line in entry["found"].splitlines() for part in textwrap.wrap(line, _WIDTH, subsequent_indent="  ")
        ]
        marks = "ok" if entry["ok"] else "FAILED"
        first, *more = found or [""]
        lines.append(f"{entry['server']:{widths[0]}}  {entry['check']:{widths[1]}}  {marks:6}  {first}")
        lines += [f"{'':{sum(widths) + 12}}{line}" for line in more]
    failed = sum(not entry["ok"] for entry in rows)
    lines += ["", f"{failed} of {_count(rows, 'check')} FAILED" if failed else f"{_count(rows, 'check')}, all ok"]
    return "\n".join(lines) + "\n"


def _count(things: Collection, name: str) -> str:
    return f"{len(things)} {name}" + ("" if len(things) == 1 else "s")


def _age(hours: float) -> str:
    return f"{hours:.0f} hours" if hours < 72 else f"{hours / 24:.0f} days"
