#!/opt/peat2/bin/python
"""PEAT 2.3's own dialog "Create DB on Server" without its window (Python 2.7).

usage: create_database.py SERVER PORT PROJECT USER ACCESS

The arguments are the dialog's fields, the password is in the environment variable PEAT_PASSWORD. Prints what the
dialog tells the person, as a JSON list of [title, text].
"""

import json
import os
import sys

answer_stream, sys.stdout = sys.stdout, sys.stderr

import matplotlib  # noqa: E402

# PEAT draws on a screen; this machine has none.
matplotlib.use("Agg")

from PEATDB import PEATApp  # noqa: E402

told = []


class Filled:
    """The dialog as a person leaves it with OK."""

    result = True

    def __init__(self, **options):
        server, port, project, user, access = sys.argv[1:]
        self.results = [server, int(port), project, user, os.environ["PEAT_PASSWORD"], access]


class Messages:
    """What would pop up."""

    @staticmethod
    def showinfo(title, text):
        told.append([title, str(text)])


class Window:
    """What the dialog uses of PEAT's window."""

    server = project = username = main = ""
    port = 0

    def recordEvent(self, text):
        """PEAT's log; all of it pops up as well."""


PEATApp.MultipleValDialog = Filled
PEATApp.tkMessageBox = Messages
PEATApp.App.createDBonServerDialog.__func__(Window())
answer_stream.write(json.dumps(told) + "\n")
