"""Config: frozen, strict and typed; its errors name the place; its fingerprint is canonical."""

import json
import math
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError, field_validator

from stillhouse.spaces.config.base import Config, canonical_json, fingerprint, setting
from stillhouse.spaces.config.domains import Choice, LogUniform
from stillhouse.spaces.config.problems import ConfigError


class Optimiser(Config):
    """An inner part."""

    lr: float = setting(0.1, "learning rate", LogUniform(0.001, 1.0), gt=0.0)
    steps: tuple[int, ...] = setting((1, 2), "when it falls")


class Training(Config):
    """Settings with every kind of field."""

    epochs: int = setting(..., "passes over the data", ge=1)
    kind: Literal["sgd", "adam"] = setting("sgd", "which rule", Choice(("sgd", "adam")))
    optimiser: Optimiser = setting(Optimiser(), "its settings")
    note: str | None = setting(None, "free text")

    @field_validator("note")
    @classmethod
    def _is_short(cls, note):
        if note is not None and len(note) > 9:
            raise ValueError(f"needs at most 9 letters, found {len(note)}")
        return note


def problems(data, path="student"):
    with pytest.raises(ConfigError) as caught:
        Training.parse(data, path)
    return {problem.path: problem.message for problem in caught.value.problems}


def test_defaults_are_stated_in_the_plain_form():
    assert Training.parse({"epochs": 3}).plain() == {
        "epochs": 3,
        "kind": "sgd",
        "optimiser": {"lr": 0.1, "steps": [1, 2]},
        "note": None,
    }


def test_the_plain_form_reads_back_through_json():
    settings = Training.parse({"epochs": 3, "optimiser": {"lr": 1, "steps": [4]}})
    again = Training.parse(json.loads(json.dumps(settings.plain())))
    assert again == settings
    assert again.fingerprint() == settings.fingerprint()


def test_whole_numbers_and_their_real_twins_are_one_setting():
    one, twin = ({"epochs": 3, "optimiser": {"lr": lr}} for lr in (1, 1.0))
    assert Training.parse(one).fingerprint() == Training.parse(twin).fingerprint()


def test_settings_do_not_change():
    settings = Training(epochs=1)
    with pytest.raises(ValidationError):
        settings.epochs = 2
    assert hash(settings) == hash(Training(epochs=1))


@pytest.mark.parametrize(
    ("data", "path", "says"),
    [
        ({}, "student.epochs", "missing"),
        ({"epochs": 0}, "student.epochs", "found 0"),
        ({"epochs": "3"}, "student.epochs", "found '3'"),
        ({"epochs": 3.0}, "student.epochs", "found 3.0"),
        ({"epochs": True}, "student.epochs", "found True"),
        ({"epochs": 1, "epoch": 1}, "student", "did you mean 'epochs'"),
        ({"epochs": 1, "kind": "sdg"}, "student.kind", "found 'sdg'"),
        ({"epochs": 1, "optimiser": {"lr": -1.0}}, "student.optimiser.lr", "found -1.0"),
        ({"epochs": 1, "optimiser": {"lr": math.nan}}, "student.optimiser.lr", "nan"),
        ({"epochs": 1, "optimiser": {"lt": 1.0}}, "student.optimiser", "did you mean 'lr'"),
        ({"epochs": 1, "optimiser": 0.1}, "student.optimiser", "mapping of settings"),
        ({"epochs": 1, "optimiser": {"steps": [1, "b"]}}, "student.optimiser.steps.1", "'b'"),
        ({"epochs": 1, "note": "0123456789"}, "student.note", "at most 9 letters, found 10"),
    ],
)
def test_each_mistake_is_named_at_its_place(data, path, says):
    found = problems(data)
    assert list(found) == [path]
    assert says in found[path]
    assert "\n" not in found[path]


def test_all_mistakes_are_said_at_once():
    found = problems({"kind": 1, "optimiser": {"lr": 0.0}, "nonsense": 1})
    assert set(found) == {
        "student.epochs",
        "student.kind",
        "student.optimiser.lr",
        "student",
    }


def test_declared_domains_are_found_beside_their_fields():
    assert Training.search_space() == {"kind": Choice(("sgd", "adam"))}
    assert Optimiser.search_space() == {"lr": LogUniform(0.001, 1.0)}


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=3), plain, max_size=5))
def test_the_fingerprint_ignores_order_and_survives_json(data):
    shuffled = dict(reversed(data.items()))
    assert fingerprint(shuffled) == fingerprint(data)
    assert fingerprint(json.loads(canonical_json(data))) == fingerprint(data)


def test_the_fingerprint_is_sha256_of_canonical_json():
    assert canonical_json({"b": 1, "a": [1.5, None]}) == '{"a":[1.5,null],"b":1}'
    empty = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert fingerprint({}) == empty


def test_values_that_json_does_not_know_have_no_fingerprint():
    with pytest.raises(ValueError, match="JSON compliant"):
        fingerprint({"lr": math.inf})
