"""The experiments that ship: each loads where its data is, and is what its comments say."""

from __future__ import annotations

import io
import itertools
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from stillhouse.methods.core.data.facts import facts
from stillhouse.methods.core.objective.objective import METHODS
from stillhouse.search.experiment.initial_points import initial_points
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.experiment.screen_student import screen_student
from stillhouse.search.experiment.setting_paths import enumerate_suggestions

FOLDER = Path(__file__).parents[1] / "experiments"
SHIPPED = sorted(path.stem for path in FOLDER.glob("*.yaml"))
CHAINS = [name for name in SHIPPED if name.startswith(("assistants", "quickstart"))]
QUICK = "quickstart"
CNN, RESNET = "assistants-cifar10-cnn", "assistants-cifar100-resnet"
FASHION = "assistants-fashion-mnist"
PARTS = "neighbourhoods-cifar10-resnet20"
TREC, IMDB = "text-trec", "text-imdb"
COMPARED, COMPARED_ON_GPU = "methods-fashion-mnist", "methods-cifar10-resnet56"
ELSEWHERE = {"subclass_contrast", "subclass_balance", "previous_classes"}
"""Methods about other data, or another kind of teacher."""
REMADE = {"entropy_weighted", "subclasses"}
"""Methods whose teacher is made again, as a published one cannot be."""
DATA_FREE, END_TO_END = "neighbourhoods-noise-cifar10", "neighbourhoods-noise-cifar10-end-to-end"
RESNET20 = "cifar10-resnet20-option-a.safetensors"
MUTUAL, GREY = "mutual-learning-fashion-mnist", "cross-modal-cifar10"
DREAMT, ALONE = "data-free-digits", "neighbourhoods-alone-digits"
CHANNELS = "channel-distillation-fashion-mnist"
COMPOSED, PARTS_OF_IT = "composition-fashion-mnist", "understanding-fashion-mnist"
DEEPER, CLOTHES = "neighbourhoods-cifar10-resnet56", "neighbourhoods-fashion-mnist"
FEW_DIGITS, FEW_CLOTHES = "distilled-mnist", "distilled-fashion-mnist"
COMPRESSED = "compression-fashion-mnist"
SCREENED = "screen-mnist"
FEW_REVIEWS, FEW_QUESTIONS = "distilled-imdb", "distilled-trec"
TEXTS = (TREC, IMDB, FEW_REVIEWS, FEW_QUESTIONS)
PUBLISHED = {
    **dict.fromkeys((PARTS, DATA_FREE, END_TO_END, GREY), RESNET20),
    **dict.fromkeys((DEEPER, COMPARED_ON_GPU), "cifar10-resnet56-option-a.safetensors"),
}


@pytest.fixture(scope="session")
def cifar100(tmp_path_factory):
    """Two images of every class, in the files and columns in which data hubs keep CIFAR-100."""
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32)).save(buffer, "PNG")
    image = {"bytes": buffer.getvalue(), "path": None}
    fine = [label for label in range(100) for _ in range(2)]
    columns = {"img": [image] * 200, "fine_label": fine, "coarse_label": [0] * 200}
    root = tmp_path_factory.mktemp("data")
    (root / "cifar100").mkdir()
    for part in ("train", "test"):
        pq.write_table(pa.table(columns), root / "cifar100" / f"{part}-00000-of-00001.parquet")
    return root


@pytest.fixture(scope="session")
def sentences(tmp_path_factory):
    """A few words for each of six and of two classes, in the columns of TREC and IMDB."""
    root = tmp_path_factory.mktemp("texts")
    for name, classes in (("trec", 6), ("imdb", 2)):
        (root / name).mkdir()
        labels = list(range(classes)) * 20
        columns = {"label": labels, "text": [f"of kind {label}" for label in labels]}
        for part in ("train", "test"):
            pq.write_table(pa.table(columns), root / name / f"{part}-00000-of-00001.parquet")
    return root


@pytest.fixture
def load(request, tmp_path, monkeypatch):
    """A shipped experiment by name, on the real data or, for CIFAR-100, on a few grey images."""
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path))

    def loaded(name):
        if name in (QUICK, DREAMT, ALONE):
            return load_experiment(FOLDER / f"{name}.yaml")
        if name == RESNET:
            root = str(request.getfixturevalue("cifar100"))
        elif name in TEXTS:
            root = str(request.getfixturevalue("sentences"))
        elif not (root := os.environ.get("STILLHOUSE_TEST_DATA", "")):
            pytest.skip(f"{name} needs its data set: set STILLHOUSE_TEST_DATA to a folder of them")
        folder = Path(root, name.rpartition("-")[2]) if name in TEXTS else root
        changes = {"data.root": str(folder)}
        if name in PUBLISHED:
            weights = Path(root, "teachers", PUBLISHED[name])
            changes["teacher.weights.path"] = str(weights)
        return load_experiment(FOLDER / f"{name}.yaml", changes)

    return loaded


@pytest.fixture(params=CHAINS)
def shipped(request, load):
    """Each shipped experiment with a chain of assistants in turn."""
    return load(request.param)


def parameters(stage):
    return int(stage.operation.costs(stage.data)["parameters"])


def test_all_are_there():
    assert {COMPOSED, PARTS_OF_IT, COMPRESSED} <= set(SHIPPED)
    assert {QUICK, CNN, RESNET, FASHION, CLOTHES, *PUBLISHED} <= set(SHIPPED)
    assert {MUTUAL, GREY, DREAMT, ALONE, CHANNELS, TREC, IMDB} <= set(SHIPPED)
    assert {FEW_DIGITS, FEW_CLOTHES, SCREENED, FEW_REVIEWS, FEW_QUESTIONS} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_is_named_as_its_file(load, name):
    assert load(name).name == name


def test_every_path_shrinks_from_teacher_to_student(shipped):
    for chain in shipped.search["assistants.networks"].grid(0):
        sizes = [
            parameters(s)
            for s in shipped.stage_graph({"assistants.networks": chain}).student.ancestors()
        ]
        assert len(sizes) == len(chain) + 2
        assert sizes == sorted(set(sizes), reverse=True)


def test_whatever_is_searched_lays_out_within_its_limits(shipped):
    drawn = []
    walk = enumerate_suggestions(lambda chooser: drawn.append(shipped.suggest(chooser)), 2)
    for _ in itertools.islice(walk, 64):
        student = shipped.stage_graph(drawn[-1]).student
        costs = student.operation.costs(student.data)
        assert student.parents
        assert all(limit.violation(costs[figure]) <= 0 for figure, limit in shipped.limits.items())
    assert drawn


def test_the_winner_is_held_against_noise(shipped):
    assert shipped.run.repeats.seeds >= 4
    assert shipped.run.repeats.top >= 2
    assert shipped.run.baselines


def test_what_the_file_runs_as_it_stands_is_among_what_it_searches(shipped):
    chain = shipped.stage_configs["assistants"].networks
    assert shipped.search["assistants.networks"].contains([spec.label for spec in chain])


def test_quickstart_is_as_small_as_it_says(load):
    experiment = load(QUICK)
    student = experiment.stage_graph().student
    sizes = facts(student.data).sizes
    assert (sizes["train"], sizes["validation"]) == (500, 719)
    assert parameters(student) == 374
    assert parameters(next(student.ancestors())) == 303_098
    assert experiment.run.trials >= 24
    assert experiment.run.repeats.seeds >= 5


def test_the_published_cnn_study(load):
    """Sizes, schedule and the eight paths of Mirzadeh et al. 2020: sixteen networks in all."""
    experiment = load(CNN)
    paths = experiment.search["assistants.networks"].grid(0)
    recipes = [experiment.stage_graph({"assistants.networks": path}) for path in paths]
    assert len(paths) == 8
    assert len({stage.key for recipe in recipes for stage in recipe.student.ancestors()}) == 16
    longest = [
        stage.operation
        for stage in max(recipes, key=lambda r: len(r.keys_by_label)).student.ancestors()
    ]
    assert [work.network.label for work in longest] == ["cnn10", "cnn8", "cnn6", "cnn4", "cnn2"]
    for work in longest:
        training = work.training
        assert (training.epochs, training.batch_size, training.weight_decay) == (150, 128, 1e-4)
        assert {training.lr_at(epoch) for epoch in range(150)} == {0.1}
    about = facts(experiment.data)
    assert about.sizes == {"train": 45_000, "validation": 5_000, "test": 10_000}
    assert (about.mean, about.std) == ((0.5,) * 3, (0.5,) * 3)
    assert experiment.run.trials == 120


def test_the_published_resnet_study(load):
    experiment = load(RESNET)
    longest = [f"resnet{depth}" for depth in (56, 20)]
    works = [
        s.operation
        for s in experiment.stage_graph({"assistants.networks": longest}).student.ancestors()
    ]
    assert [w.network.label for w in works] == ["resnet110", "resnet56", "resnet20", "resnet8"]
    for work in works:
        rates = [work.training.lr_at(epoch) for epoch in (0, 79.9, 80, 119.9, 120, 149.9)]
        assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
        assert work.training.weight_decay == 1e-4
    assert experiment.data.augment.is_active


def quotient(objective, temperature, classes=1):
    """How much larger soft targets' gradient is than the labels', T^2 and the mean included."""
    share = objective["soft_targets"]["weight"] / objective["cross_entropy"]["weight"]
    return share * temperature**2 / classes


@pytest.mark.parametrize(("name", "classes"), [(CNN, 10), (RESNET, 100)])
def test_assistants_are_taught_as_strongly_as_published(load, name, classes):
    """Published: both weights 0.5, temperature 5, the divergence averaged over classes too."""
    entry = load(name).stage_configs["assistants"].objective.plain()
    published = quotient({k: {"weight": 0.5} for k in entry}, 5.0, classes)
    assert quotient(entry, entry["soft_targets"]["temperature"]) == pytest.approx(published)


@pytest.mark.parametrize(("name", "classes"), [(CNN, 10), (RESNET, 100)])
def test_the_searched_weights_hold_what_the_published_ones_came_to(load, name, classes):
    """The paper's weights are lambda for soft targets and 1 - lambda for the labels."""
    experiment = load(name)
    domain = experiment.search["student.objective.soft_targets.weight"]
    labels = experiment.stage_configs["student"].objective.terms["cross_entropy"].weight
    for step in range(1, 20):
        share = 0.05 * step
        assert domain.contains(labels * share / (1 - share) / classes)


def test_fashion_mnist_asks_dense_chains_too(load):
    experiment = load(FASHION)
    values = {"assistants.networks": ["cnn6", "cnn4"]}
    plain, dense = (
        experiment.stage_graph({**values, "assistants.dense": dense}).student
        for dense in (False, True)
    )
    assert [len(stage.parents) for stage in plain.ancestors()] == [0, 1, 1, 1]
    assert [len(stage.parents) for stage in dense.ancestors()] == [0, 1, 2, 3]


@pytest.mark.parametrize(("name", "left_out"), [(COMPARED, set()), (COMPARED_ON_GPU, REMADE)])
def test_every_method_is_compared_with_the_others(load, name, left_out):
    experiment = load(name)
    objectives = experiment.search["student.objective"].values
    assert experiment.run.trials == experiment.run.repeats.top == len(objectives)
    named = {name for objective in objectives for name in objective}
    assert named == set(METHODS.names()) - ELSEWHERE - left_out


def test_budgets_and_ranks_share_all_neighbourhoods(load):
    experiment = load(PARTS)
    keys = set()
    for values in experiment.configurations(2):
        student = experiment.stage_graph(values).student
        keys.add(
            frozenset(s.key for s in student.ancestors() if s.operation.kind == "neighbourhood")
        )
    (shared,) = keys
    assert len(shared) > 60


def test_what_learns_without_data_is_held_against_as_much_noise(load):
    """The same parts, made once; a student of the same architecture that sees no image either."""
    apart, whole = load(DATA_FREE), load(END_TO_END)
    assembly = "assembled.budgets.parameters"
    domains = [experiment.search[assembly] for experiment in (apart, whole)]
    assert domains[0] == domains[1]
    parts = apart.stage_graph({"parts.inputs": "statistics"}).student
    student = whole.stage_graph().student
    assert parts.key in {stage.key for stage in student.ancestors()}
    assert student.data.augment.noise
    assert student.operation.anew
    seen = {s.operation.epochs * facts(s.data).sizes["train"] for s in (student, parts.parents[1])}
    assert seen == {15_000}
    assert parts.operation.recalibrate == 0


COMMON = [MUTUAL, GREY, DREAMT, CHANNELS, COMPRESSED, FEW_DIGITS, FEW_CLOTHES, FEW_QUESTIONS]


@pytest.mark.parametrize("name", COMMON)
def test_every_value_that_is_searched_lays_out(load, name):
    experiment = load(name)
    found = list(experiment.configurations(2))
    assert len({experiment.stage_graph(values).student.key for values in found}) == len(found)
    assert experiment.run.trials == len(found)


@pytest.mark.parametrize(("name", "times"), [(TREC, 40), (IMDB, 12)])
def test_students_of_texts_are_a_fraction_of_their_teachers(load, name, times):
    experiment = load(name)
    student = experiment.stage_graph().student
    (teacher,) = student.parents
    assert parameters(teacher) > times * parameters(student)
    assert parameters(student) <= experiment.limits["parameters"].max
    assert student.operation.network.settings.input_form == "text"


def test_mutual_learning_is_published_cross_entropy_and_soft_targets(load):
    student = load(MUTUAL).stage_graph().student
    assert not student.parents
    terms = student.operation.objective.terms
    assert {name: term.weight for name, term in terms.items()} == {
        "cross_entropy": 1.0,
        "soft_targets": 1.0,
    }
    assert terms["soft_targets"].temperature == 1.0


def test_across_modalities_the_student_sees_less_than_its_teacher(load):
    experiment = load(GREY)
    student = experiment.stage_graph().student
    (teacher,) = student.parents
    assert student.operation.network.sees.shape(facts(student.data).shape) == (1, 16, 16)
    assert teacher.operation.network.sees is None


def test_without_data_the_student_learns_on_what_the_teacher_dreamt(load):
    student = load(DREAMT).stage_graph().student
    dreamt, teacher = student.parents
    assert (dreamt.operation.kind, dreamt.parents) == ("invert", (teacher,))
    assert not student.operation.objective.needs_labels


@pytest.mark.parametrize("name", [FEW_DIGITS, FEW_CLOTHES])
def test_a_few_examples_train_lenet_as_published(load, name):
    """Ten images or five, one step of all in each of three passes, from the seed's own network."""
    experiment = load(name)
    for examples in experiment.search["distilled.examples"].grid(1):
        student = experiment.stage_graph({"distilled.examples": examples}).student
        (few,) = student.parents
        assert (few.operation.examples, few.operation.steps, few.operation.passes) == (
            examples,
            1,
            3,
        )
        assert (few.operation.start, few.operation.labels, few.operation.images) == (
            "fixed",
            "soft",
            "learnt",
        )
        assert few.operation.network == student.operation.network
        assert few.operation.seed == student.operation.seed
        assert student.operation.few_steps
        assert few.data.validation > 0


def test_every_architecture_can_be_screened(load):
    """On a hundred images, which were distilled for one of them and no fixed start."""
    experiment = load(SCREENED)
    networks = experiment.search["student.network"].grid(1)
    students = [screen_student(experiment, {"student.network": n}) for n in networks]
    assert len({student.key for student in students}) == len(networks) == 10
    assert len({student.parents for student in students}) == 1
    (few,) = students[0].parents
    assert few.operation.start == "random"
    assert few.operation.examples * few.operation.steps == 100
    assert {student.operation.epochs for student in students} == {experiment.run.screen.epochs}


@pytest.mark.parametrize(
    ("name", "counts", "classes"), [(FEW_REVIEWS, {20}, 2), (FEW_QUESTIONS, {60, 3}, 6)]
)
def test_a_few_sentences_train_a_network_as_published(load, name, counts, classes):
    """Twenty reviews; ten questions of each kind, or half as many as there are kinds."""
    experiment = load(name)
    students = [experiment.stage_graph(v).student for v in experiment.configurations(2)]
    made = [student.parents[0] for student in students]
    assert {few.operation.examples for few in made} == counts
    for student, few in zip(students, made, strict=True):
        assert (few.operation.steps, few.operation.passes, few.operation.start) == (1, 5, "fixed")
        assert few.operation.network == student.operation.network
        assert few.operation.network.settings.input_form == "text"
        assert student.operation.few_steps
        assert facts(few.data).classes == classes


def test_early_decay_is_the_published_one_scaled(load):
    """Epoch e of 10 stands for epochs 20 e - 19 .. 20 e of the published 200."""
    terms = load(CHANNELS).stage_graph().student.operation.objective.terms
    for epoch in range(1, 11):
        last = 20 * epoch
        decay = 6 if last <= 60 else 5.4 if last <= 160 else 4.86
        joined = float(last > 60)
        found = {name: term.weight_at(epoch - 1, 10) for name, term in terms.items()}
        wanted = {"cross_entropy": joined, "guided": 0.1 * joined, "channel_attention": decay}
        assert found == pytest.approx(wanted), f"epoch {epoch}"


def test_neighbourhoods_alone_need_no_search(load):
    experiment = load(ALONE)
    assert not experiment.search
    kinds = {stage.operation.kind for stage in experiment.stage_graph().student.ancestors()}
    assert kinds == {"train", "neighbourhood", "assemble"}


def test_a_search_over_methods_begins_with_what_was_published(load):
    experiment = load(COMPOSED)
    of = experiment.search["student.objective"].members.of
    assert len(initial_points(experiment)) >= len(of) - 1
    for answers in initial_points(experiment).values():
        chosen = [name for name in of if answers.get(f"student.objective.{name}") == "with"]
        assert 1 <= len(chosen) <= 2


def test_every_part_of_what_a_teacher_says_is_tried_on_one_budget(load):
    experiment = load(PARTS_OF_IT)
    students = [experiment.stage_graph(v).student for v in experiment.configurations(1)]
    terms = [set(student.operation.objective.terms) for student in students]
    parts = {"partial_teacher", "class_similarity", "top_classes", "partial_similarity"}
    assert set().union(*terms) == {"cross_entropy", "soft_targets", *parts}
    assert len({student.operation.training.fingerprint() for student in students}) == 1
    assert len({student.parents[0].key for student in students}) == 1
    assert experiment.run.repeats.top == len(students) == experiment.run.trials


def test_both_orders_of_compressing_begin_with_one_teacher(load):
    experiment = load(COMPRESSED)
    students = [experiment.stage_graph(values).student for values in experiment.configurations(2)]
    stages = {s.key: s for student in students for s in student.ancestors()}
    assert [s.label for s in stages.values()].count("teacher") == 1
    first = [s for s in stages.values() if [p.label for p in s.parents] == ["teacher"]]
    assert sorted(s.operation.kind for s in first) == ["prune"] * 3 + ["quantise"] * 2
    assert {student.parents[-1].label for student in students} == {"teacher"}
