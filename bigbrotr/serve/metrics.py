"""The page /metrics: all metrics in the text format of OpenMetrics."""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from bigbrotr.core.metrics import METRICS, PREFIX, Metric, Sample

CONTENT_TYPE = CONTENT_TYPE_LATEST


def page(samples: Iterable[Sample]) -> bytes:
    """All metrics, those without a value by their description alone.

    Raises:
        KeyError: a sample of a metric that is not declared.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(samples))
    text: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]
    return text


class _Families(Collector):
    def __init__(self, samples: Iterable[Sample]) -> None:
        self._families = {name: _family(name, metric) for name, metric in METRICS.items()}
        for sample in samples:
            self._families[sample.name].add_metric(sample.labels, sample.value)

    def collect(self) -> Iterator[Family]:
        yield from self._families.values()


def _family(name: str, metric: Metric) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    return kind(PREFIX + name, metric.words, labels=metric.labels)
