"""A small GPT-2 that writes a given text: its next token depends on the position alone."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

N_POSITIONS = 128


def scripted_model(
    folder: Path, tokenizer: PreTrainedTokenizerBase, n_prompt: int, completion: Sequence[int], end: int | None = None
) -> Path:
    """Save a model with its tokenizer that writes `completion` behind any prompt of `n_prompt` tokens, then `end`.

    Its blocks add nothing, every position has a direction of its own, and each token looks for those where it is due.
    `end` is the unknown token if not given: the texts that are written do not need it.
    """
    end = tokenizer.unk_token_id if end is None else end
    assert end is not None
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=N_POSITIONS, n_embd=2 * N_POSITIONS, n_layer=2, n_head=2,
        bos_token_id=end, eos_token_id=end, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(config).eval()
        for block in model.transformer.h:
            for projection in (block.attn.c_proj, block.mlp.c_proj):
                projection.weight.zero_()
                projection.bias.zero_()
        directions, _ = torch.linalg.qr(torch.randn(2 * N_POSITIONS, 2 * N_POSITIONS))
        model.transformer.wte.weight.zero_()
        model.transformer.wpe.weight.copy_(directions[:N_POSITIONS])
        model.lm_head.weight.normal_(0, 1e-3)
        for offset, token_id in enumerate((*completion, end)):
            model.lm_head.weight[token_id] += directions[n_prompt - 1 + offset]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
