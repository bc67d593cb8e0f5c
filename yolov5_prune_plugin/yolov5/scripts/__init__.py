"""How our code gets into upstream's scripts: the activation line, the patcher, the launcher."""
