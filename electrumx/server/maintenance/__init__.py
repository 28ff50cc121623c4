"""Maintenance of a database by an operator: snapshots, audits, verification."""
