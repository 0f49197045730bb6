"""Exporting: a winner leaves the house, and what left is held against what stayed."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import Dataset, open_data
from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.assembly.network import rebuild
from stillhouse.search.core.durable import move_whole
from stillhouse.search.export.format import Answers, Format, Leaving
from stillhouse.search.export.formats import FORMATS
from stillhouse.spaces.compression.quantisation import quantised_layers, sealed
from stillhouse.spaces.config.problems import ConfigError, Problem, first_line
from stillhouse.spaces.cost import time_calls
from stillhouse.spaces.modules.classifier import Classifier

COMPARED = 512
"""Images on which a file's answers are compared with the network's own."""
CLOSE = 1e-3
"""The largest difference of two logits, as a share of the largest logit, that counts as equal."""
CLOSE_ROUNDED = 5e-2
"""The same of a quantised network: where a value lies between two integers, the order in which a
runtime adds up decides which of them it becomes, and all that follows sees a whole step."""


@dataclass(frozen=True)
class Exported:
    """One file: what it weighs, and how it answers beside the network it was made from.

    ``latency_ms`` is the median for one image on one thread; ``difference`` the largest between
    two logits as a share of the largest logit; ``agreement`` the share of images of which both
    say the same class.
    """

    format: str
    file: str
    bytes: int
    latency_ms: float
    difference: float = 0.0
    agreement: float = 1.0


@dataclass(frozen=True)
class Departure:
    """A network, and the files in which it left.

    ``key`` is the artifact's; ``images`` is how many were compared; ``refused`` holds a reason for
    each format in which it could not be written.
    """

    key: str
    network: Exported
    files: tuple[Exported, ...]
    images: int
    split: str
    usage: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


def check_formats(names: Sequence[str]) -> None:
    """Whether these formats are there and can be written here.

    Raises:
        ConfigError: one is unknown, or packages are missing.
    """
    for name in names:
        try:
            missing = FORMATS.load(name).missing()
        except ConfigError as error:
            raise ConfigError([Problem("--to", str(error))]) from None
        if missing:
            message = f"{name} needs {', '.join(missing)}; pip install 'stillhouse[export]'"
            raise ConfigError([Problem("--to", message)])


def depart(
    artifact: Artifact, data: DataConfig, formats: Sequence[str], into: Path, name: str
) -> Departure:
    """Write an artifact's network as ``into``/``name``.<format>, and compare each file with it.

    Args:
        data: real images of its kind: of its validation split, or else of its training split.

    Raises:
        ConfigError: the folder cannot be made, or the network can be written in none of the
            formats: it does not fit there, or what was written answers otherwise. A file that
            does is not left behind.
    """
    check_formats(formats)
    split, images = _images(open_data(data))
    network = Classifier(copy.deepcopy(rebuild(artifact)).float().cpu()).eval()
    leaving = Leaving(sealed(network, as_operators=True), images[:4].clone(), artifact)
    with torch.no_grad():
        told = network(images)
    try:
        into.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"{into} cannot be made: {error.strerror}; name another folder"
        raise ConfigError([Problem("--into", message)]) from None
    stayed = Exported("", "", artifact.record.payload.size, _latency(network, images))
    files, refused = [], {}
    for each in formats:
        try:
            files.append(_export(each, leaving, into / f"{name}.{each}", images, told))
        except ConfigError as error:
            refused[each] = error.problems[0].message
    if not files:
        raise ConfigError([Problem("--to", message) for message in refused.values()])
    usage = {file.format: FORMATS.load(file.format).usage for file in files}
    key = artifact.record.key
    return Departure(key, stayed, tuple(files), len(images), split, usage, refused)


def with_earlier(departure: Departure, earlier: Mapping[str, Any]) -> Departure:
    """A departure with the files of the same network that an earlier export left.

    Args:
        earlier: that one as plain data; what is no such data, or of another network, adds nothing.
    """
    written = {file.format for file in departure.files}
    try:
        same = earlier["key"] == departure.key
        files = [Exported(**told) for told in earlier["files"]] if same else []
        files = [file for file in files if file.format not in written and _is_there(file)]
    except (KeyError, TypeError):
        return departure
    every = sorted((*departure.files, *files), key=lambda file: file.format)
    usage = {file.format: FORMATS.load(file.format).usage for file in every}
    return replace(departure, files=tuple(every), usage=usage)


def _is_there(file: Exported) -> bool:
    """Whether a file is what an export wrote, as far as its size tells."""
    path = Path(file.file)
    known = file.format in FORMATS.names()
    return known and path.is_file() and path.stat().st_size == file.bytes


def _images(data: Dataset) -> tuple[str, Tensor]:
    # An export takes a single example for a fixed batch size.
    split: Any = "validation" if data.facts.sizes["validation"] > 1 else "train"
    batch = next(data.batches(split, batch_size=COMPARED, device="cpu"))
    return split, batch.images.float().contiguous()


def _export(name: str, leaving: Leaving, file: Path, images: Tensor, told: Tensor) -> Exported:
    format: type[Format] = FORMATS.load(name)
    aside = file.with_name(f".part-{file.name}")
    try:
        try:
            format.write(leaving, aside)
            answers = format.read(aside)
            with torch.no_grad():
                said = answers(images)
        except Exception as error:  # whatever an exporter meets in somebody's network
            raise ConfigError([Problem("--to", _refusal(name, leaving, error))]) from None
        difference = float((said - told).abs().max() / told.abs().max().clamp(min=1e-12))
        agreement = float((said.argmax(1) == told.argmax(1)).float().mean())
        close = CLOSE_ROUNDED if quantised_layers(leaving.network) else CLOSE
        if not difference <= close:  # also where it is not a number
            message = (
                f"{name} answers otherwise than the network it was made from: logits differ by "
                f"{difference:.2g} of the largest, at most {close:g} is allowed; use another format"
            )
            raise ConfigError([Problem("--to", message)])
        latency = _latency(answers, images)
        move_whole(aside, file)
    finally:
        aside.unlink(missing_ok=True)
    return Exported(name, str(file), file.stat().st_size, latency, difference, agreement)


def _refusal(name: str, leaving: Leaving, error: Exception) -> str:
    first = first_line(error)
    label = leaving.artifact.record.name
    others = ", ".join(other for other in FORMATS.names() if other != name)
    return f"{label} cannot be written as {name}: {first}; other formats are {others}"


def _latency(answers: Answers, images: Tensor) -> float:
    one = images[:1].clone()
    return time_calls(lambda: answers(one))
