"""One cluster of hosts for all tests; each finds it whole, whatever the one before did to it."""

import pytest

from tests.cluster.hosts.cluster import Cluster, postgres_programs
from tests.cluster.hosts.network import missing
from tests.cluster.hosts.search import Search, asked, in_one_process


@pytest.fixture(scope="session")
def hosts(tmp_path_factory):
    """The cluster as the first test finds it."""
    reason = missing()
    if not reason and postgres_programs() is None:
        reason = "needs PostgreSQL: apt-get install postgresql"
    if reason:
        pytest.skip(reason)
    for package in ("moto.server", "psycopg", "aiohttp"):
        pytest.importorskip(package)
    cluster = Cluster(tmp_path_factory.mktemp("hosts"))
    try:
        cluster.begin()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def cluster(hosts):
    """The cluster, whole."""
    hosts.mend()
    return hosts


@pytest.fixture(scope="session")
def inline(hosts):
    """What the search comes to in one process."""
    return in_one_process(hosts.desk, "inline", asked())


@pytest.fixture
def search(cluster, request):
    """A search that the test's own name tells from all others."""
    name = request.node.originalname.removeprefix("test_").replace("_", "-")
    return Search(cluster.head, name)
