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
    BartConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MBartConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    T5Config,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING

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


N_ENCODER_LAYERS, N_DECODER_LAYERS = 2, 3
ENCODER_HEADS = {"t5": 4, "t5-gated": 4, "bart": 4, "mbart": 4}
DECODER_HEADS = {"t5": 4, "t5-gated": 4, "bart": 3, "mbart": 4}
POST_NORM = ("bart",)
START, FORCED_FIRST, FORCED_LAST = 2, 40, 41
"""Ids that a decoder starts with and, in BART, that its second and its last token must be."""


def _t5(**options: object) -> PreTrainedConfig:
    return T5Config(
        vocab_size=D_VOCAB, d_model=D_MODEL, d_kv=D_HEAD, d_ff=D_MLP, num_layers=N_ENCODER_LAYERS,
        num_decoder_layers=N_DECODER_LAYERS, num_heads=4, relative_attention_num_buckets=8,
        relative_attention_max_distance=20, decoder_start_token_id=START, pad_token_id=2, eos_token_id=1,
        **options,
    )  # fmt: skip


def _bart(kind: type[PreTrainedConfig], decoder_heads: int) -> PreTrainedConfig:
    return kind(
        vocab_size=D_VOCAB, d_model=D_MODEL, encoder_layers=N_ENCODER_LAYERS, decoder_layers=N_DECODER_LAYERS,
        encoder_attention_heads=4, decoder_attention_heads=decoder_heads, encoder_ffn_dim=D_MLP, decoder_ffn_dim=80,
        max_position_embeddings=CONTEXT, decoder_start_token_id=START, bos_token_id=0, pad_token_id=2, eos_token_id=1,
        forced_eos_token_id=FORCED_LAST if kind is BartConfig else None,
    )  # fmt: skip


ENCODER_DECODERS: dict[str, Callable[[], PreTrainedConfig]] = {
    "t5": _t5,
    "t5-gated": lambda: _t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "bart": lambda: _bart(BartConfig, 3),
    "mbart": lambda: _bart(MBartConfig, 4),
}


SEEDS = {"t5": 3, "t5-gated": 5, "bart": 0, "mbart": 8}
"""With these, greedy sequences end at different steps."""


def random_encoder_decoder(name: str) -> PreTrainedModel:
    """An encoder-decoder model with large random weights; stacks of unlike depth and, in BART, number of heads."""
    config = ENCODER_DECODERS[name]()
    with torch.random.fork_rng():
        torch.manual_seed(SEEDS[name])
        model = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING[type(config)](config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, 0.02 * SCALE)
                else:
                    parameter.add_(0.3 * torch.randn_like(parameter))
            for part, parameter in model.named_parameters():
                # T5 does not scale its scores but, in its first version, its last state.
                if part.endswith("Attention.q.weight"):
                    parameter.mul_(D_HEAD**-0.5)
                elif part.endswith("relative_attention_bias.weight"):
                    parameter.mul_(5.0)
                elif part == "decoder.final_layer_norm.weight" and name == "t5":
                    parameter.mul_(10.0)
            if hasattr(model, "final_logits_bias"):
                model.final_logits_bias.normal_()
    model.generation_config.eos_token_id = list(END_IDS)
    model.generation_config.decoder_start_token_id = START
    if name == "bart":
        model.generation_config.forced_bos_token_id = FORCED_FIRST
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
