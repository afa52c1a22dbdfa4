"""The world outside: files, clock and randomness."""
