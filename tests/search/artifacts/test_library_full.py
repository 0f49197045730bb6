"""A full library, and damage during a search: one line, no incomplete file, and a resume."""

import contextlib
import resource
import shutil
import signal
import subprocess

import pytest

from stillhouse import launch, resume
from stillhouse.search.artifacts.store import CorruptArtifact, Library
from stillhouse.search.core.errors import StorageUnavailable
from stillhouse.search.execution import builder
from stillhouse.search.results.run_folder import RunFolder

pytestmark = pytest.mark.slow
CLOCKS = ("seconds", "images_per_second")


def learned(launched):
    """Every trial's state and metrics, without timings."""
    return [
        (trial.state, {k: v for k, v in trial.figures.items() if k not in CLOCKS})
        for trial in launched.outcome.trials
    ]


@pytest.fixture
def search(load, tmp_path, monkeypatch):
    """A search of three trials with a given library and an empty cache of parents."""
    monkeypatch.setenv("STILLHOUSE_RUNS", str(tmp_path / "runs"))
    tracking = f"sqlite:///{tmp_path}/mlflow.db"

    def begun(library, observers=()):
        builder._OPEN_ARTIFACTS.clear()
        # A grid proposes after a stop what it would have proposed without it.
        run = {"run.trials": 3, "run.sampler": "grid", "run.grid_points": 1}
        experiment = load(run, library=str(library), tracking=tracking)
        return launch(experiment, inline=True, observers=observers)

    return begun


@pytest.fixture
def small(tmp_path):
    """A file system of its own, with room for a few artifacts."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs root, to mount a small file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def check_nothing_torn(place):
    """Every record has its payload, and no file is incomplete."""
    library = Library(str(place))
    for record in library.records():
        library.open_artifact(record.key)
    assert [info.path for info in library.files.list_files("") if ".part-" in info.path] == []


def test_a_full_file_system(search, small, tmp_path):
    plain = search(tmp_path / "roomy")
    filler = small / "filler"
    filler.write_bytes(b"x" * 3_500_000)
    library = small / "library"
    with pytest.raises(StorageUnavailable) as caught:
        search(library)
    said = str(caught.value)
    assert "\n" not in said
    assert said.startswith(f"library: the library {library} cannot be used: ")
    assert "No space left on device" in said
    assert f"make room there (`stillhouse library collect --library {library}` tells" in said
    assert said.endswith("; then stillhouse resume tiny-2")
    check_nothing_torn(library)
    assert RunFolder.find("tiny-2").read_json("state.json")["state"] == "failed"
    filler.unlink()
    builder._OPEN_ARTIFACTS.clear()
    assert learned(resume("tiny-2", inline=True)) == learned(plain)
    check_nothing_torn(library)


def test_a_limit_on_the_size_of_files(tmp_path):
    """The same error as that of a quota, without root."""
    library = Library(str(tmp_path / "library"))
    with (
        limited(4096),
        pytest.raises(StorageUnavailable, match=r"File too large.*; make room there"),
    ):
        library.files.write("artifacts/aa/aaaa/payload", b"x" * 100_000)
    assert library.files.list_files("") == []
    library.files.write("artifacts/aa/aaaa/payload", b"x" * 100_000)


@contextlib.contextmanager
def limited(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def another_figure(path):
    text = path.read_text()
    start = text.index('"val_accuracy": 0.') + len('"val_accuracy": 0.')
    path.write_text(text[:start] + str((int(text[start]) + 1) % 10) + text[start + 1 :])


DAMAGE = {
    "a bit of the tensors": ("*.safetensors", flip),
    "a bit of the record": ("record.json", flip),
    "a figure of the record": ("record.json", another_figure),
    "a truncated record": ("record.json", lambda path: path.write_bytes(path.read_bytes()[:99])),
    "an empty record": ("record.json", lambda path: path.write_bytes(b"")),
}


def test_damage_to_every_artifact_changes_no_result(search, tmp_path):
    """Damaged artifacts are built again, and the results of the search stay the same."""
    first = tmp_path / "library"
    plain = search(first)
    for name, (pattern, damage) in DAMAGE.items():
        library = tmp_path / name.replace(" ", "-")
        shutil.copytree(first, library)
        files = sorted((library / "artifacts").rglob(pattern))
        for file in files:
            damage(file)
        again = search(library)
        assert learned(again) == learned(plain), name
        aside = list((library / "damaged").rglob(pattern))
        assert aside, name
        if pattern == "record.json":
            assert len(aside) == len(files), name
        # What nobody had to read is found by whoever reads it.
        found, whole = Library(str(library)), 0
        for key in list(found.keys()):
            with contextlib.suppress(CorruptArtifact):
                found.open_artifact(key)
                whole += 1
        damaged = len(list((library / "damaged").iterdir()))
        assert whole + damaged == len(files) + len(aside), name
