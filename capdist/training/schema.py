"""The JSON Schema of a config, for editors.

python -m capdist.training.schema > configs/schema.json
"""

from __future__ import annotations

import json
from typing import Any

from capdist.config import Config
from capdist.models.base import registered


def config_schema() -> dict[str, Any]:
    """The schema of the whole tree, with every registered model's own section."""
    schema = Config.model_json_schema()
    sections = {name: model.Config.model_json_schema() for name, model in registered().items()}
    schema["properties"]["model"] = {
        "description": schema["properties"]["model"]["description"],
        "oneOf": list(sections.values()),
    }
    return schema


if __name__ == "__main__":
    print(json.dumps(config_schema(), indent=1))
