"""Manifests and trial lists of Speakers in the Wild; --help tells the options."""

import sys

from sb_margins.cli import main

if __name__ == "__main__":
    sys.exit(main(["prepare", "sitw", *sys.argv[1:]]))
