"""Shows where a migration is while the module still runs on the server.

Ansible shows nothing of a module before its end. So the module runs as an asynchronous job, which also
survives a lost connection of the controller, and this part, on the controller, prints the line that the
module keeps in its status file.
"""

from __future__ import annotations

import json
import time

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

display = Display()

#: A job is not ended before: seconds in 30 days.
LIMIT = 30 * 24 * 3600
#: Seconds between two looks; a line that did not change is not printed again.
PAUSES = (0.2, 0.3, 0.5, 1, 1, 2)
#: What the job adds to the module's result.
_OF_THE_JOB = (
    "ansible_job_id",
    "results_file",
    "started",
    "finished",
    "stdout",
    "stdout_lines",
    "stderr",
    "stderr_lines",
)


class ActionModule(ActionBase):
    """The controller's part of the module relstorage_migrate, and under that name of relstorage_import."""

    TRANSFERS_FILES = False
    _supports_async = False

    def run(self, tmp=None, task_vars=None):
        """Run the module, showing its progress where it changes something."""
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        if arguments.get("state") in (None, "info") or self._task.check_mode:
            return {**result, **self._execute_module(module_args=arguments, task_vars=task_vars)}
        folder = self._make_tmp_path()
        status = arguments.setdefault("status_file", self._connection._shell.join_path(folder, "status"))
        try:
            return {**result, **self._watched(arguments, status, task_vars)}
        finally:
            self._remove_tmp_path(folder)

    def _watched(self, arguments, status, task_vars):
        self._task.async_val = LIMIT
        try:
            job = self._execute_module(module_args=arguments, task_vars=task_vars, wrap_async=True)
        finally:
            self._task.async_val = 0
        if "ansible_job_id" not in job:
            return job
        shown, looks = None, 0
        while True:
            time.sleep(PAUSES[min(looks, len(PAUSES) - 1)])
            looks += 1
            shown = self._show(status, shown, task_vars)
            done = self._job(job["ansible_job_id"], "status", task_vars)
            if done.get("finished"):
                self._job(job["ansible_job_id"], "cleanup", task_vars)
                return {key: value for key, value in done.items() if key not in _OF_THE_JOB}

    def _job(self, job, mode, task_vars):
        return self._execute_module(
            module_name="ansible.legacy.async_status",
            module_args={
                "jid": job,
                "mode": mode,
                "_async_dir": self.get_shell_option("async_dir", "~/.ansible_async"),
            },
            task_vars=task_vars,
        )

    def _show(self, status, shown, task_vars):
        """Print the line in the status file unless it was printed before; return it."""
        read = self._low_level_execute_command(f"cat {status} 2>/dev/null || true")
        try:
            line = json.loads(read["stdout"])["line"]
        except (ValueError, KeyError):
            return shown
        if line != shown:
            display.display(f"{task_vars['inventory_hostname']}: {self._name()}: {line}")
        return line

    def _name(self):
        return self._task.args.get("database") or self._task.args.get("project")
