"""The test files that begin first, so that no worker is left alone with one of them at the end."""

from pathlib import Path

TESTS = Path(__file__).parent
LONGEST_FILES = (
    "presenting/test_report.py", "collecting/test_resume.py", "collecting/test_joined_batches.py",
    "project/test_docs.py", "presenting/test_chart_files.py", "commands/test_cli.py", "collecting/test_models.py",
    "presenting/test_chart.py", "presenting/test_sinks.py", "collecting/test_encoder_decoder_runs.py",
    "collecting/test_alignment.py", "presenting/test_queries_saved.py", "analyses/test_sae_interruptions.py",
    "analyses/test_detection.py", "analyses/test_analysis_commands.py", "presenting/test_health_views.py",
    "store/test_lake_sweep_kills.py", "presenting/test_follow.py", "collecting/test_experiments.py",
    "presenting/test_dashboard.py", "collecting/test_encoder_decoder.py", "collecting/test_branches.py",
    "project/test_architecture.py", "store/test_lake_write.py", "analyses/test_directions.py",
    "collecting/test_feature_labels.py", "collecting/test_neuron_analyses.py", "collecting/test_query_weights.py",
    "store/test_lake_kill.py", "store/test_lake_faults.py", "collecting/test_second_order_runs.py",
    "store/test_lake_sql.py",
)  # fmt: skip
"""Those of fifteen seconds of a core and more, by what they took when the list was made."""
