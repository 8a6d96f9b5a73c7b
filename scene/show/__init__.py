"""Reports and web pages will live here."""
