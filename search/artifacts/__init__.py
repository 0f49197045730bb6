"""The library: a content-addressed store of artifacts, on any file system of pyarrow."""
