"""Checks of what is there: damage, differences, what later commits changed."""
