"""The app bundle of this installation: built, named by its hash, installed where the tasks find it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from dictpfl.common.errors import AppBundleError
from dictpfl.common.files import owner_only
from dictpfl.deploy.app import pinned
from dictpfl.deploy.app.bundle import build
from dictpfl.deploy.ceremony.departures import is_study
from dictpfl.deploy.ceremony.terms import in_force
from dictpfl.deploy.operations.places import FLOWER
from dictpfl.deploy.operations.settings import CoordinatorSettings, NodeSettings

Settings = TypeVar("Settings", CoordinatorSettings, NodeSettings)


def agreed(folder: Path, home: Path, own: str) -> str:
    """SHA-256 of the app that a party is held to: what its authority signed; without an authority, `own`.

    Args:
        folder: the party's.
        home: with the terms of each epoch; see `dictpfl.deploy.ceremony.terms.in_force`.
        own: the party's own setting, or empty.

    Raises:
        AppBundleError: the setting contradicts what was signed. BundleError: what was signed was altered.
    """
    terms = in_force(folder, home)
    if terms is None:
        return own
    if own and own != terms.app:
        raise AppBundleError(
            f"app bundle refused: the settings in {folder} (or --bundle) name {own[:16]}, the terms of epoch {terms.epoch}, "
            f"signed by {terms.authority.name}, name {terms.app[:16]}. Remove `bundle` from the settings, or ask the authority"
        )
    return terms.app


def held_to_agreed(folder: Path, home: Path, settings: Settings) -> Settings:
    """Install this installation's bundle; returns the settings with the SHA-256 that every task is held to from now on.

    Without an authority, what is installed here is taken as it is.

    Raises:
        AppBundleError: this installation's bundle is not the agreed one.
    """
    wanted = agreed(folder, home, settings.bundle)
    return settings.model_copy(update={"bundle": install_agreed(folder / FLOWER, wanted)})


def keep(folder: Path, home: Path, settings: Settings, given: Mapping[str, Any]) -> None:
    """Keep what `up` was given in the settings' file; without an authority also the bundle, which nothing else names.

    Raises:
        ConfigError: the file cannot be written. AppBundleError, BundleError: as for `agreed`.
    """
    bundle = {} if in_force(folder, home) is not None else {"bundle": settings.bundle}
    type(settings).updated(folder, **{**given, **bundle})


def install_agreed(home: Path, agreed: str) -> str:
    """Install this installation's bundle into `home`; `agreed` is its SHA-256, or empty to take it as it is.

    Returns the SHA-256 that every task is held to from now on.

    Raises:
        AppBundleError: this installation's bundle is another one.
    """
    content = build()
    try:
        pinned.require(content, agreed or pinned.sha256_of(content), "that of the dictpfl installed here")
        pinned.install(owner_only(home), content)
    except pinned.Mismatch as error:
        remedy = (
            "take up the epoch that came with it first: `dictpfl institution join`, or `dictpfl coordinator install`"
            if not is_study(home.parent)
            else "this study is over: it runs on one release, to its end, and its lead may propose it under another name"
        )
        raise AppBundleError(f"{error}. If yours is the newer release, {remedy}") from error
    return pinned.sha256_of(content)


def installed(home: Path, agreed: str) -> bytes:
    """Return the agreed bundle's bytes, after checking what is installed.

    Raises:
        AppBundleError: nothing is installed, or something else.
    """
    try:
        pinned.verified(home, agreed)
        return (home / pinned.FAB).read_bytes()
    except pinned.Mismatch as error:
        raise AppBundleError(str(error)) from error
