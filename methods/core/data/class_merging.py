"""Merging of several classes into one; the original classes become hidden subclasses."""

from __future__ import annotations

import itertools

import numpy as np

from stillhouse.methods.core.data.base.source import Labels
from stillhouse.methods.core.data.config import DataConfig
from stillhouse.spaces.config.problems import ConfigError, Problem


def check_classes(config: DataConfig, count: int) -> None:
    """Check ``classes`` and ``merge`` against the source's classes 0 .. ``count`` - 1.

    Raises:
        ConfigError: a class is unknown, in no group, or in two groups.
    """
    unknown_classes = sorted(set(config.classes or ()) - set(range(count)))
    if unknown_classes:
        message = f"names class {unknown_classes[0]}, and there are 0 to {count - 1}"
        raise ConfigError([Problem("classes", message)])
    if config.merge is None:
        return
    grouped = sorted(itertools.chain(*config.merge))
    if grouped != list(range(count)):
        groups = [list(group) for group in config.merge]
        message = f"needs every class of 0 to {count - 1} in one group, found {groups}"
        raise ConfigError([Problem("merge", message)])


def merged_class_names(config: DataConfig, names: tuple[str, ...]) -> tuple[str, ...]:
    """The names of the merged classes, such as ``0 or 1 or 2``."""
    if config.merge is None:
        return names
    return tuple(" or ".join(names[member] for member in group) for group in config.merge)


def merged_labels(config: DataConfig, labels: Labels) -> Labels:
    """A source's labels [N] as numbers of merged classes."""
    if config.merge is None:
        return labels
    group_of = np.empty(sum(map(len, config.merge)), np.int64)
    for group, members in enumerate(config.merge):
        group_of[list(members)] = group
    return group_of[labels]
