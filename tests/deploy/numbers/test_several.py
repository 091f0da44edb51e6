"""`dictpfl audit numbers` on models whose digits come several to a token, against plain counts and whole passes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, pre_tokenizers

from dictpfl.common.errors import ModelError
from dictpfl.deploy.numbers.lens import lens
from dictpfl.deploy.numbers.measures import beside_truth, distance, effect, leading, shares
from dictpfl.deploy.numbers.model import Asked, audit
from dictpfl.deploy.numbers.reading import Places, Reader
from dictpfl.deploy.numbers.spelling import Severally, Singly, spelling_of
from dictpfl.deploy.numbers.tasks import Question, questions
from tests.support import forking

LETTERS = [chr(c) for c in range(32, 127)]
GROUPS = [f"{number:0{size}}" for size in (2, 3) for number in range(10**size)]


def by_threes(split: str = r"[0-9]{1,3}|[^0-9]", *, without: str = "") -> Any:
    """Letters, and all groups of one to three digits, behind a space that is a token of its own."""
    known = [letter for letter in LETTERS if letter not in without] + GROUPS
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "\n": 2} | {word: 3 + i for i, word in enumerate(known)}
    made = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106 -- no password
    made.pre_tokenizer = pre_tokenizers.Split(Regex(split), "isolated")
    made.decoder = decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]")  # noqa: S106 -- no password


def by_pairs(*learnt: str) -> Any:
    """Letters and pairs that were learnt, as GPT-2 has them: a space belongs to the word behind it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [tuple(one.split("|")) for one in learnt]
    vocabulary = {word: i for i, word in enumerate([*alphabet, *("".join(one) for one in merges)])}
    made = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made)


SPACED = [f"Ġ|{digit}" for digit in range(10)]
YEARS = [*SPACED, "1|0", "2|0", "1|9", "Ġ1|0", "Ġ2|0", "20|19", "Ġ20|19"]


def llama(tokenizer: Any) -> Any:
    """A tiny Llama with random weights, whose favourite is a token of digits at most places."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        initializer_range=0.4, max_position_embeddings=512, tie_word_embeddings=False, pad_token_id=0,
    )  # fmt: skip
    made = transformers.LlamaForCausalLM(config)
    digits = [
        token
        for name, token in tokenizer.get_vocab().items()
        if name.strip("Ġ").isascii() and name.strip("Ġ").isdigit()
    ]
    with torch.no_grad():
        made.lm_head.weight[digits] *= 3
    return made


@pytest.fixture(scope="module")
def threes() -> Reader:
    made = by_threes()
    return Reader(llama(made), made)


@pytest.fixture(scope="module")
def years() -> Reader:
    made = by_pairs(*YEARS)
    return Reader(llama(made), made)


def test_groups_of_three_are_found_with_their_space() -> None:
    made = by_threes()
    found = spelling_of(made, len(made))
    assert isinstance(found, Severally)
    assert found.to_json() == {
        "tokens": 1110,
        "longest": 3,
        "space": "a token of its own",
        "left_out": ["first errors"],
    }
    assert made.convert_ids_to_tokens(found.answer("1234")) == ["123", "4"]
    assert (found.heads("1234"), found.heads("907")) == ([1, 4], [9])
    assert made.convert_ids_to_tokens(found.digits.tolist()) == list("0123456789")
    from_behind = by_threes(r"[0-9]{1,3}(?=(?:[0-9]{3})*(?![0-9]))|[^0-9]")
    other = spelling_of(from_behind, len(from_behind))
    assert from_behind.convert_ids_to_tokens(other.answer("1234")) == ["1", "234"]
    assert other.heads("1234") == [1, 2]


def test_pairs_that_were_learnt_are_found_with_the_space_in_them() -> None:
    made = by_pairs(*YEARS)
    found = spelling_of(made, len(made))
    assert isinstance(found, Severally)
    assert found.to_json() == {
        "tokens": 27,
        "longest": 4,
        "space": "part of the first token",
        "left_out": ["first errors"],
    }
    assert made.convert_ids_to_tokens(found.answer("2019")) == ["Ġ2019"]
    assert made.convert_ids_to_tokens(found.answer("3102")) == ["Ġ3", "10", "2"]
    assert (found.heads("2019"), found.heads("3102")) == ([2], [3, 1, 2])
    assert sorted(made.convert_ids_to_tokens(found.rivals(0)[0].tolist())) == sorted(
        [f"Ġ{digit}" for digit in range(10)] + ["Ġ10", "Ġ20", "Ġ2019"]
    )
    assert sorted(made.convert_ids_to_tokens(found.rivals(2)[0].tolist())) == sorted(
        [*"0123456789", "10", "20", "19", "2019"]
    )
    assert found.begun([*found.answer("3102"), 5, found.goes_on and next(iter(found.goes_on))]) == [3, 1, 2]


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=6, unique=True),
    st.lists(st.integers(1, 10**7), min_size=1, max_size=5),
)
def test_whatever_pairs_were_learnt_an_answer_is_spelt_in_full(pairs: list[tuple[int, int]], asked: list[int]) -> None:
    made = by_pairs(*SPACED, *(f"{one}|{other}" for one, other in pairs))
    found = spelling_of(made, len(made))
    assert isinstance(found, Severally)
    for number in asked:
        words = [name.removeprefix("Ġ") for name in made.convert_ids_to_tokens(found.answer(str(number)))]
        assert "".join(words) == str(number)
        assert found.heads(str(number)) == [int(word[0]) for word in words]
        assert all(token in found.rivals(place)[0] for place, token in enumerate(found.answer(str(number))))
        assert found.begun([*found.answer(str(number)), made.convert_tokens_to_ids("a")]) == found.heads(str(number))


def test_one_pair_makes_the_difference() -> None:
    """A tokenizer that holds "10" and no pair of equal digits is not taken for one of single digits."""
    alone = by_pairs()
    assert isinstance(spelling_of(alone, len(alone)), Singly)
    pair = by_pairs("1|0")
    found = spelling_of(pair, len(pair))
    assert isinstance(found, Severally)
    assert (found.several, found.heads("410")) == (True, [4, 1])


def test_where_the_space_alone_shares_a_token_digits_are_read_in_full() -> None:
    made = by_pairs(*SPACED)
    found = spelling_of(made, len(made))
    assert isinstance(found, Severally)
    assert not found.several
    outcome = audit(Reader(llama(made), made), Asked(("sums",), samples=4, shots=1))
    assert outcome["first_errors"]["count"] > 0
    assert "spelling" not in outcome
    assert "chance" not in outcome["reading"]


@pytest.mark.parametrize(
    ("made", "seen"),
    [
        (lambda: by_threes(without="7"), "'\\[UNK\\]'\\] of 'Answer: 7'$"),
        (lambda: by_threes(r"\S+|\s"), "UNK"),
        (lambda: by_threes(r"[0-9]{1,3}[^0-9]?|[^0-9]{1,2}"), "Answer"),
    ],
)
def test_digits_without_tokens_of_their_own_are_refused_with_what_was_found(made: Callable[[], Any], seen: str) -> None:
    with pytest.raises(ModelError, match=r"tokens of their own, alone or beside tokens of several digits.*" + seen):
        spelling_of(made(), 2000)


def slowly(
    reader: Reader, question: Question, examples: list[Question], silenced: dict[int, Any]
) -> tuple[list[int], list[bool]]:
    """First characters by whole passes without a cache, and whether a token of digits would be written; rivals by their names."""
    spelt = reader.tokenizer(f"Answer: {question.answer}", add_special_tokens=False)["input_ids"]
    told = len(reader.tokenizer("Answer:", add_special_tokens=False)["input_ids"]) + len(reader.spelling.space)  # type: ignore[union-attr]
    answer, chosen, fluent = spelt[told:], [], []
    names = {token: name for name, token in reader.tokenizer.get_vocab().items()}
    for place in range(len(answer)):
        mark = "Ġ" if place == 0 and not reader.spelling.space else ""  # type: ignore[union-attr]
        rivals = {
            t: n.removeprefix(mark)
            for t, n in names.items()
            if n.startswith(mark) and n.removeprefix(mark).isdigit() and n.isascii() | bool(mark)
        }
        handles = []
        for layer, neurons in silenced.items():

            def changed(
                _: Any, inputs: tuple[torch.Tensor, ...], gone: torch.Tensor = neurons
            ) -> tuple[torch.Tensor, ...]:
                x = inputs[0].clone()
                x[:, -1, gone] = 0
                return (x,)

            handles.append(reader.downs[layer].register_forward_pre_hook(changed))
        ids = torch.tensor([[*reader.prompt(question, examples), *answer[:place]]])
        with torch.no_grad():
            logits = reader.model(input_ids=ids).logits[0, -1]
        for handle in handles:
            handle.remove()
        chosen.append(int(rivals[max(rivals, key=lambda token: float(logits[token]))][0]))
        fluent.append(int(logits.argmax()) in rivals)
    return chosen, fluent


@pytest.mark.parametrize("name", ["threes", "years"])
def test_reading_is_that_of_whole_passes_by_first_characters(name: str, request: pytest.FixtureRequest) -> None:
    reader = request.getfixturevalue(name)
    made = questions("sums", 12, 3)
    examples, asked = made[:2], made[2:]
    silenced = {0: torch.arange(0, 40, 3), 1: torch.tensor([1, 5, 20])}
    places = reader.read(asked, examples, {"some": silenced, "none": {}})
    tokens = 0
    for number, question in enumerate(asked):
        mine = places.question == number
        plain, fluent = slowly(reader, question, examples, {})
        assert places.truth[mine].tolist() == reader.spelling.heads(question.answer)
        assert places.chosen["plain"][mine].tolist() == plain
        assert places.fluent[mine].tolist() == fluent
        other, _ = slowly(reader, question, examples, silenced)
        assert places.chosen["some"][mine].tolist() == [
            a if f else b for a, b, f in zip(other, plain, fluent, strict=True)
        ]
        tokens += len(plain)
    assert len(places.truth) == tokens
    assert places.fluent.any()
    assert (places.chosen["some"] != places.chosen["plain"]).any()
    assert np.array_equal(places.chosen["none"], places.chosen["plain"])


@pytest.mark.parametrize("name", ["threes", "years"])
def test_the_lens_sums_tokens_by_first_characters(name: str, request: pytest.FixtureRequest) -> None:
    reader = request.getfixturevalue(name)
    made = questions("roots", 5, 3)
    found = lens(reader, [(made[1:], made[:1])])
    total, count = np.zeros(10), 0
    with torch.no_grad():
        for question in made[1:]:
            spelt = reader.spelling.answer(question.answer)
            for place in range(len(spelt)):
                logits = reader.model(
                    input_ids=torch.tensor([[*reader.prompt(question, made[:1]), *spelt[:place]]])
                ).logits[0, -1]
                tokens, heads = reader.spelling.rivals(place)
                for chance, head in zip(logits[tokens].softmax(dim=0).tolist(), heads.tolist(), strict=True):
                    total[head] += chance
                count += 1
    assert found["places"] == count
    np.testing.assert_allclose(found["shares"][-1], total / count, atol=1e-5)


def places_of(truth: list[int], chosen: list[int]) -> Places:
    number = np.arange(len(truth))
    told = {"plain": np.array(chosen), "other": np.array(truth)}
    return Places(number // 2, number % 2, np.array(truth), told, np.ones(len(truth), dtype=bool), np.zeros((0, 0)))


def test_first_characters_are_held_against_the_truths_own() -> None:
    draw = np.random.default_rng(1)
    truth = draw.choice([1, 2, 3], 400, p=[0.5, 0.3, 0.2]).tolist()
    shuffled = draw.permutation(truth).tolist()
    found = beside_truth([places_of(truth, shuffled)], 1)
    assert found["distance"] == pytest.approx(0.0), "as the truth, though far from even"
    assert distance(np.array(found["shares"])) > 0.5
    assert found["chance"] == pytest.approx(0.25 + 0.09 + 0.04, abs=0.02)
    assert found["accuracy"] == pytest.approx(found["chance"], abs=0.06), (
        "what knows nothing of the truth is right by chance"
    )
    assert all(low <= 0 <= high for low, high in zip(found["excess_low"], found["excess_high"], strict=True))
    ones = beside_truth([places_of(truth, [1] * 400)], 1)
    counted = 1 - truth.count(1) / 400
    assert ones["excess"][1] == ones["distance"] == pytest.approx(counted)
    assert ones["excess_low"][1] > 0.4
    assert ones["chance"] == ones["accuracy"] == pytest.approx(truth.count(1) / 400)
    plain = shares([places_of(truth, shuffled)], 1)
    assert {name: found[name] for name in plain if name != "distance"} == {
        n: v for n, v in plain.items() if n != "distance"
    }
    mended = effect([places_of(truth, [1] * 400)], "other", ones, np.array(ones["truth"]))
    assert (mended["distance"], mended["broken"]) == (pytest.approx(0.0), 0)


def test_chance_knows_the_place_alone() -> None:
    """An answer's first character is never 0: a model that knows that much, and no more, is right by chance."""
    draw = np.random.default_rng(2)
    first, second = draw.integers(1, 10, 3000), draw.integers(0, 10, 3000)
    truth = np.stack([first, second], axis=1).ravel()
    chosen = np.stack([draw.permutation(first), np.zeros(3000, dtype=int)], axis=1).ravel()
    found = beside_truth([places_of(truth.tolist(), chosen.tolist())], 1)
    assert found["chance"] == pytest.approx((1 / 9 + (second == 0).mean()) / 2, abs=0.002)
    assert found["accuracy"] == pytest.approx(found["chance"], abs=0.01)


def test_written_numbers_are_counted_by_question() -> None:
    found = leading([[1, 2], [], [1]], [[3], [4], [5, 5]], 1)
    assert found["tokens"] == 3
    assert found["shares"][1] == pytest.approx(2 / 3)
    assert found["truth"][5] == pytest.approx(1 / 2)
    assert found["low"][1] <= found["shares"][1] <= found["high"][1]
    assert leading([[], []], [[1], [2]], 1)["shares"] == [0.0] * 10


def test_an_audit_says_what_it_leaves_out(years: Reader) -> None:
    asked = Asked(("sums", "roots"), samples=8, shots=1, free=True, neurons=0.05, digits=(1,), draws=2)
    found = audit(years, asked)
    assert found["first_errors"] is None
    assert found["spelling"]["left_out"] == ["first errors"]
    every = [question for kind in ("sums", "roots") for question in questions(kind, 9, 1)[1:]]
    heads = np.bincount([head for q in every for head in years.spelling.heads(q.answer)], minlength=10)
    assert found["reading"]["places"] == heads.sum()
    np.testing.assert_allclose(found["reading"]["truth"], heads / heads.sum())
    np.testing.assert_allclose(found["free"]["characters"]["truth"], heads / heads.sum())
    plain = found["neurons"]["plain"]
    nothing = np.maximum(np.array(plain["shares"]) - plain["truth"], 0).sum()
    assert plain["distance"] == pytest.approx(nothing)
    assert set(found["neurons"]["effects"]) == {"digit 1", "random 0 for 1", "random 1 for 1"}
    assert audit(years, asked) == found, "the same again"


def test_the_command_reads_such_a_model_as_typed(tmp_path: Path) -> None:
    made, empty = by_threes(), tmp_path / "empty"
    made.save_pretrained(tmp_path / "model")
    llama(made).save_pretrained(tmp_path / "model")
    empty.mkdir()
    words = [
        "--samples",
        "4",
        "--shots",
        "1",
        "--tasks",
        "sums,roots",
        "--free",
        "--neurons",
        "0.05",
        "--digit",
        "1",
        "--draws",
        "2",
        "--device",
        "cpu",
        "-o",
        "page",
    ]
    done = forking.ran(["audit", "numbers", tmp_path / "model", *words], empty, timeout=300)
    assert done.returncode == 0, done.stderr
    said = " ".join((done.stdout + done.stderr).split())
    assert "up to 3 to a token" in said
    assert "first errors are left out" in said
    outcome = json.loads((empty / "page" / "numbers.json").read_bytes())["models"]["model"]
    assert outcome["spelling"]["tokens"] == 1110
    assert outcome["first_errors"] is None
    html = (empty / "page" / "numbers.html").read_text()
    assert "First errors are left out" in html
    assert "held against the truth's own" in html
    assert html.count("<svg") == 6
