"""What a record does to the rows of the catalog."""
