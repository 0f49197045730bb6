"""A host: a machine of its own, with a name, an address, processes, /tmp and home."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.hosts.link import Link

ROOT = Path(__file__).parents[3]
HOME = "/tmp/home"
"""Home and working folder on every host; what lies there is the host's own."""


@dataclass
class Program:
    """A program that runs on a host, and what it has printed."""

    process: subprocess.Popen[bytes]
    output: Path

    @property
    def text(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace")

    def printed(self, seconds: float, *texts: str) -> None:
        """Wait until one of the texts has been printed.

        Raises:
            AssertionError: the program ended, or the time did.
        """
        until = time.monotonic() + seconds
        while not any(text in self.text for text in texts):
            ended = self.process.poll() is not None or time.monotonic() > until
            assert not ended, f"{texts} never came:\n{self.text}"
            time.sleep(0.1)

    def ends(self, seconds: float) -> int:
        """Its exit status.

        Raises:
            AssertionError: it has not ended in that time.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(timeout=seconds)
        raise AssertionError(f"it never ended:\n{self.text}")


@dataclass
class Host:
    """One machine of the network. ``first`` is its first process, as this machine counts."""

    name: str
    folder: Path
    link: Link
    process: subprocess.Popen[str]
    first: int
    altered: bool = False
    """Whether its disk or its folders are other than those of most hosts."""
    record_start: list[Program] = field(default_factory=list)

    def start(self, title: str, *words: str, **environment: str) -> Program:
        """Start a program in the host's home; what it prints goes to a file named ``title``."""
        output = self.folder / title
        with output.open("w") as log:
            process = subprocess.Popen(
                self._command(words, environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.record_start.append(Program(process, output))
        return self.record_start[-1]

    def call(self, *words: str, status: int = 0, seconds: float = 600, **environment: str) -> str:
        """Run a program to its end; what it printed, or its errors where ``status`` is not 0.

        Raises:
            AssertionError: it ended with another status than ``status``.
        """
        done = subprocess.run(
            self._command(words, environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stderr if status else done.stdout

    def _command(self, words: tuple[str, ...], environment: dict[str, str]) -> list[str]:
        inside = ["nsenter", "--mount", "--uts", "--net", "--pid", "--target", str(self.first)]
        told = [f"{name}={value}" for name, value in {**self._environment, **environment}.items()]
        return [*inside, "env", "--ignore-environment", f"--chdir={HOME}", *told, *words]

    @property
    def address(self) -> str:
        return self.link.address

    @property
    def on_device(self) -> bool:
        return self.process.poll() is None

    @property
    def home(self) -> Path:
        """The host's home as this machine sees it; not of a host with a disk of its own size."""
        return Path(f"{self.folder}{HOME}")

    @property
    def _environment(self) -> dict[str, str]:
        programs = f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin"
        return {
            "HOME": HOME,
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "PATH": f"{programs}:/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": str(ROOT),
            "RAY_memory_monitor_refresh_ms": "0",  # other work on this machine is not this one's
        }

    def processes(self, title: str) -> list[int]:
        """The host's processes whose command begins so, path aside, as this machine counts."""
        mine = os.readlink(f"/proc/{self.first}/ns/pid")
        return [pid for pid, command in _commands(mine) if command.startswith(title)]

    def kill(self, title: str) -> None:
        """End processes with SIGKILL.

        Raises:
            AssertionError: there is none of that title.
        """
        found = self.processes(title)
        assert found, f"no {title} on {self.name}"
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def power_off(self) -> None:
        """All at once and without a word to anybody, as if its plug had been pulled."""
        end(self.process)
        self.link.close()
        for program in self.record_start:
            program.ends(60)


def end(process: "subprocess.Popen[str] | subprocess.Popen[bytes]") -> None:
    """End a process that has namespaces of its own, and all that lives in them."""
    process.kill()  # its first child dies with it, and all that child's namespaces hold
    process.wait()
    if process.stdout:
        process.stdout.close()


def _commands(namespace: str) -> Iterator[tuple[int, str]]:
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(folder / "ns" / "pid") == namespace:
                words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
                yield int(folder.name), " ".join([Path(words[0]).name, *words[1:]])
