"""Whatever a file holds, the loader answers with an experiment or with the user's mistakes."""

import copy
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stillhouse.search.artifacts.record import CorruptRecord, Record, parse_record
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.experiment.yaml_source import parse_document
from stillhouse.spaces.config.problems import ConfigError

SHIPPED = {
    file.stem: parse_document(file.read_text(encoding="utf-8")).data
    for file in sorted((Path(__file__).parents[3] / "experiments").glob("*.yaml"))
}
DIGITS = SHIPPED["quickstart"]["data"]
# On data that is here as well, so that not all of them end at a missing folder.
SEEDS = [*SHIPPED.values(), *({**told, "data": DIGITS} for told in SHIPPED.values())]
FEW = settings(
    max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
MANY = settings(FEW, max_examples=10_000, derandomize=False)
KEY = "0" * 64
PAYLOAD = {"name": f"{'1' * 32}.safetensors", "sha256": "1" * 64, "size": 3}
RECORD = {
    "key": KEY,
    "name": "teacher",
    "kind": "train",
    "identity": {"kind": "train"},
    "parents": ["2" * 64],
    "payload": PAYLOAD,
    "figures": {"val_accuracy": 0.5},
    "curve": [{"epoch": 1.0}],
    "facts": {"device": "none"},
    "seconds": 1.0,
    "made_at": "2026-01-01T00:00:00+00:00",
}

NAMES = ["teacher", "student", "do", "declared", "network", "choice", "chain", "cnn2", "none"]
ODD = ["", ".", "..", "../../x", "a.b", "*", "x\0y", "C:\\x", "resnet20", "\ud800", "ℵ"]
words = st.sampled_from(NAMES + ODD)
numbers = st.sampled_from([0, 1, -1, 2**31, -(2**63), 10**30, 10**400, 0.0, 1e308, -1e-320])
leaves = st.one_of(
    st.none(), st.booleans(), numbers, words, st.text(max_size=8), st.integers(), st.floats()
)
junk = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(words | st.text(), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(data, path=()):
    """The paths of all values in plain data."""
    yield path
    inner = data.items() if isinstance(data, dict) else ()
    for step, value in enumerate(data) if isinstance(data, list) else inner:
        yield from places(value, (*path, step))


@st.composite
def mutations(draw, seeds=SEEDS):
    """One of ``seeds`` with a few values replaced, left out, doubled or put elsewhere."""
    data = {"whole": copy.deepcopy(draw(st.sampled_from(seeds)))}
    for _ in range(draw(st.integers(1, 3))):
        told = list(places(data["whole"], ("whole",)))
        *path, last = draw(st.sampled_from(told))
        around = data
        for step in path:
            around = around[step]
        match draw(st.sampled_from(["replace", "replace", "drop", "copy", "rename"])):
            case "drop" if path:
                del around[last]
            case "copy":
                source = data
                for step in draw(st.sampled_from(told)):
                    source = source[step]
                around[last] = copy.deepcopy(source)
            case "rename" if isinstance(around, dict) and path:
                around[draw(words)] = around.pop(last)
            case _:
                around[last] = draw(junk)
    return data["whole"]


def outcome(read):
    """What came of it; anything but these two is an error of the loader's."""
    try:
        return read()
    except ConfigError as mistakes:
        return mistakes


def loads(data):
    """Load from data, and from a file of the same, which Python's own writer may refuse."""
    if isinstance(data, dict):
        found = outcome(lambda: load_experiment(data))
        assert isinstance(found, Experiment) or found.problems


def reads(text):
    outcome(lambda: parse_document(text))


def records(data):
    """Read a record as the library does."""
    try:
        found = outcome(lambda: parse_record(data, KEY, "record.json"))
    except CorruptRecord:
        return
    assert isinstance(found, Record) or found.problems


# Mappings that lay aliases under themselves and each other, in every order.
merges = st.lists(
    st.sampled_from(
        [
            "a: &a {b: 1}",
            "c: &c {<<: *a}",
            "d: &d {<<: [*a, *c]}",
            "e: {<<: *d, b: 2}",
            "f: &f {<<: *f}",
            "<<: *a",
            "g: &a [*a, {<<: *a}]",
            "h: {<<: 1}",
            "i: {? {<<: *a} : 1}",
        ]
    )
).map("\n".join)
anything = st.one_of(
    st.text(), st.text("{}[]:,&*!|>-?'\"\n\t #%@~0xo1.e_ab<"), junk.map(str), merges
)
sets = st.dictionaries(st.lists(words | st.text(), max_size=4).map(".".join), junk, max_size=3)


@FEW
@given(mutations())
def test_a_broken_experiment_is_an_experiment_or_a_mistake(data):
    loads(data)


@pytest.mark.slow
@MANY
@given(mutations())
def test_ten_thousand_broken_experiments(data):
    loads(data)


@FEW
@given(anything)
def test_any_text_is_a_document_or_a_mistake(text):
    reads(text)


@pytest.mark.slow
@MANY
@given(anything)
def test_ten_thousand_texts(text):
    reads(text)


@FEW
@given(sets)
def test_anything_may_be_laid_over(changes):
    outcome(lambda: load_experiment(SHIPPED["quickstart"], changes))


@pytest.mark.slow
@MANY
@given(sets)
def test_ten_thousand_things_laid_over(changes):
    outcome(lambda: load_experiment(SHIPPED["quickstart"], changes))


@FEW
@given(mutations([RECORD]))
def test_a_broken_record_is_a_record_damaged_or_another_version(data):
    records(json.dumps(data).encode())


@pytest.mark.slow
@MANY
@given(mutations([RECORD]))
def test_ten_thousand_broken_records(data):
    records(json.dumps(data).encode())


@FEW
@given(st.binary() | st.text().map(lambda text: text.encode(errors="replace")))
def test_any_bytes_are_no_record(data):
    with pytest.raises((CorruptRecord, ConfigError)):
        parse_record(data, KEY, "record.json")
