"""The driver of a search: launch, resume, extend, reuse and plan."""
