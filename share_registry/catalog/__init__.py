"""The catalog: an index over the store in SQL, which can be dropped and rebuilt."""
