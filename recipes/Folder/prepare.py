"""Manifests and trial lists of a folder of recordings; --help tells the options."""

import sys

from sb_margins.cli import main

if __name__ == "__main__":
    sys.exit(main(["prepare", "folder", *sys.argv[1:]]))
