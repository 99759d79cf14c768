"""The command line as a module, for `python -m dsdiff` and `torchrun -m dsdiff`."""

from dsdiff.cli.main import exit_process, run

try:
    run()
except SystemExit as system_exit:
    exit_process(system_exit.code)
