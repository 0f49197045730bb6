"""Hosts on one machine, and the switch that connects them.

A host is a set of Linux namespaces. The kernel removes them, with links, mounts and processes,
when the host's first process ends; that process dies with the tests, whatever ends them.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.hosts.host import HOME, ROOT, Host, end
from tests.cluster.hosts.link import WITH_US, Link, at

NEEDED = ("ip", "tc", "mount", "nsenter", "setpriv", "unshare")
_APART = (*WITH_US, "unshare", "--kill-child", "--fork", "--net")
_WHOLE = ("--mount", "--uts", "--pid", "--mount-proc")
_BEGIN = """
set -e
mkdir -p "$FOLDER/tmp"
[ -z "$DISK" ] || mount -t tmpfs -o "size=$DISK" disk "$FOLDER/tmp"
mkdir -p "$FOLDER$HOME/.ray"
chmod 1777 "$FOLDER/tmp"
for place in $CODE; do
  case "$place" in /tmp/*) mkdir -p "$FOLDER$place"; mount --rbind "$place" "$FOLDER$place";; esac
done
mount --bind "$NAMES" /etc/hosts
mount --bind /dev/null /etc/resolv.conf
mount -t tmpfs -o size=1g memory /dev/shm
[ -z "$SHARED" ] || { mkdir -p "$FOLDER/tmp/shared"; mount --bind "$SHARED" "$FOLDER/tmp/shared"; }
mount --rbind "$FOLDER/tmp" /tmp
hostname "$NAME"
ip link set lo up
trap '' CHLD  # the kernel itself then buries the dead
echo begun
exec sleep infinity
"""


def missing() -> str:
    """Why no hosts can be had here; empty if they can."""
    if sys.platform != "linux" or os.getuid():
        return "needs Linux and its root user, for namespaces"
    absent = [program for program in NEEDED if not shutil.which(program)]
    if absent:
        return f"needs {', '.join(absent)}: apt-get install iproute2 util-linux"
    done = subprocess.run([*_APART, *_WHOLE, "true"], capture_output=True, text=True, check=False)
    return f"namespaces are not allowed here: {done.stderr.strip()}" if done.returncode else ""


class Network:
    """A switch, and the hosts that are plugged into it; nothing else is in reach of them."""

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        self.folder = folder
        self.addresses = {name: f"10.83.0.{number}" for number, name in enumerate(names, 1)}
        lines = [f"{address} {name}" for name, address in self.addresses.items()]
        (folder / "names").write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
        self.hosts: dict[str, Host] = {}
        self._switch = subprocess.Popen([*_APART, "sleep", "infinity"])
        self.switch = _first_child(self._switch)
        at(self.switch, "ip", "link", "add", "bridge", "type", "bridge")
        at(self.switch, "ip", "link", "set", "bridge", "up")

    def host(self, name: str, disk: str = "", shared: Path | None = None) -> Host:
        """Switch a host on and plug it in, as a machine without a past.

        Args:
            name: one of the network's names.
            disk: size of its /tmp, as tmpfs takes it; empty: this machine's disk.
            shared: a folder that the host sees as /tmp/shared.
        """
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))
        told = {
            "CODE": f"{ROOT} {sys.prefix} {sys.base_prefix}",
            "DISK": disk,
            "FOLDER": str(folder),
            "HOME": HOME,
            "NAME": name,
            "NAMES": str(self.folder / "names"),
            "SHARED": str(shared or ""),
            "PATH": os.environ["PATH"],
        }
        process = subprocess.Popen(
            [*_APART, *_WHOLE, "sh", "-c", _BEGIN],
            env=told,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        first = _first_child(process)
        link = Link(name, self.addresses[name], self.switch, first)
        link.plug()
        self.hosts[name] = Host(name, folder, link, process, first, bool(disk))
        return self.hosts[name]

    def close(self) -> None:
        for host in self.hosts.values():
            host.power_off()
        end(self._switch)


def _first_child(process: "subprocess.Popen[str] | subprocess.Popen[bytes]") -> int:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        for pid, parent in _parents():
            if parent == process.pid:
                return pid
        time.sleep(0.01)
    raise AssertionError(f"{process.args} started nothing")


def _parents() -> Iterator[tuple[int, int]]:
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            yield int(folder.name), int(stat[1])
