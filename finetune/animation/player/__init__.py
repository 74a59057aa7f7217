"""The page that plays a take: its template, style and script."""
