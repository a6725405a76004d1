"""Make a network forget a class, and register it in MLflow as the version that serves.

    pip install sqlalchemy alembic   # for the store in a file, beside the extras demo and mlflow
    python examples/mlflow_registry.py --folder service --forget 3

The store is a file of SQLite in the folder, the artifacts are beside it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import digits_service
import mlflow
from safetensors.torch import load_file

import fastforget
from fastforget.demo.models import small_resnet
from fastforget.integrations import log_forgotten

NAME = "digits"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="where the network, the store and the artifacts are")
    parser.add_argument("--forget", type=int, default=3, help="the class to forget")
    given = parser.parse_args()
    folder = given.folder.resolve()
    digits_service.prepare(folder)
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    client = mlflow.MlflowClient()
    experiment = client.create_experiment("forgetting", artifact_location=(folder / "artifacts").as_uri())

    model, codes = digits_service.load(folder)
    receipt = fastforget.one_shot(model, codes, given.forget)
    with mlflow.start_run(experiment_id=experiment):
        version = log_forgotten(model, receipt.without_undo(), NAME)
    client.set_registered_model_alias(NAME, "serving", version.version)

    serving = client.get_model_version_by_alias(NAME, "serving")
    files = Path(mlflow.artifacts.download_artifacts(f"models:/{NAME}/{serving.version}"))
    served = small_resnet(num_classes=10, seed=0)
    served.load_state_dict(load_file(files / "model.safetensors"))
    same = fastforget.fingerprint(served) == serving.tags["fastforget.after"]
    print(f"version {serving.version} serves; its weights are those that its tags name: {same}")
    for name, value in sorted(serving.tags.items()):
        print(f"  {name}: {value}")


if __name__ == "__main__":
    main()
