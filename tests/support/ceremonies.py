"""A whole ceremony on one machine: who has which folder, and a run of what they founded."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dictpfl.client.data.samples import Samples
from dictpfl.client.folder import TRAIN, VALIDATION
from dictpfl.client.institution import Institution, forget_institutions
from dictpfl.common.config import FederationConfig
from dictpfl.common.fingerprint import spoken
from dictpfl.common.law.state import SharedState
from dictpfl.deploy.ceremony import authority
from dictpfl.deploy.ceremony.authority import Issued
from dictpfl.deploy.ceremony.identity import PUBLIC, PublicIdentity, Role, make_identity
from dictpfl.deploy.ceremony.installing import install
from dictpfl.deploy.ceremony.joining import Joined, join
from dictpfl.deploy.simulation.local import run_local
from tests.support.federations import encrypted

NAMES = ("berlin", "kyoto", "oslo")
APP = "ab" * 32
PASSPHRASES = {
    name: f"six random words of {name}".encode() for name in ("authority", *NAMES, "quito", "turin", "lagos")
}


def config(**changes: object) -> FederationConfig:
    """The smallest federation, with room for one institution more."""
    more = {"federation__rounds": 3, "federation__max_participants": 4, "federation__sample_cap": 64}
    return encrypted(**(more | changes))


@dataclass
class Ceremony:
    root: Path

    @property
    def authority(self) -> Path:
        return self.root / "authority"

    @property
    def coordinator(self) -> Path:
        return self.root / "coordinator"

    def home(self, name: str) -> Path:
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
            {name: self.home(name) / PUBLIC for name in names}, out, app=APP, sample_shape=(6,), outputs=3, seed=seed,
        )  # fmt: skip

    def identity(self, name: str) -> None:
        make_identity(self.home(name), name, Role.INSTITUTION, PASSPHRASES[name])
        (self.home(name) / "passphrase").write_bytes(PASSPHRASES[name] + b"\n")
        (self.home(name) / "passphrase").chmod(0o600)

    def copy(self, root: Path) -> Ceremony:
        shutil.copytree(self.root, root)
        return Ceremony(root)

    @property
    def fingerprint(self) -> str:
        return spoken(PublicIdentity.load(self.authority / PUBLIC).fingerprint)

    def join(self, name: str, epoch: int = 1, bundle: Path | None = None, **how: object) -> Joined:
        how = {"authority_fingerprint": self.fingerprint, "passphrase_file": self.home(name) / "passphrase"} | how
        passphrase = how.pop("passphrase", PASSPHRASES.get(name))
        return join(self.home(name), passphrase, bundle or self.bundle(name, epoch), **how)

    def give_data(self, name: str, count: int = 40) -> None:
        rng = np.random.default_rng(sum(name.encode()))
        for file, size in ((TRAIN, count), (VALIDATION, 12)):
            features = rng.normal(size=(size, 6)).astype(np.float32)
            Samples(features, features[:, :3].argmax(axis=1)).save(self.home(name) / file)

    def hand_over(self, epoch: int = 1) -> None:
        """The coordinator's operator installs the new half; the journal stays."""
        install(self.coordinator, self.handout(epoch) / "coordinator", authority_fingerprint=self.fingerprint)

    def run(self, names: tuple[str, ...]) -> None:
        """All rounds that are missing, in this process."""
        institutions = self.root / "institutions"
        shutil.rmtree(institutions, ignore_errors=True)
        institutions.mkdir()
        for index, name in enumerate(names):
            (institutions / f"institution-{index:03d}").symlink_to(self.home(name))
        forget_institutions()
        run_local(self.coordinator, institutions, len(names))
        forget_institutions()

    def state(self, name: str) -> SharedState:
        record = Institution(self.home(name))._memory.recall()
        assert record is not None
        return record.shared

    def files(self, name: str) -> dict[str, bytes]:
        """All that lies in a party's folder, to see that a refusal changed nothing."""
        found = {str(p.relative_to(self.home(name))): p for p in self.home(name).rglob("*") if p.is_file()}
        return {path: file.read_bytes() for path, file in found.items()}
