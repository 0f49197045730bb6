"""Suggesters that decide without a study."""

import math
import random


class RandomSuggester:
    """Decides at random and records the name of each question."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.names = []

    def suggest_float(self, name, low, high, log):
        self.names.append(name)
        if log:
            return math.exp(self.random.uniform(math.log(low), math.log(high)))
        return self.random.uniform(low, high)

    def suggest_int(self, name, low, high, step):
        self.names.append(name)
        return self.random.randrange(low, high + 1, step)

    def suggest_index(self, name, count, labels):
        assert len(labels) == count
        self.names.append(name)
        return self.random.randrange(count)


class ScriptedSuggester:
    """Answers every choice from a list and records the name of each question."""

    def __init__(self, answers):
        self.answers = iter(answers)
        self.names = []

    def suggest_index(self, name, count, labels):
        self.names.append(name)
        return next(self.answers)
