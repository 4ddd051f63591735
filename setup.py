"""Metadata is in setup.cfg; this only puts ``hparams/`` inside built wheels.

In a checkout the YAMLs lie beside the package, where users edit them; an installed
package finds its own copy in ``sb_margins/hparams``.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithHparams(build_py):
    """``build_py`` that copies ``hparams/`` into the package it builds."""

    def run(self):
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "sb_margins" / "hparams"
            shutil.copytree("hparams", target, dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithHparams})
