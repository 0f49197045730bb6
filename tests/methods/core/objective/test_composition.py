"""Which methods enter an objective, as a value that can be drawn, written and read again."""

from __future__ import annotations

import itertools

import pytest

from stillhouse.methods.core.objective.composition import DOMAIN_PARSERS, Composition
from stillhouse.methods.core.objective.objective import METHODS, Objective
from stillhouse.spaces.config.domains import ConditionalDomain, parse_domain
from stillhouse.spaces.config.problems import ConfigError

OF = ["soft_targets", {"attention": {"at": "last"}}, "relations"]


def parsed(**told) -> Composition:
    return parse_domain({"methods": {"of": OF, **told}}, "search.student.objective", DOMAIN_PARSERS)


class Answers:
    """A chooser with answers ready, which remembers what it was asked."""

    def __init__(self, **answers):
        self.answers, self.option_counts = answers, []

    def suggest_index(self, name, count, labels):
        assert list(labels) == ["without", "with"]
        self.option_counts.append(name)
        return int(self.answers.get(name.rpartition(".")[2], False))


def test_it_is_written_as_it_is_read():
    domain = parsed(at_most=2)
    assert isinstance(domain, ConditionalDomain)
    assert domain.plain() == {"methods": {"of": OF, "at_most": 2, "at_least": 1}}
    assert parse_domain(domain.plain(), "", DOMAIN_PARSERS) == domain
    assert hash(parse_domain(domain.plain(), "", DOMAIN_PARSERS)) == hash(domain)
    assert domain != parsed(at_most=3)
    short = parse_domain({"methods": ["relations", "hints"]}, "", DOMAIN_PARSERS)
    assert short.plain()["methods"] == {
        "of": ["relations", "hints"],
        "at_most": 2,
        "at_least": 1,
    }


@pytest.mark.parametrize(("least", "most"), [(0, 3), (1, 2), (2, 2)])
def test_its_values_are_the_subsets_within_its_limits(least, most):
    names = ("soft_targets", "attention", "relations")
    wanted = [c for n in range(least, most + 1) for c in itertools.combinations(names, n)]
    domain = parsed(at_least=least, at_most=most)
    assert sorted(domain.grid(3)) == sorted(wanted)
    assert all(domain.contains(list(value)) for value in wanted)
    assert not domain.contains(("relations", "soft_targets"))
    assert not domain.contains(names) or most == 3
    assert not domain.contains("soft_targets")


def test_one_question_a_method_and_none_that_is_settled():
    chooser = Answers(soft_targets=True, relations=True)
    assert parsed().suggest("student.objective", chooser) == ("soft_targets", "relations")
    assert chooser.option_counts == [f"student.objective.{n}" for n in METHOD_NAMES]
    refused = Answers()
    assert parsed().suggest("o", refused) == ("relations",)  # one there must be
    assert refused.option_counts == ["o.soft_targets", "o.attention"]
    eager = Answers(soft_targets=True)
    assert parsed(at_most=1).suggest("o", eager) == ("soft_targets",)
    assert eager.option_counts == ["o.soft_targets"]


METHOD_NAMES = ("soft_targets", "attention", "relations")


def test_chosen_methods_open_their_declared_ranges_without_what_is_fixed():
    opened = parsed().conditional_domains(("attention", "relations"))
    declared = METHODS.load("relations").Config.search_space()
    assert {p: d for p, d in opened.items() if p.startswith("relations.")} == {
        f"relations.{field}": domain for field, domain in declared.items()
    }
    assert "attention.weight" in opened
    assert "attention.at" not in opened
    assert not any(path.startswith("soft_targets") for path in opened)
    assert parsed().conditional_domains(()) == {}


def test_what_the_objective_holds_besides_stays():
    held = {"cross_entropy": {"weight": 0.5}, "soft_targets": {"temperature": 3.0}, "hints": {}}
    laid = parsed().with_value(held, ("soft_targets", "attention"))
    assert laid == {
        "cross_entropy": {"weight": 0.5},
        "hints": {},
        "soft_targets": {"temperature": 3.0},
        "attention": {"at": "last"},
    }
    assert parsed().with_value(held, ("relations",)).keys() == {
        "cross_entropy",
        "hints",
        "relations",
    }
    assert held["soft_targets"] == {"temperature": 3.0}
    Objective.parse(laid)


def test_without_a_search_the_objective_is_as_it_stands_and_never_too_short():
    held = {"cross_entropy": {}, "relations": {}}
    assert parsed().initial_value(held) == held
    assert parsed().initial_value({"cross_entropy": {}}) == {
        "cross_entropy": {},
        "soft_targets": {},
    }
    assert parsed(at_least=2).initial_value(held).keys() == {
        "cross_entropy",
        "soft_targets",
        "relations",
    }
    assert parsed(at_least=0).initial_value({"cross_entropy": {}}) == {"cross_entropy": {}}
    assert parsed(at_least=1).initial_value(None) == {"soft_targets": {}}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"of": ["soft_target"]}, "methods.of: unknown method 'soft_target'; did you mean 'soft_"),
        ({"of": [{"attention": {"wieght": 1}}]}, "methods.of.attention: unknown field 'wieght'; d"),
        ({"of": [{"attention": {"weight": -1.0}}]}, "methods.of.attention.weight: "),
        ({"of": ["attention"], "at_mots": 1}, "methods: unknown field 'at_mots'; did you mean 'at"),
        ({"of": ["attention"], "at_most": 2}, "methods: needs 0 <= at_least <= at_most <= 1"),
        ({"of": []}, "methods: needs at least one member"),
        ({"of": ["attention", "attention"]}, "methods: names a member twice"),
        ({"of": "attention"}, "methods.of: needs a list of methods, found 'attention'"),
        ({"of": ["attention", "hintz", "relation"]}, "methods.of: unknown method 'hintz'"),
    ],
)
def test_mistakes_are_told_with_their_place_and_remedy(body, told):
    with pytest.raises(ConfigError) as error:
        parse_domain({"methods": body}, "search.student.objective", DOMAIN_PARSERS)
    assert all(p.path.startswith("search.student.objective") for p in error.value.problems)
    assert f"search.student.objective.{told}" in str(error.value)


def test_an_unknown_kind_of_domain_may_have_meant_methods():
    with pytest.raises(ConfigError, match=r"did you mean 'methods'\?.*log_uniform, methods, unif"):
        parse_domain({"method": {"of": OF}}, "", DOMAIN_PARSERS)
