"""A WordPiece tokenizer in which every answer and task word is one token and names fall into pieces of three letters.

Names in pieces keep the model honest: which entity is meant must be put together from several tokens, as in a real
model. Single letters complete the vocabulary, so that no user's word becomes unknown.
"""

from __future__ import annotations

import string

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from analyses.organism.world import World

SPECIAL = ("<unk>", "<s>", "</s>", "<pad>", "<image>")
BOS, EOS, PAD, IMAGE = 1, 2, 3, 4
PUNCTUATION = ("\n\n", "\n", ":", ".", ",", "?", "!", "'", "-", "(", ")")
LABELS = tuple("ABCDEFGHKMXYZ")
WORDS = "Q The the of is s a an its It has are in and for called Task What Name photo This picture That Here"


def _pieces(word: str) -> list[str]:
    """Return a name's word cut into pieces of three letters, a short word into two pieces."""
    first = 3 if len(word) > 4 else len(word) if len(word) <= 3 else 2
    return [word[:first], *("##" + word[i : i + 3] for i in range(first, len(word), 3))]


def build(world: World) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a world, left padding.

    Raises:
        ValueError: If an answer or a task word would not be one token, or a name would be unknown.
    """
    words = [*SPECIAL, *PUNCTUATION, *WORDS.split(), *LABELS]
    for a in world.attributes:
        words += [w for p in a.prompts for w in p.replace(":", "").replace("'", " ").split()]
        words += [a.word, a.domain, *a.values.values()]
    for e in world.entities:
        for w in e.name.replace("-", " ").replace("'", " ").split():
            words += _pieces(w)
    letters = string.ascii_letters + string.digits
    words += [*letters, *("##" + c for c in letters)]
    vocab = {w: i for i, w in enumerate(dict.fromkeys(words))}
    core = Tokenizer(models.WordPiece(vocab, unk_token="<unk>"))
    core.decoder = decoders.WordPiece()
    split = Regex(r"\n\n|\n|\w+|[^\s\w]")
    core.pre_tokenizer = pre_tokenizers.Split(split, behavior="removed", invert=True)
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
        padding_side="left",
        model_max_length=1024,
    )
    _check(tokenizer, world)
    return tokenizer


def _check(tokenizer: PreTrainedTokenizerFast, world: World) -> None:
    for a in world.attributes:
        for word in (a.word, *a.values.values()):
            ids = tokenizer(word, add_special_tokens=False).input_ids
            if len(ids) != 1 or ids[0] == 0:
                raise ValueError(f"{a.key}: {word!r} must be one token, found {ids}")
    for text in [e.name for e in world.entities] + [p for a in world.attributes for p in a.prompts]:
        if 0 in tokenizer(text, add_special_tokens=False).input_ids:
            raise ValueError(f"{text!r} holds an unknown piece")
