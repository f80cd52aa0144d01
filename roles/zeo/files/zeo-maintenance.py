"""Packs, backs up and restores the storages of this host's ZEO server.

usage: zeo-maintenance.py pack [PROJECT ...]             drop history older than the project's days
       zeo-maintenance.py pack-due                       the same where the project's time has come
       zeo-maintenance.py backup [PROJECT ...]
       zeo-maintenance.py backups                        list what can be restored
       zeo-maintenance.py restore PROJECT [TIME]         the latest backup, or the last before TIME (UTC: 2026-01-31-14-00)
       zeo-maintenance.py verify [PROJECT ...]           restore the latest backup elsewhere and read all of it

Runs in the environment of the server, so on Python 2.7 as well as on Python 3, as root. What is served and how is
read from zeo.conf, the rest from zeo-maintenance.json.

A backup of a project is a folder per period (`set`): what repozo writes (one full copy, then increments) and the
blobs. Data comes first, blobs second: the blobs of all transactions in the data are there by then, and some more do
no harm. The other way round the newest transactions would lack theirs. Only a pack removes blobs; packs of this
program wait for a backup, and after one that a client asked for the backup starts again. A blob never changes, so a
new set shares those that the set before has.
"""

from __future__ import print_function

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

import ZConfig
import ZEO
from ZEO.ClientStorage import ClientStorage
from ZODB.blob import is_blob_record
from ZODB.FileStorage import FileStorage

CONFIG = "/etc/zeo/zeo.conf"
SETTINGS = "/etc/zeo-maintenance.json"
STAMPS = "/var/lib/zeo-packed"
LOCK = "/run/zeo-maintenance.lock"
#: Starts the server also where systemd, after some starts in a few minutes, would refuse the next.
ZEOCTL = "/usr/local/sbin/zeoctl"
REPOZO = os.path.join(os.path.dirname(sys.executable), "repozo")
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class Failure(Exception):
    """Something an administrator has to know; the text says what."""


def say(project, text):
    print("%s: %s" % (project, text))
    sys.stdout.flush()


class Server(object):
    """What zeo.conf and maintenance.json say."""

    def __init__(self):
        # Not by ZEO's own class of options, which opens the server's log, and would leave a new one to root.
        schema = ZConfig.loadSchema(os.path.join(os.path.dirname(ZEO.__file__), "schema.xml"))
        config = ZConfig.loadConfig(schema, CONFIG)[0]
        self.address = config.zeo.address.address
        self.storages = dict((storage.name, storage.config) for storage in config.storages)
        with open(SETTINGS) as stream:
            self.settings = json.load(stream)

    def storage(self, project):
        try:
            return self.storages[project]
        except KeyError:
            raise Failure("%s is not served here; there are: %s" % (project, ", ".join(sorted(self.storages))))

    def projects(self, command):
        """Return those that a command without names is for: nobody can pack what is frozen."""
        frozen = [name for name, storage in self.storages.items() if storage.read_only]
        return sorted(set(self.storages) - set(frozen if command in ("pack", "pack-due") else ()))

    def schedule(self, project):
        """Return days, weekday and time of a project's packs."""
        own = [entry for entry in self.settings["pack_projects"] if entry["name"] == project]
        return dict(self.settings["pack"], **dict(own[0] if own else {}))

    def backups(self, project):
        return os.path.join(self.settings["backup_dir"], project)

    def connect(self, project):
        """Connect as the maintenance user (digest) or with the maintenance certificate (TLS), if the server asks."""
        host, port = self.address
        address = ({None: "127.0.0.1", "": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)
        login, known = self.settings["login"], {}
        if "username" in login:
            with open(login["password_file"]) as stream:
                known = {"username": str(login["username"]), "password": stream.read().strip()}
        elif "certificate" in login:
            import ssl

            # The server on this host shows exactly this certificate, whatever names are in it.
            context = ssl.create_default_context(cafile=login["server_certificate"])
            context.check_hostname = False
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            context.load_cert_chain(login["certificate"])
            known = {"ssl": context}
        storage = ClientStorage(address, storage=str(project), wait=False, **known)
        deadline = time.time() + 30
        while not storage.is_connected():
            if time.time() > deadline:
                storage.close()
                raise Failure("no answer of the server at %s:%s within 30 s" % address)
            time.sleep(0.1)
        return storage


def touch(path):
    with open(path, "w"):
        pass


# Packing


def last_due(schedule, now):
    """Return when a pack was due last; None if the project has no schedule."""
    if not schedule["time"]:
        return None
    hour, minute = [int(part) for part in schedule["time"].split(":")]
    day = time.localtime(now)
    for back in range(8):
        due = time.mktime((day.tm_year, day.tm_mon, day.tm_mday - back, hour, minute, 0, 0, 0, -1))
        if due <= now and schedule["weekday"] in ("daily", WEEKDAYS[time.localtime(due).tm_wday]):
            return due
    return None


def packed(project):
    try:
        return os.stat(os.path.join(STAMPS, project)).st_mtime
    except OSError:
        return 0


def pack_if_due(server, project):
    due = last_due(server.schedule(project), time.time())
    if due is not None and packed(project) < due:
        pack(server, project)


def pack(server, project):
    if server.storage(project).read_only:
        raise Failure("it is frozen, so nobody can write to it, and a pack would")
    path, schedule = server.storage(project).path, server.schedule(project)
    before = os.path.getsize(path)
    storage = server.connect(project)
    try:
        storage.pack(time.time() - schedule["days"] * 86400, wait=True)
    finally:
        storage.close()
    if not os.path.isdir(STAMPS):
        os.mkdir(STAMPS)
    touch(os.path.join(STAMPS, project))
    say(project, "packed to %d days, %d -> %d bytes" % (schedule["days"], before, os.path.getsize(path)))


# Backup


def sets(folder):
    """Return the sets of a project, oldest first."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return [os.path.join(folder, name) for name in sorted(names) if os.path.exists(os.path.join(folder, name, "begun"))]


def name_of(moment):
    """Return what repozo names a file of this time."""
    return time.strftime("%Y-%m-%d-%H-%M-%S", time.gmtime(moment))


def listed(folder):
    """Return the names of the files that repozo says are complete: it lists each of them last of all."""
    names = []
    for name in os.listdir(folder):
        if name.endswith(".dat"):
            with open(os.path.join(folder, name)) as lines:
                names += [os.path.basename(line.rsplit(None, 3)[0]) for line in lines if line.strip()]
    return names


def data_of(path):
    """Return the folder of a set's data; what a run that failed left there half written would spoil all after it."""
    folder, adding = os.path.join(path, "data"), os.path.join(path, "adding")
    if os.path.exists(adding):
        complete = listed(folder)
        for name in os.listdir(folder):
            if name.endswith((".fsz", ".deltafsz")) and name not in complete:
                os.rename(os.path.join(folder, name), os.path.join(folder, name + ".unfinished"))
        os.remove(adding)
    return folder


def wait_for_a_later_name(path):
    """Wait until the next file of a set gets a later name than all before, and so has its place after them.

    Names are seconds. Of a full copy and an increment of the same one repozo takes the copy only, and a restore would lack
    what was saved in between.
    """
    names = [name.split(".")[0] for name in os.listdir(data_of(path)) if name[0].isdigit()]
    latest = max([os.path.basename(path)] + names)
    while name_of(time.time()) <= latest:
        if name_of(time.time() + 60) < latest:
            raise Failure(
                "the newest backup is of %s, which is yet to come: set the clock of this host right, or move %s elsewhere"
                % (latest, path)
            )
        time.sleep(0.1)


def backup(server, project):
    storage, folder, settings = server.storage(project), server.backups(project), server.settings
    known = sets(folder)
    if known:
        wait_for_a_later_name(known[-1])
    now = time.time()
    if known and now - os.stat(os.path.join(known[-1], "begun")).st_mtime < settings["backup_full_days"] * 86400:
        target, previous = known[-1], None
    else:
        target = os.path.join(folder, name_of(now))
        previous = known[-1] if known else None
        make_private(os.path.join(target, "data"))
        touch(os.path.join(target, "begun"))
    for attempt in range(3):
        if attempt:
            wait_for_a_later_name(target)
        file = os.stat(storage.path).st_ino
        data = data_of(target)
        touch(os.path.join(target, "adding"))
        repozo("--backup", "--gzip", "--repository", data, "--file", storage.path)
        os.remove(os.path.join(target, "adding"))
        new = copy_blobs(storage.blob_dir, os.path.join(target, "blobs"), previous and os.path.join(previous, "blobs"))
        # A pack puts a new file in the place of the old.
        if os.stat(storage.path).st_ino == file:
            break
    else:
        raise Failure("the storage is packed again and again while it is backed up")
    touch(os.path.join(target, "ended"))
    for old in sets(folder)[: -settings["backup_keep"]]:
        shutil.rmtree(old)
    say(project, "backed up to %s, %d new blobs" % (target, new))


def repozo(*arguments):
    process = subprocess.Popen((REPOZO,) + arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = process.communicate()[0].decode("utf-8", "replace")
    if process.returncode:
        raise Failure("repozo %s ended with %d: %s" % (" ".join(arguments), process.returncode, said.strip()))


def make_private(path):
    if not os.path.isdir(path):
        os.makedirs(path, 0o700)


def copy_blobs(source, target, previous):
    """Copy what `target` lacks, by a link where the set before has it; return how many files."""
    if not source or not os.path.isdir(source):
        return 0
    copied = 0
    for folder, folders, files in os.walk(source):
        where = os.path.relpath(folder, source)
        if where == ".":
            folders[:] = [name for name in folders if name != "tmp"]
        make_private(os.path.join(target, where))
        for name in files:
            if not (name.endswith(".blob") or name == ".layout"):
                continue
            final = os.path.join(target, where, name)
            shared = previous and os.path.join(previous, where, name)
            if os.path.exists(final):
                continue
            if shared and os.path.exists(shared):
                os.link(shared, final)
            else:
                shutil.copy2(os.path.join(folder, name), final + ".part")
                os.rename(final + ".part", final)
            copied += 1
    return copied


# Restore


def recover(server, project, target, moment=None):
    """Put a backup into the folder `target` and read all of it; return the set."""
    suitable = [path for path in sets(server.backups(project)) if os.path.exists(os.path.join(path, "ended"))]
    if moment:
        suitable = [path for path in suitable if os.path.basename(path) <= moment]
    if not suitable:
        raise Failure("%s has no complete backup%s" % (project, " before " + moment if moment else ""))
    source = suitable[-1]
    data, saved = os.path.join(target, "Data.fs"), data_of(source)
    # Of a full copy that is gone repozo would not know, and take the one before.
    gone = [name for name in listed(saved) if not os.path.exists(os.path.join(saved, name))]
    gone = [name for name in gone if not moment or name.split(".")[0] <= moment]
    if gone:
        raise Failure("the backup %s lacks %s" % (source, ", ".join(sorted(gone))))
    repozo("--verify", "--repository", saved)
    date = ("--date", moment) if moment else ()
    repozo("--recover", "--repository", saved, "--output", data, *date)
    blobs = os.path.join(target, "blobs")
    copy_blobs(os.path.join(source, "blobs"), blobs, None)
    say(project, "%s: %s" % (source, read_everything(data, blobs)))
    return source


def read_everything(data, blobs):
    """Open a storage and read every record and blob of it; return what there is."""
    storage = FileStorage(data, blob_dir=blobs if os.path.isdir(blobs) else None, read_only=True)
    transactions = records = files = 0
    objects = set()
    try:
        for transaction in storage.iterator():
            transactions += 1
            for record in transaction:
                records += 1
                objects.add(record.oid)
                if record.data and is_blob_record(record.data):
                    with open(storage.loadBlob(record.oid, record.tid), "rb") as stream:
                        while stream.read(1 << 20):
                            pass
                    files += 1
        # The index is a file of the backup as well: what it knows must be there.
        if len(objects) != len(storage):
            raise Failure("%d objects of %d can be read" % (len(objects), len(storage)))
    finally:
        storage.close()
    return "%d transactions, %d records, %d blobs" % (transactions, records, files)


def restore(server, project, moment=None):
    """Recover in the storage's folder, which may be a file system of its own, while it is served; then change places."""
    folder = os.path.dirname(server.storage(project).path)
    fresh = os.path.join(folder, "restoring")
    kept = time.strftime(os.path.join(folder, "before-%Y-%m-%d-%H-%M-%S"), time.gmtime())
    fixed = [path for path in parts(folder) if os.path.ismount(path)]
    if fixed:
        raise Failure("%s is a mount point and cannot be replaced: mount the folder of the project instead" % fixed[0])
    shutil.rmtree(fresh, ignore_errors=True)
    make_private(fresh)
    recover(server, project, fresh, moment)
    owner = os.stat(folder)
    for path, folders, files in os.walk(fresh):
        for name in folders + files:
            os.chown(os.path.join(path, name), owner.st_uid, owner.st_gid)
    subprocess.check_call([ZEOCTL, "stop"])
    try:
        change_places(folder, fresh, kept)
    finally:
        subprocess.check_call([ZEOCTL, "start"])
    say(project, "restored; what was there is in %s. Clients that are open have to be started again." % kept)


def parts(folder):
    """Return what a storage consists of."""
    names = sorted(name for name in os.listdir(folder) if name.startswith(("Data.fs", "blobs")))
    return [os.path.join(folder, name) for name in names]


def change_places(folder, fresh, kept):
    """Put the storage of one folder into `kept` and that of `fresh` in its place, or leave all as it is."""
    make_private(kept)
    moves = [(path, kept) for path in parts(folder)] + [(path, folder) for path in parts(fresh)]
    done = []
    try:
        for path, target in moves:
            new = os.path.join(target, os.path.basename(path))
            os.rename(path, new)
            done.append((path, new))
    except OSError:
        for path, new in reversed(done):
            os.rename(new, path)
        raise
    shutil.rmtree(fresh)


def verify(server, project):
    make_private(server.backups(project))
    folder = tempfile.mkdtemp(prefix="verify-", dir=server.backups(project))
    try:
        recover(server, project, folder)
    finally:
        shutil.rmtree(folder)


def list_backups(server):
    for project in sorted(server.storages):
        for path in sets(server.backups(project)):
            for name in sorted(os.listdir(data_of(path))):
                moment, kind = os.path.splitext(name)
                if kind in (".fsz", ".deltafsz"):
                    print("%s\t%s\t%s" % (project, moment, "full" if kind == ".fsz" else "increment"))


@contextlib.contextmanager
def alone():
    """Wait until no other run of this program is at work."""
    with open(LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(command, *arguments):
    os.umask(0o077)
    server = Server()
    failed = False
    with alone():
        if command == "backups":
            list_backups(server)
        elif command == "restore":
            restore(server, *arguments)
        else:
            for project in arguments or server.projects(command):
                # One project's trouble keeps no other from its backup.
                try:
                    EACH[command](server, project)
                except Exception as error:
                    failed = True
                    print("%s: %s: %s" % (project, command, error), file=sys.stderr)
    return 1 if failed else 0


EACH = {"pack": pack, "pack-due": pack_if_due, "backup": backup, "verify": verify}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in list(EACH) + ["backups", "restore"]:
        sys.exit(__doc__)
    if sys.argv[1] == "restore" and len(sys.argv) not in (3, 4):
        sys.exit("usage: zeoctl restore PROJECT [TIME]")
    try:
        sys.exit(main(*sys.argv[1:]))
    except Exception as error:
        sys.exit("%s: %s" % (type(error).__name__, error))
