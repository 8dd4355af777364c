"""The command line. `roles` runs the server; all else is a plain client of the contract."""
