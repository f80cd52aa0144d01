"""Runs a module of this repository on a host without a controller, to interrupt and to measure it.

`install` puts the module, what it imports and a starter into a folder of the host; the starter runs the
module in the process whose id and memory can then be looked at, and prints the module's result.
"""

from __future__ import annotations

import io
import json
import pathlib
import shlex
import subprocess
import tarfile

import ansible.module_utils
import ansible.release

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
FOLDER = "/usr/local/lib/peat-tests/modules"

STARTER = """
import json, pathlib, resource, runpy, sys
here = pathlib.Path(__file__).parent
sys.path.insert(0, str(here))
import ansible.module_utils.basic as basic
arguments = json.loads(sys.argv[2])
basic._ANSIBLE_ARGS = json.dumps({"ANSIBLE_MODULE_ARGS": arguments}).encode()
basic._ANSIBLE_PROFILE = "legacy"
try:
    runpy.run_path(str(here / (sys.argv[1] + ".py")), run_name="__main__")
finally:
    print(json.dumps({"peak_kilobytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))
"""


def archive() -> bytes:
    """A tar of everything a module needs on a host that only has Python and PyMySQL."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:

        def add(text: str, name: str) -> None:
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))

        def python(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
            return entry if entry.isdir() or entry.name.endswith(".py") else None

        utilities = pathlib.Path(next(iter(ansible.module_utils.__path__)))
        tar.add(utilities, "ansible/module_utils", filter=python)
        internal = utilities.parent / "_internal"
        for path in (utilities.parent / "release.py", internal / "__init__.py"):
            if path.exists():
                add(path.read_text(), f"ansible/{path.relative_to(utilities.parent)}")
        add("", "ansible/__init__.py")
        tar.add(REPOSITORY / "module_utils/peat", "ansible/module_utils/peat", filter=python)
        for path in REPOSITORY.glob("library/relstorage_*.py"):
            tar.add(path, path.name)
        add(STARTER, "start.py")
    return packed.getvalue()


def install(ssh: list[str]) -> None:
    """Put everything on the host that the command `ssh` reaches."""
    command = f"rm -rf {FOLDER} && mkdir -p {FOLDER} && tar --extract --gzip --directory={FOLDER}"
    subprocess.run([*ssh, command], input=archive(), check=True, capture_output=True)


def command(module: str, **arguments) -> str:
    """The shell words that run a module on the host."""
    return shlex.join(["python3", f"{FOLDER}/start.py", module, json.dumps(arguments)])


def result(output: str) -> dict:
    """What the module handed back, with `peak_kilobytes`; {} if it was killed."""
    found: dict = {}
    for line in output.splitlines():
        if line.startswith("{"):
            found.update(json.loads(line))
    return found
