"""ComputeService: apps, their code and versions, and calls of them."""
