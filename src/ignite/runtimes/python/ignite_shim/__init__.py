"""The server inside a Python replica: the standard library alone, for Python 3.9 to 3.13."""
