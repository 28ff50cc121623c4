"""The service of administration, LocalRPC."""
