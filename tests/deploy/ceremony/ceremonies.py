"""A whole ceremony on one machine: who has which folder, and a run of what they founded."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import client.institution
from client.data import Samples
from client.institution import Institution
from client.site import TRAIN, VALIDATION
from common.config import FederationConfig
from common.state import SharedState
from deploy.ceremony import authority
from deploy.ceremony.authority import Issued
from deploy.ceremony.fingerprint import spoken
from deploy.ceremony.identity import PUBLIC, PublicIdentity, Role, make_identity
from deploy.ceremony.installing import install
from deploy.ceremony.joining import Joined, join
from deploy.engines.local import run_local

NAMES = ("berlin", "kyoto", "oslo")
APP = "ab" * 32
PASSPHRASES = {
    name: f"six random words of {name}".encode() for name in ("authority", *NAMES, "quito", "turin", "lagos")
}


def config(**changes: object) -> FederationConfig:
    settings: dict[str, object] = {
        "model.source": "mlp",
        "model.options": {"hidden": [16]},
        "training.steps": 1,
        "federation.rounds": 3,
        "federation.participants": 3,
        "federation.max_participants": 4,
        "federation.sample_cap": 64,
    }
    return FederationConfig.of({}, settings | {name.replace("__", "."): value for name, value in changes.items()})


@dataclass
class Ceremony:
    root: Path

    @property
    def authority(self) -> Path:
        return self.root / "authority"

    @property
    def coordinator(self) -> Path:
        return self.root / "coordinator"

    def site(self, name: str) -> Path:
        return self.root / name

    def handout(self, epoch: int = 1) -> Path:
        return self.root / f"handout-{epoch}"

    def bundle(self, name: str, epoch: int = 1) -> Path:
        return self.handout(epoch) / "bundles" / f"{name}.bundle"

    @classmethod
    def found(cls, root: Path, names: tuple[str, ...] = NAMES, **changes: object) -> Ceremony:
        made = cls(root)
        make_identity(made.authority, "ministry", Role.AUTHORITY, PASSPHRASES["authority"])
        for name in names:
            made.identity(name)
        made.genesis(made.handout(), names, config(**changes))
        return made

    def genesis(self, out: Path, names: tuple[str, ...], agreed: FederationConfig, seed: bytes | None = None) -> Issued:
        return authority.found(
            self.authority, PASSPHRASES["authority"], agreed,
            {name: self.site(name) / PUBLIC for name in names}, out, app=APP, sample_shape=(6,), outputs=3, seed=seed,
        )  # fmt: skip

    def identity(self, name: str) -> None:
        make_identity(self.site(name), name, Role.INSTITUTION, PASSPHRASES[name])
        (self.site(name) / "passphrase").write_bytes(PASSPHRASES[name] + b"\n")
        (self.site(name) / "passphrase").chmod(0o600)

    def copy(self, root: Path) -> Ceremony:
        shutil.copytree(self.root, root)
        return Ceremony(root)

    @property
    def fingerprint(self) -> str:
        return spoken(PublicIdentity.load(self.authority / PUBLIC).fingerprint)

    def join(self, name: str, epoch: int = 1, bundle: Path | None = None, **how: object) -> Joined:
        how = {"authority_fingerprint": self.fingerprint, "passphrase_file": self.site(name) / "passphrase"} | how
        passphrase = how.pop("passphrase", PASSPHRASES.get(name))
        return join(self.site(name), passphrase, bundle or self.bundle(name, epoch), **how)

    def give_data(self, name: str, count: int = 40) -> None:
        rng = np.random.default_rng(sum(name.encode()))
        for file, size in ((TRAIN, count), (VALIDATION, 12)):
            features = rng.normal(size=(size, 6)).astype(np.float32)
            Samples(features, features[:, :3].argmax(axis=1)).save(self.site(name) / file)

    def hand_over(self, epoch: int = 1) -> None:
        """The coordinator's operator installs the new half; the journal stays."""
        install(self.coordinator, self.handout(epoch) / "coordinator", authority_fingerprint=self.fingerprint)

    def run(self, names: tuple[str, ...]) -> None:
        """All rounds that are missing, in this process."""
        sites = self.root / "sites"
        shutil.rmtree(sites, ignore_errors=True)
        sites.mkdir()
        for index, name in enumerate(names):
            (sites / f"institution-{index:03d}").symlink_to(self.site(name))
        client.institution._OPEN.clear()
        run_local(self.coordinator, sites, len(names))
        client.institution._OPEN.clear()

    def state(self, name: str) -> SharedState:
        record = Institution(self.site(name))._memory.recall()
        assert record is not None
        return record.shared

    def files(self, name: str) -> dict[str, bytes]:
        """All that lies in a party's folder, to see that a refusal changed nothing."""
        found = {str(p.relative_to(self.site(name))): p for p in self.site(name).rglob("*") if p.is_file()}
        return {path: file.read_bytes() for path, file in found.items()}
