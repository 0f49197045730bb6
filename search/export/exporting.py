"""Export a student and compare the outputs of each file with the original network."""

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
from stillhouse.search.assembly.network import load_network
from stillhouse.search.core.durable import replace_atomically
from stillhouse.search.export.format import ExportSource, Format, Predictor
from stillhouse.search.export.formats import FORMATS
from stillhouse.spaces.compression.quantisation import exportable, quantised_layers
from stillhouse.spaces.config.problems import ConfigError, Problem, first_line
from stillhouse.spaces.latency import time_calls
from stillhouse.spaces.modules.classifier import Classifier

NUM_COMPARED_IMAGES = 512
"""Images on which a file's answers are compared with the network's own."""
LOGIT_TOLERANCE = 1e-3
"""The largest difference of two logits, as a share of the largest logit, that counts as equal."""
QUANTISED_LOGIT_TOLERANCE = 5e-2
"""The same of a quantised network: where a value lies between two integers, the order in which a
runtime adds up decides which of them it becomes, and all that follows sees a whole step."""


@dataclass(frozen=True)
class ExportedFile:
    """An exported file: its size, latency and agreement with the original network.

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
class ExportResult:
    """A network and its exported files.

    ``key`` is the artifact's; ``images`` is how many were compared; ``refused`` holds a reason for
    each format in which it could not be written.
    """

    key: str
    network: ExportedFile
    files: tuple[ExportedFile, ...]
    images: int
    split: str
    usage: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


def check_formats(names: Sequence[str]) -> None:
    """Check that the formats exist and that their packages are installed.

    Raises:
        ConfigError: one is unknown, or packages are missing.
    """
    for name in names:
        try:
            missing = FORMATS.load(name).missing_packages()
        except ConfigError as error:
            raise ConfigError([Problem("--to", str(error))]) from None
        if missing:
            message = f"{name} needs {', '.join(missing)}; pip install 'stillhouse[export]'"
            raise ConfigError([Problem("--to", message)])


def export_network(
    artifact: Artifact, data: DataConfig, formats: Sequence[str], folder: Path, name: str
) -> ExportResult:
    """Write an artifact's network as ``folder``/``name``.<format>, and compare each file with it.

    Args:
        data: real images of its kind: of its validation split, or else of its training split.

    Raises:
        ConfigError: the folder cannot be made, or the network can be written in none of the
            formats: it does not fit there, or what was written answers otherwise. A file that
            does is not left behind.
    """
    check_formats(formats)
    split, images = _comparison_images(open_data(data))
    network = Classifier(copy.deepcopy(load_network(artifact)).float().cpu()).eval()
    source = ExportSource(exportable(network, emit_operators=True), images[:4].clone(), artifact)
    with torch.no_grad():
        reference_logits = network(images)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"{folder} cannot be made: {error.strerror}; name another folder"
        raise ConfigError([Problem("--into", message)]) from None
    original = ExportedFile("", "", artifact.record.payload.size, _measure_latency(network, images))
    files, refused = [], {}
    for format_name in formats:
        try:
            files.append(
                _export_as(
                    format_name, source, folder / f"{name}.{format_name}", images, reference_logits
                )
            )
        except ConfigError as error:
            refused[format_name] = error.problems[0].message
    if not files:
        raise ConfigError([Problem("--to", message) for message in refused.values()])
    usage = {file.format: FORMATS.load(file.format).usage for file in files}
    key = artifact.record.key
    return ExportResult(key, original, tuple(files), len(images), split, usage, refused)


def with_earlier_files(result: ExportResult, previous: Mapping[str, Any]) -> ExportResult:
    """The result, extended by the files that an earlier export of the same network wrote.

    Args:
        previous: the earlier result as plain data; invalid data, or another network, adds nothing.
    """
    written = {file.format for file in result.files}
    try:
        is_same_network = previous["key"] == result.key
        files = [ExportedFile(**data) for data in previous["files"]] if is_same_network else []
        files = [file for file in files if file.format not in written and _is_unchanged(file)]
    except (KeyError, TypeError):
        return result
    all_files = sorted((*result.files, *files), key=lambda file: file.format)
    usage = {file.format: FORMATS.load(file.format).usage for file in all_files}
    return replace(result, files=tuple(all_files), usage=usage)


def _is_unchanged(file: ExportedFile) -> bool:
    """Whether a file still has the size that the export recorded."""
    path = Path(file.file)
    is_known_format = file.format in FORMATS.names()
    return is_known_format and path.is_file() and path.stat().st_size == file.bytes


def _comparison_images(data: Dataset) -> tuple[str, Tensor]:
    # An export takes a single example for a fixed batch size.
    split: Any = "validation" if data.facts.sizes["validation"] > 1 else "train"
    batch = next(data.batches(split, batch_size=NUM_COMPARED_IMAGES, device="cpu"))
    return split, batch.images.float().contiguous()


def _export_as(
    name: str, source: ExportSource, file: Path, images: Tensor, reference_logits: Tensor
) -> ExportedFile:
    format_class: type[Format] = FORMATS.load(name)
    temporary = file.with_name(f".part-{file.name}")
    try:
        try:
            format_class.write(source, temporary)
            predict = format_class.read(temporary)
            with torch.no_grad():
                file_logits = predict(images)
        except Exception as error:  # whatever an exporter meets in somebody's network
            raise ConfigError([Problem("--to", _refusal_message(name, source, error))]) from None
        difference = float(
            (file_logits - reference_logits).abs().max()
            / reference_logits.abs().max().clamp(min=1e-12)
        )
        agreement = float((file_logits.argmax(1) == reference_logits.argmax(1)).float().mean())
        tolerance = (
            QUANTISED_LOGIT_TOLERANCE if quantised_layers(source.network) else LOGIT_TOLERANCE
        )
        if not difference <= tolerance:  # also where it is not a number
            message = (
                f"{name} answers otherwise than the network it was made from: logits differ by "
                f"{difference:.2g} of the largest, at most {tolerance:g} is allowed; use "
                "another format"
            )
            raise ConfigError([Problem("--to", message)])
        latency = _measure_latency(predict, images)
        replace_atomically(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
    return ExportedFile(name, str(file), file.stat().st_size, latency, difference, agreement)


def _refusal_message(name: str, source: ExportSource, error: Exception) -> str:
    reason = first_line(error)
    label = source.artifact.record.name
    others = ", ".join(other for other in FORMATS.names() if other != name)
    return f"{label} cannot be written as {name}: {reason}; other formats are {others}"


def _measure_latency(predict: Predictor, images: Tensor) -> float:
    image = images[:1].clone()
    return time_calls(lambda: predict(image))
