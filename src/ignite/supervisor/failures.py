"""The failures that are for the operator: one clear line, no trace."""

from ignite.children import ChildFailed
from ignite.db.embedded import DataOfAnotherMajor, PostgresMissing
from ignite.privileges import Unreachable
from ignite.settings import SettingsError
from ignite.supervisor.datadir import DataDirError

FOR_THE_OPERATOR = (
    ChildFailed,
    DataDirError,
    DataOfAnotherMajor,
    PostgresMissing,
    SettingsError,
    TimeoutError,
    Unreachable,
)
