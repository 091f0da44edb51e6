"""What `dictpfl cut` and `distil` wrote is taken by the commands that follow, whatever made the model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dictpfl.common.errors import ConfigError
from dictpfl.common.settings import Model
from dictpfl.deploy.cli import app
from dictpfl.deploy.compress.source import read_source
from dictpfl.deploy.compress.written import standing
from dictpfl.deploy.simulation.simulate import simulate
from tests.client.compress.cutting.subjects import model_of
from tests.support.federations import as_toml, tiny

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, its configuration, and the run's model, cut."""
    base = tmp_path_factory.mktemp("made")
    wanted = {"federation__rounds": 2, "data__public_share": 0.2}
    (base / "own.toml").write_text(as_toml(**wanted), encoding="utf-8")
    simulate(tiny(**wanted), base / "run", engine="local")
    assert typed("cut", base / "run", "-o", base / "small", "--ffn", 10).exit_code == 0
    return base


def typed(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=True)


def said(*words: object) -> str:
    """What a refused command said."""
    done = typed(*words)
    assert isinstance(done.exception, ConfigError), done.output
    return str(done.exception)


def test_a_cut_network_is_taught_cut_again_and_teaches(made: Path, tmp_path: Path) -> None:
    own = ("--config", made / "own.toml")
    taught = tmp_path / "taught"
    done = typed("distil", made / "small", "--teacher", made / "run", "-o", taught, "--steps", 40, *own)
    assert done.exit_code == 0, done.exception
    record = json.loads((taught / "distil.json").read_text())
    assert record["loss"]["after"] < record["loss"]["before"], "nothing was learnt, or not from the cut weights"
    assert record["options"] == json.loads((made / "small" / "cut.json").read_text())["options"]
    done = typed("cut", taught, "-o", tmp_path / "less", "--ffn", 5, *own)
    assert done.exit_code == 0, done.exception
    less = json.loads((tmp_path / "less" / "cut.json").read_text())
    assert less["parameters"]["before"] == record["parameters"]["student"]
    assert less["loss"]["before"] == pytest.approx(record["loss"]["after"], rel=1e-6)
    done = typed("distil", tmp_path / "less", "--teacher", taught, "-o", tmp_path / "last", "--steps", 1, *own)
    assert done.exit_code == 0, done.exception
    last = json.loads((tmp_path / "last" / "distil.json").read_text())
    assert last["loss"]["teacher"] == pytest.approx(record["loss"]["after"], rel=1e-6)


def test_its_weights_start_another_federation(made: Path, tmp_path: Path) -> None:
    """As docs/how-to/cut.md has it: source, options and weights of the folder."""
    record = json.loads((made / "small" / "cut.json").read_text())
    again = simulate(
        tiny(
            federation__rounds=1, model__source=record["source"], model__options=record["options"],
            model__weights=str(made / "small" / "model.safetensors"), model__pretrain__epochs=0,
        ),
        tmp_path / "second",
        engine="local",
    )  # fmt: skip
    assert again.summary["values"]["model"] == record["parameters"]["after"]


@pytest.mark.parametrize(
    "words",
    [("prune",), ("narrow", "--skill", "classes=0,1", "--steps", 2, "--recover", 2), ("audit", "layers"), ("cut", "--ffn", 5)],
    ids=lambda words: words[-1] if words[0] == "audit" else words[0],
)  # fmt: skip
def test_it_is_what_other_commands_begin_with(words: tuple[object, ...], made: Path, tmp_path: Path) -> None:
    command, options = (words[:2], words[2:]) if words[0] == "audit" else (words[:1], words[1:])
    done = typed(*command, made / "small", "-o", tmp_path / "out", "--config", made / "own.toml", *options)
    assert done.exit_code == 0, done.exception
    assert list((tmp_path / "out").iterdir())
    wrong = (*command, made / "small", "-o", tmp_path / "no", *options)
    assert "--config" in said(*wrong)
    assert "--checkpoint: of a federation's model" in said(
        *wrong, "--config", made / "own.toml", "--checkpoint", "best"
    )
    assert not (tmp_path / "no").exists()


def test_a_librarys_folder_is_the_librarys_model(tmp_path: Path) -> None:
    model_of("nemotron_h", layers_block_type=["linear_attention", "mlp"]).float().save_pretrained(tmp_path / "large")
    (tmp_path / "large" / "cut.json").write_text(
        json.dumps({"format": "dictpfl-cut-1", "source": "transformers:base", "options": {}})
    )
    assert standing(str(tmp_path / "large")) == Model(source=f"transformers:{tmp_path / 'large'}")
    assert standing(str(tmp_path)) is None


def test_a_cut_folder_of_timm_is_cut_again(tmp_path: Path) -> None:
    """It was named `timm:local-dir:FOLDER`, which is no folder's name here."""
    pytest.importorskip("timm")
    (tmp_path / "own.toml").write_text(
        'toy_insecure = true\n[data]\nsource = "digits"\nlimit = 300\n[model]\nsource = "timm:vit_tiny_patch16_224"\n[model.options]\n'
        'pretrained = false\nimg_size = 8\npatch_size = 4\ndepth = 2\nembed_dim = 16\nnum_heads = 2\n[training]\ndevice = "cpu"\n',
        encoding="utf-8",
    )
    own = ("--config", tmp_path / "own.toml")
    done = typed("cut", "timm:vit_tiny_patch16_224", "-o", tmp_path / "small", "--ffn", 20, *own)
    assert done.exit_code == 0, done.exception
    assert standing(str(tmp_path / "small")) == Model(source=f"timm:{tmp_path / 'small'}")
    (tmp_path / "other.toml").write_text((tmp_path / "own.toml").read_text().replace("pretrained = false", ""))
    own = ("--config", tmp_path / "other.toml")
    done = typed("cut", tmp_path / "small", "-o", tmp_path / "less", "--ffn", 10, *own)
    assert done.exit_code == 0, done.exception
    first, then = (json.loads((tmp_path / name / "cut.json").read_text()) for name in ("small", "less"))
    assert then["parameters"]["before"] == first["parameters"]["after"]
    assert then["loss"]["before"] == pytest.approx(first["loss"]["after"], rel=1e-6)


@pytest.mark.parametrize(
    "record",
    ["", "[]", "nonsense", "{}", '{"format": "dictpfl-cut-1"}', '{"format": "dictpfl-cut-1", "source": 5, "options": {}}',
     '{"format": "dictpfl-cut-1", "source": "mlp", "options": [1]}', '{"format": "dictpfl-cut-1", "source": "mlp"}',
     '{"format": "dictpfl-cut-2", "source": "mlp", "options": {"hidden": [4]}}', "[" * 100_000],
)  # fmt: skip
def test_a_damaged_record_is_named(record: str, made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    shutil.copytree(made / "small", folder)
    (folder / "cut.json").write_text(record)
    assert str(folder / "cut.json") in said(
        "cut", folder, "-o", tmp_path / "out", "--ffn", 5, "--config", made / "own.toml"
    )


def test_what_cannot_be_made_again_is_refused(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    shutil.copytree(made / "small", folder)
    record = json.loads((folder / "cut.json").read_text())
    (folder / "cut.json").write_text(json.dumps(record | {"source": "wards:network", "options": {}}))
    words = ("distil", folder, "--teacher", made / "run", "-o", tmp_path / "out", "--config", made / "own.toml")
    assert "a function of your own" in said(*words)
    (folder / "cut.json").write_text(json.dumps(record))
    (folder / "columns.json").write_text("{}")
    assert "prepared by what a federation counted" in said(*words)
    (folder / "columns.json").unlink()
    (folder / "model.safetensors").unlink()
    assert "model.safetensors" in str(typed(*words).exception)


def test_its_own_configuration_gives_way_to_the_folder(made: Path, tmp_path: Path) -> None:
    """Of --config only data and training count: the model is what the folder holds, however the file names another."""
    (tmp_path / "other.toml").write_text(as_toml(model__source="cnn", model__options={}), encoding="utf-8")
    read = read_source(str(made / "small"), config=tmp_path / "other.toml")
    assert read.config.model.source == json.loads((made / "small" / "cut.json").read_text())["source"]
