"""A folder of images larger than memory: what an institution's process holds, and an epoch beside the same loop in plain PyTorch.

    python benchmarks/real_sizes.py --only a                # 20 GB of files; an hour
    python benchmarks/sizes/a_images.py --gigabytes 1       # any size, printed

Files are PNGs of noise, 224 x 224 x 3, which nothing compresses: 0.15 MB each on disk, 0.6 MB as float32. Memory: the peak of a process that founds a federation of
three institutions on the folder, trains one epoch at each and measures, with `data.lazy`; for a quarter of the files and for all; and, as before, with
data in memory for as many samples as take `_BEFORE` GB. Time: an epoch of `dictpfl.client.training.train.train` beside a plain loop (Dataset, DataLoader, Adam) with the same
module, batches and number of processes, in turns, in one process; wall clock, and processor time of the process and its workers, which a busy machine changes
less. Ratios are of pairs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn
from torch.utils.data import DataLoader, Dataset

from dictpfl.client.data.source import load_dataset
from dictpfl.client.model.twin import decompose
from dictpfl.client.training.task import task_of
from dictpfl.client.training.train import train
from dictpfl.common.config import FederationConfig
from dictpfl.common.settings import Data, Training
from dictpfl.deploy.simulation.simulate import simulate

_SIDE, _BATCH, _BEFORE = 224, 32, 0.75
_AT_ONCE = 256
"""Files that are written together; all counts are multiples of it."""
_WORKERS = min(4, os.cpu_count() or 1)
_MEAN, _STD = (np.array(values, np.float32) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
Pair = tuple[torch.Tensor, torch.Tensor]


def make(folder: Path, gigabytes: float) -> tuple[int, float]:
    """Write files until they have so many bytes; how many, and their bytes in GB."""
    count = size = 0
    with ProcessPoolExecutor() as writers:
        while size < gigabytes * 1e9:
            numbers = range(count, count + _AT_ONCE)
            size += sum(writers.map(partial(_write, folder), numbers, chunksize=32))
            count += len(numbers)
            _tell(f"{count} files, {size / 1e9:.2f} of {gigabytes:g} GB")
    return count, size / 1e9


def _write(folder: Path, number: int) -> int:
    """Write the file of a number; its bytes."""
    place = folder / ("ill", "well")[number % 2] / f"{number // 2 % 256:03d}" / f"{number:07d}.png"
    place.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8)
    # Noise: nothing would be smaller, and 133,000 files are written.
    Image.fromarray(pixels).save(place, compress_level=0)
    return place.stat().st_size


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def network() -> nn.Module:
    """A few strided convolutions: small, so that reading is most of an epoch."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 8, stride=8),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 2),
    )


class Plain(Dataset[Pair]):
    """What one writes without dictpfl: a list of files, decoded when asked for."""

    def __init__(self, folder: Path) -> None:
        self.files = [
            (path, label)
            for label, name in enumerate(("ill", "well"))
            for path in sorted((folder / name).rglob("*.png"))
        ]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> Pair:
        path, label = self.files[number]
        with Image.open(path) as image:
            fitted = ImageOps.fit(image.convert("RGB"), (_SIDE, _SIDE), Image.Resampling.BICUBIC)
        values = (np.asarray(fitted, dtype=np.float32) / 255 - _MEAN) / _STD
        return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1))), torch.tensor(label)


def plain_epoch(folder: Path, seed: int) -> None:
    """One epoch of a plain loop."""
    twin = decompose(network(), rank=2)
    optimizer = torch.optim.Adam([p for _, _, p in twin.trainable()], lr=1e-3)
    loader = DataLoader(
        Plain(folder), _BATCH, shuffle=True, num_workers=_WORKERS, generator=torch.Generator().manual_seed(seed)
    )
    twin.train()
    for x, y in loader:
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(twin.module(x), y)
        loss.backward()
        optimizer.step()


def own_epoch(folder: Path, seed: int) -> None:
    """The same epoch as an institution trains it."""
    said = Training(device="cpu", batch_size=_BATCH, learning_rate=1e-3, workers=_WORKERS)
    samples = load_dataset(Data(source="imagefolder", path=str(folder), lazy=True), 1).samples
    train(decompose(network(), rank=2), samples, said, task_of(said), seed=seed)


def _taken(work: Callable[[Path, int], None], folder: Path, seed: int) -> tuple[float, float]:
    """Wall-clock and processor seconds, of this process and of its workers."""
    began, before = time.perf_counter(), os.times()
    work(folder, seed)
    after = os.times()
    return time.perf_counter() - began, sum(after[:4]) - sum(before[:4])


def timed(folder: Path, few: Path, pairs: int) -> dict[str, Any]:
    """Epochs in turns, after one of either over a few files, which is not counted."""
    torch.set_num_threads(1)
    for work in (own_epoch, plain_epoch):
        work(few, 0)
    found = []
    for number in range(1, pairs + 1):
        found.append((_taken(own_epoch, folder, number), _taken(plain_epoch, folder, number)))
        _tell(f"epochs of pair {number}: {found[-1][0][0]:.0f} s, in plain PyTorch {found[-1][1][0]:.0f} s")
    return {
        "pairs": pairs,
        "workers": _WORKERS,
        "seconds": statistics.median(own[0] for own, _ in found),
        "plain_seconds": statistics.median(plain[0] for _, plain in found),
        "ratio": statistics.median(own[0] / plain[0] for own, plain in found),
        "ratios": [own[0] / plain[0] for own, plain in found],
        "cpu_ratio": statistics.median(own[1] / plain[1] for own, plain in found),
    }


def held(folder: Path, limit: int, *, lazy: bool) -> dict[str, Any]:
    """Found, train an epoch and measure; peaks of this process and of its largest worker, GB."""
    config = FederationConfig.of(
        {
            "federation": {"rounds": 1, "participants": 3},
            "data": {"source": "imagefolder", "path": str(folder), "lazy": lazy, "limit": limit},
            "training": {"workers": _WORKERS, "device": "cpu"},
        }
    )
    with tempfile.TemporaryDirectory(prefix="sizes-") as run:
        simulate(config, Path(run) / "run", engine="local", model=network())
        indexes = sum(path.stat().st_size for path in Path(run).rglob("*.npz"))
    peak, worker = (
        resource.getrusage(who).ru_maxrss * 1024 / 1e9 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return {"files": limit, "lazy": lazy, "peak_gb": peak, "worker_peak_gb": worker, "sample_files_mb": indexes / 1e6}


def _in_a_process(*arguments: str) -> dict[str, Any]:
    _tell(f"memory: {arguments[-2]} files, {arguments[-1]}")
    done = subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(gigabytes: float, pairs: int) -> dict[str, Any]:
    """All figures of the row."""
    work = Path(os.environ.get("DICTPFL_SIZES") or tempfile.gettempdir()) / f"sizes-images-{gigabytes:g}"
    shutil.rmtree(work, ignore_errors=True)
    try:
        all_files, few = work / "all", work / "few"
        count, size = make(all_files, gigabytes)
        make(few, 0.01)
        before = min(count, int(_BEFORE * 1e9 / (4 * 3 * _SIDE * _SIDE)))
        return {
            "files": count,
            "gigabytes": size,
            "gigabytes_as_float32": count * 4 * 3 * _SIDE * _SIDE / 1e9,
            "memory": [
                _in_a_process("--held", str(all_files), str(max(count // 4, 1)), "lazy"),
                _in_a_process("--held", str(all_files), str(count), "lazy"),
                _in_a_process("--held", str(all_files), str(before), "memory"),
            ],
            "epoch": timed(all_files, few, pairs),
        }
    finally:
        shutil.rmtree(work, ignore_errors=True)


def measure(small: bool) -> dict[str, Any]:  # noqa: FBT001 -- as all rows
    """20 GB, or for a look 0.2."""
    return measured(0.2 if small else 20.0, 3 if small else 2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--held", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.held:
        print(json.dumps(held(Path(given.held[0]), int(given.held[1]), lazy=given.held[2] == "lazy")))
    else:
        print(json.dumps(measured(given.gigabytes, given.pairs), indent=1))
