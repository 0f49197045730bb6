"""A search over several hosts finds what one process finds, to the last bit."""

import json

import pytest

from tests.cluster.hosts.cluster import DASHBOARD, RAY, STILLHOUSE, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def test_from_the_head(cluster, search, inline):
    program = search.launch()
    wait_for(300, lambda: all(host.processes("ray::Trial") for host in cluster.workers))
    assert program.ends(600) == 0, program.text
    assert search.found() == inline


def test_submitted_from_another_host(cluster, search, inline):
    """Ray's own address is enough: the dashboard is found from there."""
    words = ("launch", search.write(cluster.desk), "--address", RAY, "--submit", "--json")
    told = json.loads(cluster.desk.call(*STILLHOUSE, *words))
    assert told["dashboard"] == DASHBOARD.replace("head", cluster.head.address)
    wait_for(600, lambda: state(cluster, search) != "running")
    assert state(cluster, search) == "finished"
    assert search.found() == inline


def state(cluster, search):
    words = ("status", search.name, "--address", DASHBOARD, "--json")
    return json.loads(cluster.desk.call(*STILLHOUSE, *words))["state"]
