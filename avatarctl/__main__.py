"""Run the command line for ``python -m avatarctl``."""

from avatarctl.cli import main

if __name__ == "__main__":
    main()
