"""The state that sessions share: caches, and a consistent view of the tip."""
