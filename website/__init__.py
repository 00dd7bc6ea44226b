"""What builds the documentation site from docs/ and the code; mkdocs.yml names it."""
