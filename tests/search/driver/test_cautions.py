"""What looks wrong is said once, by name, and nothing is refused for it."""

import io
import itertools

import pytest
from rich.console import Console
from safetensors.torch import save_file

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.search.artifacts.store import Library
from stillhouse.search.cli.live import LiveView
from stillhouse.search.execution.builder import build_stages
from stillhouse.search.experiment.checks.cautions import setup_warnings
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.monitoring.dispatcher import EventDispatcher
from stillhouse.search.monitoring.events import (
    StageChanged,
    TrialStarted,
    TrialWaiting,
    WarningIssued,
)
from stillhouse.search.monitoring.teachers import (
    TeacherMonitor,
    majority_accuracies,
    majority_accuracy,
)
from stillhouse.search.stages.expansion.teachers import teachers_of
from stillhouse.search.tuning.local_backend import LocalBackend
from stillhouse.search.tuning.recorder import TrialRecorder
from stillhouse.search.tuning.study import Study
from stillhouse.spaces.network_spec import NetworkSpec
from tests.support.experiments import FAST, LABELS, taught_student

GUESSING = {**FAST, "lr": 1e-9}
TOLD = taught_student(
    "doubtful",
    training=FAST,
    limit=200,
    run={"repeats": {"top": 0}, "baselines": False},
)


def told(changes=None, **top):
    """The lines about an experiment."""
    return [str(each) for each in setup_warnings(load_experiment({**TOLD, **top}, changes))]


@pytest.fixture
def weights(tmp_path):
    """A file of published weights of ``cnn4``, for images of three channels or one."""

    def saved(channels=1):
        file = tmp_path / f"weights{channels}.safetensors"
        network = NetworkSpec.parse("cnn4").build((channels, 8, 8), 10 if channels == 1 else 2)
        save_file({n: value for n, value in network.state_dict().items() if "." in n}, file)
        return str(file)

    return saved


def test_an_ordinary_experiment_gives_no_cause():
    assert told() == []


# Known beforehand


def test_a_student_that_is_larger_than_its_teacher_is_named():
    (line,) = told({"student.network": "cnn8", "teacher.network": "cnn2"})
    assert line.startswith("stages.student.network: has ")
    assert "and its teacher 'teacher' has " in line


def test_so_is_one_that_only_a_searched_value_makes_larger():
    (line,) = told(
        {
            "search": {"student.network": {"choice": ["cnn2", "cnn6", "cnn8"]}},
            "run.trials": 3,
        }
    )
    largest = NetworkSpec.parse("cnn8").build((1, 8, 8), 10)
    assert f"has {sum(p.numel() for p in largest.parameters()):,} parameters" in line


def test_a_normalisation_for_other_numbers_is_named(weights):
    given = {"path": weights(), "mean": [123.0], "std": [58.0]}
    teacher = {"network": "cnn4", "weights": given}
    (line,) = told(stages={**TOLD["stages"], "teacher": teacher})
    assert line == (
        "stages.teacher.weights.mean: found mean [123.0] and std [58.0], but images are in "
        "0..1; divide values for images in 0..255 by 255"
    )
    (line,) = told({"data.normalise": {"mean": [33.3], "std": [78.6]}})
    assert line.startswith("data.normalise.mean: found mean [33.3]")
    assert told({"data.normalise": {"mean": [0.13], "std": [0.31]}}) == []


def colours(tmp_path, count=20):
    """A folder of images of three channels, of two classes."""
    from PIL import Image

    for part, number in itertools.product(("train", "test"), range(count)):
        folder = tmp_path / "images" / part / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        shade = (255 * (number % 2), number, 90)
        Image.new("RGB", (8, 8), shade).save(folder / f"{number}.png")
    return {"source": "image_folder", "root": str(tmp_path / "images"), "validation": 0.2}


def test_one_value_for_three_channels_is_named(weights, tmp_path):
    given = {"path": weights(3), "mean": [0.5], "std": [0.2]}
    teacher = {"network": "cnn4", "weights": given}
    (line,) = told(data=colours(tmp_path), stages={**TOLD["stages"], "teacher": teacher})
    assert line == (
        "stages.teacher.weights.mean: has one value for 3 channels; all channels use it"
    )


@pytest.mark.parametrize("own", [{"validation": 0.0}, {"split_seed": 1}, {"validation": 0.1}])
def test_a_teacher_that_learns_from_what_judges_its_student_is_named(own):
    stages = {**TOLD["stages"], "teacher": {**TOLD["stages"]["teacher"], "data": own}}
    (line,) = told({"data.limit": None}, stages=stages)
    assert line.startswith("stages.teacher: this teacher trains on ")
    assert " of the 288 validation images of 'student'" in line


def test_a_teacher_of_fewer_or_other_examples_is_not():
    teacher = {**TOLD["stages"]["teacher"], "data": {"limit": 100}}
    assert told(stages={**TOLD["stages"], "teacher": teacher}) == []
    data = {**TOLD["data"], "classes": [0, 1], "limit": None}
    teacher = {**TOLD["stages"]["teacher"], "data": {"classes": [5, 6], "split_seed": 3}}
    assert told(data=data, stages={**TOLD["stages"], "teacher": teacher}) == []


def test_a_stage_called_like_a_field_of_the_file_is_named():
    stages = {"run": TOLD["stages"]["teacher"]}
    goal = {"maximize": "run.val_accuracy"}
    assert told(stages=stages, goal=goal) == [
        "stages.run: has the name of the top-level field 'run'; --set reaches it only as stages.run"
    ]


def test_a_value_of_the_file_that_is_not_searched_is_named():
    search = {
        "student.training.lr": {"uniform": [0.1, 0.2]},
        "student.training.batch_size": {"choice": [32, 64]},
    }
    (line,) = told({"search": search, "run.start": "file", "run.trials": 2})
    assert line.startswith(
        "search.student.training.lr: the file contains 0.05, which is not among the "
        "searched values "
        "(uniform [0.1, 0.2])"
    )


# Known once it is made


def test_guessing_is_the_share_of_the_most_frequent_class():
    data = DataConfig.parse(
        {"source": "digits", "validation": 0.2, "merge": [[0], list(range(1, 10))]}
    )
    assert majority_accuracy(data) == pytest.approx(0.9, abs=0.01)
    assert majority_accuracy(data.model_copy(update={"validation": 0.0})) is None


def test_everyone_who_teaches_is_known(load):
    recipe = load().stage_graph()
    names = {stage.label for stage in teachers_of(recipe.student).values()}
    assert names == {"teacher", "assistants/cnn6"}


@pytest.fixture
def made(tmp_path):
    """Record of a teacher, and what guessing comes to, by the changes to the file."""

    def recorded(changes=None, **top):
        student = load_experiment({**TOLD, **top}, changes).stage_graph().student
        library = Library(str(tmp_path / "library"))
        ((key, teacher),) = teachers_of(student).items()
        for _ in build_stages([teacher], library):
            pass
        return library.record(key), majority_accuracies(student)

    return recorded


def warned(record, shares, order):
    """What is answered to these events."""
    watch = TeacherMonitor()
    told = {
        "waiting": TrialWaiting(0, (), shares),
        "started": TrialStarted(0, {}, {}, {}, shares),
        "again": TrialStarted(1, {}, {}, {}, shares),
        "made": StageChanged(record.key, record.name, "made", record=record),
        "reused": StageChanged(record.key, record.name, "reused", record=record),
    }
    return [each for name in order for each in watch(told[name])]


@pytest.mark.parametrize(
    "order",
    [("waiting", "made", "started", "again"), ("made", "started", "again"), ("started", "reused")],
)
def test_a_teacher_at_chance_is_named_once(made, order):
    record, shares = made({"teacher.training": GUESSING})
    (found,) = warned(record, shares, order)
    assert found.source == "teacher"
    assert f"has an accuracy of {record.figures['val_accuracy']:.4f}" in found.message
    assert "what it teaches is noise" in found.message


def test_a_teacher_that_knows_something_is_not(made):
    record, shares = made({"teacher.training": {"epochs": 8, "batch_size": 32, "lr": 0.05}})
    assert record.figures["val_accuracy"] > 0.5
    assert not warned(record, shares, ("made", "started"))


def test_a_teacher_from_elsewhere_that_makes_no_mistake_is_named(made, tmp_path):
    """Trained on all that is there, also on what is held out here."""
    whole = {"epochs": 4, "batch_size": 32, "lr": 0.05}
    trained = {"network": "cnn4", "objective": LABELS, "training": whole}
    data = {"source": "digits", "validation": 0.0, "classes": [0, 1]}
    stages = {"teacher": trained}
    other = load_experiment(
        {**TOLD, "data": data, "stages": stages, "goal": {"minimize": "teacher.train_loss"}}
    )
    library = Library(str(tmp_path / "elsewhere"))
    student = other.stage_graph().student
    for _ in build_stages([student], library):
        pass
    state = library.open_artifact(student.key).tensors
    file = tmp_path / "whole.safetensors"
    save_file({name: value for name, value in state.items() if "." in name}, file)
    ready = {"network": "cnn4", "weights": str(file)}
    record, shares = made({"data.classes": [0, 1]}, stages={**TOLD["stages"], "teacher": ready})
    assert record.figures["val_accuracy"] == 1.0
    (found,) = warned(record, shares, ("made", "started"))
    assert "which its weights have probably been trained on" in found.message


def test_warnings_reach_whoever_listens(tmp_path):
    """Of a search in this process: the line stands in its log, once, and before the trial ends."""
    changes = {"teacher.training": GUESSING, "run.trials": 2, "library": str(tmp_path / "library")}
    search = {"student.training.lr": {"choice": [0.01, 0.02]}}
    experiment = load_experiment({**TOLD, "search": search}, changes)
    console = Console(file=io.StringIO(), width=300)
    heard = []
    announce = EventDispatcher([LiveView(experiment, console), heard.append], TeacherMonitor())
    library = Library(experiment.library)
    ledger = TrialRecorder(Study(experiment, tmp_path / "run"), library, announce)
    LocalBackend(experiment, library, announce).run_trials(ledger, experiment.trials)
    assert sum(isinstance(event, WarningIssued) for event in heard) == 1
    lines = console.file.getvalue().splitlines()
    (at,) = [i for i, line in enumerate(lines) if "warning: teacher: this teacher has an" in line]
    assert "stage teacher made" in lines[at - 1]
    assert any("trial 0 finished" in line for line in lines[at:])
