"""Metrics, health and status of the server, over HTTP, for the operator and monitoring."""
