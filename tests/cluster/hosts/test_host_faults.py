"""Links, processes, disks and whole hosts fail under a search; what it finds stays the same."""

import json
import time

import pytest

from tests.cluster.hosts import nfs
from tests.cluster.hosts.cluster import DASHBOARD, STILLHOUSE, wait_for
from tests.cluster.hosts.search import asked, has_trial, in_one_process

pytestmark = [pytest.mark.slow, pytest.mark.ray]
IN_A_TRIAL, LONG = "[1/4]", 900
"""What a driver prints when the first trial has ended; and the seconds that a search may take."""


def busy(cluster):
    """A worker that has a trial."""
    found = []

    def known():
        found[:] = filter(has_trial, cluster.workers)
        return found

    wait_for(60, known)
    return found[0]


def ends_as(inline, search, program):
    assert program.ends(LONG) == 0, program.text
    assert search.found() == inline


def the_line(text):
    """The one line that tells why a program ended."""
    (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in text
    return line


# Links


def test_a_link_that_is_down_for_a_minute(cluster, search, inline):
    """Ray gives the worker up meanwhile; the other one takes its trial over."""
    program = search.launch()
    program.printed(LONG, IN_A_TRIAL)
    worker = busy(cluster)
    worker.link.down()
    time.sleep(60)
    worker.link.up()
    ends_as(inline, search, program)


def test_a_lossy_and_slow_link(cluster, search, inline):
    """Between the head and one worker: 5 % of all packets are lost each way, 100 ms round trip."""
    cluster.workers[0].link.worsen(loss=0.05, delay=0.05)
    program = search.launch()
    ends_as(inline, search, program)


def test_a_head_out_of_reach_of_who_submits(cluster, search, inline):
    """A line each; a search that was submitted before goes on."""
    submit = ("launch", search.write(cluster.desk), "--address", DASHBOARD, "--submit", "--json")
    json.loads(cluster.desk.call(*STILLHOUSE, *submit))
    wait_for(LONG, lambda: search.state(cluster.desk))
    cluster.desk.link.down()
    for words in (submit, ("status", search.name, "--address", DASHBOARD)):
        said = cluster.desk.call(*STILLHOUSE, *words, status=2, seconds=120)
        assert the_line(said).startswith(f"error: --address: no dashboard at {DASHBOARD}")
    cluster.desk.link.up()
    wait_for(LONG, lambda: search.state(cluster.desk) not in ("", "running"))
    assert search.found() == inline


# Processes


def test_a_killed_raylet(cluster, search, inline):
    program = search.launch()
    program.printed(LONG, IN_A_TRIAL)
    busy(cluster).kill("raylet")
    ends_as(inline, search, program)


def test_a_killed_driver(cluster, search, inline):
    program = search.launch()
    program.printed(LONG, IN_A_TRIAL)
    cluster.head.kill(f"python -m stillhouse.search.cli launch {search.name}")
    assert program.ends(60) != 0
    ends_as(inline, search, search.resume())


def test_a_killed_head_process(cluster, search, inline):
    """Ray's database is gone, and with it the cluster: one line, and a resume on a new one."""
    program = search.launch()
    program.printed(LONG, IN_A_TRIAL)
    cluster.head.kill("gcs_server")
    assert program.ends(120) == 2
    said = the_line(program.text)
    assert said.startswith("error: --address: the cluster is lost: its head at head:6379 ")
    assert said.endswith(f"; then stillhouse resume {search.run} --address ...")
    cluster.mend()
    ends_as(inline, search, search.resume())


# Hosts


def test_a_cluster_that_shrinks_to_one_slot(cluster, search):
    """For good, in the middle: the slot that is left makes teachers and runs trials by turns."""
    search.told = asked(own_teachers=True)
    program = search.launch()
    program.printed(LONG, IN_A_TRIAL)
    cluster.workers[0].power_off()
    ends_as(in_one_process(cluster.desk, "inline-teachers", search.told), search, program)


def test_a_worker_whose_disk_fills_up(cluster, search, inline):
    """Its /tmp, where Ray keeps its session: what is made goes to the library, past it."""
    worker = cluster.work("one", disk="300m")
    cluster.wait_for_workers()
    program = search.launch()
    program.printed(LONG, IN_A_TRIAL)
    worker.call("sh", "-c", "dd if=/dev/zero of=/tmp/full bs=1M 2>/dev/null; true")
    ends_as(inline, search, program)


# A shared folder


def test_a_library_in_a_folder_that_all_see(search, inline):
    search.library = f"{nfs.FOLDER}/{search.name}"
    ends_as(inline, search, search.launch())


def test_a_library_over_nfs(cluster, search, inline):
    """The head serves the folder; the workers mount it."""
    if reason := nfs.missing():
        pytest.skip(reason)
    server = nfs.serve(cluster.head)
    for worker in cluster.workers:
        nfs.mount(worker, "head")
    search.library = f"{nfs.FOLDER}/{search.name}"
    ends_as(inline, search, search.launch())
    assert server.process.poll() is None
