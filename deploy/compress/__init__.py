"""Commands that make a finished model smaller, and the folders that they write."""
