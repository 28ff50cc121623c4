"""The bulk sync of an empty database; ``driver`` describes how it works."""
