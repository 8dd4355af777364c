"""Contracts that never leave the installation."""
