"""Every private part of Ray exists, and does what its caller expects."""

import pytest
import ray

from stillhouse.search.cluster import private_api
from stillhouse.search.cluster.connection import head_address


def test_the_installed_ray_is_the_one_in_which_they_were_seen():
    """With another version, check each function of the file and change ``SEEN_IN``."""
    assert ray.__version__ == private_api.SEEN_IN


@pytest.fixture(scope="module")
def local():
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.ray
@pytest.mark.usefixtures("local")
def test_what_is_asked_of_a_connected_ray():
    node_id = ray.get_runtime_context().get_node_id()
    assert private_api.logs_folder().is_dir()
    assert private_api.available_resources_by_node()[node_id]["CPU"] == 1.0
    assert list(private_api.draining_node_ids()) == []
    private_api.ping_head(head_address())
    assert head_address() == ray._private.worker._global_node.gcs_address


def test_logs_are_unknown_before_there_is_a_connection():
    if not ray.is_initialized():
        assert private_api.logs_folder() is None


def test_no_token_is_needed_where_the_user_wants_none(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    private_api.load_token()
    assert private_api.has_token() in (True, False)


def test_errors_of_train_are_told_from_those_of_a_program():
    from ray.train import WorkerGroupError

    assert private_api.is_train_error(WorkerGroupError("lost", {}))
    assert not private_api.is_train_error(ValueError("wrong"))
