"""What keeps a store small: it removes what no record needs."""
