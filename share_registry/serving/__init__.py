"""What runs inside inference servers, and between them and a registry."""
