"""The registry over HTTP, for reading: needs the extra `serve`."""
