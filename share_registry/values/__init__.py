"""What the public methods return: frozen values, each with the sheet that shows it."""
