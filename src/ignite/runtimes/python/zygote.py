"""Starts the fork server; the file that the spawner runs, once a Python version.

It runs inside the tree that its replicas will see, so that what is imported here has the places it
has there. The argument is the number of its command socket.
"""

import gc
import os
import sys

if __name__ == "__main__":
    gc.disable()
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    from ignite_zygote.server import serve  # type: ignore[import-not-found]  # by the line above

    del sys.path[0]
    # Behind this line we are a replica.
    serve(int(sys.argv[1]))()
