"""Training of a student on data and teachers."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from stillhouse.methods.core.config.training import Training
from stillhouse.methods.core.data.dataset import Dataset
from stillhouse.methods.core.objective.method import BuildContext, Progress
from stillhouse.methods.core.objective.objective import Objective
from stillhouse.methods.core.runtime.checkpointing import Checkpointer, EpochMetrics
from stillhouse.methods.core.runtime.communication import SINGLE_PROCESS, Communicator
from stillhouse.methods.core.runtime.epoch_loop import Diverged, EpochLoop, check_finite
from stillhouse.methods.core.runtime.precision import autocast_dtype
from stillhouse.methods.core.runtime.seeding import seeded_torch
from stillhouse.methods.core.training.evaluation import compute_metrics
from stillhouse.methods.core.training.learner import Learner
from stillhouse.methods.core.training.peers import Peers
from stillhouse.methods.core.training.teachers import FrozenTeacher, Teachers
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.network import Network

__all__ = ["Checkpointer", "Diverged", "Training", "selected_metrics", "train"]


def train(
    student: Network,
    teachers: Sequence[FrozenTeacher],
    objective: Objective,
    data: Dataset,
    training: Training,
    *,
    seed: int,
    device: torch.device | str,
    checkpointer: Checkpointer | None = None,
    peers: Sequence[Network] = (),
    communicator: Communicator = SINGLE_PROCESS,
) -> Iterator[EpochMetrics]:
    """Train ``student`` in place from its current weights; yield the metrics of every epoch.

    Every random choice depends on ``seed``, epoch and step. So training that resumes from
    ``checkpointer`` ends with the same bits; it first yields the metrics of finished epochs.

    ``peers`` are trained in place with the same objective. Every network has all others as further
    teachers (see ``stillhouse.methods.core.training.peers``). Their metrics are
    ``train_peer1_loss``, ``peer1_val_accuracy`` ...

    With a distributed ``communicator`` (see ``stillhouse.methods.core.runtime.communication``)
    every process of the group calls this with the same arguments and ends with the same result.

    Yields:
        ``epoch`` (from 1), ``lr`` of its last step, ``train_loss`` and ``train_<method>`` (means
        over the examples), ``val_accuracy``, ``val_nll``, ``val_ece``, with teachers
        ``val_agreement`` (see ``evaluate``), ``best_val_accuracy`` and ``best_epoch`` so far,
        ``images_per_second`` of the steps, ``seconds`` of the epoch. Without a validation split
        its metrics are left out. After the last epoch ``student`` has the result, in contiguous
        format on ``device``.

    Raises:
        ConfigError: settings do not fit the networks or the data.
        Diverged: the loss of an epoch is not finite.
    """
    device = torch.device(device)
    run = _TrainingRun(
        student, teachers, objective, data, training, seed, device, peers, communicator
    )
    yield from run.run(training.epochs, communicator.shared_checkpointer(checkpointer))
    run.store_results()


def selected_metrics(curve: Sequence[EpochMetrics], training: Training) -> EpochMetrics:
    """The metrics of the epoch whose weights :func:`train` leaves in the student.

    Args:
        curve: the metrics of one or more epochs. With ``training.keep: best`` each has a
            ``best_epoch``, counted from 1.
    """
    if training.keep == "last":
        return curve[-1]
    return curve[int(curve[-1]["best_epoch"]) - 1]


def training_metric_names(
    objective: Objective, training: Training, *, validates: bool
) -> frozenset[str]:
    """Names of the metrics of the last epoch of :func:`train`, without those of an evaluation.

    A method with weight 0 in the last epoch has no loss there.
    """
    epochs = training.epochs
    last = (epochs - 1.0, epochs - 1e-6)
    losses = {
        f"train_{name}"
        for name, term in objective.terms.items()
        if any(term.weight_at(position, epochs) > 0 for position in last)
    }
    names = {"lr", "seconds", "images_per_second", *losses}
    names |= {"train_loss"} if losses else set()
    return frozenset(names | ({"best_val_accuracy", "best_epoch"} if validates else set()))


class _TrainingRun(EpochLoop):
    """The training of one student and its peers."""

    def __init__(
        self,
        student: Network,
        teachers: Sequence[FrozenTeacher],
        objective: Objective,
        data: Dataset,
        training: Training,
        seed: int,
        device: torch.device,
        peers: Sequence[Network] = (),
        communicator: Communicator = SINGLE_PROCESS,
    ) -> None:
        super().__init__(device)
        self._data, self._training, self._seed = data, training, seed
        self._communicator = communicator
        self._has_validation = _check_validation(data, training)
        self._dtype = autocast_dtype(training.precision, device, data.shape)
        sample = next(iter(data.batches("train", batch_size=8, device=device))).images
        frozen_teachers = Teachers(teachers, data, sample, self._dtype, communicator)
        self._teacher_predictions = (
            frozen_teachers.predicted_classes("validation")
            if teachers and self._has_validation
            else None
        )
        self._networks = (student, *peers)
        for network in self._networks:
            network.to(device).to(memory_format=torch.channels_last).eval()
        learners = [
            self._build_learner(i, objective, frozen_teachers, sample)
            for i in range(1 + len(peers))
        ]
        self._learner: Learner | Peers = Peers(learners, frozen_teachers) if peers else learners[0]

    def _build_learner(
        self, index: int, objective: Objective, frozen_teachers: Teachers, sample: Tensor
    ) -> Learner:
        """The learner of the student (0) or of a peer, with teachers and all other networks."""
        student = self._networks[index]
        others = [network for network in self._networks if network is not student]
        sizes = self._data.facts.sizes
        context = BuildContext(
            student,
            [*frozen_teachers.originals, *others],
            self._data.classes,
            sizes["train"],
            sample,
        )
        with seeded_torch(self.device, self._seed, _BUILD_STREAM, *([index] if index else [])):
            objective_module = objective.build(context)
        settings = (self._training, self._dtype, self.device, self._communicator)
        return Learner(student, frozen_teachers, objective_module, *settings)

    def run_epoch(self, epoch: int) -> EpochMetrics:
        start_time = time.perf_counter()
        with seeded_torch(self.device, self._seed, _STEPS_STREAM, epoch):
            metrics, images = self._train_steps(epoch)
        training_seconds = time.perf_counter() - start_time
        if self._has_validation:
            metrics |= self._validate(epoch)
        check_finite(metrics, self._training.divergence_remedy)
        return metrics | {"images_per_second": images / training_seconds}

    def _train_steps(self, epoch: int) -> tuple[EpochMetrics, int]:
        """All steps of an epoch; the mean losses, and the number of examples."""
        sums: dict[str, Tensor] = {}
        counts: dict[str, int] = defaultdict(int)
        size, images = self._training.batch_size, 0
        steps = self._data.steps(size)
        self._learner.train()
        batches = self._data.train_batches(
            batch_size=size, epoch=epoch, seed=self._seed, device=self.device
        )
        for step, batch in enumerate(batches):
            progress = Progress(epoch, self._training.epochs, step, steps, self._seed)
            images += len(batch.labels)
            for name, loss in self._learner.step(batch, progress).items():
                sums[name] = loss * len(batch.labels) + sums.get(name, 0.0)
                counts[name] += len(batch.labels)
        lr = self._training.lr_at(epoch + (steps - 1) / steps)
        means = {f"train_{name}": sums[name].item() / counts[name] for name in sums}
        return {"epoch": epoch + 1.0, "lr": lr, **means}, images

    def _validate(self, epoch: int) -> EpochMetrics:
        """Validation metrics of the current networks; weights of a new best epoch are copied."""
        network = self._learner.results[0]
        scores = self._compute_metrics(network, self._teacher_predictions)
        previous = self.curve[-1] if self.curve else {}
        best = {name: previous.get(name, -1.0) for name in ("best_val_accuracy", "best_epoch")}
        if scores["accuracy"] > best["best_val_accuracy"]:
            best = {"best_val_accuracy": scores["accuracy"], "best_epoch": epoch + 1.0}
            if self._training.keep == "best":
                self.best = {k: v.clone() for k, v in network.state_dict().items()}
        return (
            {f"val_{name}": value for name, value in scores.items()} | best | self._peer_metrics()
        )

    def _peer_metrics(self) -> EpochMetrics:
        """Validation metrics of the peers."""
        metrics: EpochMetrics = {}
        for i, network in enumerate(self._learner.results[1:], start=1):
            scores = self._compute_metrics(network)
            metrics |= {f"peer{i}_val_{name}": value for name, value in scores.items()}
        return metrics

    def _compute_metrics(
        self, network: Network, teacher_predictions: Tensor | None = None
    ) -> EpochMetrics:
        placement = (self.device, self._dtype)
        return compute_metrics(
            network,
            self._data,
            "validation",
            *placement,
            teacher_predictions,
            communicator=self._communicator,
        )

    def store_results(self) -> None:
        """Copy the trained weights into the networks."""
        for network, result in zip(self._networks, self._learner.results, strict=True):
            network.load_state_dict(result.state_dict())
            network.to(memory_format=torch.contiguous_format).eval()
        if self.best:
            self._networks[0].load_state_dict(self.best)

    def tensors(self) -> dict[str, Tensor]:
        return self._learner.state()

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self._learner.load(tensors)


# Streams of random numbers, one for each purpose.
_BUILD_STREAM, _STEPS_STREAM = 0, 1


def _check_validation(data: Dataset, training: Training) -> bool:
    """Whether there is a validation split; ``keep: best`` needs one."""
    has_validation = data.facts.sizes["validation"] > 0
    if training.keep == "best" and not has_validation:
        message = "best needs a validation split, and data.validation is 0"
        raise ConfigError([Problem("training.keep", message)])
    return has_validation
