"""What every file in ``methods`` promises, whoever wrote it."""

from __future__ import annotations

import copy
import inspect
import re

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from stillhouse.methods.core.config.requirements import HeadedTeachers
from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.method import BuildContext, Method, Progress
from stillhouse.methods.core.objective.objective import METHODS, Objective
from stillhouse.spaces.modules.heads import maps, stage_ends, with_linear_heads
from stillhouse.spaces.modules.network import Output
from stillhouse.spaces.network_spec import NetworkSpec

NAMES = METHODS.names()
AT = Progress(epoch=1, epochs=10, step=2, steps_per_epoch=5, seed=3)
aten = torch.ops.aten
WAITING = {
    aten._local_scalar_dense,
    aten.nonzero,
    aten.masked_select,
    aten._unique2,
    aten.unique_dim,
    aten.equal,
    aten.is_nonzero,
    aten.bincount,
}
"""Operations that hand a number to Python, or whose result's shape depends on what a tensor holds.
They make the host wait for any device, and are the same on all."""


class Scene:
    """A student, a teacher and a batch, all drawn from one seed, and what a method says of them.

    Both networks are in eval mode: then they answer every image alike, whatever its batch.
    """

    def __init__(self, name, *, classes=10, batch=6, dtype=torch.float64, equal=False):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            parts = subclasses_for(name)
            teacher = _build("resnet14", classes, dtype, parts)
            self.teacher = with_what_it_needs(name, teacher, classes)
            self.student = _build("resnet8", classes, dtype, parts)
            if equal:
                self.student = copy.deepcopy(self.teacher)
            images = torch.rand(batch, 3, 16, 16, dtype=torch.float64).to(dtype)
            labels = torch.randint(0, classes, (batch,))
            labels[0] = self.teacher(images, ()).logits[0].argmax()  # no teacher knows nothing
            self.batch = Batch(images, labels, torch.arange(batch))
            self.teacher.requires_grad_(False)
            pair = BuildContext(self.student, [self.teacher], classes, 50, images)
            self.module = Objective.parse({name: {}}).build(pair).to(dtype)

    def outputs(self):
        with torch.no_grad():
            said = self.teacher(self.batch.images, self.module.teacher_taps(0))
        return self.student(self.batch.images, self.module.student_taps()), said

    def loss_calibration(self):
        student, teacher = self.outputs()
        return self.module(student, [teacher], self.batch, AT)[0]


def with_what_it_needs(name, teacher, classes):
    """A teacher with heads for a method that says it needs them."""
    needs = Objective.parse({name: {}}).requirements()
    if not any(isinstance(value, HeadedTeachers) for _, value in needs):
        return teacher
    dtype = next(teacher.parameters()).dtype
    ends = stage_ends(maps(teacher.float(), (3, 16, 16)))
    return with_linear_heads(teacher, (3, 16, 16), classes, ends).to(dtype).eval()


def _build(name, classes, dtype, subclasses):
    spec = NetworkSpec.parse(name).with_num_subclasses(subclasses)
    return spec.build((3, 16, 16), classes).to(dtype).eval()


def subclasses_for(name):
    """What networks a method works on: those that split every class, or plain ones."""
    method = METHODS.load(name)
    return 5 if method.needs_subclasses else method.Config().num_subclasses()


def rounded(output):
    """As a network in bfloat16 gives it."""
    half = {name: value.bfloat16() for name, value in output.features.items()}
    return Output(output.logits.bfloat16(), half)


def exact(output):
    features = {name: value.double() for name, value in output.features.items()}
    return Output(output.logits.double(), features)


@pytest.mark.parametrize("name", NAMES)
def test_loss_is_a_finite_scalar_that_teaches_the_student(name):
    scene = Scene(name)
    loss = scene.loss_calibration()
    assert loss.shape == ()
    assert loss.isfinite()
    loss.backward()
    grads = [p.grad for p in scene.student.parameters() if p.grad is not None]
    assert grads, "nothing reaches the student"
    assert all(grad.isfinite().all() for grad in grads)
    assert sum(grad.abs().sum() for grad in grads) > 0


@pytest.mark.parametrize("name", [n for n in NAMES if METHODS.load(n).zero_when_equal])
def test_loss_is_zero_where_student_and_teacher_are_the_same(name):
    assert Scene(name, equal=True).loss_calibration().item() == pytest.approx(0.0, abs=1e-12)
    assert abs(Scene(name).loss_calibration().item()) > 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_no_gradient_reaches_the_teacher(name):
    """A method neither runs a teacher with gradients nor trains it as a part of its own."""
    scene = Scene(name)
    scene.teacher.requires_grad_(True)
    before = copy.deepcopy(scene.teacher.state_dict())
    scene.loss_calibration().backward()
    assert all(p.grad is None for p in scene.teacher.parameters())
    after = scene.teacher.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert not any(p is q for p in scene.module.parameters() for q in scene.teacher.parameters())


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("batch", [1, 6])
@pytest.mark.parametrize("name", NAMES)
def test_any_batch_and_any_number_of_classes(name, batch, classes):
    scene = Scene(name, batch=batch, classes=classes)
    loss = scene.loss_calibration()
    assert loss.isfinite()
    loss.backward()
    grads = [p.grad for p in scene.student.parameters() if p.grad is not None]
    assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("name", NAMES)
def test_float32_is_enough(name):
    one, other = (
        Scene(name, dtype=dtype).loss_calibration().item()
        for dtype in (torch.float32, torch.double)
    )
    assert one == pytest.approx(other, rel=2e-4, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_networks_in_bfloat16_give_the_loss_of_their_rounded_outputs(name):
    scene = Scene(name, dtype=torch.float32)
    student, teacher = (rounded(output) for output in scene.outputs())
    found, _ = scene.module(student, [teacher], scene.batch, AT)
    assert found.dtype == torch.float32
    wanted, _ = scene.module.double()(exact(student), [exact(teacher)], scene.batch, AT)
    assert found.item() == pytest.approx(wanted.item(), rel=2e-4, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_step_has_the_same_loss(name):
    scene = Scene(name)
    torch.manual_seed(0)
    first = scene.loss_calibration().item()
    torch.manual_seed(1)
    assert scene.loss_calibration().item() == first


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_documented_and_their_defaults_lie_in_their_ranges(name):
    settings = METHODS.load(name).Config
    assert settings.parse(settings().plain()) == settings()
    for field, info in settings.model_fields.items():
        assert info.description, f"{field} says nothing"
    for field, domain in settings.search_space().items():
        assert domain.contains(getattr(settings(), field)), f"{field}: {domain}"


@pytest.mark.parametrize("name", NAMES)
def test_the_file_names_its_source_and_stays_short(name):
    method = METHODS.load(name)
    module = inspect.getmodule(method)
    assert re.search(r"\b(19|20)\d\d\b", module.__doc__), "which paper, of which year?"
    assert "=" in module.__doc__, "where is the formula?"
    assert method.__doc__ != Method.__doc__
    assert len(inspect.getsource(module).splitlines()) <= 110


@pytest.mark.parametrize("name", NAMES)
def test_what_a_method_trains_learns_and_stays_out_of_the_student(name):
    scene = Scene(name)
    names = set(scene.student.state_dict())
    scene.loss_calibration().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in scene.module.parameters())
    assert set(scene.student.state_dict()) == names


@pytest.mark.parametrize("name", NAMES)
def test_what_a_method_trains_is_saved_and_loaded(name):
    scene, other = Scene(name), Scene(name)
    with torch.no_grad():
        for parameter in other.module.parameters():
            parameter.add_(0.25)
    if any(True for _ in other.module.parameters()):
        assert not torch.equal(other.loss_calibration(), scene.loss_calibration())
    other.module.load_state_dict(scene.module.state_dict())
    assert torch.equal(other.loss_calibration(), scene.loss_calibration())


class Watch(TorchDispatchMode):
    """Notes every operation that would make the host wait."""

    def __init__(self):
        super().__init__()
        self.with_metric = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        by_mask = func.overloadpacket in (aten.index, aten.index_put, aten.index_put_) and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if by_mask or func.overloadpacket in WAITING:
            self.with_metric.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("wait", [lambda x: x.item(), lambda x: x.nonzero(), lambda x: x[x > 0]])
def test_the_watch_sees_a_wait(wait):
    with Watch() as watch:
        wait(torch.ones(1))
    assert watch.with_metric


@pytest.mark.parametrize("name", NAMES)
def test_no_method_waits_for_the_device_in_a_step(name):
    scene = Scene(name)
    student, teacher = scene.outputs()
    with Watch() as watch:
        scene.module(student, [teacher], scene.batch, AT)[0].backward()
    assert watch.with_metric == []
