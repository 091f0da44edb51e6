"""An example for each command, which its help ends with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import typer

EXAMPLES: Mapping[str, str] = {
    "simulate": "federation.toml --out runs/mine",
    "compare": "federation.toml --methods majority,alone,pooled,dictpfl --seeds 1,2,3",
    "inspect": "runs/mine",
    "cut": "runs/mine/institutions/institution-000 --to 0.6 -o small",
    "distil": "transformers:small --teacher runs/mine --config federation.toml --steps 600 -o taught",
    "export": "runs/mine -o model.safetensors",
    "evaluate": "runs/mine --data ours.npz",
    "init": "federation.toml --tabular",
    "new": "ward",
    "doctor": "--folder institution",
    "personalise": "runs/mine/institutions/institution-000 --checkpoint best -o own-model",
    "prune": "runs/mine/institutions/institution-000 --sparsity 0.6 --format sparse -o sparse",
    "tokens": "clip.mp4 --keep 0.125 --picture kept.png",
    "narrow": "runs/mine/institutions/institution-000 --skill 'classes=0,1,2' --dropped 'classes=8,9' -o small",
    "attack": "federation.toml --set training.optimizer=sgd --set training.steps=1 --out runs/attack",
    "report": "runs/mine --privacy",
    "certificates": "--folder coordinator/tls --name coordinator.example.org",
    "bundle": "",
    "health": "--folder coordinator",
    "run": "--folder coordinator --rounds 7",
    "status": "--folder institution",
    "coordinator install": "epoch-1 --folder coordinator --authority-fingerprint FINGERPRINT",
    "coordinator up": "--folder coordinator",
    "coordinator admit": "north north.pub --folder coordinator",
    "coordinator dismiss": "north --folder coordinator",
    "coordinator exclude": "north --folder coordinator --reason 'its machine is being moved'",
    "coordinator readmit": "north --folder coordinator",
    "coordinator proxy": "--folder coordinator --listen 0.0.0.0:443",
    "authority identity": "--name ministry --folder authority --passphrase-file passphrase",
    "authority template": "federation.toml",
    "authority genesis": "federation.toml --folder authority --passphrase-file passphrase --institution north=north.pub --institution south=south.pub --institution west=west.pub --sample-shape 1x8x8 --outputs 10 --out epoch-1",
    "authority invite": "network.invitation --coordinator federation.example.org:443 --ca ca.pem --passphrase-file passphrase",
    "authority rotate": "--folder authority --passphrase-file passphrase --state north.state --state south.state --out epoch-2",
    "authority passphrase": "--folder authority --passphrase-file passphrase --new-passphrase-file passphrase.new",
    "institution identity": "--name north --folder institution --passphrase-file passphrase",
    "institution accept": "network.invitation --name north --passphrase-file passphrase --authority-fingerprint FINGERPRINT",
    "institution join": "north.bundle --folder institution --passphrase-file passphrase --authority-fingerprint FINGERPRINT",
    "institution export-state": "north.state --folder institution --passphrase-file passphrase",
    "institution passphrase": "--folder institution --passphrase-file passphrase --new-passphrase-file passphrase.new",
    "institution enrol": "--folder institution",
    "institution unlock": "--folder institution",
    "institution up": "--folder institution",
    "study propose": "wide.toml --sample-shape 64 --outputs 10 --hours 12 --folder authority --passphrase-file passphrase",
    "study clone": "wide wider --set federation.rounds=20 --folder authority --passphrase-file passphrase",
    "study show": "wide.proposal --folder institution",
    "study approve": "wide --folder institution --passphrase-file passphrase",
    "study refuse": "wide --reason 'not on these data' --folder institution --passphrase-file passphrase",
    "study pause": "wide --reason 'the machine moves' --folder institution --passphrase-file passphrase",
    "study abort": "wide --reason 'a fault in its data' --folder authority --passphrase-file passphrase",
    "study list": "--folder institution",
    "study key": "wide.proposal berlin.approved oslo.approved --out wide-1 --folder authority --passphrase-file passphrase",
    "study up": "wide.bundle --folder institution --passphrase-file passphrase",
    "study install": "wide-1 --folder coordinator",
    "audit verify": "coordinator",
    "audit fingerprint": "north.pub",
    "audit crypto": "runs/mine",
    "audit layers": "runs/mine/institutions/institution-000 --list -o map",
    "audit numbers": "--data patients.csv --columns pressure,dose -o digits",
}
"""Words behind `dictpfl COMMAND`, by command; those whose own words show one are not in it."""


def show_examples(app: typer.Typer, words: tuple[str, ...] = ()) -> None:
    """Give each command of an app, and of those in it, its example; a test finds those that have none."""
    for info in app.registered_commands:
        assert info.callback is not None  # noqa: S101 -- for the type checker
        if "Example: " in (info.callback.__doc__ or ""):
            continue
        path = (*words, info.name or info.callback.__name__.replace("_", "-"))
        if (example := EXAMPLES.get(" ".join(path))) is not None:
            info.epilog = f"Example: `{' '.join(('dictpfl', *path, example)).strip()}`"
    for group in app.registered_groups:
        assert group.typer_instance is not None  # noqa: S101 -- for the type checker
        show_examples(group.typer_instance, (*words, *_named(group.name)))


def _named(name: object) -> Iterator[str]:
    if isinstance(name, str):
        yield name
