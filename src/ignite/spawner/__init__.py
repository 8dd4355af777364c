"""The one role that keeps root: it owns replicas and compiles, does what it is told, decides
nothing.

Its callers are not root, so everything they say is checked here again: numbers by bounds, ids by
pattern, paths by walking them from folders of this installation.
"""
