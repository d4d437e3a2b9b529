"""`python -m llmrelay` and the script `llmrelay`."""

import sys

from .cli import main as run


def main() -> None:
    """Runs a command and ends the process with its status."""
    sys.exit(run())


if __name__ == "__main__":
    main()
