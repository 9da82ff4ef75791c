"""What `import tracelake` offers: the rooms below it put together. Only what needs several of them may be here."""
