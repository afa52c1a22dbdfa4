"""Copies a registry to another store, record by record."""
