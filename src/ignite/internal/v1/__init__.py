"""The wires between our own processes. Generated from proto/; never edited."""
