"""Talks to a host and to the server on it: every question, and everything that changes them."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import ssl
import tempfile
import time
from collections.abc import Callable, Iterable

from . import optionfiles, server, server_host, sql
from .server_options import MIB

# Read-only in every version, so a statement that also sets it changes nothing.
NEVER_SET = "port"
READ_ONLY = 1238
TRUNCATED = 1292
# What newer releases of PyMySQL say where older ones go on in clear.
NO_TLS = 2026
SECONDS_TO_ANSWER = 30


class HostError(Exception):
    """The host is not as it must be; the text says what to do."""


class StatementError(HostError):
    """The server refused a statement; ``number`` is its error number."""

    def __init__(self, statement: str, number: int, words: str) -> None:
        """Word what happened."""
        super().__init__(f"{statement}: {words} ({number})")
        self.number, self.words = number, words


def text_of(path: str):
    """Return a file's text, None if there is none."""
    try:
        with open(path) as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None


def names_in(folder: str) -> list[str]:
    """Return the names in a folder, none if there is no folder."""
    return os.listdir(folder) if os.path.isdir(folder) else []


def write(path: str, text) -> None:
    """Replace a file in one step; text None removes it."""
    if text is None:
        if os.path.exists(path):
            os.remove(path)
        return
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o755, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder)
    with os.fdopen(handle, "w") as file:
        file.write(text)
    os.chmod(name, 0o755 if text.startswith("#!") else 0o644)
    os.replace(name, path)


class Host:
    """The questions to the host and the service, and what is done to them."""

    def __init__(self, run_command: Callable) -> None:
        """Keep `AnsibleModule.run_command`, the way to run programs."""
        self.run_command = run_command

    def run(self, *argv: str, ok: tuple[int, ...] = (0,)) -> tuple[int, str, str]:
        """Run a program; raise HostError with its own words for an unexpected exit code."""
        code, out, err = self.run_command(list(argv), environ_update={"LC_ALL": "C"})
        if ok and code not in ok:
            words = (err or out).strip()
            raise HostError(f"`{' '.join(argv)}` ended with code {code}: {words}")
        return code, out, err

    def installed(self, packages: list[str]) -> set[str]:
        """Return those of the packages that are installed."""
        asked = "--showformat=${Package} ${db:Status-Status}\n"
        out = self.run("dpkg-query", "--show", asked, *packages, ok=(0, 1))[1]
        return {line.split()[0] for line in out.splitlines() if line.endswith(" installed")}

    def candidate(self, package: str):
        """Return the version that apt would install, None if it knows none."""
        for line in self.run("apt-cache", "policy", package)[1].splitlines():
            key, _colon, value = line.strip().partition(": ")
            if key == "Candidate" and value != "(none)":
                return server_host.package_version(value)
        return None

    def pristine(self) -> frozenset[str]:
        """Return the option files that are as their package brought them."""
        out = self.run("dpkg-query", "--show", "--showformat=${Conffiles}\n", "m*sql*", "mariadb*", ok=(0, 1))[1]
        shipped = [line.split()[:2] for line in out.splitlines() if line.startswith(" /etc/mysql/")]

        def digest(path):
            return hashlib.md5((text_of(path) or "").encode(), usedforsecurity=False).hexdigest()

        return frozenset(path for path, md5 in shipped if digest(path) == md5)

    def interfaces(self) -> list[dict]:
        """Return what ``ip`` tells of the interfaces and their addresses."""
        return json.loads(self.run("ip", "-json", "address", "show")[1])

    def memory_mb(self) -> int:
        """Return the memory of the host, or of the container that it is, in MiB."""
        total = int((text_of("/proc/meminfo") or "").split("MemTotal:")[1].split()[0]) // 1024
        limit = (text_of("/sys/fs/cgroup/memory.max") or "max").strip()
        return total if limit == "max" else min(total, int(limit) // MIB)

    def unit(self, name: str) -> dict[str, str]:
        """Return properties of a systemd unit."""
        asked = "--property=ActiveState,UnitFileState,MainPID"
        lines = self.run("systemctl", "show", asked, name)[1].splitlines()
        return dict(line.split("=", 1) for line in lines)

    def sockets_of(self, pid: str) -> set[str]:
        """Return the inodes of the sockets that a process holds."""
        found = set()
        for path in glob.glob(f"/proc/{pid}/fd/*"):
            try:
                target = os.readlink(path)
            except OSError:  # closed, or ended, since
                continue
            if target.startswith("socket:["):
                found.add(target[8:-1])
        return found

    def listeners(self) -> list[server_host.Listener]:
        """Return all listening TCP sockets."""
        tables = (text_of("/proc/net/tcp"), text_of("/proc/net/tcp6"))
        return [found for table in tables if table for found in server_host.listeners(table)]

    def owner(self, listener: server_host.Listener) -> str:
        """Return the name of the program that listens."""
        for path in glob.glob("/proc/[0-9]*/comm"):
            pid = path.split("/")[2]
            if listener.inode in self.sockets_of(pid):
                return f"{(text_of(path) or '').strip()} (process {pid})"
        return "another program"

    def check_port(self, addresses: list[str], port: int, pid: str) -> None:
        """Refuse a port that somebody else listens on."""
        if not 0 < port < 65536:
            raise server_host.ServerError(f"mysql_port: {port} is not a port: use 1 to 65535")
        there = server_host.in_the_way(self.listeners(), addresses, port)
        own = self.sockets_of(pid) if there and pid != "0" else set()
        for listener in there:
            if listener.inode not in own:
                raise server_host.ServerError(
                    f"mysql_port: {self.owner(listener)} already listens on {listener.address} port"
                    f" {port}: choose another port, or stop that program"
                )

    def trial(self, chosen: dict, settings: list[optionfiles.Setting], own: Iterable[str]) -> tuple[list[str], dict]:
        """Have the server program try a configuration.

        Returns its errors, and its warnings about ``own`` options, and {variable: value} as they
        would be in force. Nothing of a running server is touched: both programs only read.
        """
        # In this folder because AppArmor lets MySQL read no other; root alone may read it.
        handle, path = tempfile.mkstemp(dir="/etc/mysql", prefix=".peat-trial-")
        try:
            with os.fdopen(handle, "w") as file:
                file.write(optionfiles.chain(settings))
            start = (chosen["program"], f"--defaults-file={path}", "--user=mysql")
            if chosen["flavour"] == "mysql":
                # `--help` of MySQL ignores unknown options, which `--validate-config` does not.
                validate = (*start, "--log-error=stderr", "--log-error-verbosity=2")
                code, _out, words = self.run(*validate, "--validate-config", ok=())
                _code, out, _err = self.run(*start, "--verbose", "--help", ok=())
            else:
                code, out, words = self.run(*start, "--verbose", "--help", ok=())
        finally:
            os.remove(path)
        found = server.complaints(words, own)
        if code and not found:
            found = [words.strip().replace(path, "the configuration") or f"exit code {code}"]
        return found, server.effective(out)

    def error_lines(self, unit: str, since: float, log: str, offset: int) -> str:
        """Return the last words of a server that did not start: its log file's and journal's."""
        lines = []
        if log and os.path.isfile(log):
            with open(log, errors="replace") as file:
                file.seek(offset)
                lines = file.read().splitlines()
        asked = ("--output=cat", "--no-pager", f"--since=@{int(since)}", f"--unit={unit}")
        lines += self.run("journalctl", *asked, ok=())[1].splitlines()
        return "\n".join(server.last_words(lines)) or "it left no message"

    def restart(self, unit: str, addresses: list[str], port: int, log: str) -> None:
        """Start a unit anew and wait until it listens; raise HostError with its own reason."""
        since = time.time()
        offset = os.path.getsize(log) if log and os.path.isfile(log) else 0
        code = self.run("systemctl", "restart", unit, ok=())[0]
        missing = self.not_listening(unit, addresses, port) if code == 0 else []
        if code == 0 and not missing:
            return
        reason = self.error_lines(unit, since, log, offset)
        problem = f"does not listen on {', '.join(missing)}" if missing else "did not start"
        raise HostError(f"{unit} {problem} with the new configuration:\n{reason}")

    def not_listening(self, unit: str, addresses: list[str], port: int) -> list[str]:
        """Wait for a unit to listen where it must; return where it does not in the end."""
        deadline = time.monotonic() + SECONDS_TO_ANSWER
        while True:
            own = self.sockets_of(self.unit(unit)["MainPID"])
            found = {x.address for x in self.listeners() if x.port == port and x.inode in own}
            anywhere = bool(server_host.ANY_ADDRESS.intersection(addresses)) and bool(found)
            missing = [f"{a} port {port}" for a in addresses if a not in found]
            if anywhere or not missing or time.monotonic() > deadline:
                return [] if anywhere else missing
            time.sleep(0.1)


class Server:
    """The running server, through its socket."""

    def __init__(self, flavour: str, socket: str) -> None:
        """Connect as root; raise SqlError or NoServer."""
        try:
            self.connection = sql.connect(socket)
        except sql.NoServer:
            raise
        except sql.SqlError as error:
            plugin = "unix_socket" if flavour == "mariadb" else "auth_socket"
            with_word = "VIA" if flavour == "mariadb" else "WITH"
            raise sql.SqlError(
                f"{error}. Log in with the password that somebody set and run: ALTER USER"
                f" root@localhost IDENTIFIED {with_word} {plugin}"
            ) from error
        self.flavour, self.socket = flavour, socket

    def __enter__(self) -> Server:
        """Use the connection in a `with` statement."""
        return self

    def __exit__(self, *_error) -> None:
        """Say goodbye; the server would log a connection that just breaks off."""
        self.connection.close()

    def rows(self, statement: str, values=None) -> list[tuple]:
        """Run a statement and return its rows; raise StatementError."""
        import pymysql  # known to be there: `sql.connect` used it

        try:
            with self.connection.cursor() as cursor:
                cursor.execute(statement, values)
                return list(cursor.fetchall())
        except pymysql.err.MySQLError as error:
            raise StatementError(statement, error.args[0], str(error.args[-1])) from error

    def variables(self) -> dict[str, str]:
        """Return {name: value} of the global variables."""
        return {name.lower(): value for name, value in self.rows("SHOW GLOBAL VARIABLES")}

    def version(self) -> str:
        """Return what clients see."""
        return self.rows("SELECT version()")[0][0]

    def settled(self, path: str) -> frozenset[str]:
        """Return the variables that have their value from this option file."""
        if self.flavour == "mariadb":
            statement = (
                "SELECT variable_name FROM information_schema.system_variables"
                " WHERE global_value_origin = 'CONFIG' AND global_value_path = %s"
            )
        else:
            statement = (
                "SELECT variable_name FROM performance_schema.variables_info"
                " WHERE variable_source <> 'DYNAMIC' AND variable_path = %s"
            )
        return frozenset(row[0].lower() for row in self.rows(statement, (path,)))

    def certificate(self) -> str:
        """Return the SHA-256, in hex, of the certificate that a new connection is shown; '' without TLS."""
        import pymysql

        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            connection = pymysql.connect(unix_socket=self.socket, user="root", ssl=context)
        except pymysql.err.MySQLError as error:
            if error.args[0] == NO_TLS:
                return ""
            raise HostError(f"no connection with TLS over {self.socket}: {error}") from error
        with contextlib.closing(connection):
            encrypted = isinstance(connection._sock, ssl.SSLSocket)
            return hashlib.sha256(connection._sock.getpeercert(True)).hexdigest() if encrypted else ""

    def reload_certificate(self) -> None:
        """Have the server read its certificate and key again; sessions go on with the old one."""
        self.rows("FLUSH SSL" if self.flavour == "mariadb" else "ALTER INSTANCE RELOAD TLS")

    def persisted(self) -> dict[str, str]:
        """Return {name: value} of what SET PERSIST made MySQL remember, which wins over every file."""
        if self.flavour == "mariadb":
            return {}
        return dict(self.rows("SELECT variable_name, variable_value FROM performance_schema.persisted_variables"))

    def can_set(self, change: server.Change) -> bool:
        """Tell whether a variable can take the value while the server runs, changing nothing.

        The statement sets a read-only variable as well, so the server refuses it as a whole; it
        names the first variable that it cannot set, and warns of a value that it would cut.
        """
        if change.variable in (None, NEVER_SET):
            return False
        variable, value = server.assignment(change)
        try:
            self.rows(f"SET GLOBAL {variable} = %s, GLOBAL {NEVER_SET} = 1", (value,))
        except StatementError as error:
            refused_whole = error.number == READ_ONLY and f"'{NEVER_SET}'" in error.words
            cut = any(row[1] == TRUNCATED for row in self.rows("SHOW WARNINGS"))
            return refused_whole and not cut
        raise HostError(f"the server let its variable {NEVER_SET} be set")

    def set(self, change: server.Change) -> None:
        """Set a variable of the running server."""
        variable, value = server.assignment(change)
        self.rows(f"SET GLOBAL {variable} = %s", (value,))
