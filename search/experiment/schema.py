"""What an experiment file says besides its stages: the goal, and how to run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, field_validator, model_validator

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.search.core.addresses import embedded_keys_message
from stillhouse.search.core.model_name import name_problem
from stillhouse.search.core.study_uri import check_study_uri
from stillhouse.search.experiment.tuner_settings import (
    SAMPLERS,
    SCHEDULERS,
    Sampler,
    Scheduler,
)
from stillhouse.spaces.config.base import Config, setting
from stillhouse.spaces.config.limits import Limit, as_limit
from stillhouse.spaces.latency import LatencySettings


def _as_list(data: Any) -> Any:
    return (data,) if isinstance(data, str) else data


MetricPaths = Annotated[tuple[str, ...], BeforeValidator(_as_list)]


class GoalSettings(Config):
    """What to drive up or down, and the limits the student must keep."""

    maximize: MetricPaths = setting((), "stage.figure, or several")
    minimize: MetricPaths = setting((), "stage.figure, or several")
    subject_to: dict[str, Annotated[Limit, BeforeValidator(as_limit)]] = setting(
        {}, "stage.figure -> the largest allowed value, or {min: ..., max: ...}"
    )

    @model_validator(mode="after")
    def _require_a_goal(self) -> GoalSettings:
        if not self.maximize + self.minimize:
            raise ValueError("needs maximize, minimize or both")
        return self


class ResourceSettings(Config):
    """What one trial, or one shared stage, occupies."""

    cpu: float = setting(1.0, "processor cores", gt=0.0)
    gpu: float = setting(0.0, "devices; fractions share one", ge=0.0)

    @field_validator("gpu")
    @classmethod
    def _require_whole_gpus(cls, gpu: float) -> float:
        if gpu > 1 and gpu != int(gpu):
            raise ValueError(f"needs a fraction below 1 or a whole number, found {gpu}")
        return gpu


class RepeatSettings(Config):
    """How the winner is settled: the best few configurations again, over several seeds."""

    top: int = setting(3, "configurations to repeat; 0 for none", ge=0)
    seeds: int = setting(3, "seeds for each", ge=1)
    first_seed: int | None = setting(
        None, "the first of them; none: 1 after a search, whose trials have seed 0, else 0", ge=0
    )
    of_each: str | None = setting(
        None, "a searched path: so many of each of its values, each with baselines of its own"
    )
    from_random: dict[str, Any] = setting(
        {}, "changes to the training of baselines from random weights, such as {lr: 0.1}"
    )


class ScreenSettings(Config):
    """A cheap first look: proposals are ranked by students trained on distilled data alone."""

    stage: str = setting(..., "an entry that makes the data (do: distil_data)")
    keep: float = setting(
        0.25, "share of the proposals that goes on to real training", gt=0.0, lt=1.0
    )
    check: float = setting(
        0.1,
        "share of the others that goes on too: only what is trained for real tells how well the "
        "screen ranks, and the kept alone, all good, tell little; 0: what leaves any out stays on",
        ge=0.0,
        lt=1.0,
    )
    trust: float = setting(
        0.3,
        "rank correlation with the real figure below which the screen is switched off, once there "
        "are 8 trials with both, 3 of them not kept",
        ge=-1.0,
        le=1.0,
    )
    epochs: int | None = setting(None, "over the distilled data; none: as many as are drawn", ge=1)


class RunSettings(Config):
    """How to run: none of it changes what a stage's result is."""

    trials: int = setting(32, "configurations to try", ge=1)
    sampler: Sampler = setting(SAMPLERS.load("tpe")(), "who proposes them")
    start: Literal["sampler", "presets", "file"] = setting(
        "sampler",
        "presets: the methods' published settings are the first trials; file: the values that "
        "the file holds",
    )
    neighbours: int = setting(
        0, "with start: file, so many trials more, each with one of those values changed", ge=0
    )
    grid_points: int = setting(3, "values a continuous domain has in a grid", ge=1)
    scheduler: Scheduler = setting(SCHEDULERS.load("none")(), "who stops hopeless trials early")
    screen: ScreenSettings | None = setting(None, "who is trained at all, judged by distilled data")
    resources: ResourceSettings = setting(ResourceSettings(), "for each trial")
    concurrent: int | None = setting(
        None, "trials at once; none means as many as fit on the nodes there are", ge=1
    )
    seed: int = setting(0, "the sampler's", ge=0)
    repeats: RepeatSettings = setting(RepeatSettings(), "of the best configurations")
    baselines: bool = setting(True, "also train the plain and the directly distilled student")
    latency: LatencySettings = setting(LatencySettings(), "how latency_ms is measured")
    # Two hours: longer than an epoch of what is worth a search, and short enough that a GPU which
    # hangs on a Friday works again on Friday.
    hang_after: float | None = setting(
        7200.0,
        "seconds without a report after which a stage or trial counts as hung and is started anew; "
        "none: never",
        gt=0.0,
    )
    register_as: str | None = setting(None, "register the winner in MLflow under this name")

    @field_validator("register_as")
    @classmethod
    def _require_model_name(cls, register_as: str | None) -> str | None:
        if register_as is not None and (fault := name_problem(register_as)):
            raise ValueError(fault)
        return register_as


class FactorialSettings(Config):
    """Whether distillation adds to other techniques: each without and with it, seed by seed."""

    techniques: dict[str, dict[str, Any]] = setting(
        ..., "name -> what it changes: path -> value, as of `search:`", min_length=1
    )
    seeds: int = setting(5, "seeds of every student, the same for all", ge=2)
    margin: float = setting(
        0.005, "an interaction that is surely smaller than this counts as none", gt=0.0
    )
    confidence: float = setting(0.95, "of the intervals", gt=0.0, lt=1.0)

    @field_validator("techniques")
    @classmethod
    def _require_valid_names(
        cls, techniques: dict[str, dict[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        for name in techniques:
            if not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(f"needs letters, digits, - and _, found {name!r}")
        return techniques


class ExperimentFile(Config):
    """The top level of an experiment file."""

    name: str = setting(..., "letters, digits, - and _", pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    data: DataConfig = setting(..., "the data set")
    stages: dict[str, dict[str, Any]] = setting(..., "name -> what to make", min_length=1)
    search: dict[str, Any] = setting({}, "path -> the values it may take")
    factorial: FactorialSettings | None = setting(
        None, "techniques to be tried without and with distillation, instead of a search"
    )
    goal: GoalSettings | None = setting(None, "what to look for")
    run: RunSettings = setting(RunSettings(), "how to run")
    library: str = setting("stillhouse-library", "folder or URI where artifacts are kept")
    tracking: str | None = setting(None, "MLflow's URI; none means a database beside the runs")
    study: str | None = setting(None, "Optuna's database; none means a journal in the run's folder")

    @field_validator("study")
    @classmethod
    def _require_database(cls, study: str | None) -> str | None:
        if study is not None:
            check_study_uri(study)
        return study

    @field_validator("library")
    @classmethod
    def _refuse_credentials(cls, library: str) -> str:
        if fault := embedded_keys_message(library):
            raise ValueError(fault)
        return library


TOP_LEVEL_FIELDS = frozenset(ExperimentFile.model_fields)
"""Names that ``--set`` resolves to the top level of the file before it looks for a stage."""
