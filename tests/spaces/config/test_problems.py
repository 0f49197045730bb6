"""A user's mistake travels whole: through levels, and between processes."""

import pickle

from stillhouse.spaces.config.problems import (
    ConfigError,
    Problem,
    first_line,
    plain_lines,
    unknown_message,
)

ERROR = ConfigError([Problem("lr", "is too large"), Problem("", "is incomplete")])


def test_one_line_a_problem():
    assert str(ERROR) == "lr: is too large\nis incomplete"


def test_seen_from_further_out_the_path_grows():
    assert str(ERROR.with_prefix("student")) == "student.lr: is too large\nstudent: is incomplete"


def test_an_error_survives_pickling():
    assert pickle.loads(pickle.dumps(ERROR)).problems == ERROR.problems


def test_an_unknown_name_comes_with_the_nearest_and_all():
    assert unknown_message("network", "resnet2", ["vgg8", "resnet20"]) == (
        "unknown network 'resnet2'; did you mean 'resnet20'? allowed: resnet20, vgg8"
    )
    assert unknown_message("network", "x", []) == "unknown network 'x'; allowed: none"


def test_another_librarys_message_loses_its_terminal_codes():
    told = "\n\x1b[1mWeights only\x1b[0m load \x1b[38;5;1mfailed\x1b[m.\nMore of it\n"
    assert plain_lines(told) == ["Weights only load failed.", "More of it"]
    assert plain_lines("  \n") == []
    assert first_line(ValueError(told)) == "Weights only load failed."
    assert first_line(OSError()) == "OSError"
