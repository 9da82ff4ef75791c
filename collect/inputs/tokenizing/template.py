"""A tokenizer's chat template: which of several, what it makes of messages, what it refuses. Knows no token ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ....lake.errors import ConfigError, did_you_mean
from ....lake.values import JsonView
from ..fields import Prompt


@dataclass(frozen=True)
class ChatTemplate:
    """The template that a run applies; `add_prompt` opens the answer that the model is to write."""

    tokenizer: Any
    text: str
    add_prompt: bool

    @classmethod
    def of(cls, tokenizer: Any, name: str | None, *, add_prompt: bool) -> "ChatTemplate | None":
        """The tokenizer's template; of several with names, the one called `name` or `default`. None without one."""
        given: str | Mapping[str, str] | None = getattr(tokenizer, "chat_template", None)
        if not given:
            if name is not None:
                raise ConfigError(f"--chat-template {name!r}: this model's tokenizer has no chat template.")
            return None
        templates = {"default": given} if isinstance(given, str) else dict(given)
        wanted = name or "default"
        if wanted not in templates:
            what = f"There is no chat template {name!r}." if name else "None of the chat templates is called default."
            raise ConfigError(
                f"{what}{did_you_mean(wanted, templates)} Choose with --chat-template NAME, or --chat off."
            )
        return cls(tokenizer, templates[wanted], add_prompt)

    def render(self, prompt: Prompt) -> str:
        """The text of a prompt's messages, or of the prompt as one message of a user; ConfigError if it is refused."""
        import jinja2

        messages = prompt.messages or ({"role": "user", "content": prompt.wording or prompt.text},)
        try:
            text = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                chat_template=self.text,
                tokenize=False,
                add_generation_prompt=self.add_prompt,
            )
        except (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            roles = ", ".join(str(message["role"]) for message in messages)
            raise ConfigError(
                f"Item {prompt.item_id}: the chat template refuses these messages (roles {roles}): {error}. "
                "Change the messages, or use --chat off with `prompt`."
            ) from error
        _check_parts(text, messages, prompt.item_id)
        return text


def _check_parts(text: str, messages: Sequence[JsonView], item_id: str) -> None:
    """ConfigError where a template for texts has written a list of parts as Python shows it."""
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            if part["text"].strip() not in text or str(part) in text:
                raise ConfigError(
                    f"Item {item_id}: the chat template takes content as a text, not as a list of parts. "
                    "Give each message one text."
                )
