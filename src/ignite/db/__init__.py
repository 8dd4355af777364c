"""Postgres, the only truth and the only queue. Gives and takes domain values; no row leaves."""
