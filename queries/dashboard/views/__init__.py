"""The views of the dashboard, one file each: what the sidebar chooses from."""
