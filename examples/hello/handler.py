"""Greets: the smallest app that takes JSON and answers JSON."""

import json
import os


def handler(payload, ctx):
    request = json.loads(payload or b"{}")
    return {
        "greeting": f"{os.environ.get('GREETING', 'Hello')}, {request.get('name', 'world')}!",
        "app": ctx["function_id"],
    }
