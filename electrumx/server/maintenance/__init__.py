"""What an operator runs on a database: snapshots, audits, verification."""
