"""Commands of dsdiff one after the other in one process, so that torchrun starts, and torch is imported, once."""

import json
import sys

from dsdiff.cli.main import run

for line in json.loads(sys.argv[1]):
    sys.argv = ["dsdiff", *line]
    try:
        run()
    except SystemExit as ended:
        if ended.code:
            raise
