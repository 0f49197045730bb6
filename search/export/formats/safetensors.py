"""Safetensors: the weights as stored in the library, with the description of the network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import safetensors
import safetensors.torch

from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.artifacts.limits import UnreadableFile, parse_json
from stillhouse.search.artifacts.record import Record
from stillhouse.search.assembly.network import load_network
from stillhouse.search.export.format import ExportSource, Format, Predictor
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.classifier import Classifier
from stillhouse.spaces.modules.network import Network


class Safetensors(Format):
    """Tensors by the network's own names; its record is in the file's header."""

    usage: ClassVar[str] = (
        "import torch\n"
        "from stillhouse import read_network\n"
        'network = read_network("FILE")\n'
        "logits = network(torch.from_numpy(images), ()).logits"
    )

    @classmethod
    def write(cls, source: ExportSource, file: Path) -> None:
        record, tensors = source.artifact.record, dict(source.artifact.tensors)
        data = safetensors.torch.save(tensors, {"record": json.dumps(record.plain())})
        file.write_bytes(data)

    @classmethod
    def read(cls, file: Path) -> Predictor:
        return Classifier(read_network(file))


def read_network(file: str | Path) -> Network:
    """The network in a file that :class:`Safetensors` wrote, in evaluation mode on the CPU.

    Raises:
        ConfigError: the file was not written by an export.
    """
    try:
        with safetensors.safe_open(file, framework="pt") as reader:
            record_json = (reader.metadata() or {}).get("record")
            tensors = {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise ConfigError([Problem(str(file), f"is no safetensors file: {error}")]) from None
    if record_json is None:
        message = "has no record in its header; needs a file that `stillhouse export` wrote"
        raise ConfigError([Problem(str(file), message)])
    try:
        return load_network(
            Artifact(Record.parse(parse_json(record_json.encode()), str(file)), tensors)
        )
    except (UnreadableFile, KeyError, RuntimeError) as error:
        raise ConfigError([Problem(str(file), f"holds no whole network: {error}")]) from None
