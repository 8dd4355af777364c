"""wrk, where it is installed: in C, so it leaves the machine to what is measured."""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from benchmarks.rounds import Load

_SCRIPT = """
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\nJSON{"requests":%d,"secs":%f,"bad":%d,"p50":%f,"p95":%f,"p99":%f,"max":%f}\\n',
    summary.requests, summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(95), latency:percentile(99), latency.max))
end
"""


def is_installed() -> bool:
    """Tell whether wrk is there."""
    return shutil.which("wrk") is not None


def run(port: int, path: str, headers: dict[str, str], *, connections: int, secs: float) -> Load:
    """Load a port of the loopback. wrk counts whole seconds."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "report.lua")
        script.write_text(_SCRIPT)
        process = subprocess.Popen(
            [
                *("wrk", "-t1", f"-c{connections}", f"-d{max(1, round(secs))}", "-s", str(script)),
                *(f"-H{name}: {value}" for name, value in headers.items()),
                f"http://127.0.0.1:{port}{path}",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout is not None
        text = process.stdout.read().decode()
        process.stdout.close()
        _, code, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(code)
    if process.returncode or "JSON" not in text:
        raise RuntimeError(f"wrk failed: {text[-1000:]}")
    found = json.loads(text.rpartition("JSON")[2])
    return Load(
        requests=found["requests"] - found["bad"],
        errors=found["bad"],
        secs=found["secs"],
        latency_us={name: found[name] for name in ("p50", "p95", "p99", "max")},
        cpu_us=int((used.ru_utime + used.ru_stime) * 1e6),
    )
