"""The command line: one verb per public method, no logic of its own."""
