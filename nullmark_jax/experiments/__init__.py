"""One runnable file for each experiment of the papers: load victims, attack, measure, write."""
