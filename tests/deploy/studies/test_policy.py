"""A site's policy is law: what breaks it cannot be approved, and the page that a reviewer reads says why."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

import dictpfl.deploy.studies.cli
from dictpfl.client.folder import InstitutionSettings
from dictpfl.common.errors import ConfigError, StudyError
from dictpfl.deploy.studies.deciding import abort, approve
from dictpfl.deploy.studies.page import write_page
from dictpfl.deploy.studies.policy import Policy, broken
from dictpfl.deploy.studies.proposing import propose
from tests.deploy.studies.conftest import APP, ASKED, World
from tests.support.ceremonies import Ceremony, config
from tests.support.study_page import PAGE

DP = {"privacy__mechanism": "example", "privacy__epsilon": 8.0}


@pytest.fixture(scope="module")
def town(standing: Ceremony, tmp_path_factory: pytest.TempPathFactory) -> World:
    """One network for all cases: each proposes a study of its own."""
    return World(standing.copy(tmp_path_factory.mktemp("town") / "network"))


def read(path: Path) -> str:
    """The words of a page."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", path.read_text(encoding="utf-8").split("</style>")[1])).split())


@pytest.mark.parametrize(
    ("policy", "changes", "sentence"),
    [
        ("", {"model__source": "wards_model:build", "model__options": {}}, "It runs wards_model:build (model.source), which allowed_code does not name."),
        ("allowed_code = ['wards_model:other']", {"model__source": "wards_model:build", "model__options": {}}, "which allowed_code does not name"),
        ("min_participants = 4", {}, "It opens sums of 3 institutions, and at least 4 are wanted here."),
        ("min_participants = 2", {"federation__min_participants": 2, "toy_insecure": True}, "It protects nobody: federation.min_participants is 2"),
        ("", {"defences__masks": False}, "It leaves single uploads without masks, which are wanted here."),
        ("epsilon = 2.0", {}, "It has no differential privacy, and epsilon 2 at most is wanted here."),
        ("epsilon = 2.0", DP, "It has epsilon 8, and 2 at most is wanted here."),
        ("epsilon = 9.0", {**DP, "privacy__epsilon": 0.0, "privacy__noise_multiplier": 1.0}, "It has no limit of epsilon"),
        ("epsilon = 9.0", {**DP, "privacy__delta": 0.1}, "It has delta 0.1, and 0.0001 at most is wanted here."),
        ("epsilon = 9.0", {**DP, "privacy__figures": True}, "It sends validation figures outside of epsilon"),
        ("tallies = false", {"tallies__opening": ["classes"]}, "It adds up vectors of the institutions exactly"),
        ("tallies = false", {"training__metrics": ["confusion"]}, "exactly, which is not wanted here (training.metrics)."),
        ("tallies = false", {"scores__decision": "rest-least"}, "exactly, which is not wanted here (scores)."),
        ("rounds = 2", {}, "It asks for 3 rounds of training, and 2 are allowed here."),
        ("hours = 1.5", {}, "It asks for 2 hours, and 1.5 are allowed here."),
        ("memory_gib = 2.0", {}, "It asks for 4 GiB of memory, and 2 are allowed here."),
        ("", {"training__device": "cuda"}, "It asks for a GPU, and none is given here."),
        ("leads = ['oslo']", {}, "kyoto is not among those whose studies are approved here (oslo)."),
    ],
)  # fmt: skip
def test_what_breaks_the_policy_cannot_be_approved(
    town: World, tmp_path: Path, policy: str, changes: dict[str, object], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wards_model.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"case-{len(town.studies('berlin').all())}"
    (study,) = town.handed(town.proposed(name=name, **changes), "berlin")
    (town.home("berlin") / "policy.toml").write_text(policy)
    before = town.logged("berlin")
    with pytest.raises(StudyError, match=re.escape(sentence)) as refused:
        approve(town.studies("berlin"), study, town.identity("berlin"), APP)
    assert refused.value.code == "policy"
    assert town.studies("berlin").get(name).state(town.identity("berlin").public) == "proposed"
    assert town.logged("berlin") == before, "nothing was signed"
    reasons = list(broken(Policy.load(town.home("berlin")), study.wanted, APP))
    assert len(reasons) == 1, "the case breaks this and nothing else"
    page = read(write_page(study, reasons, tmp_path / "page.html"))
    assert f"cannot be approved It breaks policy.toml of this institution: {reasons[0]}" in page
    assert study.wanted.digest.hex() in page


def test_another_release_and_other_sources_are_told(
    town: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "clinic_model.py"
    module.write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    study = town.proposed(name="sources", model__source="clinic_model:build", model__options={})
    allowed = Policy(allowed_code=("clinic_model:build",))
    assert list(broken(allowed, study.wanted, APP)) == []
    module.write_text("import os\n")
    assert list(broken(allowed, study.wanted, APP)) == [
        "The sources of clinic_model:build are not here as they were proposed."
    ]
    assert list(broken(Policy(), town.proposed(name="release").wanted, "ef" * 32)) == [
        f"It runs the release with app {APP[:12]}, and here is {'ef' * 6}."
    ]


def test_the_page_says_what_runs_and_what_leaves(town: World, tmp_path: Path) -> None:
    changes = DP | {"tallies__opening": [], "federation__rounds": 7}
    study = town.proposed(name="told", **changes)
    page = read(write_page(study, [], tmp_path / "page.html"))
    for words in (
        "what for try a wider model", "proposed by kyoto (institution), version 1", "asked berlin, kyoto, oslo",
        "7 rounds that train the model 'mlp'", f"dictpfl's own app, SHA-256 {APP}", "callables of others none",
        "Encrypted updates of the model", "fewest in a sum 3 institutions", "of each training sample: epsilon 8 at most",
        "2 hours from the first start here", "4 GiB of memory a process, no GPU", "defences.masks", "What would remain",
        "berlin nothing yet", "It keeps to policy.toml of this institution, and can be approved.",
    ):  # fmt: skip
        assert words in page, words
    assert "losses and validation figures" not in page, "none are sent under this privacy"


def test_the_page_names_every_vector_that_is_added_up_exactly(town: World, tmp_path: Path) -> None:
    study = town.proposed(name="counted", training__metrics=["confusion", "auroc"], tallies__opening=["classes"])
    page = read(write_page(study, [], tmp_path / "page.html"))
    assert (
        "histograms or matrices over your validation samples (confusion, auroc), of which all see the exact sum" in page
    )
    assert "Encrypted vectors of your data (classes), of which all see the exact sum" in page


def test_a_title_that_is_markup_stays_text(town: World, tmp_path: Path) -> None:
    asked = replace(ASKED, title="<script>alert(1)</script>")
    made = propose(town.studies("kyoto"), town.identity("kyoto"), config(), asked, app=APP, name="markup")
    text = write_page(made, None, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_what_a_lead_writes_forges_no_line_of_a_terminal(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dictpfl.deploy.studies.cli, "app_here", lambda: APP)
    forged = "policy:                kept"
    asked = replace(ASKED, title=f"heart\n{forged}\x1b[8m", data="rows\u202e\ud800")
    broken_by_masks = config(defences__masks=False)
    made = propose(world.studies("kyoto"), world.identity("kyoto"), broken_by_masks, asked, app=APP, name="forged")
    (Path.cwd() / "forged.proposal").write_bytes(made.wanted.to_bytes())
    said = world.typed("berlin", "show", "forged.proposal")
    assert "against the policy:" in said
    assert not any(line.startswith(forged) for line in said.splitlines()), said
    assert all(c.isprintable() for line in said.splitlines() for c in line), ascii(said)
    reason = "no\napproved:              2026-11-30T00:00:00+00:00 by oslo"
    world.typed("berlin", "refuse", "forged", "--reason", reason)
    said = world.typed("kyoto", "show", "forged.refused")
    assert not any(line.startswith("approved:") for line in said.splitlines()), said
    world.typed("kyoto", "abort", "forged", "--reason", reason)
    with pytest.raises(StudyError, match=r"no.napproved") as told:
        abort(world.studies("kyoto"), world.studies("kyoto").get("forged"), world.identity("kyoto"), "")
    assert "\n" not in str(told.value)


def test_without_a_file_the_policy_is_the_strict_one_that_the_page_shows(tmp_path: Path) -> None:
    import tomllib

    shown = re.search(r"```toml policy\n(.*?)```", PAGE, re.DOTALL)
    assert shown is not None
    assert Policy.model_validate(tomllib.loads(shown[1])) == Policy() == Policy.load(tmp_path)
    assert set(tomllib.loads(shown[1])) == set(Policy.model_fields)
    (tmp_path / "policy.toml").write_text("maks = true\n")
    with pytest.raises(ConfigError, match=r"(?s)policy\.toml.*maks"):
        Policy.load(tmp_path)
    (tmp_path / "policy.toml").write_text("rounds = 7\n", encoding="utf-8-sig")
    assert Policy.load(tmp_path).rounds == 7
    for endless in ("[" * 9999, "9" * 9999):
        (tmp_path / "policy.toml").write_text(f"rounds = {endless}\n")
        with pytest.raises(ConfigError, match=r"cannot use .*policy\.toml"):
            Policy.load(tmp_path)


def test_the_studys_own_settings_follow_from_the_policy(town: World, tmp_path: Path) -> None:
    study = town.proposed(name="settings")
    network = InstitutionSettings(name="berlin", most_refused=2, reply_every_seconds=5.0, toy_insecure=True)
    made = Policy(min_participants=5, allowed_code=("a:b",)).settings(study.wanted, network, "../../passphrase")
    assert (made.min_participants, made.allowed_code, made.most_rounds, made.toy_insecure) == (5, (), 3, False)
    assert (made.name, made.most_refused, made.reply_every_seconds) == ("berlin", 2, 5.0), (
        "what protects it elsewhere goes on"
    )
    made.save(tmp_path)
    assert InstitutionSettings.load(tmp_path) == made


def test_memory_and_gpu_are_the_processes_limits() -> None:
    code = (
        "import os\n"
        "from dictpfl.deploy.studies.limits import Limits\n"
        "Limits(0.0, 1 << 30, gpu=False).impose()\n"
        "assert os.environ['CUDA_VISIBLE_DEVICES'] == ''\n"
        "small = bytearray(1 << 28)\n"
        "try:\n    bytearray(1 << 30)\nexcept MemoryError:\n    print('limited')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "limited\n"


def test_a_machine_that_allows_less_memory_than_a_study_may_take_keeps_its_own_limit() -> None:
    code = (
        "import resource\n"
        "from dictpfl.deploy.studies.limits import Limits\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))\n"
        "Limits(0.0, 1 << 32, gpu=False).impose()\n"
        "print(resource.getrlimit(resource.RLIMIT_DATA) == (1 << 30, 1 << 30))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "True\n", done.stderr
