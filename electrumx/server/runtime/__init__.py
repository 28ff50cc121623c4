"""The process and its surroundings: the supervisor, the event loop, memory, mounts."""
