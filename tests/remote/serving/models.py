"""The models that the server holds, under the keys by which nnsight's clients name them."""

from __future__ import annotations

import json
from typing import Any

from nnsight.modeling.huggingface import HuggingFaceModel
from nnsight.modeling.transformers import TransformersModel
from nnsight.util import to_import_path
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


class NotDeployedError(LookupError):
    """A request names a model that this server does not hold under exactly that key."""


class Models:
    """Loads every folder at once, weights and all.

    A key holds the Hub's id, so the folder takes the id's place while a model is built and nowhere else.

    Args:
        folders: Folder of each repo id.
        dtype: What the weights are held in.
    """

    def __init__(self, folders: dict[str, str], dtype: str) -> None:
        self._envoys: dict[str, Any] = {}
        for repo_id, folder in folders.items():
            config = AutoConfig.from_pretrained(folder)
            seeing = config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
            task = "image-text-to-text" if seeing else "text-generation"
            built = HuggingFaceModel.from_model_key(_key(folder, task), dispatch=True, dtype=dtype)
            built._module.requires_grad_(False)
            self._envoys[_key(repo_id, task)] = built

    def __getitem__(self, model_key: str) -> Any:
        try:
            return self._envoys[model_key]
        except KeyError:
            raise NotDeployedError(
                f"{model_key} is not deployed, and your API key cannot deploy it. Deployed: {', '.join(self._envoys)}"
            ) from None

    def status(self) -> dict[str, Any]:
        """Returns what `/status` answers: a deployment per model, all of them up."""
        deployments = {}
        for model_key, envoy in self._envoys.items():
            named = json.loads(model_key.partition(":")[2])
            deployments[f"ModelActor:{model_key}"] = {
                "model_key": model_key,
                **named,
                "deployment_level": "HOT",
                "application_state": "RUNNING",
                "dedicated": True,
                "n_params": sum(p.numel() for p in envoy._module.parameters()),
                "config": envoy._module.config.to_json_string(),
            }
        return {"deployments": deployments, "cluster": {"nodes": {}}}


def _key(repo_id: str, task: str) -> str:
    return f"{to_import_path(TransformersModel)}:" + json.dumps({"repo_id": repo_id, "revision": None, "task": task})
