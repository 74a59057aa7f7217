"""People recovered in videos: searched, recovered in batches, kept in parts, drawn."""
