# ruff: noqa: F401, F811
"""Of test_tls.py what is a database server's own doing, with MySQL: there all of it is shown with MariaDB."""

from __future__ import annotations

import pytest
from test_tls import (
    FILES,
    arguments,
    at_work,
    configuration,
    forwarders,
    open_project,
    probe,
    processes,
    sheets,
    stranger_authority,
    test_a_person_needs_their_own_certificate,
    test_only_tls_1_2_and_newer,
    test_peat_comes_through_the_forwarder_and_in_no_other_way,
    test_the_certificate_is_for_every_address_and_from_the_labs_authority,
    test_the_sheets_arguments_refuse_another_authority,
    test_whoever_must_use_tls_is_refused_without,
    wanted,
    written,
)


@pytest.fixture(scope="module", autouse=True)
def converged(site, wanted):
    run = site(wanted)
    assert run.ok, run.failure


def test_another_certificate_reaches_new_connections_and_ends_no_session(site, wanted, probe, at_work, processes):
    before, running = probe(ca=f"{FILES}/ca.crt"), processes()
    run = site({**wanted, "tls_names": ["peat.example.org"]})
    assert run.ok, run.failure
    at_work()
    after = probe(ca=f"{FILES}/ca.crt")
    assert after["fingerprint"] != before["fingerprint"] and "peat.example.org" in after["names"]
    assert processes() == running
