"""What people look at: tables, PNG, HTML, CSV and JSON, the run folder, progress."""
