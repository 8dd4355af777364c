"""Starts the replica's server; the file that the spawner runs inside the sandbox.

A launcher alone: a script is compiled at every start, its imports come from `__pycache__`. The
package lies beside this file and goes by a name that no app uses for its own.
"""

import gc
import os
import sys

if __name__ == "__main__":
    # Imports make little garbage; looking for it costs a cold start some milliseconds.
    gc.disable()
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    from ignite_shim.main import main  # type: ignore[import-not-found]  # found by the line above

    del sys.path[0]
    main()
