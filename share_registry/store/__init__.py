"""The store: immutable objects under their digests and one log of records a space.

It is the truth; everything else can be rebuilt from it.
"""
