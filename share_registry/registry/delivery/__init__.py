"""Versions as directories that servers load from, kept in step with an alias."""
