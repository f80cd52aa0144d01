#!/usr/bin/env python3
"""How long site.yml takes: on a fresh host, and again when nothing is left to do.

    .venv/bin/python benchmarks/converge.py [SCENARIO ...]     (debian12 unless named; hosts must not exist yet)

Boots the scenario's server, runs site.yml once from bare and then REPEATS times as a no-op (the median counts),
and prints for both: tasks, seconds, and the five slowest tasks. Seconds depend on the machine; the ratio of the
two runs does less.
"""

from __future__ import annotations

import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from datetime import datetime

ROOT = pathlib.Path(__file__).resolve().parents[1]
HOSTS = [sys.executable, str(ROOT / "molecule/shared/hosts.py")]
REPEATS = 3


def site(inventories: list[str]) -> tuple[float, list[tuple[float, str]], int]:
    """Run site.yml; return its seconds, (seconds, name) of every task, and the number of changes."""
    playbook = pathlib.Path(sys.executable).with_name("ansible-playbook")
    started = time.monotonic()
    run = subprocess.run(
        [playbook, *inventories, ROOT / "site.yml"],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"},
        stdout=subprocess.PIPE,
        text=True,
    )
    seconds = time.monotonic() - started
    if run.returncode:
        sys.exit(run.stdout)
    result = json.loads(run.stdout[run.stdout.index("{") :])
    tasks = []
    for play in result["plays"]:
        for task in play["tasks"]:
            skipped = all(host.get("skipped") for host in task["hosts"].values())
            if task["hosts"] and not skipped:
                start, end = (datetime.fromisoformat(task["task"]["duration"][key]) for key in ("start", "end"))
                tasks.append(((end - start).total_seconds(), task["task"]["name"]))
    return seconds, tasks, sum(host["changed"] for host in result["stats"].values())


def report(title: str, seconds: float, tasks: list[tuple[float, str]], changed: int) -> None:
    print(f"{title}: {seconds:.1f} s, {len(tasks)} tasks, {changed} changed")
    for duration, name in sorted(tasks, reverse=True)[:5]:
        print(f"    {duration:6.2f} s  {name}")


def main() -> None:
    for scenario in sys.argv[1:] or ["debian12"]:
        inventories = [
            f"-i{ROOT / folder}" for folder in (f"molecule/{scenario}/inventory", "molecule/shared/inventory")
        ]
        subprocess.run([*HOSTS, "up", inventories[0]], check=True)
        try:
            fresh = site(inventories)
            again = [site(inventories) for _ in range(REPEATS)]
        finally:
            subprocess.run([*HOSTS, "down", inventories[0]], check=True)
        middle = statistics.median_low(run[0] for run in again)
        no_op = next(run for run in again if run[0] == middle)
        report(f"{scenario}, fresh host", *fresh)
        report(f"{scenario}, no-op (median of {REPEATS})", *no_op)
        print(f"{scenario}: the fresh run takes {fresh[0] / no_op[0]:.1f} times as long as the no-op")


if __name__ == "__main__":
    main()
