"""The storage format: records, notes, layouts and adapter objects as bytes. No I/O."""
