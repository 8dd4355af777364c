"""How a replica starts, what it says about a start that fails, and what it does beside requests."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.conformance.replicas import Replicas


class TestStart:
    def test_an_import_that_fails(self, replicas: Replicas) -> None:
        replica = replicas.spawn("import nothing_like_it\n")
        assert replica.wait() == 3
        replica.wait_line("handler.py")
        replica.wait_line("ModuleNotFoundError: No module named 'nothing_like_it'")
        assert not any("ignite_shim" in line for line in replica.lines)
        assert not Path(replica.socket_path).exists()

    def test_an_import_under_another_python_than_that_of_the_compile(
        self, replicas: Replicas
    ) -> None:
        replica = replicas.spawn(
            {"handler.py": "import gone\n", "__pycache__/handler.cpython-32.pyc": ""}
        )
        assert replica.wait() == 3
        assert "compiled for cpython-32 and runs on" in replica.wait_line("ignite: ")

    @pytest.mark.parametrize("code", ["import sys\nsys.exit(0)\n", "def handler(:\n"])
    def test_an_import_that_leaves_or_cannot_be_parsed(self, replicas: Replicas, code: str) -> None:
        assert replicas.spawn(code).wait() == 3

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            ({"main.py": ""}, "ignite: the app has no handler.py at its root"),
            ({"handler.py": "x = 1\n"}, "ignite: handler.py has no function named handler"),
            ({"handler.py": "handler = 1\n"}, "ignite: handler.py has no function named handler"),
        ],
    )
    def test_no_handler(self, replicas: Replicas, files: dict[str, str], message: str) -> None:
        replica = replicas.spawn(files)
        assert replica.wait() == 4
        replica.wait_line(message)
        assert replica.lines == [message]

    def test_dependencies_are_found_behind_the_app(self, replicas: Replicas) -> None:
        replica = replicas.start(
            {
                "handler.py": "import dep, own\ndef handler(p, c):\n    return dep.X + own.X\n",
                ".deps/dep.py": "X = 'dep '\n",
                ".deps/own.py": "X = 'wrong'\n",
                "own.py": "X = 'own'\n",
            }
        )
        assert replica.call() == b"dep own"

    def test_output_and_logging_come_line_by_line(self, replicas: Replicas) -> None:
        replica = replicas.start(
            "import logging\nprint('at import')\ndef handler(p, c):\n"
            "    print('grüße \\udc80')\n    logging.getLogger('mine').info('logged')\n"
        )
        replica.wait_line("at import")
        replica.call()
        replica.wait_line("grüße \\udc80")
        assert replica.wait_line("logged") == "INFO mine: logged"

    def test_logging_set_up_by_the_app_is_left_alone(self, replicas: Replicas) -> None:
        replica = replicas.start(
            "import logging\nlogging.basicConfig(format='mine %(message)s', level='INFO')\n"
            "def handler(p, c):\n    logging.info('x')\n"
        )
        replica.call()
        assert replica.wait_line("mine x") == "mine x"

    def test_background_threads_go_on_between_requests(self, replicas: Replicas) -> None:
        replica = replicas.start(
            "import threading, time\ndef work():\n    for n in range(3):\n"
            "        print('tick', n)\n        time.sleep(0.01)\n"
            "threading.Thread(target=work, daemon=True).start()\ndef handler(p, c):\n    pass\n"
        )
        replica.wait_line("tick 2")

    def test_many_at_once(self, replicas: Replicas) -> None:
        replica = replicas.start(
            "def handler(p, c):\n    return p\n", {"IGNITE_QUEUE_LENGTH": "500"}
        )
        bodies = [b"%d" % number for number in range(300)]
        with ThreadPoolExecutor(20) as pool:
            assert list(pool.map(replica.call, bodies)) == bodies
