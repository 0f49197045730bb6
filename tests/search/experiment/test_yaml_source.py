"""A file is plain data with its lines; whatever YAML can hide is refused where it stands."""

from pathlib import Path

import pytest
import yaml

from stillhouse.search.cli.options import parse_overrides
from stillhouse.search.experiment.experiment import to_yaml
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.experiment.yaml_source import parse_document, read_document
from stillhouse.spaces.config.problems import ConfigError, Problem


def refused(text):
    """The lines of the refusal of ``text``."""
    with pytest.raises(ConfigError) as caught:
        parse_document(text, "a.yaml")
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E4", 1e4),
        ("-2e+3", -2000.0),
        ("1.5e3", 1500.0),
        (".5e-1", 0.05),
        ("1.e2", 100.0),
        ("1_000e3", 1e6),
        ("0.25", 0.25),
        ("20_000", 20000),
        ("-1_234_567", -1234567),
        ("1_000.5", 1000.5),
        ("0100", 100),
        ("-010", -10),
        ("+07", 7),
        ("08", 8),
        ("0777", 777),
        ("0o10", 8),
        ("0x1f", 31),
        ("1.", 1.0),
        ("-.inf", -float("inf")),
        ("1:30", "1:30"),
        ("12:30:45", "12:30:45"),
        ("1:30.5", "1:30.5"),
        ("0b11", "0b11"),
        ("0o8", "0o8"),
        ("-0x1f", "-0x1f"),
        ("0_1", "0_1"),
        ("1_0", "1_0"),
        ("1__000", "1__000"),
        ("_1_000", "_1_000"),
        ("0_100", "0_100"),
        ("0x1_f", "0x1_f"),
        ("=", "="),
        ("e4", "e4"),
        ("1e", "1e"),
        ("2024-01-02", "2024-01-02"),
        ("2024-01-02 10:00:00", "2024-01-02 10:00:00"),
        ("<<", "<<"),
        ("no", False),
        ("'no'", "no"),
        ("~", None),
        ("", None),
        ("resnet20", "resnet20"),
    ],
)
def test_words_mean_what_people_expect(text, value):
    found = parse_document(f"key: {text}").data["key"]
    assert found == value
    assert type(found) is type(value)


def test_an_empty_file_holds_nothing():
    assert parse_document("").data is None
    assert parse_document("# a remark\n").data is None


def test_every_value_knows_its_line():
    document = parse_document(
        "a: 1\nb:\n  c: [4,\n    5]\n  d.e: 6\n# remark\nf: {g: 7}\n", "a.yaml"
    )
    assert document.data == {"a": 1, "b": {"c": [4, 5], "d.e": 6}, "f": {"g": 7}}
    lines = {"a": 1, "b": 2, "b.c": 3, "b.c.0": 3, "b.c.1": 4, "b.d.e": 5, "f": 7, "f.g": 7}
    assert {path: document.lines[path] for path in lines} == lines


def test_a_place_is_the_nearest_line_around_it():
    document = parse_document("a: 1\nb:\n  c: {d: 4}\n", "a.yaml")
    assert document.location("b.c.d") == "a.yaml:3"
    assert document.location("b.c.missing.deeper") == "a.yaml:3"
    assert document.location("b.missing") == "a.yaml:2"
    assert parse_document("", "a.yaml").location("b") == "a.yaml"


def test_problems_get_their_places():
    document = parse_document("a: 1\nb: {c: 2}\n", "a.yaml")
    located = document.locate(ConfigError([Problem("b.c", "is wrong"), Problem("a", "too")]))
    assert str(located).splitlines() == ["a.yaml:2: b.c: is wrong", "a.yaml:1: a: too"]


def test_an_unknown_field_is_found_on_its_own_line():
    document = parse_document("a:\n  b: 1\n  c: 2\nd: 3\n", "a.yaml")
    problems = [Problem("a", "unknown field 'c'; allowed: b"), Problem("", "unknown field 'd'; x")]
    assert str(document.locate(ConfigError(problems))).splitlines() == [
        "a.yaml:3: a: unknown field 'c'; allowed: b",
        "a.yaml:4: unknown field 'd'; x",
    ]


def test_what_was_laid_over_the_file_has_no_line():
    document = parse_document("a:\n  b: 1\nc: 2\n", "a.yaml")
    document.overridden.update(("a.b", "a.new.e"))
    assert document.location("a.new") == "--set"
    assert document.location("a.b.d") == "--set"
    assert document.location("a.bc") == "a.yaml:1"
    assert document.location("a") == "a.yaml:1"


def test_a_key_given_twice_is_refused():
    assert refused("a: 1\nb:\n  c: 2\n  d: 3\n  c: 4\n") == [
        "a.yaml:5: b.c: this key is given twice (first on line 3)"
    ]


def test_the_same_key_in_two_places_is_fine():
    assert parse_document("a: {c: 1}\nb: {c: 2}\n").data == {"a": {"c": 1}, "b": {"c": 2}}


@pytest.mark.parametrize(
    "text", ["a: !!python/object:os.system x", "a: !mine {b: 1}", "a: !!set {x, y}", "a: !env HOME"]
)
def test_tags_are_refused(text):
    (line,) = refused("first: 1\n" + text)
    assert line.startswith("a.yaml:2: a: tags are not allowed, found ")


def test_several_problems_are_told_at_once():
    lines = refused("a: 1\na: 2\nb: !x 3\nc: {d: 1, d: 2}\n")
    assert [line.split(" ")[0] for line in lines] == ["a.yaml:2:", "a.yaml:3:", "a.yaml:4:"]


def test_anchors_stand_for_what_they_name():
    data = parse_document("a: &shared {lr: 0.1}\nb: *shared\nc: [*shared, *shared]\n").data
    assert data == {"a": {"lr": 0.1}, "b": {"lr": 0.1}, "c": [{"lr": 0.1}, {"lr": 0.1}]}


@pytest.mark.parametrize("text", ["x: 1\na: &a [1, *a]", "x: 1\na: &a {b: {c: *a}}"])
def test_a_value_that_contains_itself_is_refused(text):
    (line,) = refused(text)
    assert line.startswith("a.yaml:2: is too deep or too large")


def test_doubling_aliases_are_refused_before_they_fill_the_memory():
    doubled = [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 64)]
    (line,) = refused("\n".join(["a0: &a0 [1, 2]", *doubled]))
    assert "is too deep or too large; does an alias" in line


@pytest.mark.parametrize("text", ["[" * 600, "{a: " * 600 + "1" + "}" * 600])
def test_a_bottomless_value_is_refused(text):
    (line,) = refused(text)
    assert line.startswith("a.yaml")
    assert "deep" in line


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", "a.yaml:3:"),
        ("a: 1\n\tb: 2\n", "a.yaml:2:"),
        ("a: 'open\n", "a.yaml:"),
        ("a: b: c\n", "a.yaml:1:"),
        ("a: 1\n--- \nb: 2\n", "a.yaml:2:"),
        ("a: *nothing\n", "a.yaml:1:"),
        ("a: 1\nb: \x00\n", "a.yaml"),
        ("a: %x\n", "a.yaml:1:"),
    ],
)
def test_what_is_not_yaml_is_said_in_one_line(text, place):
    (line,) = refused(text)
    assert line.startswith(place)
    assert "is not valid YAML" in line


def test_a_key_must_be_a_word():
    (line,) = refused("a: 1\n[1, 2]: 3\n")
    assert line == "a.yaml:2: a key must be a plain word"


def test_keys_are_text():
    assert parse_document("1: a\nyes: b\n2.5: c\n").data == {"1": "a", "yes": "b", "2.5": "c"}


@pytest.mark.parametrize("text", ["!!int 0x_", "!!float one", "!!int 1:30"])
def test_a_number_that_is_none_is_refused(text):
    (line,) = refused(f"a: 1\nb: {text}\n")
    assert line.startswith("a.yaml:2: b: cannot be read as a value")


@pytest.mark.parametrize(
    "text", ["0100", "0o10", "08", "1e-4", "20_000", "1:30", "<<", "no", "0b1"]
)
def test_text_that_looks_like_a_value_stays_text_when_it_is_written(text):
    """A reader of YAML 1.1 and this one agree on it: such text is written in quotes."""
    written = to_yaml({text: [text, {text: text}]})
    assert parse_document(written).data == {text: [text, {text: text}]}
    assert yaml.safe_load(written) == {text: [text, {text: text}]}


def test_numbers_stay_themselves_when_they_are_written():
    values = [8, -3, 0.1, 1e-5, 1e20, float("inf"), True, None, 2**63]
    assert parse_document(to_yaml({"values": values})).data == {"values": values}


def test_numbers_of_set_are_read_as_those_of_a_file():
    pairs = ["data.limit=0100", "a=1:30", "b=[01, 010]", "c={<<: {x: 1}, y: 0o10}"]
    told = {"data.limit": 100, "a": "1:30", "b": [1, 10], "c": {"x": 1, "y": 8}}
    assert parse_overrides(pairs) == told


def test_a_time_is_no_number_of_epochs():
    shipped = Path(__file__).parents[3] / "experiments" / "quickstart.yaml"
    with pytest.raises(ConfigError, match=r"--set: stages.student.training.epochs: .*'1:30'"):
        load_experiment(shipped, {"student.training.epochs": "1:30"})


# Merge keys.

SHARED = """\
teacher: &teacher
  lr: 0.1
  epochs: 3
other: &other {lr: 0.5, seed: 7}
"""


def test_a_merge_key_lays_a_mapping_under_another():
    document = parse_document(f"{SHARED}student:\n  <<: *teacher\n  epochs: 9\n", "a.yaml")
    assert document.data["student"] == {"lr": 0.1, "epochs": 9}
    assert document.data["teacher"] == {"lr": 0.1, "epochs": 3}
    # What was merged stands where it was written, what was said here stands here.
    assert document.location("student.lr") == "a.yaml:2"
    assert document.location("student.epochs") == "a.yaml:7"
    assert document.location("student") == "a.yaml:5"


@pytest.mark.parametrize("first", ["{<<: *teacher, epochs: 9}", "{epochs: 9, <<: *teacher}"])
def test_what_is_said_wins_over_what_is_merged_wherever_it_stands(first):
    assert parse_document(f"{SHARED}a: {first}").data["a"] == {"lr": 0.1, "epochs": 9}


@pytest.mark.parametrize(
    ("merge", "value"),
    [
        ("[*teacher, *other]", {"lr": 0.1, "epochs": 3, "seed": 7}),
        ("[*other, *teacher]", {"lr": 0.5, "epochs": 3, "seed": 7}),
        ("[*other, {lr: 2}]", {"lr": 0.5, "seed": 7}),
        ("{<<: *other, lr: 2}", {"lr": 2, "seed": 7}),
        ("[]", {}),
    ],
)
def test_of_several_merged_mappings_the_first_wins(merge, value):
    assert parse_document(f"{SHARED}a: {{<<: {merge}}}").data["a"] == value


def test_merges_are_not_deep_and_share_nothing():
    data = parse_document("a: &a {b: {c: 1, d: 2}}\ne: {<<: *a, b: {c: 3}}\nf: {<<: *a}\n").data
    assert data["e"] == {"b": {"c": 3}}
    data["f"]["b"]["c"] = 9
    assert data["a"]["b"]["c"] == 1


def test_a_mistake_in_what_was_merged_is_told_on_its_line():
    document = parse_document(f"{SHARED}student: {{<<: *teacher}}\n", "a.yaml")
    located = document.locate(ConfigError([Problem("student.lr", "is wrong")]))
    assert str(located) == "a.yaml:2: student.lr: is wrong"


def test_a_quoted_merge_key_is_a_key():
    assert parse_document('a: {"<<": 1}').data == {"a": {"<<": 1}}


@pytest.mark.parametrize("value", ["5", "text", "[1]", "[[{a: 1}]]", "null"])
def test_only_mappings_can_be_merged(value):
    (line,) = refused(f"a: 1\nb:\n  <<: {value}\n")
    assert line.startswith("a.yaml:3: b: << needs a mapping or a list of mappings")


def test_two_merge_keys_are_refused_with_the_remedy():
    (line,) = refused(f"{SHARED}a:\n  <<: *teacher\n  <<: *other\n")
    assert line.startswith("a.yaml:7: a.<<: this key is given twice (first on line 6)")
    assert "<<: [*one, *other]" in line


@pytest.mark.parametrize(
    "text",
    [
        "a: &a {<<: *a, b: 1}",
        "a: &a {b: {<<: *a}}",
        "a: &a {<<: [{<<: *a}]}",
        "\n".join(
            ["a0: &a0 {k: 1}"]
            + [f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, 64)]
        ),
        "a: &a {"
        + ", ".join(f"k{i}: 1" for i in range(2000))
        + "}\nb: {<<: ["
        + "*a, " * 40
        + "]}",
    ],
    ids=["itself", "inside itself", "in a list", "doubling", "again and again"],
)
def test_merges_are_bounded_as_aliases_are(text):
    (line,) = refused(text)
    assert "is too deep or too large; does an alias" in line


@pytest.mark.parametrize("text", ['a: 1\nb: "\\ud800"\n', 'a: 1\n"\\ud800": b\n'])
def test_half_a_letter_is_refused(text):
    """What no file can hold would end the program where it is first written or hashed."""
    (line,) = refused(text)
    assert line.startswith("a.yaml:2: ")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: there is no such file$"):
        read_document(tmp_path / "nowhere.yaml")


def test_a_folder_and_bytes_are_no_files_of_text(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read as text"):
        read_document(tmp_path)
    binary = tmp_path / "a.yaml"
    binary.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ConfigError, match="cannot be read as text"):
        read_document(binary)


def test_a_file_is_read_as_utf8(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_bytes("name: naïve\n".encode())
    assert read_document(file).data == {"name": "naïve"}


def test_a_number_beyond_any_machines_is_refused():
    with pytest.raises(ConfigError, match=r"a: is a whole number beyond 2\^63"):
        parse_document(f"a: {10**30}")
    assert parse_document(f"a: {2**63 - 1}").data == {"a": 2**63 - 1}
