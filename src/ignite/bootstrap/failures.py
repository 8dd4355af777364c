"""The failures that are for the operator: one clear line, no trace."""

from ignite.children import ChildFailed
from ignite.db.embedded import DataOfAnotherMajor, PostgresMissing
from ignite.privileges import Unreachable
from ignite.secretstores.embedded import OpenBaoMissing, UnsealKeyMissing
from ignite.settings import SettingsError
from ignite.supervisor.datadir import DataDirError

FOR_THE_OPERATOR = (
    ChildFailed,
    DataDirError,
    DataOfAnotherMajor,
    OpenBaoMissing,
    PostgresMissing,
    SettingsError,
    TimeoutError,
    Unreachable,
    UnsealKeyMissing,
)
