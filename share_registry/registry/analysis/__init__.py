"""What a collection of adapters shares, and what that is worth."""
