"""Watches what processes show, and searches hosts for secrets, in clear and in the forms that programs give to text."""

from __future__ import annotations

import base64
import html
import json
import pathlib
import shlex
import subprocess
import urllib.parse
from collections.abc import Iterable

#: Where a host is searched.
ROOTS = ("/etc", "/home", "/opt", "/root", "/run", "/srv", "/tmp", "/usr/local", "/var")
#: What on a host is there to keep a secret that was made for it: of phpMyAdmin's cookies, and ZEO's own password.
COOKIES, MAINTENANCE = KEPT = ("/etc/peat-phpmyadmin/secret", "/etc/zeo/maintenance.password")

#: Remembers every command line and environment that any process shows, until a file appears. Processes it knows for a
#: second are left alone, so that on a busy machine, too, it comes back to the new ones within milliseconds. Left alone
#: are also the test hosts' own, which this machine sees as well.
WATCH = """
import contextlib, os, sys, time
with contextlib.suppress(OSError):
    os.nice(-20)
seen, since = set(), {}
def home(pid):
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/pid")
own = home("self")
while not os.path.exists(sys.argv[1]):
    now = time.monotonic()
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        if now - since.setdefault(pid, now) < 1 and home(pid) == own:
            for what in ("cmdline", "environ"):
                with contextlib.suppress(OSError), open(f"/proc/{pid}/{what}", "rb") as file:
                    seen.add(file.read())
    time.sleep(0.001)
with os.fdopen(os.open(sys.argv[1] + ".seen", os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
    file.write(b"\\n".join(seen))
"""

#: Patterns come in hex, a line each; they are in no command line and no file. Prints the places that have one.
_SEARCH = """
import os, subprocess, sys
patterns = b"\\n".join(bytes.fromhex(line) for line in sys.stdin)
grep = ["grep", "--text", "--fixed-strings", "--files-with-matches", "--no-messages", "--file=/dev/stdin"]
environment = {**os.environ, "LC_ALL": "C"}
def found(*arguments, **options):
    done = subprocess.run([*grep, *arguments], input=patterns, stdout=subprocess.PIPE, env=environment, **options)
    return [os.fsdecode(line) for line in done.stdout.splitlines()]
places = found("--recursive", "--devices=skip", "--", *sys.argv[1:])
if os.path.exists("/usr/bin/journalctl"):
    journal = subprocess.Popen(["journalctl", "--all", "--output=export", "--no-pager"], stdout=subprocess.PIPE)
    number = journal.stdout.fileno()
    places += ["the journal"] if found("--", f"/dev/fd/{number}", pass_fds=[number]) else []
    journal.stdout.close()
    journal.wait()
print(*places, sep="\\n", end="")
"""


def forms(secrets: Iterable[str]) -> list[bytes]:
    """Return secrets as text, and as what programs make of text."""
    found = set()
    for secret in secrets:
        text = secret.encode()
        found |= {text, text.hex().encode(), text.hex().upper().encode(), html.escape(secret).encode()}
        found |= {json.dumps(secret)[1:-1].encode(), shlex.quote(secret).encode(), repr(secret)[1:-1].encode()}
        found |= {urllib.parse.quote(secret, safe="").encode(), urllib.parse.quote_plus(secret).encode()}
        found |= {secret.replace("\\", "\\\\").replace("'", "''").encode()}
        # Inside of a longer text, base64 has it at one of three offsets; its ends depend on what stands around it.
        for offset in range(3):
            inside = base64.b64encode(b"\0" * offset + text)[4 * (offset > 0) :]
            found.add(inside[: len(inside) // 4 * 4 - 4])
    return sorted(found)


def passphrase(lab) -> pathlib.Path:
    """Where the passphrase of the lab's authority is."""
    return pathlib.Path(lab.server["secrets"]).parent / "tls/ca.passphrase"


def known(lab, host) -> set[str]:
    """Return every secret that was generated: beside the inventory, and on a host."""
    files = [path for path in (*pathlib.Path(lab.server["secrets"]).rglob("*"), passphrase(lab)) if path.is_file()]
    texts = [path.read_text() for path in files]
    texts += [host.file(path).content_string for path in KEPT if host.file(path).exists]
    return {text.strip() for text in texts} - {""}


def places(command: list[str], secrets: Iterable[str], roots: Iterable[str]) -> list[str]:
    """Return where a host has any of the secrets: files below `roots`, and the journal.

    `command` is what runs a command line given as its last word: ssh with a host, or a shell.
    """
    line = shlex.join(["python3", "-c", _SEARCH, *roots])
    patterns = "\n".join(form.hex() for form in forms(secrets))
    done = subprocess.run([*command, line], input=patterns, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
