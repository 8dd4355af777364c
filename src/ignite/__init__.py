"""Ignite: the serverless platform you run yourself."""
