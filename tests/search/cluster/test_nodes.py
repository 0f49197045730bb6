"""The versions of nodes, and their access to the library, are checked before a search."""

import copy
from types import SimpleNamespace

import pytest
import ray
from ray.cluster_utils import Cluster

from stillhouse import launch, load_experiment
from stillhouse.search.artifacts.store import Library
from stillhouse.search.cluster import nodes
from stillhouse.search.cluster.connection import _refusal_message, connect
from stillhouse.search.cluster.nodes import (
    check_nodes,
    check_stores,
    runtime_versions,
    unreachable_library_message,
    version_differences,
)
from stillhouse.search.experiment.schema import ResourceSettings
from stillhouse.search.results.run_folder import RunFolder
from stillhouse.search.tuning import ray_backend
from stillhouse.search.tuning.ray_backend import is_multi_node, num_slots
from stillhouse.spaces.config.problems import ConfigError

HERE = {"python": "3.11", "torch": "2.14.1", "ray": "2.60.0", "stillhouse": "sources 1234"}


# What is said


def test_equal_nodes_differ_in_nothing():
    assert version_differences(HERE, {"a": HERE, "b": dict(HERE)}) == []


def test_a_difference_names_both_versions_and_the_nodes():
    old = {**HERE, "torch": "2.13.0"}
    bare = {name: told for name, told in old.items() if name != "stillhouse"}
    assert version_differences(HERE, {"b": old, "a": bare, "c": HERE}) == [
        "torch is 2.13.0 on a, b, and 2.14.1 where the search starts",
        "stillhouse is nothing on a, and sources 1234 where the search starts",
    ]


def test_facts_are_those_of_this_process():
    told = runtime_versions()
    assert told["ray"] == ray.__version__
    assert told["torch"].count(".") == 2
    assert "+" not in told["torch"]
    assert told == runtime_versions()


@pytest.mark.parametrize("lost", [True, False])
def test_a_node_that_is_lost_while_it_is_asked_is_none(monkeypatch, lost):
    """Ray may list it for half a minute longer; a present node that fails is reported."""

    def node(name, alive=True):
        return {"NodeID": name * 56, "NodeManagerAddress": name, "Alive": alive}

    def get(asked, **_):
        if asked == "b" * 56:
            raise ray.exceptions.TaskUnschedulableError("the node doesn't exist any more")
        return "fine"

    listed = iter([[node("a"), node("b")], [node("a"), node("b", not lost)]])
    task = SimpleNamespace(
        options=lambda scheduling_strategy: SimpleNamespace(
            remote=lambda: scheduling_strategy.node_id
        )
    )
    stub = SimpleNamespace(
        nodes=lambda: next(listed),
        remote=lambda **_: lambda _: task,
        get=get,
        exceptions=ray.exceptions,
    )
    monkeypatch.setattr(nodes, "ray", stub)
    answers = nodes.run_on_every_node(runtime_versions)
    assert answers.pop("a (aaaaaa)") == ("fine", "")
    assert list(answers) == ([] if lost else ["b (bbbbbb)"])


def test_a_folder_and_a_bucket_have_different_remedies():
    said = unreachable_library_message("/data/library", {"10.0.0.2": "x", "10.0.0.1": "x"})
    assert said == (
        "/data/library is a folder that 10.0.0.1, 10.0.0.2 does not see; "
        "use s3://BUCKET/PATH, or a folder that all nodes share"
    )
    said = unreachable_library_message(
        "s3://b/p?region=x", {"10.0.0.2": "AWS Error ACCESS_DENIED during PutObject"}
    )
    assert said.startswith("10.0.0.2 cannot use s3://b/p: AWS Error ACCESS_DENIED")
    assert "give the machine a role" in said


def test_another_ray_is_told_in_one_line():
    error = RuntimeError(
        "Version mismatch: The cluster was started with:\n    Ray: 2.59.0\nThis ..."
    )
    said = _refusal_message("10.0.0.1:6379", error)
    assert said.startswith("Version mismatch: The cluster was started with: Ray: 2.59.0 This")
    assert said.endswith("install the same with constraints.txt on both")


def test_a_token_that_is_missing_is_told_with_the_remedy():
    said = _refusal_message("10.0.0.1:6379", ray.exceptions.AuthenticationError("no token"))
    assert said.startswith("the cluster at 10.0.0.1:6379 asks for its token: copy its ~/.ray/auth")


def test_a_worker_fills_no_folder_of_its_own(tmp_path):
    """A worker does not create the driver's folder on a machine that lacks it."""
    with pytest.raises(ConfigError, match="does not see that folder"):
        Library(str(tmp_path / "library"), must_exist=True)
    assert not (tmp_path / "library").exists()
    Library(str(tmp_path / "library"))
    assert Library(str(tmp_path / "library"), must_exist=True).records() == []


# Two nodes on this machine


@pytest.fixture(scope="module")
def address():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        cluster.add_node(num_cpus=1)
        yield cluster.address
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def connected(address):
    connect(address)
    yield
    ray.shutdown()


@pytest.mark.ray
@pytest.mark.usefixtures("connected")
def test_two_nodes_that_run_and_see_the_same(disk, monkeypatch):
    check_nodes(disk.uri, disk.write_marker, disk.remove_file)
    assert disk.files.list_files("") == []

    with pytest.raises(ConfigError) as caught:
        check_nodes(disk.uri, lambda _: None, lambda _: None)
    (problem,) = caught.value.problems
    assert problem.path == "library"
    assert problem.message.count("(") == 2
    assert problem.message.endswith("use s3://BUCKET/PATH, or a folder that all nodes share")

    monkeypatch.setattr(nodes, "runtime_versions", lambda: {**runtime_versions(), "torch": "9.9.9"})
    with pytest.raises(
        ConfigError, match=rf"torch is {runtime_versions()['torch']} on .* and 9\.9\.9 where"
    ):
        check_nodes(disk.uri, disk.write_marker, disk.remove_file)
    assert disk.files.list_files("") == []


@pytest.mark.ray
@pytest.mark.usefixtures("connected")
def test_a_cluster_may_grow_as_far_as_the_user_says():
    """No GPU is there yet: an autoscaler brings one when a trial asks for it."""
    assert num_slots(ResourceSettings(cpu=1)) == 2
    assert num_slots(ResourceSettings(cpu=1), autoscaled_slots=8) == 8
    assert num_slots(ResourceSettings(cpu=1, gpu=1), autoscaled_slots=8) == 8
    with pytest.raises(ConfigError, match=r"1 gpu, but .* set run\.concurrent where nodes come"):
        num_slots(ResourceSettings(cpu=1, gpu=1))


@pytest.mark.ray
@pytest.mark.usefixtures("connected")
def test_whether_more_than_one_machine_works_on_it(monkeypatch):
    assert is_multi_node(ResourceSettings(cpu=1), 0)
    alive = ray_backend.alive_node_resources()
    monkeypatch.setattr(ray_backend, "alive_node_resources", lambda: alive[:1])
    assert not is_multi_node(ResourceSettings(cpu=1), 0)
    assert not is_multi_node(ResourceSettings(cpu=1), 1)
    assert is_multi_node(
        ResourceSettings(cpu=1), 2
    )  # there is room for one: another node is to come
    assert is_multi_node(ResourceSettings(cpu=1, gpu=1), 1)


def test_a_file_that_serves_one_machine_is_refused_with_the_remedy():
    check_stores({"tracking": "http://host:5000", "study": ""})
    check_stores({"tracking": "postgresql+psycopg://h/db", "study": "postgresql+psycopg://h/db"})
    with pytest.raises(ConfigError) as caught:
        check_stores({"tracking": "sqlite:////a/mlflow.db", "study": "sqlite:////a/studies.db"})
    assert [str(problem) for problem in caught.value.problems] == [
        "tracking: sqlite:////a/mlflow.db is a SQLite file, which serves one machine; serve MLflow "
        "(`mlflow server` beside the head, tracking: http://HOST:5000) or name a PostgreSQL "
        "database",
        "study: sqlite:////a/studies.db is a SQLite file, which serves one machine; name a "
        "PostgreSQL database, or leave it out: a journal in the run's folder",
    ]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("tracking", [None, "sqlite:///mlflow.db"])
def test_a_search_over_two_nodes_is_not_begun_with_a_file(
    address, load, tmp_path, monkeypatch, tracking
):
    monkeypatch.setenv("STILLHOUSE_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"^tracking: sqlite:.*mlflow\.db is a SQLite file, "):
        launch(load(tracking=tracking), address=address)
    assert RunFolder.find("tiny").read_json("state.json")["state"] == "failed"
    assert not ray.is_initialized()


@pytest.mark.ray
@pytest.mark.slow
def test_a_search_over_two_nodes_with_its_library_in_a_bucket(
    address, bucket, postgres, tiny, tmp_path, monkeypatch
):
    """Code, stages, trials and Tune's own results need no folder that nodes share."""
    monkeypatch.setenv("STILLHOUSE_RUNS", str(tmp_path / "runs"))
    told = copy.deepcopy(tiny)
    told["library"] = bucket
    told["tracking"], told["study"] = postgres.database(), postgres.database()
    told["run"]["trials"] = 2
    launched = launch(load_experiment(told), address=address)
    assert (launched.state, launched.unsent) == ("finished", 0)
    assert not (launched.folder.path / "study.journal").exists()
    assert {trial.state for trial in launched.outcome.trials} == {"finished"}
    library = Library(bucket)
    keys = {key for trial in launched.outcome.trials for key in trial.stage_keys.values()}
    assert keys <= set(library.keys())
    tuned = [info.path for info in library.files.list_files("tune")]
    assert any(place.startswith(f"tune/{launched.folder.id}/") for place in tuned), tuned
    assert not (launched.folder.path / "tune").exists()
    assert library.all_references().keys() == {launched.folder.id}
