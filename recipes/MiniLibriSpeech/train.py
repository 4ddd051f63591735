"""Train on Mini LibriSpeech, evaluate on its trial lists, export the model.

python train.py hparams/train.yaml --data_folder CORPUS [--key value ...]
"""

import sys

from sb_margins.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
