"""What can go wrong, as one tree. The command line prints the message alone and exits with `exit_code`.

DsdiffError              our fault (exit 1)
  UserError              something to change in the input or the command (exit 2)
    InputError           a file or array that cannot be used
      GeometryError      volumes that do not share one grid
      CaseError          a patient's folder that lacks or doubles a contrast
    ConfigError          an unknown key, name or impossible combination in a configuration
    ModelError           a model folder that is absent, damaged or not fit for the job
    OutputError          a place that cannot be written
"""


class DsdiffError(Exception):
    """Base of every error that dsdiff raises on purpose."""

    exit_code = 1


class UserError(DsdiffError):
    """Something the user can put right; the message says what was found, what was needed and where."""

    exit_code = 2


class InputError(UserError):
    """A file or array that cannot be used."""


class GeometryError(InputError):
    """Volumes that should share one grid and do not."""


class CaseError(InputError):
    """A patient's folder that lacks a contrast or holds it twice."""


class ConfigError(UserError):
    """An unknown key or name, or an impossible combination, in a configuration."""


class ModelError(UserError):
    """A model folder that is absent, damaged or not fit for the job."""


class OutputError(UserError):
    """A place that cannot be written."""
