"""What a user's request passes through: Envoy, fed from a route table in memory, and the activator.

Nothing here reads the database; when the rest is down the gateway serves what it knows.
"""
