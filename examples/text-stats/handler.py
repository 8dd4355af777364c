"""Counts words. `humanize` comes from requirements.txt: the compile bundles it with the app."""

import re
from collections import Counter

import humanize


def handler(payload, ctx):
    words = re.findall(r"[\w']+", payload.decode("utf-8", "replace").lower())
    return {
        "words": len(words),
        "distinct": len(set(words)),
        "size": humanize.naturalsize(len(payload)),
        "top": Counter(words).most_common(3),
    }
