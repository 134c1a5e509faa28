"""Tiny tokenizers of the kinds that write any text in bytes, and labels in several alphabets."""

from __future__ import annotations

from functools import cache
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

LABELS = (
    "Paris", "école", "e\u0301cole", "naïve café", "Ελλάδα", "Москва", "中国", "日本", "中", "東京", "서울",
    "القاهرة", "مصر", "दिल्ली", "กรุงเทพ", "🍎", "🍋", "\U0001f469\u200d\U0001f680", "🇫🇷", "ß", "İstanbul",
)  # fmt: skip
"""The second and third differ in nothing but how they are composed; 中国 and 中 begin alike."""

_WORDS = ["hello world the capital of France is Paris École été Q:\nA: Москва"] * 4
_SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}


@cache
def byte_level() -> Any:
    """As GPT-2, Llama 3 and Qwen: every byte is a letter."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=letters, special_tokens=["<s>", "</s>"], show_progress=False
    )
    raw.train_from_iterator(_WORDS, trainer)
    raw.add_tokens([AddedToken("é!", normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, **_SPECIAL)


def _fallback(normalizer: Any, *before: Any, after: tuple[Any, ...] = ()) -> Any:
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{b:02X}>": 3 + b for b in range(256)}
    for letter in "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ:?.é中":
        vocabulary[letter] = len(vocabulary)
    merges = [("▁", "P"), ("▁P", "a"), ("t", "h")]
    vocabulary |= {a + b: len(vocabulary) + i for i, (a, b) in enumerate(merges)}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    raw.normalizer = normalizer
    raw.decoder = decoders.Sequence([*before, decoders.ByteFallback(), decoders.Fuse(), *after])
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", **_SPECIAL)


@cache
def llama() -> Any:
    """As Llama 2 and Mistral: a space is put before the text, bytes stand for what has no piece."""
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return _fallback(normalizer, decoders.Replace("▁", " "), after=(decoders.Strip(" ", 1, 0),))


@cache
def gemma() -> Any:
    """As Gemma: the same without the space."""
    return _fallback(normalizers.Replace(" ", "▁"), decoders.Replace("▁", " "))


@cache
def pieces() -> Any:
    """As T5: pieces of a unigram model, with no bytes to fall back to."""
    words = [("<unk>", 0.0), *((f"▁{w}", -2.0) for w in ("Paris", "is", "the")), *((c, -5.0) for c in "▁Parisecolt")]
    raw = Tokenizer(models.Unigram(words, 0))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", pad_token="<unk>")


@cache
def word_pieces() -> Any:
    """As BERT: texts are put together by rules, not from bytes."""
    words = ["[UNK]", "paris", "is", "##is", "##e", "the", "p", "##a", "##r"]
    raw = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]", pad_token="[UNK]")


BYTES = {"byte level": byte_level, "llama": llama, "gemma": gemma}
"""Those whose tokens may be parts of characters."""
