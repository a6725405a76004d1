"""The libraries are to ask nobody on the network, from their import on."""

import os

os.environ.update(HF_HUB_OFFLINE="1", MLFLOW_DISABLE_TELEMETRY="true")
