"""The test files that begin first, so that no worker is left alone with one of them at the end."""

from pathlib import Path

TESTS = Path(__file__).parent
LONGEST_FILES = (
    "presenting/test_report.py", "collecting/test_resume.py", "project/test_docs.py", "presenting/test_chart_files.py",
    "presenting/test_chart.py", "commands/test_cli.py", "presenting/test_queries_saved.py",
    "presenting/test_health_views.py", "collecting/test_encoder_decoder_runs.py", "collecting/test_alignment.py",
    "presenting/test_sinks.py", "presenting/test_dashboard.py", "store/test_lake_sql.py", "analyses/test_detection.py",
    "presenting/test_follow.py", "collecting/test_experiments.py", "collecting/test_branches.py",
    "store/test_lake_kill.py", "store/test_lake_faults.py", "store/test_lake_sweep_kills.py",
)  # fmt: skip
"""Those of fifteen seconds of a core and more, by what they took when the list was made."""
