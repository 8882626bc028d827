"""The classifiers that are served, and new files in their place."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tellapart.errors import TellapartError
from tellapart.inference.classifier import Classifier
from tellapart.server.batching import Batcher, Workers
from tellapart.server.refusing import Refused
from tellapart.server.settings import Settings, model_names
from tellapart.server.watching import Watch

log = logging.getLogger("tellapart.server")

Stamp = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Model:
    """A classifier as it is served. version: a hash of all that the file says."""

    name: str
    version: str
    classifier: Classifier
    batcher: Batcher
    watch: Watch

    def declared(self, given: str) -> str:
        """Return the class that a sender means, by its label or by its name for people.

        Raises:
            Refused: 422, the classifier knows no such class.
        """
        classes, names = self.classifier.classes, self.classifier.manifest.display_names
        if given in classes:
            return given
        called = [label for label in classes if names.get(label) == given]
        if len(called) == 1:
            return called[0]
        known = ", ".join(classes[:20]) + (" …" if len(classes) > 20 else "")
        raise Refused(
            422,
            "unknown_class",
            f"{given[:100]!r} was declared, and {self.name} knows no such class; it knows: "
            f"{known}. Nothing was recorded.",
        )


class Models:
    """The classifiers of a server, each replaced in one step when its file is.

    A request keeps the `Model` that it began with, so none is answered by two of them.

    Raises (when made):
        BundleNotFound, BundleDamaged, BundleFromFuture, NotQuantised.
    """

    def __init__(self, settings: Settings, workers: Workers) -> None:
        self._settings = settings
        self._workers = workers
        self._paths = dict(zip(model_names(settings.models), settings.models, strict=True))
        self._stamps = {name: _stamp(path) for name, path in self._paths.items()}
        self._models = {name: self._load(name) for name in self._paths}

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    def get(self, name: str | None) -> Model:
        """Return a classifier by its name; None is the first.

        Raises:
            Refused: 404.
        """
        if name is None:
            return next(iter(self))
        if name not in self._models:
            raise Refused(
                404,
                "unknown_model",
                f"There is no classifier {name[:100]!r}; there are: {', '.join(self.given)}.",
            )
        return self._models[name]

    @property
    def given(self) -> list[str]:
        """The names of those that the server was started with."""
        return model_names(self._settings.models)

    def offered(self) -> list[Model]:
        """Return those that the server was started with: one that is being built is its maker's."""
        return [self._models[name] for name in self.given]

    def path(self, name: str) -> Path:
        """Return the file of a classifier that is served."""
        return self._paths[name]

    async def add(self, name: str, path: Path) -> Model:
        """Serve another classifier, or the file that lies there now; the name must be free.

        Raises:
            TellapartError: it cannot be used.
        """
        loop = asyncio.get_running_loop()
        self._paths[name], self._stamps[name] = path, _stamp(path)
        try:
            model = await loop.run_in_executor(None, self._load, name)
        except BaseException:
            del self._paths[name]
            raise
        self._models[name] = model
        return model

    def remove(self, name: str) -> None:
        """Serve a classifier that was added no longer; requests that began end on it."""
        for told in (self._models, self._paths, self._stamps):
            told.pop(name, None)

    async def watch(self) -> None:
        """Take up new files for ever; what cannot be used leaves the old classifier in place."""
        while True:
            await asyncio.sleep(self._settings.watch_s)
            for name, path in list(self._paths.items()):
                stamp = _stamp(path)
                if stamp is None or stamp == self._stamps.get(name):
                    continue
                await self._replace(name, stamp)

    async def _replace(self, name: str, stamp: Stamp) -> None:
        loop = asyncio.get_running_loop()
        self._stamps[name] = stamp
        try:
            # On a thread of its own: requests go on meanwhile.
            model = await loop.run_in_executor(None, self._load, name)
        except (TellapartError, OSError) as error:
            self._workers.metrics.reloads.labels(name, "refused").inc()
            log.error("the new file of %s is not used, the old one stays: %s", name, error)
            return
        if name not in self._paths:
            return  # Removed meanwhile.
        self._models[name] = model
        self._workers.metrics.reloads.labels(name, "taken").inc()
        model.watch.look()
        log.info("%s is now version %s", name, model.version)

    def _load(self, name: str) -> Model:
        classifier = Classifier.load(
            self._paths[name], self._settings.precision, self._settings.accept
        )
        classifier.prepare()
        facts = classifier.manifest.model_dump_json().encode()
        version = hashlib.blake2b(facts, digest_size=8).hexdigest()
        batcher = Batcher(classifier, self._workers)
        watch = Watch(name, classifier.learned, classifier.far_below, self._workers.metrics)
        return Model(name, version, classifier, batcher, watch)


def _stamp(path: Path) -> Stamp | None:
    """Say which file lies at a path; None where none does, as in the moment of being replaced."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
