"""Python imports this module at its start: a process that a test starts gets the mutant that its parent has."""

import os
import sys

if "NIGHTSHIFT_MUTANT" in os.environ:
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    import loading

    loading.install()
    del sys.path[0]
