"""One record of a prompt file or dataset as a prompt: which fields mean what, which values can be kept.

What could not be written is refused here, when it is read: half characters, objects without a JSON form.
"""

import datetime
import decimal
import hashlib
import json
import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...lake.errors import UsageError
from ...lake.values import Json
from .beginnings import Beginning, StoredPrompt
from .grading.options import Options, read_options

TEXT_FIELDS = ("prompt", "question", "text", "problem", "instruction")
ANSWER_FIELDS = ("answer", "answerKey")
OPTION_FIELDS = ("options", "choices")
KNOWN_FIELDS = (*TEXT_FIELDS, "messages", "id", *ANSWER_FIELDS, *OPTION_FIELDS, "metadata")
"""What is read of a record; everything else goes to `metadata`."""


@dataclass(frozen=True)
class Prompt:
    """One item as the user gave it; `text` is the prompt itself or, for messages, their canonical JSON.

    `wording` is the prompt in the words of --prompt-template: what the model reads instead. `split` is its own, where
    a source has several.
    """

    text: str
    item_id: str
    messages: tuple[Json, ...] | None = None
    answer: str | None = None
    metadata: Json | None = None
    options: Options | None = None
    wording: str | None = None
    split: str | None = None
    beginning: Beginning | None = None
    """How its completions begin, where that is not chosen."""
    stored: StoredPrompt | None = None
    """What is known of it from a run that read it before."""

    @property
    def prompt_id(self) -> str:
        """First 16 hex digits of SHA-256 over the prompt as given; equal across runs and models."""
        if self.stored is not None:
            return self.stored.prompt_id
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


def prompt_from_row(row: object, index: int, where: str) -> Prompt:
    """Read one record: a text, or an object with `prompt` (or `messages`) and optional fields."""
    where = f"{where} (item {index})"
    if isinstance(row, str):
        row = {"prompt": row}
    if not isinstance(row, Mapping):
        raise UsageError(f"{where}: expected an object with `prompt` or `messages`, not {_kind(row)}.")
    given = {str(name): value for name, value in row.items() if not _is_missing(value)}
    name = next((field for field in TEXT_FIELDS if field in given), None)
    conversation = given.get("messages", given.get("prompt") if isinstance(given.get("prompt"), list) else None)
    answer_field = next((field for field in ANSWER_FIELDS if field in given), "")
    options_field = next((field for field in OPTION_FIELDS if field in given), "")
    answer = _answer(given.get(answer_field), f"{where}: `{answer_field}`")
    options = None if answer is None or not options_field else _options(given[options_field], answer, where)
    read = {"messages", "id", answer_field, "metadata", *([name] if name and conversation is None else ["prompt"])}
    common = {
        "item_id": _item_id(given.get("id"), index, where),
        "answer": answer,
        "metadata": _metadata(given, read, where),
        "options": options,
    }
    if conversation is not None:
        messages = _messages(conversation, where)
        canonical = json.dumps(messages, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return Prompt(canonical, messages=tuple(messages), **common)
    if name is None:
        fields = ", ".join(map(str, row)) or "none"
        raise UsageError(
            f"{where} has no `prompt` (or `messages`); its fields are {fields}. "
            f"A prompt may also be called {', '.join(TEXT_FIELDS[1:])}."
        )
    if not isinstance(given[name], str):
        raise UsageError(f"{where}: `{name}` must be a text, not {_kind(given[name])}.")
    return Prompt(prompt_text(given[name], f"{where}: `{name}`"), **common)


def prompt_text(text: str, where: str) -> str:
    """The text of a prompt as it is; UsageError if it is blank or cannot be stored."""
    if not text.strip():
        raise UsageError(f"{where}: the prompt is empty. Leave the item out or give it a text.")
    return _whole(text, where)


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float | decimal.Decimal) and math.isnan(value))


def _item_id(value: object, index: int, where: str) -> str:
    if value is None or value == "":
        return str(index)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # a table with a missing id holds all of them as floats
    if isinstance(value, str | int | float | decimal.Decimal | uuid.UUID | datetime.date):
        return _whole(str(_plain(value, where)), f"{where}: `id`")
    raise UsageError(f"{where}: `id` must be a text or a number, not {_kind(value)}.")


def _answer(value: object, where: str) -> str | None:
    """The reference as text; blank texts are none."""
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if _is_missing(value):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float | decimal.Decimal | datetime.date):
        return _whole(str(_plain(value, where)), where) if str(value).strip() else None
    raise UsageError(
        f"{where} must be a text or a number, not {_kind(value)}. Give one reference, or leave the field out and "
        "bring verdicts of your own with `lake import labels`."
    )


def _options(value: object, answer: str, where: str) -> Options:
    try:
        options = read_options(_plain(value, f"{where}: `options`"))
        expected = options.expected(answer)
    except ValueError as error:
        raise UsageError(f"{where}: {error}. Give the options as a list of texts, the answer as a letter.") from error
    if expected is None:
        raise UsageError(
            f"{where}: the answer {answer!r} is none of the options {', '.join(options.labels)}, nor the text of one."
        )
    return options


def _metadata(given: Mapping[str, object], read: set[str], where: str) -> Json | None:
    """The `metadata` of a record with every field that has no meaning of its own; None if there is nothing."""
    metadata = given.get("metadata")
    if isinstance(metadata, str) and metadata:
        try:
            metadata = json.loads(metadata)
        except (ValueError, RecursionError):
            metadata = {"metadata": metadata}
    if not isinstance(metadata, Mapping):
        metadata = {"metadata": metadata} if metadata else {}
    rest = {name: value for name, value in given.items() if name not in read}
    if twice := sorted(set(metadata) & set(rest)):
        raise UsageError(f"{where}: {twice[0]!r} is a field and also in `metadata`. Rename one of them.")
    return _plain({**metadata, **rest}, f"{where}: `metadata`") or None


def _messages(value: object, where: str) -> list[Json]:
    """The messages of a conversation; UsageError for another shape, naming the message."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            pass
    if not isinstance(value, list | tuple) or not value:
        raise UsageError(f"{where}: `messages` must be a list of objects with role and content, not {_kind(value)}.")
    return [_message(message, f"{where}: message {i}") for i, message in enumerate(value)]


def _message(value: object, where: str) -> Json:
    if not isinstance(value, Mapping):
        raise UsageError(f"{where} must be an object with role and content, not {_kind(value)}.")
    message = _plain({name: part for name, part in value.items() if part is not None}, where)
    if not isinstance(message.get("role"), str):
        hint = " Rename `from` to role and `value` to content, human to user, gpt to assistant." * ("from" in message)
        raise UsageError(f"{where} has no role; its fields are {', '.join(message) or 'none'}.{hint}")
    content = message.get("content")
    if isinstance(content, list):
        _check_parts(content, where)
    elif content is None and not message.get("tool_calls"):
        raise UsageError(f"{where} ({message['role']}) has no content. Give it a text or leave the message out.")
    elif content is not None and not isinstance(content, str):
        raise UsageError(f"{where}: content must be a text or a list of parts, not {_kind(content)}.")
    return message


def _check_parts(parts: list[object], where: str) -> None:
    for part in parts:
        if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, Mapping) else _kind(part)
            raise UsageError(f"{where}: only parts of type text can be read, not {kind}.")


def _plain(value: Any, where: str) -> Any:
    """The value as JSON can hold it: times as ISO text, NaN as null; UsageError for what has no such form."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return _whole(value, where)
    if isinstance(value, float):
        return None if math.isnan(value) else value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {_whole(str(name), where): _plain(part, where) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part, where) for part in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal | uuid.UUID | datetime.timedelta):
        return None if _is_missing(value) else str(value)
    if isinstance(value, bytes):
        return {"bytes": len(value), "sha256": hashlib.sha256(value).hexdigest()}
    if hasattr(value, "tolist"):  # numpy's scalars and arrays
        return _plain(value.tolist(), where)
    raise UsageError(f"{where} holds {_kind(value)}, which cannot be stored. Leave it out or make it a text.")


def _whole(text: str, where: str) -> str:
    """The text itself; UsageError if it holds half of a character, which no file can store."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise UsageError(
            f"{where} holds half of a surrogate pair ({half} at character {error.start}): that is no character "
            "and cannot be stored. Write the whole pair or take it out."
        ) from error
    return text


def _kind(value: object) -> str:
    names = {type(None): "null", dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return names.get(type(value), f"{type(value).__name__} {value!r:.40}")
