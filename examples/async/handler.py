"""Waits for several things at once: `async def` handlers share one thread, so waiting costs nothing."""

import asyncio
import json
import time


async def handler(payload, ctx):
    seconds = min(float(json.loads(payload or b"{}").get("seconds", 0.2)), 5)
    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(3):
            tasks.create_task(asyncio.sleep(seconds))
    return {"waits": 3, "each": seconds, "took": round(time.monotonic() - began, 1)}
