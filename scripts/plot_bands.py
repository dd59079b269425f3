#!/usr/bin/env python3
"""Print band schemes and draw them: on a note axis, and their widths in cents and in bins.

scripts/plot_bands.py v7 tet24 erb n_bands=32 --png bands.png
"""

import sys

from refined_bsrnn.apps.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["bands", "--png", "bands.png", *sys.argv[1:]]))
