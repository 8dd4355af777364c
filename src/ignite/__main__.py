"""`python -m ignite` and the `ignite` program: the command line, and nothing else."""

import sys

from ignite.cli.root import run


def main() -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
