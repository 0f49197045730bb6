"""Downloads, from a server on this machine and from one that is not there."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision import datasets

from stillhouse.methods.core.data.sources import resolve
from stillhouse.spaces.config.problems import ConfigError


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An address, and the folder it serves."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/", folder
        running.shutdown()
        thread.join()


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_idx_files_are_fetched(
    write: Callable[..., Any],
    server: tuple[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address, folder = server
    written = write("mnist-idx")
    resources = []
    for path in sorted((written.root / "MNIST" / "raw").iterdir()):
        packed = folder / f"{path.name}.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        resources.append((packed.name, _md5(packed)))
    monkeypatch.setattr(datasets.MNIST, "mirrors", [address])
    monkeypatch.setattr(datasets.MNIST, "resources", resources)

    _, source = resolve("mnist", root=str(tmp_path / "new" / "place"), download=True)
    np.testing.assert_array_equal(source.read_all("train")[0], written.train[0])
    # Nothing but the files themselves is left behind, and they are not fetched twice.
    assert [path.name for path in (tmp_path / "new" / "place").iterdir()] == ["MNIST"]
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    assert source.read_all("test")[0].shape == written.test[0].shape


# Python 3.12 and 3.13 warn that 3.14 unpacks archives more carefully.
@pytest.mark.filterwarnings("ignore::DeprecationWarning:tarfile")
def test_batches_are_fetched(
    write: Callable[..., Any],
    server: tuple[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address, folder = server
    written = write("cifar10-pickled")
    archive = folder / datasets.CIFAR10.filename
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(written.root / "cifar-10-batches-py", "cifar-10-batches-py")
    monkeypatch.setattr(datasets.CIFAR10, "url", address + archive.name)
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", _md5(archive))
    _, source = resolve("cifar10", root=str(tmp_path / "new"), download=True)
    np.testing.assert_array_equal(source.read_all("test")[0], written.test[0])


@pytest.mark.parametrize("name", ["mnist", "cifar100"])
def test_without_a_network_one_line_says_what_to_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    monkeypatch.setattr(datasets.CIFAR100, "url", "http://127.0.0.1:9/cifar.tar.gz")
    _, source = resolve(name, root=str(tmp_path / "new"), download=True)
    with pytest.raises(ConfigError) as caught:
        source.files()
    message = str(caught.value)
    assert "\n" not in message
    assert f"{tmp_path / 'new'} must hold" in message
    assert "train-*.parquet and test-*.parquet" in message
    assert "the download failed" in message
    assert list((tmp_path / "new").iterdir()) == []
