"""Protobuf to domain and back. Pure; imported by the servicer alone."""
