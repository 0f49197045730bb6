"""Word vectors, learnt from texts or read from a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stillhouse.methods.core.data.base.file_kinds import foreign_content, read_head, read_obstacle
from stillhouse.methods.core.data.text.vocabulary import TokenIds, Vocabulary
from stillhouse.spaces.config.problems import ConfigError, Problem

if TYPE_CHECKING:
    from scipy import sparse

Vectors = NDArray[np.float32]

_MAX_DENSE_WORDS = 512
"""Up to so many words a full decomposition is faster than ARPACK."""
_DECIMALS = 4


def learn_vectors(ids: TokenIds, words: int, dimensions: int, window: int) -> Vectors:
    """Vectors [words, dimensions] from the co-occurrence of words in texts ``ids`` [N, length].

    Levy, Goldberg and Dagan 2015: the positive pointwise mutual information of words at most
    ``window`` positions apart is U S V^T, and row w of U sqrt(S) is the vector of word w. Vectors
    are scaled to a mean square of 1. Padding (id 0), words in no text and dimensions beyond the
    rank are zeros. Signs are fixed and values rounded to four decimals, so all processors give
    equal vectors.
    """
    # The import takes half a second, and few processes learn vectors.
    from scipy.sparse.linalg import svds

    information = ppmi(ids, words, window)
    size = min(dimensions, words)
    if words <= _MAX_DENSE_WORDS or size >= words - 1:
        left_vectors, singular_values, _ = np.linalg.svd(information.toarray())
    else:
        start = np.ones(words) / np.sqrt(words)
        left_vectors, singular_values, _ = svds(information, k=size, v0=start, random_state=0)
        order = np.argsort(-singular_values, kind="stable")
        left_vectors, singular_values = left_vectors[:, order], singular_values[order]
    vectors = np.zeros((words, dimensions))
    vectors[:, :size] = left_vectors[:, :size] * np.sqrt(singular_values[:size])
    strongest = np.abs(vectors).argmax(axis=0)
    vectors *= np.where(vectors[strongest, np.arange(dimensions)] < 0, -1.0, 1.0)
    has_information = np.abs(information).sum(axis=1) > 0
    # The factors of words without information are rounding errors.
    vectors[~np.asarray(has_information).ravel()] = 0.0
    scale = (
        np.sqrt(np.mean(np.square(vectors[np.asarray(has_information).ravel()])))
        if has_information.any()
        else 1.0
    )
    return np.round(vectors / scale, _DECIMALS).astype(np.float32)


def ppmi(ids: TokenIds, words: int, window: int) -> sparse.csr_array:
    """[words, words], symmetric: max(0, log(P(a, b) / (P(a) P(b)))) of two words near each other.

    P(a, b) is the share of (a, b) among all ordered pairs of words at most ``window`` positions
    apart. P(a) is the share of pairs that begin with a. Padding (0) is not a word.
    """
    from scipy import sparse

    counts = sparse.csr_array((words, words), dtype=np.float64)
    for distance in range(1, min(window, ids.shape[1] - 1) + 1):
        first, second = ids[:, :-distance].ravel(), ids[:, distance:].ravel()
        both = (first > 0) & (second > 0)
        pairs = (first[both].astype(np.int64), second[both].astype(np.int64))
        counts += sparse.coo_array((np.ones(len(pairs[0])), pairs), (words, words)).tocsr()
    table = (counts + counts.T).tocoo()
    total, marginals = table.data.sum(), np.asarray(table.sum(axis=1)).ravel()
    row, column = table.coords
    information = np.log(table.data * total / (marginals[row] * marginals[column]))
    positive = information > 0
    positive_entries = (information[positive], (row[positive], column[positive]))
    return sparse.csr_array(sparse.coo_array(positive_entries, (words, words)))


def load_vectors(path: Path, vocabulary: Vocabulary, dimensions: int) -> Vectors:
    """The vectors [V, ``dimensions``] of a file in GloVe's or word2vec's text format.

    A word that is not in the file gets the mean of the vectors in the file; padding is zeros. If a
    word occurs twice, the first line counts.

    Raises:
        ConfigError: a line is damaged, or the file has no word of the vocabulary.
    """
    numbers = {word: number for number, word in enumerate(vocabulary.words) if number > 1}
    vectors = np.full((len(vocabulary), dimensions), np.nan)
    for line, word, fields in _iter_lines(path, dimensions):
        number = numbers.pop(word, None)
        if number is not None:
            vectors[number] = _parse_vector(path, line, fields)
    is_known = ~np.isnan(vectors[:, 0])
    if not is_known.any():
        raise _embedding_error(
            f"{path} holds none of the {len(vocabulary) - 2} words of the vocabulary"
        )
    vectors[~is_known] = vectors[is_known].mean(axis=0)
    vectors[0] = 0.0
    return vectors.astype(np.float32)


def file_dimensions(path: Path) -> int:
    """The number of dimensions of the vectors in a file, from its first line.

    Raises:
        ConfigError: the file is missing or has another format.
    """
    if problem := read_obstacle(path):
        raise _embedding_error(f"{path} {problem}")
    if problem := foreign_content(read_head(path), "text"):
        raise _embedding_error(f"{path} is no file of vectors: it holds {problem}")
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            fields = file.readline().split()
    except OSError as error:
        raise _embedding_error(f"cannot be read: {path} ({error.strerror or error})") from None
    header = len(fields) == 2 and all(field.isdecimal() for field in fields)
    count = int(fields[1]) if header else len(fields) - 1
    if count < 1 or not (header or _is_number(fields[-1])):
        raise _embedding_error(
            f"{path} line 1 needs a word and its numbers, found {len(fields)} fields"
        )
    return count


def _iter_lines(path: Path, dimensions: int) -> Iterator[tuple[int, str, list[str]]]:
    """Line number, word and numbers; a few words of GloVe have spaces."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            word, *fields = line.rstrip().rsplit(" ", dimensions)
            if number == 1 and dimensions > 1 and len(line.split()) == 2:
                continue
            last = word.rsplit(" ", 1)[-1]
            is_longer = " " in word and _is_number(last)
            if len(fields) != dimensions or is_longer:
                count = len(line.split()) - 1
                message = f"{path} line {number} has {count} numbers where others have {dimensions}"
                raise _embedding_error(message)
            yield number, word, fields


def _parse_vector(path: Path, line: int, fields: list[str]) -> NDArray[np.float64]:
    try:
        vector = np.array(fields, np.float64)
    except ValueError as error:
        raise _embedding_error(f"{path} line {line} is broken: {error}") from None
    if not np.isfinite(vector).all():
        raise _embedding_error(
            f"{path} line {line} is broken: it holds a number that is not finite"
        )
    return vector


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _embedding_error(message: str) -> ConfigError:
    return ConfigError([Problem("source.text.embedding.path", message)])
