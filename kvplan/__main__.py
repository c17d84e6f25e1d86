"""``python -m kvplan``, and the ``kvplan`` script."""

import gc


def main() -> None:
    """Run the command line; never returns."""
    # What start-up builds stays: looking through it for garbage again and again costs a tenth of it.
    gc.set_threshold(100_000, 20, 20)
    from kvplan.cli.app import main as run

    run()


if __name__ == "__main__":
    main()
