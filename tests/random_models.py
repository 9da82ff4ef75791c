"""Small random language models of many architectures, saved as folders that any loader takes, with their tokenizer.

Weights are twelve times the usual initial size: attention is far from uniform, predictions are far from certain, so
that a value taken from the wrong head, layer, position or row is a wrong value.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

N_LAYERS, N_HEADS, N_SHARED, D_HEAD, D_MODEL, D_MLP, D_VOCAB = 3, 4, 2, 12, 48, 64, 300
CONTEXT, WINDOW = 96, 9
SCALE = 12.0
BEGIN, END, PAD = "<begin>", "<end>", "<pad>"

SENTENCES = (
    "Tom has three apples and gives two of them to Mia.",
    "The café serves naïve crêpes; the bill is 12.50 €.",
    "How many apples are left? Count them: one, two, three 🙂🙂.",
    "An apple a day, and a pear, and the rest is silence.",
)

PROMPTS = (
    "Tom has three apples 🙂 and gives<pad> two to Mia, the café is closed.",
    "a",
    "The bill is 12.50 € in the",
    "Mia",
    "one, two,",
)
"""Of unequal length, the second of one token, the first more than ten times longer and with a padding token that must
be read like any other (several architectures give it the embedding zero)."""

CHAT_TEMPLATE = (
    "{{ '<begin>' }}{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)

END_IDS = tuple(range(7, D_VOCAB, 12))
"""Many tokens end a sequence, so that the sequences of a batch end at different steps."""


@dataclass(frozen=True)
class Architecture:
    """How to configure one architecture; `windows` is the attention window of each layer, None where it has none."""

    make: Callable[[], PreTrainedConfig]
    windows: tuple[int | None, ...] = (None,) * N_LAYERS
    n_shared: int = N_HEADS
    parallel: bool = False


def _gpt2() -> PreTrainedConfig:
    return GPT2Config(
        vocab_size=D_VOCAB,
        n_positions=CONTEXT,
        n_embd=D_MODEL,
        n_layer=N_LAYERS,
        n_head=N_HEADS,
        bos_token_id=0,
        eos_token_id=1,
    )


def _llama_like(kind: type[PreTrainedConfig], **options: object) -> Callable[[], PreTrainedConfig]:
    shape = {
        "vocab_size": D_VOCAB,
        "hidden_size": D_MODEL,
        "intermediate_size": D_MLP,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": N_HEADS,
        "num_key_value_heads": N_SHARED,
        "head_dim": D_HEAD,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
    }
    return lambda: kind(**{**shape, **options})


def _neox() -> PreTrainedConfig:
    return GPTNeoXConfig(
        vocab_size=D_VOCAB,
        hidden_size=D_MODEL,
        intermediate_size=D_MLP,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=N_HEADS,
        max_position_embeddings=CONTEXT,
        use_parallel_residual=True,
        rotary_pct=0.5,
        bos_token_id=0,
        eos_token_id=1,
    )


ARCHITECTURES = {
    "gpt2": Architecture(_gpt2),
    "llama": Architecture(_llama_like(LlamaConfig), n_shared=N_SHARED),
    "qwen2": Architecture(_llama_like(Qwen2Config), n_shared=N_SHARED),
    "qwen3": Architecture(_llama_like(Qwen3Config), n_shared=N_SHARED),
    "mistral": Architecture(_llama_like(MistralConfig, sliding_window=None), n_shared=N_SHARED),
    "mistral-window": Architecture(
        _llama_like(MistralConfig, sliding_window=WINDOW), (WINDOW,) * N_LAYERS, n_shared=N_SHARED
    ),
    "phi3": Architecture(_llama_like(Phi3Config, sliding_window=None), n_shared=N_SHARED),
    "neox": Architecture(_neox, parallel=True),
    "gemma2": Architecture(
        _llama_like(
            Gemma2Config,
            sliding_window=WINDOW,
            query_pre_attn_scalar=16,
            attn_logit_softcapping=5.0,
            final_logit_softcapping=6.0,
            tie_word_embeddings=True,
        ),
        (WINDOW, None, WINDOW),
        n_shared=N_SHARED,
    ),
}


def random_model(name: str, *, seed: int = 0) -> PreTrainedModel:
    """A model of the named architecture with large random weights, biases and norms; float32, on the CPU."""
    config = ARCHITECTURES[name].make()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(SCALE)
                else:
                    parameter.add_(0.3 * torch.randn_like(parameter))
    model.generation_config.eos_token_id = list(END_IDS)
    return model.eval()


def byte_tokenizer(*, begin: bool = False, chat: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on a few sentences; `begin` adds a begin token to plain text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=D_VOCAB,
        special_tokens=[BEGIN, END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    if begin:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BEGIN} $A", special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
    )
    if chat:
        fast.chat_template = CHAT_TEMPLATE
    return fast


def save(model: PreTrainedModel, folder: Path, tokenizer: PreTrainedTokenizerFast | None = None) -> Path:
    """Write model and tokenizer as one folder and return it."""
    model.save_pretrained(folder)
    (tokenizer or byte_tokenizer()).save_pretrained(folder)
    return folder
