"""Tokenizers of the kinds that models have, trained on a few sentences: how each writes the space between words.

Byte-level BPE, byte fallback with a prepended space (Llama-2, Mistral, Phi-3) and without (Gemma), Unigram with its
own space sign (T5, XLM-R), WordPiece (BERT), words that end in a sign (GPT-1), and without a fast form (words, bytes).
"""

import json
from collections.abc import Callable
from pathlib import Path

from random_models import SENTENCES, byte_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertTokenizerLegacy, ByT5Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

SPACE = "\u2581"
FALLBACK = [f"<0x{byte:02X}>" for byte in range(256)]
TURN = "<|turn|>"
"""A special token of every tokenizer here that is trained, apart from those that begin and end a text."""
CORPUS = (*SENTENCES, "How many apples are left", "apples and a pear", "saw a big rock", "Yes, it isn't!")


def fallback_tokenizer(*, prepends: bool = True) -> PreTrainedTokenizerFast:
    """BPE over pieces with the sign of a space, bytes for what it does not know; a begin token before plain text."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    sign = normalizers.Replace(" ", SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), sign]) if prepends else sign
    special = ["<unk>", "<s>", "</s>", TURN, *FALLBACK]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False, max_token_length=8)
    tokenizer.train_from_iterator(CORPUS[4:], trainer)
    strip = [decoders.Strip(" ", 1, 0)] if prepends else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    content = json.loads(tokenizer.to_str())
    # The trainer takes the bytes for special tokens; they are pieces of text.
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in FALLBACK]
    return _wrapped(Tokenizer.from_str(json.dumps(content)))


def unigram_tokenizer() -> PreTrainedTokenizerFast:
    """Unigram pieces as T5 and XLM-R have them; an end token after plain text."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    special = ["<unk>", "<s>", "</s>", TURN]
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return _wrapped(tokenizer)


def wordpiece_tokenizer() -> PreTrainedTokenizerFast:
    """Pieces of words as BERT has them: what does not begin a word carries a sign, and no piece a space."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=True)
    trainer = trainers.WordPieceTrainer(
        vocab_size=160, special_tokens=["<unk>", "<s>", "</s>", TURN], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return _wrapped(tokenizer)


def suffix_tokenizer() -> PreTrainedTokenizerFast:
    """Pieces of which the last of a word carries a sign, as GPT-1 has them."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=["<unk>", "<s>", "</s>", TURN], end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return _wrapped(tokenizer)


def slow_word_tokenizer(folder: Path) -> BertTokenizerLegacy:
    """Pieces of words as in `wordpiece_tokenizer`, without a fast form."""
    vocabulary = wordpiece_tokenizer().get_vocab()
    file = folder / "vocab.txt"
    file.write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)), encoding="utf-8")
    names = {"unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>", "pad_token": None, "mask_token": None}
    return BertTokenizerLegacy(str(file), do_lower_case=False, clean_up_tokenization_spaces=True, **names)


def _wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **names)


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "bytes": byte_tokenizer,
    "llama": fallback_tokenizer,
    "gemma": lambda: fallback_tokenizer(prepends=False),
    "unigram": unigram_tokenizer,
    "wordpiece": wordpiece_tokenizer,
    "suffix": suffix_tokenizer,
    "slow bytes": ByT5Tokenizer,
}
