"""What `dictpfl simulate` says of data without `-v`: nothing may be left out in silence, and nothing is said again and again."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from tests.support import forking

TOML = """
toy_insecure = true
[federation]
participants = 3
rounds = 2
[data]
source = "imagefolder"
path = "pictures"
skip_broken = true
options = { size = 8, mode = "L" }
[model]
source = "mlp"
options = { hidden = [8] }
[encryption]
sealer = "identity"
"""


def test_pictures_that_are_left_out_are_said_once(tmp_path: Path) -> None:
    for name in ("ape", "bee"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(20):
            Image.new("L", (8, 8), 5 * number).save(tmp_path / "pictures" / name / f"{number}.png")
    (tmp_path / "pictures" / "ape" / "3.png").write_bytes(b"no picture")
    (tmp_path / "pictures" / "bee" / "notes.txt").write_text("mine")
    (tmp_path / "mine.toml").write_text(TOML, encoding="utf-8")
    done = forking.ran(["simulate", "mine.toml", "--out", "run", "--engine", "local"], tmp_path)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert said.count("files that cannot be read are left out") == 1
    assert said.count("none of these samples are left out") == 1
    assert "pathname" not in said
    assert "INSECURE federation" not in done.stderr, "what the summary says itself is not logged besides"
