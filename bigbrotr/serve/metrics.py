"""The page /metrics: all metrics as plain text, or as OpenMetrics where that is asked for."""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from bigbrotr.core.metrics import METRICS, PREFIX, Metric, Sample


def page(samples: Iterable[Sample], accept: str = "") -> tuple[bytes, str]:
    """All metrics, those without a value by their description alone, and those of the process; with
    the content type, which is the one that `accept` (a header of HTTP) asks for, or plain text.

    Raises:
        KeyError: a sample of a metric that is not declared.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(samples))
    ProcessCollector(registry=registry)
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


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
