"""The entry of the program, also for ``python -m avatarctl``: be ready for Ctrl-C, then import and run the command line."""

from avatarctl import interrupts


def main() -> None:
    """Run the command line."""
    interrupts.end_at_once()
    from avatarctl.cli import main as run

    run()


if __name__ == "__main__":
    main()
