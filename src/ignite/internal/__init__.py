"""Contracts that never leave the installation. Generated from proto/; never edited."""
