"""`python -m refined_bsrnn`: the command line where its program is not on the path."""

import sys

from .apps.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
