"""Adapters of other programs, in and out.

PEFT directories, live models and the Hub, by reading bytes and never by unpickling.
"""
