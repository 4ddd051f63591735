"""Manifests and trial lists of VoxCeleb 1 and 2; --help tells the options."""

import sys

from sb_margins.cli import main

if __name__ == "__main__":
    sys.exit(main(["prepare", "voxceleb", *sys.argv[1:]]))
