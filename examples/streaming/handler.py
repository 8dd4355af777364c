"""Streams: what a generator yields is on its way to the caller at once."""

import time


def handler(payload, ctx):
    count = int(payload or b"5")
    for number in range(1, count + 1):
        yield f"{number}\n"
        time.sleep(0.1)
