"""The link between a host and the switch: it can be cut, lose packets and be slow."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

WIRE = Path(__file__).with_name("wire.py")
WITH_US = ("setpriv", "--pdeathsig=KILL")
"""What is started so dies with the tests, whatever ends them."""


@dataclass
class Link:
    """``switch`` and ``host`` are processes in the two network namespaces that it connects.

    It ends with either of them.
    """

    name: str
    address: str
    switch: int
    host: int
    touched: bool = False
    """Whether anything but plugging it in was done to it."""
    wire: "subprocess.Popen[str] | None" = None
    """What carries the packets where the kernel cannot make them late."""

    def plug(self) -> None:
        """Connect both by a pair of virtual devices."""
        there = ("peer", "name", "eth0", "netns", str(self.host))
        at(self.switch, "ip", "link", "add", self.name, "type", "veth", *there)
        self._connect()

    def down(self) -> None:
        """Nothing gets through any more."""
        self._set("down")

    def up(self) -> None:
        self._set("up")

    def worsen(self, loss: float, delay: float) -> None:
        """Each way a share ``loss`` of the packets is lost; the others need ``delay`` seconds."""
        self.touched = True
        rule = ("root", "netem", "loss", f"{loss:.2%}", "delay", f"{delay * 1000:g}ms")
        try:
            at(self.switch, "tc", "qdisc", "add", "dev", self.name, *rule)
            at(self.host, "tc", "qdisc", "add", "dev", "eth0", *rule)
        except subprocess.CalledProcessError as error:
            if "kind is unknown" not in error.stderr:
                raise
            self._reconnect(loss, delay)

    def _reconnect(self, loss: float, delay: float) -> None:
        """This kernel has no netem: a process carries the packets instead."""
        at(self.switch, "ip", "link", "delete", self.name)  # the host's end goes with it
        words = [sys.executable, str(WIRE), self.name, "far", str(loss), str(delay)]
        self.wire = subprocess.Popen(
            [*WITH_US, *_inside(self.switch), *words], stdout=subprocess.PIPE, text=True
        )
        assert self.wire.stdout is not None
        assert self.wire.stdout.readline() == "begun\n"
        at(self.switch, "ip", "link", "set", "far", "netns", str(self.host), "name", "eth0")
        self._connect()

    def close(self) -> None:
        if self.wire:
            with self.wire:
                self.wire.kill()

    def _connect(self) -> None:
        number = int(self.address.rpartition(".")[2])
        at(self.host, "ip", "link", "set", "eth0", "address", f"02:00:00:00:00:{number:02x}")
        at(self.host, "ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        at(self.host, "ip", "link", "set", "eth0", "up")
        at(self.switch, "ip", "link", "set", self.name, "master", "bridge", "up")

    def _set(self, state: str) -> None:
        self.touched = True
        at(self.switch, "ip", "link", "set", self.name, state)


def at(process: int, *words: str) -> str:
    """Run a command of iproute2 in the network namespace of a process; what it printed.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    done = subprocess.run([*_inside(process), *words], capture_output=True, text=True, check=False)
    done.check_returncode()
    return done.stdout


def _inside(process: int) -> list[str]:
    return ["nsenter", "--net", "--target", str(process)]
