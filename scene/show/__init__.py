"""Everything that people look at: the report and the page will live here."""
