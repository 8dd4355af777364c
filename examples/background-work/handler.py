"""Answers at once and works on in a thread; later requests ask how far it is.

Only as long as the replica lives: it is stopped when the app has been idle for its scale-down period,
and work that must not be lost belongs into an async invocation instead.
"""

import json
import threading
import time

jobs: dict[str, dict] = {}
lock = threading.Lock()


def work(job_id: str, steps: int) -> None:
    for step in range(1, steps + 1):
        time.sleep(0.5)
        with lock:
            jobs[job_id]["done"] = step
        print(f"job {job_id}: step {step} of {steps}")


def handler(payload: bytes, ctx: dict) -> dict:
    request = json.loads(payload or b"{}")
    job_id = request.get("job")
    if job_id is None:
        job_id = ctx["execution_id"] or f"job-{time.monotonic_ns()}"
        steps = int(request.get("steps", 10))
        with lock:
            jobs[job_id] = {"done": 0, "steps": steps}
        threading.Thread(target=work, args=(job_id, steps), daemon=True).start()
    with lock:
        return {"job": job_id, **jobs.get(job_id, {"error": "unknown to this replica"})}
