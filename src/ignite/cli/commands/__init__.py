"""User commands: parse flags, call the public contract, print. No server code."""
