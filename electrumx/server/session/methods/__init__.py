"""The request handlers of the protocol, one module for each group of methods."""
