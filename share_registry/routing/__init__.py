"""Routing: which stored task answers an input best, from the row spaces of dW."""
