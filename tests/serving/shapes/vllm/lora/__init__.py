"""The part about adapters."""
