"""`python -m tellapart` is the `tellapart` command."""

from tellapart.cli.main import main

if __name__ == "__main__":
    main()
