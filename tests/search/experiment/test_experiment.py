"""Whatever is wrong with an experiment is said before it runs: one line each, where and why."""

import copy
import re

import pytest
import yaml

from stillhouse.search.artifacts.store import Library
from stillhouse.search.cli.options import parse_overrides
from stillhouse.search.experiment.experiment import to_yaml
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.spaces.config.problems import ConfigError

TEXT = """\
name: example
data: {source: digits, limit: 100}
stages:
  teacher:
    network: cnn8
    objective: {cross_entropy: {}}
    training: {epochs: 2}
  assistants:
    do: chain
    teacher: teacher
    networks: [cnn6]
    objective: {cross_entropy: {weight: 0.3}, soft_targets: {weight: 0.7}}
  student:
    network: {cnn2: {width: 0.25}}
    teachers: [assistants]
    objective:
      soft_targets: {weight: 0.9}
    training:
      lr: 1e-2
      schedule: {cosine: {warmup: 1}}
search:
  assistants.networks: {chain: {of: [cnn6, cnn4], at_most: 2}}
  student.training.lr: {log_uniform: [1e-3, 1e-1]}
goal:
  maximize: student.val_accuracy
  subject_to: {student.parameters: 1_000}
run:
  trials: 4
"""


def written(tmp_path, *replaced):
    """The example as a file, with some of its text replaced."""
    text = TEXT
    for old, new in replaced:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    file = tmp_path / "e.yaml"
    file.write_text(text)
    return file


def refused(file, changes=None):
    """The lines of the refusal, without the folder of the file."""
    with pytest.raises(ConfigError) as caught:
        load_experiment(file, changes)
    return str(caught.value).replace(f"{getattr(file, 'parent', '')}/", "").splitlines()


def test_the_example_is_valid(tmp_path):
    assert load_experiment(written(tmp_path)).final_name == "student"


FIELDS = {
    "a name that the model registry refuses": (
        ("trials: 4", "register_as: team/model"),
        "e.yaml:28: run.register_as: 'team/model' is no name for a registered model; it needs",
    ),
    "a seed that no generator takes": (
        ("    network: cnn8", "    network: cnn8\n    seed: 9223372036854775808"),
        "e.yaml:6: stages.teacher.seed: input should be less than 9223372036854775808, found 92",
    ),
    "a misspelt stage field": (
        ("    teachers: [assistants]", "    teacers: [assistants]"),
        "e.yaml:15: stages.student: unknown field 'teacers'; did you mean 'teachers'? allowed: ",
    ),
    "an unknown setting deep inside": (
        ("lr: 1e-2", "lrr: 1e-2"),
        "e.yaml:19: stages.student.training: unknown field 'lrr'; did you mean 'lr'? allowed: ",
    ),
    "an unknown setting of a schedule": (
        ("{warmup: 1}", "{warm: 1}"),
        "e.yaml:20: stages.student.training.schedule.cosine: unknown field 'warm'; did you mean 'w",
    ),
    "a wrong type": (
        ("lr: 1e-2", "lr: fast"),
        "e.yaml:19: stages.student.training.lr: input should be a valid number, found 'fast'",
    ),
    "a fraction where whole numbers belong": (
        ("trials: 4", "trials: 4.5"),
        "e.yaml:28: run.trials: input should be a valid integer, found 4.5",
    ),
    "a value out of range": (
        ("lr: 1e-2", "lr: -0.1"),
        "e.yaml:19: stages.student.training.lr: input should be greater than 0, found -0.1",
    ),
    "a missing field": (
        ("    network: cnn8\n", ""),
        "e.yaml:4: stages.teacher.network: is missing; name one",
    ),
    "an unknown network": (
        ("network: cnn8", "network: cnn9"),
        "e.yaml:5: stages.teacher.network: unknown network 'cnn9'; did you mean 'cnn",
    ),
    "an unknown setting of a network": (
        ("{cnn2: {width: 0.25}}", "{cnn2: {widht: 0.25}}"),
        "e.yaml:14: stages.student.network: unknown field 'widht'; did you mean 'width'? allowed: ",
    ),
    "an unknown network of a chain": (
        ("networks: [cnn6]", "networks: [cnn66]"),
        "e.yaml:11: stages.assistants.networks.0: unknown network 'cnn66'; did you mean 'cnn6'?",
    ),
    "an unknown method": (
        ("soft_targets: {weight: 0.9}", "soft_target: {weight: 0.9}"),
        "e.yaml:16: stages.student.objective: unknown method 'soft_target'; did you mean 'soft_ta",
    ),
    "an unknown data set": (
        ("source: digits", "source: digit"),
        "e.yaml:2: data.source: unknown data source 'digit'; did you mean 'digits'? allowed: ",
    ),
    "an unknown kind of stage": (
        ("do: chain", "do: chian"),
        "e.yaml:9: stages.assistants.do: unknown kind of stage 'chian'; did you mean 'chain'?",
    ),
    "a stage that is no mapping": (
        ("search:\n", "  more: cnn2\nsearch:\n"),
        "e.yaml:21: stages.more: needs a mapping of settings, found 'cnn2'",
    ),
    "an unknown top-level field": (
        ("run:\n", "rum:\n"),
        "e.yaml:27: unknown field 'rum'; did you mean 'run'? allowed: ",
    ),
    "an unknown sampler": (
        ("trials: 4", "sampler: tp"),
        "e.yaml:28: run.sampler: unknown sampler 'tp'; did you mean 'tpe'? allowed: gp, "
        "grid, nsga2",
    ),
    "an unknown scheduler": (
        ("trials: 4", "scheduler: ash"),
        "e.yaml:28: run.scheduler: unknown scheduler 'ash'; did you mean 'asha'? allowed: asha, hy",
    ),
    "an unknown setting of a scheduler": (
        ("trials: 4", "scheduler: {asha: {grace: 2}}"),
        "e.yaml:28: run.scheduler.asha: unknown field 'grace'; did you mean 'grace_epochs'?",
    ),
    "a name with a space": (
        ("name: example", "name: my example"),
        "e.yaml:1: name: string should match pattern",
    ),
}
GRAPH = {
    "a method without a teacher": (
        ("    teachers: [assistants]\n", ""),
        "e.yaml:15: stages.student.objective: has a method that needs a teacher, and `teachers:` n",
    ),
    "a teacher nobody listens to": (
        ("soft_targets: {weight: 0.9}", "cross_entropy: {}"),
        "e.yaml:15: stages.student.teachers: names teachers, but no method of the objective uses",
    ),
    "a teacher that does not exist": (
        ("teachers: [assistants]", "teachers: [asistants]"),
        "e.yaml:13: stages.student: unknown stage 'asistants'; did you mean 'assistants'?",
    ),
    "a circle": (
        ("    training: {epochs: 2}", "    teachers: [student]"),
        "e.yaml:4: stages.teacher: stages depend on each other in a cycle: "
        "teacher -> student -> assistants -> teacher",
    ),
    "a stage that is its own teacher": (
        ("teachers: [assistants]", "teachers: [student]"),
        "e.yaml:13: stages.student: stages depend on each other in a cycle: student -> student",
    ),
    "a chain that does not shrink": (
        ("networks: [cnn6]", "networks: [cnn4, cnn6]"),
        "e.yaml:11: stages.assistants.networks: a chain must shrink: assistants/cnn6 has 72,890 p",
    ),
    "an assistant larger than its teacher": (
        ("networks: [cnn6]", "networks: [cnn10]"),
        "e.yaml:11: stages.assistants.networks: a chain must shrink: assistants/cnn10 has 2,388,97",
    ),
    "a link that cannot be in the chain": (
        ("networks: [cnn6]", "networks: [cnn6]\n    links: {cnn7: {training: {lr: 0.1}}}"),
        "e.yaml:12: stages.assistants.links.cnn7: unknown link 'cnn7'; did you mean 'cnn6'? allow",
    ),
    "a wrong setting of a link": (
        ("networks: [cnn6]", "networks: [cnn6]\n    links: {cnn6: {training: {lr: -1.0}}}"),
        "e.yaml:12: stages.assistants.links.cnn6.training.lr: input should be greater than 0",
    ),
    "a stage nobody needs": (
        ("search:\n", "  more: {network: cnn2, objective: {cross_entropy: {}}}\nsearch:\n"),
        "e.yaml:21: stages.more: 'student' does not depend on it",
    ),
    "a stage named data": (
        ("search:\n", "  data: {network: cnn2, objective: {cross_entropy: {}}}\nsearch:\n"),
        "e.yaml:21: stages.data: a stage's name has letters, digits, - and _, and is not 'data'",
    ),
    "weights that are not there": (
        ("    network: cnn8", "    network: cnn8\n    weights: /nowhere/w.pt"),
        "e.yaml:6: stages.teacher.weights.path: cannot read /nowhere/w.pt: No such file",
    ),
    "half of a normalisation": (
        ("    network: cnn8", "    network: cnn8\n    weights: {path: w.pt, mean: [0.5]}"),
        "e.yaml:6: stages.teacher.weights: needs mean and std, or neither",
    ),
    "neither objective nor weights": (
        ("    objective: {cross_entropy: {}}\n", ""),
        "e.yaml:4: stages.teacher.objective: is missing; name methods, or give weights",
    ),
    "a network too large for the images": (
        ("network: cnn8", "network: tv_vgg11"),
        "e.yaml:4: stages.teacher: tv_vgg11 needs images of 3 channels, found 1",
    ),
}
DATA = {
    "missing files": (
        ("source: digits", "source: cifar10, root: /nowhere"),
        "e.yaml:2: data.root: /nowhere must hold cifar-10-batches-py/{data_batch_1, ",
    ),
    "no folder": (
        ("source: digits", "source: mnist"),
        "e.yaml:2: data.root: is not set; it must hold MNIST/raw/{",
    ),
    "more examples than there are": (
        ("limit: 100", "limit: 100000"),
        "e.yaml:2: data.limit: asks for 100000 training examples where there are 1294",
    ),
    "nothing held out": (
        ("limit: 100", "limit: 100, validation: 0.0"),
        "e.yaml:2: data.validation: leaves no validation split, on which val_accuracy is measured",
    ),
    "files missing for one stage": (
        ("    network: cnn8", "    network: cnn8\n    data: {source: mnist}"),
        "e.yaml:6: stages.teacher.data.root: is not set; it must hold MNIST/raw/{",
    ),
    "a misspelt field for one stage": (
        ("    network: cnn8", "    network: cnn8\n    data: {limt: 10}"),
        "e.yaml:6: stages.teacher.data: unknown field 'limt'; did you mean 'limit'? allowed: ",
    ),
}
SEARCH = {
    "a path to a field that does not exist": (
        "student.training.lrr: {choice: [1]}",
        "search.student.training.lrr: does not exist: unknown field 'lrr'; did you mean 'lr'?",
    ),
    "a declared range of a field that does not exist": (
        "student.training.lrr: declared",
        "search.student.training.lrr: does not exist: unknown field 'lrr'; did you mean 'lr'?",
    ),
    "a declared range of a part that does not exist": (
        "student.trainin.lr: declared",
        "search.student.trainin.lr: does not exist: unknown field 'trainin'; did you mean 'trainin",
    ),
    "a declared range of data that does not exist": (
        "data.augment.flp: declared",
        "search.data.augment.flp: does not exist: unknown field 'flp'; did you mean 'flip'?",
    ),
    "a declared range of a method's field that does not exist": (
        "student.objective.soft_targets.temprature: declared",
        "search.student.objective.soft_targets.temprature: does not exist: unknown field 'temprat",
    ),
    "a declared range of links that does not exist": (
        "assistants.links.*.training.lrr: declared",
        "search.assistants.links.*.training.lrr: does not exist: unknown field 'lrr'; did you mean",
    ),
    "a path to a stage that does not exist": (
        "studnt.training.lr: {choice: [1]}",
        "search.studnt.training.lr: unknown stage 'studnt'; did you mean 'student'? allowed: assis",
    ),
    "a path beyond a value": (
        "student.training.lr.x: {choice: [1]}",
        "search.student.training.lr.x: does not exist: student.training.lr has no settings inside",
    ),
    "a path to a method that is not used": (
        "student.objective.cross_entropy.weight: declared",
        "search.student.objective.cross_entropy.weight: this field declares no range",
    ),
    "a whole stage": (
        "student: {choice: [a, b]}",
        "search.student: names the whole stage 'student'; name one of its settings",
    ),
    "links of a stage that has none": (
        "student.links.*.training.lr: {choice: [0.1]}",
        "search.student.links.*.training.lr: does not exist: only a chain has links",
    ),
    "all of a link": (
        "assistants.links.*: {choice: [0.1]}",
        "search.assistants.links.*: does not exist: * stands for a link's name, like assistants.",
    ),
    "a field that links do not have": (
        "assistants.links.*.training.lrr: {choice: [0.1]}",
        "search.assistants.links.*.training.lrr: does not exist: unknown field 'lrr'; did you mean",
    ),
    "a value that links may not have": (
        "assistants.links.*.training.lr: {choice: [-0.1]}",
        "search.assistants.links.*.training.lr: the value -0.1 is not allowed: ",
    ),
    "a star elsewhere": (
        "assistants.*.lr: {choice: [0.1]}",
        "search.assistants.*.lr: does not exist: * stands for a link's name, like assistants.links",
    ),
    "data settings that do not exist": (
        "data.augment.flp: {choice: [true]}",
        "search.data.augment.flp: does not exist: unknown field 'flp'; did you mean 'flip'?",
    ),
    "data values that do not fit": (
        "data.limit: {integers: [10, 5000]}",
        "search.data.limit: the value 5000 is not allowed: data.limit: asks for 5000 training exam",
    ),
    "a value of the wrong type": (
        "data.augment.flip: {choice: [true, 3]}",
        "search.data.augment.flip: the value 3 is not allowed: data.augment.flip: input should be",
    ),
    "one value out of range": (
        "student.training.momentum: {choice: [0.5, 2.0]}",
        "search.student.training.momentum: the value 2.0 is not allowed: student.training.momentum",
    ),
    "a range that leaves what is allowed": (
        "student.training.momentum: {uniform: [0.5, 1.5]}",
        "search.student.training.momentum: the value 1.5 is not allowed: student.training.momentum",
    ),
    "an unknown network among the values": (
        "student.network: {choice: [cnn2, cnn3]}",
        "search.student.network: the value 'cnn3' is not allowed: student.network: unknown network",
    ),
    "a chain in the wrong order": (
        "assistants.networks: {chain: [cnn4, cnn6]}",
        "search.assistants.networks: the value ['cnn4', 'cnn6'] is not allowed: assistants.network",
    ),
    "an unknown network in a chain": (
        "assistants.networks: {chain: [cnn6, cnn44]}",
        "search.assistants.networks: the value ['cnn44'] is not allowed: assistants.networks.0: un",
    ),
    "no value at all": (
        "student.training.lr: {choice: []}",
        "search.student.training.lr: choice: needs at least one value, found an empty list",
    ),
    "a range without values": (
        "student.training.lr: {uniform: [0.2, 0.1]}",
        "search.student.training.lr: uniform: needs two finite numbers low < high, found uniform [",
    ),
    "the logarithm of nothing": (
        "student.training.lr: {log_uniform: [0, 1]}",
        "search.student.training.lr: log_uniform: needs two finite numbers 0 < low < high, found l",
    ),
    "an infinite range": (
        "student.training.lr: {uniform: [0, .inf]}",
        "search.student.training.lr: uniform: needs two finite numbers low < high, found uniform [",
    ),
    "whole numbers that are none": (
        "student.training.epochs: {integers: [1, 2.5]}",
        "search.student.training.epochs: integers: needs whole numbers low <= high and a step of 1",
    ),
    "a chain without members": (
        "assistants.networks: {chain: []}",
        "search.assistants.networks: chain: needs at least one member, found an empty list",
    ),
    "a chain of what are no names": (
        "assistants.networks: {chain: [{cnn6: {width: 0.5}}]}",
        "search.assistants.networks: chain: needs names of networks, found [{'cnn6': {'width': 0",
    ),
    "a chain with an impossible length": (
        "assistants.networks: {chain: {of: [cnn6], at_least: 2}}",
        "search.assistants.networks: chain: needs 0 <= at_least <= at_most <= 1, found at_least 2",
    ),
    "an unknown domain": (
        "student.training.lr: {loguniform: [0.1, 1]}",
        "search.student.training.lr: unknown kind of domain 'loguniform'; did you mean 'log_uni",
    ),
    "no domain": (
        "student.training.lr: 0.1",
        "search.student.training.lr: a domain is one of {uniform: ...}, {log_uniform: ...}, ",
    ),
    "declared where nothing is declared": (
        "student.training.ema: declared",
        "search.student.training.ema: this field declares no range; write one, such as {uni",
    ),
}
GOALS = {
    "an unknown figure": (
        "{maximize: student.val_accurcy}",
        "goal.maximize: unknown figure 'val_accurcy'; did you mean 'val_accuracy'? allowed: ",
    ),
    "a figure without a stage": (
        "{maximize: val_accuracy}",
        "goal.maximize: unknown stage 'val_accuracy'; allowed: assistants, student, teacher",
    ),
    "a stage that does not exist": (
        "{maximize: studnt.val_accuracy, subject_to: {student.parameters: 1000}}",
        "goal.maximize: unknown stage 'studnt'; did you mean 'student'? allowed: assistants, stude",
    ),
    "a limit on another stage": (
        "{maximize: student.val_accuracy, subject_to: {teacher.parameters: 1000}}",
        "goal.subject_to.teacher.parameters: trials make 'student'; only its figures can be used",
    ),
    "a limit on an unknown figure": (
        "{maximize: student.val_accuracy, subject_to: {student.size: 1000}}",
        "goal.subject_to.student.size: unknown figure 'size'; allowed: best_val_accuracy, bytes",
    ),
    "a limit that is no number": (
        "{maximize: student.val_accuracy, subject_to: {student.parameters: few}}",
        "goal.subject_to.student.parameters: needs a mapping of settings, found 'few'",
    ),
    "a limit that excludes everything": (
        "{maximize: student.val_accuracy, subject_to: {student.flops: {min: 9, max: 3}}}",
        "goal.subject_to.student.flops: min 9.0 lies above max 3.0",
    ),
    "a limit that limits nothing": (
        "{maximize: student.val_accuracy, subject_to: {student.flops: {}}}",
        "goal.subject_to.student.flops: needs min, max or both",
    ),
    "a limit no network can meet": (
        "{maximize: student.val_accuracy, subject_to: {student.parameters: 100}}",
        "goal.subject_to.student.parameters: no network of this search satisfies it (at most 100)",
    ),
    "no goal": (
        "{subject_to: {student.parameters: 1000}}",
        "goal: needs maximize, minimize or both",
    ),
    "a figure that is driven both ways": (
        "{maximize: student.val_accuracy, minimize: student.val_accuracy}",
        "goal.minimize: student.val_accuracy is to be maximized too; name it once",
    ),
    "a goal that is named twice": (
        "{maximize: [student.val_accuracy, student.val_accuracy]}",
        "goal.maximize: student.val_accuracy is named 2 times; name it once",
    ),
    "nothing to search for": ("~", "goal: is missing: say what to maximize, like student.val_acc"),
    "agreement with nobody": (
        "{maximize: teacher.val_agreement}",
        "goal: val_agreement needs a teacher, and the student has none",
    ),
}


@pytest.mark.parametrize("case", [*FIELDS, *GRAPH, *DATA])
def test_what_is_wrong_is_said_in_one_line(tmp_path, case):
    replaced, expected = {**FIELDS, **GRAPH, **DATA}[case]
    (line,) = refused(written(tmp_path, replaced))
    assert line.startswith(expected)


@pytest.mark.parametrize("case", SEARCH)
def test_a_searched_path_that_cannot_be_searched(tmp_path, case):
    told, expected = SEARCH[case]
    old = "  student.training.lr: {log_uniform: [1e-3, 1e-1]}"
    chain = "  assistants.networks: {chain: {of: [cnn6, cnn4], at_most: 2}}\n"
    replaced = [(old, f"  {told}")]
    replaced += [(chain, "")] if told.startswith("assistants.networks") else []
    (line,) = refused(written(tmp_path, *replaced))
    assert line.startswith(f"e.yaml:{22 if len(replaced) > 1 else 23}: {expected}")


@pytest.mark.parametrize("case", GOALS)
def test_a_goal_that_cannot_be_reached_for(tmp_path, case):
    told, expected = GOALS[case]
    goal = TEXT[TEXT.index("goal:") : TEXT.index("run:")]
    lines = refused(written(tmp_path, (goal, f"goal: {told}\n")))
    lines = [line for line in lines if "nothing that leads to" not in line]
    lines = [line for line in lines if "agreement" in line] or lines
    (line,) = lines
    assert line.startswith(f"e.yaml:24: {expected}")


@pytest.mark.parametrize(
    ("goal", "expected"),
    [
        ("{maximize: [student.val_accuracy], minimize: [student.flops]}", "needs a single goal"),
        ("{minimize: student.flops}", "flops is not reported by epoch; remove it"),
        ("{minimize: student.latency_ms}", "latency_ms is not reported by epoch; remove it"),
    ],
)
@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_a_scheduler_needs_one_goal_that_is_reported_by_epoch(tmp_path, goal, scheduler, expected):
    old = TEXT[TEXT.index("goal:") : TEXT.index("run:")]
    file = written(tmp_path, (old, f"goal: {goal}\n"), ("trials: 4", f"scheduler: {scheduler}"))
    (line,) = refused(file)
    assert line.startswith(f"e.yaml:26: run.scheduler: {expected}")


@pytest.mark.parametrize("figure", ["val_accuracy", "best_val_accuracy", "val_nll", "train_loss"])
def test_a_scheduler_may_follow_what_is_reported_by_epoch(tmp_path, figure):
    changes = {"run.scheduler": "asha", "goal.maximize": f"student.{figure}"}
    assert load_experiment(written(tmp_path), changes).run.scheduler.kind == "asha"


@pytest.mark.parametrize(
    ("replaced", "line"),
    [
        (("name: example", "name: [example"), "e.yaml:2: is not valid YAML: "),
        (("run:\n", "name: again\nrun:\n"), "e.yaml:27: name: this key is given twice (first on"),
        (("cnn8", "!net cnn8"), "e.yaml:5: stages.teacher.network: tags are not allowed, found "),
        (("trials: 4", "{trials: 4"), "e.yaml:"),
    ],
)
def test_what_is_no_plain_yaml(tmp_path, replaced, line):
    (found,) = refused(written(tmp_path, replaced))
    assert found.startswith(line)


@pytest.mark.parametrize("text", ["", "just words", "[1, 2]", "3"])
def test_a_file_that_is_no_experiment(tmp_path, text):
    file = tmp_path / "e.yaml"
    file.write_text(text)
    assert refused(file) == ["e.yaml: needs name, data and stages; see experiments/"]


def test_all_that_is_wrong_with_fields_is_said_at_once(tmp_path):
    file = written(
        tmp_path,
        ("trials: 4", "trails: 4"),
        ("limit: 100", "limt: 100"),
        ("network: cnn8", "network: cnn9"),
        ("lr: 1e-2", "lr: fast"),
        ("soft_targets: {weight: 0.9}", "soft_targets: {wieght: 0.9}"),
    )
    lines = sorted(int(re.match(r"e\.yaml:(\d+): ", line)[1]) for line in refused(file))
    assert lines == [2, 5, 17, 19, 28]


def test_all_that_is_wrong_with_values_is_said_at_once(tmp_path):
    file = written(
        tmp_path,
        ("  student.training.lr: {", "  studnt.training.lr: declared\n  student.training.lrr: {"),
        ("student.val_accuracy", "student.val_acuracy"),
        ("trials: 4", "scheduler: asha"),
        ("student.parameters: 1_000", "student.size: 1_000"),
        ("networks: [cnn6]", "networks: [cnn4, cnn6]"),
    )
    lines = sorted(int(re.match(r"e\.yaml:(\d+): ", line)[1]) for line in refused(file))
    assert lines == [11, 23, 24, 26, 27]


def test_several_stages_are_all_looked_at(tmp_path):
    more = "  other: {network: cnn8, objective: {soft_targets: {}}}\nsearch:\n"
    lines = refused(
        written(tmp_path, ("search:\n", more), ("    objective: {cross_entropy: {}}\n", ""))
    )
    assert [line.split(": ")[1] for line in lines] == [
        "stages.teacher.objective",
        "stages.other.objective",
    ]


def test_damaged_data_files_are_named(tmp_path):
    folder = tmp_path / "set" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (folder / f"{part}-{kind}-ubyte").write_bytes(b"\0\0\x08\x03" + b"\1" * 9)
    file = written(tmp_path, ("source: digits", f"source: mnist, root: {tmp_path / 'set'}"))
    (line,) = refused(file)
    assert line.startswith("e.yaml:2: data.root: ")
    assert "ubyte is damaged: " in line


def test_a_library_that_cannot_be_written_is_a_mistake_of_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError) as caught:
        Library(str(tmp_path / "file" / "library")).check_writable()
    assert re.fullmatch(
        r"library: the library /.*/file/library cannot be used: .*; set `library:` to a writable "
        r"place",
        str(caught.value),
    )


def test_a_library_of_an_unknown_kind_is_a_mistake_of_one_line():
    with pytest.raises(ConfigError, match="library: the library gopher://x/y cannot be used: "):
        Library("gopher://x/y")


# Changes from outside


def test_changes_are_laid_over_the_file(tmp_path):
    changes = {
        "run.trials": 7,
        "student.training.lr": 0.5,
        "stages.teacher.training.epochs": 3,
        "student.network.width": 0.5,
        "student.training.schedule.warmup": 2.0,
        "goal.subject_to": {},
        "teacher.seed": 4,
        "run.scheduler": "asha",
        "run.scheduler.grace_epochs": 1,
    }
    experiment = load_experiment(written(tmp_path), changes)
    student = experiment.stage_configs["student"]
    assert experiment.run.trials == 7
    assert student.training.lr == 0.5
    assert student.network.settings.width == 0.5
    assert student.network.settings.depth == 2
    assert student.training.schedule.kind == "cosine"
    assert student.training.schedule.warmup == 2.0
    assert experiment.stage_configs["teacher"].training.epochs == 3
    assert experiment.stage_configs["teacher"].seed == 4
    assert experiment.limits == {}
    assert experiment.run.scheduler.grace_epochs == 1


@pytest.mark.parametrize("path", ["schedule.warmup", "schedule.cosine.warmup"])
@pytest.mark.parametrize(
    "schedule", ["cosine", "{cosine: {warmup: 1}}", "{kind: cosine, warmup: 1}", "{cosine: {}}"]
)
def test_a_setting_is_reached_whichever_way_its_schedule_is_written(tmp_path, schedule, path):
    if path == "schedule.cosine.warmup" and "kind" in schedule:
        pytest.skip("the path does not go with this form")
    file = written(tmp_path, ("{cosine: {warmup: 1}}", schedule))
    experiment = load_experiment(file, {f"student.training.{path}": 3.0})
    assert experiment.stage_configs["student"].training.schedule.warmup == 3.0


@pytest.mark.parametrize("name", ["run", "goal", "search", "library", "study", "name", "stages"])
def test_a_stage_called_like_a_top_level_field_hides_no_field(tmp_path, name):
    renamed = [("  student:\n", f"  {name}:\n"), ("maximize: student.", f"maximize: {name}.")]
    renamed += [("  student.training", f"  {name}.training")]
    file = written(tmp_path, *renamed, ("{student.parameters: 1_000}", "{}"))
    changes = {"run.trials": 9, "name": "other", f"stages.{name}.training.batch_size": 7}
    experiment = load_experiment(file, changes)
    assert (experiment.run.trials, experiment.name) == (9, "other")
    assert experiment.stage_graph().student.operation.training.batch_size == 7


def test_a_wrong_change_is_not_blamed_on_the_file(tmp_path):
    assert refused(written(tmp_path), {"student.training.lr": -1, "run.trails": 3}) == [
        refused(written(tmp_path), {"run.trails": 3})[0],
        "--set: stages.student.training.lr: input should be greater than 0, found -1",
    ]
    (line,) = refused(written(tmp_path), {"studnt.training.lr": 1})
    assert line.startswith("--set: unknown field 'studnt'; ")


def test_pairs_from_the_command_line_are_yaml():
    pairs = ["a.b=1e-3", "c=[x, y]", "d=", "e=f=g", "run.scheduler={asha: {grace_epochs: 2}}"]
    assert parse_overrides(pairs) == {
        "a.b": 1e-3,
        "c": ["x", "y"],
        "d": None,
        "e": "f=g",
        "run.scheduler": {"asha": {"grace_epochs": 2}},
    }


@pytest.mark.parametrize("pair", ["a.b", "=3", "a.b=[1", "a=!!python/name:os.system"])
def test_what_is_no_pair_is_refused_in_one_line(pair):
    with pytest.raises(ConfigError) as caught:
        parse_overrides([pair])
    assert str(caught.value).startswith("--set: ")
    assert len(caught.value.problems) == 1
    assert "\n" not in str(caught.value)


# What is valid although it looks odd


def test_teachers_may_be_searched(tmp_path):
    """A stage that only a searched value names is needed none the less."""
    changes = {
        "stages.other": {"network": "cnn6", "objective": {"cross_entropy": {}}},
        "search": {"student.teachers": {"choice": [["assistants"], ["teacher", "other"]]}},
    }
    experiment = load_experiment(written(tmp_path), changes)
    recipe = experiment.stage_graph({"student.teachers": ["teacher", "other"]})
    assert [stage.label for stage in recipe.student.parents] == ["teacher", "other"]


def test_a_links_name_may_come_from_the_search(tmp_path):
    links = {"assistants.links": {"cnn4": {"training": {"lr": 0.3}}}}
    experiment = load_experiment(written(tmp_path), links)
    recipe = experiment.stage_graph({"assistants.networks": ["cnn6", "cnn4"]})
    assert {s.label: s.operation.training.lr for s in recipe.student.ancestors()} == {
        "teacher": 0.05,
        "assistants/cnn6": 0.05,
        "assistants/cnn4": 0.3,
        "student": 0.01,
    }


def test_declared_ranges_of_data_can_be_searched(tmp_path):
    changes = {"search": {"data.augment.crop": "declared", "data.augment.flip": "declared"}}
    changes["data.augment.crop"] = 1
    with pytest.raises(ConfigError, match=r"the value 8 is not allowed: data\.augment\.crop"):
        load_experiment(written(tmp_path), changes)
    del changes["search"]["data.augment.crop"]
    experiment = load_experiment(written(tmp_path), changes)
    assert experiment.with_values({"data.augment.flip": True})[1].augment.flip


def test_a_limit_between_the_ends_of_a_range_can_be_met(tmp_path):
    changes = {
        "search": {"student.network.width": {"uniform": [0.1, 4.0]}},
        "goal.subject_to": {"student.parameters": {"min": 2000, "max": 4000}},
    }
    assert load_experiment(written(tmp_path), changes).limits
    changes["goal.subject_to"] = {"student.parameters": {"min": 10**7}}
    (line,) = refused(written(tmp_path), changes)
    assert "no network of this search satisfies it (at least 1e+07): they have " in line


def test_limits_that_exclude_each_other_are_found_where_all_can_be_tried(tmp_path):
    changes = {
        "search": {"student.network": {"choice": ["cnn2", "cnn4"]}},
        "goal.subject_to": {"student.parameters": 5000, "student.flops": {"min": 400_000}},
    }
    lines = refused(written(tmp_path), changes)
    assert len(lines) == 2
    changes["goal.subject_to"] = {"student.parameters": 5000}
    assert load_experiment(written(tmp_path), changes).limits


def test_an_experiment_without_a_search_is_one(tmp_path):
    experiment = load_experiment(written(tmp_path), {"search": {}, "goal": None})
    assert experiment.final_name == "student"
    assert [(goal.figure, goal.maximize) for goal in experiment.goals] == [("val_accuracy", True)]


# To a file and back


SETTINGS = [
    {},
    {"run.scheduler": "asha"},
    {"run.scheduler": {"asha": {"grace_epochs": 1, "reduction_factor": 2.5}}},
    {"run.scheduler": {"median": {"min_trials": 2}}},
    {"run.scheduler": "hyperband", "run.sampler": "gp"},
    {"run.sampler": "grid", "run.resources": {"cpu": 0.5, "gpu": 0.25}, "run.repeats.top": 0},
    {"data.augment": {"flip": True, "views": 2}, "data.normalise": {"mean": [0.3], "std": [0.2]}},
    {"goal": {"maximize": ["student.val_accuracy"], "minimize": ["student.flops"]}},
    {"goal.subject_to": {"student.flops": {"min": 100.0}, "student.parameters": 5000}},
    {"library": "elsewhere", "tracking": "http://host:5000"},
    {"search": {}, "goal": None},
    {"search": {"student.training.epochs": {"integers": [1, 9, 2]}, "student.seed": "declared"}},
    {"search": {"assistants.links.*.training.lr": "declared", "data.limit": {"choice": [50, 90]}}},
    {"search": {"student.network": {"choice": ["cnn2", {"cnn2": {"width": 0.25}}]}}},
    {"assistants.dense": True, "assistants.links": {"cnn6": {"training": {"lr": 0.2}}}},
]


@pytest.mark.parametrize("changes", SETTINGS, ids=[",".join(s) or "as is" for s in SETTINGS])
def test_an_experiment_survives_being_written_down(tmp_path, changes):
    changes = copy.deepcopy(changes)
    if changes.get("search", {}).get("student.seed"):
        changes["search"]["student.seed"] = {"integers": [0, 3]}
    experiment = load_experiment(written(tmp_path), changes)
    text = to_yaml(experiment.plain())
    (tmp_path / "again.yaml").write_text(text)
    again = load_experiment(tmp_path / "again.yaml")
    assert again == experiment
    assert to_yaml(again.plain()) == text
    assert load_experiment(experiment.plain()) == experiment
    assert again.stage_graph().keys_by_label == experiment.stage_graph().keys_by_label


class Lows:
    """A chooser that takes the second of everything."""

    def suggest_float(self, name, low, high, log):
        return (low * high) ** 0.5 if log else (low + high) / 2

    def suggest_int(self, name, low, high, step):
        return min(low + step, high)

    def suggest_index(self, name, count, labels):
        return 1


@pytest.mark.parametrize("changes", SETTINGS, ids=[",".join(s) or "as is" for s in SETTINGS])
def test_a_settled_configuration_is_an_experiment_with_the_same_student(tmp_path, changes):
    changes = copy.deepcopy(changes)
    if changes.get("search", {}).get("student.seed"):
        changes["search"]["student.seed"] = {"integers": [0, 3]}
    experiment = load_experiment(written(tmp_path), changes)
    values = experiment.suggest(Lows())
    told = yaml.safe_load(to_yaml(experiment.fixed_configuration(values, "best")))
    assert "search" not in told
    settled = load_experiment(told)
    assert settled.name == "best"
    assert settled.stage_graph().student.key == experiment.stage_graph(values).student.key


def test_an_experiment_is_loaded_from_python_values_too(tiny):
    tiny["stages"]["student"]["teachers"] = ("assistants",)
    assert load_experiment(tiny).stage_graph().keys_by_label
