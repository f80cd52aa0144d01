"""Runs playbooks/verify.yml and reads what it found."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator

from conftest import run_ansible, wait_until

#: Nothing of a lab is there.
PORT = 9797


class Found:
    """What one run found."""

    def __init__(self, code: int, report: dict | None, text: str):
        assert report, text
        self.code, self.text = code, text
        results = [
            result
            for play in report["plays"]
            for task in play["tasks"]
            for host in task["hosts"].values()
            for result in (host, *host.get("results", ()))
        ]
        self.changed = [result for result in results if result.get("changed")]
        self.rows = [row for result in results for row in result.get("rows", ())]
        # The last task but one prints the table; then the run fails, or does not.
        (self.table,) = [host["msg"] for host in report["plays"][-1]["tasks"][-2]["hosts"].values()]

    def row(self, check: str, where: str = "", server: str = "server") -> dict:
        """The one row of a check at a server, seen from `where`."""
        (row,) = [
            row
            for row in self.rows
            if row["server"] == server and row["check"].split(" from ")[0] == check and row["check"].endswith(where)
        ]
        return row

    def failed(self, check: str, *texts: str, where: str = "", server: str = "server") -> bool:
        """Whether that check failed, names all of this, and stands so in the table."""
        row = self.row(check, where, server)
        assert not row["ok"], row
        assert all(text in row["found"] for text in texts), row
        lines = [line for line in self.table.splitlines() if line.startswith(server) and f"  {row['check']}  " in line]
        return any("  FAILED  " in line for line in lines)


def verify(variables: dict | None = None, *options: str) -> Found:
    """Run the playbook, with other variables if wanted."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as extra:
        json.dump(variables or {}, extra)
        extra.flush()
        return Found(*run_ansible("ansible-playbook", f"--extra-vars=@{extra.name}", *options, "playbooks/verify.yml"))


@contextlib.contextmanager
def listener(host) -> Iterator[None]:
    """Let something listen on PORT of a host for a while, as a service that somebody started by hand."""
    started = f"nohup python3 -m http.server {PORT} >/dev/null 2>&1 & echo $!"
    process = host.check_output(started).strip()
    connect = f"import socket; socket.create_connection(('127.0.0.1', {PORT}))"
    wait_until(lambda: host.run("python3 -c %s", connect).rc == 0, "something that listens")
    try:
        yield
    finally:
        host.check_output(f"kill {process}")
