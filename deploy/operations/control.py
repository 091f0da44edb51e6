"""Flower's control API, on loopback and under the run's secret: nodes admitted, runs started, watched and stopped."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.cli.cli_client_interceptor import CliClientHttpInterceptor
from flwr.proto import control_pb2 as messages
from flwr.proto.fab_pb2 import Fab
from flwr.supercore.constant import NodeStatus
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.error import FlowerError
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext

from dictpfl.common.errors import ConfigError, ProcessError
from dictpfl.deploy.operations.superlink import control_token


@dataclass(frozen=True)
class RunState:
    """State of a run, as Flower tells it."""

    run: int
    status: str
    sub_status: str
    details: str

    @property
    def over(self) -> bool:
        """Tells whether its server app has ended, or never will begin."""
        return self.status == "finished"


@dataclass(frozen=True)
class Node:
    """An institution's node as the coordinator knows it."""

    node: int
    name: str
    status: str
    online_until: float
    last_activated_at: str


class Control:
    """A connection; make it with `connected`."""

    def __init__(self, client: ControlHttpClient) -> None:
        self._client = client

    def admit(self, public_key: Path) -> int | None:
        """Register a node's public key, under the name of its file, also after it was struck off; None: it is registered already.

        Raises:
            ConfigError: no usable key.
        """
        wanted = require_node_key(public_key)
        for info in self._infos():
            if info.public_key == wanted and info.status != NodeStatus.UNREGISTERED:
                return None
        answer = self._client.RegisterNode(messages.RegisterNodeRequest(public_key=wanted, name=public_key.stem))
        return int(answer.node_id)

    def dismiss(self, public_key: Path) -> int | None:
        """Strike a node off; None: it was not registered.

        Raises:
            ConfigError: no usable key.
        """
        wanted = require_node_key(public_key)
        for info in self._infos():
            if info.public_key == wanted and info.status != NodeStatus.UNREGISTERED:
                self._client.UnregisterNode(messages.UnregisterNodeRequest(node_id=info.node_id))
                return int(info.node_id)
        return None

    def dismiss_others(self, kept: Sequence[Path], spared: Sequence[str] = ()) -> list[str]:
        """Strike off every node whose public key is not in these files, and whose name is not spared; returns their names."""
        wanted = {require_node_key(path) for path in kept}
        known = [info for info in self._infos() if info.status != NodeStatus.UNREGISTERED]
        others = [info for info in known if info.public_key not in wanted and info.name not in spared]
        for info in others:
            self._client.UnregisterNode(messages.UnregisterNodeRequest(node_id=info.node_id))
        return [str(info.name) for info in others]

    def nodes(self) -> list[Node]:
        """Return all nodes that are registered."""
        return [
            Node(i.node_id, i.name, i.status, float(i.online_until or 0.0), i.last_activated_at) for i in self._infos()
        ]

    def runs(self) -> list[RunState]:
        """Return all runs, the newest last."""
        answer = self._client.ListRuns(messages.ListRunsRequest())
        return [
            RunState(run.run_id, run.status.status, run.status.sub_status, run.status.details)
            for run in sorted(answer.run_dict.values(), key=lambda run: str(run.pending_at))
        ]

    def start(self, bundle: bytes) -> int:
        """Start a run of an app bundle."""
        fab = Fab(hash_str=hashlib.sha256(bundle).hexdigest(), content=bundle)
        answer = self._client.StartRun(messages.StartRunRequest(fab=fab))
        if not answer.HasField("run_id"):
            raise ProcessError("the SuperLink takes no run; see logs/superlink.log")
        return int(answer.run_id)

    def stop(self, run: int) -> None:
        """Stop a run."""
        self._client.StopRun(messages.StopRunRequest(run_id=run))

    def _infos(self) -> list[messages.NodeInfo]:  # type: ignore[name-defined]  # re-exported by the stub only
        return list(self._client.ListNodes(messages.ListNodesRequest()).nodes_info)


def require_node_key(path: Path) -> bytes:
    """Return the public key of a node, as Flower names it.

    Raises:
        ConfigError: no usable key.
    """
    try:
        key = serialization.load_ssh_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path} is no public key of a node: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConfigError(f"{path} holds no EC key, as `dictpfl institution enrol` writes it")
    return public_key_to_bytes(key)


class _Bearer:
    """Shows the run's secret with each request, as an interceptor of Flower's client."""

    def __init__(self, token: str) -> None:
        self._token = token

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Add it to a request."""
        context.request.headers["authorization"] = f"Bearer {self._token}"
        return call_next(context)


@contextmanager
def connected(address: str, ca: Path, secret: Path) -> Iterator[Control]:
    """Connect to a SuperLink on this machine.

    Args:
        address: HOST:PORT.
        ca: that its certificate is checked against.
        secret: file that only its operator reads; see `places.SECRET`.

    Raises:
        ProcessError: it does not answer, or refuses.
    """
    try:
        bearer = _Bearer(control_token(secret.read_bytes()))
        client = ControlHttpClient.from_server_address(
            server_address=address,
            insecure=False,
            root_certificates=ca.read_bytes(),
            interceptors=[CliClientHttpInterceptor(), RuntimeVersionHttpInterceptor(component_name="flwr CLI"), bearer],
        )
        try:
            yield Control(client)
        finally:
            client.close()
    except httpx.HTTPStatusError as error:
        flower = FlowerError.from_json(error.response.text)
        reason = f"{flower.message} {flower.public_details or ''}" if flower else f"HTTP {error.response.status_code}"
        raise ProcessError(f"the SuperLink at {address} refuses: {reason.strip()}") from error
    except (httpx.HTTPError, OSError) as error:
        raise ProcessError(
            f"no SuperLink answers at {address} ({type(error).__name__}: {error}); is `dictpfl coordinator up` running?"
        ) from error


def is_up(address: str, ca: Path, secret: Path) -> bool:
    """Tell whether the SuperLink answers."""
    try:
        with connected(address, ca, secret) as control:
            control.nodes()
    except ProcessError:
        return False
    return True
