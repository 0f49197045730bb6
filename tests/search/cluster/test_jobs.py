"""The files and the command of a search that is submitted as a job."""

import shlex

import pytest
import yaml

from stillhouse.search.cluster.dashboard import run_name_in
from stillhouse.search.cluster.jobs import EXPERIMENT_FILE, launch_job, resume_job
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.spaces.config.problems import ConfigError


def submitted(tiny, folder, **changes):
    told = {**tiny, "library": "s3://bucket/path", **changes}
    return launch_job(load_experiment(told), folder)


def test_the_experiment_goes_along_whole(tiny, tmp_path):
    job, tracking = submitted(tiny, tmp_path)
    assert load_experiment(tmp_path / EXPERIMENT_FILE).plain() == {
        **load_experiment(tiny).plain(),
        "library": "s3://bucket/path",
    }
    assert tracking == "sqlite:///$HOME/mlflow.db"
    runs, exec_, *words = shlex.split(job.entrypoint)
    assert runs == "STILLHOUSE_RUNS=${STILLHOUSE_RUNS:-$HOME/stillhouse-runs}"
    assert exec_ == "exec"
    assert words == [
        *("python", "-m", "stillhouse.search.cli", "launch", EXPERIMENT_FILE, "--address", "auto"),
        *("--set", "tracking=sqlite:///$HOME/mlflow.db"),
    ]


@pytest.mark.parametrize(
    ("told", "there"),
    [
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("sqlite:///own/mlflow.db", "sqlite:///$HOME/own/mlflow.db"),
    ],
)
def test_a_database_beside_the_file_becomes_one_beside_the_runs(told, there, tiny, tmp_path):
    assert submitted(tiny, tmp_path, tracking=told)[1] == there


def test_a_tracking_uri_cannot_run_anything(tiny, tmp_path):
    with pytest.raises(ConfigError, match="cannot carry"):
        submitted(tiny, tmp_path, tracking="http://x/$(touch /tmp/x)")


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"library": "stillhouse-library"}, "library"),
        ({"data": {"source": "digits", "root": "data"}}, "data.root"),
    ],
)
def test_folders_of_this_machine_are_refused(changes, path, tiny, tmp_path):
    with pytest.raises(ConfigError) as caught:
        submitted(tiny, tmp_path, **changes)
    (problem,) = caught.value.problems
    assert problem.path == path
    assert "which the cluster does not see; --set " in problem.message


def test_so_is_the_folder_of_an_entry(tiny, tmp_path):
    tiny["stages"]["student"]["data"] = {"root": "data"}
    with pytest.raises(ConfigError) as caught:
        submitted(tiny, tmp_path)
    assert [problem.path for problem in caught.value.problems] == ["stages.student.data.root"]


def test_a_password_is_refused_with_the_place_where_it_belongs(tiny, tmp_path):
    with pytest.raises(ConfigError) as caught:
        submitted(tiny, tmp_path, study="postgresql://user:geheim@head/study")
    (problem,) = caught.value.problems
    assert problem.path == "study"
    assert problem.message.endswith("set PGPASSWORD, or add a line to ~/.pgpass")
    assert not list(tmp_path.iterdir())


def test_weights_go_along_under_names_of_their_own(tiny, tmp_path, monkeypatch, published):
    networks = {"one": "cnn8", "two": {"cnn2": {"width": 0.25}}}
    for place, network in networks.items():
        (tmp_path / place).mkdir()
        published(tmp_path / place / "net.safetensors", network)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "along"
    folder.mkdir()
    stages = {**tiny["stages"]}
    stages["teacher"] = {"network": "cnn8", "weights": {"path": "one/net.safetensors"}}
    stages["student"] = {**stages["student"], "weights": "two/net.safetensors"}
    submitted(tiny, folder, stages=stages)
    told = yaml.safe_load((folder / EXPERIMENT_FILE).read_text())["stages"]
    first, second = told["teacher"]["weights"]["path"], told["student"]["weights"]
    for place, copy in (("one", first), ("two", second)):
        original = (tmp_path / place / "net.safetensors").read_bytes()
        assert (folder / copy).read_bytes() == original
    assert first.endswith("-net.safetensors")


def test_a_run_that_the_head_has_needs_no_files():
    assert resume_job("tiny-2").entrypoint.endswith(
        "-m stillhouse.search.cli resume tiny-2 --address auto"
    )
    assert resume_job("tiny", 5).entrypoint.endswith("extend tiny --trials 5 --address auto")
    assert resume_job("x; rm -r .").entrypoint.endswith("resume 'x; rm -r .' --address auto")
    assert resume_job("tiny").folder is None


def test_the_run_is_read_from_what_its_driver_prints():
    assert (
        run_name_in("   0.2 s  tiny-2 started: 6 trials\n   1.0 s  stage teacher made") == "tiny-2"
    )
    assert run_name_in("  12.0 s  tiny-3 resumed: 1 trials") == "tiny-3"
    assert run_name_in("error: library: cannot be used") == ""
