"""What writes: each command ends in one record."""
