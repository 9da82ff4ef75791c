"""The tokenizer of `tinymath`: byte-level BPE with single digits, trained on the generator's text, and its chat form.

It needs the model libraries; the problems do not.
"""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers.tokenization_utils_tokenizers import PreTrainedTokenizerFast

from .problems import Method, Problem

N_POSITIONS = 256
BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
SPECIAL_TOKENS = (PAD, BOS, EOS)
PAD_ID, BOS_ID, EOS_ID = range(3)
# A word takes the one space before it, a digit stands alone, marks and other spaces between them stay together
# (" + ", "; "). A word after the prompt's last ":" is cut the same way whether or not it is there yet, so prompt tokens
# followed by generated tokens equal the tokens of the whole text.
PIECES = r" ?\p{L}+|\d|[^\p{L}\d]+?(?= ?\p{L}|\d|\z)"
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ 'Question: ' + (message['content'] | trim) + '\\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ 'Answer: ' + (message['content'] | trim) + eos_token }}"
    "{% else %}{{ raise_exception('tinymath knows the roles user and assistant only') }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Answer:' }}{% endif %}"
)


def plain_text(problem: Problem, method: Method) -> str:
    """Return question and solution as the model is trained on them, without the special tokens."""
    return f"Question: {problem.question}\nAnswer: {problem.solutions[method]}"


def train_tokenizer(texts: Iterable[str], *, d_vocab: int) -> PreTrainedTokenizerFast:
    """Train byte-level BPE on the texts; `d_vocab` counts the 256 bytes and the three special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False, trim_offsets=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=d_vocab,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="left",
        model_max_length=N_POSITIONS,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
