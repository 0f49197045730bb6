"""The vocabulary of a text data set, and texts as token ids."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from stillhouse.spaces.config.problems import ConfigError, Problem

TOKEN = r"\w+(?:'\w+)*"
"""Letters, digits and underscores, and apostrophes inside: ``don't`` is one word."""
PADDING, UNKNOWN = "<pad>", "<unk>"
"""Token ids 0 and 1: padding after a text, and words outside the vocabulary."""

TokenIds = NDArray[np.int32]


@dataclass(frozen=True)
class Vocabulary:
    """``words`` in the order of their ids; the first two are :data:`PADDING` and :data:`UNKNOWN`.

    ``token`` is the regular expression of a word in lower-cased text.
    """

    words: tuple[str, ...]
    token: str = TOKEN

    @classmethod
    def from_texts(cls, texts: Iterable[str], size: int, token: str = TOKEN) -> Vocabulary:
        """The ``size`` most frequent words of ``texts``; ties are in alphabetical order.

        Raises:
            ConfigError: the texts hold no word.
        """
        counts = Counter(word for text in texts for word in words_in(text, token))
        if not counts:
            message = f"the vocabulary is empty: no training text holds a word ({token})"
            raise ConfigError([Problem("source.text.token", message)])
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return cls((PADDING, UNKNOWN, *ranked[:size]), token)

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, texts: Sequence[str], length: int) -> TokenIds:
        """[N, ``length``]: the ids of the first words of each text, then padding."""
        ids = np.zeros((len(texts), length), np.int32)
        for row, text in zip(ids, texts, strict=True):
            numbers = [self._index.get(word, 1) for word in words_in(text, self.token, length)]
            row[: len(numbers)] = numbers
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The words of these ids, joined by spaces."""
        return " ".join(self.words[number] for number in ids)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}


def words_in(text: str, token: str = TOKEN, max_words: int | None = None) -> Iterator[str]:
    """The first ``max_words`` lower-cased words of a text, in order."""
    for number, match in enumerate(re.finditer(token, text.lower())):
        if number == max_words:
            return
        yield match[0]
