"""What a collection is asked to do: the one place where its defaults live."""

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ...lake.errors import ConfigError, NotFoundError, UsageError, did_you_mean
from ...lake.records.run_id import checked_tag
from ...lake.values import Json, JsonView
from ..decoding.sampling.settings import Sampling
from ..decoding.sampling.stop_rule import SAMPLING_COLUMNS, StopRule
from ..embedding.scope import Scope
from ..inputs.grading.graders import parse_grader
from .branch_settings import check_branches
from .corpus_settings import check_corpus, with_corpus_defaults
from .edit import EditSetting
from .given_form import needs_lake
from .keep import DEFAULT_KEEP, Keep

ENVIRONMENT_PREFIX = "TRACELAKE_"
OTHER_VARIABLES = (
    "TRACELAKE_LAKE", "TRACELAKE_VERIFY", "TRACELAKE_PUSHGATEWAY_USER", "TRACELAKE_PUSHGATEWAY_PASSWORD",
    "TRACELAKE_ALLOWED_HOSTS",
)  # fmt: skip
"""Environment variables of this program that are no settings of a collection."""


class CollectConfig(BaseModel):
    """Every setting of `lake collect`. The options of the command line are made from the fields and their texts."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model: str = Field("tinymath", description="Hugging Face id, local folder, or the bundled `tinymath`.")
    revision: str | None = Field(None, description="Revision of the model repository.")
    trust_remote_code: bool = Field(False, description="Run code from the model repository (off unless typed).")
    allow_missing: bool = Field(False, description="Run a model whose checkpoint lacks weights (drawn at random).")
    prompt: tuple[str, ...] = Field((), description="A prompt.")
    prompts: str | None = Field(
        None,
        description="File of prompts, or - for stdin: .txt (one per line), .jsonl, .json, .csv, .tsv (also .gz, .zst) "
        "or .parquet, with `prompt` or `messages`, optional `id`, `answer`, `options`, `metadata`: docs/prompts.md.",
    )
    prompts_format: Literal["auto", "text", "jsonl", "json", "csv", "tsv", "parquet"] = Field(
        "auto", description="What --prompts holds; auto goes by the name's ending, for stdin by its beginning."
    )
    split_lines: bool = Field(True, description="A prompt per line of a text file; no makes the file one prompt.")
    dataset: str | None = Field(
        None,
        description="Problem set NAME:SPLIT (tinymath, gsm8k, math, math_hard, mawps, camel_math), or "
        "NAME[[:SUBSET]:SPLIT] of the Hugging Face hub.",
    )
    dataset_path: str | None = Field(
        None, description="File or folder of that problem set as it was published, instead of the hub."
    )
    prompt_template: str | None = Field(
        None,
        description="Text with {question} to put each prompt into: a file, or second_order_neurons, "
        "sampling_geometry, question_answer.",
    )
    corpus: str | None = Field(
        None,
        description="Texts to read only: tinymath[:train|test], a .txt, .jsonl, .csv or .parquet file or a folder of "
        "these, hf:NAME[:SUBSET][:SPLIT] (streamed), wikipedia[:LANG].",
    )
    tokens: int | None = Field(None, ge=1, description="Most tokens to read of a corpus; 1,000,000 if not given.")
    text_field: str = Field("text", description="Field of a corpus' rows that holds the text.")
    min_chars: int = Field(100, ge=0, description="Leave out documents of a corpus that are shorter.")
    document_tokens: int = Field(
        512, ge=2, description="Cut longer documents of a corpus; with --on-long split read all of them, in pieces."
    )
    pack: int | None = Field(
        None, ge=2, description="Join documents of a corpus by the end token into contexts of exactly N tokens."
    )
    validation: float = Field(
        0.0, ge=0, lt=1, description="Share of a corpus' documents, by a hash of their id, for the split `validation`."
    )
    given: str | None = Field(
        None,
        description="What completions begin with: a JSONL file of `id` and `given` (texts or token ids), or "
        "dataset[:KEY] (published solutions), run:RUN:SHARE (that share of each completion of a run), solutions:RUN.",
    )
    branch_from: str | None = Field(None, description="Leave the stored sequences of this run at the steps of --at.")
    continue_run: str | None = Field(
        None, description="Go on from the stored sequences of this run; with --max-new-tokens 0 read them again."
    )
    sequence: tuple[int, ...] = Field((), description="Only this sequence of that run.")
    at: tuple[str, ...] = Field((), description="Step to branch at, or every:K.")
    force: str | None = Field(
        None, description="First token of a branch: second (the best beside the parent's own), an id, or its text."
    )
    limit: int | None = Field(None, ge=1, description="Use only the first N items.")
    max_new_tokens: int = Field(128, ge=0, description="Most tokens to generate per sequence; 0 reads only.")
    keep: tuple[str, ...] = Field(
        DEFAULT_KEEP,
        description="What to keep: tokens, layers, heads, embeddings, edges[:prompt|:generated], "
        "pattern@LAYER.HEAD[:prompt|:generated], activations:SITE|all[@LAYERS][:prompt|:generated|:last].",
    )
    samples: int = Field(1, ge=1, description="Completions per prompt.")
    temperature: float | None = Field(
        None, description="Sampling temperature; 0 is greedy. If not given 0, or 1 with --samples."
    )
    top_p: float | None = Field(None, gt=0, le=1, description="Sample from the smallest set of tokens with this mass.")
    top_k: int | None = Field(None, ge=1, description="Sample from this many best tokens.")
    min_p: float | None = Field(None, ge=0, le=1, description="Drop tokens below this share of the best one.")
    repetition_penalty: float | None = Field(None, gt=0, description="Divide logits of tokens already seen; 1 is off.")
    generation_config: bool = Field(
        False, description="Apply penalties, banned tokens and least lengths of the model's generation_config."
    )
    stop: tuple[str, ...] = Field((), description="A text that ends a sequence.")
    stop_when: tuple[str, ...] = Field(
        (), description="A rule that ends a sequence: `entropy_bits > 6 and margin < 0.1 for 5`."
    )
    edit: tuple[str, ...] = Field(
        (),
        description="What the model is to compute otherwise: zero|mean|add|project_out:SITE@LAYERS"
        "[:direction=FILE|ID][:xSTRENGTH][:neurons=LIST|:heads=LIST][:all|:prompt|:generated|:last].",
    )
    grader: str = Field(
        "auto",
        description="How answers are graded: exact (box, last number or words), choice (among the item's `options`), "
        "contains, regex:PATTERN, symbolic (exact, then math-verify: extra `math`); auto is choice where an item has "
        "options, exact elsewhere.",
    )
    chat: Literal["auto", "on", "off"] = Field(
        "auto", description="Apply the chat template; auto does where there is one and tokens follow."
    )
    chat_template: str | None = Field(None, description="Which of several chat templates; the one called default.")
    on_long: Literal["error", "truncate", "split"] = Field("error", description="What to do with too long a prompt.")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field("auto", description="Number format of the model.")
    store_dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="Number format of stored vectors; auto is the model's own."
    )
    max_bytes: int | None = Field(None, ge=1, description="Stop cleanly after this many committed bytes.")
    segment_items: int | None = Field(None, ge=1, description="Prompts per segment; by size if not given.")
    device: str = Field("auto", description="cpu, cuda, mps or auto.")
    batch_size: int = Field(8, ge=1, description="Sequences per batch.")
    tag: str | None = Field(None, description="Label of the run; begins its id.")
    seed: int = Field(0, ge=0, description="Run seed.")
    topk: int = Field(10, ge=1, le=1000, description="Best tokens kept per position.")
    attn_implementation: str | None = Field(
        None, description="Attention implementation of transformers to compute with."
    )
    observe_prompt: bool = Field(
        True, description="Record what the model does while it reads the prompt, or keep the prompt's tokens only."
    )
    edge_threshold: float = Field(0.01, ge=0, lt=1, description="Keep attention edges heavier than this.")
    edge_cap: int = Field(50, ge=1, description="Most attention edges kept per prompt, layer and head.")
    edge_cap_generated: int = Field(
        5, ge=1, description="Most attention edges kept per generated token, layer and head."
    )
    strict_timings: bool = Field(
        False,
        description="Also pass one segment through the bare model, to measure what observing costs; see "
        "`lake show --timings`.",
    )
    embedder: str | None = Field(
        None, description="Sentence-transformers model for embeddings; default all-MiniLM-L6-v2."
    )
    embed_scope: tuple[str, ...] = Field(
        ("prompt+completion", "completion"),
        description="Text embedded per step: prompt+completion, completion or window:N tokens.",
    )

    @model_validator(mode="before")
    @classmethod
    def _a_corpus_is_only_read(cls, values: Any) -> Any:
        return with_corpus_defaults(values)

    @field_validator("temperature")
    @classmethod
    def _temperature_is_a_temperature(cls, value: float | None) -> float | None:
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise ValueError("must be 0 (greedy) or a positive number")
        return value

    @field_validator("prompt", "keep", "stop", "stop_when", "edit", "embed_scope", "at", "sequence", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | int) else value

    @field_validator("at", mode="before")
    @classmethod
    def _steps_are_numbers_too(cls, value: Any) -> Any:
        several = value if isinstance(value, list | tuple) else (value,)
        return tuple(str(one) if type(one) is int else one for one in several)

    @model_validator(mode="after")
    def _fits_together(self) -> "CollectConfig":
        self._check_texts()
        Keep.parse(self.keep)
        _ = self.edit_settings
        check_branches(self)
        parse_grader(self.grader)
        for name in self.embed_scope:
            Scope.parse(name)
        if self.tag is not None:
            checked_tag(self.tag)
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                "temperature 0 is greedy: all samples would be equal; give samples 1 or a temperature above 0"
            )
        self._check_rules()
        self._check_prompt()
        check_corpus(dict(self), {name: field.default for name, field in type(self).model_fields.items()})
        if any(not text for text in self.stop):
            raise ValueError("stop: an empty text would end every sequence at once")
        return self

    def _check_texts(self) -> None:
        """A setting that run.json could not hold is refused now, not when it is written."""
        for name, value in self:
            for text in value if isinstance(value, tuple) else (value,):
                if isinstance(text, str) and not text.isascii() and re.search(r"[\ud800-\udfff]", text):
                    raise ValueError(f"{name} holds bytes that are no characters (half of a surrogate pair): {text!r}")

    def _check_prompt(self) -> None:
        if self.observe_prompt:
            return
        keep = Keep.parse(self.keep)
        if self.max_new_tokens == 0:
            raise ValueError("observe_prompt is off and max_new_tokens is 0: there is nothing to observe")
        of_prompt = any(item.scope == "prompt" for item in (*keep.activations, *keep.patterns))
        if keep.edges == {"prompt"} or of_prompt:
            raise ValueError("observe_prompt is off, but edges, patterns or activations of the prompt are to be kept")

    def _check_rules(self) -> None:
        columns = {column for rule in self.stop_rules for column in rule.columns}
        if columns and not Keep.parse(self.keep).tokens:
            raise ValueError("stop_when reads the distribution of each token; add tokens to keep")
        if self.sampling.greedy and (unknown := sorted(columns & set(SAMPLING_COLUMNS))):
            raise ValueError(f"stop_when: greedy decoding samples from nothing, so there is no {unknown[0]}")

    @property
    def stop_rules(self) -> tuple[StopRule, ...]:
        """The parsed `stop_when`."""
        return tuple(StopRule.parse(text) for text in self.stop_when)

    @property
    def goes_on(self) -> bool:
        """Whether stored sequences are gone on from."""
        return self.branch_from is not None or self.continue_run is not None

    @property
    def looks_up(self) -> bool:
        """Whether something stored in the lake is needed before anything can be planned."""
        if self.given is not None and needs_lake(self.given):
            return True
        return self.goes_on or any(edit.source is not None and not edit.is_file for edit in self.edit_settings)

    @property
    def completes(self) -> bool:
        """Whether there are completions: generated ones, or given ones that are read."""
        return self.max_new_tokens > 0 or self.goes_on or self.given is not None

    @property
    def edit_settings(self) -> tuple[EditSetting, ...]:
        """The parsed `edit`."""
        return tuple(EditSetting.parse(text) for text in self.edit)

    @property
    def sampling(self) -> Sampling:
        """The resolved decoding: greedy unless a temperature is given or several samples are wanted (then 1.0)."""
        temperature = (1.0 if self.samples > 1 else 0.0) if self.temperature is None else self.temperature
        filters = (self.top_p, self.top_k, self.min_p)
        return Sampling(temperature, *filters, self.repetition_penalty, self.generation_config)


def resolve_config(
    flags: JsonView, *, file: str | Path | None = None, environ: Mapping[str, str] | None = None
) -> CollectConfig:
    """Defaults, then the YAML file, then TRACELAKE_* variables, then `flags`; later ones win."""
    of_file = _from_file(file) if file is not None else {}
    of_environment = _from_environment(os.environ if environ is None else environ)
    values = {**of_file, **of_environment, **flags}
    origins = {name: str(file) for name in of_file}
    origins |= {name: f"{ENVIRONMENT_PREFIX}{name.upper()}" for name in of_environment}
    origins = {name: where for name, where in origins.items() if name not in flags}
    try:
        config = CollectConfig(**values)
    except ValidationError as error:
        raise _readable(error, origins) from error
    _refuse_new(config, origins)
    return config


def _refuse_new(config: CollectConfig, origins: Mapping[str, str]) -> None:
    """UsageError for what cannot be meant; a run that was recorded with it can still be resumed."""
    if config.keep and not any(item.strip() for item in config.keep):
        raise UsageError("--keep is empty: only ids and texts would be stored. Name what to keep, or leave it out.")
    name = next((name for name in ("top_k", "top_p", "min_p") if getattr(config, name) is not None), None)
    if name is not None and config.sampling.greedy:
        where = origins.get(name, f"--{name.replace('_', '-')}")
        raise UsageError(
            f"{where}: {name} filters what is drawn from, and greedy decoding draws nothing. Add a temperature "
            "(--temperature 1.0) or samples, or leave it out."
        )


def _from_file(file: str | Path) -> Json:
    try:
        text = Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise NotFoundError(f"The configuration file {file} cannot be read: {error.strerror}.") from error
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{file} must hold settings as `name: value` lines.")
    settings = {str(key).replace("-", "_"): value for key, value in values.items()}
    if settings.get("trust_remote_code"):
        raise ConfigError(f"{file} asks to run code from a model repository; that is only allowed as a typed option.")
    return settings


def _from_environment(environ: Mapping[str, str]) -> Json:
    names = {f"{ENVIRONMENT_PREFIX}{name.upper()}": name for name in CollectConfig.model_fields}
    given = {key: value for key, value in environ.items() if key.startswith(ENVIRONMENT_PREFIX)}
    typed_only = f"{ENVIRONMENT_PREFIX}TRUST_REMOTE_CODE"
    if names.pop(typed_only, None) and given.get(typed_only):
        raise ConfigError(f"{typed_only} is set, but running a model repository's code is only allowed as an option.")
    for key in given:
        if key not in names and key not in (*OTHER_VARIABLES, typed_only):
            known = (*names, *OTHER_VARIABLES)
            raise ConfigError(f"There is no setting {key!r} (an environment variable).{did_you_mean(key, known)}")
    values = {names[key]: value for key, value in given.items() if key in names and value}
    return {name: value.split(",") if name in ("keep", "embed_scope") else value for name, value in values.items()}


def _readable(error: ValidationError, origins: Mapping[str, str]) -> Exception:
    """The first thing that is wrong, in words; a wrong value is a usage error, an unknown key a configuration error.

    `origins`: the file or variable of settings that were not typed.
    """
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return ConfigError(f"There is no setting {name!r}.{did_you_mean(name, CollectConfig.model_fields)}")
    message = first["msg"].removeprefix("Value error, ")
    given = f" (given: {first['input']!r})" if name else ""
    if name and (origin := origins.get(str(first["loc"][0]))) is not None:
        return ConfigError(f"{origin}: {name}: {message}{given}.")
    where = f"--{name.replace('_', '-')}: " if name else ""
    return UsageError(f"{where}{message}{given}.")
