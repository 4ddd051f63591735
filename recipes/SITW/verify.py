"""Score a model on the trial lists of Speakers in the Wild.

python verify.py MODEL_FOLDER PREPARED_FOLDER [flags of sb-margins verify]
"""

import sys

from sb_margins.cli import main

if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    model, prepared, *flags = sys.argv[1:]
    sys.exit(main(["verify", "--model", model, "--manifest", prepared, *flags]))
