"""The report of a made-up search: pictures, page and table, from nothing to hundreds of trials."""

import csv
import hashlib
import itertools
import json
import math
import random
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import matplotlib
import pytest
import yaml
from PIL import Image

from stillhouse.search.artifacts.record import Payload, Record
from stillhouse.search.core import formatting
from stillhouse.search.core.formatting import format_duration
from stillhouse.search.experiment.goal import Goal
from stillhouse.search.report import write_report
from stillhouse.search.report.core.axes_choice import choose_metric_axes, pareto_front
from stillhouse.search.report.core.lineage import build_forest
from stillhouse.search.report.core.participants import find_participants
from stillhouse.search.results.outcome import (
    Outcome,
    SeedRuns,
    TrialResult,
    winner,
    winners_by_group,
)
from stillhouse.search.results.statistics import mean_and_spread, verdict

SIZES = {
    "cnn10": 2_249_000,
    "cnn8": 1_146_000,
    "cnn6": 287_000,
    "cnn4": 72_300,
    "cnn3": 39_400,
    "cnn2": 17_900,
}
BASE = {"cnn10": 0.926, "cnn8": 0.917, "cnn6": 0.899, "cnn4": 0.868, "cnn3": 0.842, "cnn2": 0.781}
EXPERIMENT = {
    "name": "assistants",
    "data": {"source": "cifar10"},
    "stages": {
        "teacher": {"network": "cnn10"},
        "assistants": {"do": "chain", "teacher": "teacher", "networks": ["cnn6"]},
        "student": {"network": "cnn2", "teachers": ["assistants"]},
    },
    "search": {
        "assistants.networks": {"chain": {"of": ["cnn8", "cnn6", "cnn4"], "at_most": 2}},
        "student.network": {"choice": ["cnn2", "cnn3"]},
        "student.objective.soft_targets.temperature": {"log_uniform": [1, 20]},
        "student.objective.soft_targets.weight": {"uniform": [0.1, 0.9]},
        "student.training.lr": {"log_uniform": [0.003, 0.3]},
    },
    "goal": {"maximize": "student.val_accuracy"},
    "run": {"trials": 24},
    "library": "lib",
}
ACCURACY = (Goal("val_accuracy", True),)
CHAINS = [c for n in range(3) for c in itertools.combinations(("cnn8", "cnn6", "cnn4"), n)]


class Search:
    """Makes up what a search with assistants leaves behind."""

    def __init__(self, trials=24, seed=0, students=("cnn2", "cnn3"), teacher="teacher"):
        self.random = random.Random(seed)
        self.teacher = teacher
        self.stages = {}
        drawn = range(trials)
        self.trials = tuple(self.trial(n, self.random.choice(students)) for n in drawn)

    def made(self, label, network, parents, accuracy, epochs=30, trial=None, **figures):
        said = json.dumps([label, network, parents, trial, figures])
        key = hashlib.sha256(said.encode()).hexdigest()
        if key in self.stages:
            return key
        rate = self.random.uniform(0.12, 0.25)
        curve = []
        for epoch in range(1, epochs + 1):
            low = accuracy * (1 - 0.75 * math.exp(-rate * epoch))
            noise = self.random.gauss(0, 0.012) * math.exp(-epoch / 12)
            curve.append({"epoch": float(epoch), "val_accuracy": low + noise, "train_loss": 1.0})
        curve[-1]["val_accuracy"] = accuracy
        self.stages[key] = Record(
            key=key,
            name=label,
            kind="train",
            identity={"work": {"network": {"family": "plain_cnn"}}},
            parents=tuple(parents),
            payload=Payload(name="a.safetensors", sha256="0" * 64, size=4 * SIZES[network]),
            figures={"val_accuracy": accuracy, "parameters": float(SIZES[network]), **figures},
            curve=tuple(curve),
            facts={"device": "A processor", "versions": {"torch": "2.14.1", "git": "abc"}},
            seconds=SIZES[network] / 4000 + 30,
            made_at="2026-01-01T00:00:00+00:00",
        )
        return key

    def chain(self, networks):
        keys = {self.teacher: self.made(self.teacher, "cnn10", [], BASE["cnn10"])}
        gain = 0.0
        for network in networks:
            gain += 0.006
            label = f"assistants/{network}"
            before = list(keys.values())[-1]
            keys[label] = self.made(label, network, [before], BASE[network] + gain)
        return keys

    def accuracy(self, student, networks, values):
        temperature = values["student.objective.soft_targets.temperature"]
        lr = values["student.training.lr"]
        off = 0.016 * math.log(temperature / 4.5) ** 2 + 0.012 * math.log(lr / 0.06) ** 2
        step = 0.012 if "cnn4" in networks else 0.008 * len(networks)
        return BASE[student] + 0.02 + step - off + self.random.gauss(0, 0.004)

    def trial(self, number, student):
        networks = self.random.choice(CHAINS)
        values = {
            "assistants.networks": list(networks),
            "student.network": student,
            "student.objective.soft_targets.temperature": math.exp(self.random.uniform(0, 3)),
            "student.objective.soft_targets.weight": self.random.uniform(0.1, 0.9),
            "student.training.lr": math.exp(self.random.uniform(math.log(0.003), math.log(0.3))),
        }
        keys = self.chain(networks)
        accuracy = self.accuracy(student, networks, values)
        if number % 11 == 7:
            keys["student"] = hashlib.sha256(repr(values).encode()).hexdigest()
            reason = "train_loss is nan after epoch 3: training diverged; try a smaller lr"
            return TrialResult(number, "failed", values, keys, {}, reason)
        if accuracy < BASE[student] - 0.012:
            keys["student"] = hashlib.sha256(repr(values).encode()).hexdigest()
            figures = {"epoch": 9.0, "val_accuracy": accuracy * 0.83}
            return TrialResult(
                number, "pruned", values, keys, figures, "stopped at epoch 9 by asha"
            )
        before = list(keys.values())[-1]
        keys["student"] = self.made("student", student, [before], accuracy, trial=number)
        return TrialResult(
            number, "finished", values, keys, dict(self.stages[keys["student"]].figures)
        )

    def repeated(self, role, student, accuracy, seeds, label="student"):
        keys = [
            self.made(label, student, [], accuracy + self.random.gauss(0, 0.003), seed=seed)
            for seed in seeds
        ]
        return SeedRuns(role, tuple(seeds), tuple(self.stages[key] for key in keys))

    def outcome(self, seeds=(1, 2, 3, 4, 5), goals=ACCURACY, **changes):
        done = [t for t in self.trials if t.state == "finished"]
        done.sort(key=lambda t: -t.figures["val_accuracy"])
        repeats = []
        for trial in done[:3] if seeds else ():
            network, accuracy = trial.values["student.network"], trial.figures["val_accuracy"]
            role = f"trial {trial.number}"
            repeats.append(self.repeated(role, network, accuracy - 0.003, seeds, role))
        if done and seeds:
            best = done[0]
            network, accuracy = best.values["student.network"], best.figures["val_accuracy"]
            repeats.append(self.repeated("plain", network, accuracy - 0.021, seeds, "plain"))
            repeats.append(self.repeated("direct", network, accuracy - 0.005, seeds, "direct"))
        shared = {k for t in self.trials for k in list(t.stage_keys.values())[:-1]}
        teacher = {key for key in shared if not self.stages[key].parents}
        known = Outcome(
            name="assistants-1",
            goals=goals,
            trials=self.trials,
            seed_runs=tuple(repeats),
            records=self.stages,
            labels={key: record.name for key, record in self.stages.items()},
            made_keys=frozenset(shared - teacher),
            reused_keys=frozenset(teacher),
            importances={
                "student.training.lr": 0.41,
                "student.objective.soft_targets.temperature": 0.33,
                "assistants.networks.cnn4": 0.12,
                "student.network": 0.09,
                "student.objective.soft_targets.weight": 0.03,
                "assistants.networks.cnn8": 0.015,
                "assistants.networks.cnn6": 0.005,
            }
            if len(done) > 3
            else {},
            seconds=1834.0,
        )
        return replace(known, **changes)


PICTURES = ("seeds", "size", "chains", "curves", "importances")
NASTY = """<script>alert('$x^$ & "y"')</script>"""


class Page(HTMLParser):
    """Reads a page strictly: tags must nest, and what refers to something is kept."""

    VOID = ("meta", "br", "img", "link", "input")

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.references, self.tags, self.words = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            elif name in ("href", "xlink:href", "src"):
                self.references.append(value)
            self.references += re.findall(r"url\(([^)]*)\)", value or "")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def reported(outcome, folder, experiment=EXPERIMENT, best_yaml=""):
    folder.mkdir(exist_ok=True)
    files = write_report(outcome, experiment, folder, best_yaml=best_yaml)
    assert all(file.parent == folder and file.stat().st_size > 0 for file in files)
    assert sorted(files) == sorted(folder.iterdir())
    return Page((folder / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    outcome = Search().outcome()
    return outcome, folder, reported(outcome, folder, best_yaml=yaml.safe_dump(EXPERIMENT))


def test_every_picture_is_written_in_both_forms(whole):
    _, folder, _ = whole
    assert {file.name for file in folder.iterdir()} == {
        *(f"{name}.{kind}" for name in PICTURES for kind in ("svg", "png")),
        "trials.csv",
        "report.html",
    }
    for name in PICTURES:
        ElementTree.parse(folder / f"{name}.svg")
        with Image.open(folder / f"{name}.png") as image:
            image.verify()


def test_page_needs_nothing_but_itself(whole):
    _, folder, page = whole
    assert not re.search(r"https?://|//cdn|@import", (folder / "report.html").read_text())
    assert "link" not in page.tags
    assert page.tags.count("svg") == len(PICTURES)
    assert len(page.ids) == len(set(page.ids))
    assert page.references
    assert all(r.startswith("#") and r[1:] in page.ids for r in page.references)


def test_page_tells_what_the_outcome_holds(whole):
    outcome, _, page = whole
    best = winner(outcome)
    assert f"The best student ({best.role}, " in page.text
    assert f"{100 * best.mean('val_accuracy'):.2f} ± {100 * best.spread('val_accuracy'):.2f} %" in (
        page.text
    )
    for role in ("plain", "direct"):
        other = next(r for r in outcome.seed_runs if r.role == role)
        assert verdict(best, other, "val_accuracy").text in page.text
    saved = sum(outcome.records[key].seconds for key in outcome.reused_keys)
    assert f"6 made, 1 reused from the library (saved {format_duration(saved)})" in page.text
    assert "stopped at epoch 9 by asha" in page.text
    assert "training diverged; try a smaller lr" in page.text
    assert "soft_targets" in page.text
    for key in outcome.made_keys | outcome.reused_keys:
        assert key[:12] in page.text


def test_same_outcome_gives_the_same_bytes(tmp_path):
    outcome = Search(6).outcome()
    for name in "ab":
        reported(outcome, tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_pictures_leave_the_users_settings_alone(tmp_path):
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 30}):
        reported(Search(5).outcome(), tmp_path / "set")
        assert matplotlib.rcParams["font.size"] == 30
    assert dict(matplotlib.rcParams) == before
    reported(Search(5).outcome(), tmp_path / "unset")
    for file in (tmp_path / "set").iterdir():
        assert file.read_bytes() == (tmp_path / "unset" / file.name).read_bytes()


def test_names_are_escaped_wherever_they_come_from(tmp_path):
    search = Search(8, teacher=NASTY, students=("cnn2",))
    failed = TrialResult(8, "failed", {NASTY: [NASTY]}, {}, {NASTY: math.nan}, NASTY)
    outcome = search.outcome(name=NASTY, trials=(*search.trials, failed))
    outcome = replace(outcome, importances={NASTY: 0.7, "student.training.lr": 0.3})
    experiment = EXPERIMENT | {"search": {NASTY: {"choice": [NASTY, 1]}}, "name": NASTY}
    page = reported(outcome, tmp_path, experiment, best_yaml=NASTY)
    assert page.tags.count("script") == 1  # the one that sorts tables
    assert page.text.count(NASTY) >= 8
    for picture in tmp_path.glob("*.svg"):
        ElementTree.parse(picture)


@pytest.mark.parametrize("trials", [0, 1, 2, 5])
def test_few_trials(trials, tmp_path):
    search = Search(trials)
    page = reported(search.outcome(), tmp_path)
    assert f"{trials} trial{'' if trials == 1 else 's'} in 30 min 34 s" in page.text
    finished = any(trial.state == "finished" for trial in search.trials)
    assert ("No trial has finished" in page.text) != finished


@pytest.mark.parametrize("values", [(0.8,), (0.8, 0.8), (0.0, 0.0, 0.0, 0.0, 1.0)])
def test_few_or_equal_values(values, tmp_path):
    search = Search(0)
    keys, trials = search.chain(["cnn4"]), []
    for number, value in enumerate(values):
        student = search.made("student", "cnn2", [list(keys.values())[-1]], value, trial=number)
        figures = search.stages[student].figures
        searched = {"student.training.lr": 0.1, "student.network": "cnn2"}
        trials.append(
            TrialResult(number, "finished", searched, {**keys, "student": student}, dict(figures))
        )
    importances = {"student.training.lr": 0.0, "student.network": 0.0}
    search.trials = tuple(trials)
    page = reported(search.outcome(importances=importances), tmp_path)
    assert f"{len(values)} finished" in page.text


def test_none_finished(tmp_path):
    search = Search(4)
    trials = tuple(replace(t, state="failed", figures={}, reason="boom") for t in search.trials)
    page = reported(search.outcome(seeds=(), trials=trials, importances={}), tmp_path)
    assert "No trial has finished" in page.text
    assert "boom" in page.text


def test_missing_figures_and_records(tmp_path):
    search = Search(10)
    trials = [replace(t, figures={}) if t.number % 2 else t for t in search.trials]
    nothing = TrialResult(10, "finished", {}, {}, {"val_accuracy": math.nan})
    outcome = search.outcome(trials=(*trials, nothing), records={})
    page = reported(outcome, tmp_path)
    assert "11 trials" in page.text


def test_a_goal_that_no_repeated_record_holds(tmp_path):
    search = Search(10)
    timed = [replace(t, figures={**t.figures, "latency_ms": 1.0 + t.number}) for t in search.trials]
    goals = (Goal("latency_ms", False), Goal("val_accuracy", True))
    page = reported(search.outcome(trials=tuple(timed), goals=goals), tmp_path)
    assert "One seed only: no spread known" in page.text
    assert "latency, ms" in page.text


def test_one_seed_is_called_one_seed(tmp_path):
    page = reported(Search(12).outcome(seeds=(1,)), tmp_path)
    sentences, table, _ = page.text.partition("seconds an epoch")
    assert table
    assert sentences.count("one seed only: no spread known") == 3


def test_test_split_is_told_where_it_was_looked_at(tmp_path):
    outcome = Search(12).outcome()
    tests = {winner(outcome).role: (0.81, 0.83), "plain": (0.8,)}
    page = reported(replace(outcome, test_accuracies=tests), tmp_path)
    assert "On the test split, looked at once" in page.text
    assert "82.00 ± 1.41 %, plain 80.00 %" in page.text


def test_two_goals_make_a_front_over_both(tmp_path):
    search = Search(24)
    goals = (Goal("val_accuracy", True), Goal("parameters", False))
    outcome = search.outcome(goals=goals)
    cast_ = find_participants(outcome, EXPERIMENT)
    found = pareto_front(cast_.students, choose_metric_axes(goals))
    done = [t for t in outcome.trials if t.state == "finished"]
    for size in {t.figures["parameters"] for t in done}:
        same = [t for t in done if t.figures["parameters"] == size]
        best = max(same, key=lambda t: t.figures["val_accuracy"])
        assert [s.trial for s in found if s.metric("parameters") == size] == [best]
    assert reported(outcome, tmp_path).text.count(" yes ") == len(found)


def test_many_trials_show_the_best_chains_only(tmp_path):
    search = Search(300, seed=3)
    trials = []
    for trial in search.trials:  # every assistant with settings of its own: a tree of hundreds
        keys, before = {}, None
        for label, key in list(trial.stage_keys.items())[:-1]:
            record = search.stages[key]
            parents = (before,) if before else ()
            before = key if not parents else f"{trial.number:03d}{key[3:]}"
            search.stages[before] = record.model_copy(update={"key": before, "parents": parents})
            keys[label] = before
        student = trial.stage_keys["student"]
        if student in search.stages:
            changes = {"parents": (before,)}
            search.stages[student] = search.stages[student].model_copy(update=changes)
        trials.append(replace(trial, stage_keys={**keys, "student": student}))
    page = reported(search.outcome(trials=tuple(trials)), tmp_path)
    assert re.search(r"Only the best 24 ends of \d{3} are shown", page.text)
    assert "300 trials" in page.text


def test_table_of_trials_reads_back(whole):
    outcome, folder, _ = whole
    with (folder / "trials.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(outcome.trials)
    for row, trial in zip(rows, outcome.trials, strict=True):
        assert json.loads(row["reused"]) is trial.reused
        assert (int(row["number"]), row["state"], row["reason"]) == (
            trial.number,
            trial.state,
            trial.reason,
        )
        assert json.loads(row["feasible"]) is trial.feasible
        for name, value in {**trial.values, **trial.figures}.items():
            assert (row[name] if isinstance(value, str) else json.loads(row[name])) == value
        told = {name[4:]: key for name, key in row.items() if name.startswith("key.") and key}
        assert told == {label: key[:12] for label, key in trial.stage_keys.items()}


def test_dense_chains_hang_from_their_closest_teacher():
    search = Search(0)
    keys = search.chain(["cnn8", "cnn4"])
    teacher, large, small = keys.values()
    dense = search.stages[small].model_copy(update={"parents": (teacher, large)})
    search.stages[small] = dense
    student = search.made("student", "cnn2", [teacher, large, small], 0.8)
    trial = TrialResult(0, "finished", {}, {**keys, "student": student}, {"val_accuracy": 0.8})
    outcome = replace(search.outcome(seeds=()), trials=(trial,))
    grown = build_forest(find_participants(outcome, EXPERIMENT), ACCURACY[0], 9)
    assert [(n.stage.network, n.depth, n.other_teachers, n.is_dense) for n in grown.nodes] == [
        ("cnn10", 0, (), False),
        ("cnn8", 1, (), False),
        ("cnn4", 2, (), True),
    ]
    assert [leaf.network for leaf in grown.leaves] == ["cnn2"]


def test_tree_gives_every_leaf_a_row_and_keeps_branches_together():
    outcome = Search(60, seed=1).outcome()
    grown = build_forest(find_participants(outcome, EXPERIMENT), ACCURACY[0], 99)
    assert sorted(leaf.row for leaf in grown.leaves) == list(range(grown.num_rows))
    for node in grown.nodes:
        rows = sorted(leaf.row for leaf in node.all_leaves())
        assert rows == list(range(rows[0], rows[-1] + 1))
        assert rows[0] <= node.row <= rows[-1]
    for depth in range(grown.depth + 1):
        rows = sorted(node.row for node in grown.nodes if node.depth == depth)
        assert all(b - a >= 1 for a, b in itertools.pairwise(rows))


GROUPS = {"student.network cnn2": "cnn2", "student.network cnn3": "cnn3"}
HELD_AGAINST = ("plain", "direct", "scratch", "end to end", "uniform")


def grouped():
    """An outcome with the best student of each size, all baselines beside each."""
    search, repeats, before = Search(24), [], {}
    for group, network in GROUPS.items():
        done = [t for t in search.trials if t.state == "finished"]
        own = [t for t in done if t.values["student.network"] == network]
        best = max(own, key=lambda t: t.figures["val_accuracy"])
        accuracy = best.figures["val_accuracy"]
        key = search.made("assembled", network, [], accuracy / 2)
        search.stages[key] = search.stages[key].model_copy(update={"kind": "assemble"})
        before[group] = SeedRuns("assembled", (0,), (search.stages[key],))
        of = {
            f"trial {best.number}": 0.0,
            **{r: 0.01 * (i + 1) for i, r in enumerate(HELD_AGAINST)},
        }
        some = [
            search.repeated(r, network, accuracy - less, (1, 2, 3), r) for r, less in of.items()
        ]
        repeats += [replace(r, group=group) for r in (some[0], before[group], *some[1:])]
    outcome = search.outcome(seed_runs=tuple(repeats))
    tests = {r.name: tuple(0.5 + i / 100 for i in range(len(r.records))) for r in outcome.seed_runs}
    return replace(outcome, test_accuracies=tests)


def test_every_group_is_told_with_all_its_baselines(tmp_path):
    outcome = grouped()
    page = reported(outcome, tmp_path)
    for group, best in winners_by_group(outcome).items():
        short = group.replace("student.", "")
        assert f"{short}: the best ({best.role}, " in page.text
        others = [r for r in outcome.seed_runs if r.group == group and r is not best]
        assert [r.role for r in others] == ["assembled", *HELD_AGAINST]
        for other in others[1:]:
            about = mean_and_spread("val_accuracy", other)
            told = verdict(best, other, "val_accuracy").text
            assert re.search(rf"{short}: against [^.]*{re.escape(about)}", page.text)
            assert told in page.text
        (once,) = others[0].values("val_accuracy")
        gain = formatting.format_difference("val_accuracy", best.mean("val_accuracy") - once)
        assert f"not per seed ({100 * once:.2f} %): {gain}." in page.text
        assert (
            f"On the test split, looked at once ({short}): {best.role} 51.00 ± 1.00 %" in page.text
        )
    for picture in ("seeds", "size"):
        words = "".join(ElementTree.parse(tmp_path / f"{picture}.svg").getroot().itertext())
        for role in ("assembled", *HELD_AGAINST):
            assert words.count(role) == (len(GROUPS) if picture == "seeds" else 1)
    words = "".join(ElementTree.parse(tmp_path / "seeds.svg").getroot().itertext())
    assert all(f"network {network}" in words for network in GROUPS.values())


def test_a_family_without_width_is_told_once(tmp_path):
    outcome = grouped()
    kept = tuple(r for r in outcome.seed_runs if r.role != "uniform")
    text = "Without a student of uniform width"
    assert text not in reported(outcome, tmp_path / "with").text
    page = reported(replace(outcome, seed_runs=kept), tmp_path / "without")
    assert page.text.count(text) == 1


def test_the_best_of_all_is_the_best_of_the_groups():
    outcome = grouped()
    means = {group: r.mean("val_accuracy") for group, r in winners_by_group(outcome).items()}
    assert list(means) == list(GROUPS)
    assert winner(outcome).mean("val_accuracy") == max(means.values())
