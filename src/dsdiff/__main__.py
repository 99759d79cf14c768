"""`python -m dsdiff`, and with it `torchrun -m dsdiff`: the command line."""

from dsdiff.cli.main import leave, run

try:
    run()
except SystemExit as ended:
    leave(ended.code)
