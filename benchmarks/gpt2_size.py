"""A model of GPT-2's size with random weights and a tokenizer of 50,257 words, and prompts of exact token lengths."""

import itertools
import string
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

D_VOCAB = 50_257
UNKNOWN = "<|endoftext|>"


def words(d_vocab: int = D_VOCAB) -> list[str]:
    """One word per id, four letters each; the last id is the end token as in GPT-2."""
    letters = itertools.product(string.ascii_lowercase, repeat=4)
    return ["".join(next(letters)) for _ in range(d_vocab - 1)] + [UNKNOWN]


def save_words(folder: Path, d_vocab: int = D_VOCAB) -> None:
    """Save a tokenizer of these words."""
    vocabulary = {word: i for i, word in enumerate(words(d_vocab))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=UNKNOWN).save_pretrained(folder)


def save_model(
    folder: Path, *, quick: bool = False, scale: float = 1.0, end_ids: tuple[int, ...] | None = None
) -> Path:
    """Save the model and tokenizer in `folder`; weights are those of a fresh model times `scale`.

    `quick` makes two narrow layers of it. Without `end_ids` nothing ends a sequence.
    """
    torch.manual_seed(0)
    config = GPT2Config(n_layer=2, n_embd=64, n_head=2) if quick else GPT2Config()
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(scale)
    model.config.eos_token_id = model.generation_config.eos_token_id = list(end_ids) if end_ids else []
    model.config.pad_token_id = model.generation_config.pad_token_id = D_VOCAB - 1
    model.save_pretrained(folder)
    save_words(folder)
    return folder


def prompt_ids(n_prompts: int, length: int, *, seed: int = 0, d_vocab: int = D_VOCAB) -> torch.Tensor:
    """Random prompts, `[prompt position]`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, d_vocab - 1, (n_prompts, length), generator=generator)


def prompt_texts(ids: torch.Tensor, d_vocab: int = D_VOCAB) -> tuple[str, ...]:
    """The texts whose tokens are `ids`."""
    vocabulary = words(d_vocab)
    return tuple(" ".join(vocabulary[i] for i in row) for row in ids.tolist())
