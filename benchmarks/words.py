"""A model and a task of any vocabulary: random weights, prompts of random words, one mechanical grade."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tokensweep.problems import Answered, Grade, Outcome, Problem
from tokensweep.problems.protocol import grade_each
from tokensweep.registry import component
from tokensweep.seeds import derive_seed

_PAD, _UNKNOWN, _FIRST_WORD = 0, 1, 2  # token ids; words follow


@component("data", "bench_words")
@dataclass(frozen=True)
class Words:
    """Prompts of random words; right is a completion that is even for the most part."""

    vocab: int = 4096
    prompt_tokens: int = 16
    size: int = 1024
    max_tokens: int = 64

    name = "words"
    grader = "even/1"

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int, /) -> Problem:
        draw = torch.Generator().manual_seed(derive_seed("words", index))
        words = torch.randint(_FIRST_WORD, self.vocab, (self.prompt_tokens,), generator=draw)
        return Problem(
            id=f"words-{index}", prompt=" ".join(f"w{word}" for word in words.tolist()), answer=None
        )

    answer_space = None

    def check(self) -> None:
        """Nothing can be wrong with it."""

    def content_hash(self) -> str:
        """Its fields say it all."""
        return f"words-{self.vocab}-{self.prompt_tokens}-{self.size}"

    def prompt_text(self, problem: Problem) -> str:
        """The words."""
        return problem.prompt

    def grade(self, problem: Problem, text: str, finish_reason: str) -> Grade:
        """Correct when more than half of the words have an even number."""
        outcome = Outcome.correct if mostly_even(text) else Outcome.wrong
        return Grade(outcome=outcome, extracted=None, rule="even")

    def grade_many(self, answers: Sequence[Answered]) -> list[Grade]:
        """One after the other."""
        return grade_each(self, answers)


def mostly_even(text: str) -> bool:
    """Whether more than half of the words have an even number: a coin toss for a random model."""
    numbers = [int(word[1:]) for word in text.split() if word.startswith("w")]
    return 2 * sum(number % 2 == 0 for number in numbers) > len(numbers)


def write_model(folder: Path, shape: Mapping[str, int], *, ends: bool = False) -> Path:
    """A Hugging Face folder with a Qwen3 of random weights and a tokenizer of one token per word.

    ``shape`` has vocab, hidden and layers. The end token lies beyond the head, so that no engine can draw it
    and every completion has exactly the tokens asked for. vLLM refuses that: with ``ends`` it is in the head,
    about as likely as any other.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    vocab, hidden = shape["vocab"], shape["hidden"]
    words = {
        "<pad>": _PAD,
        "<unk>": _UNKNOWN,
        **{f"w{i}": i for i in range(_FIRST_WORD, vocab)},
        "<eos>": vocab,
    }
    core = Tokenizer(WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", unk_token="<unk>", eos_token="<eos>", padding_side="left"
    )
    config = Qwen3Config(
        vocab_size=vocab + ends,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=shape["layers"],
        num_attention_heads=hidden // 64,
        num_key_value_heads=max(1, hidden // 128),
        head_dim=64,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        use_sliding_window=False,
        bos_token_id=None,
        eos_token_id=vocab,
        pad_token_id=_PAD,
    )
    torch.manual_seed(0)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
