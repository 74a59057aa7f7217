"""``python CODE/slurm/launch.py MODULE ARG ...``: runs a module of this copy of the code.

It is ``python -m MODULE``, whatever folder one is in.

``python -m`` looks in the current folder first, which stays that of the person who submitted, so
that relative paths in configs mean what they meant there.
"""

import os
import runpy
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
