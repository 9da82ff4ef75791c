"""One judge behind an OpenAI-compatible address: calls with patience, within limits, and what they cost."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from ....lake.errors import ConfigError, UsageError
from ..template import MOST_TOKENS, Case, messages
from ..verdict import Verdict, read_verdict
from .limits import MILLION, Limits, Price

if TYPE_CHECKING:
    from openai import OpenAI

OPENROUTER = "https://openrouter.ai/api/v1"
ATTEMPTS = 4
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 30.0
RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
NO_SERVICE = "the service did not answer"
LIMIT = "a limit was reached"


@dataclass(frozen=True)
class Service:
    """Where a judge is asked; the key's value is read from the environment when it is needed and kept nowhere."""

    model: str
    base_url: str = OPENROUTER
    key_env: str = "OPENROUTER_API_KEY"
    timeout_s: float = 60.0

    @classmethod
    def at(cls, model: str, base_url: str | None, key_env: str, timeout_s: float) -> Self:
        """At an address, OpenRouter's if there is none."""
        return cls(model, base_url or OPENROUTER, key_env, timeout_s)

    def key(self) -> str:
        """The key; ConfigError if there is none."""
        key = os.environ.get(self.key_env, "")
        if not key.strip():
            raise ConfigError(
                f"The environment variable {self.key_env} holds no key for {self.base_url}. Set it, or name "
                "another with --key-env. (Only `lake analyze judge` can do without a service: "
                "--judge local or --judge known.)"
            )
        return key


@dataclass(frozen=True)
class Request:
    """One call: what is said, how long the reply may be, and how it is read."""

    messages: list[dict[str, str]]
    most_tokens: int
    read: Callable[[str | None, str | None], Verdict]
    """Of text and finish_reason; a reason says that the reply is not what was asked for."""

    @property
    def most_prompt_tokens(self) -> int:
        """No tokenizer makes more tokens of a text than it has bytes; a service adds some for each message."""
        return sum(len(m["content"].encode("utf-8", "surrogatepass")) + 16 for m in self.messages)


@dataclass
class Reply:
    """What came of asking about one case."""

    verdict: Verdict
    final: bool
    """Whether asking again would be the same call: false where the service failed or a limit was reached."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost_usd: float | None = None
    attempts: int = 0
    latency_ms: float = 0.0


@dataclass
class Judge:
    """Asks one service, from several threads at once."""

    service: Service
    limits: Limits
    price: Price | None = None
    sleep: Callable[[float], None] = time.sleep
    _client: "OpenAI" = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._client = client_of(self.service)

    def close(self) -> None:
        """Give up the connections."""
        self._client.close()

    def learn_price(self) -> None:
        """Take the price from the service's list of models, where it names one and none was given."""
        if self.price is None:
            self.price = listed_price(self._client, self.service.model)
        if self.price is None and self.limits.max_usd is not None:
            raise UsageError(
                f"--max-usd {self.limits.max_usd:g} cannot be kept: {self.service.base_url} does not say what "
                f"{self.service.model} costs. Give --usd-per-million IN,OUT, or --no-max-usd and trust --max-calls."
            )

    def ask(self, case: Case) -> Reply:
        """The verdict on one case."""
        return self.request(Request(messages(case), MOST_TOKENS, read_verdict))

    def request(self, wanted: Request) -> Reply:
        """What comes of one call; failures are replies too. Every attempt counts and may cost."""
        started = time.perf_counter()
        reply = Reply(Verdict(None, None, LIMIT), final=False)
        wait = FIRST_WAIT_S
        while reply.attempts < ATTEMPTS:
            worst = self.price.of(wanted.most_prompt_tokens, wanted.most_tokens) if self.price else 0.0
            if not self.limits.reserve(worst):
                if reply.attempts:
                    reply.verdict = Verdict(None, None, f"{reply.verdict.reason}; then {LIMIT}")
                break
            reply.attempts += 1
            cost: float | None = None
            try:
                retry, cost = self._attempt(wanted, reply)
            finally:
                self.limits.settle(worst, cost)
            if cost is not None:
                reply.cost_usd = (reply.cost_usd or 0.0) + cost
            if retry is None:
                break
            if reply.attempts < ATTEMPTS:
                self.sleep(min(retry if retry > 0 else wait, LONGEST_WAIT_S))
                wait *= 2
        reply.latency_ms = (time.perf_counter() - started) * 1000
        return reply

    def _attempt(self, wanted: Request, reply: Reply) -> tuple[float | None, float | None]:
        """One request: seconds to wait before the next (0: as usual; None: there is none), and what it cost."""
        import openai

        try:
            answer = self._client.chat.completions.create(
                model=self.service.model,
                messages=wanted.messages,  # type: ignore[arg-type]  # plain dictionaries, as the package documents
                max_tokens=wanted.most_tokens,
                temperature=0,
            )
        except openai.APIStatusError as error:
            reply.verdict = Verdict(None, None, f"{NO_SERVICE}: HTTP {error.status_code}")
            if error.status_code in (401, 403):
                raise ConfigError(
                    f"{self.service.base_url} refuses the key in {self.service.key_env} (HTTP {error.status_code})."
                ) from None
            if error.status_code in RETRIED:
                return _wait_asked(error.response.headers), 0.0
            return None, 0.0
        except openai.APITimeoutError:
            # It may have been worked on, and be billed: the reserve stays.
            reply.verdict = Verdict(None, None, f"{NO_SERVICE}: no reply in {self.service.timeout_s:g} s")
            return 0.0, None
        except openai.APIConnectionError:
            reply.verdict = Verdict(None, None, f"{NO_SERVICE}: the connection broke")
            return 0.0, None
        except (openai.APIError, ValueError, AttributeError, TypeError) as error:  # a body that is no such reply
            reply.verdict = Verdict(None, None, f"the service's answer is no chat completion ({type(error).__name__})")
            return 0.0, None
        return None, self._read(answer, wanted, reply)

    def _read(self, answer: object, wanted: Request, reply: Reply) -> float | None:
        """Take verdict, tokens and cost out of a body, whatever it is; returns the cost if it is known."""
        usage = getattr(answer, "usage", None)
        reply.prompt_tokens, reply.completion_tokens = (
            _whole(getattr(usage, name, None)) for name in ("prompt_tokens", "completion_tokens")
        )
        choices = getattr(answer, "choices", None)
        choice = choices[0] if isinstance(choices, list) and choices else None
        message = getattr(choice, "message", None)
        if choice is None or message is None:
            reply.verdict = Verdict(None, None, "the service's answer has no choices")
        else:
            content = getattr(message, "content", None)
            reply.verdict = wanted.read(content if isinstance(content, str) else None, choice.finish_reason)
        reply.final = True
        cost = getattr(usage, "cost", None)
        if isinstance(cost, int | float) and not isinstance(cost, bool) and cost >= 0:
            return float(cost)
        if self.price and reply.prompt_tokens is not None and reply.completion_tokens is not None:
            return self.price.of(reply.prompt_tokens, reply.completion_tokens)
        return None


def client_of(service: Service) -> "OpenAI":
    """The openai client of a service; ConfigError without the package or the key."""
    try:
        import openai
    except ImportError:
        raise ConfigError(
            "A judge that is asked over HTTP needs the package openai: pip install 'tracelake[judge]'. "
            "--judge local and --judge known need nothing."
        ) from None
    return openai.OpenAI(
        api_key=service.key(), base_url=service.base_url, timeout=service.timeout_s, max_retries=0
    )  # fmt: skip


def listed_price(client: "OpenAI", model: str) -> Price | None:
    """The price in USD per million tokens that the service's list of models names, as OpenRouter's does."""
    import openai

    try:
        listed = [one for one in client.models.list() if getattr(one, "id", None) == model]
        pricing = getattr(listed[0], "pricing", None) if listed else None
        return Price(float(pricing["prompt"]) * MILLION, float(pricing["completion"]) * MILLION) if pricing else None
    except (openai.APIError, KeyError, TypeError, ValueError, AttributeError):
        return None


def _wait_asked(headers: Mapping[str, str]) -> float:
    """Seconds that `Retry-After` asks for; 0 if it does not say a number of them."""
    try:
        return max(0.0, float(headers.get("retry-after", 0)))
    except (TypeError, ValueError):
        return 0.0


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
