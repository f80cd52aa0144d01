"""Runs a module of this repository on a host without a controller, to interrupt and to measure it.

`install` puts the module, what it imports and a starter into a folder of the host; the starter runs the
module in the process whose id and memory can then be looked at, and prints the module's result. For hundreds
of runs there is `runner`: one program on the host, with everything imported, that forks for each run.
"""

from __future__ import annotations

import contextlib
import io
import json
import pathlib
import shlex
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator

import ansible.module_utils
import ansible.release

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
FOLDER = "/usr/local/lib/peat-tests/modules"

STARTER = """
import json, os, pathlib, resource, runpy, sys, time
here = pathlib.Path(__file__).parent
sys.path.insert(0, str(here))
import ansible.module_utils.basic as basic
def run(module, arguments):
    basic._ANSIBLE_ARGS = json.dumps({"ANSIBLE_MODULE_ARGS": arguments}).encode()
    basic._ANSIBLE_PROFILE = "legacy"
    started = time.monotonic()
    try:
        runpy.run_path(str(here / (module + ".py")), run_name="__main__")
    finally:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        took = {"seconds": time.monotonic() - started, "cpu_seconds": time.process_time()}
        print(json.dumps({"peak_kilobytes": peak, **took}), flush=True)
def fork(module, arguments):
    "Run a module in a fork of this process; its id, and where its output can be read."
    output, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        return child, output
    try:
        os.dup2(write, 1)
        os.dup2(write, 2)
        run(module, arguments)
    except SystemExit:
        pass
    except BaseException:
        sys.excepthook(*sys.exc_info())
    os._exit(0)
def answers():
    "Run the modules that are asked for, a line each, and answer with a line for each."
    import pymysql
    from ansible.module_utils.peat import account_reader, accounts, foreign, lab, sql, unlisted
    for line in sys.stdin:
        child, output = fork(*json.loads(line))
        with open(output) as said:
            text = said.read()
        os.waitpid(child, 0)
        print(json.dumps(text), flush=True)
if __name__ == "__main__":
    if len(sys.argv) == 1:
        answers()
    else:
        run(sys.argv[1], json.loads(sys.stdin.read() if sys.argv[2] == "-" else sys.argv[2]))
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
        for path in REPOSITORY.glob("library/*.py"):
            tar.add(path, path.name)
        add(STARTER, "start.py")
    return packed.getvalue()


def ssh(values: dict) -> list[str]:
    """The words that run a command on a host, from its variables in the tests' fixture `lab`."""
    key = pathlib.Path(values["key"]).expanduser()
    return ["ssh", "-i", str(key), *shlex.split(values["ssh_args"]), f"{values['user']}@{values['address']}"]


def install(ssh: list[str]) -> None:
    """Put everything on the host that the command `ssh` reaches."""
    command = f"rm -rf {FOLDER} && mkdir -p {FOLDER} && tar --extract --gzip --directory={FOLDER}"
    subprocess.run([*ssh, command], input=archive(), check=True, capture_output=True)


def command(module: str, **arguments) -> str:
    """The shell words that run a module on the host."""
    return shlex.join(["python3", f"{FOLDER}/start.py", module, json.dumps(arguments)])


@contextlib.contextmanager
def talk(words: list[str]) -> Iterator[Callable]:
    """Start a program that answers each line with a line, both JSON; give ask(question) -> answer."""
    # A file of its own for errors: ssh makes non-blocking what it gets, and Ansible refuses to share such a thing.
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=errors, text=True) as process,
    ):

        def ask(question):
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()
            if line := process.stdout.readline():
                return json.loads(line)
            process.wait()
            errors.seek(0)
            raise AssertionError(f"{words} ended with {process.returncode}: {errors.read()}")

        yield ask


def runner(ssh: list[str]) -> contextlib.AbstractContextManager[Callable]:
    """Give ask([module, arguments]) -> what the module printed, for `result`."""
    return talk([*ssh, f"python3 {FOLDER}/start.py"])


class Done:
    """What a module handed back."""

    def __init__(self, result: dict) -> None:
        self.result, self.ok = result, not result.get("failed")
        self.changed, self.diff = result.get("changed", False), result.get("diff")
        self.failure = result.get("msg", "")

    def warned(self, text: str) -> bool:
        return any(text in str(warning) for warning in self.result.get("warnings", []))


@contextlib.contextmanager
def module(ssh: list[str], name: str) -> Iterator[Callable[..., dict]]:
    """Install everything; give run(arguments, check=False) -> what a module handed back, in diff mode."""
    install(ssh)
    with runner(ssh) as ask:

        def run(arguments: dict, check: bool = False) -> dict:
            said = ask([name, {**arguments, "_ansible_check_mode": check, "_ansible_diff": True}])
            found = result(said)
            assert "seconds" in found, said
            return found

        yield run


def run(ssh: list[str], module: str, **arguments) -> dict:
    """Run a module on the host with arguments of any size; what it handed back, as `result` says."""
    words = [*ssh, f"python3 {FOLDER}/start.py {module} -"]
    done = subprocess.run(words, input=json.dumps(arguments), text=True, capture_output=True)
    found = result(done.stdout)
    assert "seconds" in found, done.stdout + done.stderr
    return found


def result(output: str) -> dict:
    """What the module handed back, with `peak_kilobytes`, `seconds` and `cpu_seconds`; {} if it was killed."""
    found: dict = {}
    for line in output.splitlines():
        if line.startswith("{"):
            found.update(json.loads(line))
    return found
