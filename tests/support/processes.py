"""The processes of this machine, from /proc."""

import contextlib
from pathlib import Path


def parents():
    """Process id -> the id of its parent."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            found[int(folder.name)] = int(stat[1])
    return found


def children(pid):
    """The processes that a process has started."""
    return [child for child, parent in parents().items() if parent == pid]


def descendants(pid):
    """A process, its children, their children, and so on."""
    parent_of, found = parents(), {pid}
    while more := {child for child, parent in parent_of.items() if parent in found} - found:
        found |= more
    return found


def titled(pid, title):
    """Whether the command of a process begins with ``title``."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(title.encode())
    except (FileNotFoundError, ProcessLookupError):
        return False


def is_alive(pid):
    """Whether a process runs; one that waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
