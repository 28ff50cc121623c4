"""From a message to its reply, within the limits of a session."""
