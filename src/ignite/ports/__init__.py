"""What the platform needs of the outside: one small Protocol a file, in domain types."""
