"""The searched space: a tree of questions, walked by samplers and enumerated by grids."""

import collections
import itertools
import random

import pytest

from stillhouse.search.experiment.setting_paths import (
    RecordingSuggester,
    by_depth,
    enumerate_suggestions,
    expand_wildcard,
    has_path,
    set_value,
)
from stillhouse.spaces.config.domains import Choice, Integers, LogUniform, OrderedSubset, Uniform
from stillhouse.spaces.config.problems import ConfigError


class Dice:
    """Answers at random."""

    def __init__(self, seed=0):
        self.random = random.Random(seed)

    def suggest_float(self, name, low, high, log):
        return self.random.uniform(low, high)

    def suggest_int(self, name, low, high, step):
        return self.random.randrange(low, high + 1, step)

    def suggest_index(self, name, count, labels):
        return self.random.randrange(count)


def enumerated(domains, points=3):
    """All combinations of values that the leaves lead to."""
    found = []

    def draw(chooser):
        found.append(tuple(d.suggest(name, chooser) for name, d in domains.items()))

    names = [tuple(leaf) for leaf in enumerate_suggestions(draw, points)]
    return found, names


# Leaves


@pytest.mark.parametrize(
    "domains",
    [
        {},
        {"a": Choice((1, 2, 3))},
        {"a": Choice((1, 2)), "b": Choice(("x", "y", "z")), "c": Choice((True, False))},
        {"a": Integers(1, 7, 2), "b": Uniform(0, 1)},
        {"a": LogUniform(0.01, 1), "b": Choice((1,)), "c": Integers(0, 2)},
        {"a": OrderedSubset(("c", "b", "a"), 3), "b": Choice((1, 2))},
        {"a": OrderedSubset(("d", "c", "b", "a"), at_most=2, at_least=1)},
        {"a": OrderedSubset(("c", "b", "a"), at_most=3, at_least=3)},
        {"a": OrderedSubset(("c", "b", "a"), at_most=0)},
    ],
)
def test_leaves_are_the_product_of_the_grids_each_once(domains):
    found, _ = enumerated(domains)
    assert len(found) == len(set(found))
    assert set(found) == set(itertools.product(*(d.grid(3) for d in domains.values())))


def test_questions_may_depend_on_answers():
    def draw(chooser):
        kind = chooser.suggest_index("kind", 3, ["none", "one", "two"])
        for i in range(kind):
            chooser.suggest_int(f"size{i}", 1, 2, 1)

    assert list(enumerate_suggestions(draw, 3)) == [
        {"kind": "none"},
        {"kind": "one", "size0": 1},
        {"kind": "one", "size0": 2},
        *({"kind": "two", "size0": a, "size1": b} for a in (1, 2) for b in (1, 2)),
    ]


def test_answers_are_named_as_optuna_names_them():
    """A leaf can be enqueued: each question's name with the value that was suggested."""
    domains = {
        "lr": LogUniform(0.01, 1),
        "net": Choice(("a", "b")),
        "chain": OrderedSubset(("x", "y"), 1),
    }
    ((*_, last), names) = (
        [*enumerate_suggestions(lambda c: [d.suggest(n, c) for n, d in domains.items()], 2)],
        None,
    )
    assert last == {"lr": pytest.approx(1.0), "net": "b", "chain.x": "with"}
    assert names is None


def test_a_way_that_ends_early_is_a_leaf_and_hides_no_other():
    def draw(chooser):
        a = chooser.suggest_index("a", 3, ["0", "1", "2"])
        if a == 1:
            raise ConfigError("1 does not go with anything")
        chooser.suggest_index("b", 2, ["0", "1"])

    found = [tuple(leaf.values()) for leaf in enumerate_suggestions(draw, 3)]
    assert found == [("0", "0"), ("0", "1"), ("1",), ("2", "0"), ("2", "1")]


def test_a_range_at_one_place_is_at_its_middle():
    recorded = RecordingSuggester((), 1)
    assert recorded.suggest_float("a", 1, 3, log=False) == 2
    assert recorded.suggest_float("b", 1, 100, log=True) == pytest.approx(10)
    assert recorded.option_counts == [1, 1]


# Chains


@pytest.mark.parametrize(("at_least", "at_most"), [(0, 4), (1, 2), (2, 3), (4, 4), (0, 1), (3, 4)])
def test_drawn_chains_keep_their_lengths_and_reach_all_subsets(at_least, at_most):
    domain = OrderedSubset(("d", "c", "b", "a"), at_most, at_least)
    dice = Dice()
    drawn = collections.Counter(domain.suggest("chain", dice) for _ in range(2000))
    assert set(drawn) == set(domain.grid(0))
    assert all(at_least <= len(chain) <= at_most for chain in drawn)
    assert all(list(chain) == sorted(chain, reverse=True) for chain in drawn)


def test_free_chains_are_uniform_over_subsets():
    """Every member is in with probability 1/2, whatever the others do."""
    domain = OrderedSubset(("d", "c", "b", "a"), 4)
    dice = Dice()
    drawn = collections.Counter(domain.suggest("chain", dice) for _ in range(16000))
    assert len(drawn) == 16
    # Each count is binomial with mean 1000 and standard deviation 30.6.
    assert all(abs(count - 1000) < 5 * 30.6 for count in drawn.values())


def test_a_chain_asks_one_question_a_member_and_none_that_is_settled():
    asked = []

    class Names(Dice):
        def suggest_index(self, name, count, labels):
            asked.append(name)
            assert labels == ["without", "with"]
            return 0

    assert OrderedSubset(("c", "b", "a"), 3, at_least=2).suggest("n", Names()) == ("b", "a")
    assert asked == ["n.c"]


# Paths


@pytest.mark.parametrize(
    ("before", "path", "value", "after"),
    [
        ({}, "a", 1, {"a": 1}),
        ({}, "a.b.c", 1, {"a": {"b": {"c": 1}}}),
        ({"a": {"b": 1, "c": 2}}, "a.b", 3, {"a": {"b": 3, "c": 2}}),
        ({"a": 3}, "a.b", 1, {"a": {"b": 1}}),
        ({}, "a", ("x", "y"), {"a": ["x", "y"]}),
        ({"network": "cnn2"}, "network.width", 2, {"network": {"family": "cnn2", "width": 2}}),
        (
            {"network": {"cnn2": {"width": 1, "depth": 4}}},
            "network.width",
            2,
            {"network": {"family": "cnn2", "width": 2, "depth": 4}},
        ),
        ({"network": {"cnn2": {"width": 1}}}, "network", "cnn4", {"network": "cnn4"}),
        (
            {"network": {"family": "cnn2"}},
            "network.width",
            2,
            {"network": {"family": "cnn2", "width": 2}},
        ),
        (
            {"network": {"cnn2": {"width": 1}}},
            "network.cnn2.width",
            2,
            {"network": {"cnn2": {"width": 2}}},
        ),
        ({"schedule": "cosine"}, "schedule.floor", 1, {"schedule": {"kind": "cosine", "floor": 1}}),
        (
            {"schedule": "cosine"},
            "schedule.cosine.floor",
            1,
            {"schedule": {"cosine": {"floor": 1}}},
        ),
        (
            {"schedule": {"step": {"gamma": 0.5}}},
            "schedule.milestones",
            (1, 2),
            {"schedule": {"kind": "step", "gamma": 0.5, "milestones": [1, 2]}},
        ),
        (
            {"scheduler": {"asha": {}}},
            "scheduler.grace_epochs",
            2,
            {"scheduler": {"kind": "asha", "grace_epochs": 2}},
        ),
        ({"weights": "w.pt"}, "weights.mean", (0.5,), {"weights": {"path": "w.pt", "mean": [0.5]}}),
        (
            {"objective": {"cross_entropy": {}}},
            "objective.soft_targets.weight",
            1,
            {"objective": {"cross_entropy": {}, "soft_targets": {"weight": 1}}},
        ),
    ],
)
def test_a_value_is_put_where_its_path_says(before, path, value, after):
    set_value(before, path, value)
    assert before == after


def test_a_path_leads_somewhere_or_not():
    data = {"a": {"b": {"c": None}}, "d": [1]}
    assert all(has_path(data, path) for path in ("a", "a.b", "a.b.c", "d"))
    assert not any(has_path(data, path) for path in ("", "b", "a.c", "a.b.c.d", "d.0"))


def test_outer_choices_come_before_what_they_decide():
    one = Choice((1, 2))
    space = {"s.network.width": one, "s.training.lr": one, "s.network": one, "a.networks": one}
    paths = [path for path, _ in by_depth(space)]
    assert paths == ["s.network", "a.networks", "s.network.width", "s.training.lr"]


def test_a_star_stands_for_every_link_there_is(load):
    experiment = load()
    path = "assistants.links.*.training.lr"
    assert list(expand_wildcard(path, experiment.stage_configs)) == [
        "assistants.links.cnn6.training.lr"
    ]
    longer = load({"assistants.networks": ["cnn6", "cnn4"]})
    assert len(list(expand_wildcard(path, longer.stage_configs))) == 2
    empty = load({"assistants.networks": []})
    assert list(expand_wildcard(path, empty.stage_configs)) == []
    assert list(expand_wildcard("student.training.lr", experiment.stage_configs)) == [
        "student.training.lr"
    ]
    assert list(expand_wildcard("student.training.nothing", experiment.stage_configs)) == []


# Draws of whole experiments


def test_links_with_settings_of_their_own_have_paths_too(load):
    changes = {"assistants.networks": [{"cnn6": {"width": 0.5}}]}
    rates = {"assistants.links.*.training.lr": {"choice": [0.1, 0.2]}}
    found = list(load(changes, search=rates).configurations(1))
    path = "assistants.links.plain_cnn-depth6-width0_5.training.lr"
    assert found == [{path: 0.1}, {path: 0.2}]


def test_a_knob_is_drawn_only_where_it_exists(load):
    experiment = load(
        search={
            "assistants.networks": {"chain": ["cnn6", "cnn4"]},
            "assistants.links.*.training.lr": {"choice": [0.01, 0.02]},
            "student.network": {"choice": ["cnn2", "resnet8", "cnn4"]},
            "student.network.variant": {"choice": ["cifar10", "cifar100"]},
            "student.training.schedule": {"choice": ["cosine", "constant"]},
            "student.training.schedule.warmup": {"choice": [1.0, 2.0]},
        },
        goal={"maximize": "student.val_accuracy"},
    )
    found = list(experiment.configurations(2))
    assert len(found) == len({str(values) for values in found})
    for values in found:
        links = {path.split(".")[2] for path in values if ".links." in path}
        assert links == set(values["assistants.networks"])
        assert ("student.network.variant" in values) == (values["student.network"] != "resnet8")
        warm = "student.training.schedule.warmup" in values
        assert warm == (values["student.training.schedule"] == "cosine")
    chains = 1 + 2 + 2 + 4
    assert len(found) == chains * (2 + 1 + 2) * (2 + 1)


def test_every_drawn_configuration_can_be_laid_out(load):
    experiment = load(
        search={
            "assistants.networks": {"chain": ["cnn6", "cnn4"]},
            "assistants.links.*.objective.soft_targets.temperature": "declared",
            "student.objective.soft_targets.weight": "declared",
            "student.training.nesterov": "declared",
            "student.training.batch_size": "declared",
            "student.network.width": {"choice": [0.25, 0.3]},
            "data.augment.flip": "declared",
        }
    )
    dice = Dice()
    keys = set()
    for _ in range(25):
        values = experiment.suggest(dice)
        assert set(values) >= {"student.training.nesterov", "data.augment.flip"}
        keys.add(experiment.stage_graph(values).student.key)
    assert len(keys) == 25
