"""Recipes and keys: what decides a result is in its key, and nothing else is."""

import collections
import copy
import itertools
from typing import get_args

import pytest
from PIL import Image

from stillhouse.methods.core.data.augmentation.augment import Augment
from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.sources import SOURCES
from stillhouse.methods.core.objective.objective import METHODS
from stillhouse.methods.core.training.train import Training
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.stages.core.weights import WeightsSettings
from stillhouse.search.stages.ops.train import TrainNetwork
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.networks import FAMILIES

TAUGHT = {"cross_entropy": {"weight": 0.5}, "soft_targets": {"weight": 0.5}}
DIGITS = {"source": "digits", "limit": 100}
# What a field may be changed to; the first that fits and differs is taken.
VALUES = (True, False, 1, 2, 3, 0, 0.5, 0.25, 0.75, 1.5, 2.5, 1e-3, (0.5,), (0.3, 0.4), (1,))
NAMES = (
    "constant",
    "linear",
    "a",
    ("a",),
    ("conv1",),
    (("a", "b"), ("c", "d")),
    ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9)),
    {"mean": (0.5,), "std": (0.5,)},
    {"flip": True},
    {"conv1": 0.5},
    {"epochs": 3},
)
SCHEDULES = ("constant", "step", "switch", "linear", "warmup", "cosine", "one_cycle")


def key(work=None, data=None, parents=(), label="stage"):
    told = {"network": "cnn2", "objective": TAUGHT, **(work or {})}
    return Stage(
        label, TrainNetwork.parse(told), DataConfig.parse({**DIGITS, **(data or {})}), parents
    ).key


TEACHER = Stage(
    "teacher",
    TrainNetwork.parse({"network": "cnn4", "objective": {"cross_entropy": {}}}),
    DataConfig.parse(DIGITS),
)


def changes(config, base=None, apart=frozenset()):
    """Every field of a settings class with a value that is not its default."""
    base = base or {}
    plain = config.parse(base).plain()
    for name, field in config.model_fields.items():
        if name in {"kind", *apart}:
            continue
        declared = config.search_space()[name].grid(2) if name in config.search_space() else ()
        sizes = [size[name] for size in getattr(config, "sizes", {}).values() if name in size]
        for value in (*declared, *sizes, *VALUES, *NAMES, *get_args(field.annotation)):
            try:
                changed = config.parse({**base, name: value}).plain()
            except ConfigError:
                continue
            if changed != plain:
                yield name, value
                break
        else:
            raise AssertionError(f"no other value is known for {config.__name__}.{name}")


# Every setting is in the key


@pytest.mark.parametrize(("field", "value"), list(changes(Training, apart={"workers"})))
def test_every_training_setting_that_decides_a_result_changes_the_key(field, value):
    assert key({"training": {field: value}}) != key()


@pytest.mark.parametrize("kind", SCHEDULES)
def test_every_setting_of_a_schedule_changes_the_key(kind):
    """Of the learning rate, and of a method's weight."""
    base = {"schedule": {kind: {}}}
    schedule = type(Training.parse(base).schedule)
    assert schedule.model_fields["kind"].default == kind
    for field, value in changes(schedule):
        told = {"schedule": {kind: {field: value}}}
        assert key({"training": told}) != key({"training": base})
        objective = {"cross_entropy": told}
        assert key({"objective": objective}) != key({"objective": {"cross_entropy": base}})


@pytest.mark.parametrize("method", METHODS.names())
def test_every_setting_of_a_method_changes_the_key(method):
    beside = "cross_entropy" if method != "cross_entropy" else "soft_targets"
    told = [{}, *({field: value} for field, value in changes(METHODS.load(method).Config))]
    objectives = [{method: settings, beside: {}} for settings in told]
    keys = [key({"objective": objective}, parents=(TEACHER,)) for objective in objectives]
    assert len(set(keys)) == len(keys)


def test_every_method_has_a_key_of_its_own():
    keys = {key({"objective": {name: {}}}, parents=(TEACHER,)) for name in METHODS.names()}
    assert len(keys) == len(METHODS.names())


ELSEWHERE = {"root", "download", "resident_mb"}


@pytest.mark.parametrize(
    ("field", "value"), list(changes(DataConfig, DIGITS, {"source", *ELSEWHERE}))
)
def test_every_setting_of_the_data_changes_the_key(field, value):
    assert key(data={field: value}) != key()


@pytest.mark.parametrize(("field", "value"), list(changes(Augment)))
def test_every_setting_of_the_augmentation_changes_the_key(field, value):
    beside = {"randaugment": 1} if field == "magnitude" else {}  # of those changes alone
    told = {"augment": {**beside, field: value}}
    assert key(data=told) != key(data={"augment": beside})


@pytest.mark.parametrize("family", FAMILIES.names())
def test_every_setting_of_a_network_changes_the_key(family):
    config = FAMILIES.load(family)
    base = {} if family != "torchvision" else {"model": "resnet18"}
    told = [base, *({**base, field: value} for field, value in changes(config, base))]
    told += [dict(size) for size in config.sizes.values()]
    plain = {str(config.parse(settings).plain()) for settings in told}
    assert len({key({"network": {"family": family, **each}}) for each in told}) == len(plain)


def test_the_seed_and_the_teachers_change_the_key():
    other = Stage("teacher", TEACHER.operation.model_copy(update={"seed": 1}), TEACHER.data)
    found = [
        key(),
        key({"seed": 1}),
        key(parents=(TEACHER,)),
        key(parents=(other,)),
        key(parents=(TEACHER, other)),
        key(parents=(other, TEACHER)),
    ]
    assert len(set(found)) == len(found)


def test_weights_are_known_by_their_content(tmp_path):
    def weighed(name, content, **more):
        (tmp_path / name).write_bytes(content)
        return key({"weights": WeightsSettings(path=str(tmp_path / name), **more)})

    one = weighed("one.pt", b"abc")
    assert weighed("elsewhere.pt", b"abc") == one
    assert weighed("one.pt", b"abd") != one
    assert weighed("one.pt", b"abc", mean=(0.5,), std=(0.5,)) != one
    assert one != key()


def test_ready_made_weights_have_no_seed_and_no_training(tmp_path):
    (tmp_path / "w.pt").write_bytes(b"abc")
    ready = {"weights": WeightsSettings(path=str(tmp_path / "w.pt")), "objective": None}
    assert key(ready) == key({**ready, "seed": 3}) == key({**ready, "training": {"epochs": 3}})
    assert key(ready) != key({**ready, "objective": TAUGHT})


def test_versions_are_in_the_key(monkeypatch):
    before = key(parents=(TEACHER,))
    versioned = [
        TrainNetwork,
        METHODS.load("soft_targets"),
        FAMILIES.load("plain_cnn"),
        DataConfig,
        SOURCES.load("digits"),
    ]
    for owner in versioned:
        with monkeypatch.context() as patch:
            patch.setattr(owner, "version", owner.version + 1)
            assert key(parents=(TEACHER,)) != before
    assert key(parents=(TEACHER,)) == before


# Nothing else is


@pytest.mark.parametrize(
    "work",
    [
        {"objective": dict(reversed(TAUGHT.items()))},
        {"objective": {"soft_targets": {"weight": 0.5, "temperature": 4.0}, **TAUGHT}},
        {"training": {"epochs": 60}},
        {"training": {"schedule": "cosine"}},
        {"training": {"schedule": {"cosine": {}}}},
        {"training": {"schedule": {"kind": "cosine", "floor": 0.0}}},
        {"training": {"schedule": {"cosine": {"warmup": 0}}}},
        {"network": {"cnn2": {}}},
        {"network": {"plain_cnn": {"depth": 2}}},
        {"network": {"family": "plain_cnn", "depth": 2, "width": 1.0, "variant": "cifar10"}},
        {"network": {"cnn10": {"depth": 2}}},
        {"seed": 0},
    ],
    ids=str,
)
def test_the_same_said_differently_has_the_same_key(work):
    assert key(work) == key()


@pytest.mark.parametrize("field", sorted(ELSEWHERE))
def test_where_data_lies_is_not_in_the_key(field):
    value = {"root": "/somewhere", "download": True, "resident_mb": 1}[field]
    assert key(data={field: value}) == key()


def test_labels_are_not_in_the_key():
    assert key(label="a") == key(label="b")


def test_a_data_set_may_move_but_not_change(tmp_path):
    def drawn(folder, colour):
        for part, name in itertools.product(("train", "test"), ("cat", "dog")):
            place = tmp_path / folder / part / name
            place.mkdir(parents=True, exist_ok=True)
            for i in range(4):
                Image.new("RGB", (8, 8), (colour, i, len(name))).save(place / f"{i}.png")
        told = {"source": "image_folder", "root": str(tmp_path / folder), "limit": None}
        return key(data={**told, "validation": 0.25})

    assert drawn("here", 5) == drawn("there", 5)
    assert drawn("here", 5) != drawn("other", 6)


def test_how_and_where_a_search_runs_is_not_in_the_keys(tiny):
    before = load_experiment(tiny).stage_graph().keys_by_label
    elsewhere = {
        "name": "another",
        "run.trials": 99,
        "run.resources": {"cpu": 2, "gpu": 1},
        "run.seed": 5,
        "run.scheduler": "asha",
        "run.latency.batch": 7,
        "library": "/elsewhere",
        "tracking": "http://host:5000",
        "goal.subject_to": {},
        "search": {"student.training.lr": {"choice": [0.1]}},
    }
    assert load_experiment(tiny, elsewhere).stage_graph().keys_by_label == before
    renamed = copy.deepcopy(tiny)
    stages = renamed["stages"]
    renamed["stages"] = {
        "pupil": {**stages["student"], "teachers": ["middle"]},
        "middle": {**stages["assistants"], "teacher": "master"},
        "master": stages["teacher"],
    }
    del renamed["search"]
    renamed["goal"] = {"maximize": "pupil.val_accuracy"}
    assert list(load_experiment(renamed).stage_graph().keys_by_label.values()) == list(
        before.values()
    )


# Chains


def chained(load, **changes):
    """cnn10 above, cnn2 below, and what lies between."""
    told = {"teacher.network": "cnn10", "student.network": "cnn2", "goal.subject_to": {}}
    return load({**told, **changes})


def test_all_paths_from_10_to_2_make_16_networks(load):
    """TAKD, section 5: with all sizes shared by prefix, 8 paths need 16 trainings."""
    chain = {"chain": {"of": ["cnn8", "cnn6", "cnn4"]}}
    experiment = chained(load, search={"assistants.networks": chain})
    values = list(experiment.configurations(1))
    assert len(values) == 8
    recipes = [experiment.stage_graph(v) for v in values]
    made = {stage.key: stage.label for recipe in recipes for stage in recipe.student.ancestors()}
    assert len(made) == 16
    assert collections.Counter(made.values()) == {
        "teacher": 1,
        "assistants/cnn8": 1,
        "assistants/cnn6": 2,
        "assistants/cnn4": 4,
        "student": 8,
    }


def test_each_link_learns_from_the_one_before(load):
    recipe = chained(load, **{"assistants.networks": ["cnn8", "cnn6", "cnn4"]}).stage_graph()
    lineage = list(recipe.student.ancestors())
    assert [s.label for s in lineage] == [
        "teacher",
        "assistants/cnn8",
        "assistants/cnn6",
        "assistants/cnn4",
        "student",
    ]
    assert lineage[0].parents == ()
    for before, after in itertools.pairwise(lineage):
        assert after.parents == (before,)
    assert recipe.prerequisites == tuple(lineage[:-1])
    assert list(recipe.keys_by_label.items()) == [(s.label, s.key) for s in lineage]


def test_in_a_dense_chain_all_that_are_larger_teach(load):
    """DGKD, section 3: teacher and all larger assistants at once, of the student too."""
    networks = ["cnn8", "cnn6", "cnn4"]
    dense = {"assistants.networks": networks, "assistants.dense": True}
    lineage = list(chained(load, **dense).stage_graph().student.ancestors())
    assert len(lineage) == 5
    for place, stage in enumerate(lineage):
        assert stage.parents == tuple(lineage[:place])
    sparse = list(
        chained(load, **{"assistants.networks": networks}).stage_graph().student.ancestors()
    )
    assert [a.key == b.key for a, b in zip(lineage, sparse, strict=True)] == [True, True] + [
        False
    ] * 3


@pytest.mark.parametrize("dense", [False, True])
def test_an_empty_chain_is_its_teacher(load, dense):
    empty = {"assistants.networks": [], "assistants.dense": dense}
    recipe = chained(load, **empty).stage_graph()
    assert [s.label for s in recipe.student.ancestors()] == ["teacher", "student"]
    direct = chained(load, **{"student.teachers": ["teacher"], "search": {}}).stage_graph()
    assert recipe.student.key == direct.student.key


def test_a_link_is_a_stage_like_any_other(load):
    """A network taught the same way outside a chain is the same network."""
    chain = chained(load, **{"assistants.networks": ["cnn8", "cnn6"]}).stage_graph()
    shared = {k: chained(load).stages["assistants"][k] for k in ("objective", "training")}
    apart = chained(
        load,
        **{
            "stages.other": {"network": "cnn8", "teachers": ["teacher"], **shared},
            "assistants.teacher": "other",
        },
    ).stage_graph()
    assert list(apart.keys_by_label) == ["teacher", "other", "assistants/cnn6", "student"]
    assert list(apart.keys_by_label.values()) == list(chain.keys_by_label.values())


def test_a_link_may_have_settings_of_its_own(load):
    networks = ["cnn8", "cnn6", "cnn4"]
    common = chained(load, **{"assistants.networks": networks}).stage_graph()
    own = {
        "assistants.links.cnn6.training.lr": 0.3,
        "assistants.links.cnn6.objective.soft_targets.temperature": 9.0,
    }
    for path, value in own.items():
        recipe = chained(load, **{"assistants.networks": networks, path: value}).stage_graph()
        same = [
            recipe.keys_by_label[label] == common.keys_by_label[label]
            for label in common.keys_by_label
        ]
        assert same == [True, True, False, False, False]
        link = next(s for s in recipe.prerequisites if s.label == "assistants/cnn6")
        rate = link.operation.training.lr
        terms = link.operation.objective.terms
        assert (rate, terms["soft_targets"].temperature) == (
            (0.3, 2.0) if "lr" in path else (0.05, 9.0)
        )
        assert link.operation.training.epochs == 2
        assert terms["cross_entropy"].weight == 0.5


def test_a_links_common_settings_said_again_change_nothing(load):
    networks = {"assistants.networks": ["cnn8", "cnn6"]}
    said = {**networks, "assistants.links": {"cnn8": {"training": {"epochs": 2}}}}
    assert (
        chained(load, **said).stage_graph().keys_by_label
        == chained(load, **networks).stage_graph().keys_by_label
    )


# Graphs


def test_several_teachers_are_heard_in_the_order_given(load):
    """A chain that is asked for stands for its last link, a dense one for all of them."""
    asked = {"student.teachers": ["teacher", "assistants"]}
    assert [s.label for s in load(asked).stage_graph().student.parents] == [
        "teacher",
        "assistants/cnn6",
    ]
    asked["assistants.networks"] = ["cnn6", "cnn4"]
    parents = load(asked).stage_graph().student.parents
    assert [s.label for s in parents] == ["teacher", "assistants/cnn4"]


def test_shared_ancestors_come_once_and_first(load):
    recipe = load({"student.teachers": ["teacher", "assistants"]}).stage_graph()
    assert [s.label for s in recipe.student.ancestors()] == [
        "teacher",
        "assistants/cnn6",
        "student",
    ]


def test_data_of_one_stage_changes_it_and_those_it_teaches(load):
    before, after = load().stage_graph(), load({"teacher.data": {"limit": 50}}).stage_graph()
    assert all(
        before.keys_by_label[label] != after.keys_by_label[label] for label in before.keys_by_label
    )
    assert before.student.data == after.student.data
    changed = load({"student.data": {"augment": {"flip": True}}}).stage_graph()
    assert [
        before.keys_by_label[label] == changed.keys_by_label[label]
        for label in before.keys_by_label
    ] == [
        True,
        True,
        False,
    ]
    assert changed.student.data.limit == 100


def test_a_repetition_keeps_the_teacher_and_reseeds_who_learns(load):
    experiment = load({"student.seed": 3})
    first, again = experiment.stage_graph(), experiment.stage_graph(seed_offset=2)
    assert [
        first.keys_by_label[name] == again.keys_by_label[name] for name in first.keys_by_label
    ] == [True, False, False]
    assert [stage.operation.seed for stage in again.student.ancestors()] == [0, 2, 5]
    assert experiment.stage_graph(seed_offset=0).keys_by_label == first.keys_by_label


def test_a_repetition_reseeds_a_student_without_a_teacher(load):
    alone = {"student.teachers": [], "student.objective": {"cross_entropy": {}}, "search": {}}
    experiment = load(alone)
    assert experiment.stage_graph().student.key != experiment.stage_graph(seed_offset=1).student.key


def test_working_folders_do_not_matter(load, tmp_path, monkeypatch, published):
    """Workers have their own: relative places are made absolute on the driver."""
    monkeypatch.chdir(tmp_path)
    published(tmp_path / "w.safetensors", "cnn8")
    changes = {"teacher.weights": "w.safetensors", "data.root": "files"}
    stage = next(load(changes).stage_graph().student.ancestors())
    assert stage.operation.weights.path == str(tmp_path / "w.safetensors")
    assert stage.data.root == str(tmp_path / "files")


def test_methods_that_need_hard_labels_are_refused_beside_mixing(tiny):
    tiny["data"]["augment"] = {"mixup": 0.2}
    assert load_experiment(tiny).stage_graph().student.data.augment.is_mixing
    student = tiny["stages"]["student"]
    student["objective"] = {**student["objective"], "guided": {}}
    with pytest.raises(ConfigError, match=r"student\.objective\.guided: needs hard labels, but"):
        load_experiment(tiny)
