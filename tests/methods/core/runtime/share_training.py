"""One worker of several that train together, as a program: what test_workers.py starts.

``python share_training.py RANK SIZE FOLDER``: reads ``FOLDER/jobs.json``, trains every job among
SIZE processes (by itself where SIZE is 1) and, as the first of them, writes what came of it to
``FOLDER/<job>.safetensors`` and ``FOLDER/<job>.json``. Everything is computed in float64.
"""

import json
import sys
from datetime import timedelta
from pathlib import Path

import safetensors.torch
import torch
import torch.distributed as dist

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import open_data
from stillhouse.methods.core.objective.objective import Objective
from stillhouse.methods.core.runtime.communication import SINGLE_PROCESS, DistributedCommunicator
from stillhouse.methods.core.training.teachers import FrozenTeacher
from stillhouse.methods.core.training.train import Training, train
from stillhouse.spaces.networks import resolve


class Files:
    """Saves every epoch to a file, and stops the process' part after some."""

    def __init__(self, file):
        self.file = file

    def load(self):
        return safetensors.torch.load_file(self.file) if self.file.exists() else None

    def is_due(self):
        return True

    def save(self, tensors):
        safetensors.torch.save_file(tensors, self.file)


def network(name, seed, data):
    torch.manual_seed(seed)
    return resolve(name)[1].build(data.shape, data.classes).double()


def do(job, worker, folder):
    data = open_data(DataConfig.parse({"source": "digits", **job["data"]}))
    teachers = [FrozenTeacher(network(n, 5 + i, data)) for i, n in enumerate(job["teachers"])]
    student = network(job["student"], 1, data)
    peers = [network(name, 20 + i, data) for i, name in enumerate(job.get("peers", ()))]
    reports = train(
        student,
        teachers,
        Objective.parse(job["objective"]),
        data,
        Training.parse(job["training"]),
        seed=3,
        device="cpu",
        checkpointer=Files(folder / job["saves"]) if "saves" in job else None,
        peers=peers,
        communicator=worker,
    )
    curve = []
    for report in reports:
        curve.append(report)
        if len(curve) == job.get("stop_after"):
            return
    found = {name: value for name, value in student.state_dict().items()}
    for i, peer in enumerate(peers):
        found |= {f"peer{i}.{name}": value for name, value in peer.state_dict().items()}
    if worker.is_rank_zero:
        safetensors.torch.save_file(found, folder / f"{job['name']}.safetensors")
        (folder / f"{job['name']}.json").write_text(json.dumps(curve))


def main(rank, size, folder):
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    worker = SINGLE_PROCESS
    if size > 1:
        meeting = f"file://{folder}/meeting"
        patience = timedelta(seconds=120)
        dist.init_process_group(
            "gloo", init_method=meeting, rank=rank, world_size=size, timeout=patience
        )
        worker = DistributedCommunicator()
    for job in json.loads((folder / "jobs.json").read_text()):
        do(job, worker, folder)
    if size > 1:
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]).resolve())
