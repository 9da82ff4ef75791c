"""The side of SAEDashboard: run by its own Python, reads batch files into its classes and writes what they say again.

python dashboard_side.py BATCH.json OUT.json
"""

import json
import sys
from pathlib import Path

from sae_dashboard.neuronpedia.neuronpedia_dashboard import NeuronpediaDashboardBatch

batch = NeuronpediaDashboardBatch(**json.loads(Path(sys.argv[1]).read_text()))
Path(sys.argv[2]).write_text(json.dumps(batch.to_dict()))
