"""What lies with the coordinator, in files and in the memory of its living processes, tells neither key nor data."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import tenseal.sealapi as seal

from dictpfl.client.folder import InstitutionSettings
from dictpfl.client.keys.epochs import Keyring
from dictpfl.common.ckks.keys import FederationKey, key_document
from dictpfl.deploy.simulation.flower import session
from tests.support.ceremonial import PLANTED_SAMPLES, Ceremonial, planted
from tests.support.machines import until
from tests.support.searching import GCORE, Held, core_of, files_below, held_by, nameless_files_of, open_files_of, search

pytestmark = pytest.mark.deployment
NAME = "berlin"


def test_the_coordinator_holds_no_secret(world: Ceremonial, tmp_path: Path) -> None:
    institution = world.home(NAME)
    keys = Keyring(institution, InstitutionSettings.load(institution))
    assert keys.key is not None
    needles = {**of_key(keys.key), **of_files(world, keys)}
    run = world.more(3)  # a busy machine may miss the moment in one round
    with stopped(world) as task:
        # While the round is open, with the institution's upload sealed and about to leave, the coordinator as it lives.
        needles |= of_update(world)
        inside = held_by([task])
        app = world.forks(world.coordinator)
        assert len(app) == 1, "the server app is among them"
        pids = processes(world, run.process.pid)
        outside = held_by(pids)
        core = core_of(app[0], tmp_path) if GCORE else None
    assert run.wait(240) == 0, run.text
    # Six of dictpfl's and Flower's, and nginx where it is installed.
    assert len(pids) >= 6 + len(world.proxy_processes()), pids
    assert all(len(set(needle)) > 2 for needle in needles.values()), "too plain to mean anything"

    # The search finds what is there: all of it is in the institution's own memory and files.
    assert set(search([], inside, needles)) >= {
        "key: as SEAL saves it", "key: transformed coefficients", "a sample", "seed", "upload marks",
        "update, double", "residual, double", "model, double", "dictionary",
    }  # fmt: skip
    mine = files_below(institution)
    assert set(search(mine, [], needles)) >= {"a sample", "seed, text", "node key", "loss, text", "metric, text"}
    assert set(of_key(keys.key)) & set(search([], [Held("key file", key_document(keys.key))], needles)) == {
        "key: base64, shifted by 0"
    }

    federation = {"federation": world.agreed.uploads.federation}
    assert search([], outside, federation), "and what the coordinator may know is found in its memory"
    assert search([], outside, needles) == {}
    if core is not None:
        assert search([core], [], federation)
        assert search([core], [], needles) == {}
    # Once all is over: every file, and the processes that stay, with what the institution has measured since.
    needles |= of_metrics(institution)
    assert search(everywhere(world, processes(world)), held_by(processes(world)), needles) == {}


def test_no_word_of_it_in_what_the_coordinator_says(world: Ceremonial) -> None:
    """Counts, places and names of an institution's files, in logs, databases and what was printed."""
    words = [str(PLANTED_SAMPLES), f"{PLANTED_SAMPLES:,}", str(world.home(NAME)), f"{NAME}.passphrase"]
    pattern = re.compile("|".join(rf"(?<![0-9]){re.escape(word)}(?![0-9])" for word in words).encode())
    app = world.coordinator / "flower"  # the agreed one, which is the same everywhere and tells nothing
    files = [path for path in files_below(world.coordinator) if app not in path.parents]
    assert len(files) > 8
    for path in [*files, *world.outputs()]:
        found = pattern.search(path.read_bytes())
        assert found is None, f"{found} in {path}"
    own = b"".join(path.read_bytes() for path in files_below(world.home(NAME) / "run"))
    assert str(world.home(NAME)).encode() in own or files_below(world.home(NAME) / "logs")


# what is searched for


def of_key(key: FederationKey) -> dict[str, bytes]:
    """The key's bytes in every form that they have or might be given; pieces, so that a part is found as well."""
    secret = key.secret
    coefficients, modulus = transformed(key)
    ternary = plain(coefficients, modulus, key.parameters.ring_degree, 64)
    found = {
        "key: as SEAL saves it": secret[len(secret) // 2 :][:48],
        "key: transformed coefficients": coefficients[1000:1006].astype("<u8").tobytes(),
        "key: transformed coefficients, big-endian": coefficients[1000:1006].astype(">u8").tobytes(),
        "key: transformed coefficients, doubles": coefficients[1000:1006].astype("<f8").tobytes(),
        "key: ternary, residues": np.array([value % modulus for value in ternary], dtype="<u8").tobytes(),
        "key: ternary, 64 bits": np.array(ternary, dtype="<i8").tobytes(),
        "key: ternary, 32 bits": np.array(ternary, dtype="<i4").tobytes(),
        "key: ternary, 8 bits": np.array(ternary, dtype="<i1").tobytes(),
        "key: hexadecimal": secret[200:232].hex().encode(),
        "key: hexadecimal, capitals": secret[200:232].hex().upper().encode(),
    }
    for shift in range(3):
        found[f"key: base64, shifted by {shift}"] = base64.b64encode(secret[198 - shift : 240 - shift])[4:-4]
    return found


def transformed(key: FederationKey) -> tuple[np.ndarray, int]:
    """The secret's coefficients after the number-theoretic transform, uint64, and the modulus: the end of SEAL's bytes."""
    (prime,) = seal.CoeffModulus.Create(key.parameters.ring_degree, list(key.parameters.primes))
    degree, modulus = key.parameters.ring_degree, int(prime.value())
    values = np.frombuffer(key.secret[-8 * degree :], dtype="<u8")
    assert int(values.max()) < modulus, "SEAL's bytes end otherwise than thought"
    return values, modulus


def plain(values: np.ndarray, modulus: int, degree: int, count: int) -> list[int]:
    """The first coefficients of the secret polynomial itself; they are ternary, or this is not the inverse."""
    root = smallest_root(modulus, degree)
    bits = degree.bit_length() - 1
    places = [int(f"{index:0{bits}b}"[::-1], 2) for index in range(degree)]
    inverse, backwards = pow(degree, -1, modulus), pow(root, -1, modulus)
    found = []
    for power in range(count):
        step, powers = pow(backwards, 2 * power, modulus), [pow(backwards, power, modulus)]
        for _ in range(degree - 1):
            powers.append(powers[-1] * step % modulus)
        total = sum(int(value) * powers[places[index]] for index, value in enumerate(values)) * inverse % modulus
        found.append(total - modulus if total > modulus // 2 else total)
    assert set(found) == {-1, 0, 1}, "not the inverse transform"
    return found


def smallest_root(modulus: int, degree: int) -> int:
    """SEAL's choice: the smallest primitive root of unity of order 2N."""
    order = 2 * degree
    root = next(
        r for r in (pow(base, (modulus - 1) // order, modulus) for base in range(2, 1000))
        if pow(r, degree, modulus) == modulus - 1
    )  # fmt: skip
    square, candidate, smallest = root * root % modulus, root, root
    for _ in range(degree):
        candidate = candidate * square % modulus
        smallest = min(smallest, candidate)
    return smallest


def of_files(world: Ceremonial, keys: Keyring) -> dict[str, bytes]:
    """What an institution keeps, planted values first."""
    institution, row = world.home(NAME), planted(0).reshape(-1)
    return {
        "a sample": row.astype("<f4").tobytes()[:64],
        "a sample, doubles": row.astype("<f8").tobytes()[:64],
        "a sample, half": row.astype("<f2").tobytes()[:32],
        "a sample, text": repr(float(row[3]))[:12].encode(),
        "samples, as a double": np.float64(PLANTED_SAMPLES).tobytes() + bytes(8),
        "passphrase": world.passphrase(NAME).read_bytes().strip(),
        "identity": (institution / "identity.key").read_bytes()[-80:-8],
        "node key": (institution / "node.key").read_bytes()[120:180],
        "seed": keys.genesis.seed,
        "seed, text": keys.genesis.seed.hex().encode(),
        "seed of the epoch": keys.genesis.secret_seed,
        "seed of the epoch, text": keys.genesis.secret_seed.hex().encode(),
        "W0, double": telling(keys.genesis.values).astype("<f8").tobytes(),
        "W0, single": telling(keys.genesis.values).astype("<f4").tobytes(),
        "dictionary": next(iter(keys.genesis.dictionaries.values())).matrix.astype("<f4").tobytes()[:64],
    }


def of_update(world: Ceremonial) -> dict[str, bytes]:
    """The update that was sealed a moment ago, and the model that it was made from."""
    record = world.record(NAME)
    assert record.pending is not None
    update, residual = telling(record.pending.missed.values), telling(record.pending.counted.values)
    model = telling(record.shared.values)
    return {
        "update, double": update.astype("<f8").tobytes(),
        "update, single": update.astype("<f4").tobytes(),
        "update, text": repr(float(update[1]))[:14].encode(),
        "residual, double": residual.astype("<f8").tobytes(),
        "model, double": model.astype("<f8").tobytes(),
        "model, single": model.astype("<f4").tobytes(),
        "upload marks": record.secret,
        "state digest": record.shared.digest,
        "state digest, text": record.shared.digest.hex().encode(),
        **of_metrics(world.home(NAME)),
    }


def telling(values: np.ndarray, count: int = 8) -> np.ndarray:
    """So many values side by side, no two alike and none of them zero: tables are zeros at first."""
    for start in range(values.size - count):
        piece = values[start : start + count]
        if np.count_nonzero(piece) == count == np.unique(piece).size:
            return piece
    raise AssertionError("nothing in it tells")


def of_metrics(institution: Path) -> dict[str, bytes]:
    """What the institution last measured, as it stands in its diary."""
    lines = [json.loads(line) for line in (institution / "diary.jsonl").read_text().splitlines()]
    last = [line for line in lines if "loss" in line][-1]
    found = {
        "loss, text": repr(last["loss"]).encode(),
        "loss, double": np.float64(last["loss"]).tobytes(),
    }
    # An accuracy of few samples is a common number; its place in the diary is not.
    return {**found, "metric, text": f'"metric": {last["metric"]!r}, "loss"'.encode()}


# where


@contextmanager
def stopped(world: Ceremonial) -> Iterator[int]:
    """An institution's task whose update is sealed and stored, and not yet with the coordinator: held, then let go."""

    memory = world.home(NAME) / "memory"

    def caught() -> int | None:
        tasks = world.forks(world.home(NAME))
        if len(tasks) != 1 or not world.sealed(NAME):
            return None
        # Once the task has gone, a younger process waits in its place for the next one, and knows nothing of the update.
        if not started_before(tasks[0], max(path.stat().st_mtime for path in memory.iterdir())):
            return None
        with suppress(ProcessLookupError):
            os.kill(tasks[0], signal.SIGSTOP)
            return tasks[0]
        return None

    task = until(caught, 120, "an institution with a sealed upload", pause=0.002)
    try:
        yield task
    finally:
        os.kill(task, signal.SIGCONT)


def started_before(pid: int, moment: float) -> bool:
    """Whether a process that is still there was started before that time, seconds since 1970."""
    with suppress(OSError):
        ticks = int(Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])
        booted = next(
            int(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime")
        )
        return booted + ticks / os.sysconf("SC_CLK_TCK") < moment
    return False


def processes(world: Ceremonial, *sessions: int) -> list[int]:
    """All of the coordinator's: supervisor, `dictpfl run`, SuperLink, SuperExec with its tasks, proxy."""
    assert world.up is not None
    pids = [world.up.process.pid, *world.proxy_processes()]
    for leader in sessions:
        pids += session(leader)
    for program in ("superlink", "superexec"):
        pids += world.children(world.coordinator, program)
    return pids


def everywhere(world: Ceremonial, pids: list[int]) -> list[Path]:
    """Every file, database and log in its folder, what it printed, and whatever else its processes have open."""
    files = [*files_below(world.coordinator), *world.outputs()]
    for pid in pids:
        files += open_files_of(pid)
    assert any(path.name.startswith("superlink.sqlite") for path in files)
    assert any(path.name == "journal.sqlite" for path in files)
    return list(dict.fromkeys(files))


def test_a_memory_file_is_searched(tmp_path: Path) -> None:
    descriptor = os.memfd_create("searched")
    try:
        os.write(descriptor, b"what nobody should see")
        assert "found" in search([], held_by([os.getpid()]), {"found": b"what nobody should see"[::-1][::-1]})
        assert b"what nobody should see" in [data for _, data in nameless_files_of(os.getpid())]
    finally:
        os.close(descriptor)
