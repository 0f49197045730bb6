"""Dataset distillation: a few synthetic examples that replace a training split."""
