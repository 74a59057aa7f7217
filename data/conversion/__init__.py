"""One body's parameters fitted to another's posed surface: ``counterpose bodies convert``."""
