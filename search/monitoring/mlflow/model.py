"""The winner as an MLflow model: saved at once, logged when MLflow responds.

The network is exported by ``torch.export``, so it loads with torch alone, without this product and
without pickle.
"""

from __future__ import annotations

import copy
import shutil
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stillhouse.search.core.model_name import name_problem
from stillhouse.search.monitoring.mlflow.client import client_settings
from stillhouse.search.monitoring.mlflow.outbox import OutboxEntry
from stillhouse.spaces.compression.quantisation import exportable
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.classifier import Classifier
from stillhouse.spaces.modules.network import Network, input_form

if TYPE_CHECKING:
    from mlflow import MlflowClient

_NUM_EXAMPLES = 4
_INPUT_DESCRIPTIONS = {
    "images": "images in 0..1, channels first",
    "text": "word vectors, [texts, dimensions, words, 1]",
}


def check_name(model_name: str) -> None:
    """Check the name of a registered model.

    Raises:
        ConfigError: the model registry does not accept it.
    """
    if message := name_problem(model_name):
        raise ConfigError([Problem("run.register_as", message)])


def save_classifier(
    network: Network, images: Tensor, folder: Path, classes: Sequence[str] = ()
) -> None:
    """Write the network as an MLflow model into ``folder``, which must not exist.

    Args:
        network: the winner.
        images: at least two examples in 0..1, [N, channels, height, width], or word vectors of
            texts. The first few become the model's input example. The model accepts any number.
        folder: of the model.
        classes: names of the logits, stored as metadata.
    """
    assert len(images) > 1, "torch.export would fix a batch size of 1"
    with client_settings(), warnings.catch_warnings():
        # mlflow.pyfunc warns about its own type hints when it is imported.
        warnings.filterwarnings("ignore", message=".*type hint is inferred as AnyType")
        import mlflow.pyfunc
        import mlflow.pytorch

    examples = images[:_NUM_EXAMPLES].detach().float().cpu().contiguous()
    channels, height, width = examples.shape[1:]
    shape = (channels, height, width)
    classifier = exportable(Classifier(copy.deepcopy(network).float().cpu()).eval())
    with torch.no_grad():
        logits = classifier(examples)
    with warnings.catch_warnings():
        # Tracing torch's LSTM replaces its list of parameters; the export restores it.
        warnings.filterwarnings("ignore", message=r"(?s)The tensor attributes .*_flat_weights")
        mlflow.pytorch.save_model(
            classifier,
            folder,
            signature=_signature(examples, logits),
            input_example=examples.numpy(),
            metadata={"classes": list(classes), "input": _INPUT_DESCRIPTIONS[input_form(shape)]},
            pip_requirements=[
                f"{name}=={_public_version(name)}" for name in ("mlflow", "torch", "numpy")
            ],
            serialization_format="pt2",
        )


def _signature(images: Tensor, logits: Tensor) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    # No names: with names pyfunc passes a dict, which the torch flavour does not accept.
    def schema(tensor: Tensor) -> Schema:
        return Schema([TensorSpec(tensor.numpy().dtype, (-1, *tensor.shape[1:]))])

    return ModelSignature(inputs=schema(images), outputs=schema(logits))


def _public_version(name: str) -> str:
    """The version without its local part (+cpu), which no package index has."""
    return version(name).partition("+")[0]


def log_saved_model(
    client: MlflowClient,
    experiment: str,
    run_id: str,
    entry: OutboxEntry,
    folder: Path,
    token: str,
) -> None:
    """Log the model saved in ``folder``/``entry["folder"]``, and delete that folder.

    This is idempotent: a logged model is found by its tag.

    Raises:
        FileNotFoundError: the model was neither saved nor logged.
    """
    saved = folder / entry["folder"]
    tag = f"{token}/{entry['folder']}"
    query = f"tags.`stillhouse.handle` = '{tag}'"
    models = client.search_logged_models([experiment], query)
    if models:
        model = models[0]
    elif saved.exists():
        name, tags = entry["name"], {"stillhouse.handle": tag}
        model = client.create_logged_model(experiment, name, run_id, tags, model_type="classifier")
    else:
        raise FileNotFoundError(f"{saved} is gone, and the model was not logged")
    if str(model.status) != "READY":
        _upload(client, model, run_id, saved)
    if entry["register"]:
        _register(client, model, run_id, entry["register"])
    if saved.exists():
        shutil.rmtree(saved)


def _upload(client: MlflowClient, model: Any, run_id: str, saved: Path) -> None:
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    model_config = Model.load(saved)
    model_config.model_id = model_config.model_uuid = model.model_id
    model_config.run_id, model_config.artifact_path = run_id, model.artifact_location
    model_config.save(str(saved / "MLmodel"))
    client.log_model_artifacts(model.model_id, str(saved))
    outputs = client.get_run(run_id).outputs
    logged = outputs.model_outputs if outputs else []
    if model.model_id not in [output.model_id for output in logged]:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
    client.finalize_logged_model(model.model_id, "READY")


def _register(client: MlflowClient, model: Any, run_id: str, name: str) -> None:
    """Create a version of the registered model, with the alias ``best``."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = model.artifact_location
    versions = client.search_model_versions(f"name='{name}'")
    matching = [version for version in versions if version.source == source]
    if not matching:
        matching = [client.create_model_version(name, source, run_id, model_id=model.model_id)]
    client.set_registered_model_alias(name, "best", matching[0].version)
