"""The bulk sync of an empty database; ``driver`` tells how it works."""
