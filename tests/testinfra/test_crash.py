"""The server is killed while PEAT and RelStorage 4.3 save: what a client was told is saved, is saved.

An object id that is handed out twice would overwrite somebody's object later, so the next one is looked at as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from conftest import wait_until

ROUNDS = 2
CLIENTS = {
    # project: (host, program, options)
    "hewlsample": ("peat2", "peat2", {}),
    "modernhp": ("modern", "relstorage4", {}),
    "modernhf": ("modern", "relstorage4", {"history_free": True, "driver": "MySQLdb"}),
}


@pytest.fixture(scope="module")
def kill(server) -> Callable[[], float]:
    """Kill the server process; return the seconds until a new one answered."""
    service, client = ("mariadb", "mariadb") if server.exists("mariadbd") else ("mysql", "mysql")

    def process() -> str:
        return server.run("systemctl show --property=MainPID --value %s", service).stdout.strip()

    def kill_and_wait() -> float:
        killed, started = process(), time.monotonic()
        server.check_output("kill -9 %s", killed)
        wait_until(
            lambda: process() not in ("0", killed) and server.run("%s --execute='DO 1'", client).rc == 0,
            "the killed server to answer again",
        )
        return time.monotonic() - started

    return kill_and_wait


@pytest.fixture(scope="module")
def crashes(run_client, kill) -> list[dict]:
    """Of every round: {project: {prefix, saved, error}}; `back`: seconds until the server answered again."""
    rounds = []
    for number in range(ROUNDS):
        prefix = f"crash{time.time_ns() // 1_000_000:x}-"
        loops = {
            project: run_client.loop(host, program, "farrell", project, prefix=prefix, seconds=120, **options)
            for project, (host, program, options) in CLIENTS.items()
        }
        for loop in loops.values():
            loop.wait_for(40 + 13 * number)
        outcome = {"back": kill()}
        for project, loop in loops.items():
            answer = loop.end()
            outcome[project] = {"prefix": prefix, "saved": loop.saved(), "error": answer["error"]}
        rounds.append(outcome)
    return rounds


@pytest.fixture(params=list(CLIENTS))
def project(request) -> str:
    return request.param


def test_the_service_starts_again_by_itself(crashes):
    assert [outcome["back"] < 30 for outcome in crashes] == [True] * ROUNDS


def test_the_crash_hit_clients_that_were_saving(crashes, project):
    for outcome in crashes:
        assert len(outcome[project]["saved"]) >= 40
        assert outcome[project]["error"], "the client never noticed: nothing was tested"


def test_everything_acknowledged_is_there(crashes, run_client, project):
    host, program, options = CLIENTS[project]
    for outcome in crashes:
        read = run_client(host, program, "read", "guest", project, prefix=outcome[project]["prefix"], **options)
        assert read["ok"], read
        assert set(outcome[project]["saved"]) - set(read.get("names") or read["numbers"]) == set()
        assert read["wrong"] == []


def test_new_objects_get_ids_of_their_own(crashes, run_client, sql, project, unused):
    host, program, options = CLIENTS[project]
    highest = int(sql(f"SELECT MAX(zoid) FROM {project}.object_state")[0][0])
    answer = run_client(host, program, "new-oid", "farrell", project, **options)
    assert answer["ok"], answer
    assert answer["oid"] > highest
    assert run_client(host, program, "add", "farrell", project, prefix=unused, records=20, **options)["ok"]
    read = run_client(host, program, "read", "farrell", project, prefix=unused, **options)
    assert len(read.get("names") or read["numbers"]) == 20
    assert read["wrong"] == []
