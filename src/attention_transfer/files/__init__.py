"""Files: written whole or not at all, read as anybody's, named with environment variables."""
