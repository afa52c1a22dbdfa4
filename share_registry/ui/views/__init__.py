"""What each page shows, and from what."""
