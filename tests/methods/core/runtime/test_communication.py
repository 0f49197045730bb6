"""Workers: what several train together is what one trains alone, up to rounding."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from stillhouse.methods.core.config.training import Training
from stillhouse.methods.core.runtime.communication import SINGLE_PROCESS
from stillhouse.methods.core.runtime.synced_norm import SyncedBatchNorm

PROGRAM = Path(__file__).with_name("share_training.py")
# 66 images in batches of 31, 31 and 4: with two workers 16 and 15 rows, then 2 and 2; with three
# 11, 11 and 9, then 2, 2 and none.
DATA = {"limit": 99, "validation": 1 / 3}
TRAINING = {"epochs": 2, "batch_size": 31, "lr": 0.02}
SOFT = {"cross_entropy": {"weight": 0.3}, "soft_targets": {"weight": 0.7}}


def job(name, objective, teachers=("resnet14",), training=None, **more):
    told = {"student": "resnet8", "teachers": teachers, "objective": objective, "data": DATA}
    return {"name": name, "training": {**TRAINING, **(training or {})}, **told, **more}


def train_among(size, folder, jobs):
    """Have so many processes do jobs; returns the folder with what came of them."""
    folder.mkdir(exist_ok=True)
    (folder / "jobs.json").write_text(json.dumps(jobs))
    root = str(Path(__file__).parents[4])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    (folder / "meeting").unlink(missing_ok=True)
    running = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(rank), str(size), str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(size)
    ]
    said = [process.communicate(timeout=500)[0] for process in running]
    assert [process.returncode for process in running] == [0] * size, "\n".join(said)
    return folder


def assert_same(name, one, other):
    """The same weights, statistics and curve."""
    ours = safetensors.torch.load_file(one / f"{name}.safetensors")
    theirs = safetensors.torch.load_file(other / f"{name}.safetensors")
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        torch.testing.assert_close(theirs[key], tensor, rtol=1e-9, atol=1e-10)
    curves = [json.loads((folder / f"{name}.json").read_text()) for folder in (one, other)]
    for mine, yours in zip(*curves, strict=True):
        assert mine.keys() == yours.keys()
        timed = ("seconds", "images_per_second")
        figures = {key: value for key, value in mine.items() if key not in timed}
        assert {key: yours[key] for key in figures} == pytest.approx(figures, rel=1e-6)


def test_two_workers_train_what_one_trains(tmp_path):
    """Batch norm, teachers and relations among examples, over uneven shares."""
    jobs = [job("both", {**SOFT, "relations": {"weight": 0.1}}, training={"clip": 5.0})]
    alone = train_among(1, tmp_path / "1", jobs)
    assert_same("both", alone, train_among(2, tmp_path / "2", jobs))


OBJECTIVES = {
    "labels": ({"cross_entropy": {}}, ()),
    "soft": (SOFT, ("resnet14", "cnn4")),
    "features": ({"cross_entropy": {}, "hints": {}, "attention": {}}, ("resnet14",)),
    "relations": (
        {
            "cross_entropy": {},
            "relations": {},
            "similarities": {},
            "flow": {},
            "instance_graph": {},
        },
        ("resnet14",),
    ),
    "contrast": ({"cross_entropy": {}, "contrast": {}, "dist": {}}, ("resnet14",)),
    "extras with batch norm": (
        {"cross_entropy": {}, "factors": {}, "channel_attention": {}, "variational": {}},
        ("resnet14",),
    ),
    "itself": ({"cross_entropy": {}, "deep_to_shallow": {}}, ()),
}


@pytest.mark.slow
def test_any_number_of_workers_trains_what_one_trains(tmp_path):
    """By every kind of knowledge; with clipping, averaged weights and the best epoch kept."""
    care = {"clip": 2.0, "ema": 0.9, "keep": "best", "optimizer": "adamw", "lr": 0.002}
    jobs = [job(name, *told, training=care) for name, told in OBJECTIVES.items()]
    jobs.append(job("peers", SOFT, (), peers=["cnn4", "resnet8"]))
    alone = train_among(1, tmp_path / "1", jobs)
    for size in (2, 3):
        several = train_among(size, tmp_path / str(size), jobs)
        for each in jobs:
            assert_same(each["name"], alone, several)


@pytest.mark.slow
def test_other_workers_go_on_where_some_stopped(tmp_path):
    """Two begin, three go on, one goes on alone: always the same end."""
    whole = job("whole", SOFT, training={"epochs": 3})
    half = {**whole, "saves": "half.safetensors", "stop_after": 1}
    alone = train_among(1, tmp_path / "1", [whole])
    begun = train_among(2, tmp_path / "2", [half])
    for size in (1, 3):
        folder = tmp_path / f"2 to {size}"
        folder.mkdir()
        shutil.copy(begun / "half.safetensors", folder)
        ended = train_among(size, folder, [{**whole, "saves": "half.safetensors"}])
        assert_same("whole", alone, ended)


@pytest.mark.slow
def test_dropout_is_drawn_by_each_worker_and_stays_in_step(tmp_path):
    """Other units drop out than alone; what is drawn by all together is still the same."""
    told = job("dropped", SOFT, student={"mobilenet_v2": {"dropout": 0.5}})
    one, two = (train_among(2, tmp_path / name, [told]) for name in "ab")
    assert_same("dropped", one, two)
    alone = train_among(1, tmp_path / "1", [told])
    curves = [json.loads((folder / "dropped.json").read_text()) for folder in (one, alone)]
    assert curves[0][-1]["train_loss"] != pytest.approx(curves[1][-1]["train_loss"], rel=1e-6)


# Alone


def test_a_worker_alone_changes_nothing(build):
    network, images = build("resnet8").train(), torch.rand(4, 1, 8, 8)
    said = SINGLE_PROCESS.forward_batch(network, images, ("stem",))
    assert said.features.keys() == {"stem"}
    assert SINGLE_PROCESS.is_rank_zero
    assert SINGLE_PROCESS.broadcast("word") == "word"
    saves = object()
    assert SINGLE_PROCESS.shared_checkpointer(saves) is saves
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.ones(2)
    SINGLE_PROCESS.all_reduce_gradients([weight])
    assert weight.grad.tolist() == [1.0, 1.0]


def test_workers_decide_no_result():
    assert Training(workers=4).identity() == Training().identity()
    assert "workers" not in Training.search_space()


# Batch norm


def by_itself(own):
    """The exchange of a single worker."""
    return own[None]


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (4, 3, 5, 2)])
def test_batch_norm_of_one_worker_is_torchs(shape):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weight, bias = (torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    slope = torch.randn(shape, dtype=torch.float64)
    found = []
    for mode in (None, SyncedBatchNorm(by_itself)):
        mean, var = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
        settings = {"training": True, "momentum": 0.3, "eps": 1e-3}
        if mode is None:
            y = F.batch_norm(x, mean, var, weight, bias, **settings)
        else:
            with mode:
                y = F.batch_norm(x, mean, var, weight, bias, **settings)
        found.append([y, mean, var, *torch.autograd.grad((y * slope).sum(), (x, weight, bias))])
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_batch_norm_over_two_workers_is_that_of_all_rows():
    """Of the rows 1, 2 and 6 here and 3 there: mean 3, variance 3.5, unbiased 14 / 3."""
    other = torch.tensor([3.0, 0.0, 1.0], dtype=torch.float64)  # mean, squares, count
    x = torch.tensor([[1.0], [2.0], [6.0]], dtype=torch.float64)
    mean, var = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    with SyncedBatchNorm(lambda own: torch.stack([own, other])):
        y = F.batch_norm(x, mean, var, training=True, momentum=0.5, eps=0.0)
    np.testing.assert_allclose(y.numpy(), (x.numpy() - 3.0) / np.sqrt(3.5))
    np.testing.assert_allclose(mean.numpy(), [1.5])
    np.testing.assert_allclose(var.numpy(), [0.5 + 0.5 * 14 / 3])


def test_a_worker_without_rows_learns_the_statistics_too():
    other = torch.tensor([3.0, 14.0, 4.0], dtype=torch.float64)
    mean, var = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    with SyncedBatchNorm(lambda own: torch.stack([own, other])):
        x = torch.zeros(0, 1, 2, 2, dtype=torch.float64)
        y = F.batch_norm(x, mean, var, training=True, momentum=1.0, eps=0.0)
    assert y.shape == (0, 1, 2, 2)
    assert mean.item() == 3.0
    assert var.item() == pytest.approx(14 / 3)


def test_half_precision_is_summed_in_float32():
    torch.manual_seed(0)
    x = (torch.randn(256, 4, 8, 8) + 100).bfloat16()
    with SyncedBatchNorm(by_itself):
        y = F.batch_norm(x, None, None, training=True)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float().mean((0, 2, 3)), torch.zeros(4), atol=0.01, rtol=0)
    torch.testing.assert_close(y.float().std((0, 2, 3)), torch.ones(4), atol=0.02, rtol=0)


def test_in_evaluation_nothing_is_exchanged(build):
    network, images = build("resnet8").eval(), torch.rand(4, 1, 8, 8)
    with SyncedBatchNorm(lambda _: pytest.fail("asked the others")):
        inside = network(images, ()).logits
    assert torch.equal(inside, network(images, ()).logits)
