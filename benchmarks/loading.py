"""Do the exports of a run load where dictpfl is not installed, and predict the same?

    python benchmarks/loading.py runs/newsgroups/dictpfl-1
    python benchmarks/loading.py RUN --packages FOLDER    # no download: a site-packages that has torch, transformers, peft

Exports the run of a transformers model as a merged folder and as a PEFT adapter, makes a virtual environment with torch,
transformers and peft and nothing else, checks that dictpfl cannot be imported there, loads both by the lines of their model
cards, and compares logits over the run's test split with those of the merged model here. Exits with 1 where one differs
by more than `TOLERANCE`, or predicts another class for any sample.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dictpfl.client.data.samples import Samples
from dictpfl.client.training.calling import arguments, logits
from dictpfl.deploy.exports.finished import Finished
from dictpfl.deploy.exports.formats.merged import export_merged
from dictpfl.deploy.exports.formats.peft import export_adapter

TOLERANCE = 1e-4
"""Largest difference of a logit; an adapter multiplies by its factors one after the other, in float32."""
PACKAGES = ("torch", "transformers", "peft", "safetensors")
_BATCH = 64
_ELSEWHERE = """
import json, sys, importlib.util, warnings
warnings.simplefilter("ignore")
if importlib.util.find_spec("dictpfl") is not None:
    raise SystemExit("dictpfl can be imported here")
import numpy as np, peft, torch, transformers
batches, out, *cards = sys.argv[1:]
with np.load(batches) as file:
    parts = {}
    for key in file.files:
        number, name = key.split("-")
        parts.setdefault(int(number), {})[name] = torch.from_numpy(file[key])
found = {}
for index, lines in enumerate(cards):
    scope = {}
    exec(lines, scope)
    with torch.no_grad():
        rows = [scope["model"](**parts[number]).logits.numpy() for number in sorted(parts)]
    found[str(index)] = np.concatenate(rows)
np.savez(out, **found)
print(json.dumps({m.__name__: m.__version__ for m in (torch, transformers, peft)}))
"""


def loaded(run: Path, python: Path, limit: int = 0) -> dict[str, Any]:
    """Differences between what both exports say in another environment and what the merged model says here.

    Args:
        run: folder of a finished run of a transformers model.
        python: interpreter that has torch, transformers and peft, and not dictpfl.
        limit: samples of the test split to compare; 0: all.

    Raises:
        RuntimeError: the exports do not load there; the message holds what was said.
    """
    finished = Finished.load(run)
    samples = Samples.load(run / "test.npz")
    samples = samples.take(np.arange(min(limit, len(samples)))) if limit else samples
    with tempfile.TemporaryDirectory(prefix="exports-") as name:
        work = Path(name)
        export_merged(finished, work / "merged")
        export_adapter(finished, work / "peft")
        expected = _batches(finished, samples, work / "batches.npz")
        done = subprocess.run(
            # -I: the current folder is not looked into, while a base model named by a relative path is still found from it.
            [str(python), "-I", "-c", _ELSEWHERE, str(work / "batches.npz"), str(work / "out.npz"),
             *(_card(work / form) for form in ("merged", "peft"))],
            env=_bare(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"the exports do not load in {python}: {done.stderr[-2000:]}")
        with np.load(work / "out.npz") as file:
            found = {form: file[str(index)] for index, form in enumerate(("merged", "peft"))}
    return {
        "samples": len(samples),
        "largest_logit": float(np.abs(expected).max()),
        "versions": json.loads(done.stdout.splitlines()[-1]),
        "forms": {form: _difference(array, expected, samples) for form, array in found.items()},
    }


def _difference(found: NDArray[Any], expected: NDArray[Any], samples: Samples) -> dict[str, Any]:
    return {
        "largest_difference": float(np.abs(found - expected).max()),
        "other_predictions": int((found.argmax(axis=1) != expected.argmax(axis=1)).sum()),
        "accuracy": float((found.argmax(axis=1) == samples.labels).mean()),
    }


@torch.no_grad()
def _batches(finished: Finished, samples: Samples, path: Path) -> NDArray[np.float32]:
    """Write what a model is given for each batch; returns the merged model's logits."""
    model, stored, rows = finished.merged(), {}, []
    for number, part in enumerate(torch.split(torch.from_numpy(samples.features), _BATCH)):
        _, named = arguments(model, part)
        stored |= {f"{number}-{name}": tensor.numpy() for name, tensor in named.items()}
        rows.append(logits(model(**named)).numpy())
    np.savez(path, **stored)
    return np.concatenate(rows)


def _card(folder: Path) -> str:
    """The lines of Python of an export's model card."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0].replace("FOLDER", str(folder))


def _bare() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")} | {"HF_HUB_OFFLINE": "1"}


def fresh_environment(folder: Path, packages: str) -> Path:
    """Make a virtual environment with what loads a model; returns its interpreter.

    Args:
        folder: to make. `packages`: a site-packages to look into instead of downloading. An editable dictpfl in there
            stays out of reach: its .pth file is read in the environment's own folder only.
    """
    venv.create(folder, with_pip=not packages)
    python = folder / "bin" / "python"
    if packages:
        (own,) = (folder / "lib").glob("python3*/site-packages")
        (own / "elsewhere.pth").write_text(str(Path(packages).resolve()) + "\n", encoding="utf-8")
    else:
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES], check=True, env=_bare())
    return python


def failures(found: Mapping[str, Any]) -> list[str]:
    """What differs by more than is stated."""
    return [
        f"{form}: largest difference of a logit {row['largest_difference']:.2g} (at most {TOLERANCE:g}), "
        f"{row['other_predictions']} of {found['samples']} predictions differ"
        for form, row in found["forms"].items()
        if row["largest_difference"] > TOLERANCE or row["other_predictions"]
    ]


def main() -> int:
    """Load, compare, print; 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run of a transformers model")
    parser.add_argument(
        "--packages", default="", help="site-packages with torch, transformers and peft; empty: download"
    )
    parser.add_argument("--limit", type=int, default=0, help="samples to compare; 0: the whole test split")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fresh-") as name:
        found = loaded(given.run, fresh_environment(Path(name) / "venv", given.packages), given.limit)
    print(json.dumps(found, indent=1))
    for line in failures(found):
        print(line, file=sys.stderr)
    return int(bool(failures(found)))


if __name__ == "__main__":
    sys.exit(main())
