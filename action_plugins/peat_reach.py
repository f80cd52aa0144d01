"""The controller's part of the module peat_reach: what a vantage point tries, and what came of it.

Only here the whole list is known. A vantage point first says from which address it would reach the server;
then it is told what to try from there, with the passwords and certificates that this takes and no others.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import zipfile

import pymysql
from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

# Ansible offers module_utils to modules only; this is the same code, on the controller.
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "module_utils"))

from peat import hosting, pki, verification
from peat.lab import ZEO, LabError


class ActionModule(ActionBase):
    """The controller's part of the module peat_reach."""

    TRANSFERS_FILES = True
    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        """Return the rows of one server from one vantage point; a row too if it cannot be told."""
        result = super().run(tmp, task_vars)
        self.vars, arguments = task_vars, dict(self._task.args)
        try:
            rows = self._rows(arguments, hosting.load(arguments["lab"]))
        except (AnsibleConnectionFailure, LabError, OSError, pki.PkiError, _Unable) as error:
            where = f"reach from {arguments['vantage']}"
            rows = [verification.row(where, f"nothing could be tried: {error}", False)]
        rows = [{"server": arguments["name"], **row} for row in rows]
        return {**result, "changed": False, "rows": rows}

    def _rows(self, arguments, lab):
        ways = self._module(targets=arguments["addresses"])["ways"]
        if not ways:
            raise _Unable(f"there is no way to {', '.join(arguments['addresses'])}")
        rows, refused = [], {}
        for target, address, source in ways:
            tries = _tries(arguments, lab, source, again=source in refused)
            left = verification.MOST_REFUSALS - refused.get(source, 0)
            answers = self._try(arguments, tries, target, address, left)
            refused[source] = refused.get(source, 0) + verification.unwanted(tries, answers)
            found = verification.verdict(
                lab, source, tries, answers, time.time(), pki.FAIL_DAYS, arguments.get("fingerprint") or ""
            )
            for row in found:
                row["check"] += f" from {arguments['vantage']}, {source}"
            rows += found
        return rows

    def _try(self, arguments, tries, target, address, most_refusals):
        """Let the vantage point try; its passwords and certificates are only those of these tries."""
        options = {"backend": arguments.get("backend", "relstorage"), "tries": tries}
        options.update(target=target, address=address, most_refusals=most_refusals)
        options.update(authority=_text(arguments.get("authority")))
        options["certificates"] = _certificates(arguments.get("certificates_dir"), tries)
        if options["backend"] == ZEO or not any("user" in one for one in tries):
            return self._module(**options)["answers"]
        folder = self._make_tmp_path()
        try:
            options["driver"] = self._connection._shell.join_path(folder, "pymysql.zip")
            with tempfile.NamedTemporaryFile(suffix=".zip") as file:
                _pack(file)
                self._transfer_file(file.name, options["driver"])
            return self._module(**options)["answers"]
        finally:
            self._remove_tmp_path(folder)

    def _module(self, **arguments):
        answer = self._execute_module(module_args=arguments, task_vars=self.vars)
        if answer.get("failed") or answer.get("unreachable"):
            raise _Unable(answer.get("msg") or "no answer")
        return answer


class _Unable(Exception):
    """A vantage point could not do its part; the text says why."""


def _tries(arguments, lab, source, again):
    certified = bool(arguments.get("encrypted"))
    if arguments.get("backend") == ZEO:
        return verification.zeo_tries(lab, source, int(arguments["port"]), certified, bool(arguments.get("authority")))
    port, forwarder_port = int(arguments["port"]), arguments.get("forwarder_port")
    passwords = arguments.get("passwords") or {}
    return [
        *verification.tries(lab, passwords, source, port, forwarder_port and int(forwarder_port), certified, again),
        *verification.door_tries(arguments.get("doors") or [], source),
    ]


def _text(path):
    if not path:
        return ""
    with open(path, encoding="ascii") as file:
        return file.read()


def _certificates(folder, tries):
    """Return the certificate with its key, as one text, of everybody who is tried and has one."""
    found = {}
    for name in {one.get("user") for one in tries} - {None}:
        path = os.path.join(folder or "", f"{name}.client")
        if folder and os.path.exists(f"{path}.crt"):
            found[name] = _text(f"{path}.crt") + _text(f"{path}.key")
    return found


def _pack(file):
    """Write the controller's PyMySQL into a file from which Python can import it."""
    folder = os.path.dirname(pymysql.__file__)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, _folders, names in os.walk(folder):
            for name in names:
                if name.endswith(".py"):
                    inside = os.path.relpath(os.path.join(path, name), os.path.dirname(folder))
                    archive.write(os.path.join(path, name), inside)
    file.flush()
