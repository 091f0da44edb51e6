"""Attacks by name; and those beyond inversion: each works where it should, and is not tried on ciphertexts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError
from dictpfl.deploy.attacks.case import Case
from dictpfl.deploy.attacks.defaults import DEFAULT_ATTACKS, DEFAULT_PARTS
from dictpfl.deploy.attacks.inversion import Effort
from dictpfl.deploy.attacks.methods import SUBJECTS, replace_section
from dictpfl.deploy.attacks.published import distinguishing as game
from dictpfl.deploy.attacks.published import membership, properties, rounds, sums, tokens
from dictpfl.deploy.attacks.recorded import play
from dictpfl.deploy.attacks.registry import (
    ATTACKS,
    FederationAttack,
    Tools,
    UpdateAttack,
    attack_of,
)
from dictpfl.deploy.attacks.texts import WORDS, passages
from dictpfl.deploy.simulation.founding import found

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:.torch.jit.script. is deprecated:DeprecationWarning"
    ),  # torch's own forward mode
    pytest.mark.usefixtures("quiet"),
]
Tiny = Callable[..., FederationConfig]


def test_attacks_have_names() -> None:
    kinds = {name: issubclass(made, UpdateAttack) for name, made in ATTACKS.own().items()}
    assert {name for name, on_updates in kinds.items() if on_updates} == {
        "labels", "closed-form", "dlg", "idlg", "cosine", "cosine-labels-known",
    }  # fmt: skip
    assert {name for name, on_updates in kinds.items() if not on_updates} == {
        "collusion", "membership", "property", "tokens", "sums", "all-sums", "rounds", "worlds", "times", "tallies", "thresholds",
    }  # fmt: skip
    assert all(kinds[name] for name in DEFAULT_ATTACKS)
    assert not any(kinds[name] for name in DEFAULT_PARTS)


def test_an_attack_is_found_by_module_and_name() -> None:
    named = attack_of("dictpfl.deploy.attacks.published.collusion:Collusion")
    assert isinstance(named, FederationAttack)
    assert type(named) is type(attack_of("collusion"))


@pytest.mark.parametrize(
    "federation",
    [
        membership.federation,
        properties.federation,
        game.small,
        lambda config: tokens.federation(config, batch=1),
        lambda config: sums.federation(config, 10, 1),
        lambda config: rounds.federation(config, 4),
    ],
)
@pytest.mark.parametrize(
    "own",
    [
        {"federation__participants": 8, "federation__min_participants": 7},
        {"federation__participants": 8, "federation__max_participants": 8},
        {"encryption__sealed_share": 0.5, "toy_insecure": True},
    ],
)
def test_federations_of_attacks_can_be_played_whatever_the_configuration_allows(
    federation: Callable[[FederationConfig], FederationConfig], own: dict[str, Any], tiny: Tiny
) -> None:
    """With 3 institutions, a minimum of 7 is waited for without end."""
    made = federation(tiny(**own))
    assert FederationConfig.of(made.model_dump(mode="json")).federation == made.federation


def test_what_is_no_attack_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"dictpfl attack --attacks, --parts: 'rot13' is unknown; known: .*closed-form.*sums"
    ):
        attack_of("rot13")
    with pytest.raises(ConfigError, match="'math:pi' is a value of type float; expected a class"):
        attack_of("math:pi")
    for name in ("math:cos", "pathlib:Path"):
        with pytest.raises(ConfigError, match="expected a subclass of UpdateAttack or FederationAttack"):
            attack_of(name)


def test_passages_are_english() -> None:
    data = passages()
    assert data.samples.features.shape[1] == WORDS
    assert len(data.samples) > 300
    assert data.outputs >= 5
    assert np.mean(data.samples.features == 0) < 0.4


def test_words_are_recovered_from_plaintext(tiny: Tiny, tmp_path: Path) -> None:
    config = tokens.federation(tiny(), 1)
    config = config.model_copy(update={"federation": replace_section(config.federation, participants=3)})
    recorded = play(SUBJECTS["plaintext"].applied(config), tmp_path)
    for finding in tokens.read_tokens(Case.of(recorded, SUBJECTS["plaintext"], most=3)):
        assert finding.verdict == "succeeds", finding
        assert finding.found.value > 0.9


def test_an_attack_on_data_is_not_tried_on_ciphertexts(tiny: Tiny, tmp_path: Path) -> None:
    recorded = play(SUBJECTS["fedhe-full"].applied(tiny()), tmp_path)
    with pytest.raises(ConfigError, match="audit this one"):
        properties.properties(Case.of(recorded, SUBJECTS["fedhe-full"], most=3))


def test_a_low_rank_hides_words_from_the_span_check_and_not_from_who_takes_the_nearest(
    tiny: Tiny, tmp_path: Path
) -> None:
    """Twelve words, rank 4: none lies in four rounded directions, and yet most of the nearest ones are the text's."""
    config = tokens.federation(tiny(), 1, rank=4)
    recorded = play(SUBJECTS["dictpfl-identity"].applied(config), tmp_path)
    (_, span, near) = tokens.read_tokens(Case.of(recorded, SUBJECTS["dictpfl-identity"], most=3))
    assert (span.attack, near.attack) == ("span check", "nearest words")
    assert span.found.value < 0.3
    assert near.found.value > 0.6 > near.blind.value


def test_words_are_counted_as_they_are() -> None:
    guess, truth = np.array([1, 2, 2, 9]), np.array([[1, 2], [3, 2]])
    assert tokens.rouge1(guess, truth) == pytest.approx(0.75)
    assert tokens.rouge1(np.zeros(0, dtype=np.int64), truth) == 0.0
    usual = tokens.commonest(np.array([[5, 5, 5, 7]]), 4)
    assert sorted(usual.tolist()) == [5, 5, 5, 7]


@pytest.mark.parametrize(("name", "works"), [("plaintext", True), ("fedml-he-90", False)])
def test_shares_of_a_class_show_in_plaintext(tiny: Tiny, tmp_path: Path, name: str, works: bool) -> None:
    config = properties.federation(tiny(data__limit=800))
    recorded = play(SUBJECTS[name].applied(config), tmp_path)
    finding = properties.properties(Case.of(recorded, SUBJECTS[name], most=10))
    assert (finding.verdict == "succeeds") == works
    assert works or finding.found.value < 0.5  # an interval of 95 % would fail one time in forty


def test_two_institutions_and_one_sample_hide_nothing_from_each_other(tiny: Tiny, tmp_path: Path) -> None:
    recorded = play(sums.federation(tiny(), 2, 1), tmp_path)
    span, inverted = sums.read_the_sum(recorded, Effort(restarts=2), most=1, pictures=tmp_path)
    assert span.more["members nearer than every other sample"] == 1.0
    assert span.more["largest distance of a member"] < 1e-3
    assert (tmp_path / inverted.picture).exists()


def test_many_samples_in_a_sum_hide_from_the_span_check(tiny: Tiny, tmp_path: Path) -> None:
    """Rank 8, and 64 samples of four other institutions."""
    recorded = play(sums.federation(tiny(data__limit=600), 5, 16), tmp_path)
    (span,) = sums.read_the_sum(recorded, Effort(), most=1)
    assert span.found.value < 0.75
    assert span.more["members nearer than every other sample"] < 0.1


def test_the_game_sees_sizes_and_times(tiny: Tiny, tmp_path: Path) -> None:
    config = game.small(tiny())
    config = config.model_copy(update={"federation": replace_section(config.federation, rounds=2)})
    stacked, worlds = game.played(config, tmp_path, game.CLASSES, 6)
    assert sorted(worlds.tolist()) == [0, 0, 0, 1, 1, 1]
    assert set(stacked) == set(game.GROUPS)
    assert all(len(rows) == 6 and np.isfinite(rows).all() for rows in stacked.values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["founded"]


def test_the_game_is_won_where_something_shows() -> None:
    """A classifier that cannot win would prove nothing; and one that wins against noise would prove too much."""
    worlds, inside, areas = np.arange(100) % 2, 0, []
    for seed in range(6):
        random = np.random.default_rng(seed)
        stacked = {
            "sizes": random.normal(size=(100, 35)),
            "timing": np.zeros((100, 1)),
        }
        blind = game.judge(stacked, worlds, game.GROUPS, "x", {})
        inside += blind.found.low <= 0.5 <= blind.found.high
        areas.append(blind.found.value)
    assert inside >= 4
    assert 0.35 < np.mean(areas) < 0.65
    stacked["timing"] = (worlds + 0.3 * random.normal(size=100))[:, None]
    assert game.judge(stacked, worlds, game.GROUPS, "x", {}).verdict == "succeeds"


def test_worlds_differ_in_one_institution_alone(tiny: Tiny, tmp_path: Path) -> None:
    founded = found(game.small(tiny()), tmp_path / "founded")
    labels = np.arange(100) % 10
    random = np.random.default_rng(0)
    assert labels[game.low_digits(labels, random)].max() < 5
    assert labels[game.high_digits(labels, random)].min() >= 5
    assert len(game.few(labels, random)) < len(game.many(labels, random))
    before = [(founded.home(i) / "train.npz").read_bytes() for i in range(3)]
    game.play_once(founded, tmp_path / "run", game.CLASSES[0], 0)
    assert before == [(founded.home(i) / "train.npz").read_bytes() for i in range(3)]


def test_institutions_with_fewer_samples_than_a_batch_are_not_simulated_as_others(tiny: Tiny, tmp_path: Path) -> None:
    uneven = {"data__partition": "dirichlet", "data__alpha": 0.5, "federation__rounds": 1}
    config = tiny(method="plaintext", toy_insecure=True, training__batch_size=64, **uneven)
    case = Case.of(play(config, tmp_path / "run"), SUBJECTS["plaintext"], most=3)
    assert len({len(victim.samples) for victim in case.victims}) > 1
    for name in ("labels", "closed-form"):
        attack_on = attack_of(name)
        assert isinstance(attack_on, UpdateAttack)
        (finding,) = attack_on.run(case, Tools(Effort(), tmp_path / "pictures"))
        assert finding.trials == len(case.alike().victims) == 1
