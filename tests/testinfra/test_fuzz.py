"""Hostile names, addresses and passwords: the server receives the statements that were planned, and no others.

hypothesis draws what somebody may write into a list to get more than text out of it. A program on the server
(fuzzer.py) gives that to the module peat_access three times: as it is listed, past the validation as if that refused
nothing, and as accounts that are on the server already. Each time it holds the server's general log against what the
module sent, that against the plan, every statement without its texts against those of harmless lists, and what the
server has become against the plan. The module may start no program, so no shell gets any of it either; what the
rest of site.yml makes of it is test_secrets.py's. Whoever got a hostile password logs in with it.
"""

from __future__ import annotations

import collections
import json
import subprocess
from typing import IO

import hostile
import onhost
import pytest
from conftest import REPOSITORY
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

#: Cases are drawn so many at a time. What is drawn depends on nothing but this file and tests/hostile.py.
TOGETHER = 100
#: All on MariaDB. MySQL shares the code and takes several times as long for each account.
TIMES = {"mariadb": 105, "mysql": 25}
FIELDS = (
    "network.name", "network.address", "person.name", "person.name", "person.from", "person.password_hash",
    "person.tls", "person.connections", "person.key", "project.name", "project.name", "project.backend",
    "project.clients", "project.state", "project.keep_history", "project.read", "project.from", "project.key",
    "admin.prefix", "admin.from", "administrator.name", "certificate.subject", "certificate.issuer", "protected",
)  # fmt: skip
cases = st.one_of(
    *(st.tuples(st.sampled_from(FIELDS), hostile.texts) for _ in range(8)),
    # Fewer, because on MySQL a password takes long, on purpose.
    st.tuples(st.just("person.password"), hostile.passwords),
    st.tuples(st.just("person.password"), hostile.texts),
)


class Fuzzer:
    """fuzzer.py on the server; called with cases it tells what came of them."""

    def __init__(self, values: dict, errors: IO[str]) -> None:
        ssh = onhost.ssh(values)
        onhost.install(ssh)
        program = (REPOSITORY / "tests/testinfra/fuzzer.py").read_bytes()
        subprocess.run([*ssh, f"cat >{onhost.FOLDER}/fuzzer.py"], input=program, check=True)
        command = [*ssh, f"python3 {onhost.FOLDER}/fuzzer.py {values['address']}"]
        pipe = subprocess.PIPE
        self.errors = errors
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True)

    def __call__(self, cases: list[tuple[str, str]], **more) -> dict:
        print(json.dumps({"cases": cases, **more}), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        assert line, self.errors.seek(0) or self.errors.read()
        return json.loads(line)

    def end(self) -> None:
        self.process.stdin.close()
        assert self.process.wait() == 0


@pytest.fixture(scope="module")
def fuzzer(lab, site, tmp_path_factory):
    """fuzzer(cases) -> what came of them on the server; then the scenario's list again."""
    site.to_restore = True
    with open(tmp_path_factory.mktemp("fuzzer") / "errors", "w+") as errors:
        running = Fuzzer(lab.server, errors)
        yield running
        running.end()


@pytest.fixture(scope="module")
def told():
    """How often what was tried."""
    return collections.Counter()


def test_the_server_receives_what_was_planned_and_nothing_else(lab, fuzzer, told):
    @settings(
        max_examples=TIMES[lab.server["flavour"]],
        derandomize=True,
        database=None,
        deadline=None,
        # To make a failing list shorter takes longer than to read what was wrong with it.
        phases=(Phase.generate,),
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(drawn=st.lists(cases, min_size=TOGETHER, max_size=TOGETHER, unique=True))
    def every_list(drawn):
        answer = fuzzer(drawn)
        assert "wrong" not in answer, answer["wrong"]
        told.update(answer["told"], cases=len(drawn))

    every_list()


def test_there_were_enough_cases_of_each_kind(lab, told):
    times = TIMES[lab.server["flavour"]]
    assert told["cases"] >= TOGETHER * times, told
    assert told["refused"] + told["taken"] + told["in conflict"] == told["cases"], told
    assert told["past the validation"] == told["cases"], told
    for kind in ("refused", "taken", "logins", "rotated", "made by hand"):
        assert told[kind] >= 2 * times, told


@pytest.mark.parametrize("quoting", ["literal", "quote_name", "shell"])
def test_it_would_be_seen(fuzzer, quoting):
    """Without the quoting, or given to a shell, every one of these is found out."""
    for text in ("x' x", "x\\' x", "x` x", "x'; DROP DATABASE peat_fuzz_witness; -- "):
        if ("`" in text) == (quoting == "quote_name"):
            assert "wrong" in fuzzer([("person.name", text)], without=quoting), text
        assert "wrong" not in fuzzer([("person.name", text)])
