"""The errors that dsdiff raises, as one tree.

DsdiffError              a fault of dsdiff or of the machine (exit code 1)
  UserError              something to correct in the input or the command (exit code 2)
    InputError           a file or an array that cannot be used
      GeometryError      volumes that do not share one grid
      CaseError          a case that lacks a contrast, or has one twice
    ConfigError          an unknown key, an unknown name or an impossible combination in a configuration
    ModelError           a model folder that is missing, damaged or not suited to the task
    OutputError          a file or a folder that cannot be written

The command line prints only the message, and ends with the exit code of the error.
"""


class DsdiffError(Exception):
    """Base class of all errors that dsdiff raises on purpose.

    Attributes:
        exit_code: Exit code of the command line.
    """

    exit_code = 1


class UserError(DsdiffError):
    """Something that the user can correct. The message says what was found, what was needed, and where."""

    exit_code = 2


class InputError(UserError):
    """A file or an array cannot be used."""


class GeometryError(InputError):
    """Volumes of one case do not share one grid."""


class CaseError(InputError):
    """A case lacks a contrast, or has one twice."""


class ConfigError(UserError):
    """A configuration has an unknown key, an unknown name, or an impossible combination."""


class ModelError(UserError):
    """A model folder is missing, damaged, or not suited to the task."""


class OutputError(UserError):
    """A file or a folder cannot be written."""
