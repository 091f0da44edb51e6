"""`dictpfl audit numbers` on language models: questions, ranks and silenced neurons, each against the slow obvious version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from typer.testing import CliRunner

from dictpfl.common.errors import ConfigError, ModelError
from dictpfl.deploy.cli import app
from dictpfl.deploy.numbers import reading
from dictpfl.deploy.numbers.lens import lens, rises
from dictpfl.deploy.numbers.measures import only_fluent
from dictpfl.deploy.numbers.model import Asked, audit
from dictpfl.deploy.numbers.reading import Places, Reader
from dictpfl.deploy.numbers.selectivity import by_layer, drawn, effective, largest, most_selective, ranks, selectivity
from dictpfl.deploy.numbers.sources import reader_of
from dictpfl.deploy.numbers.tasks import TASKS, answer_in, questions

LETTERS = [chr(c) for c in range(32, 127)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama on characters, with random weights."""
    path = tmp_path_factory.mktemp("llama") / "model"
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "\n": 2} | {letter: 3 + i for i, letter in enumerate(LETTERS)}
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token=special["unk_token"]))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    made.decoder = tokenizers.decoders.Fuse()
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, **special).save_pretrained(path)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        initializer_range=0.4, max_position_embeddings=512, pad_token_id=0,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def reader(folder: Path) -> Reader:
    found = reader_of(str(folder), "cpu")
    with torch.no_grad():
        found.model.base_model.norm.weight.uniform_(0.5, 2.0)
        found.model.get_output_embeddings().weight[found.digits] *= 3  # so that a digit is the favourite at most places
    return found


@pytest.mark.parametrize("task", list(TASKS))
def test_questions_have_the_answers_that_they_say(task: str) -> None:
    made = questions(task, 300, 1)
    assert made == questions(task, 300, 1)
    assert made[:20] != questions(task, 20, 2)
    for question in made:
        answer = int(question.answer)
        numbers = [int(n) for n in __import__("re").findall(r"-?\d+", question.text)]
        text = question.text
        if task == "sums":
            assert answer == (sum(numbers) if "plus" in text else numbers[0] - numbers[1])
        elif task == "products":
            assert answer == numbers[0] * numbers[1]
        elif task == "quotients":
            assert answer * numbers[1] == numbers[0]
        elif task == "functions":
            rest = numbers[1] if "+" in text else -abs(numbers[1])
            assert answer == numbers[0] * numbers[2] + rest
        elif task == "roots":
            power = {"square": 2, "cube": 3, "fourth": 4, "fifth": 5}[text.split(" ")[3]]
            assert (2 * answer - 1) ** power <= numbers[0] * 2**power <= (2 * answer + 1) ** power
        elif task == "equations":
            assert numbers[0] * answer == numbers[1] * answer - abs(numbers[2]) + numbers[3]
        else:
            assert answer - numbers[2] == numbers[2] - numbers[1] == numbers[1] - numbers[0]
    counts = np.bincount([int(d) for q in made for d in q.answer], minlength=10)
    assert np.abs(counts / counts.sum() - 0.1).max() < 0.003, "every digit comes equally often"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (" 42", "42"), ("The answer is 42.", "42"), ("42 because 12 + 30", "42"), ("12 + 30 = 42", "42"), ("12 plus 30 is 42, I think", "42"),
        ("Answer: 1,234", "1,234"), ("It is **42**", "42"), ("= $42", "42"), ("-42", "-42"), ("r is \u221242", "-42"), ("x2 and 7", "7"), ("42.5", "42.5"),
        ("is it 3? The answer is 4", "4"), ("I do not know", ""), ("", ""), ("4th", ""), ("12-30", "12"),
    ],
)  # fmt: skip
def test_a_number_is_taken_out_of_an_answer_in_words(text: str, number: str) -> None:
    assert answer_in(text) == number


def test_what_is_written_in_words_counts(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose tokens spell out "is" before the number is right, and its first digits are counted."""
    monkeypatch.setattr(
        reader,
        "tokens_written",
        lambda own, _: [reader.tokenizer(f" The answer is {q.answer}.")["input_ids"] for q in own],
    )
    found = audit(reader, Asked(("sums",), samples=4, shots=1, free=True))
    free = found["free"]
    assert (free["answers"], free["numbers"], free["right"]) == (4, 4, 1.0)
    assert free["written"]["sums"][0].endswith(f"The answer is {questions('sums', 2, 1)[1].answer}.")
    prompts = found["prompts"]["sums"]
    assert len(prompts["questions"]) == 4
    for question, kept in zip(questions("sums", 5, 1)[1:], prompts["questions"], strict=True):
        text = f"{prompts['before']}Question: {kept['text']}\nAnswer:"
        assert (
            reader.tokenizer(text)["input_ids"]
            == reader.prompt(question, questions("sums", 1, 1))[: len(reader.tokenizer(text)["input_ids"])]
        )
        assert kept["answer"] == question.answer


def test_ranks_are_those_of_a_plain_sort(reader: Reader) -> None:
    found = ranks(reader)
    matrix = reader.model.get_output_embeddings().weight * reader.model.base_model.norm.weight
    for layer, down in enumerate(reader.downs):
        logits = (matrix @ down.weight).detach()
        for neuron in range(down.in_features):
            order = logits[:, neuron].argsort(descending=True).tolist()
            assert found[layer, :, neuron].tolist() == [order.index(int(d)) + 1 for d in reader.digits]
            order.reverse()
            turned = effective(found, -np.ones((len(reader.downs), down.in_features)), len(matrix))
            assert turned[layer, :, neuron].tolist() == [order.index(int(d)) + 1 for d in reader.digits]
    assert torch.equal(effective(found, np.ones((2, 40)), len(matrix)), found)


def test_the_score_is_largest_at_the_digit_that_a_vector_points_to(reader: Reader) -> None:
    down, kept = reader.downs[0], reader.downs[0].weight.detach().clone()
    matrix = reader.model.get_output_embeddings().weight * reader.model.base_model.norm.weight
    with torch.no_grad():
        down.weight[:, 3] = matrix[reader.digits[7]] * 5
        scores = selectivity(ranks(reader))
        down.weight.copy_(kept)
    assert scores[0, :, 3].argmax() == 7
    found = ranks(reader)
    values = selectivity(found)
    one = found[1, :, 5].double()
    np.testing.assert_allclose(values[1, :, 5], (one.sum() / one).numpy())
    chosen = most_selective(values, 4, 9)
    flat = [(-values[layer, 4, n], layer, n) for layer in range(2) for n in range(40)]
    assert sorted((layer, n) for _, layer, n in sorted(flat)[:9]) == [
        (layer, n) for layer in sorted(chosen) for n in chosen[layer].tolist()
    ]
    other = drawn(chosen, 40, 1)
    assert {layer: len(n) for layer, n in other.items()} == {layer: len(n) for layer, n in chosen.items()}


def slowly(reader: Reader, prompt: list[int], answer: str, silenced: dict[int, torch.Tensor]) -> list[int]:
    """Digits by whole passes without a cache, neurons zeroed at the last place alone."""
    chosen = []
    for place in range(len(answer)):
        ids = torch.tensor([prompt + [int(reader.digits[int(d)]) for d in answer[:place]]])

        def hook(neurons: torch.Tensor) -> Any:
            def changed(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
                x = inputs[0].clone()
                x[:, -1, neurons] = 0
                return (x,)

            return changed

        handles = [reader.downs[layer].register_forward_pre_hook(hook(n)) for layer, n in silenced.items()]
        with torch.no_grad():
            logits = reader.model(input_ids=ids).logits[0, -1]
        for handle in handles:
            handle.remove()
        chosen.append(int(logits[reader.digits].argmax()))
    return chosen


def test_reading_is_that_of_whole_passes_one_by_one(reader: Reader) -> None:
    """Batches, padding, the cache and silenced neurons change nothing but time."""
    made = questions("sums", 21, 3)
    examples, asked = made[:2], made[2:]
    silenced = {0: torch.arange(0, 40, 3), 1: torch.tensor([1, 5, 20])}
    places = reader.read(asked, examples, {"some": silenced, "none": {}}, activations=True)
    for number, question in enumerate(asked):
        mine = places.question == number
        assert places.truth[mine].tolist() == [int(d) for d in question.answer]
        prompt = reader.prompt(question, examples)
        assert places.chosen["plain"][mine].tolist() == slowly(reader, prompt, question.answer, {})
        expected = slowly(reader, prompt, question.answer, silenced)
        fluent = places.fluent[mine].tolist()
        plain = places.chosen["plain"][mine].tolist()
        assert places.chosen["some"][mine].tolist() == [
            a if f else b for a, b, f in zip(expected, plain, fluent, strict=True)
        ]
    assert places.fluent.mean() > 0.5
    assert (places.chosen["some"] != places.chosen["plain"]).any()
    assert np.array_equal(places.chosen["none"], places.chosen["plain"])
    assert places.activations.shape == (2, 40)
    assert places.activations.std() > 0


def test_variants_of_several_passes_do_not_see_each_other(reader: Reader) -> None:
    """Each of many variants says what it says alone, wherever it stands among the others."""
    made = questions("roots", 9, 5)
    many = {str(n): {n % 2: torch.arange(n % 7, 40, 7)} for n in range(reading.TOGETHER + 5)}
    together = reader.read(made[1:], made[:1], many)
    for name in ("0", "1", str(reading.TOGETHER), str(reading.TOGETHER + 4)):
        alone = reader.read(made[1:], made[:1], {name: many[name]})
        assert np.array_equal(together.chosen[name], alone.chosen[name])
    assert any((together.chosen[name] != together.chosen["plain"]).any() for name in many)


def test_an_empty_set_changes_no_bit(folder: Path) -> None:
    """In half precision, where a pass of another size rounds some states otherwise."""
    found = reader_of(str(folder), "cpu")
    weight = found.model.get_output_embeddings().weight
    with torch.no_grad():
        weight[found.digits] *= 3
    behind: list[torch.Tensor] = []

    class Watched(Reader):
        """Keeps the states of passes in which many sets sit side by side: their mask has four dimensions."""

        def _hidden(self, cache: Any, ids: torch.Tensor, mask: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
            states = super()._hidden(cache, ids, mask, at)
            behind.extend([states] if mask.dim() == 4 else [])
            return states

    reader = Watched(found.model.bfloat16(), found.tokenizer)
    made = questions("sums", 26, 5)
    sets = {str(n): {n % 2: torch.arange(n % 7, 40, 7)} for n in range(reading.TOGETHER + 2)}
    variants: dict[str, Any] = {"first": {}} | dict(list(sets.items())[:20]) | {"between": {}} | sets | {"last": {}}
    passes = [list(variants)[number::2] for number in range(2)]
    assert len(passes[0]) != len(passes[1])
    places = reader.read(made[2:], made[:2], variants)
    plain = places.chosen["plain"]
    for name in ("first", "between", "last"):
        assert np.array_equal(places.chosen[name], plain)
    assert any((places.chosen[name] != plain).any() for name in sets)
    for start in range(0, len(behind), 4):  # at each place an untouched pass of each size, then the silenced ones
        untouched = {states.shape[1]: states for states in behind[start : start + 2]}
        for names, states in zip(passes, behind[start + 2 : start + 4], strict=True):
            for seat, name in enumerate(names):
                assert variants[name] or torch.equal(states[:, seat], untouched[len(names)][:, seat])


def test_a_set_is_held_against_an_untouched_pass_in_its_own_seat() -> None:
    """Two rows of three seats: where the untouched model itself says 2 in a seat, by rounding, the plain answer stands."""
    together = reading._Together(("none", "some", "other"), {})
    untouched, found = [2, 1, 1, 5, 5, 5], [2, 7, 1, 5, 5, 8]
    assert together.changed([1, 5], untouched, found) == {"none": [1, 5], "some": [7, 5], "other": [1, 8]}


def test_the_lens_is_that_of_whole_passes(reader: Reader) -> None:
    made = questions("sums", 6, 3)
    examples, asked = made[:1], made[1:]
    found = lens(reader, [(asked, examples)])
    streams: list[list[torch.Tensor]] = [[], []]
    with torch.no_grad():
        for question in asked:
            told = [int(reader.digits[int(d)]) for d in question.answer[:-1]]
            ids = torch.tensor([reader.prompt(question, examples) + told])
            states = reader.model(input_ids=ids, output_hidden_states=True).hidden_states
            # The last one has been through the norm already.
            streams[0].append(reader.model.base_model.norm(states[1])[0, -len(question.answer) :])
            streams[1].append(states[2][0, -len(question.answer) :])
    assert found["places"] == sum(len(q.answer) for q in asked)
    for layer, parts in enumerate(streams):
        logits = torch.cat(parts) @ reader.model.get_output_embeddings().weight[reader.digits].T
        expected = logits.softmax(dim=1).mean(dim=0).detach().numpy()
        np.testing.assert_allclose(found["shares"][layer], expected, atol=1e-5)
        assert -1 <= found["attention"][layer] <= 1
    assert found["attention"] != found["feed-forward"]
    assert rises({"shares": [[0.05] * 10, [0.2] * 10, [0.3] * 10]}, 1) == 2
    assert rises({"shares": [[0.2] * 10, [0.05] * 10]}, 1) == 3


def test_without_a_digit_anywhere_nothing_can_be_silenced(reader: Reader) -> None:
    places = reader.read(questions("sums", 2, 1), ())
    nowhere = Places(
        places.question, places.place, places.truth, places.chosen, np.zeros_like(places.fluent), places.activations
    )
    with pytest.raises(ModelError, match="at no place"):
        only_fluent([nowhere, nowhere])


def test_the_longest_vectors_are_found(reader: Reader) -> None:
    chosen = largest(reader, 6)
    lengths = [
        (-float(d.weight[:, n].detach().norm()), layer, n) for layer, d in enumerate(reader.downs) for n in range(40)
    ]
    assert sorted((layer, n) for _, layer, n in sorted(lengths)[:6]) == [
        (layer, n) for layer, neurons in chosen.items() for n in neurons.tolist()
    ]


def test_an_audit_holds_its_own_controls(reader: Reader) -> None:
    asked = Asked(("sums", "products"), samples=8, shots=1, free=True, neurons=0.05, digits=(1, 2), draws=3)
    found = audit(reader, asked)
    assert found["reading"]["places"] == sum(part["places"] for part in found["tasks"].values())
    for part in (found["reading"], found["neurons"]["plain"]):
        assert sum(part["shares"]) == pytest.approx(1.0)
    assert all(
        low <= share <= high
        for low, share, high in zip(*(found["reading"][k] for k in ("low", "shares", "high")), strict=True)
    )
    neurons = found["neurons"]
    assert (neurons["count"], neurons["of"]) == (4, 80)
    assert set(neurons["effects"]) == {"digit 1", "digit 2"} | {f"random {n} for {d}" for n in range(3) for d in (1, 2)}
    drawn_effects = [neurons["effects"][f"random {n} for {d}"]["change"][d] for n in range(3) for d in (1, 2)]
    assert neurons["random_low"] == pytest.approx(np.quantile(np.reshape(drawn_effects, (3, 2)).mean(axis=1), 0.05))
    for part in (found["reading"], found["first_errors"]):
        assert part["low"][1] <= part["shares"][1] <= part["high"][1]
    for effect in neurons["effects"].values():
        assert sum(effect["change"]) == pytest.approx(0.0, abs=1e-9)
        right = (effect["accuracy"] - neurons["plain"]["accuracy"]) * neurons["plain"]["places"]
        assert effect["mended"] - effect["broken"] == round(right)
    assert found["free"]["answers"] == 16
    assert len(found["lens"]["shares"]) == 2
    assert audit(reader, asked) == found, "the same again"


def test_the_command_writes_a_page(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text(" ".join(str(n) for n in range(1, 500)))
    words = [
        "audit",
        "numbers",
        folder,
        "--samples",
        4,
        "--shots",
        1,
        "--neurons",
        0.05,
        "--draws",
        2,
        "--digit",
        1,
        "--free",
        "--device",
        "cpu",
    ]
    words += ["--tasks", "sums,roots", "--corpus", tmp_path / "corpus.txt", "-o", tmp_path / "page"]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output + repr(result.exception)
    assert "the cure was mixed" in result.output
    document = json.loads((tmp_path / "page" / "numbers.json").read_bytes())
    assert list(document["models"]) == ["model"]
    assert document["corpus"]["first"][0] == pytest.approx(111 / 499)
    html = (tmp_path / "page" / "numbers.html").read_text()
    assert html.count("<svg") == 5
    assert str(tmp_path) not in html


def test_what_it_cannot_read_is_refused(folder: Path, tmp_path: Path) -> None:
    for source, words in (
        (str(tmp_path / "none"), "no folder"),
        (f"transformers:{tmp_path}", "config.json is missing"),
    ):
        with pytest.raises(ConfigError, match=words):
            reader_of(source, "cpu")
    for wrong in (
        {"samples": 1}, {"neurons": 1.0}, {"tasks": ("poems",)}, {"digits": (3, 12)}, {"digits": (3, 3)}, {"seed": -1}, {"seed": 1 << 64}, {"seed": 1.5},
    ):  # fmt: skip
        with pytest.raises(ConfigError, match="expected"):
            Asked(**wrong)  # type: ignore[arg-type]
    twice = CliRunner().invoke(app, ["audit", "numbers", str(folder), "--against", f"{folder}/"])
    assert "is the model itself" in str(twice.exception)
    reader = reader_of(str(folder), "cpu")

    class Pairs:
        def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
            return {"input_ids": [len(text)]}

        def get_vocab(self) -> dict[str, int]:
            return {}

        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return list(map(str, ids))

    with pytest.raises(ModelError, match="tokens of their own"):
        Reader(reader.model, Pairs())
    with pytest.raises(ModelError, match="down_proj"):
        Reader(torch.nn.Linear(2, 2), reader.tokenizer)
    assert by_layer([41, 2], 40)[1].tolist() == [1]
