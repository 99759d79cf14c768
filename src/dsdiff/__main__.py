"""`python -m dsdiff`, and with it `torchrun -m dsdiff`: the command line."""

from dsdiff.cli.main import run

run()
