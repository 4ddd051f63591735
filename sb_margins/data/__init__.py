"""Corpora to one manifest format: ``prepare(corpus, data_folder, save_folder)``."""

from sb_margins.data.manifest import Manifest, Utterance
from sb_margins.data.preparation import CORPORA, prepare
from sb_margins.data.prepared import Prepared

__all__ = ["CORPORA", "Manifest", "Prepared", "Utterance", "prepare"]
