"""The run directory: recipe.toml, reports.jsonl, model.safetensors, state/, samples/ and log."""

from fromnoise.run_dir.folder import RunDir, fixed_difference

__all__ = ["RunDir", "fixed_difference"]
