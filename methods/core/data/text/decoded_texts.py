"""The texts of one part as token ids; batches of them are word vectors."""

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
    """int32 token ids [N, L]; a batch is looked up as word vectors [B, L, 1, D].

    Batches have the form of float images [B, H, W, C].
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
    """The content of a text source; token ids, vocabulary and word vectors are cached on the disk.

    Vocabulary and learnt vectors come from all training texts outside the validation split. They do
    not depend on ``limit`` and ``classes``, so stages that differ in these share one embedding
    space.
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
        """The vocabulary and its word vectors.

        Raises:
            ConfigError: the texts have no word, or the file of vectors has a damaged line.
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
        # The vectors of a file do not depend on the vocabulary.
        return f"file {file}" if file else self._cache_key("vectors", _without_selection(spec))

    def _vocabulary(self, spec: SplitSpec) -> Vocabulary:
        def make() -> np.ndarray:
            texts = [self._texts[row] for row in self.splits(spec).train]
            vocabulary = Vocabulary.from_texts(texts, self.source.vocabulary, self.source.token)
            return np.frombuffer(json.dumps(vocabulary.words).encode(), np.uint8)

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
        """The texts of the training part."""
        return self.source.texts("train")

    def _cache_key(self, content: str, spec: SplitSpec) -> str:
        name = type(self.source).__name__
        settings = [self.source.settings(), self.source.effective_version()]
        return fingerprint(
            [name, *settings, self.content_fingerprint, spec.validation, spec.seed, content]
        )


def _without_selection(spec: SplitSpec) -> SplitSpec:
    """The specification without fields that select examples within a split."""
    return spec._replace(limit=None, classes=None, validation_limit=None)
