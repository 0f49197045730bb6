"""The hosts themselves: each is apart from the others and from this machine, and leaves nothing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.hosts.host import ROOT
from tests.cluster.hosts.network import Network, missing

pytestmark = pytest.mark.slow
TAKES = """
import socket, time
began = time.monotonic()
socket.create_connection(("one", 9), timeout=20).close()
print(time.monotonic() - began)
"""
LISTENS = """
import socket
with socket.create_server(("", 9)) as server:
    print("begun", flush=True)
    while True:
        server.accept()[0].close()
"""
LIVES = """
import sys, time
from pathlib import Path
from tests.cluster.hosts.network import Network

host = Network(Path(sys.argv[1]), ("one",)).host("one")
print(host.first, flush=True)
time.sleep(600)
"""


@pytest.fixture
def network(tmp_path):
    if reason := missing():
        pytest.skip(reason)
    network = Network(tmp_path, ("one", "other"))
    yield network
    network.close()


@pytest.fixture
def pair(network):
    """Two hosts; a program on the first accepts connections."""
    one, other = network.host("one"), network.host("other", disk="20m")
    one.start("listens", "python", "-c", LISTENS).printed(30, "begun")
    return one, other


def seconds(host):
    """What it takes a host to connect with ``one``."""
    return float(host.call("python", "-c", TAKES))


def test_a_host_has_name_files_processes_and_disk_of_its_own(pair):
    one, other = pair
    for host in pair:
        host.call("sh", "-c", "hostname > /tmp/mine")
        assert host.call("cat", "/tmp/mine") == f"{host.name}\n"
    assert not Path("/tmp/mine").exists()
    assert (one.folder / "tmp" / "mine").read_text() == "one\n"
    assert one.processes("python -c")
    assert not other.processes("python -c")
    assert "No space left" in other.call("dd", "if=/dev/zero", "of=/tmp/full", "bs=1M", status=1)


def test_a_link_is_cut_mended_and_worsened(pair):
    _, other = pair
    assert seconds(other) < 5
    other.link.down()
    assert "OSError" in other.call("python", "-c", TAKES, status=1)
    other.link.up()
    assert seconds(other) < 5
    other.link.worsen(loss=0.0, delay=0.2)
    assert seconds(other) > 0.4


def test_a_host_that_is_switched_off_is_gone_and_may_come_back(network, pair):
    one, other = pair
    one.call("touch", "/tmp/mine")
    one.power_off()
    assert not one.on_device
    assert "Error" in other.call("python", "-c", TAKES, status=1)
    again = network.host("one")
    assert "mine" not in again.call("ls", "/tmp")
    again.start("listens", "python", "-c", LISTENS).printed(30, "begun")
    assert seconds(other) < 5


def test_hosts_end_with_the_tests_however_these_end(tmp_path):
    if reason := missing():
        pytest.skip(reason)
    with subprocess.Popen(
        [sys.executable, "-c", LIVES, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as tests:
        first = Path("/proc") / tests.stdout.readline().strip()
        assert first.exists()
        tests.send_signal(signal.SIGKILL)
    until = time.monotonic() + 20
    while first.exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not first.exists()
