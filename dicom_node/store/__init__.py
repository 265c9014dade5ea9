"""Files are the truth of pixels, the database is the truth of state."""
