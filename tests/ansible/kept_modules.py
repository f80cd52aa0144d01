"""A callback plugin for test runs: Ansible keeps the modules it has packed for the next of its runs.

Packing a module means parsing everything it imports, which Ansible does anew for each run; with hundreds of runs that
is a third of what they cost. What is sent to a host is the same, byte for byte. Where a release of Ansible packs in
another place, this only stops saving time.
"""

from __future__ import annotations

import hashlib
import os
import pathlib

from ansible import constants, release
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: kept_modules
type: aggregate
short_description: Keeps packed modules between runs
description: For test runs only.
"""

ROOT = pathlib.Path(__file__).parents[2]


class CallbackModule(CallbackBase):
    """Puts a folder that is kept where Ansible puts packed modules."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "kept_modules"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        # A folder for each state of what is packed: nothing in it can be out of date.
        state = hashlib.sha256(release.__version__.encode())
        for path in sorted([*ROOT.glob("library/*.py"), *ROOT.glob("module_utils/**/*.py")]):
            state.update(b"%s\0%s" % (str(path).encode(), path.read_bytes()))
        kept = ROOT / ".cache/modules" / state.hexdigest()[:16]
        kept.mkdir(parents=True, exist_ok=True)
        os.symlink(kept, os.path.join(constants.DEFAULT_LOCAL_TMP, "ansiballz_cache"))
