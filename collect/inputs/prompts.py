"""Where prompts come from: arguments, files, the bundled problems, Hugging Face datasets. Knows no tokenizer.

A source can be read again from its beginning and gives the same prompts in the same order, so that a run is planned
in one pass and collected in another without holding the prompts in memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from ...lake import Lake
from ...lake.errors import NotFoundError, UsageError, did_you_mean
from ...lake.values import Json
from ..configuration.config import CollectConfig
from ..configuration.given_form import names_stored
from ..tinymath import problems
from .branches import BranchRequest, BranchSource
from .corpora.documents import open_corpus
from .fields import Prompt, prompt_from_row, prompt_text
from .given import GivenCompletions
from .given_stored import open_stored
from .hub_datasets import open_dataset
from .problem_sets import LAYOUTS, ProblemSet
from .prompt_files import PromptFile, StdinPrompts
from .source import PromptSource, SourceOverAnother
from .wording import WordedPrompts, read_template


@dataclass(frozen=True)
class GivenPrompts:
    """Texts from the command line or from Python."""

    texts: tuple[str, ...]
    dataset: str | None = None
    split: str | None = None

    def describe(self) -> Json:
        return {"kind": "given", "texts": list(self.texts)}

    def __iter__(self) -> Iterator[Prompt]:
        return (Prompt(text, str(i)) for i, text in enumerate(self.texts))


@dataclass(frozen=True)
class TinymathProblems:
    """The bundled arithmetic word problems with answers and oracle solutions (in `metadata`)."""

    split: str
    dataset: str = "tinymath"

    def describe(self) -> Json:
        return {"kind": "tinymath", "split": self.split}

    def __iter__(self) -> Iterator[Prompt]:
        for problem in problems(self.split):  # type: ignore[arg-type]
            metadata = {"level": problem.level, "oracle": problem.solutions}
            yield Prompt(problem.question, problem.item_id, answer=problem.answer, metadata=metadata)


@dataclass(frozen=True)
class HubDataset:
    """A dataset of the Hugging Face hub (or a local folder that `datasets` can load)."""

    dataset: str
    split: str
    subset: str | None = None

    def describe(self) -> Json:
        about = {"kind": "hub", "dataset": self.dataset, "split": self.split}
        return about if self.subset is None else {**about, "subset": self.subset}

    def __iter__(self) -> Iterator[Prompt]:
        name = ":".join(filter(None, (self.dataset, self.subset, self.split)))
        rows = open_dataset(self.dataset, self.subset, self.split, advice="Write NAME:SPLIT or NAME:SUBSET:SPLIT.")
        for i, row in enumerate(rows):
            yield prompt_from_row(dict(row), i, name)


@dataclass(frozen=True)
class FirstPrompts(SourceOverAnother):
    """Only the first prompts of another source."""

    limit: int

    def describe(self) -> Json:
        return {**self.source.describe(), "limit": self.limit}

    def __iter__(self) -> Iterator[Prompt]:
        return islice(iter(self.source), self.limit)


@dataclass(frozen=True)
class ChoicePrompts(SourceOverAnother):
    """Another source for the grader `choice`: every item with an answer must have options."""

    def __iter__(self) -> Iterator[Prompt]:
        for prompt in self.source:
            if prompt.answer is not None and prompt.options is None:
                raise UsageError(
                    f"--grader choice: item {prompt.item_id} has an answer but no `options`. Give each item its "
                    "options, or use --grader auto."
                )
            yield prompt


@dataclass(frozen=True)
class DistinctPrompts(SourceOverAnother):
    """Another source of which no two items may have one id: answers, labels and completions go by it."""

    def __iter__(self) -> Iterator[Prompt]:
        indexes: dict[str, int] = {}
        for index, prompt in enumerate(self.source):
            first = indexes.setdefault(prompt.item_id, index)
            if first != index:
                raise UsageError(
                    f"{self.dataset}: items {first} and {index} both have the id {prompt.item_id!r} (an item without "
                    "one has its number), by which answers, labels and given completions are found. Give each its "
                    "own, or leave `id` out everywhere; several completions of one prompt are --samples."
                )
            yield prompt


def open_source(config: CollectConfig, recorded: Json | None = None, *, lake: Lake | None = None) -> PromptSource:
    """The one source that the configuration names; `recorded` is what run.json says of it, for a run to be resumed.

    `lake` holds the runs whose sequences are gone on from.
    """
    if (run := config.branch_from or config.continue_run) is not None:
        if lake is None:
            raise UsageError("Branches need the lake that holds their parents.")
        # Resumed, a name like `latest` must not lead elsewhere.
        run = recorded["run"] if recorded is not None else run
        request = BranchRequest(run, config.sequence, config.at, config.force, reads_only=config.max_new_tokens == 0)
        return _limited(BranchSource(lake, request), config)
    given = [name for name in ("prompt", "prompts", "dataset", "corpus") if getattr(config, name)]
    if config.dataset_path is not None and not config.dataset:
        raise UsageError("--dataset-path needs --dataset NAME:SPLIT, which says how the files are to be read.")
    if len(given) != 1:
        what = "none was given" if not given else " and ".join(f"--{name}" for name in given) + " were given"
        raise UsageError(
            f"Give one source of prompts: --prompt TEXT, --prompts FILE, --dataset NAME or --corpus SOURCE ({what})."
        )
    if config.corpus is not None:
        return open_corpus(config.corpus, config.text_field)
    if config.prompt:
        source: PromptSource = GivenPrompts(tuple(prompt_text(text, "--prompt") for text in config.prompt))
    elif config.prompts == "-" and recorded is not None:
        source = StdinPrompts.recorded(recorded, split_lines=config.split_lines)
    elif config.prompts == "-":
        source = StdinPrompts.read(form=config.prompts_format, split_lines=config.split_lines)
    elif config.prompts:
        source = PromptFile.open(config.prompts, form=config.prompts_format, split_lines=config.split_lines)
    else:
        source = _dataset(str(config.dataset), config.dataset_path)
    if recorded is None:  # a run that was begun with such a source can be resumed
        source = DistinctPrompts(source)
    if config.prompt_template is not None:
        source = WordedPrompts(source, read_template(config.prompt_template))
    if config.grader == "choice":
        source = ChoicePrompts(source)
    source = _limited(source, config)
    if config.given is None:
        return source
    if names_stored(config.given):
        return open_stored(source, config.given, lake)
    return GivenCompletions.open(source, config.given)


def _limited(source: PromptSource, config: CollectConfig) -> PromptSource:
    return source if config.limit is None else FirstPrompts(source, config.limit)


def checked_source(config: CollectConfig, *, lake: Lake | None = None) -> PromptSource:
    """The source, read once to its end where it is at hand: a wrong item is found before a model is loaded."""
    source = open_source(config, lake=lake)
    if (config.prompts or config.dataset_path or config.given or config.goes_on) and sum(1 for _ in source) == 0:
        raise UsageError("There are no prompts: the source is empty.")
    return source


def _dataset(name: str, path: str | None) -> PromptSource:
    dataset, *parts = name.split(":")
    if len(parts) > 2:
        raise UsageError(f"--dataset {name!r}: write NAME, NAME:SPLIT or NAME:SUBSET:SPLIT.")
    split = parts[-1] if parts else ""
    if dataset in LAYOUTS:
        if len(parts) == 2:
            raise UsageError(f"--dataset {name!r}: {dataset} has no subsets here; write {dataset}:{split}.")
        return ProblemSet.open(dataset, split, path)
    if path is not None:
        raise UsageError(
            f"--dataset-path says where a problem set lies ({', '.join(LAYOUTS)}), and {dataset!r} is none."
            f"{did_you_mean(dataset, LAYOUTS)}"
        )
    if dataset != "tinymath":
        return HubDataset(dataset, split or "train", parts[0] if len(parts) == 2 else None)
    if len(parts) == 2 or split not in ("", "train", "test"):
        raise NotFoundError(f"tinymath has no split {':'.join(parts)!r}.{did_you_mean(split, ('train', 'test'))}")
    return TinymathProblems(split or "test")
