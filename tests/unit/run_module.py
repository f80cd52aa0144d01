"""Run one of the project's modules in this process, as Ansible would, and return its result."""

import contextlib
import importlib.util
import io
import json
import pathlib
import runpy
import sys
from unittest import mock

import ansible.module_utils
import pytest
from ansible.module_utils import _internal
from ansible.module_utils.common import warnings
from ansible.module_utils.testing import patch_module_args

ROOT = pathlib.Path(__file__).parents[2]


def find_utilities():
    """Have Ansible find the project's module_utils."""
    utilities = str(ROOT / "module_utils")
    if utilities not in ansible.module_utils.__path__:
        ansible.module_utils.__path__.append(utilities)


def import_module(name):
    """Return library/<name>.py, to call its functions one by one."""
    find_utilities()
    spec = importlib.util.spec_from_file_location(name, ROOT / "library" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    # Where dataclasses look for the types of their fields.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def run_module(name, *, check=False, **arguments):
    """Return what library/<name>.py hands back to Ansible; `check` is check mode."""
    find_utilities()
    output = io.StringIO()
    arguments = {**arguments, "_ansible_check_mode": check, "_ansible_diff": True}
    # Where another test has imported Ansible itself, warnings would go to its display; and they add up in a process.
    warnings._global_warnings.clear()
    as_module = mock.patch.object(_internal, "is_controller", False)
    with as_module, patch_module_args(arguments), contextlib.redirect_stdout(output), pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / "library" / f"{name}.py"), run_name="__main__")
    return json.loads(output.getvalue())
