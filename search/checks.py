"""What must hold before anything runs; every violation is one line that names its remedy."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from methods.core.composition import DOMAINS, Composition
from methods.core.data.augment import Augment
from methods.core.data.config import DataConfig
from methods.core.data.facts import facts
from search.experiment import Experiment
from search.factorial import check_factorial
from search.how_to_run import check_run
from search.kind import Kind
from search.reach import out_of_reach
from search.recipe import Recipe, data_for, parse_entries
from search.screening import check_screen, check_screen_student
from search.settings import MEASURED, STATIC, ExperimentFile
from search.space import Space, has, parts, without_star
from search.stage import Stage
from search.stages.chain import Chain as ChainEntry
from search.stages.train import UNHEARD, Train, hears
from search.train import TrainNetwork
from search.workers import check_workers
from spaces.domain import Chain, Choice, Cuts, Domain, Integers, parse_domain
from spaces.problem import ConfigError, Problem, unknown

log = logging.getLogger(__name__)


def read_space(
    told: ExperimentFile, entries: Mapping[str, Kind]
) -> tuple[Space, tuple[Problem, ...]]:
    """The searched paths with their domains, and what is wrong with the others.

    ``declared`` takes the domain that is written beside the field.
    """
    space: dict[str, Domain] = {}
    problems: list[Problem] = []
    # Last what is declared, perhaps by a method that another path may choose.
    for path, data in sorted(told.search.items(), key=lambda item: item[1] == "declared"):
        try:
            space[path] = _domain(path, data, entries, space)
        except ConfigError as error:
            problems.extend(error.under("search").problems)
    return {path: space[path] for path in told.search if path in space}, tuple(problems)


def _domain(path: str, data: Any, entries: Mapping[str, Kind], space: Space) -> Domain:
    name, *rest = parts(path)
    if name != "data" and name not in entries:
        raise ConfigError([Problem(path, unknown("stage", name, entries))])
    if not rest:
        message = f"names all of {name!r}; say which of its settings, like {name}.seed"
        raise ConfigError([Problem(path, message)])
    if data != "declared":
        domain = parse_domain(data, path, DOMAINS)
        if isinstance(domain, Composition):
            _check_objective(path, rest, entries.get(name))
        return domain
    declared = _declared_data if name == "data" else entries[name].declared
    found = declared(tuple(rest))
    for outer, domain in space.items():
        if isinstance(domain, Composition) and path.startswith(f"{outer}."):
            found = found or domain.declared(path.removeprefix(f"{outer}."))
    if found is None:
        message = "no range is declared beside this field; write one, like {uniform: [0, 1]}"
        raise ConfigError([Problem(path, message)])
    return found


def _check_objective(path: str, rest: Sequence[str], entry: Kind | None) -> None:
    """Methods make up an objective and nothing else.

    Raises:
        ConfigError: ``path`` leads to another field.
    """
    link = isinstance(entry, ChainEntry) and len(rest) == 3 and rest[0] == "links"
    whole = len(rest) == 1 and entry is not None and "objective" in type(entry).model_fields
    if rest[-1] != "objective" or not (link or whole):
        message = "methods: is for an objective, like student.objective"
        raise ConfigError([Problem(path, message)])


def _declared_data(path: tuple[str, ...]) -> Domain | None:
    match path:
        case ("augment", field):
            return Augment.space().get(field)
    return None


def check(experiment: Experiment, known: Iterable[Problem] = ()) -> None:
    """Everything about an experiment that can be known before it runs.

    Args:
        known: problems that were found on the way here, to be told with the others.

    Raises:
        ConfigError: all that is wrong, with paths into the file.
    """
    problems = [*known, *_check_names(experiment)]
    for part in (_check_goal, check_run, check_screen, check_factorial, _check_links, _check_paths):
        problems.extend(part(experiment))
    if experiment.final in experiment.stages:
        unsound = list(_check_data(experiment)) or list(_check_recipe(experiment))
        problems.extend(unsound or (*_check_values(experiment), *check_screen_student(experiment)))
    if not problems:
        problems.extend(out_of_reach(experiment))
    if problems:
        raise ConfigError(dict.fromkeys(problems))


def _check_names(experiment: Experiment) -> Iterator[Problem]:
    for name in experiment.stages:
        if name == "data" or not name.replace("_", "").replace("-", "").isalnum():
            yield Problem(
                f"stages.{name}", "a stage's name has letters, digits, - and _, and is not 'data'"
            )


def _check_data(experiment: Experiment) -> Iterator[Problem]:
    shared = list(_data_problems(experiment.data, "data"))
    yield from shared
    for name, entry in experiment.entries.items():
        if entry.data and not shared:
            try:
                yield from _data_problems(data_for(entry, experiment.data), f"stages.{name}.data")
            except ConfigError as error:
                yield from error.under(f"stages.{name}").problems


def _data_problems(data: DataConfig, place: str) -> Iterator[Problem]:
    try:
        notes = facts(data).notes
    except ConfigError as error:
        for problem in error.problems:
            inner = problem.path.removeprefix("data").removeprefix(".")
            yield Problem(f"{place}.{inner}" if inner else place, problem.message)
    else:
        for note in notes:
            _say_once(note)


@lru_cache
def _say_once(note: str) -> None:
    """Warn of something that is no mistake; stages that share the data share the warning."""
    log.warning("data: %s", note)


def _check_goal(experiment: Experiment) -> Iterator[Problem]:
    goal = experiment.goal
    if goal is None:
        if experiment.search:
            yield Problem("goal", "is missing: say what to maximize, like student.val_accuracy")
        return
    named = [("maximize", p) for p in goal.maximize] + [("minimize", p) for p in goal.minimize]
    places = [(f"goal.{where}", path) for where, path in named]
    places += [(f"goal.subject_to.{path}", path) for path in goal.subject_to]
    known = experiment.final in experiment.stages
    for place, path in places:
        stage, _, figure = path.partition(".")
        if stage not in experiment.stages:
            yield Problem(place, unknown("stage", stage, experiment.stages))
        elif known and stage != experiment.final:
            yield Problem(place, f"trials make {experiment.final!r}; only its figures can be used")
        elif figure not in STATIC + MEASURED:
            yield Problem(place, unknown("figure", figure, STATIC + MEASURED))


def _check_links(experiment: Experiment) -> Iterator[Problem]:
    """What ``links`` names can be in the chain, as written or as searched."""
    for name, entry in experiment.entries.items():
        if isinstance(entry, ChainEntry):
            possible = [spec.label for spec in entry.networks]
            for value in _searched(f"{name}.networks", experiment):
                possible += [str(network) for network in value]
            try:
                entry.check_links(tuple(dict.fromkeys(possible)))
            except ConfigError as error:
                yield from error.under(f"stages.{name}").problems


def _searched(path: str, experiment: Experiment) -> tuple[Any, ...]:
    """All lists that a searched field with a list may hold."""
    domain = experiment.search.get(path)
    found = domain.grid(1) if isinstance(domain, Chain | Choice) else ()
    return tuple(value for value in found if isinstance(value, list | tuple))


def _check_recipe(experiment: Experiment) -> Iterator[Problem]:
    try:
        recipe = experiment.recipe()
    except ConfigError as error:
        yield from error.under("stages").problems
        return
    for name, kind in experiment.entries.items():
        settled = f"{name}.objective" not in experiment.search
        if settled and isinstance(kind, Train) and kind.teachers and not hears(kind.objective):
            yield Problem(f"stages.{name}.teachers", UNHEARD)
    for name, entry in recipe.entries.items():
        try:
            entry.stage.work.identity()
        except ConfigError as error:
            yield from error.under(f"stages.{name}").problems
            return  # without what decides it there are no keys to go by
    yield from _check_figures(experiment, recipe)
    yield from check_workers(experiment, recipe)
    if experiment.run.baselines and recipe.student.data.augment.noise:
        message = "hold the student against one taught by labels, and noise has none; set false"
        yield Problem("run.baselines", message)
    if experiment.search:
        needed = _needed(experiment)
        for name in experiment.stages:
            if name not in needed and name != "data":
                message = f"nothing that leads to {experiment.final!r} needs it"
                yield Problem(f"stages.{name}", message)


def _check_figures(experiment: Experiment, recipe: Recipe) -> Iterator[Problem]:
    """Figures that the student will not have."""
    student = recipe.student
    wanted = {goal.figure for goal in experiment.goals} | set(experiment.limits)
    validated = sorted(figure for figure in wanted if "val_" in figure)
    if validated and not facts(student.data).sizes["validation"]:
        message = f"holds nothing out, and {validated[0]} is measured there; set 0.1"
        yield Problem("data.validation", message)
    teachers = student.parents or _searched(f"{experiment.final}.teachers", experiment)
    if "val_agreement" in wanted and not teachers:
        message = "val_agreement compares with a teacher, and the student has none"
        yield Problem("goal", message)
    yield from _check_special(wanted, student)


def _check_special(wanted: Iterable[str], student: Stage) -> Iterator[Problem]:
    """Figures that only some data and some networks have."""
    for figure in sorted(wanted):
        if "subclass" in figure and student.subclasses == 1:
            message = f"{figure} needs a network that splits classes; set subclasses beside it"
            yield Problem("goal", message)
        elif figure.endswith(("recovery", "majority")) and student.data.merge is None:
            message = f"{figure} asks for hidden classes, and data.merge hides none"
            yield Problem("goal", message)
        elif figure == "val_task_accuracy" and student.data.classes is None:
            message = f"{figure} is that among some classes, and data.classes leaves all"
            yield Problem("goal", message)
        elif figure.endswith(("before", "forgetting")) and not _learnt_before(student):
            message = f"{figure} asks for start: <an entry> that learnt from other data"
            yield Problem("goal", message)


def _learnt_before(student: Stage) -> bool:
    return isinstance(student.work, TrainNetwork) and bool(student.work.before)


def _needed(experiment: Experiment) -> set[str]:
    """The stages that lead to the final one, as written or as searched."""
    found: set[str] = set()
    ahead = [experiment.final]
    if experiment.run.screen:
        ahead.append(experiment.run.screen.stage)
    while ahead:
        name = ahead.pop()
        if name in found or name not in experiment.entries:
            continue
        found.add(name)
        ahead += experiment.entries[name].needs()
        ahead += [n for value in _searched(f"{name}.teachers", experiment) for n in value]
        teacher = experiment.search.get(f"{name}.teacher")
        ahead += teacher.values if isinstance(teacher, Choice) else ()
    return found


def _check_paths(experiment: Experiment) -> Iterator[Problem]:
    for path in experiment.search:
        if not _exists(path, experiment):
            yield Problem(f"search.{path}", _nowhere(path, experiment))


def _check_values(experiment: Experiment) -> Iterator[Problem]:
    for path, domain in experiment.search.items():
        if _exists(path, experiment):
            # What all links may be given in common, each may be given alone.
            common = without_star(path)
            found = list(_unfit(common, _extremes(domain), experiment))
            if isinstance(domain, Chain) and not found:
                found = list(_unfit(common, [domain.of], experiment))
            yield from (Problem(f"search.{path}", message) for message in found)


def _unfit(path: str, values: Iterable[Any], experiment: Experiment) -> Iterator[str]:
    for value in values:
        for problem in _value_problems(path, value, experiment):
            yield f"the value {_shown(value)} is not allowed: {problem}"


def _extremes(domain: Domain) -> Sequence[Any]:
    """The values whose fitness vouches for the rest: all of a few, the ends of a range."""
    match domain:
        case Chain(of):
            return [(member,) for member in of]
        case Composition(members):
            none = [()] if members.at_least == 0 else []
            return [*none, *((member,) for member in members.of)]
        case Cuts(of):
            return [(cut,) for cut in of]
        case Integers(low, high, step):
            return sorted({low, range(low, high + 1, step)[-1]})
    return domain.grid(2)


def _value_problems(path: str, value: Any, experiment: Experiment) -> Iterable[Problem]:
    values = _surroundings(path, experiment) | {path: value}
    try:
        if parts(path)[0] == "data":
            _, data = experiment.with_values(values)
            if problems := list(_data_problems(data, "data")):
                return problems
        experiment.recipe(values)
    except ConfigError as error:
        return error.problems
    return ()


def _shown(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else repr(value)


def _exists(path: str, experiment: Experiment) -> bool:
    if parts(path)[0] == "data":
        return has({"data": experiment.data.plain()}, path)
    if "*" in path:
        entry = experiment.entries[parts(path)[0]]
        starred = parts(path)[1:3] == ("links", "*") and isinstance(entry, ChainEntry)
        if not (starred and parts(path)[3:] and "*" not in without_star(path)):
            return False
    return _surroundings(path, experiment, probe=True) is not None


def _surroundings(path: str, experiment: Experiment, probe: bool = False) -> Any:
    """Values of other searched paths under which ``path`` exists; none if it never does."""
    plain = without_star(path)
    settings: list[dict[str, Any]] = [{}]
    for outer, domain in experiment.search.items():
        if path.startswith(f"{outer}.") and isinstance(domain, Choice):
            settings = [{outer: value} for value in domain.values]
        elif path.startswith(f"{outer}.") and isinstance(domain, Composition):
            settings = [{without_star(outer): (member,)} for member in domain.members.of]
    for values in settings:
        try:
            entries = parse_entries(experiment.with_values(values)[0])
        except ConfigError:
            continue
        if has({name: entry.plain() for name, entry in entries.items()}, plain):
            return values
    return None if probe else {}


def _nowhere(path: str, experiment: Experiment) -> str:
    """Where a path stops being known, and what could follow."""
    if "*" in path:
        starred = f"{parts(path)[0]}.links.*"
        if not isinstance(experiment.entries[parts(path)[0]], ChainEntry):
            return "leads nowhere: only a chain has links"
        if parts(path)[:3] != parts(starred) or not parts(path)[3:]:
            return f"leads nowhere: * stands for a link's name, like {starred}.training.lr"
    current: Any = {name: entry.plain() for name, entry in experiment.entries.items()}
    current["data"] = experiment.data.plain()
    walked: list[str] = []
    for step in parts(without_star(path)):
        if not isinstance(current, Mapping):
            return f"leads nowhere: {'.'.join(walked)} has no settings inside"
        if step not in current:
            message = unknown("field", step, map(str, current))
            return f"leads nowhere: {message} at {'.'.join(walked) or 'the top'}"
        current = current[step]
        walked.append(step)
    return "leads nowhere"
