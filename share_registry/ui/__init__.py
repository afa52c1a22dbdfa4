"""The registry as pages to look at and documents to ask for, read-only: needs the extra `ui`."""
