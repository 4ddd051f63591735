"""Manifests and trial lists of Mini LibriSpeech; --help tells the options."""

import sys

from sb_margins.cli import main

if __name__ == "__main__":
    sys.exit(main(["prepare", "mini_librispeech", *sys.argv[1:]]))
