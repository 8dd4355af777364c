"""Loops that make what is wanted so. They know ports and the database, no adapter."""
