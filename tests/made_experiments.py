"""Configurations of experiments on the bundled model that run in seconds, and the source's own file."""

from typing import Any

from tracelake.facade.open_lake import OpenLake

SMALL: dict[str, Any] = {
    "dataset": "tinymath:test", "dataset_limit": 4, "n_samples_per_problem": 3, "target_layer": 2,
    "variance_layers": [0, 2], "oracle_key": "split", "generation": {"max_new_tokens": 48},
    "variance_exp": {"temperatures": [0.0, 1.0], "max_new_tokens": 48},
    "manifold_exp": {"oracle_percentage": [0.3]},
    "sensitivity_exp": {"bifurcation_step_interval": 6, "max_new_tokens": 8},
    "attribution_exp": {"top_n_points": 5},
    "clustering": {"n_clusters": 1, "temperature": 1.0, "max_new_tokens": 48, "judge_enabled": True, "judge": "known"},
    "steering": {"enabled": True, "strength": [2.0], "temperature": 1.0, "max_new_tokens": 48, "ks": [1, 10]},
}  # fmt: skip

SOURCE = """\
experiment_name: geometry_qwen3_8b
output_dir: experiments/results
data_path: data/raw
task_name: math
dataset_limit: 50
n_samples_per_problem: 5
temperatures: [0.0, 0.5, 0.8, 1.0]
latent_sampling_stride: 32
latent_pooling_window: 8
model:
  model_name_or_path: Qwen/Qwen3-8B
  device: cuda
  dtype: bfloat16
  trust_remote_code: true
  load_in_8bit: false
  load_in_4bit: false
  attn_implementation: eager
generation:
  max_new_tokens: 128
  do_sample: true
  temperature: 1.0
  top_p: 0.95
  top_k: 50
  repetition_penalty: 1.0
variance_exp:
  temperatures: [0.0, 0.5, 0.8, 1.0]
  token_checkpoints: [32, 64, 128]
  max_new_tokens: 128
manifold_exp:
  enabled: true
  oracle_percentage: 0.3
sensitivity_exp:
  enabled: true
  bifurcation_step_interval: 32
  lookahead_tokens: 5
  max_new_tokens: 64
attribution_exp:
  enabled: true
  top_n_points: 200
steering:
  enabled: false
  method: pca
  source_layer: 20
  target_layer: 20
  strength: 1.0
  n_directions: 1
clustering:
  enabled: true
  n_clusters: 3
  judge_model: deepseek/deepseek-r1-distill-qwen-32b
  judge_enabled: false
  max_new_tokens: 2048
oracle_model: deepseek/deepseek-r1
target_layer: 22
variance_layers: [5, 10, 15, 20, 25, 31]
"""
"""Every key that the source's configuration has, with its values."""


def rows(lake: OpenLake, table: str, analysis_id: str) -> list[dict[str, Any]]:
    """The rows of one analysis."""
    return lake.sql(f"SELECT * FROM {table} WHERE analysis_id = '{analysis_id}'").to_dicts()
