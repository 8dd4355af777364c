"""Uses a package: requirements.txt names it, the compile bundles it with the app."""

import json

import humanize


def handler(payload, ctx):
    size = int(json.loads(payload or b"{}").get("bytes", 1_000_000))
    return {"bytes": size, "in words": humanize.naturalsize(size)}
