"""`python -m share_registry`: the command line."""

from share_registry.cli.main import entry

if __name__ == "__main__":
    entry()
