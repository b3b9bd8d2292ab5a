"""A tokenizer of single characters for the tiny model: one character, one token."""

from __future__ import annotations

from typing import Any

PAD, EOS = "<pad>", "<eos>"
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ +-*/=<>()[]{}^%;:,.?!#|&~"
VOCABULARY = (PAD, EOS, *ALPHABET)  # 64 tokens


def character_tokenizer() -> Any:
    """A transformers tokenizer over :data:`VOCABULARY`; a character outside it is an error, not <unk>."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.decoders import Fuse
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(WordLevel({token: index for index, token in enumerate(VOCABULARY)}))
    tokenizer.pre_tokenizer = Split(Regex("."), behavior="isolated")
    tokenizer.decoder = Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS)
