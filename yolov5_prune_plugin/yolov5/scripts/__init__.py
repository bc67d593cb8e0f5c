"""How our code gets into upstream's scripts: the activation line, what writes it into files, and the launcher."""
