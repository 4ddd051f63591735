"""``python -m sb_margins`` is ``sb-margins``."""

import sys

from sb_margins.cli import main

if __name__ == "__main__":
    sys.exit(main())
