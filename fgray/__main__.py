"""``python -m fgray`` is the same as ``fgray``."""

from fgray.cli import main

if __name__ == "__main__":
    main()
