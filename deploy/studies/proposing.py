"""Proposing a study, and cloning one: the lead's text, signed with the identity that the lead has already."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dictpfl.client.data.pipelines import with_pipeline
from dictpfl.client.model.build import build_model, load_weights, weights_digest
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError, StudyError
from dictpfl.deploy.ceremony import custody
from dictpfl.deploy.ceremony.charter import require_deployable, require_sizes, require_width
from dictpfl.deploy.ceremony.identity import Identity, require_name
from dictpfl.deploy.studies.code import code_of
from dictpfl.deploy.studies.network import Network
from dictpfl.deploy.studies.papers import Proposal
from dictpfl.deploy.studies.store import Studies, Study


@dataclass(frozen=True)
class Asked:
    """Facts that a lead states of a study besides its configuration; see `Proposal`. `days`: in which it may be approved."""

    title: str
    data: str
    sample_shape: tuple[int, ...]
    outputs: int
    hours: float
    memory_gib: float
    gpu: bool
    days: int


def propose(
    studies: Studies,
    lead: Identity,
    config: FederationConfig,
    asked: Asked,
    *,
    app: str,
    name: str = "",
    institutions: Collection[str] = (),
    weights: Path | None = None,
    parent: str = "",
) -> Study:
    """Sign a proposal, keep it in the lead's folder and in its custody log.

    Args:
        studies: of the lead's folder.
        lead: with its keys.
        config: of the study; `federation.participants` becomes the number of institutions that are asked.
        asked: what else the text says.
        app: SHA-256 of the app bundle that runs it, in hexadecimal.
        name: of the study; empty: the configuration's. A name that is here already gets its next version.
        institutions: names of those that are asked; empty: all of the network.
        weights: safetensors with W0; the authority needs the same file.
        parent: digest of the proposal that this one is a clone of, in hexadecimal.

    Raises:
        DictPFLError: refused; nothing was signed.
    """
    network = studies.network
    name = name or config.name
    require_name(name)
    chosen = {each: network.members[each].hex() for each in _chosen(network, institutions)}
    config = _deployable(config, len(chosen), weights)
    require_sizes(asked.sample_shape, asked.outputs)
    require_width(config, asked.sample_shape)
    before = studies.get(name) if name in studies.names() else None
    proposal = Proposal(
        name=name,
        version=before.wanted.version + 1 if before else 1,
        network=network.id,
        lead=lead.public,
        title=asked.title or config.name,
        data=asked.data,
        config=config,
        sample_shape=asked.sample_shape,
        outputs=asked.outputs,
        weights=digest_of_given(config, asked.sample_shape, asked.outputs, weights) if weights else "",
        app=app,
        code=code_of(config),
        institutions=chosen,
        hours=asked.hours,
        memory_gib=asked.memory_gib,
        gpu=asked.gpu,
        until=datetime.now(UTC).date() + timedelta(days=asked.days),
        parent=parent,
    ).signed(lead)
    study = studies.receive(proposal, "this proposal")
    custody.record(
        studies.party, lead, "study proposed", study=name, version=proposal.version, proposal=proposal.digest.hex()
    )
    return study


def require_w0(of: Proposal, weights: Path | None) -> None:
    """Refuse to clone a study that begins from a W0 of its own without one: the clone would begin from a drawn one.

    Raises:
        ConfigError: no file is given.
    """
    if of.weights and weights is None:
        raise ConfigError(
            f"{of.name} begins from a W0 of its own, of which only the hash is in its text ({of.weights[:16]}); give the clone its file, or "
            "another one, by --weights. A study that begins from a drawn W0 is one to propose anew"
        )


def digest_of_given(config: FederationConfig, sample_shape: tuple[int, ...], outputs: int, path: Path) -> str:
    """SHA-256 of W0 in hexadecimal, as genesis has it: of the model that was given a safetensors file, not of the file.

    The file may have other types of numbers, or a tied weight under one of its names.

    Raises:
        ModelError: no such file, or it does not fit the model.
    """
    model = build_model(config.model, sample_shape, outputs, config.seed)
    load_weights(model, path)
    return weights_digest(model.state_dict()).hex()


def _chosen(network: Network, names: Collection[str]) -> list[str]:
    if unknown := sorted(set(names) - set(network.members)):
        raise StudyError(
            f"{', '.join(unknown)}: no institution of this network; its institutions are {', '.join(sorted(network.members))}"
        )
    return sorted(set(names) or network.members)


def _deployable(config: FederationConfig, participants: int, weights: Path | None) -> FederationConfig:
    """Return the configuration as it is proposed: with nothing in it that another machine would read otherwise.

    Raises:
        ConfigError, ParameterError: what a deployment, or a study, cannot do.
    """
    capacity = config.federation.max_participants or max(3, config.federation.sample or participants)
    federation = config.federation.model_copy(update={"participants": participants, "max_participants": capacity})
    model = config.model.model_copy(update={"weights": ""})
    given = weights or (Path(config.model.weights) if config.model.weights else None)
    if given is not weights:
        raise ConfigError("model.weights is a file of this machine; give it by --weights, so that its hash is proposed")
    config = with_pipeline(config.model_copy(update={"federation": federation, "model": model}))
    config.require_sound("the proposed configuration")
    require_deployable(config, weights)
    if config.distils or config.decomposition.scores:
        raise ConfigError(
            "a study reads no file of one party's machine: leave out [distillation] and decomposition.scores, or found a federation by "
            "`dictpfl authority genesis`, which puts them into its bundles"
        )
    return config
