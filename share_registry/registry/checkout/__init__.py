"""Task versions back out of the store: in memory, on disk, as reports."""
