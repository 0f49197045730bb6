"""The objective of a training run: a weighted sum of methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema
from torch import Tensor, nn

from stillhouse.methods.core.config.requirements import TeacherRequirement
from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.method import BuildContext, Method, MethodConfig, Progress
from stillhouse.spaces.config.base import fingerprint
from stillhouse.spaces.config.domains import Domain
from stillhouse.spaces.config.plugins import PluginRegistry
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown_message
from stillhouse.spaces.modules.network import Output

METHODS: PluginRegistry[Method] = PluginRegistry("stillhouse.methods", Method, "method")


@dataclass(frozen=True)
class Objective:
    """Methods with their settings; a type for fields of settings."""

    terms: Mapping[str, MethodConfig]

    @classmethod
    def parse(cls, data: Any, path: str = "") -> Objective:
        """From ``{cross_entropy: {}, soft_targets: {weight: 0.9}}``.

        Raises:
            ConfigError: no methods, an unknown one, wrong settings, or only zero weights; each
                problem has its dotted path.
        """
        if isinstance(data, Objective):
            return data
        if not isinstance(data, Mapping) or not data:
            message = f"needs {{method: {{settings}}}}, found {data!r}; methods: "
            raise ConfigError([Problem(path, message + ", ".join(METHODS.names()))])
        problems: list[Problem] = []
        terms: dict[str, MethodConfig] = {}
        for name, settings in data.items():
            try:
                terms[name] = parse_term(name, settings, path)
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(problems)
        if not any(term.weight > 0 for term in terms.values()):
            message = "every weight is 0, so there is no loss; raise one of them"
            raise ConfigError([Problem(path, message)])
        return cls(terms)

    @property
    def needs_teacher(self) -> bool:
        """Whether a method with a weight above 0 learns from a teacher."""
        return any(METHODS.load(name).needs_teacher for name in self._active_names())

    @property
    def needs_labels(self) -> bool:
        """Whether a method with a weight above 0 reads the labels."""
        return any(METHODS.load(name).needs_labels for name in self._active_names())

    @property
    def methods_needing_hard_labels(self) -> tuple[str, ...]:
        """The methods with a weight above 0 that read labels and accept no soft ones."""
        methods = {name: METHODS.load(name) for name in sorted(self._active_names())}
        return tuple(n for n, m in methods.items() if m.needs_labels and not m.accepts_soft_labels)

    def requirements(self) -> tuple[tuple[str, TeacherRequirement], ...]:
        """Requirements on the teachers, each with the name of its method."""
        return tuple(
            (name, requirement)
            for name in sorted(self._active_names())
            for requirement in self.terms[name].requirements()
        )

    @property
    def num_subclasses(self) -> int:
        """Number of subclasses per class that the student must have; 1 means none."""
        return max(self.terms[name].num_subclasses() for name in self._active_names())

    @property
    def methods_needing_subclasses(self) -> tuple[str, ...]:
        """The methods with a weight above 0 that need a student with subclasses."""
        return tuple(n for n in self._active_names() if METHODS.load(n).needs_subclasses)

    def plain(self) -> dict[str, Any]:
        """Every setting, defaults included; :meth:`parse` reads it back."""
        return {name: term.plain() for name, term in self.terms.items()}

    def identity(self) -> dict[str, Any]:
        """The settings and versions that decide the loss."""
        return {
            name: {**term.identity(), "version": METHODS.load(name).version}
            for name, term in self.terms.items()
        }

    def search_space(self) -> dict[str, Domain]:
        """The declared domains of all terms' settings, by dotted path."""
        return {
            f"{name}.{field}": domain
            for name, term in self.terms.items()
            for field, domain in type(term).search_space().items()
        }

    def build(self, context: BuildContext) -> ObjectiveModule:
        """The loss for one student and its teachers; its weights come from torch's generator.

        Raises:
            ConfigError: a method needs a teacher and has none, or does not fit the networks.
        """
        methods: dict[str, Method] = {}
        # Sorted: the last bit of a sum depends on the order, and the stage key does not.
        for name in sorted(self._active_names()):
            method = METHODS.load(name)
            if method.needs_teacher and not context.teachers:
                raise ConfigError([Problem(name, "learns from a teacher, and none is given")])
            try:
                methods[name] = method(self.terms[name], context)
            except ConfigError as error:
                raise error.with_prefix(name) from None
        return ObjectiveModule(methods)

    def _active_names(self) -> list[str]:
        return [name for name, term in self.terms.items() if term.weight > 0]

    def __hash__(self) -> int:
        return hash(fingerprint(self.plain()))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda objective: objective.plain()
            ),
        )


def parse_term(name: Any, settings: Any, path: str = "") -> MethodConfig:
    """The settings of one method; the setting ``preset`` names published ones.

    Other settings override those of the preset. The preset's name is not stored: the same values
    without a preset give the same stage key.

    Raises:
        ConfigError: unknown method, preset or setting.
    """
    if name not in METHODS.names():
        raise ConfigError([Problem(path, unknown_message("method", name, METHODS.names()))])
    term_path = f"{path}.{name}" if path else name
    method = METHODS.load(name)
    if isinstance(settings, Mapping) and "preset" in settings:
        overrides = dict(settings)
        preset = overrides.pop("preset")
        if preset not in method.presets:
            message = unknown_message(f"preset of {name}", preset, method.presets)
            raise ConfigError([Problem(f"{term_path}.preset", message)])
        settings = {**method.presets[preset].settings, **overrides}
    return method.Config.parse(settings, term_path)


class ObjectiveModule(nn.Module):
    """The methods of one objective, built for its networks."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        super().__init__()
        self.methods = nn.ModuleDict(methods)

    def active_weights(self, progress: Progress) -> dict[str, float]:
        """The current weights above 0, by method."""
        weights = {
            name: method.config.weight_at(progress.position, progress.epochs)
            for name, method in self._items()
        }
        return {name: weight for name, weight in weights.items() if weight > 0}

    def needs_teachers(self, progress: Progress) -> bool:
        """Whether this step needs the teachers' outputs."""
        active = self.active_weights(progress)
        return any(method.needs_teacher for name, method in self._items() if name in active)

    def student_taps(self) -> frozenset[str]:
        """Blocks of the student whose outputs the methods read."""
        return frozenset(tap for _, method in self._items() for tap in method.student_taps())

    def teacher_taps(self, teacher: int) -> frozenset[str]:
        """Blocks of teacher number ``teacher`` whose outputs the methods read."""
        return frozenset(t for _, method in self._items() for t in method.teacher_taps(teacher))

    def forward(
        self, student: Output, teachers: Sequence[Output], batch: Batch, progress: Progress
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and the loss of every active method, unweighted and detached.

        Outputs in half precision are converted to float32 first.
        """
        student = _to_float32(student)
        teachers = [_to_float32(output) for output in teachers]
        losses: dict[str, Tensor] = {}
        total = student.logits.new_zeros(())
        for name, weight in self.active_weights(progress).items():
            loss = self.methods[name](student, teachers, batch, progress)
            total = total + weight * loss
            losses[name] = loss.detach()
        return total, losses

    def _items(self) -> list[tuple[str, Method]]:
        return [(name, cast(Method, method)) for name, method in self.methods.items()]


def _to_float32(output: Output) -> Output:
    """Losses cancel and exponentiate; half precision has too few digits for both."""

    def to_float32(x: Tensor) -> Tensor:
        return x.float() if x.dtype.itemsize < 4 else x

    return Output(to_float32(output.logits), {k: to_float32(v) for k, v in output.features.items()})
