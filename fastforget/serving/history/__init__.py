"""What was done to a live model: edits, versions and requests, kept in memory or in a folder."""
