"""The composition root: one module a role, each with `components(settings, layout)`.

The only package that names adapters. A process imports the module of its own role and no other.
"""
