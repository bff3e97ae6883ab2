"""Shows archives on a terminal: what `status` and `where` print, and the panel of a run."""
