"""`python -m bigbrotr` does what `bigbrotr` does."""

import sys

from bigbrotr.cli import main

if __name__ == "__main__":
    sys.exit(main())
