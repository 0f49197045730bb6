"""What a report tells of assemblies: their picture, predicted against reached, the table."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from markupsafe import escape
from scipy.stats import kendalltau, spearmanr

from stillhouse.search.artifacts.record import Payload, Record
from stillhouse.search.driver.launch import launch
from stillhouse.search.experiment.goal import Goal
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.report import write_report
from stillhouse.search.report.core.assembled import (
    MAX_ASSEMBLIES,
    find_assemblies,
    select_assemblies,
)
from stillhouse.search.report.core.participants import find_participants
from stillhouse.search.report.page.assembly_table import prediction_sentences
from stillhouse.search.report.pictures.prediction import assemblies_by_score
from stillhouse.search.results.outcome import Outcome, SeedRuns, TrialResult

EXPERIMENT = {"name": "cut", "stages": {}, "search": {}}
NASTY = """<b>"x" & 'y'</b>"""
CANDIDATES = ("kept", "ghost-ratio4", "pruned-ratio0_25", "identity")


def record(key, kind, figures, parents=(), work=None, facts=None):
    return Record(
        key=key,
        name=key,
        kind=kind,
        identity={"work": work or {"network": {"family": "resnet"}}},
        parents=tuple(parents),
        payload=Payload(name="a.safetensors", sha256="0" * 64, size=1),
        figures=figures,
        facts=facts or {},
        seconds=1.0,
        made_at="2026-01-01T00:00:00+00:00",
    )


def parts_of(labels, width=1.0, **more):
    """Facts of an assembly with a part a block; its middle cut may be narrow."""
    ends = [1.0] * (len(labels) + 1)
    ends[len(labels) // 2] = width
    inner = [
        {"start": i, "stop": i + 1, "enter": ends[i - 1], "leave": ends[i]}
        for i in range(1, len(labels) + 1)
    ]
    last = len(labels) + 1
    every = [
        {"name": "stem", "start": 0, "stop": 1, "enter": 1.0, "leave": 1.0},
        *({**p, "name": f"{p['start']}-{p['stop']} {n}"} for p, n in zip(inner, labels, strict=1)),
        {"name": "head", "start": last, "stop": last + 1, "enter": 1.0, "leave": 1.0},
    ]
    costs = [{"parameters": 100.0 * i, "flops": 10.0, "bytes": 400.0 * i} for i in range(last + 1)]
    return {
        "assembly": {
            "teacher": {},
            "pieces": [
                {**p, "block": {"kind": n.partition("-")[0]}}
                for p, n in zip(inner, labels, strict=True)
            ],
        },
        "chosen": [p["name"] for p in every[1:-1]],
        "parts": [{**p, "score": 0.1, "costs": c} for p, c in zip(every, costs, strict=True)],
        **more,
    }


class Search:
    """Makes up what a search over assemblies leaves behind."""

    def __init__(self):
        teacher = record("teacher", "train", {"val_accuracy": 0.93, "parameters": 9000.0})
        self.stages, self.trials, self.repeats = {"teacher": teacher}, [], []

    def assembly(self, score, accuracy, *, work=None, width=1.0, figures=None, **facts):
        number = sum(r.kind == "assemble" for r in self.stages.values())
        labels = [CANDIDATES[number // 4**i % 4] for i in range(4)]
        work = {
            "score": "kl",
            "rank": number,
            "budgets": {"parameters": {"max": 700}},
            **(work or {}),
        }
        told = {"val_accuracy": accuracy, "planned_score": score, "parameters": 600.0}
        facts, key = parts_of(labels, width, **facts), f"assembly{number}"
        told |= figures or {}
        self.stages[key] = record(key, "assemble", told, ["teacher"], work, facts)
        return key

    def student(self, start, accuracy, state="finished", work=None):
        number = len(self.trials)
        key, work = f"student{number}", work or {"network": None}
        if state == "finished":
            figures = {"val_accuracy": accuracy, "parameters": 600.0}
            self.stages[key] = record(key, "train", figures, [start, "teacher"], work)
        keys = {"teacher": "teacher", "assembled": start, "student": key}
        self.trials.append(TrialResult(number, state, {}, keys, {"val_accuracy": accuracy}, ""))
        return key

    def outcome(self, **changes):
        known = Outcome(
            name="cut-1",
            goals=(Goal("val_accuracy", True),),
            trials=tuple(self.trials),
            seed_runs=tuple(self.repeats),
            records=self.stages,
            labels={key: made.name for key, made in self.stages.items()},
            made_keys=frozenset(),
            reused_keys=frozenset(),
            importances={},
            seconds=1.0,
        )
        return replace(known, **changes)


class Text(HTMLParser):
    """A page's words, and the rows of each of its tables."""

    def __init__(self, text):
        super().__init__()
        self.words, self.rows, self.inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        self.words.append(data)
        if self.inside:
            self.rows[-1][-1] += data

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def table(self, column):
        """The table with such a column, as mappings."""
        first = next(i for i, row in enumerate(self.rows) if column in row)
        names, found = self.rows[first], []
        for row in self.rows[first + 1 :]:
            if row[0] == "stage":  # the next table's head
                break
            found.append(dict(zip(names, row, strict=True)))
        return found


def reported(outcome, folder):
    folder.mkdir(exist_ok=True)
    write_report(outcome, EXPERIMENT, folder)
    return Text((folder / "report.html").read_text(encoding="utf-8"))


def noisy(count=9, students=6):
    """Assemblies whose scores rank them nearly as they come out, tuned ones worse than that."""
    search, shift = Search(), (0.0, 0.09, -0.05, 0.02, -0.11)
    for i in range(count):
        key = search.assembly(0.2 + 0.1 * i, 0.8 - 0.04 * i + shift[i % 5])
        if i < students:
            search.student(key, 0.9 - 0.01 * i + 0.3 * shift[(3 * i) % 5])
            search.student(key, 0.7 - 0.01 * i)
    return search


def test_every_part_of_every_chosen_assembly_is_drawn(tmp_path):
    search = noisy()
    outcome = search.outcome()
    reported(outcome, tmp_path)
    drawn = ElementTree.parse(tmp_path / "assemblies.svg").getroot().iter()
    found = {e.get("id") for e in drawn if (e.get("id") or "").startswith("row")}
    rows = select_assemblies(outcome)
    assert len(rows) == MAX_ASSEMBLIES
    assert found == {
        f"row{place}-{part['start']}-{part['stop']}"
        for place, row in enumerate(rows)
        for part in row.record.facts["parts"]
    }
    text = (tmp_path / "assemblies.svg").read_text(encoding="utf-8")
    for row in rows:
        both = [100 * row.metric("val_accuracy"), 100 * row.best_accuracy]
        assert f"{both[0]:.2f} → {both[1]:.2f} %" in text
        assert f"trial {row.trials[0].number} and 1 other" in text
    for kind in ("kept", "ghost", "pruned", "identity"):
        assert f">{kind}<" in text
    assert ">ratio4<" in text
    assert ">ratio0.25<" in text


def test_a_box_is_as_high_at_its_ends_as_its_boundaries_are_wide(tmp_path):
    search = Search()
    search.student(search.assembly(0.3, 0.7, width=0.5), 0.8)
    page = reported(search.outcome(), tmp_path)
    assert "as high at its ends as the share of the teacher's channels" in page.text
    root = ElementTree.parse(tmp_path / "assemblies.svg").getroot()
    ends = {}
    for place in ("0-1", "1-2", "2-3", "3-4"):
        group = next(e for e in root.iter() if e.get("id") == f"row0-{place}")
        path = next(e for e in group.iter() if e.tag.endswith("path")).get("d")
        ys = [float(y) for y in re.findall(r"[ML] \S+ (\S+)", path)][:4]
        ends[place] = abs(ys[3] - ys[0]), abs(ys[2] - ys[1])
    full = ends["0-1"][0]
    assert ends["0-1"] == pytest.approx((full, full))
    assert ends["2-3"] == pytest.approx((full, 0.5 * full), rel=1e-3) or ends["1-2"][1] < full
    narrow = [end for pair in ends.values() for end in pair if end < 0.9 * full]
    assert narrow == pytest.approx([0.5 * full] * 2, rel=1e-3)


def test_correlations_are_those_of_scipy(tmp_path):
    search = noisy()
    page = reported(search.outcome(), tmp_path)
    stages = [r for r in search.stages.values() if r.kind == "assemble"]
    scores = [r.figures["planned_score"] for r in stages]
    plain = [r.figures["val_accuracy"] for r in stages]
    tuned = [
        max(s.figures["val_accuracy"] for s in search.stages.values() if r.key in s.parents)
        for r in stages[:6]
    ]
    for count, accuracies in ((9, plain), (6, tuned)):
        spearman = -spearmanr(scores[:count], accuracies).statistic
        kendall = -kendalltau(scores[:count], accuracies).statistic
        assert 0 < spearman < 1
        assert f"Spearman {spearman:.2f}, Kendall {kendall:.2f}" in page.text
    assert "9 assemblies by their added-up kl" in page.text
    assert "Rings are assemblies that no student went on from." in page.text
    assert "tells little" not in page.text


def test_scores_of_two_sorts_are_not_ranked_together():
    search = noisy(5)
    for i in range(4):
        search.assembly(100.0 + i, 0.5 + 0.1 * i, work={"score": "nmse"})
    groups = assemblies_by_score(search.outcome())
    assert {score: len(rows) for score, rows in groups.items()} == {"kl": 5, "nmse": 4}
    told = prediction_sentences(search.outcome())
    assert "Spearman -1.00, Kendall -1.00" in next(t for t in told if "nmse" in t)
    assert "The planner's score tells little here" in next(t for t in told if "nmse" in t)


def test_two_assemblies_rank_nothing(tmp_path):
    page = reported(noisy(2, 2).outcome(), tmp_path)
    assert not (tmp_path / "prediction.svg").exists()
    assert (tmp_path / "assemblies.svg").exists()
    assert "Spearman" not in page.text


def test_equal_scores_are_said_to_rank_nothing(tmp_path):
    search = Search()
    for i in range(4):
        search.assembly(0.5, 0.6 + 0.01 * i)
    page = reported(search.outcome(), tmp_path)
    assert "no rank correlation, since all are equal" in page.text
    assert "nan" not in page.text


def test_the_same_network_under_two_budgets_is_one_dot_and_one_row():
    search = noisy(4, 4)
    twin = search.stages["assembly1"]
    work = {**twin.identity["work"], "budgets": {"parameters": {"max": 900}}}
    search.stages["twin"] = twin.model_copy(update={"key": "twin", "identity": {"work": work}})
    search.student("twin", 0.99)
    outcome = search.outcome()
    assert len(find_assemblies(outcome)) == 5
    (rows,) = assemblies_by_score(outcome).values()
    assert len(rows) == 4
    best = select_assemblies(outcome)[0]
    assert [trial.number for trial in best.trials] == [8, 2, 3]
    assert best.best_accuracy == 0.99


def test_students_belong_to_the_assembly_they_went_on_from():
    search = Search()
    first, other = search.assembly(0.3, 0.7), search.assembly(0.4, 0.6)
    search.student(search.student(first, 0.8), 0.85)  # gone on from twice
    search.student(other, 0.99, work={"network": {"family": "resnet"}})  # taught by it only
    search.student(other, 0.9, state="pruned")
    found = {one.record.key: one for one in find_assemblies(search.outcome())}
    assert [trial.number for trial in found[first].trials] == [1, 0]
    assert found[first].best_accuracy == 0.85
    assert found[other].trials == ()


def test_an_assembly_that_is_the_student_itself_has_a_trial_and_no_tuned_student(tmp_path):
    search = Search()
    key = search.assembly(0.3, 0.7)
    made = search.stages[key]
    search.stages["part"] = record("part", "neighbourhood", {"val_accuracy": 0.5}, ["teacher"])
    search.stages[key] = made.model_copy(update={"parents": ("teacher", "part")})
    keys = {"teacher": "teacher", "part": "part", "assembled": key}
    search.trials.append(TrialResult(0, "finished", {}, keys, {"val_accuracy": 0.7}))
    page = reported(search.outcome(), tmp_path)
    (row,) = page.table("predicted score")
    assert row["as assembled, %"] == "70.00"
    assert "best fine-tuned, %" not in row
    assert ">70.00 %<" in (tmp_path / "assemblies.svg").read_text(encoding="utf-8")


def test_repeated_trials_and_the_best_of_each_budget_are_drawn_first():
    search = noisy(9, 9)
    small = search.assembly(2.0, 0.3, work={"budgets": {"parameters": {"max": 100}}})
    search.student(small, 0.4)
    last = search.trials[15]
    made = search.stages[last.stage_keys["student"]]
    search.repeats.append(SeedRuns("trial 15", (1,), (made,)))
    outcome = search.outcome()
    keys = [one.record.key for one in select_assemblies(outcome)]
    assert len(keys) == MAX_ASSEMBLIES
    assert {small, last.stage_keys["assembled"]} <= set(keys)
    order = [one.record.key for one in find_assemblies(outcome)]
    assert keys == sorted(keys, key=order.index)


def test_table_holds_what_is_known_and_no_empty_column(tmp_path):
    search = noisy(3, 1)
    figures = {"latency_ms": 3.25, "planned_latency_ms": 2.5, "summed_latency_ms": 4.0}
    over = {"latency_ms": {"found": 3.25, "most": 3.0, "least": None}}
    work = {"budgets": {"latency_ms": {"min": 1.0, "max": 3.0}}}
    search.assembly(0.9, 0.75, figures=figures | {"planned_loss": 0.3}, work=work, over=over)
    rows = reported(search.outcome(), tmp_path / "a").table("predicted score")
    assert len(rows) == 4
    assert rows[0]["trials"] == "0, 1"
    assert rows[0]["best fine-tuned, %"] == "90.00"
    assert rows[0]["parts"] == "kept 1-2, 2-3, 3-4, 4-5"
    assert rows[0]["budget"] == "parameters ≤ 700"
    timed = next(row for row in rows if row["latency, ms"])
    assert timed["parts"] == "identity 1-2; kept 2-3, 3-4, 4-5"
    assert timed["budget"] == "1 ms ≤ latency ≤ 3 ms"
    assert timed["predicted accuracy, %"] == "70.00"
    assert (timed["predicted latency, ms"], timed["latency, ms"]) == ("2.5", "3.25")
    assert timed["over budget"] == "latency 3.25 ms, allowed 3 ms"
    plain = reported(noisy(3, 1).outcome(), tmp_path / "b").table("predicted score")
    assert not {"latency, ms", "over budget", "predicted accuracy, %"} & plain[0].keys()


def test_calibration_is_told_before_after_and_left_out():
    def known(error, spearman):
        return {"mean_absolute_error": error, "spearman": spearman, "kendall": 0.5}

    score = {
        "before": known(0.43, 0.81),
        "after": known(0.021, 0.93),
        "left_out": known(0.03, None),
    }
    times = {"before": known(1.25, 0.9), "after": known(0.05, 1.0), "left_out": known(0.0712, 0.9)}
    facts = {"assemblies": 8, "score": score, "latency_ms": times}
    search = Search()
    for i in range(2):
        figures = {"planned_loss": 0.32 - 0.02 * i, "latency_ms": 3.0, "planned_latency_ms": 3.1}
        figures["summed_latency_ms"] = 4.0
        search.assembly(0.3 + i, 0.7, figures=figures, calibration=facts)
    told = prediction_sentences(search.outcome())
    assert len(told) == 4  # what both share is told once
    for words in (
        "Calibrated by 8 assemblies",
        "apart by 43.00 points (Spearman 0.81) before and by 2.10 points (Spearman 0.93) after",
        "a fit to the others, is 3.00 points (Spearman none)",
        "the added-up kl is read as accuracy lost",
    ):
        assert words in told[0]
    assert "apart by 1.25 ms (Spearman 0.90) before and by 0.05 ms (Spearman 1.00)" in told[1]
    assert "is 0.0712 ms (Spearman 0.90)" in told[1]
    assert not any("no better than before" in text for text in told)
    assert "2 assemblies planned with a calibration" in told[2]
    assert "was 1.00 points off" in told[2]
    assert "latency was 0.1 ms off, the plain sum of their parts' 1 ms" in told[3]


def test_a_calibration_that_foretells_nothing_is_said_to():
    known = {"mean_absolute_error": 0.1, "spearman": 0.5, "kendall": 0.5}
    score = {"before": known, "after": known | {"mean_absolute_error": 0.0}, "left_out": known}
    search = Search()
    facts = {"assemblies": 3, "score": score}
    search.assembly(0.3, 0.7, work={"score": "accuracy_drop"}, calibration=facts)
    (told,) = prediction_sentences(search.outcome())
    assert "That is no better than before" in told
    assert "resembles" not in told


def test_networks_measured_before_are_not_counted_as_predicted():
    search = Search()
    figures = {"planned_loss": 0.4}
    for accuracy in (0.6, 0.5):
        search.assembly(0.3, accuracy, figures=figures)
    same = search.stages["assembly0"]
    work = {"work": {**same.identity["work"], "share": 0.5}}
    search.stages["first"] = same.model_copy(update={"key": "first", "identity": work})
    (told,) = prediction_sentences(search.outcome())
    assert "Of 1 assembly planned with a calibration" in told
    assert "10.00 points off" in told


def test_what_serves_assemblies_alone_is_nobodys_teacher():
    search = noisy(3, 1)
    search.stages["time"] = record("time", "latency", {"latency_ms": 1.0})
    search.stages["part"] = record("part", "neighbourhood", {"val_accuracy": 0.5}, ["teacher"])
    first = search.assembly(0.5, 0.5, work={"share": 0.25, "budgets": {}})
    trial = search.trials[0]
    keys = {"time": "time", "part": "part", "assembled/first1": first, **trial.stage_keys}
    stopped = {**keys, "student": "a student that left no record"}
    search.trials[0] = replace(trial, stage_keys=keys)
    search.trials.append(TrialResult(2, "pruned", {}, stopped, {"val_accuracy": 0.2}))
    outcome = search.outcome()
    assert find_participants(outcome, EXPERIMENT).students[-1].taught_by == ("teacher",)
    assert set(find_participants(outcome, EXPERIMENT).shared) == {
        "teacher",
        trial.stage_keys["assembled"],
    }
    found = next(one for one in find_assemblies(outcome) if one.record.key == first)
    assert found.is_calibration
    assert found.label == "assembled/first1"


def test_records_without_costs_are_drawn_without_them(tmp_path):
    search = noisy(3, 3)
    for key, made in search.stages.items():
        facts = {name: fact for name, fact in made.facts.items() if name != "parts"}
        search.stages[key] = made.model_copy(update={"facts": facts})
    page = reported(search.outcome(), tmp_path)
    text = (tmp_path / "assemblies.svg").read_text(encoding="utf-8")
    assert "row0-0-1" in text
    assert "row0-5-6" in text
    assert "parameters, %" not in text
    assert "ghost ratio4 1-2; kept 2-3, 3-4, 4-5" in page.text


def test_searches_without_assemblies_tell_nothing_of_them(tmp_path):
    search = Search()
    search.student("teacher", 0.9, work={"network": {"family": "resnet"}})
    page = reported(search.outcome(), tmp_path)
    assert not {"assemblies.svg", "prediction.svg"} & {f.name for f in tmp_path.iterdir()}
    assert "ssembl" not in page.text


def test_names_are_escaped(tmp_path):
    search = noisy(3, 3)
    made = search.stages["assembly1"]
    kind = NASTY.replace(" ", "")
    parts = [dict(part) for part in made.facts["parts"]]
    parts[1]["name"] = f"1-2 {kind}"
    pieces = [dict(piece) for piece in made.facts["assembly"]["pieces"]]
    pieces[0]["block"] = {"kind": kind}
    facts = {**made.facts, "parts": parts, "assembly": {"teacher": {}, "pieces": pieces}}
    identity = {"work": {**made.identity["work"], "score": NASTY, "budgets": {NASTY: {"max": 1}}}}
    search.stages["assembly1"] = made.model_copy(update={"facts": facts, "identity": identity})
    page = reported(search.outcome(), tmp_path)
    ElementTree.parse(tmp_path / "assemblies.svg")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert kind not in text
    assert NASTY not in text
    assert str(escape(NASTY)) in text
    assert kind in page.text


def test_a_real_search_tells_its_assemblies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fast = {"epochs": 1, "batch_size": 50, "lr": 0.02}
    labels = {"cross_entropy": {}}
    told = {
        "name": "cut",
        "library": str(tmp_path / "library"),
        "data": {"source": "digits", "limit": 150, "validation": 0.2},
        "stages": {
            "teacher": {
                "network": {"resnet8": {"width": 0.25}},
                "objective": labels,
                "training": fast,
            },
            "parts": {
                "do": "neighbourhoods",
                "teacher": "teacher",
                "candidates": ["kept", "depthwise", "identity"],
                "longest": 1,
                "training": fast,
            },
            "assembled": {
                "do": "assemble",
                "neighbourhoods": "parts",
                "calibrate": 6,
                "latency": {},
                "recalibrate": 1,
            },
            "student": {"start": "assembled", "objective": labels, "training": fast},
        },
        "search": {"assembled.rank": {"integers": [0, 2]}},
        "goal": {"maximize": "student.val_accuracy"},
        "run": {"repeats": {"top": 0}, "baselines": False, "sampler": "grid"},
    }
    launched = launch(load_experiment(told), inline=True)
    outcome, folder = launched.outcome, launched.folder.path
    drawn = ElementTree.parse(folder / "assemblies.svg").getroot().iter()
    found = {e.get("id") for e in drawn if (e.get("id") or "").startswith("row")}
    rows = select_assemblies(outcome)
    assert len(rows) == 3
    assert len(found) == sum(len(row.record.facts["chosen"]) + 2 for row in rows)
    for row in rows:
        assert row.parts[0].start == 0
        assert row.parts[-1].stop == 5  # a stem, three blocks, a head
        assert sum(part.costs["parameters"] for part in row.parts) == row.metric("parameters")
    page = Text((folder / "report.html").read_text(encoding="utf-8"))
    table = page.table("predicted score")
    assert len(table) == sum(r.kind == "assemble" for r in outcome.records.values())
    assert all(row["predicted latency, ms"] and row["latency, ms"] for row in table)
    assert "Calibrated by" in page.text
    assert {each.label for each in find_participants(outcome, told).shared.values()} == {
        "teacher",
        "assembled",
    }
