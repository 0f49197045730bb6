"""The command line, from a file to its best configuration run again."""

import json
import sys
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from stillhouse.search.cli.app import app, main
from stillhouse.search.driver.launch import launch
from stillhouse.search.experiment.loading import load_experiment
from tests.support.experiments import tiny_experiment

TINY = tiny_experiment(
    search={"student.training.lr": "declared"},
    run={"trials": 3, "repeats": {"top": 1, "seeds": 2}},
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working folder with one finished run, ``tiny-1``."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        launched = launch(load_experiment(folder / "tiny.yaml"), inline=True)
    assert launched.state == "finished"
    return folder


@pytest.fixture
def call(place, monkeypatch):
    monkeypatch.chdir(place)

    def called(*words, status=0):
        result = CliRunner().invoke(app, list(words))
        assert result.exit_code == status, result.output
        return result.stdout

    return called


def test_every_command_that_answers_takes_json(call, place):
    keys = {p.parent.name for p in (place / "stillhouse-library").rglob("record.json")}
    answers = {
        ("check", "tiny.yaml"): lambda a: a["valid"] and a["searched"] == ["student.training.lr"],
        ("plan", "tiny.yaml"): lambda a: [s["label"] for s in a["stages"]] == ["teacher"],
        ("best", "tiny"): lambda a: a["best"]["name"] == "tiny-best" and "search" not in a["best"],
        ("status", "tiny"): lambda a: a["state"] == "finished" and a["silent_for"] is None,
        ("status", "tiny-1", "--library", "stillhouse-library"): (
            lambda a: a["trials"]["ended"] == {"finished": 3}
        ),
        ("report", "tiny-1"): lambda a: any(file.endswith("report.html") for file in a),
        ("library", "list"): lambda a: {record["key"] for record in a} == keys,
        ("library", "show", min(keys)[:10]): lambda a: a["key"] == min(keys),
        ("library", "verify"): lambda a: a == {"checked": len(keys), "damaged": []},
        ("library", "collect", "--older", "0"): lambda a: a["artifacts"] == [],
        ("methods",): lambda a: {"cross_entropy", "soft_targets"} <= {row["method"] for row in a},
        ("methods", "guided"): lambda a: "max(sum_b m_i[b], 1)" in a["formula"],
        ("networks",): lambda a: {row["network"] for row in a} >= {"cnn10", "resnet20", "vgg8"},
        ("blocks",): lambda a: {row["block"] for row in a} >= {"kept", "ghost", "identity"},
        ("doctor",): lambda a: all(finding["good"] for finding in a),
    }
    for words, right in answers.items():
        assert right(json.loads(call(*words, "--json"))), words
        assert call(*words).strip(), words


def test_all_commands_answer_help():
    commands = typer.main.get_command(app).commands
    assert set(commands) == {
        *("launch", "resume", "extend", "check", "plan", "best", "reuse", "library", "report"),
        *("ui", "diagnose", "methods", "networks", "blocks", "doctor", "status", "export"),
    }
    for name in commands:
        assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0


def test_what_is_planned_is_there_after_a_launch(call):
    (stage,) = json.loads(call("plan", "tiny.yaml", "--json"))["stages"]
    assert stage["there"]


def test_the_best_file_runs_and_finds_all_its_stages(call, place):
    best = place / "stillhouse-runs" / "tiny-1" / "best.yaml"
    assert "over 2 seeds" in best.read_text(encoding="utf-8")
    told = json.loads(call("launch", str(best), "--inline", "--json"))
    assert told["state"] == "finished"
    teacher = [key for key in told["reused"]]
    assert teacher


def test_reuse_looks_at_the_test_split(call):
    told = json.loads(call("reuse", "tiny-1", "--inline", "--seeds", "2", "--json"))
    assert set(told["tests"]) == {"trial 0", "plain"}
    assert told["repeats"][0]["also"] == ["direct"]
    assert all(len(values) == 2 for values in told["tests"].values())


def test_extend_goes_on_counting(call):
    before = len(json.loads(call("best", "tiny-1", "--json"))["stages"])
    told = json.loads(call("extend", "tiny-1", "--trials", "2", "--inline", "--json"))
    assert len(told["stages"]) > before
    study = (Path("stillhouse-runs") / "tiny-1" / "trials.csv").read_text(encoding="utf-8")
    assert len(study.strip().splitlines()) == 1 + 5


def test_a_finished_run_resumes_to_the_same(call):
    first, second = (
        json.loads(call("resume", "tiny-1", "--inline", "--json"))["repeats"] for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["check", "missing.yaml"], "there is no such file"),
        (["launch", "tiny.yaml", "--set", "run.trials=0"], "greater than or equal to 1"),
        (["launch", "tiny.yaml", "--set", "trials"], "needs PATH=VALUE"),
        (["launch", "tiny.yaml", "--set", "run.trails=3"], "did you mean 'trials'?"),
        (["resume", "tinny"], "unknown run"),
        (["status", "tinny"], "name its cluster or library: --address CLUSTER, or --library PLACE"),
        (["launch", "tiny.yaml", "--submit"], "needs the cluster's --address"),
        (["launch", "tiny.yaml", "--address", "127.0.0.1:9"], "nothing answers"),
    ],
)
def test_mistakes_end_with_one_line_and_status_2(words, told, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["stillhouse", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert told in errors[0]
