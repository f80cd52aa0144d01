"""What a live lab is held against its list for, and how it reads."""

import calendar
import time

import pytest
from peat import verification
from peat.lab import load
from peat.verification import (
    CLEAR,
    CLOSED,
    ELSEWHERE,
    IN,
    MOST_REFUSALS,
    NO_CERTIFICATE,
    NOBODY,
    OPEN,
    PAST_FORWARDER,
    THROUGH,
    UNENCRYPTED,
    UNKNOWN,
    VERIFIED,
    WRONG_PASSWORD,
)

NETWORKS = [{"name": "campus", "addresses": ["192.0.2.0/24", "2001:db8:1::/48"]}]
PEOPLE = [
    {"name": "farrell", "from": ["campus"]},
    {"name": "nielsen", "from": ["campus"]},
    {"name": "visitor", "from": ["203.0.113.9"], "tls": "required"},
    {"name": "thomsen", "from": ["198.51.100.7"], "tls": "forwarder"},
    {"name": "idle", "from": ["campus"]},
]
PROJECTS = [
    {"name": "hewlsample", "clients": "peat2", "write": ["farrell"], "read": ["nielsen", "thomsen"]},
    {"name": "modern", "clients": "relstorage4", "write": ["farrell", "visitor"]},
    {"name": "stored", "backend": "zeo", "clients": "current", "write": ["farrell"]},
]
PASSWORDS = {"farrell": "one", "nielsen": "two", "visitor": "three", "thomsen": "four", "idle": "five"}
NOW = calendar.timegm((2026, 11, 25, 12, 0, 0))
LISTENING = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 0
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12 1 0
   2: 0A53590A:1F90 4653590A:9C40 01 00000000:00000000 00:00000000 00000000   101        0 13 1 0
   3: 0A53590A:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000   101        0 14 1 0
"""
LISTENING6 = """\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr
   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 0:0 00:0 0     0        0 21 1 0
   1: B80D0120000001000000000010000000:2645 00000000000000000000000000000000:0000 0A 0:0 00:0 0     0        0 22 1 0
"""


@pytest.fixture(scope="module")
def lab():
    return load(NETWORKS, PEOPLE, PROJECTS)


def planned(lab, address, **options):
    """What is tried from an address, as (about, user, way or port)."""
    tries = verification.tries(lab, PASSWORDS, address, 8080, **options)
    return [(one["about"], one.get("user"), one.get("way") or one["port"]) for one in tries]


# What to try


def test_everybody_who_works_there_and_one_of_each_way_to_be_refused(lab):
    assert planned(lab, "192.0.2.7", encrypted=True) == [
        (IN, "farrell", VERIFIED),
        (IN, "nielsen", VERIFIED),
        (WRONG_PASSWORD, "farrell", VERIFIED),
        (UNKNOWN, NOBODY, VERIFIED),
        (ELSEWHERE, "visitor", VERIFIED),
    ]


def test_ipv6_is_the_same(lab):
    assert planned(lab, "2001:db8:1::7", encrypted=True) == planned(lab, "192.0.2.7", encrypted=True)


def test_where_nobody_works_only_the_port_is_tried(lab):
    assert planned(lab, "192.0.3.7") == [(CLOSED, None, 8080)]


@pytest.mark.parametrize("address", ["192.0.3.7", "2001:db8:2::7"])
def test_who_comes_from_everywhere_is_tried_everywhere(address):
    everywhere = load(NETWORKS, [*PEOPLE, {"name": "eve", "from": ["%"]}], [{**PROJECTS[1], "read": ["eve"]}], True)
    assert (IN, "eve", VERIFIED) in planned(everywhere, address, encrypted=True)


def test_where_tls_is_demanded_it_is_left_out_once(lab):
    assert (UNENCRYPTED, "visitor", CLEAR) in planned(lab, "203.0.113.9", encrypted=True)


def test_who_comes_through_the_forwarder_is_tried_there_and_not_at_the_servers_port(lab):
    assert planned(lab, "198.51.100.7", forwarder_port=8081, encrypted=True) == [
        (IN, "thomsen", THROUGH),
        (CLOSED, None, 8080),
    ]
    assert (CLOSED, None, 8081) in planned(lab, "192.0.2.7", forwarder_port=8081)


def test_who_works_there_through_the_forwarder_is_not_called_somebody_who_does_not(lab):
    people = [*PEOPLE, {"name": "indoors", "from": ["campus"], "tls": "forwarder"}]
    projects = [*PROJECTS, {"name": "other", "clients": "peat2", "write": ["indoors"]}]
    both = load(NETWORKS, people, projects)
    tries = verification.tries(both, {**PASSWORDS, "indoors": "six"}, "192.0.2.7", 8080, 8081, True)
    refused = [(one["about"], one["user"], one["port"]) for one in tries if one["about"] in (ELSEWHERE, PAST_FORWARDER)]
    assert refused == [(ELSEWHERE, "visitor", 8080), (PAST_FORWARDER, "indoors", 8080)]


def test_at_a_second_address_of_the_server_no_login_is_to_fail(lab):
    tries = verification.tries(lab, PASSWORDS, "192.0.2.7", 8080, encrypted=True, again=True)
    assert {one["about"] for one in tries} == {IN}
    answers = [{"number": 1045}, {"in": True}]
    assert verification.unwanted(tries, answers) == 1


def test_what_is_for_administrators_is_tried_everywhere(lab):
    door = {"port": 443, "sources": ["192.0.2.0/28", "2001:db8::/64"], "why": "no administrator is there"}
    assert verification.door_tries([door], "192.0.2.7") == [{"about": OPEN, "port": 443, "way": VERIFIED}]
    (outside,) = tries = verification.door_tries([door], "192.0.2.99")
    assert (outside["about"], outside["port"]) == (CLOSED, 443)
    (row,) = verification.verdict(lab, "192.0.2.99", tries, [{"in": True, "text": "connected"}], NOW, 14)
    assert not row["ok"] and row["found"] == "port 443 is open, though no administrator is there"


def test_every_port_has_a_row_of_what_it_shows():
    people = [{"name": "farrell", "from": ["campus"]}, {"name": "indoors", "from": ["campus"], "tls": "forwarder"}]
    projects = [{"name": "hewlsample", "clients": "peat2", "write": ["farrell", "indoors"]}]
    both = load(NETWORKS, people, projects)

    def rows(at_server, at_forwarder):
        good = {"in": True, "databases": ["hewlsample"], "not_after": "Dec 27 04:18:00 2027 GMT", "fingerprint": "ours"}
        good["tls"] = "TLSv1.3"
        tries = verification.tries(both, {"farrell": "one", "indoors": "two"}, "192.0.2.7", 8080, 8081, True)
        answers = [
            {**good, **(at_forwarder if one["port"] == 8081 else at_server)} if one["about"] == IN else {"number": 1045}
            for one in tries
        ]
        found = verification.verdict(both, "192.0.2.7", tries, answers, NOW, 14, "ours")
        return {row["check"]: row["ok"] for row in found if row["check"].startswith("TLS")}

    assert rows({}, {}) == {"TLS 8080": True, "TLS 8081": True}
    old = {"tls": "TLSv1.1", "not_after": "Nov 20 04:18:00 2026 GMT"}
    assert rows(old, {}) == {"TLS 8080": False, "TLS 8081": True}
    assert rows({}, {"fingerprint": "another"}) == {"TLS 8080": True, "TLS 8081": False}


def test_a_vantage_point_gets_no_password_but_of_who_is_tried(lab):
    tries = verification.tries(lab, PASSWORDS, "192.0.2.7", 8080)
    assert {one["password"] for one in tries} == {"one", "two", "three", verification.WRONG}
    assert verification.tries(lab, PASSWORDS, "192.0.3.7", 8080) == [{"about": CLOSED, "port": 8080}]


def test_failed_logins_stay_few_however_many_people_there_are():
    names = [f"person{number}" for number in range(200)]
    people = [{"name": name, "from": ["campus"], "tls": "required"} for name in names]
    crowd = load(NETWORKS, people, [{"name": "modern", "clients": "relstorage4", "write": names}])
    tries = verification.tries(crowd, dict.fromkeys(names, "secret-enough"), "192.0.2.7", 8080, encrypted=True)
    assert len([one for one in tries if one["about"] == IN]) == 200
    assert len(tries) - 200 + MOST_REFUSALS <= 7


def test_who_makes_databases_is_tried_as_well():
    admin = {"from": ["192.0.2.8"], "prefix": "new", "password": "correct-horse-9"}
    lab = load(NETWORKS, PEOPLE, PROJECTS, admin=admin)
    assert (IN, "peatadmin", VERIFIED) in planned(lab, "192.0.2.8", encrypted=True)
    assert (IN, "peatadmin", VERIFIED) not in planned(lab, "192.0.2.7", encrypted=True)


def test_a_zeo_server_is_tried_with_and_without_a_certificate(lab):
    def about(*arguments):
        return [(one["about"], one.get("user")) for one in verification.zeo_tries(lab, *arguments)]

    zeo = [("192.0.2.7", 8090, False, False), ("192.0.2.7", 8090, True, True), ("192.0.2.7", 8090, True, False)]
    assert about(*zeo[0]) == [(OPEN, None)]
    assert about(*zeo[1]) == [(OPEN, "farrell"), (NO_CERTIFICATE, None), (UNENCRYPTED, None)]
    assert about(*zeo[2]) == [(NO_CERTIFICATE, None), (UNENCRYPTED, None)]
    assert about("192.0.9.7", 8090, True, True) == [(CLOSED, None)]


# What came of it


def judged(lab, address, answer, **options):
    """The rows, by check, where `answer` says what came of each try."""
    tries = verification.tries(lab, PASSWORDS, address, 8080, **options)
    rows = verification.verdict(lab, address, tries, [answer(one) for one in tries], NOW, 14, "ours")
    return {row["check"]: row for row in rows}


def as_it_should_be(one):
    if one["about"] == IN:
        databases = {"farrell": ["hewlsample", "modern"], "nielsen": ["hewlsample"], "thomsen": ["hewlsample"]}
        return {
            "in": True,
            "databases": ["information_schema", *databases.get(one["user"], ["modern"])],
            "tls": "TLSv1.3",
            "not_after": "Dec 27 04:18:00 2027 GMT",
            "fingerprint": "ours",
            "seen": None,
        }
    return {"number": 1045, "text": "Access denied (1045)"} if one["about"] != CLOSED else {"text": "refused"}


def but(about, user=None, **changes):
    """As it should be, but for one try."""

    def answer(one):
        wanted = one["about"] == about and user in (None, one.get("user"))
        return (
            {**(as_it_should_be(one) if not changes.get("anew") else {}), **changes} if wanted else as_it_should_be(one)
        )

    return answer


def test_all_as_it_should_be(lab):
    rows = judged(lab, "192.0.2.7", as_it_should_be, encrypted=True)
    assert list(rows) == ["logins", "refusals", "TLS 8080"]
    assert all(row["ok"] for row in rows.values())
    assert rows["logins"]["found"] == "2 people get in, each sees exactly their projects"
    assert "396 days left" in rows["TLS 8080"]["found"]
    assert judged(lab, "192.0.3.7", as_it_should_be)["reach"]["ok"]


@pytest.mark.parametrize(
    ("answer", "check", "text"),
    [
        (but(IN, "nielsen", anew=True, number=1045, text="Access denied (1045)"), "logins", "nielsen is not let in"),
        (but(IN, "nielsen", databases=["hewlsample", "modern"]), "logins", "nielsen sees also modern"),
        (but(IN, "farrell", databases=["modern"]), "logins", "farrell sees not hewlsample"),
        (but(WRONG_PASSWORD, **{"in": True}), "refusals", "any password gets in"),
        (but(UNKNOWN, **{"in": True}), "refusals", "somebody who is not in the list gets in"),
        (but(ELSEWHERE, **{"in": True}), "refusals", "visitor, who does not work there gets in"),
        (but(ELSEWHERE, number=None, text="timed out"), "refusals", "not proven of visitor"),
        (but(IN, "farrell", not_after="Dec  8 11:00:00 2026 GMT"), "TLS 8080", "12 days left"),
        (but(IN, "farrell", tls="TLSv1.1"), "TLS 8080", "TLSv1.1"),
        (but(IN, "farrell", fingerprint="another"), "TLS 8080", "another than the one issued or given"),
        (but(IN, "farrell", seen="203.0.113.1"), "address", "the server sees 203.0.113.1"),
    ],
)
def test_what_is_otherwise_fails_and_is_named(lab, answer, check, text):
    rows = judged(lab, "192.0.2.7", answer, encrypted=True)
    assert [name for name, row in rows.items() if not row["ok"]] == [check]
    assert text in rows[check]["found"]


def test_an_open_port_where_nobody_works_fails(lab):
    rows = judged(lab, "192.0.3.7", but(CLOSED, **{"in": True}))
    assert not rows["reach"]["ok"] and "port 8080 is open" in rows["reach"]["found"]


def test_fourteen_days_are_enough_and_thirteen_are_not(lab):
    for days, ok in ((14, True), (13, False)):
        ends = time.strftime("%b %d %H:%M:%S %Y GMT", time.gmtime(NOW + days * 86400 + 60))
        assert judged(lab, "192.0.2.7", but(IN, not_after=ends), encrypted=True)["TLS 8080"]["ok"] is ok


def test_who_could_not_be_tried_is_no_pass(lab):
    rows = judged(lab, "192.0.2.7", but(IN, "nielsen", anew=True, skipped=True, text="not tried"))
    assert not rows["logins"]["ok"] and "1 more were not tried" in rows["logins"]["found"]


def test_a_zeo_server_that_lets_in_without_a_certificate_fails(lab):
    tries = verification.zeo_tries(lab, "192.0.2.7", 8090, True, True)
    shown = {"in": True, "text": "ZEO protocol Z5", "tls": "TLSv1.3", "not_after": "Dec 27 04:18:00 2027 GMT"}
    shown["fingerprint"] = "any"

    def failed(*answers):
        return [
            row["check"] for row in verification.verdict(lab, "192.0.2.7", tries, answers, NOW, 14) if not row["ok"]
        ]

    refused, unreached = {"reached": True, "text": "alert"}, {"reached": False, "text": "timed out"}
    assert failed(shown, refused, refused) == []
    assert failed(shown, shown, refused) == ["refusals"]
    assert failed(shown, refused, shown) == ["refusals"]
    assert failed(refused, refused, refused) == ["reach"]
    assert failed(unreached, unreached, unreached) == ["reach", "refusals"]


# On the server


def test_what_listens_is_read_in_both_protocols():
    assert verification.listening(LISTENING, LISTENING6) == [
        ("127.0.0.1", 8080, "11"),
        ("0.0.0.0", 22, "12"),
        ("10.89.83.10", 8080, "14"),
        ("::1", 8080, "21"),
        ("2001:db8:1::10", 9797, "22"),
    ]
    assert verification.listening("", "") == []


def test_only_what_others_can_reach_and_nobody_declared_is_a_finding():
    sockets = verification.listening(LISTENING, LISTENING6)
    found = verification.listeners(sockets, {"22": "python3"}, [22, 8080], False)
    assert not found["ok"] and found["found"].startswith("python3 listens on port 9797 of 2001:db8:1::10")
    assert verification.listeners(sockets, {}, [22, 8080, 9797], False)["ok"]
    guarded = verification.listeners(sockets, {"22": "python3"}, [22, 8080], True)
    assert guarded["ok"] and "python3" in guarded["found"]


@pytest.mark.parametrize(("rows", "text"), [((), "not serialised"), ((0, 5), "nobody can commit")])
def test_a_commit_lock_is_one_row(rows, text):
    assert verification.commit_locks({"modern": (0,)})["ok"]
    found = verification.commit_locks({"modern": (0,), "other": rows})
    assert not found["ok"] and text in found["found"] and "modern" not in found["found"]


def test_object_ids_are_above_what_is_stored():
    assert verification.next_ids({"modern": None})["ok"]
    found = verification.next_ids({"modern": (17, 160), "other": None})
    assert not found["ok"] and "modern would give out ids from 17, objects up to 160" in found["found"]


@pytest.mark.parametrize(
    ("times", "ok", "text"),
    [
        ({"ended": NOW - 40 * 3600, "since": 0}, True, "40 hours old"),
        ({"ended": NOW - 80 * 3600, "since": 0}, False, "3 days old"),
        ({"ended": NOW - 96 * 3600, "since": 0}, False, "4 days old"),
        ({"ended": None, "since": NOW - 3600}, True, "none yet"),
        ({"ended": None, "since": None}, True, "none yet"),
        ({"ended": None, "since": NOW - 96 * 3600}, False, "has none, and data for 4 days"),
    ],
)
def test_the_age_of_backups(times, ok, text):
    found = verification.backups({"stored": times}, 48, NOW)
    assert found["ok"] is ok
    assert text in found["found"]


def test_only_what_answers_and_says_so_runs():
    assert verification.service(0, "running", True)["ok"]
    assert not verification.service(0, "running", False)["ok"]
    assert not verification.service(3, "stopped", True)["ok"]


def test_old_protocols_are_named():
    assert verification.protocols("TLSv1.2,TLSv1.3")["ok"]
    assert "TLSv1.1 is offered" in verification.protocols("TLSv1.1,TLSv1.2")["found"]


def test_fail2ban_has_to_watch_what_it_is_to():
    said = "Status\n|- Number of jail:\t2\n`- Jail list:\tpeat-mysql, sshd\n"
    assert verification.watched(["peat-mysql"], said)["ok"]
    for text in (said.replace("peat-mysql", "peat-mysql2"), "", "Failed to access socket path"):
        found = verification.watched(["peat-mysql"], text)
        assert not found["ok"] and "does not watch peat-mysql:" in found["found"]
    assert verification.watched([], "") is None


# The table


def test_the_table_is_aligned_and_says_how_many_failed():
    rows = [
        {"server": "db", **verification.row("firewall", "as declared")},
        {"server": "db", **verification.row("listening", ["one", "two"], False)},
    ]
    assert verification.table(rows).splitlines() == [
        "server  check              found",
        "db      firewall   ok      as declared",
        "db      listening  FAILED  one",
        "                           two",
        "",
        "1 of 2 checks FAILED",
    ]
    assert verification.table(rows[:1]).endswith("1 check, all ok\n")
