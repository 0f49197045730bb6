"""A cluster's head that falls silent: seen before Ray ends the process, and told in one line."""

import socket
import subprocess
import sys
import threading

import pytest

from stillhouse.search.cluster.head import HeadMonitor

SOON = {"timeout": 0.3, "interval": 0.05}
LEAVES = """
import threading
from stillhouse.search.cluster import head
from stillhouse.search.cluster.head import exit_process
from stillhouse.search.core.errors import StorageUnavailable

def broken():
    raise OSError("full")

head._SHUTDOWN_TIMEOUT_S = 1.0
hang = threading.Event().wait
threading.Thread(target=hang).start()
exit_process(StorageUnavailable("--address", "the cluster is lost"), [broken, lambda: print("noted"), hang])
"""


@pytest.fixture
def head():
    """Something that listens, as Ray's database does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def watched(head):
    """What is told of it, once something is, and the watch itself."""
    told, heard = [], threading.Event()

    def gone(said):
        told.append(said)
        heard.set()

    watch = HeadMonitor(f"127.0.0.1:{head.getsockname()[1]}", gone, **SOON)
    yield told, heard
    watch.close()


def test_one_that_answers_is_left_alone(watched):
    _, heard = watched
    assert not heard.wait(1.0)


def test_one_that_is_silent_is_told_of_once(head, watched):
    told, heard = watched
    port = head.getsockname()[1]
    head.close()
    assert heard.wait(20)
    assert told == [
        f"the cluster is lost: its head at 127.0.0.1:{port} has not answered for 0 s; start the "
        "cluster again"
    ]


def test_a_short_silence_is_none(head):
    told = []
    port = head.getsockname()[1]
    watch = HeadMonitor(f"127.0.0.1:{port}", told.append, timeout=5.0, interval=0.05)
    head.close()
    threading.Event().wait(0.3)
    with socket.create_server(("127.0.0.1", port)):
        threading.Event().wait(0.3)
        watch.close()
    assert not told


def test_leaving_waits_for_nobody():
    """Neither for a thread that hangs, nor for a step that fails or never ends."""
    done = subprocess.run(
        [sys.executable, "-c", LEAVES], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (2, "noted\n")
    assert done.stderr == "error: --address: the cluster is lost\n"
