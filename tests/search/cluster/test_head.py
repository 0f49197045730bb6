"""A head that stops answering is detected before Ray ends the process."""

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
error = StorageUnavailable("--address", "the cluster is lost")
exit_process(error, [broken, lambda: print("noted"), hang])
"""


@pytest.fixture
def head():
    """A listening socket, in place of Ray's database."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def watched(head):
    """The messages of a monitor, and an event for the first one."""
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
    """Neither a hanging thread nor a failing or endless step delays the exit."""
    done = subprocess.run(
        [sys.executable, "-c", LEAVES], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (2, "noted\n")
    assert done.stderr == "error: --address: the cluster is lost\n"
