"""The script that Streamlit runs again after every click."""

from tracelake.queries.dashboard.views import main  # pyright: ignore[reportMissingImports]

main()
