"""Every number that README and docs quote is printed by a module here; ``make bench`` runs them all."""
