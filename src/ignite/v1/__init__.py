"""The public contract, dodil.ignite.v1. Generated from proto/; never edited."""
