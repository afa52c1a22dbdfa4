"""Rebuild adapters from stored objects, on any torch device."""
