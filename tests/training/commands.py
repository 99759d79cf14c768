"""Commands of dsdiff one after the other in one process, so that torchrun starts, and torch is imported, once."""

import faulthandler
import json
import sys

from dsdiff.cli.main import exit_process, run

faulthandler.dump_traceback_later(300, repeat=True)  # where it hangs, should it hang

for line in json.loads(sys.argv[1]):
    sys.argv = ["dsdiff", *line]
    try:
        run()
    except SystemExit as ended:
        if ended.code:
            exit_process(ended.code)
exit_process(0)
