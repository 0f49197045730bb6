"""Dataset distillation: a few synthetic examples that stand for a whole training split."""
