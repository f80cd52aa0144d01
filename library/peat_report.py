#!/usr/bin/python
"""Write the report of a lab: who can reach what."""

from __future__ import annotations

DOCUMENTATION = r"""
module: peat_report
short_description: Write one page of who can reach what on a lab's servers
description:
  - Writes one self-contained HTML page from what M(peat_status) returned for each server.
  - The page says the time it is of. A page that would differ in that alone is written as well, and is no change.
  - Meant to run on the controller (C(delegate_to=localhost)), once.
options:
  dest:
    description:
      - The file. A new one is readable by its owner only; one that is there keeps its mode.
    type: path
    required: true
  servers:
    description: The servers as M(peat_status) describes them, in the order of the page.
    type: list
    elements: dict
    required: true
  unread:
    description: Names of servers that could not be read.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
author: PEAT Server
"""

EXAMPLES = r"""
- name: Write the report
  peat_report:
    dest: "{{ inventory_dir }}/report.html"
    servers: ["{{ status.server }}"]
  delegate_to: localhost
"""

RETURN = r"""
dest:
  description: The file.
  type: str
  returned: success
"""

import datetime
import os
import stat
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.peat import report


def read(path: str) -> str | None:
    """Return a file's text, None if there is no file."""
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def write(path: str, text: str) -> None:
    """Put the page in place, complete or not at all."""
    mode = stat.S_IMODE(os.stat(path).st_mode) if os.path.exists(path) else 0o600
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path) or ".", prefix=".new-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "dest": {"type": "path", "required": True},
            "servers": {"type": "list", "elements": "dict", "required": True},
            "unread": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    dest, servers, unread = (module.params[key] for key in ("dest", "servers", "unread"))
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M")
    try:
        before = read(dest)
        time_before = report.as_of(before or "")
        if before and time_before is None:
            module.fail_json(msg=f"{dest} is no report and would be overwritten: move the file away")
        # Held against each other as of the same time.
        after = report.page(servers, unread, time_before or now)
        if not module.check_mode:
            write(dest, report.page(servers, unread, now))
    except OSError as error:
        module.fail_json(
            msg=f"the report cannot be written to {dest} ({error.strerror}): "
            "let peat_report_file name a file in a directory that the user who runs Ansible may write"
        )
    module.exit_json(
        changed=before != after,
        dest=dest,
        diff={"before_header": dest, "after_header": dest, "before": before or "", "after": after},
    )


if __name__ == "__main__":
    main()
