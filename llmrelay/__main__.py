"""`python -m llmrelay` and the script `llmrelay`."""

import sys


def main() -> None:
    """Runs a command and ends the process with its status."""
    try:
        # In here, as it takes long enough for Ctrl-C to come.
        from .cli import main as run  # noqa: PLC0415

        status = run()
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)


if __name__ == "__main__":
    main()
