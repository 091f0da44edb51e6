"""The control interface: another account of the coordinator's machine has the certificate, and no file of its folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from flwr.cli.cli_client_interceptor import CliClientHttpInterceptor
from flwr.proto import control_pb2 as messages
from flwr.proto.fab_pb2 import Fab
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from dictpfl.common.errors import ProcessError
from dictpfl.deploy.ceremony.nodes import make_node_key
from dictpfl.deploy.operations.certificates import try_out
from dictpfl.deploy.operations.control import connected
from dictpfl.deploy.operations.places import RUN, SECRET
from dictpfl.deploy.simulation.founding import found
from tests.support.federations import tiny
from tests.support.machines import Command, free_port, until

pytestmark = pytest.mark.deployment


class Machine:
    """The coordinator's machine: `up` runs, without a proxy."""

    def __init__(self, root: Path) -> None:
        self.root, self.port = root, free_port()
        self.coordinator = found(tiny(federation__rounds=1), root / "federation").folder / "coordinator"
        try_out(self.coordinator / "tls", [])
        self.public = root / "ca.pem"  # institutions get it by mail
        shutil.copy(self.coordinator / "tls" / "ca.pem", self.public)
        (root / "clinic.pub").write_text(make_node_key()[1])
        self.up = Command(
            ["coordinator", "up", "--folder", str(self.coordinator), "--port", str(self.port)], root / "up.log"
        )

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def typed(self, *words: object) -> str:
        folder = ("--folder", str(self.coordinator))
        log = self.root / f"{words[0]}.log"
        log.unlink(missing_ok=True)
        command = Command(["coordinator", str(words[0]), *folder, *map(str, words[1:])], log)
        assert command.wait(60) == 0, command.text
        return command.text

    def nodes(self, secret: Path | None = None) -> dict[str, str]:
        with connected(self.address, self.public, secret or self.coordinator / RUN / SECRET) as control:
            return {node.name: node.status for node in control.nodes()}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    made = Machine(tmp_path_factory.mktemp("machine"))
    try:
        until(lambda: "superexec" in made.up.text or made.up.process.poll() is not None, 90, "up")
        until(lambda: _answers(made), 60, "the SuperLink")
        yield made
    finally:
        made.up.stop()


def _answers(machine: Machine) -> bool:
    try:
        machine.nodes()
    except ProcessError:
        return False
    return True


CALLS: dict[str, Callable[[ControlHttpClient, int], object]] = {
    "list nodes": lambda flower, _node: flower.ListNodes(messages.ListNodesRequest()),
    "list runs": lambda flower, _node: flower.ListRuns(messages.ListRunsRequest()),
    "admit": lambda flower, _node: flower.RegisterNode(messages.RegisterNodeRequest(public_key=b"key", name="mine")),
    "strike off": lambda flower, node: flower.UnregisterNode(messages.UnregisterNodeRequest(node_id=node)),
    "start": lambda flower, _node: flower.StartRun(messages.StartRunRequest(fab=Fab(hash_str="00", content=b"fab"))),
    "stop": lambda flower, _node: flower.StopRun(messages.StopRunRequest(run_id=1)),
}


@pytest.mark.parametrize("call", CALLS)
def test_who_has_the_certificate_alone_neither_sees_nor_does_anything(machine: Machine, call: str) -> None:
    """Flower's own client, as any account of the machine can start it."""
    machine.typed("admit", "clinic", machine.root / "clinic.pub")
    with connected(machine.address, machine.public, machine.coordinator / RUN / SECRET) as control:
        (node,) = [node.node for node in control.nodes() if node.name == "clinic"]
    flower = ControlHttpClient.from_server_address(
        server_address=machine.address,
        insecure=False,
        root_certificates=machine.public.read_bytes(),
        interceptors=[CliClientHttpInterceptor(), RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
    )
    with pytest.raises(httpx.HTTPStatusError) as refused:
        CALLS[call](flower, node)
    flower.close()
    assert refused.value.response.status_code == httpx.codes.UNAUTHORIZED
    assert machine.nodes() == {"clinic": "registered"}


def test_the_secret_is_the_operators_alone_and_a_wrong_one_opens_nothing(machine: Machine, tmp_path: Path) -> None:
    secret = machine.coordinator / RUN / SECRET
    assert [path.stat().st_mode & 0o077 for path in (secret, secret.parent, machine.coordinator)] == [0, 0, 0]
    for wrong in (b"", b"00" * 32, secret.read_bytes()[:-1]):
        (tmp_path / "guess").write_bytes(wrong)
        with pytest.raises(ProcessError, match=r"refuses: .*401"):
            machine.nodes(tmp_path / "guess")
    assert secret.read_text() not in machine.up.text


def test_a_node_that_was_struck_off_is_admitted_again_with_its_key(machine: Machine) -> None:
    """Flower refuses its key for good; twice, since a database remembers each time."""
    for _ in range(2):
        assert "clinic admitted" in machine.typed("admit", "clinic", machine.root / "clinic.pub")
        assert machine.nodes() == {"clinic": "registered"}
        assert "clinic dismissed" in machine.typed("dismiss", "clinic")
        assert machine.nodes() == {"clinic": "unregistered"}
