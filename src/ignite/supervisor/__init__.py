"""`ignite serve`: the process tree of one machine, and what must hold before it starts."""
