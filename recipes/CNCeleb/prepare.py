"""Manifests and trial lists of CN-Celeb 1 and 2; --help tells the options."""

import sys

from sb_margins.cli import main

if __name__ == "__main__":
    sys.exit(main(["prepare", "cnceleb", *sys.argv[1:]]))
