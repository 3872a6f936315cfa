"""Takes the arguments of ``python -m avatarctl``, gives what the command gives."""

from avatarctl.cli import main

if __name__ == "__main__":
    main()
