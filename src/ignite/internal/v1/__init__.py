"""The wires between our own processes, dodil.ignite.internal.v1. Generated from proto/; never edited."""
