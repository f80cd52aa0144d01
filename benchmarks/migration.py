#!/usr/bin/env python3
"""The module relstorage_migrate against the three statements of RelStorage's own notes, on the same data.

    .venv/bin/python benchmarks/migration.py -i INVENTORY [--rows 1000000] [--bytes 2000000000] HOST

HOST is a server of the inventory with MariaDB and python3-pymysql; its databases bench_module and bench_notes
are made and dropped. Both get the same generated history-preserving tables of RelStorage 1.4. Meanwhile a reader
(one object after the other, each in a transaction of its own) works on the same database and, with the module, a
writer (as RelStorage 1.4 commits, under its commit lock, giving up after 30 s). With the notes a writer would make the
last statement fail: its rows have no size. Prints for both: seconds, the longest time the
reader and the writer waited, the peak of the undo log, and for the module its peak memory and phases.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import textwrap
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/testinfra"))

import onhost  # noqa: E402

CREATE = """
CREATE DATABASE {name};
USE {name};
CREATE TABLE {name}.transaction (tid BIGINT NOT NULL PRIMARY KEY, packed BOOLEAN NOT NULL DEFAULT FALSE,
  empty BOOLEAN NOT NULL DEFAULT FALSE, username BLOB NOT NULL, description BLOB NOT NULL, extension BLOB)
  ENGINE=InnoDB;
INSERT INTO {name}.transaction SELECT 290000000000000000 + seq, 0, 0, 'user', 'note', NULL FROM seq_1_to_1000;
CREATE TABLE {name}.new_oid (zoid BIGINT NOT NULL PRIMARY KEY AUTO_INCREMENT) ENGINE=MyISAM;
INSERT INTO {name}.new_oid VALUES ({rows});
CREATE TABLE {name}.object_state (zoid BIGINT NOT NULL, tid BIGINT NOT NULL, PRIMARY KEY (zoid, tid),
  prev_tid BIGINT NOT NULL, md5 CHAR(32) CHARACTER SET ascii, state LONGBLOB, CHECK (tid > 0)) ENGINE=InnoDB;
INSERT INTO {name}.object_state SELECT seq, 290000000000000001 + seq % 1000, 0, MD5(seq),
  REPEAT(UNHEX(MD5(seq)), 1 + (seq * 7919) % ({size} DIV 8)) FROM seq_1_to_{rows};
CREATE INDEX object_state_tid ON {name}.object_state (tid);
CREATE INDEX object_state_prev_tid ON {name}.object_state (prev_tid);
CREATE TABLE {name}.current_object (zoid BIGINT NOT NULL PRIMARY KEY, tid BIGINT NOT NULL,
  FOREIGN KEY (zoid, tid) REFERENCES {name}.object_state (zoid, tid)) ENGINE=InnoDB;
INSERT INTO {name}.current_object SELECT zoid, tid FROM {name}.object_state;
CREATE INDEX current_object_tid ON {name}.current_object (tid);
CREATE TABLE {name}.object_ref (zoid BIGINT NOT NULL, tid BIGINT NOT NULL, to_zoid BIGINT NOT NULL,
  PRIMARY KEY (tid, zoid, to_zoid)) ENGINE=MyISAM;
CREATE TABLE {name}.object_refs_added (tid BIGINT NOT NULL PRIMARY KEY) ENGINE=MyISAM;
CREATE TABLE {name}.pack_object (zoid BIGINT NOT NULL PRIMARY KEY, keep BOOLEAN NOT NULL, keep_tid BIGINT NOT NULL,
  visited BOOLEAN NOT NULL DEFAULT FALSE) ENGINE=MyISAM;
CREATE INDEX pack_object_keep_zoid ON {name}.pack_object (keep, zoid);
CREATE TABLE {name}.pack_state (tid BIGINT NOT NULL, zoid BIGINT NOT NULL, PRIMARY KEY (tid, zoid)) ENGINE=MyISAM;
CREATE TABLE {name}.pack_state_tid (tid BIGINT NOT NULL PRIMARY KEY) ENGINE=MyISAM;
"""

NOTES = (
    "ALTER TABLE object_state ADD COLUMN state_size BIGINT AFTER md5",
    "UPDATE object_state SET state_size = COALESCE(LENGTH(state), 0)",
    "ALTER TABLE object_state MODIFY state_size BIGINT NOT NULL AFTER md5",
)

#: Runs on the host until the file `stop` is there; prints the longest waits in seconds.
CLIENTS = """
import json, os, random, sys, threading, time
import pymysql
name, rows, stop, writes = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4] == "writer"
longest, counts, undo = {"reader": 0.0, "writer": 0.0}, {"reader": 0, "writer": 0, "refused": 0}, []

def connect(**options):
    return pymysql.connect(unix_socket="/run/mysqld/mysqld.sock", user="root", **options)

def again(who, work):
    connection = None
    while not os.path.exists(stop):
        started = time.monotonic()
        try:
            connection = connection or connect(database=name)
            work(connection)
            counts[who] += 1
        except pymysql.err.MySQLError as error:
            counts["refused"] += who == "writer"
            connection = None
        longest[who] = max(longest[who], time.monotonic() - started)
        time.sleep(0.02)

def read(connection):
    cursor = connection.cursor()
    cursor.execute("SELECT state FROM object_state WHERE zoid = %s", (random.randint(1, rows),))
    cursor.fetchall()
    connection.rollback()

def write(connection):
    cursor = connection.cursor()
    cursor.execute("SELECT GET_LOCK(CONCAT(DATABASE(), '.commit'), 30)")
    if cursor.fetchone()[0] != 1:
        counts["refused"] += 1
        return
    oid = rows + 1 + int(time.time() * 1000) % 10**9
    cursor.execute("INSERT INTO object_state (zoid, tid, prev_tid, md5, state)"
                   " VALUES (%s, 290000000000000001, 0, 'x', 'new')", (oid,))
    connection.commit()
    cursor.execute("SELECT RELEASE_LOCK(CONCAT(DATABASE(), '.commit'))")

def watch():
    connection = connect(autocommit=True)
    cursor = connection.cursor()
    cursor.execute("SET GLOBAL innodb_monitor_enable = 'trx_rseg_current_size'")
    while not os.path.exists(stop):
        cursor.execute("SELECT COALESCE(MAX(trx_rows_modified), 0) FROM information_schema.innodb_trx")
        rows_now = int(cursor.fetchone()[0])
        cursor.execute("SELECT count * @@innodb_page_size FROM information_schema.innodb_metrics"
                       " WHERE name = 'trx_rseg_current_size'")
        undo.append((rows_now, int(cursor.fetchone()[0])))
        time.sleep(0.2)

threads = [threading.Thread(target=again, args=a) for a in (("reader", read), ("writer", write))[: 1 + writes]]
threads.append(threading.Thread(target=watch))
for t in threads: t.start()
for t in threads: t.join()
print(json.dumps({"longest": longest, "counts": counts,
                  "largest_transaction_rows": max(u[0] for u in undo), "peak_undo_bytes": max(u[1] for u in undo)}))
"""


class Host:
    """A server reached over ssh."""

    def __init__(self, inventories: list[str], name: str):
        argv = [pathlib.Path(sys.executable).with_name("ansible-inventory"), "--host", name]
        for inventory in inventories:
            argv += ["-i", inventory]
        values = json.loads(subprocess.check_output(argv))
        own = "~/.cache/peat-server/id_ed25519"
        key = pathlib.Path(values.get("ansible_ssh_private_key_file", own)).expanduser()
        self.ssh = ["ssh", "-i", str(key), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
                    "-o", "LogLevel=ERROR", f"{values.get('ansible_user', 'root')}@{values['ansible_host']}",
                    ]  # fmt: skip

    def run(self, command: str, text: str | None = None) -> str:
        done = subprocess.run([*self.ssh, command], input=text, text=True, capture_output=True)
        if done.returncode:
            sys.exit(f"{command}: {done.stdout}{done.stderr}")
        return done.stdout

    def fresh(self) -> None:
        """Restart the server, so that both begin with nothing in memory, and wait for the purge of old rows."""
        self.run("systemctl restart mariadb")

    def measured(self, name: str, rows: int, work, writer: bool) -> tuple[float, object, dict]:
        """Do `work` while a reader, and perhaps a writer, is there; return seconds, its answer and what they met."""
        self.fresh()
        self.run("rm -f /tmp/bench-stop && cat > /tmp/bench-clients.py", CLIENTS)
        clients = subprocess.Popen(
            [*self.ssh, f"python3 /tmp/bench-clients.py {name} {rows} /tmp/bench-stop {'writer' if writer else ''} -"],
            stdout=subprocess.PIPE,
            text=True,
        )
        time.sleep(2)  # so that both are at work
        started = time.monotonic()
        answer = work()
        seconds = time.monotonic() - started
        self.run("touch /tmp/bench-stop")
        return seconds, answer, json.loads(clients.communicate()[0])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=textwrap.dedent(__doc__), formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("-i", "--inventory", action="append", required=True)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--bytes", type=int, default=2_000_000_000)
    parser.add_argument("host")
    options = parser.parse_args()
    host, rows = Host(options.inventory, options.host), options.rows
    onhost.install(host.ssh)
    host.run("mariadb", "DROP DATABASE IF EXISTS bench_module; DROP DATABASE IF EXISTS bench_notes")

    def generate(name: str) -> None:
        host.run("mariadb", CREATE.format(name=name, rows=rows, size=options.bytes // rows))

    def module() -> dict:
        arguments = {"database": "bench_module", "state": "migrated", "clients": "disconnect", "backup": backup}
        return onhost.result(host.run(f"{onhost.command('relstorage_migrate', **arguments)} || true"))

    def notes() -> list[float]:
        seconds = []
        for statement in NOTES:
            started = time.monotonic()
            host.run("mariadb bench_notes", statement)
            seconds.append(round(time.monotonic() - started, 1))
        return seconds

    print(f"generating {rows:,} rows", flush=True)
    generate("bench_module")
    # The module wants a backup; making one is not part of the statements it is compared with.
    backup = "/var/tmp/bench.sql"
    started = time.monotonic()
    host.run(f"mariadb-dump --single-transaction --hex-blob bench_module > {backup}")
    print(f"dump: {time.monotonic() - started:.0f} s, {host.run(f'stat -c %s {backup}').strip()} bytes", flush=True)
    seconds, answer, met = host.measured("bench_module", rows, module, writer=True)
    if answer.get("failed") or not answer.get("changed"):
        sys.exit(json.dumps(answer, indent=1))
    print(f"module: {seconds:.1f} s, of which {json.dumps(answer['figures']['seconds'])}")
    print(f"        peak memory {answer['peak_kilobytes'] / 1024:.0f} MiB, {json.dumps(met)}")
    print(f"        {json.dumps({k: v for k, v in answer['figures'].items() if k != 'seconds'})}", flush=True)
    host.run("mariadb", "DROP DATABASE bench_module")
    host.run(f"rm {backup}")
    generate("bench_notes")
    notes_seconds, parts, met = host.measured("bench_notes", rows, notes, writer=False)
    print(f"notes:  {notes_seconds:.1f} s, of which {parts}, {json.dumps(met)}")
    without = seconds - answer["figures"]["seconds"]["dump"]
    print(f"ratio:  {without / notes_seconds:.2f} without reading the backup, {seconds / notes_seconds:.2f} with it")
    host.run("mariadb", "DROP DATABASE bench_notes")


if __name__ == "__main__":
    main()
