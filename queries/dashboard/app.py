"""The script that Streamlit runs again after every click."""

from tracelake.queries.dashboard.sidebar import main  # pyright: ignore[reportMissingImports]

main()
