"""What may be asked of the catalog: every function takes a session and reads."""
