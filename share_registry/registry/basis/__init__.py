"""Bases: fitting them, and what a later fit goes on from."""
