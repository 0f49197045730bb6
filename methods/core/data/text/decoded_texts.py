"""Sentences: the texts of one part as word numbers; batches of them are word vectors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from stillhouse.methods.core.data.base.array_cache import kept_array
from stillhouse.methods.core.data.base.decoded_source import Material
from stillhouse.methods.core.data.base.image_store import Pixels
from stillhouse.methods.core.data.base.source import Part
from stillhouse.methods.core.data.base.splits import Cut
from stillhouse.methods.core.data.text.embedding_table import Lexicon, looked_up
from stillhouse.methods.core.data.text.text_source import TextSource
from stillhouse.methods.core.data.text.vocabulary import Ids, Vocabulary
from stillhouse.methods.core.data.text.word_vectors import learnt, loaded
from stillhouse.spaces.config.base import fingerprint


class Sentences(Pixels):
    """int32 word numbers [N, L] on the device; a batch [B, L, 1, D] is looked up when it is due.

    So it has the form of float images [B, H, W, C], and goes on as these do.
    """

    def __init__(self, ids: Ids, vectors: Tensor) -> None:
        super().__init__(ids)
        self._vectors = vectors
        self._tables: dict[torch.device, Tensor] = {}

    def gathered(self, rows: Tensor, size: int, device: torch.device) -> Iterator[Tensor]:
        for ids in super().gathered(rows, size, device):
            yield looked_up(self._table(device), ids)

    def streamed(self, rows: Tensor, size: int, device: torch.device) -> Iterator[Tensor]:
        for ids in super().streamed(rows, size, device):
            yield looked_up(self._table(device), ids)

    def _table(self, device: torch.device) -> Tensor:
        if device not in self._tables:
            self._tables[device] = self._vectors.to(device)
        return self._tables[device]


class TextMaterial(Material):
    """What a source of texts holds. Numbers, words and vectors are kept on the disk once made.

    Words and learnt vectors are of all training texts but those held out: ``limit`` and
    ``classes`` choose among labels, and stages that differ in them share one space.
    """

    source: TextSource

    def __init__(self, source: TextSource, digest: str) -> None:
        super().__init__(source, digest, None)
        self._sentences: dict[tuple[Part, Cut], Sentences] = {}
        self._lexicons: dict[Cut, Lexicon] = {}
        self._vocabularies: dict[Cut, Vocabulary] = {}

    def examples(self, part: Part, cut: Cut) -> Sentences:
        cut = _all_shown(cut)
        if (part, cut) not in self._sentences:
            lexicon = self.lexicon(cut)
            self._sentences[part, cut] = Sentences(self._ids(part, cut), lexicon.vectors)
        return self._sentences[part, cut]

    def lexicon(self, cut: Cut) -> Lexicon:
        """The words and their vectors.

        Raises:
            ConfigError: there is no word in the texts, or a broken line in the file of vectors.
        """
        cut = _all_shown(cut)
        if cut not in self._lexicons:
            vocabulary = self._vocabulary(cut)
            vectors = kept_array(self._key("vectors", cut), lambda: self._vectors(vocabulary, cut))
            self._lexicons[cut] = Lexicon(vocabulary, torch.from_numpy(vectors))
        return self._lexicons[cut]

    def space(self, cut: Cut) -> str | None:
        file = self.source.vectors.digest()
        # A file's vectors are the same whichever words are looked up.
        return f"file {file}" if file else self._key("vectors", _all_shown(cut))

    def _vocabulary(self, cut: Cut) -> Vocabulary:
        def make() -> np.ndarray:
            texts = [self._texts[row] for row in self.splits(cut).train]
            found = Vocabulary.of(texts, self.source.vocabulary, self.source.token)
            return np.frombuffer(json.dumps(found.words).encode(), np.uint8)

        if cut not in self._vocabularies:
            words = json.loads(kept_array(self._key("vocabulary", cut), make).tobytes())
            self._vocabularies[cut] = Vocabulary(tuple(words), self.source.token)
        return self._vocabularies[cut]

    def _ids(self, part: Part, cut: Cut) -> Ids:
        def make() -> Ids:
            texts = self._texts if part == "train" else self.source.texts(part)
            return self._vocabulary(cut).encode(texts, self.source.length)

        ids: Ids = kept_array(self._key(part, cut), make)
        return ids

    def _vectors(self, vocabulary: Vocabulary, cut: Cut) -> np.ndarray:
        how, dimensions = self.source.vectors, self.facts.shape[0]
        if how.file is not None:
            return loaded(how.file, vocabulary, dimensions)
        ids = self._ids("train", cut)[self.splits(cut).train]
        return learnt(ids, len(vocabulary), dimensions, how.window)

    @cached_property
    def _texts(self) -> list[str]:
        """Of the training part, as long as this is open."""
        return self.source.texts("train")

    def _key(self, what: str, cut: Cut) -> str:
        name = type(self.source).__name__
        settings = [self.source.settings(), self.source.revision()]
        return fingerprint([name, *settings, self.digest, cut.validation, cut.seed, what])


def _all_shown(cut: Cut) -> Cut:
    """The cut without what only chooses among the examples of a split."""
    return cut._replace(limit=None, classes=None, validation_limit=None)
