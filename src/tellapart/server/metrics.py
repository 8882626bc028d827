"""What a server counts, in Prometheus's text form."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_BATCHES = (1, 2, 4, 8)


class Metrics:
    """The counters of one server, apart from those of any other in the same process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        into = self.registry
        self.requests = Counter(
            "tellapart_requests", "Requests answered.", ["route", "status"], registry=into
        )
        self.seconds = Histogram(
            "tellapart_request_seconds",
            "From the first byte of a request to the last of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=into,
        )
        self.pictures = Counter(
            "tellapart_pictures",
            "Pictures looked at, by how it ended: answered, unsure, unreadable.",
            ["model", "outcome"],
            registry=into,
        )
        self.verdicts = Counter(
            "tellapart_audits",
            "Pictures audited and recorded.",
            ["model", "verdict"],
            registry=into,
        )
        self.batch = Histogram(
            "tellapart_batch_pictures",
            "Pictures that went through the network together.",
            buckets=_BATCHES,
            registry=into,
        )
        self.waiting = Gauge(
            "tellapart_waiting_pictures", "Pictures taken and not answered yet.", registry=into
        )
        self._watching(into)
        self.reloads = Counter(
            "tellapart_model_reloads",
            "New files in the place of a classifier, taken up or refused.",
            ["model", "outcome"],
            registry=into,
        )

    def _watching(self, into: CollectorRegistry) -> None:
        """What arrives, beside what is usual; and who was told of it."""
        self.callbacks = Counter(
            "tellapart_callbacks",
            "Attempts to tell somebody of an audit: delivered, put off, given up.",
            ["outcome"],
            registry=into,
        )
        self.watched = Counter(
            "tellapart_watched_pictures",
            "Different pictures answered: seen, and of these unsure, strange (looks like no "
            "class), far (less similar to its class than 84 % of held-out pictures).",
            ["model", "what"],
            registry=into,
        )
        self.labels = Counter(
            "tellapart_watched_labels",
            "Different pictures by the class that was answered.",
            ["model", "label"],
            registry=into,
        )
        self.usual = Gauge(
            "tellapart_watch_usual",
            "The share of held-out pictures that were so, to compare watched pictures with.",
            ["model", "what"],
            registry=into,
        )
        self.warnings = Gauge(
            "tellapart_watch_warning",
            "1 while what arrives does not look like what was learned, in this respect.",
            ["model", "what"],
            registry=into,
        )

    def text(self) -> bytes:
        """Return all of it as Prometheus reads it."""
        return generate_latest(self.registry)
