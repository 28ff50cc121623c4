"""The requests of the protocol, one file for each chapter of its document."""
