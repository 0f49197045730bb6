"""Ready networks as teachers: side by side, as a searched choice, and as links of a chain."""

import pytest
import torch

from stillhouse.search.core import formatting
from stillhouse.search.driver.launch import launch
from stillhouse.search.driver.plan import plan_search
from stillhouse.search.experiment.goal import Goal
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.report.core.headline import comparison_sentences
from stillhouse.search.report.core.lineage import build_forest
from stillhouse.search.report.core.participants import find_participants
from stillhouse.search.report.pictures import curves
from stillhouse.search.results.outcome import winner
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.network_spec import NetworkSpec

TAUGHT = {"cross_entropy": {"weight": 0.3}, "soft_targets": {"weight": 0.7}}
FAST = {"epochs": 2, "batch_size": 32, "lr": 0.05}
BOTH = ["large", "small"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of weights, as if they had been published."""
    folder = tmp_path_factory.mktemp("ready")
    torch.manual_seed(0)
    for name in ("cnn6", "cnn4"):
        network = NetworkSpec.parse(name).build((1, 8, 8), 10)
        state = {k: v for k, v in network.state_dict().items() if k not in ("mean", "std")}
        torch.save(state, folder / f"{name}.pt")
    return folder


def experiment(folder, changes=None, **top):
    told = {
        "name": "ready",
        "data": {"source": "digits", "validation": 0.25, "limit": 100},
        "stages": {
            "large": {"network": "cnn6", "weights": str(folder / "cnn6.pt")},
            "small": {"network": "cnn4", "weights": str(folder / "cnn4.pt")},
            "student": {
                "network": {"cnn2": {"width": 0.25}},
                "teachers": ["large"],
                "objective": TAUGHT,
                "training": FAST,
            },
        },
        "search": {"student.teachers": {"choice": [["large"], ["small"], BOTH]}},
        "goal": {"maximize": "student.val_accuracy"},
        "run": {"trials": 3, "sampler": "grid", "repeats": {"top": 3, "seeds": 2}},
        "library": str(folder / "library"),
        "tracking": f"sqlite:///{folder}/mlflow.db",
        **top,
    }
    return load_experiment(told, changes)


@pytest.fixture(scope="module")
def searched(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STILLHOUSE_RUNS", str(folder / "runs"))
        patch.chdir(folder)
        asked = experiment(folder)
        yield asked, launch(asked, inline=True).outcome


def test_a_plan_counts_all_teachers_that_may_be_chosen(folder):
    planned = plan_search(experiment(folder, {"run.baselines": False}))
    assert {stage.label for stage in planned.stages} == set(BOTH)
    assert planned.exact


def test_who_is_taught_by_one_teacher_alone_is_the_direct_student(searched):
    _, outcome = searched
    best, roles = winner(outcome), {r.role for r in outcome.seed_runs}
    values = next(t.values for t in outcome.trials if best.role == f"trial {t.number}")
    told = "The best has no assistants: it is the direct student."
    if len(values["student.teachers"]) == 1:
        assert best.coincides_with == ("direct",)
        assert "direct" not in roles
        assert told in comparison_sentences(outcome)
    else:
        assert best.coincides_with == ()
        assert "direct" in roles
        assert told not in comparison_sentences(outcome)
    assert "plain" in roles


@pytest.mark.parametrize(("teachers", "is_direct"), [(["large"], True), (BOTH, False)])
def test_a_baseline_is_no_row_where_it_is_the_best_itself(folder, tmp_path, teachers, is_direct):
    asked = experiment(
        folder,
        {"student.teachers": teachers, "run.repeats.seeds": 1},
        search={},
        library=str(tmp_path / "library"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STILLHOUSE_RUNS", str(tmp_path / "runs"))
        outcome = launch(asked, inline=True).outcome
    roles = [r.role for r in outcome.seed_runs]
    assert roles == (["trial 0", "plain"] if is_direct else ["trial 0", "plain", "direct"])
    if not is_direct:
        (direct,) = (r for r in outcome.seed_runs if r.role == "direct")
        assert [outcome.records[k].name for k in direct.records[0].parents] == ["large"]


def test_teachers_side_by_side_are_no_chain(searched):
    asked, outcome = searched
    grown = build_forest(find_participants(outcome, asked.plain()), Goal("val_accuracy", True), 24)
    assert {node.stage.label for node in grown.roots} == set(BOTH)
    names = {node.stage.key: node.stage.label for node in grown.nodes}
    ends = {
        (node.stage.label, tuple(names[key] for key in leaf.other_teachers))
        for node in grown.nodes
        for leaf in node.leaves
    }
    assert ends == {("large", ()), ("small", ()), ("small", ("large",))}
    assert sorted(leaf.row for leaf in grown.leaves) == [0, 1, 2]
    path, domain = next(iter(asked.plain()["search"].items()))
    assert formatting.format_setting(BOTH, domain, path) == "large + small"
    assert formatting.format_domain(domain, path) == "large | small | large + small"


def test_who_only_teaches_beside_another_has_a_line_of_its_own(searched):
    asked, outcome = searched
    taught_by_both = [t for t in outcome.trials if len(t.values["student.teachers"]) == 2]
    known = type(outcome)(**{**vars(outcome), "trials": tuple(taught_by_both)})
    grown = build_forest(find_participants(known, asked.plain()), Goal("val_accuracy", True), 24)
    assert len({node.row for node in grown.roots}) == len(grown.roots) == 2
    assert grown.num_rows == 2


def test_a_ready_teacher_is_a_level_beside_the_curves(searched):
    asked, outcome = searched
    picture = curves.draw(outcome, find_participants(outcome, asked.plain()))
    _, right = picture.figure.axes
    assert len(right.lines) == 2
    assert all(len(set(line.get_ydata())) == 1 for line in right.lines)
    assert "dashed" in picture.caption


def chain(folder, links, search=None, **top):
    stages = {
        "large": {"network": "cnn6", "weights": str(folder / "cnn6.pt")},
        "assistants": {
            "do": "chain",
            "teacher": "large",
            "networks": ["cnn4"],
            "objective": TAUGHT,
            "training": FAST,
            "links": {"cnn4": links},
        },
        "student": {
            "network": {"cnn2": {"width": 0.25}},
            "teachers": ["assistants"],
            "objective": TAUGHT,
            "training": FAST,
        },
    }
    return experiment(folder, stages=stages, search=search or {}, **top)


def test_ready_weights_are_a_link_of_a_chain(folder):
    ready = chain(folder, {"weights": str(folder / "cnn4.pt")}).stage_graph()
    (link,) = ready.student.parents
    assert link.label == "assistants/cnn4"
    assert link.parents == ()
    assert link.operation.weights
    assert link.operation.objective is None
    alone = experiment(folder, {"student.teachers": ["small"]}, search={}).stage_graph()
    assert ready.student.key == alone.student.key


def test_a_ready_link_has_nothing_to_search(folder):
    lr = {"log_uniform": [0.01, 0.1]}
    search = {
        "assistants.networks": {"chain": {"of": ["cnn4", "cnn2"]}},
        "assistants.links.*.training.lr": lr,
    }
    asked = chain(folder, {"weights": str(folder / "cnn4.pt")}, search)
    drawn = [set(values) for values in asked.configurations(1)]
    assert {"assistants.networks"} in drawn
    assert {"assistants.networks", "assistants.links.cnn2.training.lr"} in drawn
    assert not any("assistants.links.cnn4.training.lr" in values for values in drawn)


def test_a_ready_link_is_not_trained(folder):
    links = {"weights": str(folder / "cnn4.pt"), "training": {"lr": 0.1}}
    with pytest.raises(ConfigError, match="a link with weights is not trained; remove training"):
        chain(folder, links)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"path": "cnn4.pt"}, r"stages\.large\.weights\.path: .*does not fit this network"),
        ({"path": "page.pth"}, r"stages\.large\.weights\.path: .*is an HTML page"),
        ({"mean": [0.5, 0.5], "std": [1, 1]}, r"stages\.large\.weights\.mean: has 2 values"),
        ({"mean": [0.5], "std": [0]}, "needs std above 0, found 0"),
        ({"mean": [0.5], "std": [1, 1]}, r"needs as many of mean \(1\) as of std \(2\)"),
    ],
)
def test_a_file_of_weights_is_held_against_its_network_before_anything_runs(folder, weights, said):
    (folder / "page.pth").write_text("<html><body>404</body></html>", encoding="utf-8")
    file = folder / weights.get("path", "cnn6.pt")
    with pytest.raises(ConfigError, match=said):
        experiment(folder, {"large.weights": {**weights, "path": str(file)}})


def test_a_link_says_where_its_file_does_not_fit(folder):
    with pytest.raises(ConfigError, match=r"assistants\.links\.cnn4\.weights\.path: .*not fit"):
        chain(folder, {"weights": str(folder / "cnn6.pt")})
