"""docs/how-to/video.md: its block runs as typed in an empty folder, and what it says of files and digests holds."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dictpfl.common.genesis import Genesis
from dictpfl.deploy.runs.run import SUMMARY
from tests.support import ROOT, forking

PAGE = (ROOT / "docs" / "how-to" / "video.md").read_text(encoding="utf-8")


def typed(block: str, folder: Path) -> subprocess.CompletedProcess[str]:
    programs = os.pathsep.join([forking.programs(), str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        ["bash", "-eu"], input=block, cwd=folder, text=True, capture_output=True, check=False,
        env=os.environ | {"PATH": programs},
    )  # fmt: skip


@pytest.mark.slow
def test_features_once(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    done = typed(block, tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    kept = tmp_path / "clips" / ".features"
    assert f"features of clips are kept in {kept.resolve()}: as private as the clips" in done.stderr
    files = list(kept.glob("*.npz"))
    assert len(files) == 90
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert max(path.stat().st_size for path in files) < 6 * 17 * 17 * 2 + 1000
    run = tmp_path / "runs" / "clips-dictpfl"
    summary = json.loads((run / SUMMARY).read_text())
    assert summary["encrypted"]
    assert summary["test"] > 0.8
    agreed = Genesis.load(run / "institutions" / "institution-000").config.data.made_by
    # A deployment: what `data prepare` names is what the simulation recorded, and with it data are prepared.
    options = 'frames = 6, features = "timm:encoder", classes = ["fall", "rise"]'
    text = re.sub('frames = 6.*?encoder"', options, (tmp_path / "clips.toml").read_text())
    (tmp_path / "deployed.toml").write_text(text)
    prepare = "dictpfl data prepare clips --config deployed.toml --folder site"
    refused = typed(prepare, tmp_path)
    assert refused.returncode != 0
    assert f'data.options.features_sha256 = "{agreed}"' in " ".join((refused.stdout + refused.stderr).split())
    said = typed(f"{prepare} --set data.options.features_sha256={agreed}", tmp_path)
    assert said.returncode == 0, said.stderr
    assert "sample shape 6x17x17, outputs 2" in said.stdout
    moved = (
        "mkdir models && mv encoder models/mine && "
        + prepare
        + " --folder other --set data.options.features=timm:models/mine"
    )
    said = typed(f"{moved} --set data.options.features_sha256={agreed}", tmp_path)
    assert said.returncode == 0, said.stderr
    assert len(list(kept.glob("*.npz"))) == 90, "the same encoder at another place makes nothing anew"
