"""Render the Helm chart with example values, for who has no helm, and for the tests: `python tools/chart.py`.

It needs `helm` 3 on the path. The files name the SHA-256 of the chart that they were made from, so that a test without helm
sees whether they are still of it.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

CHARTS = Path(__file__).parents[1] / "deploy" / "charts"
CHART, EXAMPLES = CHARTS / "dictpfl", CHARTS / "examples"
SCRAPED = {
    "metrics.enabled": "true",
    r"metrics.from[0].namespaceSelector.matchLabels.kubernetes\.io/metadata\.name": "monitoring",
}
"""Values that let a Prometheus in the namespace `monitoring` read metrics."""
PARTIES = {
    "coordinator": (
        "hub",
        {"role": "coordinator", "image.repository": "registry.example/dictpfl-coordinator", **SCRAPED},
    ),
    "institution": (
        "berlin",
        {
            "role": "institution",
            "image.repository": "registry.example/dictpfl-institution",
            "institution.address": "federation.example.org:443",
            "institution.passphraseSecret": "berlin-passphrase",
            **SCRAPED,
        },
    ),
}
"""Release's name and values by kind of party."""


def digest() -> str:
    """Compute SHA-256 over names and bytes of the chart's files, in the order of names; hexadecimal."""
    found = hashlib.sha256()
    for path in sorted(path for path in CHART.rglob("*") if path.is_file()):
        data = path.read_bytes()
        found.update(f"{path.relative_to(CHART)} {len(data)} ".encode() + data)
    return found.hexdigest()


def rendered(helm: str, kind: str, **more: str) -> str:
    """Have helm render the chart for a kind of party.

    Raises:
        CalledProcessError: helm refuses.
    """
    name, values = PARTIES[kind]
    said = [option for key, value in {**values, **more}.items() for option in ("--set", f"{key}={value}")]
    return subprocess.run(
        [helm, "template", name, str(CHART), *said], capture_output=True, text=True, check=True
    ).stdout


def example(helm: str, kind: str) -> str:
    """Render the file that lies in the examples."""
    return (
        f"# Rendered by `python tools/chart.py`; do not edit by hand. Chart: SHA-256 {digest()}\n{rendered(helm, kind)}"
    )


def main() -> int:
    """Write the examples."""
    helm = shutil.which("helm")
    if helm is None:
        print("helm is not on the path: https://helm.sh/docs/intro/install/", file=sys.stderr)
        return 1
    EXAMPLES.mkdir(exist_ok=True)
    for kind in PARTIES:
        (EXAMPLES / f"{kind}.yaml").write_text(example(helm, kind), encoding="utf-8")
        print(EXAMPLES / f"{kind}.yaml")
    return 0


if __name__ == "__main__":
    sys.exit(main())
