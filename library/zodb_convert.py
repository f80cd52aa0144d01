#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Copy a project's data between a file of a ZEO host and another file or a database."""

from __future__ import annotations

DOCUMENTATION = r"""
module: zodb_convert
short_description: Copy a project's data between a file of a ZEO host and another file or a database
description:
  - Runs on the ZEO host and is one step of C(playbooks/convert.yml); C(relstorage_convert) does what the database's
    host has to do.
  - A storage that gets the data is written beside the served one, compared with the source, and changes places with it.
    If anything fails, what was written is removed and the served storage is as it was.
options:
  source:
    description: Where the data is. O(source.path) is the file of a FileStorage; without it, O(source.database).
    type: dict
    required: true
    suboptions: &storage
      path:
        description: A FileStorage; its blobs are in the folder C(blobs) beside it.
        type: path
      database:
        description: Name of a database.
        type: str
      keep_history:
        description: Whether that database keeps history.
        type: bool
        default: true
      clients:
        description: Which clients it is for.
        type: str
        choices: [peat2, relstorage4]
        default: peat2
  target:
    description: Where it goes. A file must be that of a storage this host serves.
    type: dict
    required: true
    suboptions: *storage
  address:
    description: Address of the database's server.
    type: str
  port:
    description: Its port.
    type: int
  user:
    description: Account on it.
    type: str
  password:
    description: Password of that account. Not needed for state C(checked).
    type: str
  blobs:
    description: Whether attached files are allowed. PEAT 2.3 does not find them in a database.
    type: bool
    default: true
  state:
    description: C(checked) refuses what cannot be, without a copy.
    type: str
    choices: [checked, copied]
    default: copied
author: PEAT Server maintainers
"""

EXAMPLES = r"""
- zodb_convert:
    source: {path: /var/lib/zeo/hewlsample/Data.fs}
    target: {database: hewlsample~convert}
    address: db.example.org
    port: 8080
    user: peat-convert
    password: "{{ password }}"
"""

RETURN = r"""
address:
  description: From which address this host reaches the database's server.
  type: str
  returned: success, with O(address)
copied:
  description: Number of transactions, records, objects and blobs that are the same on both sides.
  type: dict
  returned: when copied
"""

import json
import os
import shutil
import socket
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.peat import zeo

PROGRAM = "/opt/zodb-convert/bin/zodb-convert"
#: Starts ZEO also where systemd, after some starts in a few minutes, would refuse the next.
ZEOCTL = "/usr/local/sbin/zeoctl"
# Of a storage that nobody has stored anything in: the role gives it a root object.
COUNT = """
import sys
from ZODB.FileStorage import FileStorage
storage = FileStorage(sys.argv[1], read_only=True)
print("%d %d" % (len(list(storage.iterator())), len(storage)))
"""


class ConvertError(Exception):
    """The data cannot be copied, or did not arrive; says what was found and what to do."""


def served() -> dict[str, str]:
    """Return the project of each data file that this host serves."""
    try:
        with open(zeo.CONFIG) as file:
            return {os.path.realpath(path): name for name, path in zeo.storages_of(file.read()).items()}
    except FileNotFoundError:
        return {}


def check_source(path: str) -> None:
    """Refuse a file that is not there, or that somebody may be writing to."""
    if not os.path.isfile(path):
        raise ConvertError(f"there is no FileStorage {path} on this host: name it with convert_from")
    name = served().get(os.path.realpath(path))
    if name:
        raise ConvertError(
            f"{path} is served as {name}, so people may be writing to it: give {name} its new backend in the list, or "
            "take it out, and run site.yml first"
        )


def check_target(module: AnsibleModule, path: str) -> None:
    """Refuse a file that is not served, or that has objects."""
    if os.path.realpath(path) not in served():
        raise ConvertError(f"{path} is not served here: run site.yml first, it makes the project's storage")
    code, out, err = module.run_command([f"{zeo.ENVIRONMENT}/bin/python", "-c", COUNT, path], cwd="/")
    if code:
        raise ConvertError(f"{path} cannot be read: {err.strip()[-1000:]}")
    transactions, objects = map(int, out.split())
    if transactions > 1 or objects > 1:
        raise ConvertError(
            f"{path} is not empty: it has {objects} objects in {transactions} transactions. Nothing was changed: only "
            "an empty project can get another's data"
        )


def own_address(address: str, port: int) -> str:
    """Return the address that connections of this host to another come from."""
    try:
        family, kind, protocol, _name, where = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(where)
            return probe.getsockname()[0]
    except OSError as error:
        raise ConvertError(f"the database's server {address} cannot be reached: {error}") from error


def settings_of(params: dict, storage: dict, scratch: str) -> dict:
    """Return a storage as the program takes it."""
    if storage["path"]:
        return {"path": storage["path"], "blob_dir": f"{os.path.dirname(storage['path'])}/blobs"}
    names = {"host": "address", "port": "port", "user": "user", "passwd": "password"}
    mysql = {key: params[name] for key, name in names.items()}
    return {
        "mysql": {**mysql, "db": storage["database"]},
        "keep_history": storage["keep_history"],
        "procedures": storage["clients"] == "relstorage4",
        "blob_dir": f"{scratch}/blobs",
    }


def copy(module: AnsibleModule, target: dict) -> dict:
    """Run the program that copies and compares; return what it counted."""
    params = module.params
    with tempfile.TemporaryDirectory(prefix="zodb-convert-", dir="/var/tmp") as scratch:
        settings = {
            "source": settings_of(params, params["source"], scratch),
            "target": settings_of(params, target, scratch),
            "blobs": params["blobs"],
        }
        code, out, err = module.run_command([PROGRAM], data=json.dumps(settings), cwd="/")
    if code:
        raise ConvertError(
            f"not copied: {err.strip()[-2000:]}. The project has none of the data, the source is untouched"
        )
    return json.loads(out)


def check_places(folder: str) -> None:
    """Refuse a storage's folder that cannot change places with another one."""
    with open("/proc/self/mounts") as mounts:
        inside = [point for point in zeo.fstab_points(mounts.read()) if f"{point}/".startswith(f"{folder}/")]
    if inside:
        raise ConvertError(
            f"{inside[0]} is a mount point, so no other folder can take the place of {folder}: give the project a "
            "folder within that file system in zeo_project_dirs, and run site.yml first"
        )
    kept = sorted(name for name in os.listdir(folder) if name.startswith("before-"))
    if kept:
        raise ConvertError(f"{folder}/{kept[0]} was kept by a restore and would be lost: move it away, or remove it")
    if os.path.lexists(f"{folder}.empty"):
        raise ConvertError(
            f"{folder}.empty was left by a conversion that was killed: if {folder} is gone, give it that name again; "
            "otherwise remove it"
        )


def zeoctl(module: AnsibleModule, word: str) -> None:
    """Stop or start ZEO; raise ConvertError with its own words where it does not."""
    code, out, err = module.run_command([ZEOCTL, word])
    if code:
        raise ConvertError(f"ZEO does not {word}: {(err or out).strip()}")


def change_places(module: AnsibleModule, folder: str, fresh: str) -> None:
    """Serve the new folder instead of the empty one. If anything fails, the empty one is back and served."""
    owner = os.stat(folder)
    for path, _folders, files in os.walk(fresh):
        for name in [path, *(os.path.join(path, name) for name in files)]:
            os.chown(name, owner.st_uid, owner.st_gid)
    os.chmod(fresh, owner.st_mode & 0o777)
    empty = f"{folder}.empty"
    moved = []
    try:
        zeoctl(module, "stop")
        # Nobody can have stored anything since.
        check_target(module, f"{folder}/Data.fs")
        for move in ((folder, empty), (fresh, folder)):
            os.rename(*move)
            moved.append(move)
        zeoctl(module, "start")
    except (ConvertError, OSError) as error:
        try:
            for before, after in reversed(moved):
                os.rename(after, before)
        finally:
            zeoctl(module, "start")
        raise ConvertError(f"{error}. The empty storage is back") from error
    shutil.rmtree(empty)


def copy_into_file(module: AnsibleModule) -> dict:
    """Copy into a folder beside the served one and let them change places."""
    folder = os.path.realpath(os.path.dirname(module.params["target"]["path"]))
    fresh = f"{folder}.converting"
    shutil.rmtree(fresh, ignore_errors=True)
    os.mkdir(fresh, 0o700)
    try:
        copied = copy(module, {**module.params["target"], "path": f"{fresh}/Data.fs"})
        change_places(module, folder, fresh)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return copied


def run(module: AnsibleModule) -> dict:
    """Check, copy unless that was all; return the module's result."""
    params, result = module.params, {}
    source, target = params["source"], params["target"]
    if source["path"]:
        check_source(source["path"])
    if target["path"]:
        check_target(module, target["path"])
        check_places(os.path.realpath(os.path.dirname(target["path"])))
    if params["address"]:
        result["address"] = own_address(params["address"], params["port"])
    if params["state"] == "copied" and not module.check_mode:
        result["copied"] = copy_into_file(module) if target["path"] else copy(module, target)
    return {"changed": params["state"] == "copied", **result}


def main() -> None:
    """Run as an Ansible module."""
    storage = {
        "type": "dict",
        "required": True,
        "options": {
            "path": {"type": "path"},
            "database": {"type": "str"},
            "keep_history": {"type": "bool", "default": True},
            "clients": {"type": "str", "choices": ["peat2", "relstorage4"], "default": "peat2"},
        },
        "required_one_of": [("path", "database")],
        "mutually_exclusive": [("path", "database")],
    }
    module = AnsibleModule(
        argument_spec={
            "source": storage,
            "target": storage,
            "address": {"type": "str"},
            "port": {"type": "int"},
            "user": {"type": "str"},
            "password": {"type": "str", "no_log": True},
            "blobs": {"type": "bool", "default": True},
            "state": {"type": "str", "choices": ["checked", "copied"], "default": "copied"},
        },
        supports_check_mode=True,
    )
    try:
        result = run(module)
    except (ConvertError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
