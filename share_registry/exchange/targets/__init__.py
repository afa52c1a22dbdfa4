"""What the common servers make of an adapter: one file a server, and the table of them."""
