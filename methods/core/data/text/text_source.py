"""The base of text sources, and the settings of their word vectors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import field_validator

from stillhouse.methods.core.data.base.file_fingerprint import files_fingerprint
from stillhouse.methods.core.data.base.source import Part, Source
from stillhouse.methods.core.data.text.vocabulary import TOKEN
from stillhouse.methods.core.data.text.word_vectors import file_dimensions
from stillhouse.spaces.config.base import Config, fingerprint, setting
from stillhouse.spaces.config.problems import ConfigError, Problem

_DEFAULT_DIMENSIONS = 100


class Embedding(Config):
    """Word vectors: learnt from the texts, or read from the file ``path``."""

    path: str | None = setting(
        None, "file of vectors in GloVe's or word2vec's text format, absolute or relative to root"
    )
    dimensions: int | None = setting(
        None, f"of a vector; none means {_DEFAULT_DIMENSIONS}, or as many as the file has", ge=1
    )
    window: int = setting(5, "words on each side that count as near, for learnt vectors", ge=1)

    @property
    def file(self) -> Path | None:
        """The file of vectors; None if they are learnt."""
        return None if self.path is None else Path(self.path).expanduser().absolute()

    def num_dimensions(self) -> int:
        """The number of dimensions of a vector.

        Raises:
            ConfigError: the file cannot be read, or its vectors do not have ``dimensions``.
        """
        if self.file is None:
            return self.dimensions or _DEFAULT_DIMENSIONS
        file_size = file_dimensions(self.file)
        if self.dimensions not in (None, file_size):
            message = (
                f"is {self.dimensions}, and {self.file} has vectors of {file_size}; leave it out"
            )
            raise ConfigError([Problem("source.text.embedding.dimensions", message)])
        return file_size

    def file_fingerprint(self) -> str | None:
        """The file's fingerprint; None if vectors are learnt.

        Raises:
            ConfigError: the file cannot be read.
        """
        if self.file is None:
            return None
        file_dimensions(self.file)  # raises an error that names the file
        return files_fingerprint([self.file])

    def identity(self) -> dict[str, Any]:
        """The settings that decide the vectors of given words; the path of the file does not."""
        if (digest := self.file_fingerprint()) is not None:
            return {"file": digest}
        return {"dimensions": self.num_dimensions(), "window": self.window}


class TextSource(Source):
    """A source of texts; networks get word vectors [dimensions, length, 1]."""

    vocabulary: int = setting(
        5_000, "size of the vocabulary, the most frequent words of the training split", ge=1
    )
    length: int = setting(400, "words of a text that are read; shorter ones are padded", ge=2)
    token: str = setting(TOKEN, "regular expression of a word, found in the lower-cased text")
    embedding: Embedding = setting(Embedding(), "a vector for each word")

    @field_validator("token")
    @classmethod
    def _check_token(cls, token: str) -> str:
        try:
            matches_nothing = re.compile(token).match("") is not None
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}, found {token!r}") from None
        if matches_nothing or "\n" in token:
            raise ValueError(f"must match a character or more of one line, found {token!r}")
        return token

    @property
    def resolved_embedding(self) -> Embedding:
        """``embedding`` with the path of its file resolved against ``root``."""
        embedding = self.embedding
        if embedding.path is None or self.root is None:
            return embedding
        path = Path(self.root).expanduser() / Path(embedding.path).expanduser()
        return embedding.model_copy(update={"path": str(path)})

    def texts(self, part: Part) -> list[str]:
        """The texts in order, one per label.

        Raises:
            ConfigError: a file is damaged; the message names it.
        """
        raise NotImplementedError

    def fingerprint(self) -> str:
        files = super().fingerprint()
        vectors = self.resolved_embedding.file_fingerprint()
        return files if vectors is None else fingerprint([files, vectors])

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "embedding": self.resolved_embedding.identity()}
