"""Data sets of the Hugging Face hub by name (`data.path`): downloaded once, then read like files of one's own.

Two forms: `hf://datasets/OWNER/NAME/FILE`, a file of the repository (`NAME@REVISION` for another than its main branch), and
`OWNER/NAME` or `OWNER/NAME/CONFIGURATION`, the parquet files that the hub makes of every data set; `:SPLIT` behind it takes
another split than `train`. No code of a data set is run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dictpfl.common.errors import ConfigError, DataError, out_of_reach

PREFIX = "hf://datasets/"
_FILE = re.compile(r"(?P<name>[^/@\s]+/[^/@\s]+)(?:@(?P<revision>[^/\s]+))?/(?P<file>\S+)")
_NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?:/(?P<config>[\w.-]+))?(?::(?P<split>[\w.-]+))?")
_CONVERTED = "refs/convert/parquet"  # the branch with CONFIGURATION/SPLIT/0000.parquet of each data set
_KINDS = (".parquet", ".csv", ".tsv", ".jsonl", ".json", ".arrow")


def is_hub(path: str, source: str) -> bool:
    """Tell whether a path means the hub: by its prefix, or as a name where nothing of that name lies here."""
    if path.startswith(PREFIX):
        return True
    found = _NAME.fullmatch(path)
    if source != "parquet" or found is None or path.startswith((".", "/", "~")) or path.lower().endswith(_KINDS):
        return False
    return not Path(path).exists() and not Path(Path(path).parts[0]).is_dir()


def local_files(path: str) -> list[Path]:
    """Download what a hub's name means, or find it where it was downloaded to; the files in their order.

    Raises:
        ConfigError: the library is not installed, the hub cannot be reached, or it has no such data set.
        DataError: the name leaves open which part is meant.
    """
    if path.startswith(PREFIX):
        found = _FILE.fullmatch(path.removeprefix(PREFIX))
        if found is None:
            raise ConfigError(f"data.path {path!r}: expected {PREFIX}OWNER/NAME/FILE, or OWNER/NAME alone")
        return _downloaded(
            path, found["name"], found["revision"] or "main", lambda names: _one(path, names, found["file"])
        )
    named = _NAME.fullmatch(path)
    if named is None:
        raise ConfigError(
            f"data.path {path!r}: expected OWNER/NAME, OWNER/NAME/CONFIGURATION or OWNER/NAME:SPLIT of the hub"
        )
    config, split = named["config"], named["split"] or "train"
    return _downloaded(path, named["name"], _CONVERTED, lambda names: _parts(path, names, config, split))


def _downloaded(path: str, name: str, revision: str, pick: Callable[[Sequence[str]], list[str]]) -> list[Path]:
    hub = _library()
    try:
        # Asked first: it answers at once without a network, where a download tries for half a minute.
        names, here = hub.HfApi().list_repo_files(name, repo_type="dataset", revision=revision), False
    except out_of_reach() as error:
        names, here = _cached(hub, name, revision), True
        if not names:
            raise ConfigError(
                f"data.path {path!r}: no such file or folder here, and the data set {name!r} cannot be had from the hub: "
                f"{_first_line(error)}. Without a network, download it where there is one (`hf download {name} --repo-type "
                "dataset --local-dir FOLDER`) and name its files"
            ) from error
    try:
        return [
            Path(hub.hf_hub_download(name, file, repo_type="dataset", revision=revision, local_files_only=here))
            for file in pick(names)
        ]
    except out_of_reach() as error:
        raise ConfigError(f"data.path {path!r}: the hub stopped answering: {_first_line(error)}; try again") from error


def _cached(hub: Any, name: str, revision: str) -> list[str]:
    """Names of the files that were downloaded before."""
    try:
        folder = Path(hub.snapshot_download(name, repo_type="dataset", revision=revision, local_files_only=True))
    except out_of_reach():
        return []
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def _one(path: str, names: Sequence[str], file: str) -> list[str]:
    if file not in names:
        raise DataError(f"{path}: the data set has no file {file!r}; it has {_some(names)}")
    return [file]


def _parts(path: str, names: Sequence[str], config: str | None, split: str) -> list[str]:
    """Files of one split of one configuration."""
    folders = [name.split("/") for name in names if name.endswith(".parquet") and name.count("/") > 1]
    configs = sorted({parts[0] for parts in folders})
    if config is None and len(configs) > 1:
        raise DataError(f"{path}: it has the configurations {_some(configs)}; name one, as in OWNER/NAME/{configs[0]}")
    wanted = config or (configs[0] if configs else "")
    splits = sorted({parts[1] for parts in folders if parts[0] == wanted})
    if not splits:
        raise DataError(
            f"{path}: the hub has no parquet files of the configuration {wanted!r}; there are {_some(configs)}"
        )
    # `partial-train`: the hub's first 5 GB of something larger. Part of a data set is not silently the whole.
    if split not in splits:
        raise DataError(f"{path}: no split {split!r}; there are {_some(splits)}, as in OWNER/NAME:{splits[0]}")
    return sorted("/".join(parts) for parts in folders if parts[:2] == [wanted, split])


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ConfigError(
            f"data.path names a data set of the hub, and huggingface_hub is not installed ({error}); run `pip install "
            "'dictpfl[transformers]'`, or name a file"
        ) from error
    return huggingface_hub


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "") or "none"  # noqa: PLR2004 -- a line's worth


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
