"""Texts: vocabularies, word vectors and decoded texts."""
