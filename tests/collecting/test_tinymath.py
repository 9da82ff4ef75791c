"""The bundled model and its problems: determinism, splits, solutions, tokenizer, chat form, what the model can do."""

import ast
import json
import operator
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel, PreTrainedTokenizerFast

from tracelake.collect.inputs.grading import grade, solution_method
from tracelake.collect.tinymath import LEVELS, METHODS, WEIGHTS, Problem, card, problems
from tracelake.collect.tinymath.evaluate import complete, render_prompt
from tracelake.collect.tinymath.problems import SIZES, split_of, stream
from tracelake.collect.tinymath.train import Recipe, batches, new_model, weighted_loss
from tracelake.collect.tinymath.vocabulary import BOS_ID, EOS_ID, N_POSITIONS, PAD_ID, plain_text

FIRST_TEST_IDS = ["tinymath-1-2a332d454152", "tinymath-2-4c255f7fbd2f", "tinymath-3-de0fdfb09a8f"]
SIGNS = {ast.Add: operator.add, ast.Sub: operator.sub}


@cache
def load_tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(WEIGHTS)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return load_tokenizer()


@pytest.fixture(scope="module")
def model() -> Iterator[GPT2LMHeadModel]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield AutoModelForCausalLM.from_pretrained(WEIGHTS)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def test_set() -> list[Problem]:
    return list(problems("test"))


def evaluate(expression: str) -> int:
    """Return the value of sums and differences of whole numbers, by Python's own parser."""

    def value(node: ast.expr) -> int:
        match node:
            case ast.Constant(value=int(number)):
                return number
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -value(operand)
            case ast.BinOp(left=left, op=op, right=right):
                return SIGNS[type(op)](value(left), value(right))
        raise AssertionError(f"not a sum: {expression}")

    return value(ast.parse(expression, mode="eval").body)


def story_value(question: str) -> int:
    """Return what a question asks for, read from its words alone."""
    total = int(re.search(r"(?:has|are) (\d+)", question)[1])  # type: ignore[index]
    for verb, number in re.findall(r"(buys|finds|wins|gets|puts in|sells|loses|drops|gives|takes out) (\d+)", question):
        total += int(number) if verb in {"buys", "finds", "wins", "gets", "puts in"} else -int(number)
    if compared := re.search(r"and \w+ has (\d+)", question):
        total += int(compared[1]) if "together" in question else -int(compared[1])
    return total


def test_test_set_is_fixed_balanced_and_interleaved(test_set: list[Problem]) -> None:
    assert len(test_set) == SIZES["test"] >= 600
    assert [problem.level for problem in test_set] == list(LEVELS) * (len(test_set) // 3)
    assert len({problem.question for problem in test_set}) == len(test_set)
    # Ids hold a hash of the content: the set that published figures speak of must not move unnoticed.
    assert [problem.item_id for problem in test_set[:3]] == FIRST_TEST_IDS


def test_problems_do_not_depend_on_hash_seed_limit_or_other_levels(test_set: list[Problem]) -> None:
    script = "from tracelake.collect.tinymath import problems; print([p.item_id for p in problems('test', limit=30)])"
    for hash_seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", script],
            check=True,
            capture_output=True,
            text=True,
            env={"PYTHONHASHSEED": hash_seed},
        )
        assert ast.literal_eval(run.stdout) == [problem.item_id for problem in test_set[:30]]
    assert list(problems("test", limit=30)) == test_set[:30]
    assert list(problems("test", levels=(2,), limit=30)) == [p for p in test_set if p.level == 2][:30]
    assert list(problems("test", limit=30, seed=1)) != test_set[:30]


def test_splits_are_disjoint_whatever_the_seed(test_set: list[Problem]) -> None:
    test_questions = {problem.question for problem in test_set}
    trained = [p for level in LEVELS for seed in (0, 1000) for p in islice(stream("train", level, seed=seed), 2000)]
    assert not test_questions & {problem.question for problem in trained}
    assert {split_of(problem.question) for problem in trained} == {"train"}
    assert {split_of(question) for question in test_questions} == {"test"}


@pytest.mark.parametrize("bad", [{"split": "dev"}, {"split": "test", "levels": (4,)}, {"split": "test", "levels": ()}])
def test_unknown_split_or_level_is_an_error(bad: dict) -> None:
    with pytest.raises(ValueError, match="train, test|1, 2, 3"):
        list(problems(bad.pop("split"), **bad))


def test_both_solutions_are_right_by_an_independent_evaluator(test_set: list[Problem]) -> None:
    for problem in test_set:
        assert story_value(problem.question) == int(problem.answer) >= 0, problem
        for method in METHODS:
            solution = problem.solutions[method]
            body = re.fullmatch(r"(?:At once|Split): (.+)\. \\boxed\{(\d+)\}", solution)
            assert body is not None, solution
            assert body[2] == problem.answer
            for equation in re.split(r"[;.] ", body[1]):
                left, right = equation.split(" = ")
                assert evaluate(left) == int(right), solution
            assert right == problem.answer
            assert grade(solution, problem.answer).correct
            assert not grade(solution, str(int(problem.answer) + 1)).correct
            assert solution_method(solution) == method


def test_levels_have_the_stated_steps_and_digits(test_set: list[Problem]) -> None:
    for problem in test_set:
        numbers = re.findall(r"\d+", problem.question)
        assert len(numbers) == (3 if problem.level == 2 else 2)
        assert {len(number) for number in numbers} == {3 if problem.level == 3 else 2}
        signs = re.findall(r"[+-]", problem.solutions["direct"])
        assert len(signs) == (2 if problem.level == 2 else 1)


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_tokenizer_round_trips_any_text_with_offsets(text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    encoded = load_tokenizer()(text, add_special_tokens=False, return_offsets_mapping=True)
    assert load_tokenizer().decode(encoded["input_ids"]) == text
    ends = [end for _, end in encoded["offset_mapping"]]
    assert ends == sorted(ends)
    assert not text or ends[-1] == len(text)


def test_digits_stand_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = tokenizer.tokenize("47 + 1234=99")
    assert [token for token in tokens if any(c.isdigit() for c in token)] == list("47123499")


def test_prompt_plus_completion_has_the_tokens_of_training(
    tokenizer: PreTrainedTokenizerFast, test_set: list[Problem]
) -> None:
    for problem in test_set[:60]:
        prompt = render_prompt(tokenizer, problem)
        assert prompt == f"<|bos|>Question: {problem.question}\nAnswer:"
        for method in METHODS:
            trained = tokenizer(plain_text(problem, method))["input_ids"]
            prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
            completion_ids = tokenizer(" " + problem.solutions[method], add_special_tokens=False)["input_ids"]
            assert prompt_ids + completion_ids == trained
            assert trained.count(BOS_ID) == 1
            messages = [
                {"role": "user", "content": problem.question},
                {"role": "assistant", "content": problem.solutions[method]},
            ]
            whole = tokenizer.apply_chat_template(messages, tokenize=False)
            assert tokenizer(whole, add_special_tokens=False)["input_ids"] == [*trained, EOS_ID]
            assert len(trained) + 1 <= N_POSITIONS


def test_config_names_begin_end_and_pad(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast) -> None:
    for settings_ in (model.config, model.generation_config):
        assert (settings_.bos_token_id, settings_.eos_token_id, settings_.pad_token_id) == (BOS_ID, EOS_ID, PAD_ID)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (BOS_ID, EOS_ID, PAD_ID)
    assert tokenizer.is_fast and tokenizer.padding_side == "left"
    assert model.config.vocab_size == len(tokenizer)


def test_weights_folder_is_small_and_names_no_place() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) < 8_000_000
    for path in WEIGHTS.iterdir():
        if path.suffix in {".json", ".jinja", ".md"}:
            text = path.read_text(encoding="utf-8")
            assert "_name_or_path" not in text and not re.search(r"(?<![\w.])/(?:home|root|tmp|work|Users)/", text), (
                path
            )


def test_generation_stops_by_itself(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, test_set: list[Problem]
) -> None:
    inputs = tokenizer(render_prompt(tokenizer, test_set[0]), add_special_tokens=False, return_tensors="pt")
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=200)
    assert ids[0, -1] == EOS_ID and ids.shape[1] < 150


def test_level_one_is_answered_right(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, test_set: list[Problem]
) -> None:
    asked = [problem for problem in test_set if problem.level == 1][:64]
    answered = complete(model, tokenizer, asked)
    right = [grade(a.text, p.answer).correct for a, p in zip(answered, asked, strict=True)]
    assert sum(right) / len(right) >= 0.9
    assert all(a.finished for a in answered)


def test_sampling_gives_both_methods_and_both_outcomes(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, test_set: list[Problem]
) -> None:
    torch.manual_seed(0)
    asked = test_set[:128]
    answered = complete(model, tokenizer, asked, temperature=1.0)
    methods = [solution_method(completion.text) for completion in answered]
    for method in METHODS:
        assert methods.count(method) >= 0.25 * len(asked)
    right = [grade(a.text, p.answer).correct for a, p in zip(answered, asked, strict=True)]
    assert 0.25 < sum(right) / len(right) < 0.98


def test_card_and_metrics_agree_and_meet_the_goals() -> None:
    metrics = json.loads((WEIGHTS / "metrics.json").read_text(encoding="utf-8"))
    recipe = json.loads((WEIGHTS / "recipe.json").read_text(encoding="utf-8"))
    assert (WEIGHTS / "README.md").read_text(encoding="utf-8") == card.render(metrics, recipe)
    greedy, drawn = metrics["greedy"], metrics["temperature_1"]
    assert metrics["problems"]["limit"] >= 600
    assert greedy["level_1"]["accuracy"] >= 0.95
    assert 0.4 <= greedy["level_2"]["accuracy"] <= 0.9
    assert 0.4 <= greedy["level_3"]["accuracy"] <= 0.9
    assert min(drawn["all"]["methods"].values()) >= 0.25


def test_importing_the_package_loads_no_model_library() -> None:
    script = "import sys, tracelake.collect.tinymath; sys.exit(int(bool({'torch', 'transformers'} & set(sys.modules))))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_training_batches_are_deterministic_and_weigh_the_answer(tokenizer: PreTrainedTokenizerFast) -> None:
    recipe = Recipe(batch_size=8)
    (ids, weights), (again, _) = next(batches(tokenizer, recipe)), next(batches(tokenizer, recipe))
    assert torch.equal(ids, again)
    for row, row_weights in zip(ids, weights, strict=True):
        text = tokenizer.decode(row[row_weights == 1.0])
        assert re.fullmatch(r" (At once|Split): .*\\boxed\{\d+\}<\|eos\|>", text), text
        assert row[0] == BOS_ID and bool((row_weights[row == PAD_ID] == 0).all())


def test_weighted_loss_is_the_weighted_mean_of_next_token_losses() -> None:
    ids = torch.tensor([[1, 2, 0]])
    logits = torch.zeros(1, 3, 4)
    logits[0, 0, 2] = torch.log(torch.tensor(3.0))
    # Position 0 gives token 2 the probability 3/6, position 1 gives token 0 the probability 1/4.
    expected = 0.25 * torch.log(torch.tensor(2.0)) + 0.75 * torch.log(torch.tensor(4.0))
    assert weighted_loss(logits, ids, torch.tensor([[9.0, 0.25, 0.75]])) == pytest.approx(expected.item())


def test_one_training_step_lowers_the_loss(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    ids, weights = next(batches(tokenizer, Recipe(batch_size=8)))
    untrained = new_model(tokenizer)
    before = weighted_loss(untrained(ids).logits, ids, weights)
    before.backward()
    torch.optim.SGD(untrained.parameters(), lr=0.1).step()
    assert weighted_loss(untrained(ids).logits, ids, weights) < before
