"""What is to be done to have a set of files and folders as they should be. Pure: what there is comes as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A file or, without text, a folder. `text` is None for a folder; owner and group are names; mode is a number."""

    path: str
    owner: str
    group: str
    mode: int
    text: str | None = None
    #: Its text must never be shown.
    secret: bool = False


@dataclass(frozen=True)
class Step:
    """One change. `write` is whether the content is to be written, not only owner, group and mode set; `wanted` is
    None where the path is to go."""

    path: str
    before: Entry | None
    wanted: Entry | None
    write: bool

    @property
    def diff(self) -> dict[str, str]:
        """Ansible's diff of the change: the text if it may be shown, what else differs in words."""
        pair = (self.before, self.wanted)
        shown = not any(entry and entry.secret for entry in pair)
        sides = []
        for entry in pair:
            text = entry.text or "" if entry and self.write and shown else ""
            sides.append(attributes(entry) + text if attributes_differ(*pair) else text)
        if sides[0] == sides[1]:
            sides = ["(other content)\n", "(content that is not shown)\n"]
        return {"before_header": self.path, "after_header": self.path, "before": sides[0], "after": sides[1]}


def attributes(entry: Entry | None) -> str:
    """Return owner, group and mode as one line; what is not there has none."""
    if entry is None:
        return ""
    kind = "folder" if entry.text is None else "file"
    return f"{kind} of {entry.owner}:{entry.group}, mode {entry.mode:04o}\n"


def attributes_differ(before: Entry | None, wanted: Entry | None) -> bool:
    """Return whether anything but the text differs."""
    return attributes(before) != attributes(wanted)


def plan(wanted: list[Entry], absent: list[str], found: dict[str, Entry]) -> list[Step]:
    """Return the changes in an order in which they can be made; `found` is what there is, by path."""
    steps = []
    for entry in sorted(wanted, key=lambda entry: (entry.text is not None, entry.path)):
        before = found.get(entry.path)
        write = before is None or before.text != entry.text
        if write or attributes_differ(before, entry):
            steps.append(Step(entry.path, before, entry, write))
    return steps + [Step(path, found[path], None, False) for path in absent if path in found]
