"""Looking after what is stored: verifying, removing, and freeing what nothing names any more."""
