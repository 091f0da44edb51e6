"""Peak memory of a training step of the video transformer, with all tokens and with few, each in a process of its own (`fastvid.py --memory`)."""

from __future__ import annotations

import multiprocessing
import resource
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from matplotlib.figure import Figure

from lib.machine import Requirement, machine, panels, preamble, requirement_lines, write_results

KEEP, MOST = 0.125, 0.3
BATCHES = (2, 4)


def peak(keep: float, batch: int) -> float:
    """MiB that two training steps take on top of model, clips and libraries; of a fresh process."""
    import torch

    from dictpfl.client.model.networks.video import VideoTransformer
    from dictpfl.client.model.tokens.install import reduce_tokens

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = VideoTransformer((32, 3, 64, 64), 10, width=64, layers=4, heads=4, patch=8)
    if keep < 1.0:
        reduce_tokens(model, "fastvid", keep=keep)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-4)
    clips, labels = torch.randn(batch, 32, 3, 64, 64), torch.arange(batch) % 10
    # A step on one frame's worth of a clip loads what torch loads late.
    torch.nn.functional.cross_entropy(
        model.head(model.patch_embed(clips[0, :1]).mean(dim=(2, 3))), labels[:1]
    ).backward()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2):
        optimiser.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(model(clips), labels).backward()
        optimiser.step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def measured(batches: tuple[int, ...]) -> dict[str, Any]:
    """Peaks of both, for each batch, one process after the other."""
    found: dict[str, Any] = {"machine": machine()}
    for batch in batches:
        for name, keep in (("full", 1.0), ("reduced", KEEP)):
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                found[f"{name}, batch {batch}"] = pool.submit(peak, keep, batch).result()
    return found


def run(*, quick: bool) -> None:
    """Measure, print, and write unless it was a look."""
    batches = BATCHES[:1] if quick else BATCHES
    found = measured(batches)
    shares = {b: found[f"reduced, batch {b}"] / found[f"full, batch {b}"] for b in batches}
    needed = [
        Requirement(f"peak memory of a step at 12.5 %, batch of {b}, of the full one", "at most", MOST, share)
        for b, share in shares.items()
    ]
    lines = "\n".join(
        f"- batch of {b}: {found[f'full, batch {b}']:.0f} MiB with all tokens, {found[f'reduced, batch {b}']:.0f} MiB with 12.5 %: {shares[b]:.2f} of it"
        for b in batches
    )
    text = f"""# Memory of a training step with fewer tokens

32 frames of 8 x 8 tokens, 4 blocks of width 64, float32, one thread. What the process takes at most on top of model, clips and libraries in two
training steps (its largest resident size, a fresh process each):

{lines}

{preamble(found["machine"], "python benchmarks/fastvid.py --memory")}

## Requirements

{requirement_lines(needed)}

![peak memory](fastvid_memory.svg)
"""
    print(text)
    if not quick:
        figure: Figure
        figure, (axis,) = panels("peak of a step, MiB")
        names = [name for name in found if name != "machine"]
        axis.barh(names, [found[name] for name in names])
        axis.invert_yaxis()
        write_results("fastvid_memory", found | {"requirements": [r.to_json() for r in needed]}, text, figure)
