"""`dictpfl app write`: a Flower app folder that stock Flower programs run, with the folders of all parties beside its code.

The code travels in Flower's bundle; the parties' folders do not: keys and data stay where they are written. The app finds
them by the absolute path in `flower_app/`, unless the environment or a SuperNode's `--node-config` names another folder.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import TYPE_CHECKING

from dictpfl.client.folder import quoted
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError
from dictpfl.common.files import taken_back, write_private
from dictpfl.common.registry import CODE
from dictpfl.deploy.app.bundle import PACKAGE, app_version, write_app
from dictpfl.deploy.runs.run import CONFIG, INSTITUTIONS
from dictpfl.deploy.units import counted

if TYPE_CHECKING:
    from dictpfl.deploy.simulation.founding import Founded

PARTIES = "parties"
"""Folder in the app's folder with `coordinator/` and `institutions/`; not part of the bundle."""
_CODE = "flower_app"
_NAME = re.compile(r"[^a-z0-9]+")
_NOT_OWN = (PACKAGE, "timm", "transformers")
"""Words before a colon or a dot that name no module of a user's own."""
_SERVER = '''"""The coordinator: adds ciphertexts, holds no key, loads no torch."""

import os

# The environment of this machine comes first; nothing that arrives over the network has a say.
os.environ.setdefault("DICTPFL_COORDINATOR", {coordinator})

from dictpfl.server.app import app  # noqa: E402

__all__ = ["app"]
'''
_CLIENT = '''"""An institution: trains, seals, opens sums. A SuperNode's `--node-config 'institution="..."'` comes first."""

import os

from dictpfl.client.app import app_at

# With the app, not in the environment: workers of a Ray cluster that ran before this app do not have it.
app = app_at(os.environ.get("DICTPFL_INSTITUTIONS", {institutions}))

__all__ = ["app"]
'''
_PYPROJECT = """\
[project]
name = {name}
version = "{version}"
description = {description}
license = "Apache-2.0"
requires-python = ">=3.11,<3.15"
dependencies = {dependencies}

[tool.flwr.app]
publisher = {publisher}
fab-include = {include}

[tool.flwr.app.components]
serverapp = "{code}.server_app:app"
clientapp = "{code}.client_app:app"

[tool.flwr.app.config]
"""
_DESCRIPTION = "Federated fine-tuning of {model} on encrypted updates: decomposed, pruned by history, added under CKKS"
_README = """\
---
tags: [homomorphic-encryption, ckks, lora, privacy]
dataset: [{dataset}]
framework: [dictpfl, torch]
---

# {name}: federated fine-tuning on encrypted updates

{participants} institutions train `{model}` on `{dataset}` for {rounds}. Each update is decomposed (W = W0 + D T, only T is shared),
pruned by its history, quantised and encrypted under CKKS. The ServerApp adds ciphertexts; it holds no key and cannot read any of them. Made by
[dictpfl](https://arxiv.org/abs/2510.21086) from `{config}`{changed}.

## Run it, simulated

```
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1   # dictpfl's packages are installed here already
flwr run . local --stream --federation-config 'num-supernodes={participants}'
```

## Run it, deployed

```
flower-superlink --insecure --host 127.0.0.1 --port 8000
flower-supernode --insecure --superlink 127.0.0.1:8000 --port 9094 \\
    --node-config 'institution="{here}/institution-000"'
flwr run . here --stream
```

`here` is the SuperLink in `$FLWR_HOME/config.toml` (by default `~/.flwr`):

```
[superlink.here]
address = "127.0.0.1:8000"
insecure = true
```

Start `flwr run` once the SuperLink listens. A federation has its rounds once: where they were simulated, write another app for the deployment.
A SuperNode for each of the {participants} institutions, each with the folder of its own and on a port of its own. `--insecure` is for one
machine: across institutions use TLS and node authentication, or `dictpfl coordinator up` and `dictpfl institution up`, which set up both and pin this code
by its hash.

## What came out

```
dictpfl status --institution {here}/institution-000      # rounds, the state's digest, its own figures
dictpfl watch {here}/institution-000                     # the same, live
dictpfl export {here}/institution-000 -o model.safetensors
```

The digest is that of `{command}`: the engine has no say in the result.

## Keys and data

`{parties}/` holds the key and the data of every simulated institution. It is not part of the bundle (see `fab-include`), and
belongs into no repository (`.gitignore`).
"""


def write_federation(
    config: FederationConfig, target: Path, *, source: Path, publisher: str, changed: Sequence[str] = ()
) -> Path:
    """Write app and parties into a folder that is missing or empty, and return the folder.

    Args:
        config: checked configuration.
        target: the app's folder.
        source: the configuration file, which is copied beside the code; modules beside it that the configuration names, too.
        publisher: name on Flower's hub.
        changed: what `--set` changed of the file, as it was typed, for the README.

    Raises:
        ConfigError: the folder is not empty, or the configuration needs what stock Flower does not tell.
        DictPFLError: data, model or parameters cannot be used.
    """
    from dictpfl.deploy.simulation.founding import found

    if config.federation.sample:
        raise ConfigError(
            f"federation.sample = {config.federation.sample}: the coordinator draws by names, which stock Flower does not tell it; set it "
            "to 0 for an app, or deploy with `dictpfl coordinator up`"
        )
    target = target.resolve()
    modules = list(own_modules(config, Path.cwd()))
    write_app(target)
    with taken_back(target):  # half an app would run, and fail at the first round
        founded = found(config, target / PARTIES)
        _write(founded, target, source=source, publisher=publisher, changed=changed, modules=modules)
    return target


def _write(
    founded: Founded, target: Path, *, source: Path, publisher: str, changed: Sequence[str], modules: Sequence[Path]
) -> None:
    """Write what stands beside the package and the parties; `pyproject.toml` in place of the package's own."""
    config, here = founded.genesis.config, Path.cwd()
    write_private(target / PARTIES / CONFIG, (config.model_dump_json(indent=1) + "\n").encode())
    code = target / _CODE
    code.mkdir()
    (code / "__init__.py").write_text('"""The two apps of this federation."""\n', encoding="utf-8")
    (code / "server_app.py").write_text(_SERVER.format(coordinator=ascii(str(founded.coordinator))), encoding="utf-8")
    (code / "client_app.py").write_text(_CLIENT.format(institutions=ascii(str(founded.institutions))), encoding="utf-8")
    for module in modules:
        copy = target / module.relative_to(here)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(module.read_bytes())
    (target / source.name).write_bytes(source.read_bytes())
    (target / ".gitignore").write_text(f"/{PARTIES}/\n", encoding="utf-8")
    sets = [word for pair in changed for word in ("--set", pair)]
    include = [f"{PACKAGE}/**/*.py", f"{_CODE}/*.py", *(module.relative_to(here).as_posix() for module in modules)]
    name = _NAME.sub("-", config.name.lower()).strip("-") or "federation"
    (target / "pyproject.toml").write_text(
        _PYPROJECT.format(
            name=json.dumps(name), version=app_version(), description=quoted(_DESCRIPTION.format(model=config.model.source)), code=_CODE, include=f"[{', '.join(map(quoted, include))}]",
            dependencies=json.dumps(list(_dependencies()), indent=4), publisher=quoted(publisher),
        ),
        encoding="utf-8",
    )  # fmt: skip
    (target / "README.md").write_text(
        _README.format(
            name=name, participants=config.federation.participants, rounds=counted(config.federation.rounds, "round"), model=config.model.source,
            dataset=config.data.source, config=source.name, parties=PARTIES, here=f"{PARTIES}/{INSTITUTIONS}",
            changed=f" with `{shlex.join(sets)}`" if sets else "", command=shlex.join(["dictpfl", "simulate", source.name, *sets]),
        ),
        encoding="utf-8",
    )  # fmt: skip


def own_modules(config: FederationConfig, folder: Path) -> Iterator[Path]:
    """Find the files in a folder that a configuration names as `module:name`, with all of a package: they travel with the app."""
    named = {re.split("[.:]", text)[0]: None for text in _texts(config.model_dump()) if CODE.fullmatch(text)}
    for name in named:
        if name in _NOT_OWN:
            continue
        path = folder / f"{name}.py"
        yield from [path] if path.is_file() else sorted((folder / name).rglob("*.py"))


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part)


def _dependencies() -> Iterator[str]:
    """List what the code needs at a node: the package's own requirements and those of its extra `institution`."""
    try:
        lines = requires("dictpfl") or []
    except PackageNotFoundError:
        return
    for line in lines:
        requirement, _, marker = line.partition(";")
        if not marker or marker.strip() in ('extra == "institution"', "extra == 'institution'"):
            yield requirement.strip()
