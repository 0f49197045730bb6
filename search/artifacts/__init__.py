"""The content-addressed home of what stages made, on any file system pyarrow reaches."""
