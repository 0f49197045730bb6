"""Sentences: the texts of one part as word numbers; batches of them are word vectors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from stillhouse.methods.core.data.base.array_cache import cached_array
from stillhouse.methods.core.data.base.decoded_source import DecodedSource
from stillhouse.methods.core.data.base.image_store import ImageStore
from stillhouse.methods.core.data.base.source import Part
from stillhouse.methods.core.data.base.splits import SplitSpec
from stillhouse.methods.core.data.text.embedding_table import EmbeddingTable, lookup
from stillhouse.methods.core.data.text.text_source import TextSource
from stillhouse.methods.core.data.text.vocabulary import TokenIds, Vocabulary
from stillhouse.methods.core.data.text.word_vectors import learn_vectors, load_vectors
from stillhouse.spaces.config.base import fingerprint


class TextStore(ImageStore):
    """int32 word numbers [N, L] on the device; a batch [B, L, 1, D] is looked up when it is due.

    So it has the form of float images [B, H, W, C], and goes on as these do.
    """

    def __init__(self, ids: TokenIds, vectors: Tensor) -> None:
        super().__init__(ids)
        self._vectors = vectors
        self._tables: dict[torch.device, Tensor] = {}

    def gather_batches(self, rows: Tensor, size: int, device: torch.device) -> Iterator[Tensor]:
        for ids in super().gather_batches(rows, size, device):
            yield lookup(self._vectors_on(device), ids)

    def stream_batches(self, rows: Tensor, size: int, device: torch.device) -> Iterator[Tensor]:
        for ids in super().stream_batches(rows, size, device):
            yield lookup(self._vectors_on(device), ids)

    def _vectors_on(self, device: torch.device) -> Tensor:
        if device not in self._tables:
            self._tables[device] = self._vectors.to(device)
        return self._tables[device]


class DecodedTexts(DecodedSource):
    """What a source of texts holds. Numbers, words and vectors are kept on the disk once made.

    Words and learnt vectors are of all training texts but those held out: ``limit`` and
    ``classes`` choose among labels, and stages that differ in them share one space.
    """

    source: TextSource

    def __init__(self, source: TextSource, digest: str) -> None:
        super().__init__(source, digest, None)
        self._sentences: dict[tuple[Part, SplitSpec], TextStore] = {}
        self._embedding_tables: dict[SplitSpec, EmbeddingTable] = {}
        self._vocabularies: dict[SplitSpec, Vocabulary] = {}

    def example_store(self, part: Part, spec: SplitSpec) -> TextStore:
        spec = _without_selection(spec)
        if (part, spec) not in self._sentences:
            table = self.embedding_table(spec)
            self._sentences[part, spec] = TextStore(self._ids(part, spec), table.vectors)
        return self._sentences[part, spec]

    def embedding_table(self, spec: SplitSpec) -> EmbeddingTable:
        """The words and their vectors.

        Raises:
            ConfigError: there is no word in the texts, or a broken line in the file of vectors.
        """
        spec = _without_selection(spec)
        if spec not in self._embedding_tables:
            vocabulary = self._vocabulary(spec)
            vectors = cached_array(
                self._cache_key("vectors", spec), lambda: self._vectors(vocabulary, spec)
            )
            self._embedding_tables[spec] = EmbeddingTable(vocabulary, torch.from_numpy(vectors))
        return self._embedding_tables[spec]

    def embedding_space(self, spec: SplitSpec) -> str | None:
        file = self.source.resolved_embedding.file_fingerprint()
        # A file's vectors are the same whichever words are looked up.
        return f"file {file}" if file else self._cache_key("vectors", _without_selection(spec))

    def _vocabulary(self, spec: SplitSpec) -> Vocabulary:
        def make() -> np.ndarray:
            texts = [self._texts[row] for row in self.splits(spec).train]
            found = Vocabulary.from_texts(texts, self.source.vocabulary, self.source.token)
            return np.frombuffer(json.dumps(found.words).encode(), np.uint8)

        if spec not in self._vocabularies:
            words = json.loads(cached_array(self._cache_key("vocabulary", spec), make).tobytes())
            self._vocabularies[spec] = Vocabulary(tuple(words), self.source.token)
        return self._vocabularies[spec]

    def _ids(self, part: Part, spec: SplitSpec) -> TokenIds:
        def make() -> TokenIds:
            texts = self._texts if part == "train" else self.source.texts(part)
            return self._vocabulary(spec).encode(texts, self.source.length)

        ids: TokenIds = cached_array(self._cache_key(part, spec), make)
        return ids

    def _vectors(self, vocabulary: Vocabulary, spec: SplitSpec) -> np.ndarray:
        embedding, dimensions = self.source.resolved_embedding, self.info.shape[0]
        if embedding.file is not None:
            return load_vectors(embedding.file, vocabulary, dimensions)
        ids = self._ids("train", spec)[self.splits(spec).train]
        return learn_vectors(ids, len(vocabulary), dimensions, embedding.window)

    @cached_property
    def _texts(self) -> list[str]:
        """Of the training part, as long as this is open."""
        return self.source.texts("train")

    def _cache_key(self, content: str, spec: SplitSpec) -> str:
        name = type(self.source).__name__
        settings = [self.source.settings(), self.source.effective_version()]
        return fingerprint(
            [name, *settings, self.content_fingerprint, spec.validation, spec.seed, content]
        )


def _without_selection(spec: SplitSpec) -> SplitSpec:
    """The cut without what only chooses among the examples of a split."""
    return spec._replace(limit=None, classes=None, validation_limit=None)
