"""Reads a text in the format of OpenMetrics with Prometheus' own parser and prints its samples as JSON, a line each.

What the parser refuses ends this with its error.
"""

import json
import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families

for family in text_string_to_metric_families(sys.stdin.read()):
    for sample in family.samples:
        print(json.dumps({"family": family.name, "type": family.type, "name": sample.name, "labels": sample.labels,
                          "value": sample.value}))
