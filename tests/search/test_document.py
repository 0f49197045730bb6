"""A file is plain data with its lines; whatever YAML can hide is refused where it stands."""

import pytest

from search.document import parse_document, read_document
from spaces.problem import ConfigError, Problem


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
    assert document.place("b.c.d") == "a.yaml:3"
    assert document.place("b.c.missing.deeper") == "a.yaml:3"
    assert document.place("b.missing") == "a.yaml:2"
    assert parse_document("", "a.yaml").place("b") == "a.yaml"


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
    document.laid_over.update(("a.b", "a.new.e"))
    assert document.place("a.new") == "--set"
    assert document.place("a.b.d") == "--set"
    assert document.place("a.bc") == "a.yaml:1"
    assert document.place("a") == "a.yaml:1"


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


def test_a_number_that_is_none_is_refused():
    (line,) = refused("a: 1\nb: 0b\nc: 0x_\n")
    assert line.startswith("a.yaml:3: c: cannot be read as a value")


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
