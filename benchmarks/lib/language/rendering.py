"""benchmarks/results/language.{json,md,svg} from the cells that are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from dictpfl.deploy.reports.plots import COLOURS
from lib.federations import mean_and_spread
from lib.language.catalogue import ANSWERED, HELD_OUT, METHODS, OURS, PAIRS, SEEDS, START, TITLES, start, tested, tuned
from lib.machine import Requirement, conclude, markdown_table, panels, preamble, requirement_lines, write_results
from lib.paper.cells import Cell, Store

MOST_ABOVE, ADAPTER = 2.0, 1e-4
"""Percent of LoRA's loss, and the largest difference of a logit over the largest logit."""
Runs = Mapping[str, Sequence[Mapping[str, Any]]]


def render(store: Store) -> int:
    """Write the page of what is there; 1 if a requirement is not met or cannot be judged yet."""
    first = _kept(store, start(), None)
    runs = {method: _runs(store, method) for method in METHODS}
    if first is None or not any(runs.values()):
        print("nothing to write yet: no model was measured; run python benchmarks/language.py")
        return 1
    needed = requirements(runs)
    text = page(first, runs, needed, {method: tuned(method, store) for method in METHODS})
    every = [first, *(run for each in runs.values() for run in each)]
    figures = {
        "machine": newest(every),
        "start": first["figures"],
        "runs": {
            method: [run["figures"] | {"measured": run["measured"]} for run in each] for method, each in runs.items()
        },
        "requirements": [requirement.to_json() for requirement in needed],
    }
    write_results("language", figures, text, plot(first, runs))
    return conclude(needed) if needed else 1


def newest(every: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Machine, commit and date of the newest of these measurements."""
    found: dict[str, Any] = max(every, key=lambda run: str(run["measured"]["date"]))["measured"]
    return found


def _kept(store: Store, cell: Cell, rate: float | None) -> dict[str, Any] | None:
    """A cell's whole file, if it was measured with the settings of now."""
    return store.read(cell.name) if store.result(cell, rate) is not None else None


def _runs(store: Store, method: str) -> list[dict[str, Any]]:
    rate, _, _ = tuned(method, store)
    if rate is None:
        return []
    every = (_kept(store, tested(method, seed), rate) for seed in SEEDS)
    return [found for found in every if found is not None]


def above(runs: Runs, method: str = OURS) -> list[float]:
    """Percent by which a method's loss is above LoRA's, seed by seed where both are there."""
    pairs = {_seed(run): run["figures"]["loss"] for run in runs[PAIRS]}
    return [100 * (run["figures"]["loss"] / pairs[_seed(run)] - 1) for run in runs[method] if _seed(run) in pairs]


def _seed(run: Mapping[str, Any]) -> str:
    return str(run["cell"]).rsplit("/", maxsplit=1)[1]


def sent(run: Mapping[str, Any]) -> int:
    """Bytes of one institution over the run, up and down."""
    return int(sum(run["figures"]["bytes"].values()))


def requirements(runs: Runs) -> list[Requirement]:
    """What the project promises of these runs, as far as it can be judged."""
    gaps, needed = above(runs), []
    if gaps:
        needed.append(Requirement("SmolLM2 on GSM8K: loss on held-out answers above that of LoRA in clear, mean of the seeds",
                                  "at most", MOST_ABOVE, mean_and_spread(gaps)[0], "%"))  # fmt: skip
        most = max(map(sent, runs[OURS])) / min(map(sent, runs[PAIRS]))
        needed.append(Requirement("SmolLM2 on GSM8K: bytes of dictpfl over LoRA's in clear", "at most", 1.0, most))
    if runs[OURS]:
        off = max(run["figures"]["adapter"]["difference"] / run["figures"]["adapter"]["largest"] for run in runs[OURS])
        needed.append(Requirement("SmolLM2's adapter, loaded by PEFT: difference of a logit, over the largest logit",
                                  "at most", ADAPTER, off))  # fmt: skip
    return needed


def table(first: Mapping[str, Any], runs: Runs) -> str:
    """Figures by method."""
    rows = []
    for method, title in TITLES.items():
        each = [first] if method == START else runs[method]
        if not each:
            rows.append([title, *["not measured yet"] * 7])
            continue
        figures = [run["figures"] for run in each]
        loss, spread = mean_and_spread([one["loss"] for one in figures])
        gap = f"{mean_and_spread(above(runs, method))[0]:+.2f} %" if method in runs and above(runs, method) else "-"
        exact = f"{mean_and_spread([100 * one['exact'] / one['asked'] for one in figures])[0]:.1f}"
        rows.append([
            title, f"{loss:.4f} ± {spread:.4f}" if len(each) > 1 else f"{loss:.4f}", gap,
            f"{mean_and_spread([one['token_accuracy'] for one in figures])[0]:.1f}", exact, str(len(each)) if method != START else "-",
            f"{sum(map(sent, each)) / len(each) / 1e6:,.2f}" if method != START else "-",
            f"{max(one['peak_bytes'] for one in figures) / 2**30:.1f}",
        ])  # fmt: skip
    heads = ["method", "loss of an answer's token, nats", "above LoRA", "tokens right, %", "exact match, %", "seeds",
             "MB of one institution, up and down", "peak memory, GiB"]  # fmt: skip
    return markdown_table(heads, rows)


def page(
    first: Mapping[str, Any],
    runs: Runs,
    needed: Sequence[Requirement],
    tuning: Mapping[str, tuple[float | None, Any, Mapping[float, float]]],
) -> str:
    """benchmarks/results/language.md."""
    every = [first, *(run for each in runs.values() for run in each)]
    tried = "\n".join(
        f"- {TITLES[method]}: {f'{rate:g}' if rate else 'not chosen yet'} of "
        + (", ".join(f"{r:g} ({loss:.4f})" for r, loss in sorted(found.items())) or "none tried")
        for method, (rate, _, found) in tuning.items()
    )
    return f"""# A language model: SmolLM2-135M on GSM8K

{preamble(newest(every), "python benchmarks/language.py")}

{table(first, runs)}

The federation of experiments/gsm8k.toml: three institutions, {_length(runs)}, the same problems, batches and steps for all methods. The
model is a **4-bit checkpoint** widened to float32 (`python experiments/fetch.py`), not the published float one. What is learnt is the
answer's tokens and the end; questions stand before them and are not learnt. Loss and share of right tokens: {HELD_OUT} problems of the
published test split, of at most 160 tokens, as their answers are written. Exact match: whether the model's own answer to {ANSWERED} of
them, the likeliest token every time, ends in the right number. A model of this size hardly calculates; the figure is here because it is
what GSM8K is reported by, not because so few steps could change it.

LoRA has PEFT's pairs beside the same weights, scales of normalisation trained as well, and its values averaged in clear as float32.
Both of its factors are averaged one by one, as federations do it: the average of products is not the product of averages.
dictpfl runs under CKKS, as `dictpfl simulate` does.

## Learning rates

Loss on the institutions' validation problems, seed 0; a best rate at an end of the grid extends it:

{tried}

## Adapter

{_adapter(runs)}

## Requirements

{requirement_lines(needed) or "Not measured yet."}

![loss, and bytes](language.svg)
"""


def _length(runs: Runs) -> str:
    figures = next(run["figures"] for each in runs.values() for run in each)
    return f"{figures['rounds']} rounds"


def _adapter(runs: Runs) -> str:
    if not runs[OURS]:
        return "Not measured yet."
    made = [run["figures"]["adapter"] for run in runs[OURS]]
    off, most = max(one["difference"] for one in made), max(one["largest"] for one in made)
    return (
        f"`dictpfl export --format peft` writes {made[0]['bytes'] / 1e6:.2f} MB. Loaded by PEFT on the checkpoint in a process that cannot "
        f"import dictpfl, its logits differ from the merged model's by at most {off:.2g} (largest logit: {most:.1f}): it multiplies in "
        "another order."
    )


def plot(first: Mapping[str, Any], runs: Runs) -> Figure:
    """Loss of each run beside the start, and bytes."""
    figure, (losses, megabytes) = panels("Loss of a held-out answer's token", "MB of one institution, up and down")
    there = [method for method in METHODS if runs[method]]
    losses.axhline(first["figures"]["loss"], color="#94a3b8", linestyle=":", label="not trained")
    for at, method in enumerate(there):
        values = [run["figures"]["loss"] for run in runs[method]]
        losses.plot([at] * len(values), values, color=COLOURS[at], marker="o", ms=6, lw=0)
        megabytes.bar(at, sum(map(sent, runs[method])) / len(values) / 1e6, color=COLOURS[at], width=0.6)
    for ax in (losses, megabytes):
        ax.set_xticks(range(len(there)), there)
        ax.set_xlim(-0.5, len(there) - 0.5)
    losses.set_ylabel("nats, one mark a seed")
    losses.legend(frameon=False, fontsize=8, loc="center")
    return figure
