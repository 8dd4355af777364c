"""Forks replicas out of one warm interpreter; the standard library alone."""
