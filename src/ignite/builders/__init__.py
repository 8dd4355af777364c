"""Adapters of ports/builder: where code is compiled."""
