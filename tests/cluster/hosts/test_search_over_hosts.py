"""A search over several hosts finds what one process finds, to the last bit."""

import json

import pytest

from tests.cluster.hosts.cluster import DASHBOARD, RAY, STILLHOUSE, wait_for
from tests.cluster.hosts.search import has_trial

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def test_from_the_head(cluster, search, inline):
    program = search.launch()
    wait_for(300, lambda: all(map(has_trial, cluster.workers)))
    assert program.ends(600) == 0, program.text
    assert search.found() == inline


def test_submitted_from_another_host(cluster, search, inline):
    """Ray's own address is enough: the dashboard is found from there."""
    words = ("launch", search.write(cluster.desk), "--address", RAY, "--submit", "--json")
    told = json.loads(cluster.desk.call(*STILLHOUSE, *words))
    assert told["dashboard"] == DASHBOARD.replace("head", cluster.head.address)
    wait_for(600, lambda: search.state(cluster.desk) not in ("", "running"))
    assert search.state(cluster.desk) == "finished"
    assert search.found() == inline
