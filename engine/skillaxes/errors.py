"""Exceptions of skillaxes and the exit codes of the command line.

::

    SkillaxesError            the job failed                          exit code 1
    ├── UsageError            wrong usage: an option, a combination   exit code 2
    ├── InputError            unusable input                          exit code 2
    │   ├── StoreError        a store that is missing, damaged or of a wrong shape
    │   ├── BadRowsError      rows with NaN or infinity
    │   ├── SourceError       a file that ``ingest`` or ``apply`` cannot take
    │   ├── TracesError       texts that do not belong to the rows
    │   └── RunFolderError    a run folder that is missing, foreign or of another configuration
    ├── DeviceError           a device that was named and is not there  exit code 2
    ├── DeviceMemoryError     a GPU without room for the smallest panels  exit code 1
    └── StoppedEarly          stopped with a checkpoint               exit code 75

A message is one line: the given value, the requirement, the remedy to type.
"""

from __future__ import annotations


class SkillaxesError(Exception):
    """Base of all exceptions: the job failed."""

    exit_code = 1


class UsageError(SkillaxesError):
    """Wrong usage: an option or a combination of options that cannot be served."""

    exit_code = 2


class InputError(SkillaxesError):
    """Unusable input."""

    exit_code = 2


class StoreError(InputError):
    """A store that is missing, damaged or of a wrong shape."""


class BadRowsError(InputError):
    """Rows that hold NaN or infinity. ``rows`` names the first of them."""

    def __init__(self, message: str, rows: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.rows = rows


class SourceError(InputError):
    """A file that ``ingest`` or ``apply`` cannot take."""


class TracesError(InputError):
    """Texts that are missing or do not belong to the rows."""


class RunFolderError(InputError):
    """A run folder that is missing, damaged, foreign or of another configuration."""


class DeviceError(SkillaxesError):
    """A device that was named and cannot be used here."""

    exit_code = 2


class DeviceMemoryError(SkillaxesError):
    """A GPU that has no room for the smallest panels."""


class StoppedEarly(SkillaxesError):
    """The job was stopped; with a checkpoint the same command resumes it."""

    exit_code = 75
