"""Every error a user can meet, each with an exit code of its own.

    TellapartError
    ├── DataError            the pictures or their folders
    │   ├── DataNotFound           3   nothing at that path
    │   ├── NotEnoughClasses       4   fewer than two classes
    │   ├── TooFewPictures         5   a class has too few pictures to learn from
    │   ├── NoReadablePicture      6   not one picture could be read
    │   ├── AmbiguousData          7   the folder can be understood in two ways
    │   ├── ClassMismatch          8   labelled pictures share no class with the classifier
    │   ├── BadLabels              9   a pattern or a file of names that does not fit the pictures
    │   └── CannotFold            95   folds of pictures that have splits, or of too few
    ├── BackboneError        the frozen network
    │   ├── UnknownBackbone       10   no backbone of that name
    │   ├── WeightsNotFound       11   its weights are nowhere on this machine, and no network
    │   ├── WeightsRefused        12   the weights found are not this backbone's
    │   └── UnknownCut            13   the backbone has no part of that name to cut at
    ├── BundleError          the .tellapart file
    │   ├── BundleNotFound        20
    │   ├── BundleDamaged         21   truncated, altered, or not a bundle
    │   └── BundleFromFuture      22   made by a later version
    ├── OutputError          writing what was made
    │   ├── DiskFull              30
    │   └── NotWritable           31
    ├── BadRecipe                60   a recipe with unknown, wrong or contradicting settings
    ├── TrainingDiverged         61   the loss grew without bound, or became no number
    ├── CannotResume             62   no interrupted run, or one of another recipe or data
    ├── ExportError          a classifier for other programs
    │   ├── ExportDisagrees       80   it answers otherwise than the bundle
    │   ├── NothingToCheckOn      81   no pictures to check or to quantise it with
    │   ├── CannotExport          82   this classifier has no such form
    │   ├── WebRuntimeNotFound    83   ONNX Runtime Web is not on this machine
    │   └── NotQuantised          84   8-bit execution of a bundle without an 8-bit graph
    ├── MissingExtra             40   something that `pip install tellapart[train]` brings
    ├── DeviceNotAvailable       41   asked for cuda or mps on a machine without
    ├── BelowMinimum             70   evaluate --min: a score is below what was asked for
    ├── UnknownScore             71   evaluate --min: no score has that name
    ├── NotExplainable           73   a backbone with hidden layers before its answer
    ├── BadTable                 75   a table without a column of paths, or that cannot be read
    ├── OutputExists             76   results lie there already, or belong to something else
    ├── SortRefused              77   a gallery or a target folder that cannot be sorted like this
    ├── NotAllMoved              78   some files could not be moved, or not be brought back
    ├── NothingToUndo            79   no journal of a sort lies there, or it cannot be read
    ├── FindingsFound            90   inspect --fail-on: the pictures show what they were not to
    ├── UnknownFinding           91   --fail-on or --drop: no finding has that name
    ├── NothingFetched          100   not one of the pictures that were asked for arrived
    ├── SearchFailed            101   the picture search refused, or was not to be reached
    ├── BadCollection           103   a folder, or classes, that cannot be collected into
    ├── GroupingError        a gallery without labels, and the tables with its groups' names
    │   ├── TooFewToGroup        105   fewer different pictures than groups, or none readable
    │   ├── TablesEdited         106   a user's edits lie where new tables were to be written
    │   ├── TablesNotFound       107   no tables of groups where names were to be read from
    │   └── TablesDoNotFit       108   they contradict themselves, or the pictures they name
    ├── ServingError         the server and its records
    │   ├── CannotListen         110   the port is taken, or the address is not this machine's
    │   ├── NotSafeToServe       111   others could reach it, and no tokens are set
    │   ├── BadTokens            112   tokens that cannot be read or are too short
    │   ├── BadDatabase          113   records can be neither read nor written there
    │   ├── BadModels            114   two classifiers would have the same name
    │   ├── BadHosts             120   hosts for pictures or callbacks that cannot be understood
    │   └── NoSecret             121   nothing to sign callbacks with
    ├── StoreError           pictures, tables, classifiers and results that lie in a store
    │   ├── StoreNotReached      123   no answer, or a connection that kept breaking
    │   ├── StoreRefused         124   credentials lack, or do not allow it
    │   ├── BadShards            125   tar, Parquet or Arrow files of pictures that cannot be used
    │   └── BadAddress           126   an address that is not known, or must not be used
    ├── RanksError           training on several processes
    │   ├── RanksDisagree        127   they have other pictures, recipes, weights or versions
    │   ├── RankLost             128   a process ended before the others
    │   └── NotForRanks          129   several processes cannot do this, or not here
    ├── RayError             prediction on Ray
    │   ├── ClusterNotReached    131   no Ray cluster answers at the address, or none starts here
    │   ├── WorkersLost          132   workers cannot start, or die again and again
    │   └── ClusterUnlike        136   its machines lack tellapart, its version, or the pictures
    ├── LearningError        learning from corrections
    │   ├── NotBetter            117   what was learned is worse than what was there
    │   ├── BadCorrections       118   corrections that contradict each other, or are too few
    │   └── NothingToLearnOn     119   no features in the file, or no earlier file to go back to
    └── UnreadablePicture        50   one file is no picture (collected, rarely raised to the user)
        └── NotFetched          102   … because it did not arrive, or not as it should (the same)

Exit code 1 is an error nobody foresaw, 2 a wrong command line, 130 Ctrl-C.
A message is one paragraph: what happened (value, path), what was expected, what was done
about it, and the option or command that cures it.
"""

from __future__ import annotations

from collections.abc import Sequence

from tellapart.hiding import without_secrets


def listed(names: Sequence[str], most: int = 6) -> str:
    """Write names one after the other, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


class TellapartError(Exception):
    """Base of all errors that carry a message for the user, without secrets of addresses."""

    exit_code = 1

    def __str__(self) -> str:
        return without_secrets(super().__str__())


class DataError(TellapartError):
    """The pictures or the way they lie in folders."""


class DataNotFound(DataError):
    """There is nothing at the path that was given."""

    exit_code = 3


class NotEnoughClasses(DataError):
    """Telling apart needs two classes or more."""

    exit_code = 4


class TooFewPictures(DataError):
    """A class has too few readable pictures to learn from."""

    exit_code = 5


class NoReadablePicture(DataError):
    """Not one of the files could be read as a picture."""

    exit_code = 6


class AmbiguousData(DataError):
    """The folder can be understood in two ways, and guessing would be silent."""

    exit_code = 7


class ClassMismatch(DataError):
    """The labelled pictures share no class with the classifier."""

    exit_code = 8


class BadLabels(DataError):
    """What was to say the labels does not fit: a pattern, a file of names, a setting."""

    exit_code = 9


class CannotFold(DataError):
    """The pictures cannot be scored by folds: they bring splits, or are too few."""

    exit_code = 95


class BackboneError(TellapartError):
    """The frozen network or its weights."""


class UnknownBackbone(BackboneError):
    """No backbone has that name."""

    exit_code = 10


class WeightsNotFound(BackboneError):
    """The weights are nowhere on this machine and could not be fetched."""

    exit_code = 11


class WeightsRefused(BackboneError):
    """The weights found are not the ones this backbone needs."""

    exit_code = 12


class UnknownCut(BackboneError):
    """The backbone has no part of the name at which it was to be cut."""

    exit_code = 13


class BundleError(TellapartError):
    """The .tellapart file."""


class BundleNotFound(BundleError):
    """No file lies where the classifier was expected."""

    exit_code = 20


class BundleDamaged(BundleError):
    """The file is truncated, altered, or not a classifier of ours."""

    exit_code = 21


class BundleFromFuture(BundleError):
    """The file was made by a later version of tellapart."""

    exit_code = 22


class OutputError(TellapartError):
    """A result could not be written."""


class DiskFull(OutputError):
    """The disk has no room for the result."""

    exit_code = 30


class NotWritable(OutputError):
    """The folder or file may not be written."""

    exit_code = 31


class BadRecipe(TellapartError):
    """The recipe is not there, or its settings are unknown, wrong or contradict each other."""

    exit_code = 60


class TrainingDiverged(TellapartError):
    """A phase that had to be kept ended with a loss that is no number."""

    exit_code = 61


class CannotResume(TellapartError):
    """There is no interrupted run to go on with, or it had another recipe or other data."""

    exit_code = 62


class MissingExtra(TellapartError):
    """Something is needed that only an optional part of the install brings."""

    exit_code = 40


class DeviceNotAvailable(TellapartError):
    """The device that was asked for is not on this machine."""

    exit_code = 41


class UnreadablePicture(TellapartError):
    """A file is not a picture that can be read whole; the message says what it is instead."""

    exit_code = 50


class BelowMinimum(TellapartError):
    """A classifier's score is below the minimum it was held to."""

    exit_code = 70


class UnknownScore(TellapartError):
    """No score has the name that a minimum was given for."""

    exit_code = 71


class NotExplainable(TellapartError):
    """There is no exact map of why this classifier answers as it does."""

    exit_code = 73


class BadTable(TellapartError):
    """A table of paths cannot be read, or does not say which column holds them."""

    exit_code = 75


class OutputExists(TellapartError):
    """Results lie where others were to be written, or do not go with what is to be added."""

    exit_code = 76


class SortRefused(TellapartError):
    """A gallery and a folder to sort it into that do not go together."""

    exit_code = 77


class NotAllMoved(TellapartError):
    """Some files stayed where they were, because of the reasons told beside them."""

    exit_code = 78


class NothingToUndo(TellapartError):
    """No journal of a sort lies in the folder, or it cannot be read."""

    exit_code = 79


class ExportError(TellapartError):
    """A classifier for other programs."""


class ExportDisagrees(ExportError):
    """What was exported answers otherwise than the bundle does."""

    exit_code = 80


class NothingToCheckOn(ExportError):
    """There are no pictures to check an export on, or to quantise with."""

    exit_code = 81


class CannotExport(ExportError):
    """This classifier can not be given the form that was asked for, or not at that place."""

    exit_code = 82


class WebRuntimeNotFound(ExportError):
    """ONNX Runtime Web, which a page needs, is not on this machine."""

    exit_code = 83


class NotQuantised(ExportError):
    """8-bit execution was asked for, and the bundle carries no 8-bit graph."""

    exit_code = 84


class FindingsFound(TellapartError):
    """`inspect --fail-on`: the pictures show what they were not to show."""

    exit_code = 90


class UnknownFinding(TellapartError):
    """No finding has the name that was given."""

    exit_code = 91


class NothingFetched(TellapartError):
    """Not one of the pictures that were asked for arrived as it should."""

    exit_code = 100


class SearchFailed(TellapartError):
    """A search for pictures was refused, not answered, or answered with something else."""

    exit_code = 101


class NotFetched(UnreadablePicture):
    """A URL's picture did not arrive, or not as it should; the message says why.

    kind: a stable word. again_s: None where trying again is of no use, else how long the server
    asked to wait. body: the beginning of what it said instead.
    """

    exit_code = 102

    def __init__(
        self, kind: str, message: str, again_s: float | None = None, body: str = ""
    ) -> None:
        super().__init__(message)
        self.kind, self.again_s, self.body = kind, again_s, body


class BadCollection(TellapartError):
    """Pictures cannot be collected into this folder, or into classes of these names."""

    exit_code = 103


class GroupingError(TellapartError):
    """A gallery without labels, and the tables in which its groups get their names."""


class TooFewToGroup(GroupingError):
    """There are fewer different pictures than groups were asked for, or none that can be read."""

    exit_code = 105


class TablesEdited(GroupingError):
    """Tables with a user's edits lie where new ones were to be written."""

    exit_code = 106


class TablesNotFound(GroupingError):
    """There are no tables of groups where names were to be read from."""

    exit_code = 107


class TablesDoNotFit(GroupingError):
    """The tables contradict themselves, or the pictures they name are gone or have changed."""

    exit_code = 108


class ServingError(TellapartError):
    """The server and its records."""


class CannotListen(ServingError):
    """The address and port that were to be listened on cannot be had."""

    exit_code = 110


class NotSafeToServe(ServingError):
    """Other machines could reach the server, and it would answer everybody."""

    exit_code = 111


class BadTokens(ServingError):
    """The tokens cannot be read, or cannot protect anything."""

    exit_code = 112


class BadDatabase(ServingError):
    """The database of records cannot be reached, or is none of ours."""

    exit_code = 113


class BadModels(ServingError):
    """Classifiers that cannot be served together."""

    exit_code = 114


class StoreError(TellapartError):
    """Pictures, tables, classifiers and results that lie in an object store or on a server."""


class StoreNotReached(StoreError):
    """A store gave no answer, however often it was asked, or its connections kept breaking.

    reason: the same in few words. given_up: it did so many times in a row, and is asked no more.
    """

    exit_code = 123

    def __init__(self, message: str, reason: str = "", given_up: bool = False) -> None:
        super().__init__(message)
        self.reason, self.given_up = reason, given_up


class StoreRefused(StoreError):
    """A store wants credentials, or those that there are do not allow what was asked."""

    exit_code = 124


class BadShards(StoreError):
    """Files that hold many pictures each (tar, Parquet, Arrow) cannot be used as they are."""

    exit_code = 125


class BadAddress(StoreError):
    """An address has a scheme that is not known, or something in it that must not be there."""

    exit_code = 126


class RanksError(TellapartError):
    """Several processes that train together."""


class RanksDisagree(RanksError):
    """The processes of a training found different pictures, recipes, weights or programs."""

    exit_code = 127


class RankLost(RanksError):
    """One of the processes of a training is gone."""

    exit_code = 128


class NotForRanks(RanksError):
    """Several processes cannot do this, or not here."""

    exit_code = 129


class RayError(TellapartError):
    """Prediction on Ray."""


class ClusterNotReached(RayError):
    """No Ray cluster answers at the address, or none can be started on this machine."""

    exit_code = 131


class WorkersLost(RayError):
    """The workers of a cluster cannot start, or died over the same pictures again and again."""

    exit_code = 132


class ClusterUnlike(RayError):
    """The machines of a cluster lack what is here: this version of tellapart, or the pictures."""

    exit_code = 136


class BadHosts(ServingError):
    """What was given is no name of a host that could be allowed."""

    exit_code = 120


class NoSecret(ServingError):
    """Callbacks are to be sent, and there is no secret to sign them with."""

    exit_code = 121


class LearningError(TellapartError):
    """A classifier that was to learn from corrections."""


class NotBetter(LearningError):
    """What was learned is worse on held-out pictures, or cannot be shown not to be."""

    exit_code = 117


class BadCorrections(LearningError):
    """Corrections that contradict each other or what was learned, or too few to learn from."""

    exit_code = 118


class NothingToLearnOn(LearningError):
    """The classifier carries no features, or none of an earlier one is kept to go back to."""

    exit_code = 119
